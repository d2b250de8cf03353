//! A bare MCP client: writes exactly what a test says and shows exactly what came back.
//! Not here: the official clients (`interop`), the gateway (`gateway`).

use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

/// How long an answer may take when a test does not say: long enough for a busy machine, short enough to be noticed.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// The revision of legacy sessions.
pub(crate) const LEGACY: &str = "2025-11-25";
/// The modern revision.
pub(crate) const MODERN: &str = "2026-07-28";

/// A client of one endpoint.
#[derive(Clone)]
pub(crate) struct Caller {
    http: reqwest::Client,
    url: String,
    headers: HeaderMap,
}

/// One whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    /// The JSON-RPC message in it, be it JSON or the last event of a stream.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let text = match self.header("content-type") {
            Some(kind) if kind.starts_with("text/event-stream") => self
                .body
                .lines()
                .filter_map(|line| line.strip_prefix("data:"))
                .rfind(|data| !data.trim().is_empty())
                .unwrap_or_default(),
            _ => &self.body,
        };
        serde_json::from_str(text).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// The JSON-RPC result in it.
    #[track_caller]
    pub(crate) fn result(&self) -> Value {
        let message = self.json();
        assert!(self.status == 200 && message.get("result").is_some(), "not a result: {self:?}");
        message["result"].clone()
    }

    /// The JSON-RPC error code in it.
    #[track_caller]
    pub(crate) fn code(&self) -> i64 {
        self.json()["error"]["code"].as_i64().unwrap_or_else(|| panic!("not a JSON-RPC error: {self:?}"))
    }

    /// Its body without the request's id: what may be compared with another answer.
    pub(crate) fn words(&self) -> String {
        self.header("x-request-id").map_or_else(|| self.body.clone(), |id| self.body.replace(id, "…"))
    }

    /// One header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// The body of a request.
pub(crate) fn request(id: impl Into<Value>, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params})
}

/// The body of a notification.
pub(crate) fn notification(method: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": method})
}

impl Caller {
    /// A client of that URL, without session or credentials.
    pub(crate) fn new(url: &str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // No redirects and no proxy of the machine: what is written is what is sent.
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .unwrap();
        Self { http, url: url.to_owned(), headers }
    }

