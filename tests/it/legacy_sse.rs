//! HTTP+SSE of 2024-11-05 at the gateway's door: clients that know nothing newer.
//! Not here: servers that speak so (`sse_upstream`); streams of later revisions (`streams`).

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Caller, Event, Events, notification, request};
use crate::fake::{self, Act, Fake, Step};
use crate::gateway::Gateway;
use crate::interop::json_of;
use crate::packages;

const SOON: Duration = Duration::from_secs(20);
const CLIENT: Duration = Duration::from_secs(60);
const ONE: &str = "Rq7vB2mX9kT4wZ6n-one";
const TWO: &str = "Jd5hC8pL3sF1yG0u-two";

fn catalog(fake: &Fake) -> Value {
    let remote = json!({"type": "remote-http", "url": fake.url()});
    let server = |id: &str| json!({"id": id, "runtime": remote, "health": {"type": "off"}});
    json!({"servers": [server("it"), server("other")]})
}

fn keys() -> String {
    let key = |name: &str, key: &str| json!({"name": name, "key": key, "servers": ["*"]});
    json!({"drain": "5s", "auth": {"keys": [key("one", ONE), key("two", TWO)]}}).to_string()
}

/// An open stream and the door for its messages.
struct Sse {
    events: Events,
    door: Caller,
}

impl Sse {
    async fn open(gateway: &Gateway, key: Option<&str>) -> Self {
        let with = |caller: Caller| match key {
            Some(key) => caller.with("authorization", &format!("Bearer {key}")),
            None => caller,
        };
        let mut events = with(Caller::new(&gateway.path("/servers/it/sse"))).get_stream().await;
        let endpoint = events.next().await.expect("an endpoint event").data;
        assert!(endpoint.starts_with("/servers/it/message?sessionId="), "{endpoint}");
        assert!(endpoint.rsplit('=').next().unwrap().len() >= 43, "guessable: {endpoint}");
        Self { events, door: with(Caller::new(&gateway.path(&endpoint))) }
    }

    async fn say(&self, message: &Value) {
        let accepted = self.door.post(message).await;
        assert_eq!((accepted.status, accepted.body.as_str()), (202, ""), "{accepted:?}");
    }

    async fn hear(&mut self) -> Value {
        self.events.next().await.expect("the stream goes on").json()
    }

    async fn ask(&mut self, message: &Value) -> Value {
        self.say(message).await;
        self.hear().await
    }

    async fn initialize(&mut self) -> Value {
        let hello = json!({"protocolVersion": "2024-11-05", "capabilities": {"sampling": {}}, "clientInfo": {"name": "old", "version": "1"}});
        let opened = self.ask(&request(0, "initialize", hello)).await;
        self.say(&notification("notifications/initialized")).await;
        opened
    }
}

fn call(id: impl Into<Value>) -> Value {
    request(id, "tools/call", json!({"name": "echo", "arguments": {}}))
}

#[tokio::test]
async fn a_session_lives_and_ends_with_its_stream() {
    let asks =
        json!({"jsonrpc": "2.0", "id": 9, "method": "sampling/createMessage", "params": {"messages": []}});
    let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}});
    let script = move |seen: &fake::Seen| match (seen.method.as_str(), seen.rpc().as_str()) {
        ("GET", _) => Act::Stream(vec![Step::Lines(": hi\n".into()), Step::Send(asks.clone()), Step::Hang]),
        (_, "tools/call") => {
            Act::Stream(vec![Step::Send(progress.clone()), Step::Send(seen.text("streamed"))])
        }
        _ => fake::legacy(seen),
    };
    let fake = Fake::start(script);
    let gateway = Gateway::start(&catalog(&fake).to_string());
    let mut sse = Sse::open(&gateway, None).await;
    let opened = sse.initialize().await;
    assert_eq!(
        (&opened["id"], &opened["result"]["serverInfo"]["name"]),
        (&json!(0), &json!("fake")),
        "{opened}"
    );
    let asked = sse.hear().await;
    assert_eq!((&asked["id"], &asked["method"]), (&json!(9), &json!("sampling/createMessage")), "{asked}");
    sse.say(&json!({"jsonrpc": "2.0", "id": 9, "result": {}})).await;
    assert_eq!(sse.ask(&call("a")).await["method"], "notifications/progress");
    assert_eq!(sse.hear().await["result"]["content"][0]["text"], "streamed");
    let list = sse.ask(&request(3, "tools/list", json!({}))).await;
    assert_eq!((&list["id"], &list["result"]["tools"][0]["name"]), (&json!(3), &json!("echo")));
    let Sse { events, .. } = sse;
    drop(events);
    let ended = fake.wait_for("DELETE", SOON).await;
    assert!(ended.headers["mcp-session-id"].starts_with("fake-"));
    // Everything after initialize was in the session that it opened, in the revision that was agreed on.
    for seen in fake.seen().iter().filter(|seen| seen.rpc() != "initialize") {
        assert_eq!(seen.headers.get("mcp-session-id"), ended.headers.get("mcp-session-id"), "{seen:?}");
        assert_eq!(seen.headers["mcp-protocol-version"], "2025-11-25");
    }
}

