//! One message of the client, read as far as the way to the gateway depends on it.
//! Not here: lines (`streams`), the gateway's answers (`call`).

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::mcp::{
    Code, Id, Kind, Malformed, MalformedKind, Method, MirroredHeaders, ParseLimits, RpcError,
    encode_sentinel, parse,
};

/// Deeper messages are refused by every gateway of ours.
const LIMITS: ParseLimits = ParseLimits { depth_max: 512 };

/// A message on its way to the gateway.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// Byte for byte as the client wrote it.
    pub(super) body: Bytes,
    pub(super) kind: Kind,
    pub(super) method: Method,
    pub(super) id: Option<Id>,
    /// The modern era's headers; `None` for a message of the legacy era.
    pub(super) mirrored: Option<HeaderMap>,
    /// The request that `notifications/cancelled` means.
    pub(super) cancels: Option<Id>,
    /// What of the session it sets, so that a new one can be set the same: a key for each setting.
    pub(super) sets: Option<Setting>,
    /// Whether it was refused once because the session was gone.
    pub(super) again: bool,
}

/// What a message sets in a session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Setting {
    /// The log level.
    Level,
    /// A subscription to a resource.
    Subscribed(String),
    /// The end of one.
    Unsubscribed(String),
}

impl Message {
    /// Reads a line; what is wrong with it is told in the JSON-RPC error for the client.
    pub(super) fn read(body: &Bytes) -> Result<Self, Bytes> {
        let message = parse(body, LIMITS).map_err(|malformed| refusal(&malformed))?;
        let id = message.id.and_then(|id| Id::from_json(id.get()));
        let version = message.params.meta.protocol_version().and_then(text);
        let name = message.method.mirrored_param().and_then(|param| message.params.text(param));
        let mirrored = version.map(|version| {
            let pairs = [
                (MirroredHeaders::VERSION, Some(version)),
                (MirroredHeaders::METHOD, Some(message.method_name.clone().into_owned())),
                (MirroredHeaders::NAME, name.map(|name| encode_sentinel(&name).into_owned())),
            ];
            headers(pairs)
        });
        let uri = message.params.text("uri").unwrap_or_default().into_owned();
        let cancelled = message.params.raw("requestId").filter(|_| message.method == Method::Cancelled);
        let sets = match message.method {
            Method::SetLevel => Some(Setting::Level),
            Method::ResourcesSubscribe => Some(Setting::Subscribed(uri)),
            Method::ResourcesUnsubscribe => Some(Setting::Unsubscribed(uri)),
            _ => None,
        };
        Ok(Self {
            body: body.clone(),
            kind: message.kind,
            method: message.method,
            cancels: cancelled.and_then(|raw| Id::from_json(raw.get())),
            id,
            mirrored,
            sets,
            again: false,
        })
    }

    /// The client is told that there is no answer; a notification has nobody to tell.
    pub(super) fn fails(&self, code: Code, reason: &str, words: String) -> Option<Bytes> {
        let data = Some(serde_json::json!({ "reason": reason }));
        let error = RpcError { code, message: words, data };
        (self.kind == Kind::Request).then(|| error.to_message(self.id.as_ref()))
    }
}

fn headers(pairs: [(HeaderName, Option<String>); 3]) -> HeaderMap {
    let value = |text: Option<String>| text.and_then(|text| HeaderValue::try_from(text).ok());
    pairs.into_iter().filter_map(|(name, text)| Some((name, value(text)?))).collect()
}

fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

fn refusal(malformed: &Malformed) -> Bytes {
    let code = match malformed.kind {
        MalformedKind::NotJson(_) | MalformedKind::TooDeep(_) => Code::PARSE,
        MalformedKind::Params | MalformedKind::NoText(_) => Code::INVALID_PARAMS,
        _ => Code::INVALID_REQUEST,
    };
    let error = RpcError { code, message: malformed.kind.to_string(), data: None };
    error.to_message(malformed.id.as_ref())
}

/// A message of the server, read as far as its way to the client depends on it.
#[derive(Debug)]
pub(super) struct Heard {
    /// The line for the client, without its end.
    pub(super) line: Bytes,
    /// The request that it answers, if it is a response.
    pub(super) answers: Option<Answered>,
}

/// The request that a response answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answered {
    /// The one of that id.
    Id(Id),
    /// An error that names no request.
    Nobody,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(default)]
    method: Option<IgnoredAny>,
}

impl Heard {
    /// Reads a message; `None` if it is no JSON object.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let envelope: Envelope<'_> = serde_json::from_slice(message).ok()?;
        let answers = envelope.method.is_none().then(|| {
            let id = envelope.id.and_then(|id| Id::from_json(id.get()));
            id.map_or(Answered::Nobody, Answered::Id)
        });
        // Line ends within JSON stand between values only, where a space does as well.
        let line =
            message.trim_ascii().iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte });
        Some(Self { line: line.collect(), answers })
    }

    /// Whether it is the response to `message`.
    pub(super) fn is_for(&self, message: &Message) -> bool {
        matches!((&self.answers, &message.id), (Some(Answered::Id(id)), Some(asked)) if id == asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modern_message_gets_its_headers() {
        let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
        let body =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"é",{meta}}}}}"#);
        let message = Message::read(&body.into()).unwrap();
        let mirrored = message.mirrored.unwrap();
        assert_eq!(mirrored["mcp-protocol-version"], "2026-07-28");
        assert_eq!(mirrored["mcp-method"], "tools/call");
        assert_eq!(mirrored["mcp-name"], "=?base64?w6k=?=");
    }

    #[test]
    fn what_is_no_message_is_told_to_the_client() {
        let told = |text: &'static str| {
            let error = Message::read(&Bytes::from_static(text.as_bytes())).unwrap_err();
            serde_json::from_slice::<serde_json::Value>(&error).unwrap()
        };
        assert_eq!(told("{")["error"]["code"], -32700);
        assert_eq!(told("[]")["error"]["code"], -32600);
        assert_eq!(told("[]")["id"], serde_json::Value::Null);
    }

    #[test]
    fn a_line_of_the_server_has_no_line_end_within() {
        let heard = Heard::read(b"{\n \"id\": \"x\",\r\n \"result\": {}\n}\n").unwrap();
        assert_eq!(heard.answers, Some(Answered::Id(Id::from_json("\"x\"").unwrap())));
        assert!(!heard.line.contains(&b'\n') && !heard.line.contains(&b'\r'));
        assert!(Heard::read(b"<html>").is_none());
        assert_eq!(Heard::read(br#"{"id":null,"error":{}}"#).unwrap().answers, Some(Answered::Nobody));
        assert_eq!(Heard::read(br#"{"id":1,"method":"ping"}"#).unwrap().answers, None);
    }
}
