//! The native API, in the exact shapes of the Open MCP Gateway's contract, its errors included.
//! Not here: what the figures mean (rooms' own tests), MCP through `/servers/{id}/mcp` (`exchange`).

use std::time::Instant;

use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Answer, Caller, SOON};
use crate::gateway::Gateway;

const KEYS: &str = r#"
auth:
  keys:
    - {name: all, key: Rq7vB2mX9kT4wZ6n-all, servers: ["*"]}
    - {name: some, key: Jd5hC8pL3sF1yG0u-some, servers: [local]}
    - {name: slow, key: Ne4aV7oI2tE9rQ5x-slow, servers: ["*"], limit: {requests: 1, per: 1h}}
drain: 5s
"#;
const ALL: &str = "Rq7vB2mX9kT4wZ6n-all";
const SOME: &str = "Jd5hC8pL3sF1yG0u-some";

/// A local server with everything that is shown, a remote one, and one that cannot start.
fn catalog() -> Value {
    json!({"servers": [
        {"id": "local", "display_name": "Local", "description": "The sample", "tags": ["a", "both"],
         "metadata": {"team": "x"},
         "runtime": {"type": "local-process", "command": env!("CARGO_BIN_EXE_tollgate"), "args": ["sample", "stdio"]},
         "env": {"PGHOST": "localhost", "PGPASSWORD": "hidden-one"}},
        {"id": "remote", "tags": ["both"], "health": {"type": "off"},
         "runtime": {"type": "remote-sse", "url": "http://127.0.0.1:9/x?key=hidden-two"},
         "headers": {"Authorization": "Bearer hidden-three"}},
        {"id": "broken", "runtime": {"type": "local-process", "command": "/bin/sh", "args": ["-c", "exit 1"]}},
    ]})
}

fn open() -> Gateway {
    Gateway::start(&catalog().to_string())
}

fn keyed() -> Gateway {
    Gateway::with(&catalog().to_string()).conf(KEYS).start()
}

async fn ask(gateway: &Gateway, line: &str, key: Option<&str>) -> Answer {
    let (method, path) = line.split_once(' ').unwrap();
    let mut caller = Caller::new(&gateway.path(path));
    if let Some(key) = key {
        caller = caller.with("x-api-key", key);
    }
    let answer = caller.send(method.parse().unwrap(), Vec::new()).await;
    for hidden in ["hidden-one", "hidden-two", "hidden-three"] {
        assert!(!answer.body.contains(hidden), "{line} shows a secret: {answer:?}");
    }
    answer
}