#[tokio::test]
async fn a_stream_takes_messages_of_its_own_caller_alone() {
    let fake = Fake::start(fake::legacy);
    let gateway = Gateway::with(&catalog(&fake).to_string()).conf(&keys()).start();
    let mut sse = Sse::open(&gateway, Some(ONE)).await;
    let endpoint = sse.door.url().to_owned();
    let bearer = |url: &str, key: &str| Caller::new(url).with("authorization", &format!("Bearer {key}"));
    let elsewhere = endpoint.replace("/servers/it/", "/servers/other/");
    let unknown = endpoint.split('=').next().unwrap();
    for (url, key) in
        [(endpoint.as_str(), TWO), (&elsewhere, ONE), (unknown, ONE), (&format!("{unknown}=AAAA"), ONE)]
    {
        let refused = bearer(url, key).post(&call(1)).await;
        assert_eq!(refused.status, 404, "{url}: {refused:?}");
        assert_eq!(refused.json()["error"]["data"]["reason"], "stream_not_found");
    }
    assert_eq!(Caller::new(&endpoint).post(&call(1)).await.status, 401, "no credential");
    assert_eq!(Caller::new(&gateway.path("/servers/it/sse")).send(Method::GET, Vec::new()).await.status, 401);
    assert!(fake.seen().is_empty(), "nothing of it reached the server");
    // The positive control: the same number with its caller's key.
    assert_eq!(sse.initialize().await["result"]["serverInfo"]["name"], "fake");
    assert_eq!(sse.ask(&call(2)).await["result"]["content"][0]["text"], "fake");
}

#[tokio::test]
async fn a_revoked_key_ends_the_stream_and_what_runs_for_it() {
    let script = |seen: &fake::Seen| match seen.rpc().as_str() {
        "tools/call" => Act::Hang,
        _ => fake::legacy(seen),
    };
    let fake = Fake::start(script);
    let gateway = Gateway::with(&catalog(&fake).to_string()).conf(&keys()).start();
    let mut sse = Sse::open(&gateway, Some(ONE)).await;
    sse.initialize().await;
    sse.say(&call(1)).await;
    let running = fake.wait_for("tools/call", SOON).await;
    gateway.edit_conf(&keys().replace(ONE, "Ne4aV7oI2tE9rQ5x-new"));
    assert_eq!(sse.events.next().await, None, "the stream ends");
    fake.wait_for_gone(running.number, SOON).await;
    fake.wait_for("DELETE", SOON).await;
    let logged = |line: &Value| (line["door"] == "sse" && line["outcome"] == "denied").then_some(());
    gateway.wait_for_log("the stream's line", SOON, logged);
}

