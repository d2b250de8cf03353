//! One JSON-RPC message: its envelope and the few parameters we act on, read in one pass over the body.
//! Not here: what the values mean for headers (`headers`) or for routing (`hub`).
//!
//! Members of the envelope and of `params` that we act on may stand once, and in their own spelling only:
//! readers differ in which of two they take, and some ignore case (CVE-2026-27896). What is authorised has to
//! be what is forwarded, so such a message is refused instead of repaired.

mod member;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::depth::deeper_than;
use super::method::Method;
use member::{KeyOf, once};

/// Bounds of one message.
#[derive(Debug, Clone, Copy)]
pub struct ParseLimits {
    /// Nesting of arrays and objects.
    pub depth_max: usize,
}

/// A string `id` may be this long on the wire; correlation needs no more, and ids are kept while a call runs.
const ID_BYTES_MAX: usize = 256;

/// A JSON-RPC id: a string or an integer, kept as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Id(Box<str>);

impl Id {
    /// An id of our own.
    pub fn number(number: u64) -> Self {
        Self(number.to_string().into())
    }

    /// The id from its JSON text; `None` if that is neither a string nor an integer.
    pub fn from_json(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let integer = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let string = text.starts_with('"') && serde_json::from_str::<String>(text).is_ok();
        (text.len() <= ID_BYTES_MAX && (integer || string)).then(|| Self(text.into()))
    }

    /// Its JSON text.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// Whether that JSON text is the same id, perhaps with other escapes, or as a number written in another way: a
    /// server whose language has one kind of number writes a long one as it can.
    pub fn is(&self, text: &str) -> bool {
        if *self.0 == *text {
            return true;
        }
        if self.0.starts_with('"') {
            let string = |text: &str| serde_json::from_str::<String>(text).ok();
            return string(&self.0) == string(text);
        }
        let number = |text: &str| serde_json::from_str::<f64>(text).ok();
        number(&self.0).is_some_and(|id| number(text) == Some(id))
    }
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Wants an answer.
    Request,
    /// Wants none.
    Notification,
    /// Is one.
    Response,
}

/// A message, borrowed from its body.
#[derive(Debug)]
pub struct Message<'a> {
    /// What it is.
    pub kind: Kind,
    /// The id of a request or response, as it was written.
    pub id: Option<&'a RawValue>,
    /// The method; `Method::Response` for a response.
    pub method: Method,
    /// The method's name as it was written; empty for a response.
    pub method_name: Cow<'a, str>,
    /// The parameters we act on.
    pub params: Params<'a>,
    /// Open MCP Gateway: the server that the body names.
    pub server_id: Option<Cow<'a, str>>,
}

/// Members of `params`, as they were written; the method tells which ones matter.
#[derive(Debug, Default)]
pub struct Params<'a> {
    values: [Option<&'a RawValue>; PARAM_KEYS.len()],
    /// Members of `params._meta`.
    pub meta: Meta<'a>,
}

/// Members of `params._meta`, as they were written.
#[derive(Debug, Default)]
pub struct Meta<'a> {
    values: [Option<&'a RawValue>; META_KEYS.len()],
}

const ENVELOPE_KEYS: [&str; 7] = ["jsonrpc", "id", "method", "params", "result", "error", "server_id"];
const PARAM_KEYS: [&str; 12] = [
    "_meta",
    "name",
    "uri",
    "level",
    "taskId",
    "arguments",
    "protocolVersion",
    "capabilities",
    "requestId",
    "progressToken",
    "ref",
    "notifications",
];
const META_KEYS: [&str; 3] = [
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientCapabilities",
    "progressToken",
];

impl<'a> Params<'a> {
    /// The member of that name, if it is one of those we act on.
    pub fn raw(&self, key: &str) -> Option<&'a RawValue> {
        PARAM_KEYS.iter().zip(self.values).find(|(known, _)| **known == key).and_then(|(_, value)| value)
    }

    /// The member of that name, if it is a string.
    pub fn text(&self, key: &str) -> Option<Cow<'a, str>> {
        self.raw(key).and_then(text)
    }
}

impl<'a> Meta<'a> {
    /// `io.modelcontextprotocol/protocolVersion`.
    pub fn protocol_version(&self) -> Option<&'a RawValue> {
        self.values[0]
    }

    /// `io.modelcontextprotocol/clientCapabilities`.
    pub fn client_capabilities(&self) -> Option<&'a RawValue> {
        self.values[1]
    }

    /// `progressToken`.
    pub fn progress_token(&self) -> Option<&'a RawValue> {
        self.values[2]
    }
}

/// The text of a JSON string, borrowed where it has no escapes.
pub(super) fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let json = raw.get();
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(json).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// Why a body is not a message we take. The id is told where it could be read, so that the answer can carry it.
#[derive(Debug)]
pub struct Malformed {
    /// What is wrong.
    pub kind: MalformedKind,
    /// The id of the request, where it could be read.
    pub id: Option<Id>,
}

