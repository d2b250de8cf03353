//! Sessions of legacy clients: sealed ids that carry their own meaning, so that nothing is stored for them.
//! Not here: the upstream's own session, which the sealed id wraps (`hub/relay` unwraps it for the upstream).

mod active;
mod key;
mod seal;

pub use active::Active;
pub use key::{KeyError, load_key};
pub use seal::{Pin, Sealer, SessionError};
