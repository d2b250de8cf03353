//! The sample servers over HTTP, on real sockets.
//! Not here: what is in the answers (`tests`).

use reqwest::{Client, RequestBuilder, Response, StatusCode};

use super::*;

/// A server that runs until the test's work is done, and has to end then.
async fn with_server<F: Future>(work: impl FnOnce(Http) -> F) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    // Another test may have installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().timeout(DEADLINE).build().unwrap();
    let (stop, stopping) = watch::channel(false);
    let work = work(Http { client, base, stop: stop.clone() });
    let work = async {
        work.await;
        stop.send_replace(true);
    };
    timeout(2 * DEADLINE, async { tokio::join!(serve_http(listener, stopping), work) }).await.unwrap();
}

#[derive(Clone)]
struct Http {
    client: Client,
    base: String,
    stop: watch::Sender<bool>,
}

impl Http {
    fn post(&self, path: &str, body: &str) -> RequestBuilder {
        self.client
            .post(format!("{}{path}", self.base))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .body(body.to_owned())
    }

    fn modern(&self, path: &str, method: &str, body: &str) -> RequestBuilder {
        self.post(path, body).header("mcp-protocol-version", "2026-07-28").header("mcp-method", method)
    }

    fn get(&self, path: &str, session: &str) -> RequestBuilder {
        let get = self.client.get(format!("{}{path}", self.base));
        get.header("accept", "text/event-stream").header("mcp-session-id", session)
    }

    async fn open(&self, path: &str) -> String {
        let hello = request(1, "initialize", r#""protocolVersion":"2025-11-25","capabilities":{}"#);
        let response = self.post(path, &hello).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.headers()["mcp-session-id"].to_str().unwrap().to_owned()
    }
}

/// Status and JSON-RPC code of an answer.
async fn fault(request: RequestBuilder) -> (u16, i64) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["error"]["code"].as_i64().unwrap_or_default())
}

