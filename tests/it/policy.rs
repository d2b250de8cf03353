//! Rules from the outside: what a caller may not have looks like what is not there, in lists, calls and doors.
//! Not here: the decision itself (`auth/policy`), `explain` and `plan` (`tests/golden/policy`).

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Answer, Caller, SOON, notification, request};
use crate::fake::{self, Act, Fake, Seen, Step};
use crate::gateway::Gateway;

const CONF: &str = r#"
auth:
  keys:
    - {name: all, key: Rq7vB2mX9kT4wZ6n-all, servers: ["*"], groups: [ops]}
    - {name: some, key: Jd5hC8pL3sF1yG0u-some, servers: ["*"]}
    - {name: none, key: Ne4aV7oI2tE9rQ5x-none, servers: ["*"], groups: [guests]}
drain: 5s
"#;
const ALL: &str = "Rq7vB2mX9kT4wZ6n-all";
const SOME: &str = "Jd5hC8pL3sF1yG0u-some";
const NONE: &str = "Ne4aV7oI2tE9rQ5x-none";

/// `some` sees two tools, one resource and the template; `all` everything but one tool; `none` nothing.
fn catalog(remote: &str) -> String {
    json!({
        "servers": [
            {"id": "docs", "runtime": {"type": "local-process", "command": env!("CARGO_BIN_EXE_tollgate"), "args": ["sample", "stdio"]}},
            {"id": "remote", "health": {"type": "off"}, "runtime": {"type": "remote-http", "url": remote}},
            {"id": "web", "health": {"type": "off"}, "runtime": {"type": "raw-http", "url": remote}},
        ],
        "rules": [
            {"name": "ops", "allow": "*", "who": {"groups": ["ops"]}},
            {"name": "not-slow", "deny": ["call"], "tools": ["slow"]},
            {"name": "some", "allow": "*", "who": {"subjects": ["some"]}, "servers": ["docs", "remote"],
             "tools": ["echo", "b*"], "resources": ["sample://readme", "sample://count/*"]},
        ],
    })
    .to_string()
}

fn start(remote: &Fake) -> Gateway {
    Gateway::with(&catalog(&remote.url())).conf(CONF).start()
}

fn caller(gateway: &Gateway, server: &str, key: &str) -> Caller {
    Caller::new(&gateway.url(server)).with("x-api-key", key)
}

fn names(list: &Value, key: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item[key].as_str().unwrap().to_owned()).collect()
}

/// An answer without what differs from one request to the next.
fn shape(answer: &Answer, asked: &str) -> (u16, String) {
    let mut body = answer.body.replace(asked, "ASKED");
    if let Some(id) = answer.header("x-request-id") {
        body = body.replace(id, "REQUEST");
    }
    (answer.status, body)
}

/// What a caller of one era sees of a server, and what it may use: each a set of `kind name`.
async fn seen_and_used(caller: &Caller, modern: bool) -> (BTreeSet<String>, BTreeSet<String>) {
    let ask = async |method: &str, params: Value| match modern {
        true => caller.modern_post(1, method, params).await,
        false => caller.post(&request(1, method, params)).await,
    };
    let mut seen = BTreeSet::new();
    for (method, list, key) in [
        ("tools/list", "tools", "name"),
        ("prompts/list", "prompts", "name"),
        ("resources/list", "resources", "uri"),
        ("resources/templates/list", "resourceTemplates", "uriTemplate"),
    ] {
        let result = ask(method, json!({})).await.result();
        seen.extend(names(&result[list], key).iter().map(|name| format!("{list} {name}")));
        assert_eq!(modern, result["cacheScope"] == "private", "{method}: {result}");
    }
    let mut used = BTreeSet::new();
    for name in ["add", "big", "echo", "fail", "slow", "time"] {
        let arguments = json!({"a": 1, "b": 2, "bytes": 1, "text": "t", "message": "m", "milliseconds": 1});
        let answer = ask("tools/call", json!({"name": name, "arguments": arguments})).await;
        if answer.status == 200 && answer.json().get("result").is_some() {
            used.insert(format!("tools {name}"));
        } else {
            assert_eq!(answer.json()["error"]["message"], format!("Unknown tool: {name}"));
            assert_eq!((answer.status, answer.code()), (200, -32602));
        }
    }
    for uri in ["sample://logo", "sample://readme"] {
        let answer = ask("resources/read", json!({"uri": uri})).await;
        match answer.json().get("result") {
            Some(_) => drop(used.insert(format!("resources {uri}"))),
            None => assert_eq!(answer.code(), if modern { -32602 } else { -32002 }, "{answer:?}"),
        }
    }
    let template = json!({"ref": {"type": "ref/resource", "uri": "sample://count/{n}"}, "argument": {"name": "n", "value": "1"}});
    if ask("completion/complete", template).await.json().get("result").is_some() {
        used.insert("resourceTemplates sample://count/{n}".to_owned());
    }
    let prompt = json!({"name": "greeting", "arguments": {"name": "Ada"}});
    if ask("prompts/get", prompt).await.json().get("result").is_some() {
        used.insert("prompts greeting".to_owned());
    }
    (seen, used)
}

