//! One exchange with one server: doors, headers, sessions, credentials, what is shown afterwards.
//! Not here: streams and disconnects (`streams`), upstreams and children that misbehave (`upstream`, `stdio`).

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::client::{Caller, MODERN, SOON, request};
use crate::fake::{self, Fake};
use crate::gateway::Gateway;

fn remote(fake: &Fake) -> Value {
    json!({"id": "it", "runtime": {"type": "remote-http", "url": fake.url()}})
}

fn catalog(servers: &[Value]) -> String {
    json!({ "servers": servers }).to_string()
}

/// Two keys that seal sessions.
const ONE_KEY: &str = "5f1e828adbc74f8997aa9a0b05b022b7da215b39153975113ed7fe6b016dd7cb";
const OTHER_KEY: &str = "e79d24210209ae93f4a8ace7365704ba78f92b7756bd3dc616158a81fc2f802b";

/// Settings with three callers: two for every server, one for none of ours.
const KEYS: &str = r#"
drain: 5s
auth:
  keys:
    - name: alice
      key: alice-5f0c1e9b7a2d4836
      servers: ["*"]
    - name: bob
      key: bob-91d7c35ea8f04b62
      servers: ["*"]
    - name: carol
      key: carol-3b8e60fd2c7a9154
      servers: ["other"]
"#;

#[tokio::test]
async fn a_call_passes_in_both_eras() {
    let (old, new) = (Fake::start(fake::legacy), Fake::start(fake::modern));
    let new_server = json!({"id": "new", "runtime": {"type": "remote-http", "url": new.url()}});
    let gateway = Gateway::start(&catalog(&[remote(&old), new_server]));
    let (session, server) = Caller::new(&gateway.url("it")).initialize().await;
    assert_eq!(server["serverInfo"]["name"], "fake");
    let called = session.post(&request("x-1", "tools/call", json!({"name": "echo", "arguments": {}}))).await;
    assert_eq!(called.json()["id"], "x-1");
    assert_eq!(called.result()["content"][0]["text"], "fake");
    let modern = Caller::new(&gateway.url("new"));
    let discovered = modern.modern_post(1, "server/discover", json!({})).await.result();
    assert_eq!(discovered["supportedVersions"], json!([MODERN]));
    let called = modern.modern_post(2, "tools/call", json!({"name": "echo", "arguments": {}})).await;
    assert_eq!(called.result()["resultType"], "complete");
    assert!(called.header("mcp-session-id").is_none(), "a modern answer has no session: {called:?}");
}

#[tokio::test]
async fn bodies_over_64_kib_pass_both_ways_unchanged() {
    let fake = Fake::start(|seen| match seen.rpc().as_str() {
        "tools/call" => fake::Act::Json(
            200,
            seen.result(json!({"resultType": "complete", "echo": seen.json()["params"]})),
        ),
        _ => fake::modern(seen),
    });
    let gateway = Gateway::start(&catalog(&[remote(&fake)]));
    for size in [1000, 65_535, 65_536, 65_537, 300_000, 3_000_000] {
        let big = "ä".repeat(size / 2);
        let params = json!({"name": "echo", "arguments": {"big": big}});
        let answer = Caller::new(&gateway.url("it")).modern_post(1, "tools/call", params).await;
        assert!(answer.result()["echo"]["arguments"]["big"] == big, "{size} bytes came back changed");
    }
}

#[tokio::test]
async fn a_callers_credentials_stay_and_the_catalogs_headers_go() {
    let fake = Fake::start(fake::legacy);
    fake.forbid("alice-5f0c");
    let mut server = remote(&fake);
    server["runtime"]["headers"] = json!({"Authorization": "Bearer upstream-secret"});
    let gateway = Gateway::with(&catalog(&[server])).conf(KEYS).start();
    let caller = Caller::new(&gateway.url("it"))
        .with("authorization", "Bearer alice-5f0c1e9b7a2d4836")
        .with("cookie", "a=alice-5f0c");
    let (session, _) = caller.initialize().await;
    session.post(&request(1, "tools/list", json!({}))).await.result();
    for seen in fake.seen() {
        assert_eq!(seen.headers["authorization"], "Bearer upstream-secret", "{seen:?}");
        assert_eq!(format!("http://{}/mcp", seen.headers["host"]), fake.url());
    }
    assert!(
        !gateway.log().contains("upstream-secret") && !gateway.log().contains("alice-5f0c"),
        "a secret is in the log"
    );
}