/// What is wrong with a body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MalformedKind {
    /// Not JSON, or not UTF-8.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// Nested too deep.
    #[error("the body nests deeper than {0} levels")]
    TooDeep(usize),
    /// A batch; only 2025-03-26 has them.
    #[error("batches are not accepted: send one message in each POST")]
    Batch,
    /// JSON, but not an object.
    #[error("the body is not a JSON-RPC message: it must be an object")]
    NotObject,
    /// A member stands twice, or once more in another case.
    #[error("member `{0}` stands more than once, or in another spelling")]
    Ambiguous(&'static str),
    /// There is no `jsonrpc`, which the Open MCP Gateway's own examples leave out beside `server_id`.
    #[error("`jsonrpc` must be \"2.0\"")]
    Unversioned,
    /// A member of the envelope has the wrong type or value, or is missing.
    #[error("{0}")]
    Envelope(&'static str),
    /// `params` is not an object.
    #[error("`params` must be an object")]
    Params,
    /// The member of `params` that says what is called, read or asked for is no text, so that nobody could tell
    /// whether it is allowed.
    #[error("`params.{0}` must be a string of whole characters")]
    NoText(&'static str),
}

/// Reads the message in `body`.
pub fn parse(body: &[u8], limits: ParseLimits) -> Result<Message<'_>, Malformed> {
    let plain = |kind| Malformed { kind, id: None };
    let text = std::str::from_utf8(body).map_err(|e| plain(MalformedKind::NotJson(e.to_string())))?;
    if deeper_than(body, limits.depth_max) {
        return Err(plain(MalformedKind::TooDeep(limits.depth_max)));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let envelope = json.deserialize_any(EnvelopeVisitor);
    let envelope = envelope.and_then(|envelope| json.end().map(|()| envelope));
    envelope.map_err(|e| plain(MalformedKind::NotJson(e.to_string())))?.into_message()
}

/// Where `part`, which was borrowed from `body`, stands in it.
pub(super) fn span(body: &[u8], part: &str) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= body.len()).then_some(start..end)
}

/// `body` with one borrowed value replaced: how ids and tokens are renamed without writing a message anew.
/// The body comes back unchanged if `value` was not borrowed from it.
pub fn splice(body: &[u8], value: &RawValue, replacement: &str) -> Vec<u8> {
    let Some(span) = span(body, value.get()) else { return body.to_vec() };
    let (head, tail) = (body.get(..span.start).unwrap_or_default(), body.get(span.end..).unwrap_or_default());
    [head, replacement.as_bytes(), tail].concat()
}

/// The message without `server_id`, and with `jsonrpc` and an `id` where they were left out: what the Open MCP
/// Gateway's clients send, as an MCP server expects it. `None` if the body is not an object.
pub fn rebuild_for_forwarding(body: &[u8]) -> Option<Vec<u8>> {
    let members: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body).ok()?;
    let raw: std::collections::BTreeMap<String, &RawValue> = serde_json::from_slice(body).ok()?;
    let mut out = String::from(r#"{"jsonrpc":"2.0""#);
    let is_request = raw.get("method").is_some_and(|method| !method.get().starts_with("\"notifications/"));
    if is_request && !raw.contains_key("id") {
        out.push_str(r#","id":1"#);
    }
    for key in members.keys().filter(|key| !matches!(key.as_str(), "server_id" | "jsonrpc")) {
        let value = raw.get(key)?;
        out.push(',');
        out.push_str(&serde_json::to_string(key).ok()?);
        out.push(':');
        out.push_str(value.get());
    }
    out.push('}');
    Some(out.into_bytes())
}

/// Members as they were written, and the first fault among them. Faults are kept, not thrown: a syntax error
/// further on weighs more, and the id may still follow.
#[derive(Default)]
struct Envelope<'a> {
    values: [Option<&'a RawValue>; ENVELOPE_KEYS.len()],
    params: Option<Params<'a>>,
    fault: Option<MalformedKind>,
}

impl<'a> Envelope<'a> {
    fn into_message(self) -> Result<Message<'a>, Malformed> {
        let [jsonrpc, id_raw, method_raw, _, result, error, server_id] = self.values;
        let id = id_raw.and_then(|raw| Id::from_json(raw.get()));
        let refuse = |kind| Malformed { kind, id: id.clone() };
        if let Some(fault) = self.fault {
            return Err(refuse(fault));
        }
        let wrong = |what| refuse(MalformedKind::Envelope(what));
        match jsonrpc {
            Some(version) if version.get() != "\"2.0\"" => return Err(wrong("`jsonrpc` must be \"2.0\"")),
            None if server_id.is_none() => return Err(refuse(MalformedKind::Unversioned)),
            _ => {}
        }
        if id_raw.is_some() && id.is_none() {
            return Err(wrong("`id` must be a string of at most 256 bytes or an integer"));
        }
        let server_id = match server_id.map(text) {
            Some(None) => return Err(wrong("`server_id` must be a string")),
            Some(Some(server)) => Some(server),
            None => None,
        };
        let (kind, method, method_name) = match (method_raw, result.is_some() || error.is_some()) {
            (Some(raw), false) => {
                let name = text(raw).ok_or_else(|| wrong("`method` must be a string"))?;
                let kind = if id_raw.is_some() { Kind::Request } else { Kind::Notification };
                (kind, Method::parse(&name), name)
            }
            (None, true) if id_raw.is_some() && result.is_some() != error.is_some() => {
                (Kind::Response, Method::Response, Cow::Borrowed(""))
            }
            (None, true) => return Err(wrong("a response has an `id` and either `result` or `error`")),
            (Some(_), true) => return Err(wrong("a message has either `method` or `result`/`error`")),
            (None, false) => return Err(wrong("`method` is missing")),
        };
        let params = self.params.unwrap_or_default();
        // Absent, it is the server's to refuse.
        if let Some(member) = method.mirrored_param()
            && params.raw(member).is_some_and(|raw| text(raw).is_none())
        {
            return Err(refuse(MalformedKind::NoText(member)));
        }
        Ok(Message { kind, id: id_raw, method, method_name, params, server_id })
    }
}

