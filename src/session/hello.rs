//! What a client said of itself when it opened its session, small enough to be sealed into the session's id.
//! Not here: when it is said again (`hub/restore`).

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use crate::mcp::Revision;

/// A client's name may be this long; the rest is cut.
const NAME_BYTES_MAX: usize = 32;

/// A client's revision, capabilities and name: enough to open its session at a server again.
///
/// Of capabilities it holds those that the published revisions name; what a client keeps under `experimental` is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    revision: Revision,
    capabilities: u16,
    name: String,
}

/// Capabilities of a client, each a bit: the member, and a member of that, if it is about one.
const CAPABILITIES: [(&str, Option<&str>); 9] = [
    ("roots", None),
    ("roots", Some("listChanged")),
    ("sampling", None),
    ("sampling", Some("tools")),
    ("sampling", Some("context")),
    ("elicitation", None),
    ("elicitation", Some("form")),
    ("elicitation", Some("url")),
    ("tasks", None),
];

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    params: Option<Params<'a>>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(rename = "protocolVersion", borrow)]
    version: Option<std::borrow::Cow<'a, str>>,
    capabilities: Option<Map<String, Value>>,
    #[serde(rename = "clientInfo")]
    info: Option<Info>,
}

#[derive(Deserialize)]
struct Info {
    name: Option<String>,
    #[serde(rename = "version")]
    _version: Option<IgnoredAny>,
}

impl Hello {
    /// What the gateway says for clients that know of no sessions.
    pub fn ours() -> Self {
        Self { revision: Revision::LATEST_LEGACY, capabilities: 0, name: String::new() }
    }

    /// What a client said, read from its `initialize`; what it left out or got wrong is as if it were ours.
    pub fn of(message: &[u8]) -> Self {
        let read = serde_json::from_slice::<Message<'_>>(message).ok().and_then(|message| message.params);
        let Some(params) = read else { return Self::ours() };
        let revision = params.version.as_deref().and_then(Revision::parse).unwrap_or(Revision::LATEST_LEGACY);
        let given = params.capabilities.unwrap_or_default();
        let has = |(member, inner): &(&str, Option<&str>)| match (given.get(*member), inner) {
            (None | Some(Value::Null), _) => false,
            (Some(_), None) => true,
            (Some(value), Some(inner)) => {
                value.get(inner).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)))
            }
        };
        let bits = CAPABILITIES.iter().zip(0u32..).filter(|(capability, _)| has(capability));
        let capabilities = bits.fold(0, |all, (_, bit)| all | 1 << bit);
        let mut name = params.info.and_then(|info| info.name).unwrap_or_default();
        name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
        Self { revision, capabilities, name }
    }

    /// The revision that the client asked for.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// An `initialize` that says the same.
    pub fn initialize(&self, id: u64) -> String {
        let mut capabilities = Map::new();
        let given = CAPABILITIES.iter().zip(0u32..).filter(|(_, bit)| self.capabilities & 1 << bit != 0);
        for ((member, inner), _) in given {
            let value = capabilities.entry(*member).or_insert_with(|| json!({}));
            if let (Some(inner), Some(value)) = (inner, value.as_object_mut()) {
                value.insert(
                    (*inner).to_owned(),
                    if *inner == "listChanged" { json!(true) } else { json!({}) },
                );
            }
        }
        let name = if self.name.is_empty() { "tollgate" } else { &self.name };
        let message = json!({
            "jsonrpc": "2.0", "id": id, "method": "initialize",
            "params": {
                "protocolVersion": self.revision.as_str(),
                "capabilities": capabilities,
                "clientInfo": {"name": name, "version": env!("CARGO_PKG_VERSION")},
            },
        });
        message.to_string()
    }

    /// Appends it to what is sealed.
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        let revision = REVISIONS.iter().position(|revision| *revision == self.revision).unwrap_or(0);
        to.push(u8::try_from(revision).unwrap_or(0));
        to.extend_from_slice(&self.capabilities.to_be_bytes());
        to.push(u8::try_from(self.name.len()).unwrap_or(0));
        to.extend_from_slice(self.name.as_bytes());
    }

    /// Reads it, and gives what follows.
    pub(super) fn read(from: &[u8]) -> Option<(Self, &[u8])> {
        let (revision, rest) = from.split_first()?;
        let (capabilities, rest) = rest.split_first_chunk::<2>()?;
        let (length, rest) = rest.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        let hello = Self {
            revision: *REVISIONS.get(usize::from(*revision))?,
            capabilities: u16::from_be_bytes(*capabilities),
            name: std::str::from_utf8(name).ok()?.to_owned(),
        };
        Some((hello, rest))
    }
}

/// Revisions by their number in a sealed id: new ones go to the end.
const REVISIONS: [Revision; 5] = [
    Revision::V2024_11_05,
    Revision::V2025_03_26,
    Revision::V2025_06_18,
    Revision::V2025_11_25,
    Revision::V2026_07_28,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(params: Value, want: Value) {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
        let hello = Hello::of(message.to_string().as_bytes());
        let mut sealed = Vec::new();
        hello.write(&mut sealed);
        sealed.extend_from_slice(b"rest");
        let (hello, rest) = Hello::read(&sealed).unwrap();
        assert_eq!(rest, b"rest");
        let mut said: Value = serde_json::from_str(&hello.initialize(7)).unwrap();
        assert_eq!(said["id"], 7);
        let mut said = said["params"].take();
        said["clientInfo"].as_object_mut().unwrap().remove("version");
        assert_eq!(said, want);
    }

    #[test]
    fn what_a_client_said_is_said_again() {
        check(
            json!({
                "protocolVersion": "2025-06-18",
                "capabilities": {"roots": {"listChanged": true}, "sampling": {}, "elicitation": {"form": {}, "url": null}},
                "clientInfo": {"name": "inspector", "version": "1"},
            }),
            json!({
                "protocolVersion": "2025-06-18",
                "capabilities": {"roots": {"listChanged": true}, "sampling": {}, "elicitation": {"form": {}}},
                "clientInfo": {"name": "inspector"},
            }),
        );
        check(
            json!({"protocolVersion": "2099-01-01", "capabilities": {"experimental": {"x": {}}}, "clientInfo": {"name": "ä".repeat(40)}}),
            json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "ä".repeat(16)}}),
        );
        let ours =
            json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "tollgate"}});
        check(json!({}), ours.clone());
        check(
            json!({"capabilities": {"sampling": false, "roots": null}, "clientInfo": {}}),
            json!({
            "protocolVersion": "2025-11-25", "capabilities": {"sampling": {}}, "clientInfo": {"name": "tollgate"}}),
        );
        assert_eq!(Hello::of(b"no JSON"), Hello::ours());
    }

    #[test]
    fn no_bytes_make_it_panic() {
        for length in 0..8u8 {
            assert!(Hello::read(&vec![length; usize::from(length)]).is_none());
        }
        assert!(Hello::read(&[9, 0, 0, 0]).is_none(), "no such revision");
        assert!(Hello::read(&[0, 0, 0, 1, 0xff]).is_none(), "no text");
    }
}
