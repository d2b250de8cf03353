//! What an endpoint is asked to see whether it is well: a connection, a path, or MCP in the server's own era.
//! Not here: when it is asked, and what follows (`health`).
//!
//! A server of the legacy era is asked on one session that is kept for it and closed at the end: a session for each
//! question would fill the server's memory.

use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::credential::Proof;
use super::endpoint::Endpoint;
use super::http::{Answer as Body, Connector, Connectors};
use super::{Deadline, Outgoing, Treatment};
use crate::catalog::{HealthKind, Remote};
use crate::mcp::{Answer, Revision};

/// An answer may be this long.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Pages of a list that are looked through for a tool.
const PAGES_MAX: usize = 20;
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const ID: &str = "tollgate-health";

/// What is known of an endpoint that speaks MCP, from one question to the next.
#[derive(Debug)]
pub(super) enum Kept {
    /// It speaks the modern era, which has no sessions.
    Modern,
    /// It speaks the legacy era; the session that is open, if the server gave it an id.
    Legacy(Option<HeaderValue>),
}

/// Asks endpoints of one server.
#[derive(Debug)]
pub(super) struct Probe {
    kind: HealthKind,
    connector: Connector,
    proof: Option<Arc<Proof>>,
}

/// An answer to a question in MCP.
struct Said {
    status: StatusCode,
    session: Option<HeaderValue>,
    /// `None` if it is no JSON-RPC.
    message: Option<Bytes>,
}

impl Probe {
    pub(super) fn new(remote: &Remote, connect: Duration, proof: Option<Arc<Proof>>) -> Self {
        Self {
            proof,
            kind: remote.health.kind.clone(),
            connector: Connectors::default().net(remote, connect),
        }
    }

