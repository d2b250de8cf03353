//! OAuth from end to end: official clients, a real OpenID provider, and the gateway as the resource server between them.
//! Not here: tokens that are forged (`scorecard/tokens`); the clients and the provider (`tests/interop`).

use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::client::{Caller, request};
use crate::gateway::{Gateway, free_port};
use crate::packages::{self, Server};

/// Each client has a shorter deadline of its own.
const CLIENT: Duration = Duration::from_secs(60);

/// The gateway, the provider it trusts, and that provider's client that needs no person.
struct Trusting {
    gateway: Gateway,
    provider: Server,
    client: (String, String),
}

impl Trusting {
    /// Two servers. What `mcp:read` gives everybody with a token sees; `time` needs `mcp:write` as well.
    fn start() -> Self {
        let (provider, id, secret) = Server::provider();
        let port = free_port();
        let runtime = json!({"type": "local-process", "command": env!("CARGO_BIN_EXE_tollgate"), "args": ["sample", "stdio"]});
        let catalog = json!({
            "servers": [{"id": "it", "runtime": runtime}, {"id": "other", "runtime": runtime}],
            "rules": [
                {"name": "readers", "allow": ["list", "call"], "who": {"scopes": ["mcp:read"]}, "tools": ["echo"]},
                {"name": "writers", "allow": ["list", "call"], "who": {"scopes": ["mcp:read", "mcp:write"]}, "tools": ["time"]},
            ],
        });
        let issuer = json!({"issuer": provider.url, "jwks_url": format!("{}/jwks", provider.url),
            "algorithms": ["RS256"], "servers": ["*"]});
        let conf = json!({
            "drain": "5s",
            "public_url": format!("http://127.0.0.1:{port}"),
            "auth": {"issuers": [issuer], "scopes": ["mcp:read"]},
        });
        let gateway = Gateway::with(&catalog.to_string()).conf(&conf.to_string()).port(port).start();
        Self { gateway, provider, client: (id, secret) }
    }