#[tokio::test]
async fn only_a_known_caller_reaches_what_is_allowed() {
    let fake = Fake::start(fake::legacy);
    let gateway = Gateway::with(&catalog(&[remote(&fake)])).conf(KEYS).start();
    let list = request(1, "tools/list", json!({}));
    let anonymous = Caller::new(&gateway.url("it")).post(&list).await;
    assert_eq!(anonymous.status, 401, "{anonymous:?}");
    let wrong =
        Caller::new(&gateway.url("it")).with("x-api-key", "wrong-wrong-wrong-wrong").post(&list).await;
    assert!([401, 403].contains(&wrong.status), "{wrong:?}");
    let carol = Caller::new(&gateway.url("it")).with("x-api-key", "carol-3b8e60fd2c7a9154").post(&list).await;
    assert!([403, 404].contains(&carol.status), "{carol:?}");
    assert_eq!(fake.seen().len(), 0, "nothing may reach the upstream");
}

#[tokio::test]
async fn a_session_belongs_to_its_caller() {
    let fake = Fake::start(fake::legacy);
    let gateway = Gateway::with(&catalog(&[remote(&fake)])).conf(KEYS).start();
    let ping = request(1, "ping", json!({}));
    let (session, _) =
        Caller::new(&gateway.url("it")).with("x-api-key", "alice-5f0c1e9b7a2d4836").initialize().await;
    assert_eq!(session.post(&ping).await.result(), json!({}));
    assert!(
        session.session().is_some_and(|id| !id.contains("fake-")),
        "the upstream's own id must stay inside"
    );
    let stolen = session.clone().with("x-api-key", "bob-91d7c35ea8f04b62").post(&ping).await;
    assert_eq!(stolen.status, 404, "{stolen:?}");
    let mut forged = session.session().unwrap();
    forged.replace_range(10..11, if &forged[10..11] == "A" { "B" } else { "A" });
    assert_eq!(session.clone().with("mcp-session-id", &forged).post(&ping).await.status, 404);
    assert_eq!(session.clone().with("mcp-session-id", "fake-0").post(&ping).await.status, 404);
    assert_eq!(session.post(&ping).await.result(), json!({}));
}

#[tokio::test]
async fn a_session_survives_a_restart() {
    let fake = Fake::start(fake::legacy);
    let catalog = catalog(&[remote(&fake)]);
    let gateway = Gateway::start(&catalog);
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let id = session.session().unwrap();
    let home = gateway.stop();
    let gateway = Gateway::with(&catalog).home(home).start();
    let session = Caller::new(&gateway.url("it"))
        .with("mcp-session-id", &id)
        .with("mcp-protocol-version", "2025-11-25");
    assert_eq!(
        session.post(&request(1, "tools/call", json!({"name": "echo"}))).await.result()["content"][0]["text"],
        "fake"
    );
    assert_eq!(fake.seen_rpc("initialize").len(), 1, "the session was to go on, not to start again");
}

#[tokio::test]
async fn replicas_with_the_same_key_accept_each_others_sessions() {
    let fake = Fake::start(fake::legacy);
    let catalog = catalog(&[remote(&fake)]);
    let replica = |key: &str| Gateway::with(&catalog).env("TOLLGATE_SESSION_KEY", key).start();
    let (one, two, stranger) = (replica(ONE_KEY), replica(ONE_KEY), replica(OTHER_KEY));
    let (session, _) = Caller::new(&one.url("it")).initialize().await;
    let id = session.session().unwrap();
    let list = request(1, "tools/list", json!({}));
    Caller::new(&two.url("it")).with("mcp-session-id", &id).post(&list).await.result();
    assert_eq!(Caller::new(&stranger.url("it")).with("mcp-session-id", &id).post(&list).await.status, 404);
}

#[tokio::test]
async fn upstream_connections_are_reused() {
    let fake = Fake::start(fake::modern);
    let gateway = Gateway::with(&catalog(&[remote(&fake)])).conf("drain: 5s\nthreads: 1\n").start();
    for id in 0..20 {
        Caller::new(&gateway.url("it"))
            .modern_post(id, "tools/call", json!({"name": "echo", "arguments": {}}))
            .await
            .result();
    }
    let calls = fake.seen_rpc("tools/call");
    let connections: std::collections::BTreeSet<usize> = calls.iter().map(|seen| seen.connection).collect();
    assert!(connections.len() <= 2, "20 calls in turn took connections {connections:?}");
    assert!(calls.iter().all(|seen| seen.path == "/mcp"), "{:?}", calls[0].path);
}

