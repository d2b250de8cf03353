//! The first words with a child: which era it speaks, and the `initialize` that all its legacy clients share.
//! Not here: lines and processes (`desk`, `child`).
//!
//! A stdio server may lock itself to the era of its first message, so a child is opened for one era. A modern
//! opening asks `server/discover`; a server that answers with an error outside the modern ones speaks the legacy
//! era only and has not been locked by it, so the same child then gets `initialize`. A server that does not
//! answer at all is told from a slow one by a `ping`, which every era answers in some way.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::mcp::{Id, Revision};

/// Ids below this one are for the opening.
pub(super) const FIRST_TICKET: u64 = 16;
const DISCOVER: u64 = 1;
const PING: u64 = 2;
pub(super) const INITIALIZE: u64 = 3;
/// Asks a child that says nothing whether it lives.
pub(super) const PROBE: u64 = 4;

/// A probe without an answer is followed by a ping after this time.
const PING_AFTER: Duration = Duration::from_secs(2);
/// A server that answered the ping and not the probe before it gets this long to do so.
const PROBE_GRACE: Duration = Duration::from_millis(500);

/// What a child is told first.
#[derive(Debug)]
pub(super) enum First {
    /// `server/discover`.
    Modern,
    /// An `initialize` of ours, without capabilities.
    Legacy,
    /// A client's own `initialize` as a line, with the id [`INITIALIZE`].
    Client(Vec<u8>),
}

/// A child that is ready.
#[derive(Debug)]
pub(super) enum Opened {
    /// For requests of 2026-07-28.
    Modern,
    /// For legacy sessions, which share this handshake.
    Legacy(Handshake),
}

/// What a child answered to `initialize`.
#[derive(Debug)]
pub(super) struct Handshake {
    /// `result` or `error`.
    member: &'static str,
    value: Box<str>,
    version: Option<Range<usize>>,
    negotiated: Option<Revision>,
}

#[derive(Deserialize)]
struct InitializeResult<'a> {
    #[serde(rename = "protocolVersion", borrow)]
    version: Option<&'a RawValue>,
}

impl Handshake {
    fn new(result: Option<&RawValue>, error: Option<&RawValue>) -> Self {
        let Some(result) = result else {
            let value = error.map_or("null", RawValue::get).into();
            return Self { member: "error", value, version: None, negotiated: None };
        };
        let text = result.get();
        let version = serde_json::from_str::<InitializeResult<'_>>(text).ok().and_then(|read| read.version);
        let span = version.and_then(|raw| {
            let start = (raw.get().as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
            Some(start..start + raw.get().len())
        });
        let negotiated = version.and_then(|raw| Revision::parse(raw.get().trim_matches('"')));
        Self { member: "result", value: text.into(), version: span, negotiated }
    }

    /// Whether the server took it.
    pub(super) fn is_result(&self) -> bool {
        self.member == "result"
    }

    /// The answer to the client whose own `initialize` it was: byte by byte.
    pub(super) fn own_answer(&self, id: &Id) -> Bytes {
        Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{},"{}":{}}}"#, id.as_json(), self.member, self.value))
    }

    /// The answer to a client's `initialize`. A client that asks for an older legacy revision than the server
    /// chose gets its own; all else is what the server said, byte by byte.
    pub(super) fn answer(&self, id: &Id, asked: Option<&str>) -> Bytes {
        let asked = asked.and_then(Revision::parse).zip(self.negotiated);
        let version = asked.filter(|(asked, negotiated)| asked <= negotiated).map(|(asked, _)| asked);
        let value = match (version, &self.version) {
            (Some(version), Some(span)) => {
                let (head, tail) = (self.value.get(..span.start), self.value.get(span.end..));
                format!("{}\"{}\"{}", head.unwrap_or_default(), version.as_str(), tail.unwrap_or_default())
            }
            _ => self.value.to_string(),
        };
        Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{},"{}":{value}}}"#, id.as_json(), self.member))
    }
}

/// What came of a message of the opening.
#[derive(Debug)]
pub(super) enum Step {
    /// The child is ready.
    Opened(Opened),
    /// A child that was opened for the modern era speaks the legacy one only.
    LegacyOnly,
}

/// The opening's state.
#[derive(Debug)]
pub(super) enum Opening {
    /// `server/discover` was sent.
    Probing {
        /// When.
        since: Instant,
        /// Whether the ping was sent.
        pinged: bool,
        /// When the ping was answered.
        ponged: Option<Instant>,
    },
    /// `initialize` was sent.
    Initializing {
        /// Whether it is ours: a client says `notifications/initialized` itself.
        ours: bool,
    },
    /// It is over.
    Done,
}

impl Opening {
    /// Begins; `send` takes lines.
    pub(super) fn begin(first: &First, mut send: impl FnMut(&[u8])) -> Self {
        match first {
            First::Modern => {}
            First::Legacy => return Self::initialize(send),
            First::Client(line) => {
                send(line);
                return Self::Initializing { ours: false };
            }
        }
        let params = json!({"_meta": {
            "io.modelcontextprotocol/protocolVersion": Revision::V2026_07_28.as_str(),
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": client_info(),
        }});
        send(&request(DISCOVER, "server/discover", &params));
        Self::Probing { since: Instant::now(), pinged: false, ponged: None }
    }

