//! Why we refuse, and the one table that says how a refusal looks: status, code, words, metric and log level.
//! Not here: who refuses (`admit`, `exchange`) and how a refusal is written (`write`).
//!
//! The words are ours: no text of an upstream, no address and no name that the caller may not see is in them.

mod denied;
mod hub;
mod limited;
mod malformed;
mod unauthenticated;
pub(super) mod unsure;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;

use super::headers::REQUEST_ID;
use crate::auth::{AuthError, Challenge, Denied};
use crate::hub::HubError;
use crate::mcp::{Code, Era, HeaderFault, Id, Malformed, RpcError};
use crate::reply::{Body, Reply};
use crate::telemetry::Outcome;
use crate::upstream::UpstreamError;
pub(super) use limited::{Bound, Limited};
pub(super) use unauthenticated::Unauthenticated;

/// Why a request is refused.
#[derive(Debug)]
pub(super) enum Rejection {
    NoDoor,
    WrongMethod {
        allow: &'static str,
    },
    Edge(EdgeFault),
    UriTooLong,
    HeadersTooLarge,
    Unauthenticated(Unauthenticated),
    Limited(Limited),
    BodyTooLarge {
        bytes_max: usize,
    },
    BodyTooSlow,
    BodyBroken,
    Encoded,
    NotJsonType,
    NotAcceptable {
        accept: &'static str,
    },
    Malformed(Malformed),
    HeaderMismatch {
        fault: HeaderFault,
        id: Option<Id>,
    },
    NoServerId {
        place: &'static str,
    },
    UnknownServer {
        server: String,
        id: Option<Id>,
    },
    /// The policy's word. `wanted` says whether the client waits for a response.
    Denied {
        denied: Denied,
        server: String,
        era: Era,
        wanted: bool,
        id: Option<Id>,
    },
    Hub {
        error: HubError,
        server: String,
        id: Option<Id>,
    },
    /// The stream that a message is for is not open, or another caller's.
    NoStream,
    Raw(RawFault),
    ForwardFailed,
    /// The gateway is about to end and begins no sessions.
    Leaving {
        id: Option<Id>,
    },
    /// A panic of ours.
    Fault,
}

/// What is wrong with where a request comes from, or with the name that it uses for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EdgeFault {
    NoHost,
    Host,
    Origin,
    Network,
    /// The head cannot be forwarded, such as one whose `Connection` names what is not one hop's own.
    Unfit,
}

impl EdgeFault {
    fn row(self) -> Row {
        use StatusCode as S;
        let (status, reason, words) = match self {
            Self::NoHost => (S::BAD_REQUEST, "no_host", "one Host is required"),
            Self::Host => (S::FORBIDDEN, "host", "this Host is not served here: list it in `hosts`"),
            Self::Origin => (S::FORBIDDEN, "origin", "this Origin may not call: list it in `origins`"),
            Self::Network => (S::FORBIDDEN, "network", "no calls are taken from this address"),
            Self::Unfit => (S::BAD_REQUEST, "unfit_head", "these headers cannot be forwarded"),
        };
        Row { status, code: Code::INVALID_REQUEST, reason, words: words.into(), outcome: Outcome::Denied }
    }
}

/// What is wrong with a request in view of the raw upstreams.
#[derive(Debug, Clone, Copy)]
pub(super) enum RawFault {
    /// The server speaks MCP.
    NotRaw,
    /// The server does not.
    OnlyRaw,
    /// The path leads out of what the catalog names.
    Climbs,
}

impl RawFault {
    fn row(self) -> Row {
        let (status, reason, words) = match self {
            Self::NotRaw => (StatusCode::NOT_FOUND, "not_raw", "this server is no raw upstream"),
            Self::OnlyRaw => {
                (StatusCode::NOT_FOUND, "only_raw", "this server is raw: it is at /servers/{id}/raw/")
            }
            Self::Climbs => (StatusCode::BAD_REQUEST, "path_climbs", "the path has a step up (`..`)"),
        };
        Row { status, code: Code::INVALID_REQUEST, reason, words: words.into(), outcome: Outcome::Denied }
    }
}

/// How a refusal is worded: by the customs of the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// A JSON-RPC error.
    Mcp,
    /// The Open MCP Gateway's: JSON-RPC for what went wrong with a call, `{error, message}` for the rest.
    OpenMcp,
    /// `{error, message}`.
    Plain,
}

