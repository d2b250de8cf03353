//! What a path leads to.
//! Not here: whether the caller may go through (`admit`), or what is behind (`exchange`, `forward`).

use http::Method;
use pingora_http::RequestHeader;

use super::oauth;
use super::rejection::Style;
use crate::auth::WELL_KNOWN;
use crate::conf::Doors;

/// What a host and path lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Door {
    /// `/servers/{id}/mcp`: MCP with one server.
    Server {
        /// The server's id, as the path names it.
        id: String,
    },
    /// `GET /servers/{id}/sse`: the stream of a client of 2024-11-05.
    Sse {
        /// The server's id.
        id: String,
    },
    /// `POST /servers/{id}/message`: a message of such a client.
    Message {
        /// The server's id.
        id: String,
    },
    /// `POST /mcp`: the server's id is in the body (Open MCP Gateway).
    Envelope,
    /// `POST /rpc`: the server's id is in `X-Server-ID` (Open MCP Gateway).
    Rpc,
    /// `/servers/{id}/raw/…`: an HTTP upstream that we do not read.
    Raw {
        /// The server's id.
        id: String,
        /// What follows, with its leading slash.
        rest: String,
    },
    /// `/.well-known/oauth-protected-resource…`: where a token for a door can be had.
    Metadata,
    /// The control plane.
    Control,
    /// A door that this method does not open.
    Wrong {
        /// The methods that do.
        allow: &'static str,
    },
    /// Nothing.
    None,
}

/// Paths of the control plane, whole.
const CONTROL: [&str; 6] = ["/health", "/stats", "/livez", "/readyz", "/metrics", "/admin/reload"];

