//! The doors of 2024-11-05: a stream that a client holds open, and messages that it posts for it.
//! Not here: the doors of every later revision (`exchange`), servers that speak so (`upstream/legacy_sse`).
//!
//! The stream's first event says where messages go: a path with a number that nobody can guess, good for the caller
//! that opened the stream and nobody else. A message takes the way of any other: the same admission, rules, limits and
//! relay. Its POST is answered with 202 at once; what the server answers goes onto the stream, and so does what the
//! server says unasked. When the stream ends, the session with the server ends.
//!
//! A stream lives in one process, so all gateways behind one name have to send a client to the same of them: that is
//! how this transport is made (2024-11-05/basic/transports), and why it was replaced.

mod events;
mod listening;
mod post;
mod stream;
mod table;

pub(super) use post::at_message;
pub(super) use stream::at_stream;
pub(super) use table::Table;
