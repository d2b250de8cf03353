//! What an honest server says: both eras, sessions, lists, calls, streams.
//! Not here: how it is written, or not (`serve`, `bytes`).

use std::time::Duration;

use serde_json::{Value, json};

use super::{Asked, Kind, Shared};

/// An answer in pieces, each after some time.
pub(super) struct Said {
    pub(super) pieces: Vec<(Duration, Vec<u8>)>,
    /// A stream that goes on behind the last piece.
    pub(super) stays_open: bool,
}

impl Said {
    fn once(bytes: Vec<u8>) -> Self {
        Self { pieces: vec![(Duration::ZERO, bytes)], stays_open: false }
    }

    /// All of it in one.
    pub(super) fn bytes(self) -> Vec<u8> {
        self.pieces.into_iter().flat_map(|(_, bytes)| bytes).collect()
    }

    /// How long it is.
    pub(super) fn length(&self) -> usize {
        self.pieces.iter().map(|(_, bytes)| bytes.len()).sum()
    }
}

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

/// One event as a chunk.
pub(super) fn chunk(message: &str) -> Vec<u8> {
    let event = format!("event: message\ndata: {message}\n\n");
    format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
}

/// What an honest server answers, and remembers.
pub(super) fn honest(asked: &Asked, shared: &Shared) -> Said {
    let (kind, legacy, modern, stranger) = {
        let behaviour = shared.behaviour.lock().unwrap();
        (behaviour.kind, behaviour.legacy, behaviour.modern, behaviour.stranger)
    };
    if asked.is_modern() {
        return if modern { modern_answer(asked, kind) } else { rejects(asked, 400, "Unsupported version") };
    }
    if !legacy {
        return rejects(asked, 400, "Unsupported version");
    }
    if asked.method() == "initialize" {
        return open_session(asked, shared);
    }
    let Some(session) = asked.headers.get("mcp-session-id") else {
        return match asked.method() {
            "server/discover" => rejects(asked, 404, "Method not found"),
            _ => rejects(asked, 400, "Missing session ID"),
        };
    };
    if !shared.facts.lock().unwrap().live.contains(session) {
        shared.note(|facts| {
            facts.strangers += 1;
            // A server that does not know the session turns the call away before it runs.
            if let Some(count) = asked.n().and_then(|n| facts.executed.get_mut(n)) {
                *count -= 1;
            }
        });
        return rejects(asked, stranger.0, stranger.1);
    }
    legacy_answer(asked, session, kind, shared)
}

fn open_session(asked: &Asked, shared: &Shared) -> Said {
    let id = shared.note(|facts| {
        facts.opened += 1;
        let id = format!("sim-{}-{}", facts.opened, asked.number);
        facts.live.insert(id.clone());
        id
    });
    let wanted = asked.message["params"]["protocolVersion"].as_str().unwrap_or("2025-11-25");
    let result = json!({
        "protocolVersion": wanted,
        "capabilities": {"tools": {"listChanged": true}, "logging": {}},
        "serverInfo": {"name": "mcp-sim", "version": "1"}
    });
    in_json(200, &[("mcp-session-id", &id)], &response(asked, &result))
}

fn legacy_answer(asked: &Asked, session: &str, kind: Kind, shared: &Shared) -> Said {
    match asked.method() {
        "GET" => Said { pieces: vec![(Duration::ZERO, STREAM.as_bytes().to_vec())], stays_open: true },
        "DELETE" => {
            shared.note(|facts| {
                facts.live.remove(session);
                facts.deleted += 1;
            });
            bodiless(200)
        }
        "notifications/initialized" => {
            shared.note(|facts| facts.initialized += 1);
            bodiless(202)
        }
        "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe" => {
            framed(asked, kind, &json!({}))
        }
        "tools/list" => framed(asked, kind, &json!({"tools": tools()})),
        "tools/call" => call(asked, kind),
        _ if asked.message.get("id").is_none() || asked.message.get("method").is_none() => bodiless(202),
        _ => rejects(asked, 200, "Method not found"),
    }
}

