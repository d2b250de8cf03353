//! The MCP server behind the gateway: opens sessions, answers every call, `big` with a long text, talks on streams.
//! Not here: the calls (`good`, `slow`), who listens (`idle`).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures_util::{Stream, StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::Failure;

/// Longer than all buffers between the server and a client that does not read, those of the kernel included. Written
/// from one piece, again and again: thousands may be on their way at once.
const BIG_PIECES: usize = 128;
static PIECE: [u8; 64 * 1024] = [b'x'; 64 * 1024];
/// What it says on each stream that is open, and how often.
const WORDS_BYTES: usize = 1024;
const TALKS_EVERY: Duration = Duration::from_millis(500);

type Piece = Result<Bytes, std::convert::Infallible>;

/// Starts it; it ends with the program.
pub(crate) async fn start() -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let answers = post(answer).get(talk).delete(|| async { StatusCode::OK });
    let app = Router::new().route("/mcp", answers);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

async fn answer(body: Bytes) -> Response {
    let Ok(message) = serde_json::from_slice::<Value>(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match message.get("method").and_then(Value::as_str).unwrap_or_default() {
        "initialize" => welcome(&message),
        note if note.starts_with("notifications/") => StatusCode::ACCEPTED.into_response(),
        _ => result(&message),
    }
}

/// A session of its own for each.
fn welcome(message: &Value) -> Response {
    static SESSIONS: AtomicU64 = AtomicU64::new(1);
    let session = format!("{:032x}", SESSIONS.fetch_add(1, Ordering::Relaxed));
    let info = json!({"name": "soak", "version": "1"});
    let result = json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info});
    let answer = json!({"jsonrpc": "2.0", "id": message.get("id"), "result": result});
    ([(HeaderName::from_static("mcp-session-id"), session)], axum::Json(answer)).into_response()
}

fn result(message: &Value) -> Response {
    let id = message.get("id").cloned().unwrap_or_default();
    let big = message.pointer("/params/name").and_then(Value::as_str) == Some("big");
    let begin = format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","content":[{{"type":"text","text":"fine"#
    );
    let end = Bytes::from_static(br#""}]}}"#);
    let pieces = if big { BIG_PIECES } else { 0 };
    let length = begin.len() + pieces * PIECE.len() + end.len();
    let text = stream::repeat(Bytes::from_static(&PIECE)).take(pieces);
    let whole = stream::iter([begin.into()]).chain(text).chain(stream::iter([end]));
    let heads =
        [(header::CONTENT_TYPE, "application/json".to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    (heads, Body::from_stream(whole.map(Piece::Ok))).into_response()
}

/// A stream on which there is always something to say.
async fn talk() -> Response {
    let params = json!({"level": "info", "data": "x".repeat(WORDS_BYTES)});
    let note = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": params});
    let event = Bytes::from(format!("data: {note}\n\n"));
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(again(event))).into_response()
}

fn again(event: Bytes) -> impl Stream<Item = Piece> {
    stream::unfold(event, |event| async move {
        sleep(TALKS_EVERY).await;
        Some((Ok(event.clone()), event))
    })
}