#[tokio::test]
async fn what_is_refused_is_told_where_the_client_waits() {
    let fake = Fake::start(fake::legacy);
    let mut catalog = catalog(&fake);
    catalog["rules"] = json!([
        {"name": "no-danger", "deny": ["call"], "tools": ["danger*"]},
        {"name": "all", "allow": "*"},
    ]);
    let gateway = Gateway::start(&catalog.to_string());
    let mut sse = Sse::open(&gateway, None).await;
    sse.initialize().await;
    let denied = sse.ask(&request(1, "tools/call", json!({"name": "danger", "arguments": {}}))).await;
    assert_eq!(denied["id"], 1, "{denied}");
    assert!(denied["error"]["code"].is_i64(), "{denied}");
    let modern = json!({"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}});
    let probed = sse.ask(&request(2, "server/discover", modern)).await;
    assert_eq!((&probed["id"], probed["error"].is_object()), (&json!(2), true), "{probed}");
    let malformed = sse.door.send(Method::POST, b"{\"jsonrpc\":\"2.0\",\"id\":3,".to_vec()).await;
    assert_eq!(malformed.status, 202);
    assert_eq!(sse.hear().await["error"]["code"], -32700);
    let form = sse.door.clone().with("content-type", "text/plain").post(&call(5)).await;
    assert_eq!(form.status, 415, "what a page could send without asking: {form:?}");
    assert_eq!(sse.ask(&call(4)).await["result"]["content"][0]["text"], "fake", "the session goes on");
    assert!(fake.seen().iter().all(|seen| seen.json()["params"]["name"] != "danger"));
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive_and_a_drained_one_ends() {
    let fake = Fake::start(fake::legacy);
    let conf = "drain: 5s\nlimits: {comment_every: 1s}\n";
    let gateway = Gateway::with(&catalog(&fake).to_string()).conf(conf).start();
    let mut raw = Caller::new(&gateway.path("/servers/it/sse")).open(Method::GET, Vec::new()).await;
    let mut text = String::new();
    while text.matches(": \n").count() < 2 {
        let piece = tokio::time::timeout(SOON, raw.chunk()).await.expect("a comment").unwrap();
        text.push_str(&String::from_utf8_lossy(&piece.expect("the stream goes on")));
    }
    assert!(text.starts_with("event: endpoint\n"), "{text}");
    let stopping = tokio::task::spawn_blocking(move || gateway.stop());
    while tokio::time::timeout(SOON, raw.chunk()).await.expect("an end").expect("a proper end").is_some() {}
    stopping.await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut() {
    let long = "x".repeat(1 << 20);
    let script = move |seen: &fake::Seen| match seen.rpc().as_str() {
        "tools/call" => Act::Json(200, seen.text(&long)),
        _ => fake::legacy(seen),
    };
    let fake = Fake::start(script);
    let conf = "drain: 5s\nlimits: {write_timeout: 1s}\n";
    let gateway = Gateway::with(&catalog(&fake).to_string()).conf(conf).start();
    let mut sse = Sse::open(&gateway, None).await;
    sse.initialize().await;
    let Sse { events, door } = sse;
    // Nobody reads `events` from here on. What the kernel and the queue take is less than what is asked for.
    let asking = async {
        for id in 0..64 {
            if door.post(&call(id)).await.status != 202 {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, asking).await.expect("messages are taken or refused at once");
    fake.wait_for("DELETE", SOON).await;
    drop(events);
}

/// One of our client programs over the SSE door.
#[track_caller]
fn client(mut command: Command, gateway: &Gateway) -> Value {
    command.arg(gateway.path("/servers/it/sse")).args(["--sse", "--mode", "legacy", "--tool", "echo"]);
    command.args(["--args", r#"{"message": "hello"}"#]);
    json_of(&packages::run(command, CLIENT))
}

fn everything() -> Gateway {
    let child = json!({"type": "local-process", "command": packages::node(), "args": [packages::everything(), "stdio"]});
    Gateway::start(&json!({"servers": [{"id": "it", "runtime": child}]}).to_string())
}

#[test]
fn official_clients_of_the_old_transport() {
    let gateway = everything();
    let clients = packages::folder().join("clients");
    for (interpreter, file) in [(packages::python(), "python_client.py"), (packages::node(), "ts_v1.mjs")] {
        let mut command = Command::new(interpreter);
        command.arg(clients.join(file));
        let said = client(command, &gateway);
        assert!(said["tools"].as_array().unwrap().len() >= 13, "{file}: {said}");
        assert_eq!(said["result"]["content"][0]["text"], "Echo: hello", "{file}: {said}");
    }
}

#[test]
fn mcp_remote_over_the_old_transport() {
    let gateway = everything();
    let args: Vec<String> = vec![
        packages::npm("mcp-remote/dist/proxy.js").to_str().unwrap().to_owned(),
        gateway.path("/servers/it/sse"),
        "--transport".into(),
        "sse-only".into(),
        "--allow-http".into(),
    ];
    let home = tempfile::TempDir::new().unwrap();
    let env: BTreeMap<&str, &str> = [("MCP_REMOTE_CONFIG_DIR", home.path().to_str().unwrap())].into();
    let program = json!({"command": packages::node(), "args": args, "env": env});
    let mut command = Command::new(packages::node());
    command.arg(packages::folder().join("clients/ts_v1.mjs"));
    command.args(["--stdio", &program.to_string(), "--tool", "echo", "--args", r#"{"message": "hello"}"#]);
    let said = json_of(&packages::run(command, CLIENT));
    assert_eq!(said["result"]["content"][0]["text"], "Echo: hello", "{said}");
    let opened = |line: &Value| (line["door"] == "message" && line["method"] == "tools/call").then_some(());
    gateway.wait_for_log("a call through the old door", SOON, opened);
}

/// The name of the first event, which clients of this transport wait for.
#[tokio::test]
async fn the_first_event_is_the_endpoint() {
    let fake = Fake::start(fake::legacy);
    let gateway = Gateway::start(&catalog(&fake).to_string());
    let mut sse = Caller::new(&gateway.path("/servers/it/sse")).get_stream().await;
    let Event { data, id, .. } = sse.next().await.unwrap();
    assert!(data.starts_with("/servers/it/message?sessionId="));
    assert_eq!(id, None);
}