    /// Asks an endpoint what the catalog says.
    pub(super) async fn ask(&self, endpoint: &Endpoint, kept: &mut Option<Kept>) -> Result<(), &'static str> {
        match &self.kind {
            HealthKind::Off => Ok(()),
            HealthKind::Tcp => connect(endpoint).await,
            HealthKind::Http { path, status } => self.get(endpoint, path, *status).await,
            HealthKind::Mcp { tool } => self.speak(endpoint, kept, tool.as_deref()).await,
        }
    }

    /// Whether an endpoint answers in JSON-RPC at all; no session is opened for it.
    pub(super) async fn speaks(&self, endpoint: &Endpoint) -> bool {
        let said = self.post(endpoint, &Kept::Legacy(None), question("ping", json!({}))).await;
        matches!(said, Ok(None)) || said.is_ok_and(|said| said.is_some_and(|said| said.is_answer()))
    }

    async fn get(&self, endpoint: &Endpoint, path: &str, wanted: Option<u16>) -> Result<(), &'static str> {
        let get = outgoing(Method::GET, HeaderMap::new(), Bytes::new());
        let target = path.parse().map_err(|_| "bad path")?;
        let Some(response) = self.send(endpoint, get, Some(target)).await? else { return Ok(()) };
        match (wanted, response.status()) {
            (Some(wanted), status) if status.as_u16() != wanted => Err("another status than the one wanted"),
            (None, status) if status.is_server_error() => Err("status 5xx"),
            _ => Ok(()),
        }
    }

    /// Asks in the endpoint's era, which is found out at first. A session that the server has lost is opened anew.
    async fn speak(
        &self,
        endpoint: &Endpoint,
        kept: &mut Option<Kept>,
        tool: Option<&str>,
    ) -> Result<(), &'static str> {
        if let Some(known) = kept {
            match self.converse(endpoint, known, tool).await {
                Err(Lost) => *kept = None,
                Ok(answered) => return answered,
            }
        }
        let Some(known) = self.greet(endpoint).await? else { return Ok(()) };
        let answered = self.converse(endpoint, kept.insert(known), tool).await;
        answered.unwrap_or(Err("it forgets its sessions at once"))
    }

    /// The first question, which tells the era; `None` if the gateway's own credential cannot be had.
    async fn greet(&self, endpoint: &Endpoint) -> Result<Option<Kept>, &'static str> {
        let Some(said) = self.post(endpoint, &Kept::Modern, question("server/discover", json!({}))).await?
        else {
            return Ok(None);
        };
        if said.is_modern() {
            return Ok(Some(Kept::Modern));
        }
        let hello = json!({
            "protocolVersion": Revision::LATEST_LEGACY.as_str(),
            "capabilities": {},
            "clientInfo": {"name": "tollgate", "version": "health"},
        });
        let legacy = Kept::Legacy(None);
        let Some(said) = self.post(endpoint, &legacy, question("initialize", hello)).await? else {
            return Ok(None);
        };
        if !said.is_answer() {
            return Err(said.complaint());
        }
        let legacy = Kept::Legacy(said.session);
        let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        self.post(endpoint, &legacy, ready).await?;
        Ok(Some(legacy))
    }

    async fn converse(
        &self,
        endpoint: &Endpoint,
        kept: &Kept,
        tool: Option<&str>,
    ) -> Result<Result<(), &'static str>, Lost> {
        let Some(tool) = tool else {
            let method = if matches!(kept, Kept::Modern) { "server/discover" } else { "ping" };
            return match self.post(endpoint, kept, question(method, json!({}))).await {
                Ok(Some(said)) if said.is_lost(kept) => Err(Lost),
                Ok(Some(said)) if !said.is_answer() => Ok(Err(said.complaint())),
                Ok(_) => Ok(Ok(())),
                Err(why) => Ok(Err(why)),
            };
        };
        let mut cursor = None;
        for _ in 0..PAGES_MAX {
            let params = cursor.map_or(json!({}), |cursor: String| json!({"cursor": cursor}));
            let said = match self.post(endpoint, kept, question("tools/list", params)).await {
                Ok(Some(said)) if said.is_lost(kept) => return Err(Lost),
                Ok(Some(said)) => said,
                Ok(None) => return Ok(Ok(())),
                Err(why) => return Ok(Err(why)),
            };
            let Some(page) = said.message.as_deref().and_then(Page::of) else {
                return Ok(Err(said.complaint()));
            };
            if page.tools.iter().any(|listed| listed.name == tool) {
                return Ok(Ok(()));
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        Ok(Err("the tool it should have is not listed"))
    }

    /// Ends the session, if there is one.
    pub(super) async fn close(&self, endpoint: &Endpoint, kept: Kept) {
        let Kept::Legacy(Some(session)) = kept else { return };
        let mut headers = HeaderMap::new();
        headers.insert(SESSION, session);
        headers.insert(VERSION, HeaderValue::from_static(Revision::LATEST_LEGACY.as_str()));
        drop(self.send(endpoint, outgoing(Method::DELETE, headers, Bytes::new()), None).await);
    }

    /// Says something in MCP; `None` if the gateway's own credential cannot be had.
    async fn post(
        &self,
        endpoint: &Endpoint,
        kept: &Kept,
        mut message: Value,
    ) -> Result<Option<Said>, &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let method = message.get("method").and_then(Value::as_str).unwrap_or_default().to_owned();
        match kept {
            Kept::Modern => {
                headers.insert(VERSION, HeaderValue::from_static(Revision::V2026_07_28.as_str()));
                if let Ok(method) = HeaderValue::try_from(method) {
                    headers.insert("mcp-method", method);
                }
                if let Some(params) = message.get_mut("params").and_then(Value::as_object_mut) {
                    params.insert("_meta".into(), meta());
                }
            }
            Kept::Legacy(session) => {
                if method != "initialize" {
                    headers.insert(VERSION, HeaderValue::from_static(Revision::LATEST_LEGACY.as_str()));
                }
                if let Some(session) = session {
                    headers.insert(SESSION, session.clone());
                }
            }
        }
        let post = outgoing(Method::POST, headers, Bytes::from(message.to_string()));
        let Some(response) = self.send(endpoint, post, None).await? else { return Ok(None) };
        let (status, session) = (response.status(), response.headers().get(&SESSION).cloned());
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|_| "bad body")?.to_bytes();
        Ok(Some(Said { status, session, message: message_of(&body) }))
    }

    /// Sends a question with the gateway's own credential; `None` if that cannot be had, which is not the endpoint's
    /// fault and says nothing about it.
    async fn send(
        &self,
        endpoint: &Endpoint,
        mut outgoing: Outgoing,
        target: Option<Uri>,
    ) -> Result<Option<Response<Body>>, &'static str> {
        let shown = match &self.proof {
            Some(proof) => match proof.show(&mut outgoing.headers).await {
                Ok(shown) => Some(shown),
                Err(_) => return Ok(None),
            },
            None => None,
        };
        let probed = if target.is_none() && endpoint.may_be_legacy_sse() {
            // One of 2024-11-05 answers on a stream, which is opened for the probe's session as for any other.
            let Outgoing { method, headers, body, .. } = outgoing;
            endpoint.send(&self.connector, method, headers, body).await
        } else {
            endpoint.probe(&self.connector, outgoing, target).await
        };
        let response = probed.map_err(|_| "no answer")?;
        if let Some(shown) = shown {
            shown.answered(response.status());
        }
        Ok(Some(response))
    }
}

