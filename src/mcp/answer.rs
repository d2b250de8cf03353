//! What an upstream's answer says: a result, a tool's own failure, or a JSON-RPC error.
//! Not here: requests (`message`); how answers travel (`proxy/write`).

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::message::Id;

/// The outcome that a JSON-RPC response carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A result.
    Ok,
    /// A result with `isError: true`: the tool's own failure, a success of the protocol.
    ToolError,
    /// A JSON-RPC error.
    RpcError,
}

/// A message that came from an upstream, read only as far as its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The response to a request.
    Response(Verdict),
    /// The response to a request that is not the one.
    Foreign,
    /// A notification or a request of the server.
    Other,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(default)]
    method: Option<IgnoredAny>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct ToolResult {
    #[serde(rename = "isError", default)]
    is_error: bool,
}

impl Answer {
    /// Reads a whole message; `None` if it is not JSON or not a JSON-RPC message.
    pub fn read(message: &[u8]) -> Option<Self> {
        Self::of(&envelope(message)?)
    }

    /// The same, told apart by whether it answers the request `id`.
    pub fn read_to(message: &[u8], id: &Id) -> Option<Self> {
        let envelope = envelope(message)?;
        let own = envelope.id.is_some_and(|raw| id.is(raw.get()));
        match Self::of(&envelope)? {
            Self::Response(_) if !own => Some(Self::Foreign),
            answer => Some(answer),
        }
    }

    fn of(envelope: &Envelope<'_>) -> Option<Self> {
        if envelope.error.is_some() {
            Some(Self::Response(Verdict::RpcError))
        } else if let Some(result) = envelope.result {
            let failed = memchr::memmem::find(result.get().as_bytes(), b"\"isError\"").is_some()
                && serde_json::from_str::<ToolResult>(result.get()).is_ok_and(|result| result.is_error);
            Some(Self::Response(if failed { Verdict::ToolError } else { Verdict::Ok }))
        } else {
            envelope.method.as_ref().map(|_| Self::Other)
        }
    }
}

/// The members of a message that is an object: serde would read a list as well, member by member.
fn envelope(message: &[u8]) -> Option<Envelope<'_>> {
    (message.trim_ascii_start().first() == Some(&b'{')).then(|| serde_json::from_slice(message).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: &str, want: Option<Answer>) {
        assert_eq!(Answer::read(message.as_bytes()), want);
    }

    #[test]
    fn tells_the_three_layers_apart() {
        check(r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#, Some(Answer::Response(Verdict::Ok)));
        check(r#"{"id":1,"result":{"isError":true}}"#, Some(Answer::Response(Verdict::ToolError)));
        check(r#"{"id":1,"result":{"text":"\"isError\": true"}}"#, Some(Answer::Response(Verdict::Ok)));
        check(r#"{"id":1,"result":{"isError":false}}"#, Some(Answer::Response(Verdict::Ok)));
        check(r#"{"id":1,"error":{"code":-1}}"#, Some(Answer::Response(Verdict::RpcError)));
        check(r#"{"method":"notifications/progress"}"#, Some(Answer::Other));
        check("<html>", None);
        check("{}", None);
        check("[]", None);
        check("[1,2,3,4]", None);
        check(" {\"result\":{}}", Some(Answer::Response(Verdict::Ok)));
    }

    #[test]
    fn knows_its_own_response_however_the_id_is_written() {
        let own = |id: &str, message: &str| Answer::read_to(message.as_bytes(), &Id::from_json(id).unwrap());
        let response = Some(Answer::Response(Verdict::Ok));
        assert_eq!(own("7", r#"{"result":{},"id":7}"#), response);
        assert_eq!(own(r#""a/b""#, r#"{"id":"a\/b","result":{}}"#), response);
        for foreign in ["8", "\"7\"", "null", "[7]", "7.5"] {
            let message = format!(r#"{{"id":{foreign},"result":{{}}}}"#);
            assert_eq!(own("7", &message), Some(Answer::Foreign), "{message}");
        }
        assert_eq!(own("7", r#"{"result":{}}"#), Some(Answer::Foreign));
        assert_eq!(own("7", r#"{"method":"ping","id":9}"#), Some(Answer::Other));
    }
}
