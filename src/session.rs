//! Sessions of legacy clients: sealed ids that carry their own meaning, so that nothing is stored for them.
//! Not here: the upstream's own session, which the sealed id wraps (`hub/relay` unwraps it for the upstream).

mod census;
mod hello;
mod key;
mod seal;
mod table;

pub use census::{Crowded, Room};
pub use hello::Hello;
pub use key::{KeyError, load_key};
pub use seal::{Pin, Sealer, SessionError};
pub use table::{Sessions, Wishes, number};
