//! Official clients, each listing and calling tools of real servers through the gateway.
//! Not here: the programs (`tests/interop/clients`), the conformance suite (`conformance`).

use std::process::Command;
use std::time::Duration;

use rmcp::model::{CallToolRequestParams, ProtocolVersion};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt};
use rmcp::transport::StreamableHttpClientTransport;
use serde_json::{Value, json};

use crate::gateway::Gateway;
use crate::packages::{self, Said, Server};

/// Each client has a shorter deadline of its own.
const CLIENT: Duration = Duration::from_secs(60);

/// A server behind the gateway, and what a client should see of it.
struct Behind {
    gateway: Gateway,
    tools: usize,
    tool: &'static str,
    args: Value,
    text: &'static str,
    /// Whether a client that prefers the modern era gets it.
    modern: bool,
    _remote: Option<Server>,
}

fn local(command: &std::path::Path, args: &[&str]) -> Gateway {
    Gateway::start(&json!({"servers": [{"id": "it", "runtime": {"type": "local-process", "command": command, "args": args}}]}).to_string())
}

fn everything_stdio() -> Behind {
    let script = packages::everything();
    let gateway = local(&packages::node(), &[script.to_str().unwrap(), "stdio"]);
    Behind {
        gateway,
        tools: 13,
        tool: "echo",
        args: json!({"message": "hello"}),
        text: "Echo: hello",
        modern: false,
        _remote: None,
    }
}

fn everything_http() -> Behind {
    let remote = Server::everything();
    let gateway = Gateway::start(
        &json!({"servers": [{"id": "it", "runtime": {"type": "remote-http", "url": remote.url}}]})
            .to_string(),
    );
    Behind {
        gateway,
        tools: 13,
        tool: "echo",
        args: json!({"message": "hello"}),
        text: "Echo: hello",
        modern: false,
        _remote: Some(remote),
    }
}

fn filesystem_stdio() -> Behind {
    // The child works in the folder of the catalog, so that folder is what it may read.
    let script = packages::filesystem();
    let gateway = local(&packages::node(), &[script.to_str().unwrap(), "."]);
    let args = json!({"path": "catalog.yaml"});
    Behind {
        gateway,
        tools: 14,
        tool: "read_text_file",
        args,
        text: "local-process",
        modern: false,
        _remote: None,
    }
}

fn time_stdio() -> Behind {
    let gateway = local(&packages::python(), &["-m", "mcp_server_time"]);
    let args = json!({"timezone": "UTC"});
    Behind {
        gateway,
        tools: 2,
        tool: "get_current_time",
        args,
        text: "\"timezone\": \"UTC\"",
        modern: true,
        _remote: None,
    }
}

impl Behind {
    /// Runs one of our client programs, which prints one line of JSON.
    #[track_caller]
    fn program(&self, mut command: Command, mode: &str) {
        command.arg(self.gateway.url("it")).args([
            "--tool",
            self.tool,
            "--args",
            &self.args.to_string(),
            "--mode",
            mode,
        ]);
        let said = packages::run(command, CLIENT);
        let line = json_of(&said);
        let era = if self.modern && mode == "auto" { "modern" } else { "legacy" };
        assert_eq!(line["era"], era, "{line}");
        self.check(line["tools"].as_array().unwrap().len(), &line["result"]);
    }

    #[track_caller]
    fn check(&self, tools: usize, result: &Value) {
        assert!(tools >= self.tools, "{tools} tools, at least {} expected", self.tools);
        assert_ne!(result["isError"], true, "{result}");
        let text = result["content"][0]["text"].as_str().unwrap_or_default();
        assert!(text.contains(self.text), "no {:?} in {result}", self.text);
    }
}

#[track_caller]
pub(crate) fn json_of(said: &Said) -> Value {
    assert!(said.status.success(), "the client failed ({}): {}{}", said.status, said.stdout, said.stderr);
    let last = said.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(last)
        .or_else(|_| serde_json::from_str(&said.stdout))
        .unwrap_or_else(|error| panic!("not JSON ({error}): {}{}", said.stdout, said.stderr))
}

