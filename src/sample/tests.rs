//! Tests of the sample servers over HTTP; stdio is tested through the bridge and by real clients.
//! Not here: the dates, which are tested where they stand.

use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

struct Said {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{} {}", self.status, self.body))
    }

    fn events(&self) -> Vec<Value> {
        assert_eq!(self.headers["content-type"], "text/event-stream");
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

struct Rig {
    address: std::net::SocketAddr,
    down: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<()>,
}

impl Rig {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (down, watch) = watch::channel(false);
        Self { address, down, serving: tokio::spawn(super::serve_http(listener, watch)) }
    }

    async fn end(self) {
        self.down.send_replace(true);
        tokio::time::timeout(std::time::Duration::from_secs(10), self.serving).await.unwrap().unwrap();
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &Value) -> Said {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = sender
            .send_request(request.body(Full::new(bytes::Bytes::from(body.to_string()))).unwrap())
            .await
            .unwrap();
        let (head, body) = answer.into_parts();
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Said { status: head.status, headers: head.headers, body }
    }

    async fn modern(&self, path: &str, method: &str, mut params: Value) -> Said {
        params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
        params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
        let name = params["name"].as_str().or(params["uri"].as_str()).unwrap_or_default().to_owned();
        let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", method), ("mcp-name", &name)];
        let headers = if name.is_empty() { &headers[..2] } else { &headers[..] };
        self.send(Method::POST, path, headers, &request(method, params)).await
    }
}

fn request(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

fn tool(name: &str, arguments: Value) -> Value {
    request("tools/call", json!({"name": name, "arguments": arguments, "_meta": {"progressToken": "p"}}))
}

#[tokio::test]
async fn legacy_sessions_begin_stream_and_end() {
    let rig = Rig::new().await;
    let init = request("initialize", json!({"protocolVersion": "2025-06-18", "capabilities": {}}));
    for path in ["/http", "/mcp"] {
        let said = rig.send(Method::POST, path, &[], &init).await;
        assert_eq!(said.json()["result"]["protocolVersion"], "2025-06-18");
        let session = said.headers["mcp-session-id"].to_str().unwrap().to_owned();
        let with = [("mcp-session-id", session.as_str())];
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(rig.send(Method::POST, path, &with, &initialized).await.status, StatusCode::ACCEPTED);
        let said = rig.send(Method::POST, path, &with, &tool("add", json!({"a": 1.5, "b": 2.5}))).await;
        assert_eq!(said.json()["result"]["structuredContent"], json!({"sum": 4}));
        let said = rig.send(Method::POST, path, &with, &tool("fail", json!({}))).await;
        assert_eq!(said.json()["result"]["isError"], true);
        let said = rig.send(Method::POST, path, &with, &tool("slow", json!({"milliseconds": 50}))).await;
        let events = said.events();
        assert_eq!(events.len(), 10);
        assert_eq!(events[0]["params"]["progressToken"], "p");
        assert_eq!(events[9]["result"]["content"][0]["text"], "took 50 ms");
        let get = rig.send(Method::GET, path, &with, &Value::Null);
        let delete = async {
            tokio::task::yield_now().await;
            rig.send(Method::DELETE, path, &with, &Value::Null).await
        };
        let (stream, deleted) = tokio::join!(get, delete);
        assert_eq!(deleted.status, StatusCode::NO_CONTENT);
        assert!(matches!(stream.status, StatusCode::OK | StatusCode::NOT_FOUND));
        let said = rig.send(Method::POST, path, &with, &tool("time", json!({}))).await;
        assert_eq!(said.status, StatusCode::NOT_FOUND);
        let said = rig.send(Method::POST, path, &[], &tool("time", json!({}))).await;
        assert_eq!(said.status, StatusCode::BAD_REQUEST);
    }
    rig.end().await;
}

#[tokio::test]
async fn modern_requests_are_checked_and_complete() {
    let rig = Rig::new().await;
    for path in ["/modern", "/mcp"] {
        let said = rig.modern(path, "server/discover", json!({})).await;
        let result = &said.json()["result"];
        assert_eq!(result["supportedVersions"], json!(["2026-07-28"]));
        assert_eq!((&result["resultType"], &result["cacheScope"]), (&json!("complete"), &json!("public")));
        assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "tollgate-sample");
        assert!(!said.headers.contains_key("mcp-session-id"));
        let said =
            rig.modern(path, "tools/call", json!({"name": "echo", "arguments": {"text": "\u{e4}\n"}})).await;
        assert_eq!(said.json()["result"]["content"][0]["text"], "ä\n");
        let said = rig.modern(path, "ping", json!({})).await;
        assert_eq!((said.status, &said.json()["error"]["code"]), (StatusCode::NOT_FOUND, &json!(-32601)));
        let said = rig.modern(path, "resources/read", json!({"uri": "sample://count/3"})).await;
        assert_eq!(said.json()["result"]["contents"][0]["text"], "1 2 3");
        let said = rig.modern(path, "resources/read", json!({"uri": "sample://none"})).await;
        assert_eq!(said.json()["error"]["code"], -32602);

        let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/list")];
        let mut bare = request("tools/list", json!({}));
        let said = rig.send(Method::POST, path, &headers, &bare).await;
        assert_eq!((said.status, &said.json()["error"]["code"]), (StatusCode::BAD_REQUEST, &json!(-32602)));
        bare["params"] = json!({"_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }});
        let wrong = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call")];
        let said = rig.send(Method::POST, path, &wrong, &bare).await;
        assert_eq!((said.status, &said.json()["error"]["code"]), (StatusCode::BAD_REQUEST, &json!(-32020)));
        bare["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2030-01-01");
        let future = [("mcp-protocol-version", "2030-01-01"), ("mcp-method", "tools/list")];
        let said = rig.send(Method::POST, path, &future, &bare).await;
        assert_eq!((said.status, &said.json()["error"]["code"]), (StatusCode::BAD_REQUEST, &json!(-32022)));
        assert_eq!(said.json()["error"]["data"]["supported"], json!(["2026-07-28"]));
    }
    let said = rig.send(Method::GET, "/modern", &[], &Value::Null).await;
    assert_eq!(said.status, StatusCode::METHOD_NOT_ALLOWED);
    rig.end().await;
}

#[tokio::test]
async fn sse_answers_every_post_with_events_and_evil_origins_are_refused() {
    let rig = Rig::new().await;
    let said = rig.send(Method::POST, "/sse", &[], &request("tools/list", json!({}))).await;
    assert_eq!(said.events()[0]["result"]["tools"].as_array().unwrap().len(), 5);
    for (origin, status) in [("http://evil.example", 403), ("http://localhost:1", 200), ("null", 403)] {
        let said = rig.send(Method::POST, "/sse", &[("origin", origin)], &request("ping", json!({}))).await;
        assert_eq!(said.status, status, "{origin}");
    }
    rig.end().await;
}
