//! How results and notifications are written: by hand, since their shapes are few and calls are to be cheap.
//! Not here: what is in them (`offer`, `tool`); errors (`refusal`).

use std::time::Duration;

use crate::mcp::Era;

/// `serverInfo`.
pub(super) const SERVER: &str = concat!(
    r#"{"name":"tollgate-sample","title":"Tollgate sample","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}"#
);
/// Lists may be kept for an hour, by anybody: they never change while a version runs.
const CACHING: &str = r#","ttlMs":3600000,"cacheScope":"public""#;

/// A request: who is answered, and in which era's words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// The id as JSON.
    pub(super) id: &'a str,
    pub(super) era: Era,
}

impl Asked<'_> {
    /// The answer whose result has these members (pieces of JSON, concatenated).
    pub(super) fn result(self, members: &[&str]) -> Vec<u8> {
        self.write(members, "")
    }

    /// The same for what clients may keep: lists, resources, what is known of the server.
    pub(super) fn lasting(self, members: &[&str]) -> Vec<u8> {
        self.write(members, if self.era == Era::Modern { CACHING } else { "" })
    }

    /// A tool's result of one text, given as JSON, and more members, which begin with a comma.
    pub(super) fn content(self, text: &str, more: &str) -> Vec<u8> {
        self.result(&[r#""content":[{"type":"text","text":"#, text, "}]", more])
    }

    fn write(self, members: &[&str], caching: &str) -> Vec<u8> {
        let length: usize = members.iter().map(|piece| piece.len()).sum();
        let mut out = String::with_capacity(length + caching.len() + self.id.len() + 224);
        out.push_str(r#"{"jsonrpc":"2.0","id":"#);
        out.push_str(self.id);
        out.push_str(r#","result":{"#);
        members.iter().for_each(|piece| out.push_str(piece));
        if self.era == Era::Modern {
            if length > 0 {
                out.push(',');
            }
            out.push_str(r#""resultType":"complete""#);
            out.push_str(caching);
            out.push_str(r#","_meta":{"io.modelcontextprotocol/serverInfo":"#);
            out.push_str(SERVER);
            out.push('}');
        }
        out.push_str("}}");
        out.into_bytes()
    }
}

/// `notifications/progress`, in milliseconds. The token is JSON.
pub(super) fn progress(token: &str, done: Duration, total: Duration) -> Vec<u8> {
    let (done, total) = (done.as_millis(), total.as_millis());
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":{done},"total":{total}}}}}"#
    )
    .into_bytes()
}

/// `notifications/message` at level `info`. The text needs no escapes.
pub(super) fn log(text: &str) -> Vec<u8> {
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"info","logger":"sample","data":"{text}"}}}}"#
    )
    .into_bytes()
}

/// The first message of a subscription: of all that can be asked for, nothing ever happens here.
pub(super) fn acknowledged(id: &str) -> Vec<u8> {
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"notifications":{{}},"_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}}}}}"#
    )
    .into_bytes()
}

/// The graceful end of a subscription.
pub(super) fn unsubscribed(id: &str) -> Vec<u8> {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","_meta":{{"io.modelcontextprotocol/subscriptionId":{id},"io.modelcontextprotocol/serverInfo":{SERVER}}}}}}}"#
    )
    .into_bytes()
}
