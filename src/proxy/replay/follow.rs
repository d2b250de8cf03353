//! A stream that is taken up again: what was kept of it, then what comes.
//! Not here: what keeps it (`recording`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;

use super::Recorded;
use crate::reply::Stream;

/// What follows the event of that count. Who had the stream before is told nothing more on it.
pub(super) fn follow(recorded: &Arc<Recorded>, after: u64) -> Stream {
    let mut taken = 0;
    recorded.grown.send_modify(|grown| {
        grown.taken += 1;
        taken = grown.taken;
    });
    let grown = recorded.grown.subscribe();
    let from = (Arc::clone(recorded), grown, after);
    let events = futures_util::stream::unfold(from, move |(recorded, mut grown, after)| async move {
        loop {
            let seen = *grown.borrow_and_update();
            if seen.taken != taken {
                return None;
            }
            if let Some((count, event)) = recorded.next(after) {
                return Some((Ok::<_, hyper::Error>(Frame::data(event)), (recorded, grown, count)));
            }
            if seen.ended.is_some() || grown.changed().await.is_err() {
                return None;
            }
        }
    });
    let rest = StreamBody::new(events).boxed_unsync();
    Stream {
        first: Bytes::new(),
        rest,
        idle: None,
        deadline: None,
        total: Duration::ZERO,
        events: true,
        farewell: None,
    }
}