/// The messages of a stream of events that has ended.
async fn messages(response: Response) -> Vec<Value> {
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.text().await.unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

#[tokio::test]
async fn legacy_sessions_open_and_end() {
    with_server(|http| async move {
        let list = request(2, "tools/list", "");
        assert_eq!(fault(http.post("/http", &list)).await, (400, -32600));
        let strange = http.post("/http", &list).header("mcp-session-id", "0123");
        assert_eq!(fault(strange).await, (404, -32001));

        let session = http.open("/http").await;
        let ready = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let ready = http.post("/http", ready).header("mcp-session-id", &session).send().await.unwrap();
        assert_eq!(ready.status(), StatusCode::ACCEPTED);
        let listed = http.post("/http", &list).header("mcp-session-id", &session);
        assert_eq!(fault(listed.header("mcp-protocol-version", "2025-11-25")).await, (200, 0));
        let unknown = http.post("/http", &list).header("mcp-session-id", &session);
        assert_eq!(fault(unknown.header("mcp-protocol-version", "1999-01-01")).await.0, 400);

        let stream = http.get("/http", &session).send().await.unwrap();
        assert_eq!(stream.status(), StatusCode::OK);
        let delete = || http.client.delete(format!("{}/http", http.base)).header("mcp-session-id", &session);
        assert_eq!(delete().send().await.unwrap().status(), StatusCode::NO_CONTENT);
        assert!(messages(stream).await.is_empty());
        assert_eq!(fault(delete()).await, (404, -32001));
        assert_eq!(fault(http.get("/http", &session)).await, (404, -32001));
    })
    .await;
}

#[tokio::test]
async fn a_second_get_stream_takes_the_place_of_the_first() {
    with_server(|http| async move {
        let session = http.open("/mcp").await;
        let first = http.get("/mcp", &session).send().await.unwrap();
        let second = http.get("/mcp", &session).send().await.unwrap();
        assert!(messages(first).await.is_empty());
        http.stop.send_replace(true);
        assert!(messages(second).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_legacy_call_is_cancelled_by_a_notification() {
    with_server(|http| async move {
        let session = http.open("/http").await;
        let slow = request(9, "tools/call", r#""name":"slow","arguments":{"milliseconds":600000}"#);
        let slow = http.post("/http", &slow).header("mcp-session-id", &session).send().await.unwrap();
        let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9}}"#;
        let cancel = http.post("/http", cancel).header("mcp-session-id", &session).send().await.unwrap();
        assert_eq!(cancel.status(), StatusCode::ACCEPTED);
        assert!(messages(slow).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn modern_requests_are_checked_against_their_headers() {
    with_server(|http| async move {
        let list = modern("tools/list", "");
        for path in ["/modern", "/mcp"] {
            assert_eq!(fault(http.modern(path, "tools/list", &list)).await, (200, 0), "{path}");
            assert_eq!(fault(http.modern(path, "prompts/list", &list)).await, (400, -32020), "{path}");
            assert_eq!(fault(http.post(path, &list)).await, (400, -32020), "{path}");
            let call = modern("tools/call", r#""name":"echo","arguments":{"text":"é"}"#);
            assert_eq!(fault(http.modern(path, "tools/call", &call)).await, (400, -32020), "{path}");
            let named = http.modern(path, "tools/call", &call).header("mcp-name", "=?base64?ZWNobw==?=");
            assert_eq!(fault(named).await, (200, 0), "{path}");
            let bare = request(1, "tools/list", "");
            assert_eq!(fault(http.modern(path, "tools/list", &bare)).await, (400, -32602), "{path}");
            assert_eq!(fault(http.modern(path, "ping", &modern("ping", ""))).await, (404, -32601), "{path}");
            let future = list.replace("2026-07-28", "2027-01-01");
            let future = http.post(path, &future).header("mcp-method", "tools/list");
            assert_eq!(
                fault(future.header("mcp-protocol-version", "2027-01-01")).await,
                (400, -32022),
                "{path}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn each_path_refuses_the_era_it_does_not_speak() {
    with_server(|http| async move {
        let discover = modern("server/discover", "");
        assert_eq!(fault(http.modern("/http", "server/discover", &discover)).await, (404, -32601));
        let hello = request(1, "initialize", r#""protocolVersion":"2025-11-25","capabilities":{}"#);
        assert_eq!(fault(http.post("/modern", &hello)).await, (400, -32022));
        assert_eq!(fault(http.post("/modern", &request(1, "tools/list", ""))).await, (400, -32020));
        for (path, verb) in [("/modern", "GET"), ("/sse", "GET"), ("/modern", "DELETE"), ("/mcp", "PUT")] {
            let refused =
                http.client.request(verb.parse().unwrap(), format!("{}{path}", http.base)).send().await;
            let refused = refused.unwrap();
            assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED, "{verb} {path}");
            assert!(refused.headers().contains_key("allow"));
        }
    })
    .await;
}

#[tokio::test]
async fn sse_answers_without_a_session_and_by_events() {
    with_server(|http| async move {
        let echo = request(1, "tools/call", r#""name":"echo","arguments":{"text":"hi"}"#);
        let plain = http.client.post(format!("{}/sse", http.base)).header("content-type", "application/json");
        let answer = messages(plain.body(echo).send().await.unwrap()).await;
        assert_eq!(answer[0]["result"]["content"][0]["text"], "hi");
        let unknown = messages(http.post("/sse", &request(1, "none", "")).send().await.unwrap()).await;
        assert_eq!(unknown[0]["error"]["code"], -32601);
        let list =
            messages(http.modern("/sse", "tools/list", &modern("tools/list", "")).send().await.unwrap())
                .await;
        assert_eq!(list[0]["result"]["resultType"], "complete");
    })
    .await;
}

#[tokio::test]
async fn progress_comes_on_the_calls_own_stream() {
    with_server(|http| async move {
        let meta = META.replacen('{', r#"{"progressToken":4,"#, 1);
        let slow = format!(r#""name":"slow","arguments":{{"milliseconds":50}},{meta}"#);
        let slow =
            http.modern("/modern", "tools/call", &request(1, "tools/call", &slow)).header("mcp-name", "slow");
        let told = messages(slow.send().await.unwrap()).await;
        assert_eq!(told.len(), 11, "{told:?}");
        assert_eq!(told[0]["params"]["progressToken"], 4);
        assert_eq!(told[10]["result"]["resultType"], "complete");
    })
    .await;
}

#[tokio::test]
async fn a_stop_ends_subscriptions_with_their_result() {
    with_server(|http| async move {
        let listen = modern("subscriptions/listen", r#""notifications":{}"#);
        let mut stream = http.modern("/modern", "subscriptions/listen", &listen).send().await.unwrap();
        let first = stream.chunk().await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&first).contains("acknowledged"));
        http.stop.send_replace(true);
        let rest = messages(stream).await;
        assert_eq!(rest.last().unwrap()["id"], 7);
    })
    .await;
}

#[tokio::test]
async fn bad_requests_get_their_status() {
    with_server(|http| async move {
        let ping = request(1, "ping", "");
        let status = |request: RequestBuilder| async move { request.send().await.unwrap().status().as_u16() };
        let url = format!("{}/http", http.base);
        assert_eq!(status(http.post("/none", &ping)).await, 404);
        assert_eq!(status(http.post("/mcp", &ping).header("origin", "http://evil.example")).await, 403);
        assert_eq!(status(http.post("/sse", &ping).header("origin", "http://localhost:3000")).await, 200);
        assert_eq!(
            status(http.client.post(&url).header("content-type", "text/plain").body(ping.clone())).await,
            415
        );
        let narrow =
            http.client.post(&url).header("content-type", "application/json").header("accept", "text/html");
        assert_eq!(status(narrow.body(ping)).await, 406);
        assert_eq!(fault(http.post("/http", "{")).await, (400, -32700));
        assert_eq!(fault(http.post("/http", "[]")).await, (400, -32600));
        let huge = "x".repeat(MESSAGE_BYTES_MAX + 1);
        assert_eq!(status(http.post("/http", &huge)).await, 413);
    })
    .await;
}
