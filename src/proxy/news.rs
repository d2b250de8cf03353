//! What the gateway itself says on a stream that is held open to listen: that lists have changed, and that it ends.
//! Not here: when there is something to say (`standing`), the stream (`write`).

use bytes::Bytes;

use crate::mcp::{Id, encode_event};

/// The lists of a server, in the order of [`crate::mcp::listens`].
const LISTS: [&str; 3] = ["tools", "prompts", "resources"];
/// Names the request that a notification belongs to (2026-07-28/basic/utilities, "Subscriptions").
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// Somebody who listens.
#[derive(Debug, Clone)]
pub(super) struct Listener {
    /// Which lists matter to it.
    wanted: [bool; 3],
    /// The request that it listens by; a session of the legacy era has none.
    subscription: Option<Id>,
}

impl Listener {
    /// A client of the legacy era, whose session hears everything.
    pub(super) fn session() -> Self {
        Self { wanted: [true; 3], subscription: None }
    }

    /// A client of the modern era, who said what it wants.
    pub(super) fn subscription(id: Option<&Id>, wanted: [bool; 3]) -> Self {
        Self { wanted, subscription: id.cloned() }
    }

    /// The lists have changed: one event for each that matters.
    pub(super) fn lists_changed(&self) -> Bytes {
        let wanted = LISTS.iter().zip(self.wanted).filter(|(_, wanted)| *wanted);
        let params = self.subscription.as_ref().map_or_else(String::new, |id| {
            format!(r#","params":{{"_meta":{{"{SUBSCRIPTION}":{}}}}}"#, id.as_json())
        });
        let events = wanted.flat_map(|(list, _)| {
            let message =
                format!(r#"{{"jsonrpc":"2.0","method":"notifications/{list}/list_changed"{params}}}"#);
            encode_event(message.as_bytes())
        });
        events.collect()
    }

    /// The gateway ends the stream: when to come back, or that the subscription is over.
    pub(super) fn farewell(&self) -> Bytes {
        match &self.subscription {
            // 2025-11-25/basic/transports, "Sending Messages": `retry` before a planned disconnect.
            None => Bytes::from_static(b"retry: 1000\n\n"),
            Some(id) => {
                let id = id.as_json();
                let result = format!(r#"{{"resultType":"complete","_meta":{{"{SUBSCRIPTION}":{id}}}}}"#);
                let message = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
                encode_event(message.as_bytes())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_to_whom() {
        let said = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let session = Listener::session();
        assert_eq!(said(session.lists_changed()).matches("list_changed").count(), 3);
        assert_eq!(said(session.farewell()), "retry: 1000\n\n");
        let id = Id::from_json("\"a\\\"b\"").unwrap();
        let modern = Listener::subscription(Some(&id), [true, false, false]);
        assert_eq!(
            said(modern.lists_changed()),
            "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\",\
             \"params\":{\"_meta\":{\"io.modelcontextprotocol/subscriptionId\":\"a\\\"b\"}}}\n\n"
        );
        assert!(said(modern.farewell()).contains("\"resultType\":\"complete\""));
        assert!(Listener::subscription(Some(&id), [false; 3]).lists_changed().is_empty());
    }
}