/// One row of the table.
struct Row {
    status: StatusCode,
    code: Code,
    /// Stable, for programs and logs.
    reason: &'static str,
    words: String,
    outcome: Outcome,
}

impl Rejection {
    fn row(&self) -> Row {
        use Outcome::{Denied, TransportError};
        use StatusCode as S;
        let row = |status, code, reason, words: &str, outcome| {
            let words = words.into();
            Row { status, code, reason, words, outcome }
        };
        let bad = |status, reason, words: &str| row(status, Code::INVALID_REQUEST, reason, words, Denied);
        match self {
            Self::NoDoor => bad(S::NOT_FOUND, "no_door", "nothing is here: servers are at /servers/{id}/mcp"),
            Self::WrongMethod { .. } => {
                bad(S::METHOD_NOT_ALLOWED, "wrong_method", "this path does not take that method")
            }
            Self::Edge(fault) => fault.row(),
            Self::UriTooLong => bad(S::URI_TOO_LONG, "uri_too_long", "the path is too long"),
            Self::HeadersTooLarge => {
                bad(S::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", "too many or too large headers")
            }
            Self::Unauthenticated(why) => why.row(),
            Self::Limited(limited) => limited.row(),
            Self::BodyTooLarge { bytes_max } => Row {
                words: format!("the body is longer than {bytes_max} bytes"),
                ..bad(S::PAYLOAD_TOO_LARGE, "body_too_large", "")
            },
            Self::BodyTooSlow => bad(S::REQUEST_TIMEOUT, "body_too_slow", "the body did not come in time"),
            Self::BodyBroken => bad(S::BAD_REQUEST, "body_broken", "the body ended early or is ill framed"),
            Self::Encoded => {
                bad(S::UNSUPPORTED_MEDIA_TYPE, "encoded_body", "compressed bodies are not taken")
            }
            Self::NotJsonType => {
                bad(S::UNSUPPORTED_MEDIA_TYPE, "content_type", "Content-Type must be application/json")
            }
            Self::NotAcceptable { accept } => Row {
                words: format!("Accept must list {accept}"),
                ..bad(S::NOT_ACCEPTABLE, "not_acceptable", "")
            },
            Self::Malformed(malformed) => malformed::row(malformed),
            Self::HeaderMismatch { fault, .. } => {
                let (code, reason) = match fault {
                    HeaderFault::Mismatch(_) => (Code::HEADER_MISMATCH, "header_mismatch"),
                    HeaderFault::MissingMeta(_) => (Code::INVALID_PARAMS, "missing_meta"),
                };
                row(S::BAD_REQUEST, code, reason, &fault.to_string(), Denied)
            }
            Self::NoServerId { place } => {
                Row { words: format!("{place} required"), ..bad(S::BAD_REQUEST, "no_server_id", "") }
            }
            Self::UnknownServer { server, .. } => unknown_server(server),
            Self::Denied { denied, server, era, wanted, .. } => denied::row(denied, server, *era, *wanted),
            Self::Hub { error, server, .. } => hub::row(error, server),
            Self::NoStream => {
                bad(S::NOT_FOUND, "stream_not_found", "no such stream: open one at /servers/{id}/sse")
            }
            Self::Raw(fault) => fault.row(),
            Self::Leaving { .. } => {
                let words = "the gateway is about to end and begins no sessions: try again";
                row(S::SERVICE_UNAVAILABLE, Code::UNAVAILABLE, "leaving", words, Outcome::RateLimited)
            }
            Self::Fault => {
                let words = "a fault of the gateway";
                row(S::INTERNAL_SERVER_ERROR, Code::INTERNAL, "internal", words, TransportError)
            }
            Self::ForwardFailed => {
                let words = "what is behind did not answer";
                row(S::BAD_GATEWAY, Code::BAD_UPSTREAM, "forward_failed", words, TransportError)
            }
        }
    }

    /// Its stable name, as the log has it: of a denial it says more than the caller is told.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Denied { denied, .. } | Self::Hub { error: HubError::Denied(denied), .. } => {
                denied.reason()
            }
            _ => self.row().reason,
        }
    }

    /// How a client is told that another credential would help.
    pub(super) fn challenge(&self) -> Option<Challenge<'_>> {
        match self {
            Self::Unauthenticated(why) => why.error.challenge(),
            Self::Denied { denied: Denied::Scopes(scopes), .. } => Some(Challenge::Scopes(scopes)),
            _ => None,
        }
    }

    /// What it counts as.
    pub(super) fn outcome(&self) -> Outcome {
        self.row().outcome
    }

    fn id(&self) -> Option<&Id> {
        match self {
            Self::Malformed(malformed) => malformed.id.as_ref(),
            Self::HeaderMismatch { id, .. }
            | Self::UnknownServer { id, .. }
            | Self::Denied { id, .. }
            | Self::Leaving { id }
            | Self::Hub { id, .. } => id.as_ref(),
            _ => None,
        }
    }

    /// The refusal as an answer. The request's id goes in here, once.
    pub(super) fn render(&self, style: Style, request_id: &str) -> Reply {
        let mut row = self.row();
        let rpc = match style {
            Style::Mcp => true,
            Style::OpenMcp => {
                matches!(
                    self,
                    Self::Malformed(_) | Self::UnknownServer { .. } | Self::Denied { .. } | Self::Hub { .. }
                )
            }
            Style::Plain => false,
        };
        if style == Style::OpenMcp {
            self.as_the_contract_says(&mut row);
        }
        let said = match self {
            Self::Limited(limited) => {
                [Some(("layer", limited.layer())), limited.bound().map(|bound| ("bound", bound))]
            }
            Self::Hub { error: HubError::Upstream(UpstreamError::Late(deadline, _)), .. } => {
                [Some(("deadline", deadline.name())), None]
            }
            _ => [None; 2],
        };
        let body = if row.status == StatusCode::ACCEPTED {
            Bytes::new()
        } else if rpc {
            let mut data = json!({"reason": row.reason, "requestId": request_id});
            add(&mut data, said);
            if unsure::may_have_run(self) {
                add(&mut data, [Some((unsure::OUTCOME, unsure::UNKNOWN)), None]);
            }
            let error = RpcError { code: row.code, message: row.words, data: Some(data) };
            error.to_message(self.id())
        } else {
            let name = row.status.canonical_reason().unwrap_or("Error");
            let mut body =
                json!({"error": name, "message": row.words, "reason": row.reason, "request_id": request_id});
            add(&mut body, said);
            body.to_string().into()
        };
        let mut headers = HeaderMap::with_capacity(8);
        if !body.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        self.add_headers(&mut headers);
        if let Ok(id) = HeaderValue::from_str(request_id) {
            headers.insert(REQUEST_ID, id);
        }
        Reply { status: row.status, headers, body: Body::Whole(body) }
    }

    /// Contract 001: 403 for a wrong key, and its own codes for what a backend did.
    fn as_the_contract_says(&self, row: &mut Row) {
        match self {
            Self::Unauthenticated(why) => why.as_the_contract_says(row),
            Self::Hub { error: HubError::Upstream(_) | HubError::Lie(_), .. } => {
                row.code = Code::SERVER_ERROR;
                row.words = format!("Server error: {}", row.words);
            }
            _ => {}
        }
    }

    fn add_headers(&self, headers: &mut HeaderMap) {
        match self {
            Self::Unauthenticated(why) if why.error == AuthError::Unavailable => {
                headers.insert(header::RETRY_AFTER, 5.into());
            }
            Self::Leaving { .. } => {
                headers.insert(header::RETRY_AFTER, 1.into());
            }
            Self::WrongMethod { allow } => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            Self::Limited(limited) => {
                if let Some(seconds) = limited.retry_after_seconds() {
                    headers.insert(header::RETRY_AFTER, seconds.into());
                }
            }
            Self::Hub {
                error: HubError::Upstream(UpstreamError::NoneHealthy | UpstreamError::Unreachable),
                ..
            } => {
                headers.insert(header::RETRY_AFTER, 1.into());
            }
            Self::Hub { error: HubError::Upstream(UpstreamError::CircuitOpen(left)), .. } => {
                headers.insert(header::RETRY_AFTER, hub::whole_seconds(*left).into());
            }
            _ => {}
        }
    }
}

/// Adds members to an object.
fn add(object: &mut serde_json::Value, members: [Option<(&str, &str)>; 2]) {
    for (name, value) in members.into_iter().flatten() {
        if let Some(object) = object.as_object_mut() {
            object.insert(name.into(), value.into());
        }
    }
}

/// A server that is not there, or not for the caller.
fn unknown_server(server: &str) -> Row {
    Row {
        status: StatusCode::NOT_FOUND,
        code: Code::NOT_FOUND,
        reason: "unknown_server",
        words: format!("Server '{server}' not found"),
        outcome: Outcome::Denied,
    }
}