    /// Where it sends to.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The HTTP client below, for what this type does not do.
    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// The same client with one more header on every request.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers
            .insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        self
    }

    /// The same client without one of its headers.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.remove(name);
        self
    }

    /// Sends bytes as they are and returns when the head of the answer is there.
    pub(crate) async fn open(&self, method: reqwest::Method, body: Vec<u8>) -> reqwest::Response {
        let mut request = self.http.request(method, &self.url).headers(self.headers.clone());
        if !body.is_empty() {
            request = request.body(body);
        }
        tokio::time::timeout(SOON, request.send()).await.expect("no answer").expect("the exchange failed")
    }

    /// POSTs one message to whoever may or may not be there.
    pub(crate) async fn try_send(&self, message: &Value) -> reqwest::Result<reqwest::Response> {
        self.http.post(&self.url).headers(self.headers.clone()).body(message.to_string()).send().await
    }

    /// Sends bytes as they are and reads the whole answer.
    pub(crate) async fn send(&self, method: reqwest::Method, body: Vec<u8>) -> Answer {
        let response = self.open(method, body).await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = tokio::time::timeout(SOON, response.bytes()).await.expect("the answer does not end");
        // An answer cut short shows as what arrived of it: the tests of lying upstreams look at that.
        let body = body
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_else(|error| format!("cut: {error}"));
        Answer { status, headers, body }
    }

    /// POSTs a body, and gives what was answered or why nothing was.
    pub(crate) async fn try_post(&self, body: String) -> reqwest::Result<String> {
        let sent = self.http.post(&self.url).headers(self.headers.clone()).body(body).send().await?;
        sent.text().await
    }

    /// The same for an answer that may take longer than `SOON`.
    pub(crate) async fn long(&self, method: reqwest::Method, body: Vec<u8>, within: Duration) -> Answer {
        let asked = self.http.request(method, &self.url).headers(self.headers.clone()).body(body).send();
        let response =
            tokio::time::timeout(within, asked).await.expect("no answer").expect("the exchange failed");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = tokio::time::timeout(within, response.text()).await.expect("the answer does not end");
        Answer { status, headers, body: body.unwrap_or_else(|error| format!("cut: {error}")) }
    }

    /// POSTs one message.
    pub(crate) async fn post(&self, message: &Value) -> Answer {
        self.send(reqwest::Method::POST, message.to_string().into_bytes()).await
    }

    /// POSTs one message and reads its answer event by event.
    pub(crate) async fn post_stream(&self, message: &Value) -> Events {
        Events::of(self.open(reqwest::Method::POST, message.to_string().into_bytes()).await)
    }

    /// Opens the session's GET stream.
    pub(crate) async fn get_stream(&self) -> Events {
        Events::of(self.open(reqwest::Method::GET, Vec::new()).await)
    }

    /// Opens a legacy session: the client to go on with, and what the server said of itself.
    pub(crate) async fn initialize(&self) -> (Self, Value) {
        self.initialize_as(json!({"sampling": {}, "elicitation": {}, "roots": {}})).await
    }

    /// The same with other client capabilities.
    pub(crate) async fn initialize_as(&self, capabilities: Value) -> (Self, Value) {
        let params = json!({"protocolVersion": LEGACY, "capabilities": capabilities, "clientInfo": {"name": "it", "version": "1"}});
        let answer = self.post(&request(0, "initialize", params)).await;
        let result = answer.result();
        let mut session =
            self.clone().with("mcp-protocol-version", result["protocolVersion"].as_str().unwrap());
        if let Some(id) = answer.header("mcp-session-id") {
            session = session.with("mcp-session-id", id);
        }
        let accepted = session.post(&notification("notifications/initialized")).await;
        assert_eq!(accepted.status, 202, "{accepted:?}");
        (session, result)
    }

    /// The session id, if it has one.
    pub(crate) fn session(&self) -> Option<String> {
        Some(self.headers.get("mcp-session-id")?.to_str().unwrap().to_owned())
    }

    /// A modern request with the headers that go with it, to be sent with `post` of the returned client.
    pub(crate) fn modern(&self, id: impl Into<Value>, method: &str, mut params: Value) -> (Self, Value) {
        let meta = &mut params["_meta"];
        meta["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
        meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
        meta["io.modelcontextprotocol/clientInfo"] = json!({"name": "it", "version": "1"});
        let mut caller = self.clone().with("mcp-protocol-version", MODERN).with("mcp-method", method);
        if let Some(name) = params.get("name").or(params.get("uri")).and_then(Value::as_str) {
            caller = caller.with("mcp-name", name);
        }
        (caller, request(id, method, params))
    }

    /// Sends a modern request and reads its whole answer.
    pub(crate) async fn modern_post(&self, id: impl Into<Value>, method: &str, params: Value) -> Answer {
        let (caller, body) = self.modern(id, method, params);
        caller.post(&body).await
    }
}

/// One server-sent event.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) retry: Option<String>,
    pub(crate) data: String,
}

impl Event {
    /// Its data as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }
}

/// A stream of events being read.
pub(crate) struct Events {
    response: reqwest::Response,
    buffer: String,
}

impl Events {
    #[track_caller]
    fn of(response: reqwest::Response) -> Self {
        let kind = response
            .headers()
            .get(CONTENT_TYPE)
            .map(|kind| kind.to_str().unwrap().to_owned())
            .unwrap_or_default();
        assert!(
            response.status() == 200 && kind.starts_with("text/event-stream"),
            "not a stream: {} {kind}",
            response.status()
        );
        Self { response, buffer: String::new() }
    }

    /// The next event that has data, an id or a retry time; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        tokio::time::timeout(SOON, self.read()).await.expect("no event")
    }

    /// The next event with a JSON-RPC message in it.
    pub(crate) async fn message(&mut self) -> Value {
        loop {
            let event = self.next().await.expect("the stream ended");
            if !event.data.is_empty() {
                return event.json();
            }
        }
    }

    async fn read(&mut self) -> Option<Event> {
        loop {
            while let Some((event, rest)) =
                self.buffer.split_once("\n\n").map(|(event, rest)| (decode(event), rest.to_owned()))
            {
                self.buffer = rest;
                if event != Event::default() {
                    return Some(event);
                }
            }
            let chunk = self.response.chunk().await.ok()??;
            self.buffer.push_str(&String::from_utf8_lossy(&chunk).replace('\r', ""));
        }
    }
}

fn decode(text: &str) -> Event {
    let mut event = Event::default();
    for line in text.lines() {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => event.id = Some(value.to_owned()),
            "retry" => event.retry = Some(value.to_owned()),
            "data" if event.data.is_empty() => event.data = value.to_owned(),
            "data" => event.data = format!("{}\n{value}", event.data),
            _ => {}
        }
    }
    event
}
