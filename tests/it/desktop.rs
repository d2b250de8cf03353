//! `tollgate stdio`: a server behind a gateway as a program on standard input and output, as desktop clients start it.
//! Not here: children of the gateway (`stdio`).

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{notification, request};
use crate::fake::{self, Act, Fake, Step};
use crate::gateway::{Gateway, free_port};
use crate::interop::json_of;
use crate::packages;

const SOON: Duration = Duration::from_secs(20);
const CLIENT: Duration = Duration::from_secs(60);
const KEY: &str = "Rq7vB2mX9kT4wZ6n-desktop";

/// A running `tollgate stdio`.
struct Desktop {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Desktop {
    fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .arg("stdio")
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (send, lines) = sync_channel(256);
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let input = child.stdin.take();
        Self { child, input, lines }
    }

    fn say(&mut self, message: &Value) {
        writeln!(self.input.as_mut().unwrap(), "{message}").unwrap();
    }

    /// The next line, which has to be JSON: nothing else may ever stand on standard output.
    #[track_caller]
    fn hear(&mut self) -> Value {
        let line = self.lines.recv_timeout(SOON).expect("a line on standard output");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    #[track_caller]
    fn ask(&mut self, message: &Value) -> Value {
        self.say(message);
        loop {
            // Servers announce things in between.
            let heard = self.hear();
            if heard.get("method").is_none() {
                return heard;
            }
        }
    }

    /// `initialize`, and what follows it.
    #[track_caller]
    fn open(&mut self) -> Value {
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {"sampling": {}}, "clientInfo": {"name": "desk", "version": "1"}});
        let opened = self.ask(&request("hello", "initialize", hello));
        assert_eq!(opened["id"], "hello", "{opened}");
        self.say(&notification("notifications/initialized"));
        opened
    }

    fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// Ends its input, and waits for its end.
    #[track_caller]
    fn end(mut self) -> ExitStatus {
        drop(self.input.take());
        self.wait()
    }

    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(asked.elapsed() < SOON, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Desktop {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn behind(fake: &Fake) -> String {
    json!({"servers": [{"id": "it", "runtime": {"type": "remote-http", "url": fake.url()}, "health": {"type": "off"}}]}).to_string()
}

fn call(id: impl Into<Value>) -> Value {
    request(id, "tools/call", json!({"name": "echo", "arguments": {}}))
}

fn modern(id: impl Into<Value>, method: &str, mut params: Value) -> Value {
    params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
    request(id, method, params)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_session_from_the_first_line_to_the_end_of_input() {
    let fake = Fake::start(fake::legacy);
    let conf = json!({"drain": "5s", "auth": {"keys": [{"name": "desk", "key": KEY, "servers": ["it"]}]}});
    let gateway = Gateway::with(&behind(&fake)).conf(&conf.to_string()).start();
    fake.forbid(KEY);
    let home = TempDir::new().unwrap();
    let key_file = home.path().join("key");
    std::fs::write(&key_file, format!("{KEY}\n")).unwrap();
    std::fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let url = gateway.path("");
    let mut desk =
        Desktop::start(&["-s", "it", "--gateway", &url, "--key-file", key_file.to_str().unwrap()], &[]);
    let opened = desk.open();
    assert_eq!(opened["result"]["serverInfo"]["name"], "fake", "{opened}");
    for id in [json!(1), json!("1"), json!("é\"")] {
        let called = desk.ask(&call(id.clone()));
        assert_eq!(
            (&called["id"], &called["result"]["content"][0]["text"]),
            (&id, &json!("fake")),
            "{called}"
        );
    }
    desk.input.as_mut().unwrap().write_all(b"no json\n").unwrap();
    assert_eq!(desk.hear()["error"]["code"], -32700);
    let arguments = std::fs::read_to_string(format!("/proc/{}/cmdline", desk.child.id())).unwrap();
    assert!(!arguments.contains(KEY));
    runtime().block_on(fake.wait_for("GET", SOON));
    assert!(desk.end().success());
    runtime().block_on(fake.wait_for("DELETE", SOON));
    let calls = fake.seen_rpc("tools/call");
    assert!(calls.iter().all(|seen| seen.headers["mcp-session-id"].starts_with("fake-")
        && seen.headers["mcp-protocol-version"] == "2025-11-25"));
}

#[test]
fn a_wrong_key_is_told_as_an_error_of_the_request() {
    let fake = Fake::start(fake::legacy);
    let conf = json!({"drain": "5s", "auth": {"keys": [{"name": "desk", "key": KEY, "servers": ["it"]}]}});
    let gateway = Gateway::with(&behind(&fake)).conf(&conf.to_string()).start();
    // The wrapper's variables, with the server in the URL.
    let url = gateway.path("/servers/it");
    for (token, want) in [("wrong-wrong-wrong-wrong", Value::Null), (KEY, json!("fake"))] {
        let env = [("MCP_SERVER_CATALOG_URLS", url.as_str()), ("MCP_AUTH_TOKEN", token)];
        let mut desk = Desktop::start(&[], &env);
        let opened = desk.open();
        assert_eq!(opened["result"]["serverInfo"]["name"], want, "{opened}");
        assert_eq!(opened["error"]["code"] == -31401, want.is_null(), "{opened}");
        assert!(desk.end().success());
    }
}

#[test]
fn the_server_asks_and_is_answered() {
    let asks = json!({"jsonrpc": "2.0", "id": "s-1", "method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}});
    let script = move |seen: &fake::Seen| match seen.method.as_str() {
        "GET" => Act::Stream(vec![Step::Send(asks.clone()), Step::Hang]),
        _ => fake::legacy(seen),
    };
    let fake = Fake::start(script);
    let gateway = Gateway::start(&behind(&fake));
    let mut desk = Desktop::start(&["-s", "it", "-g", &gateway.path("")], &[]);
    desk.open();
    let asked = desk.hear();
    assert_eq!(
        (&asked["id"], &asked["method"]),
        (&json!("s-1"), &json!("sampling/createMessage")),
        "{asked}"
    );
    let answer = json!({"jsonrpc": "2.0", "id": "s-1", "result": {"role": "assistant", "content": {"type": "text", "text": "so"}, "model": "m"}});
    desk.say(&answer);
    // A request behind it shows that the answer has arrived.
    desk.ask(&call(1));
    let seen = fake.seen();
    let told = seen.iter().find(|seen| seen.json() == answer).expect("the answer reached the server");
    assert!(told.headers["mcp-session-id"].starts_with("fake-"));
    assert!(desk.end().success());
}

#[test]
fn a_gateway_that_comes_back_finds_everything_as_it_was() {
    let script = |seen: &fake::Seen| match seen.json()["params"]["name"].as_str() {
        Some("hang") => Act::Hang,
        _ if seen.rpc().starts_with("logging/") || seen.rpc().starts_with("resources/") => {
            Act::Json(200, seen.result(json!({})))
        }
        _ => fake::legacy(seen),
    };
    let fake = Fake::start(script);
    let port = free_port();
    let gateway = Gateway::with(&behind(&fake)).port(port).start();
    let mut desk = Desktop::start(&["-s", "it", "-g", &gateway.path("")], &[]);
    desk.open();
    desk.ask(&request(1, "logging/setLevel", json!({"level": "debug"})));
    for uri in ["a:kept", "a:left"] {
        desk.ask(&request(2, "resources/subscribe", json!({"uri": uri})));
    }
    desk.ask(&request(3, "resources/unsubscribe", json!({"uri": "a:left"})));
    desk.say(&request("flying", "tools/call", json!({"name": "hang", "arguments": {}})));
    let runtime = runtime();
    runtime.block_on(fake.wait_for_one("call in flight", |seen| seen.json()["id"] == "flying"));
    drop(gateway.kill());
    let failed = desk.hear();
    assert_eq!(failed["id"], "flying", "{failed}");
    assert_eq!(failed["error"]["data"]["reason"], "connection_broke", "{failed}");
    // The next call is made while there is no gateway; the one that comes has another key, so no session is known.
    desk.say(&call("later"));
    let gateway = Gateway::with(&behind(&fake)).port(port).start();
    let later = desk.hear();
    assert_eq!(
        (&later["id"], &later["result"]["content"][0]["text"]),
        (&json!("later"), &json!("fake")),
        "{later}"
    );
    assert_eq!(desk.ask(&call(5))["id"], 5);
    let methods: Vec<String> =
        fake.seen().iter().map(fake::Seen::rpc).filter(|method| !method.is_empty()).collect();
    let again: Vec<&str> =
        methods.iter().map(String::as_str).skip_while(|method| *method != "tools/call").collect();
    assert_eq!(
        again,
        [
            "tools/call",
            "initialize",
            "notifications/initialized",
            "logging/setLevel",
            "resources/subscribe",
            "tools/call",
            "tools/call"
        ],
        "a new session, set as the old one was"
    );
    assert!(desk.end().success());
    drop(gateway);
}

#[test]
fn a_cancelled_call_ends_upstream_in_both_eras() {
    let script = |seen: &fake::Seen| match (seen.rpc().as_str(), seen.headers.contains_key("mcp-method")) {
        ("tools/call", _) => Act::Hang,
        (_, true) => fake::modern(seen),
        (_, false) => fake::legacy(seen),
    };
    let fake = Fake::start(script);
    let gateway = Gateway::start(&behind(&fake));
    let runtime = runtime();
    let mut desk = Desktop::start(&["-s", "it", "-g", &gateway.path("")], &[]);
    desk.say(&modern(1, "tools/call", json!({"name": "é", "arguments": {}})));
    let call_seen = runtime.block_on(fake.wait_for("tools/call", SOON));
    assert_eq!(call_seen.headers["mcp-name"], "=?base64?w6k=?=");
    let cancel = |id: i64| json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id, "reason": "enough"}});
    desk.say(&cancel(1));
    runtime.block_on(fake.wait_for_gone(call_seen.number, SOON));
    assert!(fake.seen_rpc("notifications/cancelled").is_empty(), "the modern era closes the stream instead");
    desk.open();
    desk.say(&call(2));
    runtime.block_on(
        fake.wait_for_one("second call", |seen| seen.rpc() == "tools/call" && seen.json()["id"] == 2),
    );
    desk.say(&cancel(2));
    let cancelled = runtime.block_on(fake.wait_for("notifications/cancelled", SOON));
    assert_eq!(cancelled.json()["params"]["requestId"], 2);
    nix::sys::signal::kill(desk.pid(), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(desk.wait().success(), "a signal is a proper end");
    runtime.block_on(fake.wait_for("DELETE", SOON));
}

/// An official server refuses calls whose arguments are not in the headers that its schema names.
#[test]
fn arguments_that_travel_in_headers_do_so() {
    let fixture = packages::Server::fixture();
    let runtime = json!({"type": "remote-http", "url": fixture.url});
    let gateway = Gateway::start(&json!({"servers": [{"id": "it", "runtime": runtime}]}).to_string());
    let mut desk = Desktop::start(&["-s", "it", "-g", &gateway.path("")], &[]);
    let arguments = json!({"region": "us-east", "priority": 1, "urgent": true});
    let call =
        |id: i64| modern(id, "tools/call", json!({"name": "test_x_mcp_header", "arguments": arguments}));
    let before = desk.ask(&call(1));
    assert_eq!(before["error"]["code"], -32020, "nobody has asked for the schema yet: {before}");
    let list = desk.ask(&modern(2, "tools/list", json!({})));
    assert!(list["result"]["tools"].is_array(), "{list}");
    let after = desk.ask(&call(3));
    assert!(after["result"]["content"].is_array(), "{after}");
    assert!(desk.end().success());
}

#[test]
fn a_gateway_that_is_not_there_is_told() {
    let port = free_port();
    let mut desk = Desktop::start(&["-s", "it", "-g", &format!("http://127.0.0.1:{port}")], &[]);
    let failed = desk.ask(&request(7, "initialize", json!({})));
    assert_eq!((&failed["id"], &failed["error"]["code"]), (&json!(7), &json!(-32002)), "{failed}");
    assert!(desk.end().success());
}

/// A folder with a catalog, and how to start `tollgate stdio` on it.
fn own(catalog: &Value) -> (TempDir, Value) {
    let home = TempDir::with_prefix("tollgate-it-").unwrap();
    let file = home.path().join("catalog.yaml");
    std::fs::write(&file, catalog.to_string()).unwrap();
    let state = home.path().join("state");
    let args = json!(["stdio", "-s", "it", "-c", file, "--state-dir", state]);
    let program = json!({"command": env!("CARGO_BIN_EXE_tollgate"), "args": args, "env": {}});
    (home, program)
}

fn everything() -> Value {
    let script = packages::everything();
    let child = json!({"type": "local-process", "command": packages::node(), "args": [script, "stdio"]});
    let other = json!({"type": "local-process", "command": "/bin/false"});
    json!({"servers": [{"id": "other", "runtime": other}, {"id": "it", "runtime": child}]})
}

#[track_caller]
fn no_process_works_in(folder: &Path) {
    let deadline = Instant::now() + SOON;
    while std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder)))
    {
        assert!(Instant::now() < deadline, "a child was left behind");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_catalog_is_served_without_a_gateway_beside() {
    let (home, program) = own(&everything());
    let args: Vec<&str> = program["args"].as_array().unwrap()[1..].iter().filter_map(Value::as_str).collect();
    let mut desk = Desktop::start(&args, &[]);
    desk.open();
    let called = desk.ask(&request(1, "tools/call", json!({"name": "echo", "arguments": {"message": "hi"}})));
    assert_eq!(called["result"]["content"][0]["text"], "Echo: hi", "{called}");
    assert!(desk.end().success());
    no_process_works_in(home.path());
    // A server that the catalog does not have is a mistake in words, and nothing starts.
    let mut args = args.clone();
    args[1] = "its";
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    let said = packages::run(
        {
            command.arg("stdio").args(&args).env_clear();
            command
        },
        CLIENT,
    );
    assert_eq!((said.status.code(), said.stdout.as_str()), (Some(1), ""));
    assert!(
        said.stderr.contains("Server 'its' not found") && said.stderr.contains("did you mean `it`?"),
        "{}",
        said.stderr
    );
}

/// One of our client programs, which starts `program` and prints one line of JSON.
#[track_caller]
fn client(mut command: Command, program: &Value, mode: &str) -> Value {
    command.args(["--stdio", &program.to_string(), "--mode", mode, "--tool", "echo"]);
    command.args(["--args", r#"{"message": "hello"}"#]);
    json_of(&packages::run(command, CLIENT))
}

#[test]
fn official_clients_take_it_for_a_stdio_server() {
    let gateway = Gateway::start(&everything().to_string());
    let args = json!(["stdio", "-s", "it", "-g", gateway.path("")]);
    let behind = json!({"command": env!("CARGO_BIN_EXE_tollgate"), "args": args, "env": {}});
    let (home, own) = own(&everything());
    let clients = packages::folder().join("clients");
    for program in [&behind, &own] {
        for (interpreter, file, mode) in [
            (packages::python(), "python_client.py", "auto"),
            (packages::python(), "python_client.py", "legacy"),
            (packages::node(), "ts_v1.mjs", "legacy"),
            (packages::node(), "ts_v2.mjs", "legacy"),
            (packages::node(), "ts_v2.mjs", "auto"),
        ] {
            let mut command = Command::new(interpreter);
            command.arg(clients.join(file));
            let said = client(command, program, mode);
            assert!(said["tools"].as_array().unwrap().len() >= 13, "{file} {mode}: {said}");
            assert_eq!(said["result"]["content"][0]["text"], "Echo: hello", "{file} {mode}: {said}");
        }
    }
    no_process_works_in(home.path());
}

#[test]
fn the_inspector_starts_it_from_a_configuration_of_desktop_clients() {
    let (home, program) = own(&everything());
    let file = home.path().join("claude_desktop_config.json");
    std::fs::write(&file, json!({"mcpServers": {"everything": program}}).to_string()).unwrap();
    for era in ["legacy", "auto"] {
        let mut command = Command::new(packages::node());
        let inspector = packages::npm("@modelcontextprotocol/inspector/clients/launcher/build/index.js");
        command.arg(inspector).args(["--cli", "--config", file.to_str().unwrap(), "--server", "everything"]);
        command.args(["--protocol-era", era, "--format", "json", "--method", "tools/call"]);
        command.args(["--tool-name", "echo", "--tool-arg", "message=hello"]);
        let said = json_of(&packages::run(command, CLIENT));
        assert!(said.to_string().contains("Echo: hello"), "{said}");
    }
    no_process_works_in(home.path());
}