impl Door {
    /// The door of a request. The path is taken as it came: ids need no escapes, so an escaped one leads nowhere.
    pub(super) fn find(request: &RequestHeader) -> Self {
        let path = request.uri.path();
        let post = request.method == Method::POST;
        match path {
            "/mcp" if post => return Self::Envelope,
            "/rpc" if post => return Self::Rpc,
            "/mcp" | "/rpc" => return Self::Wrong { allow: "POST" },
            _ if CONTROL.contains(&path) => return Self::Control,
            _ => {}
        }
        let Some(rest) = path.strip_prefix("/servers") else {
            return oauth::find(request).unwrap_or(Self::None);
        };
        let Some(rest) = rest.strip_prefix('/') else {
            return if rest.is_empty() { Self::Control } else { Self::None };
        };
        match rest.split_once('/') {
            Some((id, "mcp")) => match request.method {
                Method::POST | Method::GET | Method::DELETE => Self::Server { id: id.to_owned() },
                _ => Self::Wrong { allow: "GET, POST, DELETE" },
            },
            Some((id, "sse")) => match request.method {
                Method::GET => Self::Sse { id: id.to_owned() },
                _ => Self::Wrong { allow: "GET" },
            },
            Some((id, "message")) => match request.method {
                Method::POST => Self::Message { id: id.to_owned() },
                _ => Self::Wrong { allow: "POST" },
            },
            Some((_, "start" | "stop")) | None => Self::Control,
            Some((id, rest)) => match rest.strip_prefix("raw") {
                Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                    Self::Raw { id: id.to_owned(), rest: rest.to_owned() }
                }
                _ => Self::None,
            },
        }
    }

    /// Nothing, if the listener that the request came in at does not have this door.
    pub(super) fn open_to(self, doors: &Doors, path: &str) -> Self {
        let open = match &self {
            Self::Server { .. } | Self::Sse { .. } | Self::Message { .. } => doors.mcp,
            Self::Envelope | Self::Rpc => doors.open_mcp,
            Self::Wrong { .. } if matches!(path, "/mcp" | "/rpc") => doors.open_mcp,
            Self::Metadata => oauth::is_open(path, doors),
            Self::Wrong { allow: "GET" } if path.starts_with(WELL_KNOWN) => oauth::is_open(path, doors),
            Self::Wrong { .. } => doors.mcp,
            Self::Raw { .. } => doors.raw,
            Self::Control => match path {
                "/metrics" => doors.metrics,
                "/health" | "/livez" | "/readyz" => doors.health,
                _ => doors.admin,
            },
            Self::None => false,
        };
        if open { self } else { Self::None }
    }

    /// Whether it answers pages in browsers: the doors of MCP do.
    pub(super) fn is_for_pages(&self) -> bool {
        match self {
            Self::Server { .. } | Self::Sse { .. } | Self::Message { .. } => true,
            Self::Envelope | Self::Rpc | Self::Metadata | Self::Wrong { .. } => true,
            Self::Raw { .. } | Self::Control | Self::None => false,
        }
    }

    /// Whether an orchestrator asks how the gateway is. Such questions cost little, come from one address for many
    /// gateways, and must not go unanswered because others at that address call too much.
    pub(super) fn is_probe(&self, request: &RequestHeader) -> bool {
        *self == Self::Control
            && matches!(request.uri.path(), "/health" | "/livez" | "/readyz")
            && matches!(request.method, Method::GET | Method::HEAD)
    }

    /// Its name in the access log.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Server { .. } => "server",
            Self::Sse { .. } => "sse",
            Self::Message { .. } => "message",
            Self::Envelope => "mcp",
            Self::Rpc => "rpc",
            Self::Raw { .. } => "raw",
            Self::Metadata => "metadata",
            Self::Control => "control",
            Self::Wrong { .. } | Self::None => "none",
        }
    }

    /// How a refusal is worded at it.
    pub(super) fn style(&self) -> Style {
        match self {
            Self::Server { .. } | Self::Sse { .. } | Self::Message { .. } => Style::Mcp,
            Self::Envelope | Self::Rpc => Style::OpenMcp,
            Self::Raw { .. } | Self::Metadata | Self::Control | Self::Wrong { .. } | Self::None => {
                Style::Plain
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &str, path: &str, want: &Door) {
        let request = RequestHeader::build(method, path.as_bytes(), None).unwrap();
        assert_eq!(&Door::find(&request), want);
    }

    #[test]
    fn paths_lead_to_doors() {
        let server = |id: &str| Door::Server { id: id.into() };
        check("POST", "/servers/a/mcp", &server("a"));
        check("GET", "/servers/a/mcp?x=1", &server("a"));
        check("PUT", "/servers/a/mcp", &Door::Wrong { allow: "GET, POST, DELETE" });
        check("POST", "/servers/a%2Fb/mcp", &server("a%2Fb"));
        check("POST", "/servers//mcp", &server(""));
        check("GET", "/servers/a/sse", &Door::Sse { id: "a".into() });
        check("POST", "/servers/a/sse", &Door::Wrong { allow: "GET" });
        check("POST", "/servers/a/message?sessionId=x", &Door::Message { id: "a".into() });
        check("GET", "/servers/a/message", &Door::Wrong { allow: "POST" });
        check("POST", "/mcp", &Door::Envelope);
        check("GET", "/mcp", &Door::Wrong { allow: "POST" });
        check("POST", "/rpc", &Door::Rpc);
        check("GET", "/servers", &Door::Control);
        check("GET", "/servers/a", &Door::Control);
        check("POST", "/servers/a/start", &Door::Control);
        check("GET", "/readyz?verbose", &Door::Control);
        check("GET", "/servers/a/raw/x/y", &Door::Raw { id: "a".into(), rest: "/x/y".into() });
        check("GET", "/servers/a/rawx", &Door::None);
        check("GET", "/serversx", &Door::None);
        check("GET", "/servers/a/mcp/", &Door::None);
        check("GET", "/", &Door::None);
    }

    #[test]
    fn a_listener_has_only_its_own_doors() {
        let none =
            Doors { mcp: false, open_mcp: false, raw: false, admin: false, metrics: false, health: false };
        let only_mcp = Doors { mcp: true, ..none };
        let only_health = Doors { health: true, ..none };
        let check = |doors: &Doors, method: &str, path: &str, want: bool| {
            let request = RequestHeader::build(method, path.as_bytes(), None).unwrap();
            let found = Door::find(&request);
            assert_ne!(found, Door::None, "{path}");
            assert_eq!(found.open_to(doors, request.uri.path()) != Door::None, want, "{method} {path}");
        };
        let all = [
            ("POST", "/servers/a/mcp"),
            ("PUT", "/servers/a/mcp"),
            ("GET", "/servers/a/sse"),
            ("PUT", "/servers/a/sse"),
            ("POST", "/servers/a/message"),
            ("POST", "/mcp"),
            ("GET", "/rpc"),
            ("GET", "/servers/a/raw/x"),
            ("GET", "/stats"),
            ("GET", "/metrics"),
            ("GET", "/readyz?verbose"),
        ];
        for (method, path) in all {
            check(&Doors::ALL, method, path, true);
            check(&none, method, path, false);
            let is_mcp = ["mcp", "sse", "message"].iter().any(|door| path == format!("/servers/a/{door}"));
            check(&only_mcp, method, path, is_mcp);
            check(&only_health, method, path, path.starts_with("/readyz"));
        }
    }
}
