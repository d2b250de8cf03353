//! The Model Context Protocol as bytes and values: envelopes, methods, revisions, errors, event streams.
//! Not here: anything that does I/O or knows of the catalog; this room uses nothing of ours.
//!
//! A message is read once, in one pass, and only as far as we act on it. Everything else is carried and
//! forwarded as the bytes that came in, so unknown methods, members and schema keywords survive.
//! Because what is forwarded is what was read, a message in which two readers could see different things
//! (a member twice, or once more in another case) is refused: see `message`.

mod answer;
mod depth;
mod error;
mod headers;
mod list;
mod message;
mod method;
mod revision;
mod sse;
mod target;

pub use answer::{Answer, Verdict};
pub use error::{Code, RpcError};
pub use headers::{HeaderFault, MirroredHeaders, check_mirrored, decode_sentinel, encode_sentinel};
pub use list::{Cut, Listed, Unreadable};
pub use message::{
    Id, Kind, Malformed, MalformedKind, Message, ParseLimits, parse, rebuild_for_forwarding, splice,
};
pub use method::Method;
pub use revision::{Era, Revision};
pub use sse::{Decoder, Event, EventReader, Overlong, Splitter, encode_event};
pub use target::{Reference, listens, reference, subscriptions};