#[tokio::test]
async fn what_is_listed_is_what_may_be_used_in_both_eras() {
    let remote = Fake::start(fake::legacy);
    let gateway = start(&remote);
    for (key, count) in [(ALL, 9), (SOME, 4)] {
        let legacy = caller(&gateway, "docs", key).initialize().await.0;
        let (seen, used) = seen_and_used(&legacy, false).await;
        assert_eq!(seen, used);
        assert_eq!(seen.len(), count, "{seen:?}");
        let modern = seen_and_used(&caller(&gateway, "docs", key), true).await;
        assert_eq!(modern, (seen, used));
    }
    gateway.stop();
}

#[tokio::test]
async fn denied_is_like_unknown() {
    let remote = Fake::start(fake::legacy);
    let gateway = start(&remote);
    let some = caller(&gateway, "docs", SOME).initialize().await.0;
    let check = async |method: &str, member: &str, denied: &str, unknown: &str| {
        let ask = async |name: &str| {
            let answer = some.post(&request(1, method, json!({member: name, "arguments": {}}))).await;
            shape(&answer, name)
        };
        assert_eq!(ask(denied).await, ask(unknown).await, "{method}");
    };
    check("tools/call", "name", "add", "nothing").await;
    check("tools/call", "name", "Echo", "ECHO").await;
    check("prompts/get", "name", "greeting", "nothing").await;
    check("resources/read", "uri", "sample://logo", "sample://nothing").await;
    check("resources/subscribe", "uri", "sample://logo", "sample://nothing").await;
    let unknown = some.post(&request(1, "vendor/thing", json!({}))).await;
    assert_eq!((unknown.status, unknown.code()), (200, -32601), "{unknown:?}");
    let told = some.post(&json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "add"}})).await;
    assert_eq!((told.status, told.body.as_str()), (202, ""), "{told:?}");
    assert_eq!(some.post(&notification("notifications/initialized")).await.status, 202);
    gateway.stop();
}

