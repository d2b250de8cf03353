//! The null MCP server: hyper, both eras, a fixed answer of about 650 bytes, nothing behind it.
//! Not here: anything that checks a request; what it costs is what every row of the report shares.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{HeaderName, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use memchr::memmem;
use tokio::net::TcpListener;

use crate::Failure;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// The text of every tool result; with its envelope an answer has about 650 bytes.
const TEXT: &str = "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut \
labore et dolore magna aliqua. Ut enim ad minim veniam, quis nostrud exercitation ullamco laboris nisi ut aliquip ex \
ea commodo consequat. Duis aute irure dolor in reprehenderit in voluptate velit esse cillum dolore eu fugiat nulla \
pariatur. Excepteur sint occaecat cupidatat non proident, sunt in culpa qui officia deserunt mollit anim id est \
laborum. Sed ut perspiciatis unde omnis iste natus error sit voluptatem accusantium.";

/// Serves until killed. With `sessions` it hands out a session id at `initialize`, as legacy servers may.
pub(crate) fn run(addr: SocketAddr, sessions: bool) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let listener = TcpListener::bind(addr).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let service = service_fn(move |request| answer(request, sessions));
            tokio::spawn(async move {
                // A client that goes away mid-call is its own affair.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    })
}

async fn answer(request: Request<Incoming>, sessions: bool) -> Result<Response<Full<Bytes>>, Infallible> {
    match *request.method() {
        Method::POST => {}
        Method::DELETE => return Ok(bare(StatusCode::OK)),
        _ => {
            let mut refusal = bare(StatusCode::METHOD_NOT_ALLOWED);
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, DELETE"));
            return Ok(refusal);
        }
    }
    let Ok(body) = request.into_body().collect().await else { return Ok(bare(StatusCode::BAD_REQUEST)) };
    let body = body.to_bytes();
    let Some(id) = token(&body, b"\"id\":") else { return Ok(bare(StatusCode::ACCEPTED)) };
    let method = token(&body, b"\"method\":").unwrap_or_default();
    let result = match method {
        b"\"tools/call\"" => {
            format!(
                r#"{{"resultType":"complete","content":[{{"type":"text","text":"{TEXT}"}}],"isError":false}}"#
            )
        }
        b"\"tools/list\"" => TOOLS.to_owned(),
        b"\"initialize\"" => INITIALIZE.to_owned(),
        b"\"server/discover\"" => DISCOVER.to_owned(),
        _ => "{}".to_owned(),
    };
    let id = String::from_utf8_lossy(id);
    let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
    let streamed = memmem::find(&body, b"\"name\":\"stream\"").is_some();
    let (kind, text) =
        if streamed { (STREAM, format!("event: message\ndata: {text}\n\n")) } else { (JSON, text) };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, kind);
    if sessions && method == b"\"initialize\"" {
        response.headers_mut().insert(SESSION, HeaderValue::from_static("null-session-0123456789abcdef"));
    }
    Ok(response)
}

const TOOLS: &str = r#"{"resultType":"complete","ttlMs":60000,"cacheScope":"public","tools":[{"name":"echo","description":"Answers with a fixed text.","inputSchema":{"type":"object","properties":{"text":{"type":"string"}}}}]}"#;
const INITIALIZE: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"null","version":"1"}}"#;
const DISCOVER: &str = r#"{"resultType":"complete","supportedVersions":["2026-07-28","2025-11-25"],"capabilities":{"tools":{}},"serverInfo":{"name":"null","version":"1"},"ttlMs":60000,"cacheScope":"public"}"#;

fn bare(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// The scalar after the first `key`, quotes included. Good for bodies whose envelope comes first, as ours do.
fn token<'a>(body: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let rest = body.get(memmem::find(body, key)? + key.len()..)?;
    let rest = rest.trim_ascii_start();
    let end = rest.iter().position(|byte| matches!(byte, b',' | b'}' | b' ' | b'\n'))?;
    rest.get(..end)
}