struct EnvelopeVisitor;

impl<'de> Visitor<'de> for EnvelopeVisitor {
    type Value = Envelope<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON-RPC message")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Envelope<'de>, M::Error> {
        let mut envelope = Envelope::default();
        let mut seen = [false; ENVELOPE_KEYS.len()];
        while let Some(key) = map.next_key_seed(KeyOf(&ENVELOPE_KEYS))? {
            let at = once(&key, &mut seen, &ENVELOPE_KEYS, &mut envelope.fault);
            match at {
                Some(at) if ENVELOPE_KEYS.get(at) == Some(&"params") => {
                    let (params, fault) = map.next_value_seed(ParamsVisitor)?;
                    envelope.params = Some(params);
                    envelope.fault = envelope.fault.take().or(fault);
                }
                Some(at) => store(&mut envelope.values, at, map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(envelope)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Envelope<'de>, S::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Envelope { fault: Some(MalformedKind::Batch), ..Envelope::default() })
    }

    fn visit_str<E>(self, _: &str) -> Result<Envelope<'de>, E> {
        Ok(not_object())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Envelope<'de>, E> {
        Ok(not_object())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Envelope<'de>, E> {
        Ok(not_object())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Envelope<'de>, E> {
        Ok(not_object())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Envelope<'de>, E> {
        Ok(not_object())
    }

    fn visit_unit<E>(self) -> Result<Envelope<'de>, E> {
        Ok(not_object())
    }
}

fn not_object<'de>() -> Envelope<'de> {
    Envelope { fault: Some(MalformedKind::NotObject), ..Envelope::default() }
}

fn store<'a>(values: &mut [Option<&'a RawValue>], at: usize, value: &'a RawValue) {
    if let Some(slot) = values.get_mut(at) {
        *slot = Some(value);
    }
}

struct ParamsVisitor;

type Faulted<T> = (T, Option<MalformedKind>);

impl<'de> DeserializeSeed<'de> for ParamsVisitor {
    type Value = Faulted<Params<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        // Only an object is read member by member; the rest is passed over as a whole.
        let raw = <&RawValue as serde::Deserialize>::deserialize(deserializer)?;
        if !raw.get().starts_with('{') {
            return Ok((Params::default(), Some(MalformedKind::Params)));
        }
        serde_json::Deserializer::from_str(raw.get()).deserialize_map(self).map_err(serde::de::Error::custom)
    }
}

impl<'de> Visitor<'de> for ParamsVisitor {
    type Value = Faulted<Params<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut params = Params::default();
        let mut fault = None;
        let mut seen = [false; PARAM_KEYS.len()];
        while let Some(key) = map.next_key_seed(KeyOf(&PARAM_KEYS))? {
            match once(&key, &mut seen, &PARAM_KEYS, &mut fault) {
                Some(at) => store(&mut params.values, at, map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if let Some(meta) = params.raw("_meta").filter(|meta| meta.get().starts_with('{')) {
            params.meta = serde_json::Deserializer::from_str(meta.get())
                .deserialize_map(MetaVisitor { fault: &mut fault })
                .map_err(serde::de::Error::custom)?;
        }
        Ok((params, fault))
    }
}

struct MetaVisitor<'f> {
    fault: &'f mut Option<MalformedKind>,
}

impl<'de> Visitor<'de> for MetaVisitor<'_> {
    type Value = Meta<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Meta<'de>, M::Error> {
        let mut meta = Meta::default();
        let mut seen = [false; META_KEYS.len()];
        while let Some(key) = map.next_key_seed(KeyOf(&META_KEYS))? {
            match once(&key, &mut seen, &META_KEYS, self.fault) {
                Some(at) => store(&mut meta.values, at, map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(meta)
    }
}

#[cfg(test)]
mod tests;