    /// Lets a client program log in, call `echo`, step up and call `time`.
    #[track_caller]
    fn program(&self, mut command: Command, mode: &str) {
        let url = self.gateway.url("it");
        command.args([&url, "--mode", mode, "--tool", "echo", "--args", r#"{"text":"hello"}"#]);
        command.args(["--higher", "time"]);
        let said = packages::run(command, CLIENT);
        assert!(said.status.success(), "the client failed ({}): {}{}", said.status, said.stdout, said.stderr);
        let line: Value = serde_json::from_str(said.stdout.lines().last().unwrap()).unwrap();
        assert_eq!(line["era"], if mode == "auto" { "modern" } else { "legacy" }, "{line}");
        assert_eq!(line["tools"], json!(["echo", "time"]), "{line}");
        assert_eq!(line["result"]["content"][0]["text"], "hello", "{line}");
        let time = line["higher"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{line}"));
        assert!(time.contains('T') && line["higher"]["isError"] != true, "{line}");
        // It logged in once for the first call, and once more for the second: with all scopes, for this door alone.
        let asked = line["asked"].as_array().unwrap();
        assert_eq!((asked.len(), &line["asked_before"]), (2, &json!(1)), "{line}");
        assert_eq!(
            (&*scopes(&asked[0]["scope"]), &*scopes(&asked[1]["scope"])),
            (&["mcp:read"][..], &["mcp:read", "mcp:write"][..])
        );
        for (asked, token) in asked.iter().zip(line["tokens"].as_array().unwrap()) {
            assert_eq!(asked["resource"], url, "{line}");
            assert_eq!(claims(token.as_str().unwrap())["aud"], url, "{line}");
        }
    }

    /// A token of the provider for that resource.
    async fn token(&self, resource: &str, scopes: &str) -> String {
        let (id, secret) = &self.client;
        let fields = [
            ("grant_type", "client_credentials"),
            ("client_id", id),
            ("client_secret", secret),
            ("resource", resource),
            ("scope", scopes),
        ];
        let mut body = reqwest::Url::parse("http://localhost").unwrap();
        body.query_pairs_mut().extend_pairs(fields);
        let answer = Caller::new(&format!("{}/token", self.provider.url))
            .with("content-type", "application/x-www-form-urlencoded")
            .send(reqwest::Method::POST, body.query().unwrap().as_bytes().to_vec())
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }
}

/// Words, sorted, without those that mean no access.
fn scopes(text: &Value) -> Vec<&str> {
    let mut words: Vec<&str> =
        text.as_str().unwrap().split(' ').filter(|&word| word != "offline_access").collect();
    words.sort_unstable();
    words
}

fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn typescript(program: &str) -> Command {
    let mut command = Command::new(packages::node());
    command.arg(packages::folder().join("clients").join(program));
    command
}

fn python() -> Command {
    let mut command = Command::new(packages::python());
    command.arg(packages::folder().join("clients/oauth.py"));
    command
}

#[test]
fn python_sdk_logs_in_and_steps_up_legacy() {
    Trusting::start().program(python(), "legacy");
}

#[test]
fn python_sdk_logs_in_and_steps_up_auto() {
    Trusting::start().program(python(), "auto");
}

#[test]
fn typescript_sdk_v1_logs_in_and_steps_up() {
    Trusting::start().program(typescript("oauth_v1.mjs"), "legacy");
}

#[test]
fn typescript_sdk_v2_logs_in_and_steps_up_legacy() {
    Trusting::start().program(typescript("oauth_v2.mjs"), "legacy");
}

#[test]
fn typescript_sdk_v2_logs_in_and_steps_up_auto() {
    Trusting::start().program(typescript("oauth_v2.mjs"), "auto");
}

#[tokio::test]
async fn a_token_for_another_audience_is_refused() {
    let trusting = Trusting::start();
    let (it, other) = (trusting.gateway.url("it"), trusting.gateway.url("other"));
    let elsewhere = "https://elsewhere.example/servers/it/mcp".to_owned();
    let call = request(1, "tools/call", json!({"name": "echo", "arguments": {"text": "hello"}}));
    for audience in [&it, &other, &elsewhere] {
        let token = trusting.token(audience, "mcp:read").await;
        for door in [&it, &other] {
            let caller = Caller::new(door).with("authorization", &format!("Bearer {token}"));
            let (session, status) = match audience == door {
                true => (caller.initialize().await.0, 200),
                false => (caller, 401),
            };
            let answer = session.post(&call).await;
            assert_eq!(answer.status, status, "a token for {audience} at {door}: {answer:?}");
            if status == 401 {
                let challenge = answer.header("www-authenticate").unwrap_or_default();
                assert!(challenge.contains(r#"error="invalid_token""#), "{challenge}");
            }
        }
    }
}

#[tokio::test]
async fn a_scope_that_is_missing_is_asked_for_with_all_that_the_rule_needs() {
    let trusting = Trusting::start();
    let door = trusting.gateway.url("it");
    let call = request(1, "tools/call", json!({"name": "time", "arguments": {}}));
    let with = async |scopes: &str| {
        let token = trusting.token(&door, scopes).await;
        Caller::new(&door).with("authorization", &format!("Bearer {token}")).initialize().await.0
    };
    let answer = with("mcp:read").await.post(&call).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    let challenge = answer.header("www-authenticate").unwrap();
    for word in [
        "Bearer ",
        r#"error="insufficient_scope""#,
        r#"scope="mcp:read mcp:write""#,
        &format!(
            r#"resource_metadata="{}""#,
            door.replace("/servers", "/.well-known/oauth-protected-resource/servers")
        ),
    ] {
        assert!(challenge.contains(word), "no {word} in {challenge}");
    }
    assert_eq!(with("mcp:read mcp:write").await.post(&call).await.status, 200);
    // What no scope would give is unknown, not forbidden.
    let add = request(1, "tools/call", json!({"name": "add", "arguments": {"a": 1, "b": 2}}));
    let answer = with("mcp:read mcp:write").await.post(&add).await;
    assert_eq!((answer.status, answer.code()), (200, -32602), "{answer:?}");
}

#[tokio::test]
async fn every_door_has_its_metadata() {
    let trusting = Trusting::start();
    for door in ["/servers/it/mcp", "/servers/nobody/mcp"] {
        let url = trusting.gateway.path(&format!("/.well-known/oauth-protected-resource{door}"));
        let answer = Caller::new(&url).send(reqwest::Method::GET, Vec::new()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let metadata = answer.json();
        assert_eq!(metadata["resource"], trusting.gateway.path(door), "{metadata}");
        assert_eq!(metadata["authorization_servers"], json!([trusting.provider.url]), "{metadata}");
        assert_eq!(metadata["scopes_supported"], json!(["mcp:read"]), "{metadata}");
        assert_eq!(metadata["bearer_methods_supported"], json!(["header"]), "{metadata}");
        // The address in the challenge of that door is this one.
        let answer = Caller::new(&trusting.gateway.path(door)).post(&request(1, "ping", json!({}))).await;
        assert_eq!(answer.status, 401, "{answer:?}");
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert!(challenge.contains(&format!(r#"resource_metadata="{url}""#)), "{challenge}");
        assert!(challenge.contains(r#"scope="mcp:read""#), "{challenge}");
    }
}
