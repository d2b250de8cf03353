//! S12: nobody can name a command but the operator's file, by no route, body, header, id or argument.
//! Not here: what a command of the file may do (`sandbox`).

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Card;
use crate::client::{Answer, Caller, request};
use crate::gateway::Gateway;
use crate::packages;
use crate::sandbox::{Eater, eater, python};

const ALL: &str = "Rq7vB2mX9kT4wZ6n-all";
const ONE: &str = "Jd5hC8pL3sF1yG0u-one";

/// Where other gateways create, update, test, preview, import and check servers; CVE-2026-42271 and its like were there.
const ELSEWHERE: [&str; 22] = [
    "/servers/new",
    "/servers/it/test",
    "/servers/it/restart",
    "/servers/it/env",
    "/servers/test",
    "/servers/import",
    "/servers/preview",
    "/admin/servers",
    "/admin/config",
    "/admin/import",
    "/api/servers",
    "/api/v1/servers",
    "/api/v1/servers/test",
    "/api/v1/health",
    "/v1/mcp/server",
    "/mcp-rest/test/connection",
    "/mcp-rest/test/tools/list",
    "/gateways",
    "/config",
    "/stdio",
    "/-/start/it",
    "/-/status",
];

/// Bodies that say a command, in every form that some gateway has taken; and their content type.
fn bodies(canary: &Path) -> Vec<(String, &'static str)> {
    let touch = format!("touch {}", canary.display());
    let args = json!(["-c", touch]);
    let json_of = |body: Value| (body.to_string(), "application/json");
    let call = |name: &str, arguments: Value| {
        request(1, "tools/call", json!({"name": name, "arguments": arguments, "command": "sh", "args": args}))
    };
    vec![
        json_of(json!({"command": "sh", "args": args})),
        json_of(json!({"id": "evil", "runtime": {"type": "local-process", "command": "sh", "args": args}})),
        json_of(
            json!({"servers": [{"id": "it", "runtime": {"type": "local-process", "command": "sh", "args": args}}]}),
        ),
        json_of(json!({"mcpServers": {"it": {"command": "npx", "args": ["-y", "evil", touch]}}})),
        json_of(json!({"transport": "stdio", "command": format!("sh -c '{touch}'"), "name": "it"})),
        json_of(
            json!({"env": {"LD_PRELOAD": canary, "NODE_OPTIONS": format!("--require {}", canary.display()), "BASH_ENV": canary}}),
        ),
        json_of(
            json!({"cwd": "/tmp", "working_dir": "/tmp", "url": format!("stdio://sh?args=-c&args={touch}")}),
        ),
        json_of(
            json!({"server_id": format!("it;{touch}"), "jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
        ),
        json_of(call(&format!("$({touch})"), json!({}))),
        json_of(call("argv", json!({"with": [], "cmd": format!("`{touch}`"), "x": format!("; {touch} #")}))),
        json_of(request(
            1,
            "initialize",
            json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": format!("$({touch})"), "version": "1"}, "command": "sh", "args": args}),
        )),
        (
            format!(
                "servers:\n  - id: it\n    runtime: {{type: local-process, command: sh, args: ['-c', '{touch}']}}\n"
            ),
            "application/yaml",
        ),
        (format!("command=sh&args=-c&args={touch}"), "application/x-www-form-urlencoded"),
    ]
}

/// The gateway's own routes, as it lists them itself, for the server `it`.
fn routes() -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(["routes", "--format", "json"]);
    let said = packages::run(command, Duration::from_secs(10));
    let rows: Vec<Value> = serde_json::from_str(&said.stdout).unwrap();
    let paths = rows.iter().map(|row| row["path"].as_str().unwrap());
    let paths: BTreeSet<String> = paths
        .map(|path| path.replace("{id}", "it").replace("{*rest}", "x").replace("{*door}", "mcp"))
        .collect();
    assert!(paths.len() > 10, "{paths:?}");
    paths.into_iter().collect()
}

struct Closed {
    gateway: Gateway,
    canary: PathBuf,
}

impl Closed {
    fn start() -> Self {
        let home = TempDir::with_prefix("tollgate-it-").unwrap();
        let canary = home.path().join("canary");
        let mut it = eater("it", Value::Null);
        let literal = [format!("$(touch {0})", canary.display()), "; id".into(), "a b".into(), "*".into()];
        it["runtime"]["args"].as_array_mut().unwrap().extend(literal.map(Value::from));
        let key =
            |name: &str, key: &str, servers: &str| json!({"name": name, "key": key, "servers": [servers]});
        let conf = json!({"drain": "5s", "auth": {"keys": [key("all", ALL, "*"), key("one", ONE, "it")]}});
        let gateway = Gateway::with(&json!({"servers": [it]}).to_string()).conf(&conf.to_string()).home(home);
        // What the operator has in his own environment is not the children's.
        let mut gateway = gateway.env("NODE_OPTIONS", "--require /nowhere.js").env("BASH_ENV", "/nowhere.sh");
        for name in ["PYTHONSTARTUP", "LD_LIBRARY_PATH", "AWS_SECRET_ACCESS_KEY", "TOLLGATE_EXE"] {
            gateway = gateway.env(name, "/nowhere");
        }
        Self { gateway: gateway.start(), canary }
    }

    /// Command lines of everything that the gateway has started.
    fn running(&self) -> BTreeSet<String> {
        let line = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // A process that is just ending has none.
        self.gateway.descendants().into_iter().map(line).filter(|line| !line.is_empty()).collect()
    }

    async fn ask(&self, key: Option<&str>, method: &str, path: &str, body: &(String, &str)) -> Answer {
        let mut caller = Caller::new(&self.gateway.path(path)).with("content-type", body.1);
        if let Some(key) = key {
            caller = caller.with("x-api-key", key);
        }
        let caller = caller.with("x-server-id", "it");
        let response = caller.open(method.parse().unwrap(), body.0.clone().into_bytes()).await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let kind = headers.get("content-type").map(|kind| kind.as_bytes().to_vec()).unwrap_or_default();
        // A stream stays open as long as somebody listens.
        let body = if kind.starts_with(b"text/event-stream") {
            String::new()
        } else {
            response.text().await.unwrap_or_default()
        };
        Answer { status, headers, body }
    }
}

#[tokio::test]
async fn s12_no_route_takes_a_command() {
    let mut card = Card::new("S12");
    let closed = Closed::start();
    let caller = Caller::new(&closed.gateway.url("it")).with("x-api-key", ALL);
    let session = Eater(caller.initialize().await.0);
    let known = closed.running();
    assert_eq!(known.len(), 1, "{known:?}");
    let catalog = closed.gateway.home().join("catalog.yaml");
    let written = std::fs::read_to_string(&catalog).unwrap();
    let bodies = bodies(&closed.canary);
    let paths: Vec<String> = routes().into_iter().chain(ELSEWHERE.map(str::to_owned)).collect();
    for path in &paths {
        for method in ["POST", "PUT", "PATCH", "DELETE", "GET"] {
            for (who, key) in [("nobody", None), ("a caller", Some(ONE)), ("an administrator", Some(ALL))] {
                for (number, body) in bodies.iter().enumerate() {
                    let answer = closed.ask(key, method, path, body).await;
                    let fine = answer.status < 500 || answer.status == 502;
                    card.check(&format!("{method} {path} by {who} with body {number}"), fine, &answer);
                }
                let running = closed.running();
                let name = format!("processes after {method} {path} by {who}");
                card.check(&name, running.is_subset(&known) && !closed.canary.exists(), &running);
            }
        }
    }
    ids(&mut card, &closed, &known).await;
    orders(&mut card, &closed, &known);
    card.check("the catalog", std::fs::read_to_string(&catalog).unwrap() == written, &"changed");
    let list = Caller::new(&closed.gateway.path("/servers")).with("x-api-key", ALL);
    let list = list.send(Method::GET, Vec::new()).await.json();
    let ids: Vec<&Value> = list.as_array().unwrap().iter().map(|server| &server["id"]).collect();
    card.check("the servers", ids == [&json!("it")], &list);
    literal(&mut card, &closed, &session).await;
    control(&mut card, &bodies);
    card.pass(&format!("{} paths × 5 methods × {} bodies × 3 callers: no process, no file; ids, orders to the bridge, arguments and environment too", paths.len(), bodies.len()));
}

/// Ids are looked up, never run.
async fn ids(card: &mut Card, closed: &Closed, known: &BTreeSet<String>) {
    let touch = format!("touch%20{}", closed.canary.display().to_string().replace('/', "%2f"));
    for id in
        [format!("it;{touch}"), format!("$({touch})"), format!("`{touch}`"), "..%2f..%2fbin%2fsh".into()]
    {
        for path in [format!("/servers/{id}/start"), format!("/servers/{id}/mcp"), format!("/servers/{id}")] {
            let method = if path.ends_with(&id) { "GET" } else { "POST" };
            let answer = closed.ask(Some(ALL), method, &path, &("{}".into(), "application/json")).await;
            let fine = (400..500).contains(&answer.status) && closed.running().is_subset(known);
            card.check(&path, fine, &answer);
        }
    }
}

/// The bridge's own socket, for whoever may open it.
fn orders(card: &mut Card, closed: &Closed, known: &BTreeSet<String>) {
    let socket = closed.gateway.home().join("state/run-bridge/bridge");
    let body =
        json!({"command": "sh", "args": ["-c", format!("touch {}", closed.canary.display())]}).to_string();
    let say = |line: &str| {
        use std::io::Read as _;
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let body = if line.starts_with("GET") { "" } else { &body };
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nhost: b\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut said = Vec::new();
        // Who does not read a body may close on it; what was said before counts.
        let _ = stream.read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    };
    // It is the bridge that answers.
    let said = say("GET /-/status");
    card.check("the bridge's status", said.starts_with("HTTP/1.1 200") && said.contains("\"it\""), &said);
    for line in [
        "POST /-/start/sh",
        "POST /-/start/it;sh",
        "POST /-/start/../../bin/sh",
        "POST /-/start/%2fbin%2fsh",
        "POST /-/start/",
        "POST /-/run",
        "PUT /-/catalog",
        "POST /-/reload",
        "POST /sh/0",
        "POST /it/0",
        "POST /it/7",
        "POST /it/0/../../x",
    ] {
        let said = say(line);
        card.check(line, closed.running().is_subset(known) && !closed.canary.exists(), &said);
    }
}

/// Arguments of the file are passed as they are, and only its environment.
async fn literal(card: &mut Card, closed: &Closed, session: &Eater) {
    let argv = session.ask("argv", json!([])).await.unwrap();
    let last: Vec<&str> = argv.as_array().unwrap().iter().rev().take(4).filter_map(Value::as_str).collect();
    let touch = format!("$(touch {})", closed.canary.display());
    card.check("arguments are literal", last == ["*", "a b", "; id", &touch], &argv);
    let env = session.ask("env", json!([])).await.unwrap();
    let mut names: Vec<&String> = env.as_object().unwrap().keys().collect();
    names.retain(|name| !["LC_CTYPE", "LANG"].contains(&name.as_str()));
    names.sort_unstable();
    card.check("the environment", names == ["HOME", "PATH", "TOLLGATE_CHILD"], &names);
}

/// An API like that of others: it runs what a body says. The same bodies leave their canary there.
const CARELESS: &str = r#"
import json, subprocess, sys
body = json.loads(sys.stdin.read())
if isinstance(body.get("command"), str):
    subprocess.run([body["command"], *body.get("args", [])])
"#;

fn control(card: &mut Card, asked: &[(String, &str)]) {
    let folder = TempDir::with_prefix("tollgate-it-").unwrap();
    let canary = folder.path().join("canary");
    let same = bodies(&canary);
    assert_eq!(same.len(), asked.len());
    let mut child =
        Command::new(python()).args(["-I", "-c", CARELESS]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(same[0].0.as_bytes()).unwrap();
    let status = child.wait().unwrap();
    card.check("control: a careless API runs it", status.success() && canary.exists(), &status);
}