#[tokio::test]
async fn a_server_without_anything_for_the_caller_is_not_there_at_any_door() {
    let remote = Fake::start(|_: &Seen| panic!("nothing of this may reach a server"));
    let gateway = start(&remote);
    let initialize = request(
        0,
        "initialize",
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}}),
    );
    for (key, server) in [(NONE, "docs"), (NONE, "remote"), (NONE, "web"), (SOME, "web")] {
        let doors = async |server: &str| {
            let door = caller(&gateway, server, key);
            let session = door.clone().with("mcp-session-id", "forged");
            let api = |path: String| Caller::new(&gateway.path(&path)).with("x-api-key", key);
            let mut shapes = vec![
                shape(&door.post(&initialize).await, server),
                shape(&door.modern_post(1, "tools/list", json!({})).await, server),
                shape(&session.post(&request(1, "tools/list", json!({}))).await, server),
                shape(&session.send(Method::GET, Vec::new()).await, server),
                shape(&session.send(Method::DELETE, Vec::new()).await, server),
                shape(&api(format!("/servers/{server}/raw/x")).send(Method::GET, Vec::new()).await, server),
                shape(&api(format!("/servers/{server}")).send(Method::GET, Vec::new()).await, server),
                shape(&api(format!("/servers/{server}/stop")).send(Method::POST, Vec::new()).await, server),
                shape(
                    &api("/rpc".into())
                        .with("x-server-id", server)
                        .post(&request(1, "tools/list", json!({})))
                        .await,
                    server,
                ),
            ];
            let mut envelope = request(1, "tools/list", json!({}));
            envelope["server_id"] = json!(server);
            shapes.push(shape(&api("/mcp".into()).post(&envelope).await, server));
            shapes
        };
        assert_eq!(doors(server).await, doors("nothing").await, "{server}");
    }
    let listed = Caller::new(&gateway.path("/servers")).with("x-api-key", SOME);
    let listed: Value = serde_json::from_str(&listed.send(Method::GET, Vec::new()).await.body).unwrap();
    assert_eq!(names(&listed, "id"), ["docs", "remote"]);
    let metrics = Caller::new(&gateway.path("/metrics")).with("x-api-key", ALL);
    let metrics = metrics.send(Method::GET, Vec::new()).await.body;
    assert!(metrics.contains(r#"tollgate_denied_total{reason="denied_server",server="docs"}"#), "{metrics}");
    gateway.wait_for_log("the reason of a denial", SOON, |line| {
        (line["reason"] == "denied_server").then_some(())
    });
    gateway.stop();
}

/// An answer of the control plane.
async fn control(gateway: &Gateway, key: &str, line: &str) -> (u16, Value) {
    let (verb, path) = line.split_once(' ').unwrap();
    let door = Caller::new(&gateway.path(path)).with("x-api-key", key);
    let answer = door.send(verb.parse().unwrap(), Vec::new()).await;
    (answer.status, answer.json())
}

#[tokio::test]
async fn who_may_use_a_part_of_a_server_neither_runs_it_nor_sees_how_it_is_run() {
    let remote = Fake::start(fake::legacy);
    let mut catalog: Value = serde_json::from_str(&catalog(&remote.url())).unwrap();
    catalog["rules"][1]["servers"] = json!(["remote"]);
    catalog["servers"][0]["metadata"] = json!({"team": "x"});
    catalog["servers"][0]["env"] = json!({"PGHOST": "localhost"});
    let gateway = Gateway::with(&catalog.to_string()).conf(CONF).start();
    let forbidden = json!({"error": "Forbidden", "message": "starting and stopping needs every permission on the server"});
    let hidden = ["env", "metadata", "process", "endpoints"];
    for (key, server, is_whole) in
        [(ALL, "docs", true), (ALL, "web", true), (ALL, "remote", false), (SOME, "docs", false)]
    {
        for verb in ["start", "stop"] {
            let (status, body) = control(&gateway, key, &format!("POST /servers/{server}/{verb}")).await;
            assert_eq!(status, if is_whole { 200 } else { 403 }, "{key} {server} {verb}");
            assert!(is_whole || body == forbidden, "{body}");
        }
        let (status, shown) = control(&gateway, key, &format!("GET /servers/{server}")).await;
        assert_eq!((status, shown["id"].as_str(), shown["status"].is_string()), (200, Some(server), true));
        let runtime = shown["runtime"].as_object().unwrap();
        assert_eq!((runtime.contains_key("type"), runtime.len() > 1), (true, is_whole), "{shown}");
        assert_eq!(hidden.iter().any(|part| shown.get(part).is_some()), is_whole, "{shown}");
    }
    for (key, servers) in
        [(ALL, vec!["docs", "remote", "web"]), (SOME, vec!["docs", "remote"]), (NONE, vec![])]
    {
        let stats = control(&gateway, key, "GET /stats").await.1;
        let named: Vec<&str> = stats["servers"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!((&named, &stats["total_servers"]), (&servers, &json!(servers.len())), "{stats}");
    }
    for line in ["POST /servers/docs/start", "POST /servers/docs/stop", "GET /servers/docs"] {
        assert_eq!(control(&gateway, NONE, line).await.0, 404, "{line}");
    }
    gateway.stop();
}

/// A legacy server that lists one thing too many, in the way that the page of the list says.
fn lister(seen: &Seen) -> Act {
    let tools = json!([{"name": "secret"}, {"name": "echo", "title": "x"}]);
    let whole = seen.result(json!({"tools": tools, "nextCursor": "z"}));
    let log = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "hi"}});
    let cursor = seen.json()["params"]["cursor"].as_str().unwrap_or_default().to_owned();
    match (seen.rpc().as_str(), cursor.as_str()) {
        ("tools/list", "events") => Act::Stream(vec![Step::Send(log), Step::Send(whole)]),
        ("tools/list", "broken") => Act::Json(200, seen.result(json!({"tools": {"secret": 1}}))),
        ("tools/list", "broken events") => {
            Act::Stream(vec![Step::Send(seen.result(json!({"tools": [{"label": "secret"}]})))])
        }
        ("tools/list", _) => Act::Json(200, whole),
        _ => fake::legacy(seen),
    }
}