#[tokio::test]
async fn an_exchange_leaves_one_line_in_the_log() {
    let fake = Fake::start(fake::modern);
    let gateway = Gateway::start(&catalog(&[remote(&fake)]));
    let caller = Caller::new(&gateway.url("it")).with("x-request-id", "it-req-1");
    let answer =
        caller.modern_post(1, "tools/call", json!({"name": "echo", "arguments": {"word": "unspoken"}})).await;
    answer.result();
    assert_eq!(answer.header("x-request-id"), Some("it-req-1"), "{answer:?}");
    let line = gateway
        .wait_for_log("access", SOON, |line| line.to_string().contains("it-req-1").then(|| line.clone()));
    let line = line.get("fields").cloned().unwrap_or(line);
    let expected =
        [("server", "it"), ("tool", "echo"), ("method", "tools/call"), ("era", "modern"), ("outcome", "ok")];
    for (name, value) in expected {
        assert_eq!(line[name], value, "{name} of {line}");
    }
    assert!(!gateway.log().contains("unspoken"), "arguments are in the log");
}

#[tokio::test]
async fn what_leads_nowhere_says_so() {
    let fake = Fake::start(fake::legacy);
    let gateway = Gateway::start(&catalog(&[remote(&fake)]));
    let list = request(1, "tools/list", json!({}));
    assert_eq!(Caller::new(&gateway.url("unknown")).post(&list).await.status, 404);
    assert_eq!(Caller::new(&gateway.path("/nowhere")).post(&list).await.status, 404);
    let evil = Caller::new(&gateway.url("it")).with("origin", "http://evil.example").post(&list).await;
    assert_eq!(evil.status, 403, "{evil:?}");
    let html = Caller::new(&gateway.url("it")).with("content-type", "text/plain").post(&list).await;
    assert_eq!(html.status, 415, "{html:?}");
    let not_json =
        Caller::new(&gateway.url("it")).send(reqwest::Method::POST, b"{\"jsonrpc\":".to_vec()).await;
    assert_eq!((not_json.status, not_json.code()), (400, -32700), "{not_json:?}");
    let twice = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"method\":\"tools/call\"}".to_vec();
    let twice = Caller::new(&gateway.url("it")).send(reqwest::Method::POST, twice).await;
    assert_eq!((twice.status, twice.code()), (400, -32600), "{twice:?}");
    assert_eq!(fake.seen().len(), 0, "nothing may reach the upstream");
}

#[tokio::test]
async fn the_open_mcp_doors_lead_to_the_same_server() {
    let fake = Fake::start(fake::legacy);
    let gateway = Gateway::start(&catalog(&[remote(&fake)]));
    let mut body = request(7, "tools/list", json!({}));
    body["server_id"] = json!("it");
    let answer = Caller::new(&gateway.path("/mcp")).without("accept").post(&body).await;
    assert_eq!(answer.result()["tools"][0]["name"], "echo");
    let rpc = Caller::new(&gateway.path("/rpc")).without("accept");
    let answer = rpc.clone().with("x-server-id", "it").post(&request(8, "tools/list", json!({}))).await;
    assert_eq!(
        (answer.result()["tools"][0]["name"].as_str(), &answer.json()["id"]),
        (Some("echo"), &json!(8))
    );
    let answer = rpc.post(&request(9, "tools/list", json!({}))).await;
    assert_eq!(answer.status, 400, "{answer:?}");
}

#[tokio::test]
async fn prometheus_accepts_the_metrics() {
    let fake = Fake::start(fake::legacy);
    let gateway = Gateway::start(&catalog(&[remote(&fake)]));
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    session.post(&request(1, "tools/call", json!({"name": "echo", "arguments": {}}))).await.result();
    let metrics = Caller::new(&gateway.path("/metrics")).send(reqwest::Method::GET, Vec::new()).await;
    assert_eq!(metrics.status, 200, "{metrics:?}");
    let mut promtool = Command::new("promtool");
    let mut promtool = promtool
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("promtool: {error}. Run this, then try again:\n    scripts/prerequisites test")
        });
    promtool.stdin.take().unwrap().write_all(metrics.body.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    assert!(
        said.status.success() && said.stderr.is_empty(),
        "{}\n{}",
        String::from_utf8_lossy(&said.stderr),
        metrics.body
    );
}