fn modern_answer(asked: &Asked, kind: Kind) -> Said {
    let cached = |mut result: Value| {
        result["resultType"] = json!("complete");
        result["ttlMs"] = json!(0);
        result["cacheScope"] = json!("private");
        framed(asked, kind, &result)
    };
    match asked.method() {
        "GET" | "DELETE" => bodiless(405),
        "server/discover" => cached(json!({
            "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {"listChanged": true}},
            "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "mcp-sim", "version": "1"}}
        })),
        "tools/list" => cached(json!({"tools": tools()})),
        "tools/call" => call(asked, kind),
        "subscriptions/listen" => {
            let acknowledged = json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                "params": {"notifications": {}, "_meta": {"io.modelcontextprotocol/subscriptionId": asked.message["id"]}}});
            let pieces = vec![
                (Duration::ZERO, STREAM.as_bytes().to_vec()),
                (Duration::ZERO, chunk(&acknowledged.to_string())),
            ];
            Said { pieces, stays_open: true }
        }
        _ if asked.message.get("id").is_none() => bodiless(202),
        _ => rejects(asked, 404, "Method not found"),
    }
}

fn tools() -> Value {
    json!([{"name": "echo", "inputSchema": {"type": "object"}}])
}

/// A call of `echo`: `progress` notifications spread over `ms`, then what `n` was.
fn call(asked: &Asked, kind: Kind) -> Said {
    let arguments = &asked.message["params"]["arguments"];
    let time = Duration::from_millis(arguments["ms"].as_u64().unwrap_or(0));
    let steps = u32::try_from(arguments["progress"].as_u64().unwrap_or(0)).unwrap();
    let said = asked.n().unwrap_or_default();
    let result =
        json!({"resultType": "complete", "content": [{"type": "text", "text": said}], "isError": false});
    let answer = response(asked, &result);
    if kind == Kind::Json && steps == 0 {
        let mut said = in_json(200, &[], &answer);
        said.pieces[0].0 = time;
        return said;
    }
    let mut pieces = vec![(Duration::ZERO, STREAM.as_bytes().to_vec())];
    let pause = time / (steps + 1);
    for step in 1..=steps {
        let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress",
            "params": {"progressToken": asked.message["params"]["_meta"]["progressToken"], "progress": step}});
        pieces.push((pause, chunk(&progress.to_string())));
    }
    pieces.push((pause, chunk(&answer.to_string())));
    pieces.push((Duration::ZERO, b"0\r\n\r\n".to_vec()));
    Said { pieces, stays_open: false }
}

fn response(asked: &Asked, result: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": asked.message["id"], "result": result})
}

fn framed(asked: &Asked, kind: Kind, result: &Value) -> Said {
    let message = response(asked, result);
    match kind {
        Kind::Json => in_json(200, &[], &message),
        Kind::Events => {
            let stream = [STREAM.as_bytes(), &chunk(&message.to_string()), b"0\r\n\r\n"].concat();
            Said::once(stream)
        }
    }
}

fn in_json(status: u16, headers: &[(&str, &str)], body: &Value) -> Said {
    let body = body.to_string();
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "HTTP/1.1 {status} Scripted\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{more}\r\n{body}",
        body.len()
    );
    Said::once(head.into_bytes())
}

fn bodiless(status: u16) -> Said {
    Said::once(format!("HTTP/1.1 {status} Scripted\r\ncontent-length: 0\r\n\r\n").into_bytes())
}

fn rejects(asked: &Asked, status: u16, words: &str) -> Said {
    if asked.message.get("id").is_none() && asked.verb == "POST" {
        return bodiless(status);
    }
    let error = json!({"code": if status == 404 { -32601 } else { -32600 }, "message": words});
    in_json(status, &[], &json!({"jsonrpc": "2.0", "id": asked.message["id"], "error": error}))
}