fn python(behind: &Behind, mode: &str) {
    let mut command = Command::new(packages::python());
    command.arg(packages::folder().join("clients/python_client.py"));
    behind.program(command, mode);
}

fn typescript(behind: &Behind, program: &str, mode: &str) {
    let mut command = Command::new(packages::node());
    command.arg(packages::folder().join("clients").join(program));
    behind.program(command, mode);
}

fn inspector(behind: &Behind, era: &str) {
    let run = |rest: &[String]| {
        let mut command = Command::new(packages::node());
        command
            .arg(packages::npm("@modelcontextprotocol/inspector/clients/launcher/build/index.js"))
            .args([
                "--cli",
                &behind.gateway.url("it"),
                "--transport",
                "http",
                "--protocol-era",
                era,
                "--format",
                "json",
            ])
            .args(rest);
        json_of(&packages::run(command, CLIENT))
    };
    let list = run(&["--method".into(), "tools/list".into()]);
    let tools = list
        .pointer("/result/tools")
        .or(list.get("tools"))
        .and_then(Value::as_array)
        .unwrap_or_else(|| panic!("{list}"))
        .len();
    let mut call = vec!["--method".into(), "tools/call".into(), "--tool-name".into(), behind.tool.into()];
    for (name, value) in behind.args.as_object().unwrap() {
        call.extend(["--tool-arg".into(), format!("{name}={}", value.as_str().unwrap())]);
    }
    let called = run(&call);
    behind.check(tools, called.get("result").unwrap_or(&called));
}

fn rmcp(behind: &Behind, lifecycle: ClientLifecycleMode) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let session = async {
        let transport = StreamableHttpClientTransport::from_uri(behind.gateway.url("it"));
        let client = ().serve_with_lifecycle(transport, lifecycle).await.expect("rmcp connects");
        let tools = client.list_all_tools().await.expect("rmcp lists tools");
        let params =
            CallToolRequestParams::new(behind.tool).with_arguments(behind.args.as_object().unwrap().clone());
        let result = client.call_tool(params).await.expect("rmcp calls a tool");
        client.cancel().await.expect("rmcp ends");
        (tools.len(), serde_json::to_value(result).unwrap())
    };
    let (tools, result) =
        runtime.block_on(async { tokio::time::timeout(CLIENT, session).await.expect("rmcp hangs") });
    behind.check(tools, &result);
}

fn rmcp_auto() -> ClientLifecycleMode {
    ClientLifecycleMode::Auto {
        preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        legacy_version: None,
    }
}

/// Every client against one server: the name of a test says server and client.
macro_rules! clients {
    ($server:ident) => {
        mod $server {
            use super::*;

            #[test]
            fn python_sdk_auto() {
                python(&super::$server(), "auto");
            }

            #[test]
            fn python_sdk_legacy() {
                python(&super::$server(), "legacy");
            }

            #[test]
            fn typescript_sdk_v1() {
                typescript(&super::$server(), "ts_v1.mjs", "legacy");
            }

            #[test]
            fn typescript_sdk_v2_legacy() {
                typescript(&super::$server(), "ts_v2.mjs", "legacy");
            }

            #[test]
            fn typescript_sdk_v2_auto() {
                typescript(&super::$server(), "ts_v2.mjs", "auto");
            }

            #[test]
            fn inspector_cli_legacy() {
                inspector(&super::$server(), "legacy");
            }

            #[test]
            fn inspector_cli_auto() {
                inspector(&super::$server(), "auto");
            }

            #[test]
            fn rmcp_initialize() {
                rmcp(&super::$server(), ClientLifecycleMode::Initialize);
            }

            #[test]
            fn rmcp_auto() {
                rmcp(&super::$server(), super::rmcp_auto());
            }
        }
    };
}

clients!(everything_stdio);
clients!(everything_http);
clients!(filesystem_stdio);
clients!(time_stdio);
