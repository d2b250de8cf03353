//! Why we refuse, and the one table that says how a refusal looks: status, code, words, metric and log level.
//! Not here: who refuses (`admit`, `exchange`) and how a refusal is written (`write`).
//!
//! The words are ours: no text of an upstream, no address and no name that the caller may not see is in them.

mod denied;
mod malformed;
mod unauthenticated;
pub(super) mod unsure;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;

use super::headers::REQUEST_ID;
use crate::auth::{AuthError, Challenge, Denied};
use crate::hub::{HubError, Lie};
use crate::limit::{Decision, Layer};
use crate::mcp::{Code, Era, HeaderFault, Id, Malformed, RpcError};
use crate::reply::{Body, Reply};
use crate::telemetry::Outcome;
use crate::upstream::UpstreamError;
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
    Raw(RawFault),
    ForwardFailed,
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

/// Which limit was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limited {
    /// A bucket has not enough tokens.
    Tokens(Decision),
    /// All places of a caller, a server or a tool are taken.
    InFlight(Layer),
    /// The address sends more than is worth a look.
    Flood,
    /// All places of the process are taken.
    Busy,
    /// All places for streams are taken, the caller's or the process's.
    Streams,
}

impl Limited {
    /// Whose limit it is, in metrics.
    pub(super) fn scope(self) -> &'static str {
        match self {
            Self::Tokens(decision) => decision.layer.as_str(),
            Self::InFlight(Layer::Address) => "address_in_flight",
            Self::InFlight(Layer::Caller) => "caller_in_flight",
            Self::InFlight(Layer::Server) => "server_in_flight",
            Self::InFlight(Layer::Tool) => "tool_in_flight",
            Self::Flood => "flood",
            Self::Busy => "all_in_flight",
            Self::Streams => "streams",
        }
    }

    /// Whose limit it is, for clients.
    fn layer(self) -> &'static str {
        match self {
            Self::Tokens(Decision { layer, .. }) | Self::InFlight(layer) => layer.as_str(),
            Self::Flood => "flood",
            Self::Busy => "gateway",
            Self::Streams => "streams",
        }
    }

    /// Whole seconds to wait; `None` if waiting does not help. Nobody knows when a place gets free: soon.
    fn retry_after_seconds(self) -> Option<u64> {
        match self {
            Self::Tokens(decision) => decision.retry_after_seconds(),
            Self::InFlight(_) | Self::Flood | Self::Busy | Self::Streams => Some(1),
        }
    }

    fn row(self) -> Row {
        let (status, code) = match self {
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, Code::UNAVAILABLE),
            _ => (StatusCode::TOO_MANY_REQUESTS, Code::RATE_LIMITED),
        };
        let (reason, words) = match self {
            Self::Tokens(Decision { retry_after: None, .. }) => {
                ("rate_limited", "this costs more than its limit ever allows: waiting does not help")
            }
            Self::Tokens(_) | Self::Flood => ("rate_limited", "too many requests: wait and try again"),
            Self::InFlight(_) => ("too_many_in_flight", "too many calls at once: wait for one to end"),
            Self::Streams => ("too_many_streams", "too many open streams: close one"),
            Self::Busy => ("busy", "the gateway has all the calls it may have in flight"),
        };
        Row { status, code, reason, words: words.into(), outcome: Outcome::RateLimited }
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
        let row = |status, code, reason, words: &str, outcome| Row {
            status,
            code,
            reason,
            words: words.into(),
            outcome,
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
            Self::Hub { error, server, .. } => hub_row(error, server),
            Self::Raw(fault) => fault.row(),
            Self::Fault => row(
                S::INTERNAL_SERVER_ERROR,
                Code::INTERNAL,
                "internal",
                "a fault of the gateway",
                TransportError,
            ),
            Self::ForwardFailed => row(
                S::BAD_GATEWAY,
                Code::BAD_UPSTREAM,
                "forward_failed",
                "what is behind did not answer",
                TransportError,
            ),
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
        let layer = match self {
            Self::Limited(limited) => Some(limited.layer()),
            _ => None,
        };
        let body = if row.status == StatusCode::ACCEPTED {
            Bytes::new()
        } else if rpc {
            let mut data = json!({"reason": row.reason, "requestId": request_id});
            if let (Some(layer), Some(data)) = (layer, data.as_object_mut()) {
                data.insert("layer".into(), layer.into());
            }
            if let (true, Some(data)) = (unsure::may_have_run(self), data.as_object_mut()) {
                data.insert(unsure::OUTCOME.into(), unsure::UNKNOWN.into());
            }
            let error = RpcError { code: row.code, message: row.words, data: Some(data) };
            error.to_message(self.id())
        } else {
            let name = row.status.canonical_reason().unwrap_or("Error");
            let mut body =
                json!({"error": name, "message": row.words, "reason": row.reason, "request_id": request_id});
            if let (Some(layer), Some(body)) = (layer, body.as_object_mut()) {
                body.insert("layer".into(), layer.into());
            }
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
            _ => {}
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

fn hub_row(error: &HubError, server: &str) -> Row {
    use StatusCode as S;
    let row = |status, code, reason, words, outcome| Row { status, code, reason, words, outcome };
    match error {
        // The exchange makes it a rejection of its own, which knows the era.
        HubError::Denied(denied) => denied::row(denied, server, Era::Legacy, true),
        // 404 is what makes a client open a new session (2025-11-25/basic/transports, "Session Management").
        HubError::Session(_) => row(
            S::NOT_FOUND,
            Code::NOT_FOUND,
            "session_not_found",
            "Session not found".into(),
            Outcome::Denied,
        ),
        HubError::Upstream(UpstreamError::EndpointGone) => row(
            S::NOT_FOUND,
            Code::NOT_FOUND,
            "session_not_found",
            "Session not found".into(),
            Outcome::TransportError,
        ),
        HubError::Upstream(UpstreamError::NoneHealthy | UpstreamError::Unreachable) => row(
            S::SERVICE_UNAVAILABLE,
            Code::UNAVAILABLE,
            "no_healthy_endpoint",
            format!("server '{server}' has no healthy endpoint: try again"),
            Outcome::TransportError,
        ),
        HubError::Upstream(UpstreamError::Credential) => row(
            S::BAD_GATEWAY,
            Code::BAD_UPSTREAM,
            "upstream_credential",
            format!("the gateway has no credential for server '{server}' at the moment: try again"),
            Outcome::TransportError,
        ),
        HubError::Upstream(UpstreamError::Broken) => row(
            S::BAD_GATEWAY,
            Code::BAD_UPSTREAM,
            "connection_broke",
            format!(
                "server '{server}' closed the connection before it answered: whether the call ran is unknown"
            ),
            Outcome::TransportError,
        ),
        HubError::Upstream(UpstreamError::Timeout(after)) => row(
            S::GATEWAY_TIMEOUT,
            Code::TIMEOUT,
            "timeout",
            format!("server '{server}' did not answer within {after:?}: whether the call ran is unknown"),
            Outcome::Timeout,
        ),
        HubError::Lie(lie) => row(
            S::BAD_GATEWAY,
            Code::BAD_UPSTREAM,
            lie_reason(*lie),
            format!("server '{server}' broke the protocol: {lie}"),
            Outcome::TransportError,
        ),
    }
}

fn lie_reason(lie: Lie) -> &'static str {
    match lie {
        Lie::Redirect => "upstream_redirect",
        Lie::Credentials => "upstream_credentials",
        Lie::Type => "upstream_type",
        Lie::Content => "upstream_content",
        Lie::Truncated => "upstream_truncated",
        Lie::TooLong => "upstream_too_long",
        Lie::NoResponse => "upstream_no_response",
        Lie::Status(_) => "upstream_status",
    }
}