/// Asks without a key, and wants that status and body.
async fn check(gateway: &Gateway, line: &str, status: u16, body: Value) {
    let answer = ask(gateway, line, None).await;
    assert_eq!((answer.status, answer.json()), (status, body), "{line}");
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// RFC 3339 in whole seconds, as the contract writes it.
#[track_caller]
fn is_time(value: &Value) {
    let text = value.as_str().unwrap_or_else(|| panic!("no time: {value}"));
    assert!(text.len() == 20 && text.ends_with('Z') && text.as_bytes()[10] == b'T', "{text}");
}

#[tokio::test]
async fn servers_are_started_and_stopped_in_the_contracts_words() {
    let gateway = open();
    let said =
        |id: &str, status: &str, message: &str| json!({"id": id, "status": status, "message": message});
    for id in ["local", "remote"] {
        let (start, stop) = (format!("POST /servers/{id}/start"), format!("POST /servers/{id}/stop"));
        check(&gateway, &stop, 200, said(id, "stopped", "Server already stopped")).await;
        check(&gateway, &start, 200, said(id, "running", "Server started successfully")).await;
        check(&gateway, &start, 200, said(id, "running", "Server already running")).await;
        check(&gateway, &stop, 200, said(id, "stopped", "Server stopped successfully")).await;
    }
    let unknown = json!({"error": "Not Found", "message": "Server 'unknown' not found"});
    for line in ["GET /servers/unknown", "POST /servers/unknown/start", "POST /servers/unknown/stop"] {
        check(&gateway, line, 404, unknown.clone()).await;
    }
    let broken = ask(&gateway, "POST /servers/broken/start", None).await;
    assert_eq!((broken.status, keys(&broken.json())), (502, vec!["error", "message"]), "{broken:?}");
    assert_eq!(broken.json()["error"], "Bad Gateway");
    let message = broken.json()["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("Failed to start server: "), "{message}");
    assert!(message.contains("exited with code 1"), "{message}");
}

#[tokio::test]
async fn rows_leave_out_what_has_no_value() {
    let gateway = open();
    let rows = ask(&gateway, "GET /servers", None).await.json();
    let stopped = json!({"id": "local", "display_name": "Local", "description": "The sample", "status": "stopped",
        "tags": ["a", "both"], "runtime_type": "local-process", "request_count": 0});
    let remote = json!({"id": "remote", "display_name": "remote", "status": "stopped", "tags": ["both"],
        "runtime_type": "remote-sse", "request_count": 0});
    let broken = json!({"id": "broken", "display_name": "broken", "status": "stopped", "tags": [],
        "runtime_type": "local-process", "request_count": 0});
    assert_eq!(rows, json!([stopped, remote, broken]));
    let ids = |rows: &Value| {
        rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for (query, wanted) in
        [("?tag=a", vec!["local"]), ("?tag=both", vec!["local", "remote"]), ("?tag=none", vec![])]
    {
        assert_eq!(
            ids(&ask(&gateway, &format!("GET /servers{query}"), None).await.json()),
            wanted,
            "{query}"
        );
    }
    let twice = ask(&gateway, "GET /servers?tag=a&tag=both", None).await;
    assert_eq!((twice.status, keys(&twice.json())), (400, vec!["error", "message"]), "{twice:?}");
    // Used once, the local one is running and has its times.
    let (session, _) = Caller::new(&gateway.url("local")).initialize().await;
    drop(session);
    let row = ask(&gateway, "GET /servers?tag=a", None).await.json()[0].clone();
    let full = ["id", "display_name", "description", "status", "tags", "runtime_type", "started_at"];
    assert_eq!(keys(&row), [&full[..], &["last_activity", "request_count", "uptime_seconds"]].concat());
    assert_eq!(row["status"], "running");
    assert!(row["request_count"].as_u64().unwrap() > 0 && row["uptime_seconds"].is_u64(), "{row}");
    is_time(&row["started_at"]);
    is_time(&row["last_activity"]);
}

#[tokio::test]
async fn one_server_is_shown_in_full_and_without_secrets() {
    let gateway = open();
    ask(&gateway, "POST /servers/local/start", None).await;
    let mut local = ask(&gateway, "GET /servers/local", None).await.json();
    is_time(&local["started_at"]);
    let pid = local["process"]["pids"][0].as_u64().unwrap();
    assert!(gateway.descendants().contains(&u32::try_from(pid).unwrap()), "{local}");
    for key in ["started_at", "uptime_seconds"] {
        assert!(local.as_object_mut().unwrap().remove(key).is_some(), "{key}");
    }
    assert_eq!(
        local,
        json!({
            "id": "local", "display_name": "Local", "description": "The sample", "status": "running",
            "runtime": {"type": "local-process", "command": env!("CARGO_BIN_EXE_tollgate"), "args": ["sample", "stdio"]},
            "env": {"PGHOST": "localhost", "PGPASSWORD": "***"}, "tags": ["a", "both"], "metadata": {"team": "x"},
            "request_count": 0, "connection_count": 0,
            "process": {
                "state": "running", "mode": "shared", "pids": [pid], "restarts": 0, "ends": [],
                "children": {"warm": 0, "starting": 0, "ready": 1, "ending": 0},
            },
        })
    );
    let url = "http://127.0.0.1:9/x?***";
    let remote = json!({
        "id": "remote", "display_name": "remote", "status": "stopped",
        "runtime": {"type": "remote-sse", "url": url, "headers": {"authorization": "***"}},
        "tags": ["both"], "request_count": 0, "connection_count": 0,
    });
    let mut shown = ask(&gateway, "GET /servers/remote", None).await.json();
    let endpoint = shown.as_object_mut().unwrap().remove("endpoints").unwrap()[0].take();
    assert_eq!(shown, remote);
    is_time(&endpoint["since"]);
    let since = endpoint["since"].clone();
    // Its health is not asked, so nothing is said against it.
    let healthy = json!({"url": "http://127.0.0.1:9/x", "healthy": true, "state": "healthy", "since": since,
        "failures": 0, "in_flight": 0});
    assert_eq!(endpoint, healthy);
}

#[tokio::test]
async fn figures_of_all_servers() {
    let gateway = open();
    let (session, _) = Caller::new(&gateway.url("local")).initialize().await;
    drop(session);
    let mut stats = ask(&gateway, "GET /stats", None).await.json();
    assert_eq!(
        keys(&stats),
        ["uptime_seconds", "total_requests", "active_servers", "total_servers", "last_reload", "servers"]
    );
    is_time(&stats["last_reload"]);
    let local = stats["servers"]["local"].take();
    assert_eq!(keys(&local), ["status", "request_count", "uptime_seconds", "last_activity"]);
    assert_eq!((&stats["active_servers"], &stats["total_servers"]), (&json!(1), &json!(3)));
    assert_eq!(stats["total_requests"], local["request_count"]);
    assert_eq!(stats["servers"]["broken"], json!({"status": "stopped", "request_count": 0}));
}

#[tokio::test]
async fn a_reload_by_hand_says_what_changed_and_an_invalid_file_changes_nothing() {
    let gateway = open();
    let reload = "POST /admin/reload";
    let loaded = |loaded: u32, added: u32, removed: u32| json!({"status": "ok", "message": "Catalog reloaded", "servers_loaded": loaded, "servers_added": added, "servers_removed": removed});
    check(&gateway, reload, 200, loaded(3, 0, 0)).await;
    let mut smaller = catalog();
    smaller["servers"].as_array_mut().unwrap().truncate(1);
    gateway.edit_catalog(&smaller.to_string());
    // The watch may have been faster: then nothing is left to be removed.
    let answer = ask(&gateway, reload, None).await.json();
    assert!([loaded(1, 0, 2), loaded(1, 0, 0)].contains(&answer), "{answer}");

    gateway.edit_catalog("servers:\n  - id: wrong\n    runtime: {type: nonsense}\n");
    let failed = ask(&gateway, reload, None).await;
    assert_eq!((failed.status, keys(&failed.json())), (500, vec!["error", "message"]), "{failed:?}");
    assert_eq!(failed.json()["error"], "Internal Server Error");
    let message = failed.json()["message"].as_str().unwrap().to_owned();
    assert!(
        message.starts_with("Failed to reload catalog: ") && message.ends_with(" at line 3"),
        "{message}"
    );

    let ready = ask(&gateway, "GET /readyz?verbose", None).await;
    assert_eq!(ready.status, 200, "{ready:?}");
    let lines: Vec<&str> = ready.body.lines().collect();
    assert_eq!((lines[0], *lines.last().unwrap()), ("[+]listener ok", "readyz check passed"));
    assert!(lines[1].starts_with("[+]catalog ok: generation "), "{lines:?}");
    assert!(lines[2].starts_with("[!]catalog reload failed: ") && lines[2].contains(":3:"), "{lines:?}");
    assert_eq!(ask(&gateway, "GET /readyz", None).await.body, "ok");
    let stats = ask(&gateway, "GET /stats", None).await.json();
    assert_eq!(keys(&stats["last_reload_failure"]), ["at", "place", "message"], "{stats}");
    assert_eq!(stats["total_servers"], 1, "the invalid file changed something");
    assert_eq!(ask(&gateway, "GET /servers/local", None).await.status, 200);

    gateway.edit_catalog(&catalog().to_string());
    let deadline = Instant::now() + SOON;
    while ask(&gateway, "GET /stats", None).await.json().get("last_reload_failure").is_some() {
        assert!(Instant::now() < deadline, "the failure is remembered after a good load");
    }
    assert!(!ask(&gateway, "GET /readyz?verbose", None).await.body.contains("[!]"));
}

#[tokio::test]
async fn a_missing_key_is_401_and_a_wrong_one_403() {
    let gateway = keyed();
    let missing = json!({"error": "Unauthorized", "message": "API key required"});
    let wrong = json!({"error": "Forbidden", "message": "Invalid API key"});
    for line in [
        "GET /stats",
        "GET /metrics",
        "GET /servers",
        "GET /servers/local",
        "GET /servers/unknown",
        "POST /servers/local/start",
        "POST /servers/local/stop",
        "POST /admin/reload",
    ] {
        let answer = ask(&gateway, line, None).await;
        assert_eq!((answer.status, answer.json()), (401, missing.clone()), "{line}");
        assert!(answer.header("www-authenticate").is_some(), "{line}");
        let answer = ask(&gateway, line, Some("wrong-key-0123456789")).await;
        assert_eq!((answer.status, answer.json()), (403, wrong.clone()), "{line}");
    }
    for line in ["GET /health", "GET /livez", "GET /readyz", "GET /readyz?verbose"] {
        assert_eq!(ask(&gateway, line, None).await.status, 200, "{line}");
        assert_eq!(ask(&gateway, line, Some("wrong-key-0123456789")).await.status, 200, "{line}");
    }
    // The doors for calls answer alike, with the reason besides.
    for (line, body) in [("POST /mcp", json!({"server_id": "local"})), ("POST /rpc", json!({}))] {
        let caller = Caller::new(&gateway.path(line.split_once(' ').unwrap().1)).with("x-server-id", "local");
        for (caller, status, wanted) in
            [(caller.clone(), 401, &missing), (caller.with("x-api-key", "wrong-key-0123456789"), 403, &wrong)]
        {
            let answer = caller.post(&body).await;
            let said = json!({"error": answer.json()["error"], "message": answer.json()["message"]});
            assert_eq!((answer.status, &said), (status, wanted), "{line}");
        }
    }
    let bearer = Caller::new(&gateway.path("/stats")).with("authorization", &format!("Bearer {ALL}"));
    assert_eq!(bearer.send(Method::GET, Vec::new()).await.status, 200);
}

#[tokio::test]
async fn a_key_for_some_servers_sees_no_others() {
    let gateway = keyed();
    let rows = ask(&gateway, "GET /servers", Some(SOME)).await.json();
    assert_eq!((rows.as_array().unwrap().len(), &rows[0]["id"]), (1, &json!("local")));
    let stats = ask(&gateway, "GET /stats", Some(SOME)).await.json();
    assert_eq!((keys(&stats["servers"]), &stats["total_servers"]), (vec!["local"], &json!(1)));
    for line in ["GET /servers/remote", "POST /servers/remote/start", "POST /servers/remote/stop"] {
        let answer = ask(&gateway, line, Some(SOME)).await;
        assert_eq!(answer.json(), json!({"error": "Not Found", "message": "Server 'remote' not found"}));
        assert_eq!(answer.status, 404, "{line}");
    }
    gateway.edit_catalog("servers:\n  - id: wrong\n    runtime: {type: nonsense}\n");
    assert_eq!(ask(&gateway, "POST /admin/reload", Some(ALL)).await.status, 500);
    for (key, is_told) in [(SOME, false), (ALL, true)] {
        let stats = ask(&gateway, "GET /stats", Some(key)).await.json();
        assert_eq!(stats.get("last_reload_failure").is_some(), is_told, "{stats}");
    }
    gateway.edit_catalog(&catalog().to_string());
    let reload = ask(&gateway, "POST /admin/reload", Some(SOME)).await;
    assert_eq!((reload.status, reload.json()["error"].as_str()), (403, Some("Forbidden")), "{reload:?}");
    assert_eq!(ask(&gateway, "POST /admin/reload", Some(ALL)).await.status, 200);
}

#[tokio::test]
async fn the_control_plane_takes_from_the_callers_bucket() {
    let gateway = keyed();
    let slow = Some("Ne4aV7oI2tE9rQ5x-slow");
    let first = ask(&gateway, "GET /stats", slow).await;
    assert_eq!((first.status, first.header("x-ratelimit-remaining")), (200, Some("0")), "{first:?}");
    let second = ask(&gateway, "GET /stats", slow).await;
    assert_eq!((second.status, keys(&second.json())), (429, vec!["error", "message"]), "{second:?}");
    assert!(second.header("retry-after").is_some() && second.header("x-ratelimit-reset").is_some());
}

#[tokio::test]
async fn the_two_doors_of_the_contract_answer_alike() {
    let gateway = open();
    let rpc = Caller::new(&gateway.path("/rpc"));
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let missing = rpc.post(&list).await;
    assert_eq!((missing.status, &missing.json()["error"]), (400, &json!("Bad Request")), "{missing:?}");
    assert_eq!(missing.json()["message"], "X-Server-ID header required");
    let mut addressed = list.clone();
    addressed["server_id"] = json!("local");
    let one = rpc.clone().with("x-server-id", "local").post(&list).await;
    let other = Caller::new(&gateway.path("/mcp")).post(&addressed).await;
    assert!(one.result()["tools"][0]["inputSchema"].is_object(), "{one:?}");
    assert_eq!((one.json(), other.status), (other.json(), 200));
    let without = Caller::new(&gateway.path("/mcp")).post(&list).await;
    assert_eq!((without.status, &without.json()["error"]), (400, &json!("Bad Request")), "{without:?}");
    let unknown = rpc.clone().with("x-server-id", "unknown").post(&list).await;
    assert_eq!((unknown.status, unknown.code()), (404, -32001), "{unknown:?}");
    assert_eq!(unknown.json()["error"]["message"], "Server 'unknown' not found");
    assert_eq!(unknown.json()["id"], 1);
    let garbage = rpc.clone().with("x-server-id", "local").send(Method::POST, b"{".to_vec()).await;
    assert_eq!((garbage.status, garbage.code()), (400, -32700), "{garbage:?}");
    let away = rpc.with("x-server-id", "remote").post(&list).await;
    assert_eq!(away.code(), -32000, "{away:?}");
    assert!(away.json()["error"]["message"].as_str().unwrap().starts_with("Server error: "), "{away:?}");
}

#[tokio::test]
async fn every_answer_names_its_request() {
    let gateway = open();
    for path in
        ["/health", "/stats", "/servers", "/servers/unknown", "/nothing", "/mcp", "/servers/local/mcp"]
    {
        let caller = Caller::new(&gateway.path(path));
        let own = caller.clone().with("x-request-id", "mine-42").send(Method::GET, Vec::new()).await;
        assert_eq!(own.header("x-request-id"), Some("mine-42"), "{path}");
        let ours = caller.send(Method::GET, Vec::new()).await;
        let id = ours.header("x-request-id").unwrap_or_else(|| panic!("{path} has no id")).to_owned();
        assert!(id != "mine-42" && id.len() >= 8, "{path}: {id}");
    }
    let forged = Caller::new(&gateway.path("/health")).with("x-request-id", "a b\"c");
    assert_ne!(forged.send(Method::GET, Vec::new()).await.header("x-request-id"), Some("a b\"c"));
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_in_the_contracts_form() {
    let gateway = open();
    for (line, status, error) in [
        ("POST /health", 405, "Method Not Allowed"),
        ("DELETE /servers/local", 405, "Method Not Allowed"),
        ("GET /admin/reload", 405, "Method Not Allowed"),
        ("GET /servers/local/start", 405, "Method Not Allowed"),
        ("GET /mcp", 405, "Method Not Allowed"),
        ("GET /rpc", 405, "Method Not Allowed"),
        ("GET /nothing", 404, "Not Found"),
        ("GET /servers/local/nothing", 404, "Not Found"),
        ("GET /servers/", 404, "Not Found"),
        ("GET /servers/%ff", 400, "Bad Request"),
    ] {
        let answer = ask(&gateway, line, None).await;
        assert_eq!((answer.status, answer.json()["error"].as_str()), (status, Some(error)), "{line}");
        assert!(answer.json()["message"].is_string(), "{line}");
        assert_eq!(status == 405, answer.header("allow").is_some(), "{line}: {answer:?}");
    }
}