/// The server does not know the session any more.
struct Lost;

impl Said {
    fn is_answer(&self) -> bool {
        !self.status.is_server_error() && self.message.is_some()
    }

    /// A result, or one of the errors that only the modern era has (2026-07-28/basic).
    fn is_modern(&self) -> bool {
        #[derive(Deserialize)]
        struct Either {
            error: Option<Error>,
            result: Option<serde::de::IgnoredAny>,
        }
        #[derive(Deserialize)]
        struct Error {
            code: i64,
        }
        let read = self.message.as_deref().and_then(|message| serde_json::from_slice::<Either>(message).ok());
        read.is_some_and(|read| {
            read.result.is_some() || read.error.is_some_and(|error| (-32022..=-32020).contains(&error.code))
        })
    }

    /// 404 by the specification, 400 in practice.
    fn is_lost(&self, kept: &Kept) -> bool {
        matches!(kept, Kept::Legacy(Some(_)))
            && matches!(self.status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST)
    }

    fn complaint(&self) -> &'static str {
        if self.status.is_server_error() { "status 5xx" } else { "no JSON-RPC answer" }
    }
}

#[derive(Deserialize)]
struct Page {
    tools: Vec<Listed>,
    #[serde(rename = "nextCursor")]
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
}

impl Page {
    fn of(message: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Message {
            result: Page,
        }
        serde_json::from_slice::<Message>(message).ok().map(|message| message.result)
    }
}

fn question(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": ID, "method": method, "params": params})
}

fn meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": Revision::V2026_07_28.as_str(),
        "io.modelcontextprotocol/clientInfo": {"name": "tollgate", "version": "health"},
        "io.modelcontextprotocol/clientCapabilities": {},
    })
}

/// The JSON-RPC message in a body, which may be a stream of events.
fn message_of(body: &Bytes) -> Option<Bytes> {
    let found = match memchr::memmem::find(body, b"data: ") {
        Some(at) if !body.starts_with(b"{") => {
            let data = body.slice(at + 6..);
            let end = memchr::memchr(b'\n', &data).unwrap_or(data.len());
            data.slice(..end)
        }
        _ => body.clone(),
    };
    Answer::read(&found).is_some().then_some(found)
}

/// Probes are timed by whoever asks.
fn outgoing(method: Method, headers: HeaderMap, body: Bytes) -> Outgoing {
    const LONG: Duration = Duration::from_secs(60);
    let treatment =
        Treatment { deadline: Deadline::Response, head: LONG, idle: LONG, total: LONG, repeatable: false };
    Outgoing { method, headers, body, treatment }
}

async fn connect(endpoint: &Endpoint) -> Result<(), &'static str> {
    TcpStream::connect(endpoint.host_and_port()).await.map(|_| ()).map_err(|_| "connection refused")
}