    /// Begins, or begins again, for the legacy era.
    pub(super) fn initialize(mut send: impl FnMut(&[u8])) -> Self {
        let params = json!({
            "protocolVersion": Revision::LATEST_LEGACY.as_str(),
            "capabilities": {},
            "clientInfo": client_info(),
        });
        send(&request(INITIALIZE, "initialize", &params));
        Self::Initializing { ours: true }
    }

    /// Whether it is over.
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Takes the answer to one of its requests.
    pub(super) fn answered(
        &mut self,
        ticket: u64,
        (result, error): (Option<&RawValue>, Option<&RawValue>),
        mut send: impl FnMut(&[u8]),
    ) -> Option<Step> {
        match (&mut *self, ticket) {
            (Self::Probing { .. }, DISCOVER) => {
                if result.is_some() || error.is_some_and(is_modern_error) {
                    *self = Self::Done;
                    Some(Step::Opened(Opened::Modern))
                } else {
                    Some(Step::LegacyOnly)
                }
            }
            (Self::Probing { ponged, .. }, PING) => {
                ponged.get_or_insert_with(Instant::now);
                None
            }
            (Self::Initializing { ours }, INITIALIZE) => {
                if result.is_some() && *ours {
                    send(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n");
                }
                *self = Self::Done;
                Some(Step::Opened(Opened::Legacy(Handshake::new(result, error))))
            }
            _ => None,
        }
    }

    /// Looks at the clock.
    pub(super) fn tick(&mut self, now: Instant, mut send: impl FnMut(&[u8])) -> Option<Step> {
        let Self::Probing { since, pinged, ponged } = self else { return None };
        if !*pinged && now >= *since + PING_AFTER {
            *pinged = true;
            send(&request(PING, "ping", &json!({})));
        }
        ponged.filter(|ponged| now >= *ponged + PROBE_GRACE).map(|_| Step::LegacyOnly)
    }
}

/// Errors that only a server of the modern era gives.
fn is_modern_error(error: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Error {
        code: i64,
    }
    serde_json::from_str::<Error>(error.get()).is_ok_and(|error| (-32022..=-32020).contains(&error.code))
}

fn client_info() -> serde_json::Value {
    json!({"name": "tollgate", "version": env!("CARGO_PKG_VERSION")})
}

fn request(id: u64, method: &str, params: &serde_json::Value) -> Vec<u8> {
    let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
    format!("{message}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(result: &str, asked: &str, want: &str) {
        let raw = RawValue::from_string(result.to_owned()).unwrap();
        let answer = Handshake::new(Some(&raw), None).answer(&Id::number(7), Some(asked));
        assert_eq!(answer, format!(r#"{{"jsonrpc":"2.0","id":7,"result":{want}}}"#));
    }

    #[test]
    fn clients_get_their_own_revision_when_it_is_older_and_all_else_unchanged() {
        let said = r#"{"x":1.0, "protocolVersion":"2025-11-25" ,"y":"\u00e4"}"#;
        check(said, "2025-11-25", said);
        check(said, "2099-01-01", said);
        check(said, "2026-07-28", said);
        check(said, "2024-11-05", &said.replace("2025-11-25", "2024-11-05"));
        let old = r#"{"protocolVersion":"2024-11-05"}"#;
        check(old, "2025-06-18", old);
        check("{}", "2025-06-18", "{}");
    }

    #[test]
    fn a_server_that_refuses_initialize_is_quoted() {
        let error = RawValue::from_string(r#"{"code":-32022,"message":"no"}"#.to_owned()).unwrap();
        let answer = Handshake::new(None, Some(&error)).answer(&Id::number(7), None);
        assert_eq!(answer, r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32022,"message":"no"}}"#.as_bytes());
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn a_probe_tells_the_era_by_the_kind_of_answer() {
        let verdict = |result: Option<&str>, error: Option<&str>| {
            let (result, error) = (result.map(raw), error.map(raw));
            let mut opening = Opening::begin(&First::Modern, |_| {});
            matches!(
                opening.answered(DISCOVER, (result.as_deref(), error.as_deref()), |_| {}),
                Some(Step::Opened(Opened::Modern))
            )
        };
        assert!(verdict(Some("{}"), None));
        assert!(verdict(None, Some(r#"{"code":-32022,"message":""}"#)));
        for code in [-32601, -32602, -32600, -32000] {
            assert!(!verdict(None, Some(&format!(r#"{{"code":{code},"message":""}}"#))));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_answers_pings_only_is_legacy() {
        let mut sent = 0;
        let mut opening = Opening::begin(&First::Modern, |_| sent += 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(opening.tick(Instant::now(), |_| sent += 1).is_none());
        assert_eq!(sent, 1);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(opening.tick(Instant::now(), |_| sent += 1).is_none());
        assert!(opening.tick(Instant::now(), |_| sent += 1).is_none());
        assert_eq!(sent, 2);
        assert!(opening.answered(PING, (Some(&raw("{}")), None), |_| {}).is_none());
        assert!(opening.tick(Instant::now(), |_| {}).is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(matches!(opening.tick(Instant::now(), |_| {}), Some(Step::LegacyOnly)));
    }
}