#[tokio::test]
async fn lists_are_cut_as_json_and_as_events_and_never_passed_unread() {
    let remote = Fake::start(lister);
    let gateway = start(&remote);
    let some = caller(&gateway, "remote", SOME).initialize().await.0;
    let page = async |cursor: &str| some.post(&request(1, "tools/list", json!({"cursor": cursor}))).await;
    for cursor in ["json", "events"] {
        let answer = page(cursor).await;
        assert_eq!(answer.result(), json!({"tools": [{"name": "echo", "title": "x"}], "nextCursor": "z"}));
        assert!(!answer.body.contains("secret"));
        assert_eq!(answer.body.contains("notifications/message"), cursor == "events");
    }
    let broken = page("broken").await;
    assert_eq!((broken.status, &broken.json()["error"]["data"]["reason"]), (502, &json!("upstream_content")));
    let events = page("broken events").await;
    assert_eq!(events.json()["error"]["data"]["reason"], "upstream_content", "{events:?}");
    assert!(!broken.body.contains("secret") && !events.body.contains("secret"));
    // Who sees everything gets the server's own bytes.
    let all = caller(&gateway, "remote", ALL).initialize().await.0;
    let whole = all.post(&request(1, "tools/list", json!({}))).await.result();
    assert_eq!(names(&whole["tools"], "name"), ["secret", "echo"]);
    gateway.stop();
}

#[tokio::test]
async fn an_edited_rule_acts_on_open_sessions() {
    let remote = Fake::start(fake::legacy);
    let gateway = start(&remote);
    let some = caller(&gateway, "docs", SOME).initialize().await.0;
    let echo = request(1, "tools/call", json!({"name": "echo", "arguments": {"text": "t"}}));
    some.post(&echo).await.result();
    let mut edited: Value = serde_json::from_str(&catalog(&remote.url())).unwrap();
    edited["rules"][2]["tools"] = json!(["big"]);
    gateway.edit_catalog(&edited.to_string());
    let deadline = tokio::time::Instant::now() + SOON;
    while some.post(&echo).await.json().get("result").is_some() {
        assert!(tokio::time::Instant::now() < deadline, "the rule does not act");
        tokio::task::yield_now().await;
    }
    assert!(gateway.log().contains("rules changed"), "{}", gateway.log());
    gateway.stop();
}

#[tokio::test]
async fn an_edited_rule_ends_a_subscription_that_it_takes_something_from() {
    let remote = Fake::start(fake::legacy);
    let gateway = start(&remote);
    let open = async |uri: &str| {
        let params = json!({"notifications": {"resourceSubscriptions": [uri]}});
        let (caller, body) = caller(&gateway, "docs", SOME).modern(1, "subscriptions/listen", params);
        caller.open(Method::POST, body.to_string().into_bytes()).await
    };
    assert_eq!(open("sample://logo").await.json::<Value>().await.unwrap()["error"]["code"], -32602);
    let mut allowed = open("sample://readme").await;
    assert!(allowed.chunk().await.unwrap().is_some(), "no acknowledgement");
    let mut edited: Value = serde_json::from_str(&catalog(&remote.url())).unwrap();
    edited["rules"][2]["resources"] = json!(["sample://logo"]);
    gateway.edit_catalog(&edited.to_string());
    let ended = async { while allowed.chunk().await.is_ok_and(|piece| piece.is_some()) {} };
    tokio::time::timeout(SOON, ended).await.expect("the stream goes on");
    gateway.stop();
}
