//! Tokens from the outside: made by an operator, taken at the doors they are for, and where clients learn about them.
//! Not here: real authorization servers and clients (`oauth`), forged tokens (`scorecard`).

use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Answer, Caller};
use crate::gateway::Gateway;

const ISSUER: &str = "https://login.example.com";
/// Under this address clients would reach the gateway.
const PUBLIC: &str = "https://gw.example.com";
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

fn catalog() -> String {
    let server = |id: &str| {
        let command = env!("CARGO_BIN_EXE_tollgate");
        json!({"id": id, "runtime": {"type": "local-process", "command": command, "args": ["sample", "stdio"]}})
    };
    json!({"servers": [server("one"), server("two")]}).to_string()
}

/// A gateway whose tokens are good at their door alone.
fn gateway() -> Gateway {
    let issuer = json!({
        "issuer": ISSUER,
        "secret": "kV3nT8qYw1ZsP6rJ0xLdC5mHf2bGu9Ea",
        "algorithms": ["HS256"],
        "servers": ["*"],
    });
    let auth = json!({
        "issuers": [issuer],
        "keys": [
            {"name": "ops", "key": "Rq7vB2mX9kT4wZ6n-key", "servers": ["*"]},
            {"name": "old", "key": "Jd5hC8pL3sF1yG0u-key", "servers": ["*"], "expires": "2020-01-01"},
        ],
        "scopes": ["tools:read"],
    });
    let conf = json!({"drain": "5s", "public_url": PUBLIC, "auth": auth});
    Gateway::with(&catalog()).conf(&conf.to_string()).start()
}

/// What `tollgate token new` prints.
fn token_new(gateway: &Gateway, args: &[&str]) -> Result<String, String> {
    let said = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["token", "new", "--config", "tollgate.yaml", "--subject", "ann"])
        .args(args)
        .current_dir(gateway.home())
        .env_clear()
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if said.status.success() { Ok(text(said.stdout).trim_end().to_owned()) } else { Err(text(said.stderr)) }
}

async fn ping(gateway: &Gateway, server: &str, credential: &str) -> Answer {
    let caller = Caller::new(&gateway.url(server)).with("authorization", &format!("Bearer {credential}"));
    caller.modern_post(1, "tools/list", json!({})).await
}

async fn get(gateway: &Gateway, path: &str) -> Answer {
    Caller::new(&gateway.path(path)).send(Method::GET, Vec::new()).await
}

#[tokio::test]
async fn a_minted_token_is_good_at_its_door_alone() {
    let gateway = gateway();
    let one = token_new(&gateway, &["--audience", &format!("{PUBLIC}/servers/one/mcp")]).unwrap();
    assert_eq!(ping(&gateway, "one", &one).await.status, 200);
    let refused = ping(&gateway, "two", &one).await;
    assert_eq!(
        (refused.status, refused.json()["error"]["data"]["reason"].as_str()),
        (401, Some("bad_credential"))
    );
    // For the gateway as a whole, and narrowed.
    let whole = token_new(&gateway, &["--audience", PUBLIC, "--servers", "two", "--ttl", "5m"]).unwrap();
    assert_eq!(ping(&gateway, "two", &whole).await.status, 200);
    assert_eq!(ping(&gateway, "one", &whole).await.status, 404);
    let servers = Caller::new(&gateway.path("/servers")).with("authorization", &format!("Bearer {whole}"));
    let listed = servers.send(Method::GET, Vec::new()).await;
    assert_eq!(listed.status, 200, "{listed:?}");
    assert!(listed.body.contains("\"two\"") && !listed.body.contains("\"one\""), "{listed:?}");
    // At the control plane only that of the whole gateway is good.
    let servers = Caller::new(&gateway.path("/servers")).with("authorization", &format!("Bearer {one}"));
    assert_eq!(servers.send(Method::GET, Vec::new()).await.status, 401);
}

#[tokio::test]
async fn the_command_says_what_it_cannot_do() {
    let gateway = gateway();
    for (args, want) in [
        (&[][..], "an audience is needed"),
        (&["--audience", PUBLIC, "--ttl", "999d"], "a token lives between"),
        (&["--audience", PUBLIC, "--issuer", "https://other"], "has no issuer \"https://other\""),
        (&["--secret-file", "tollgate.yaml"], "--audience"),
        (&["--audience", PUBLIC, "--secret-file", "nowhere"], "secret file nowhere"),
    ] {
        let said = token_new(&gateway, args).unwrap_err();
        assert!(said.contains(want), "{args:?}: {said}");
    }
    let secret = gateway.home().join("secret");
    std::fs::write(&secret, "kV3nT8qYw1ZsP6rJ0xLdC5mHf2bGu9Ea\n").unwrap();
    let args = ["--secret-file", "secret", "--issuer", ISSUER, "--audience", PUBLIC];
    assert_eq!(ping(&gateway, "one", &token_new(&gateway, &args).unwrap()).await.status, 200);
}

#[tokio::test]
async fn clients_learn_where_tokens_come_from() {
    let gateway = gateway();
    for (path, resource) in [
        ("/servers/one/mcp", "/servers/one/mcp"),
        ("/servers/one/raw", "/servers/one/raw"),
        ("/mcp", "/mcp"),
        ("/rpc", "/rpc"),
        ("", ""),
        ("/", ""),
    ] {
        let answer = get(&gateway, &format!("{WELL_KNOWN}{path}")).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let wanted = json!({
            "resource": format!("{PUBLIC}{resource}"),
            "authorization_servers": [ISSUER],
            "bearer_methods_supported": ["header"],
            "resource_name": "Tollgate",
            "scopes_supported": ["tools:read"],
        });
        assert_eq!(answer.json(), wanted, "{path}");
    }
    // A server that is not there looks like one that is.
    let unknown = get(&gateway, &format!("{WELL_KNOWN}/servers/nobody/mcp")).await;
    assert_eq!(
        (unknown.status, &unknown.json()["resource"]),
        (200, &json!(format!("{PUBLIC}/servers/nobody/mcp")))
    );
    for path in ["/servers/one", "/admin/reload", "/servers/a%2Fb/mcp", "x"] {
        assert_eq!(get(&gateway, &format!("{WELL_KNOWN}{path}")).await.status, 404, "{path}");
    }
    let posted = Caller::new(&gateway.path(WELL_KNOWN)).send(Method::POST, Vec::new()).await;
    assert_eq!((posted.status, posted.header("allow")), (405, Some("GET")));
}

#[tokio::test]
async fn refusals_challenge() {
    let gateway = gateway();
    let place = |path: &str| format!("resource_metadata=\"{PUBLIC}{WELL_KNOWN}{path}\"");
    let call = |path: &str| Caller::new(&gateway.path(path)).with("content-type", "application/json");
    let body = || json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string().into_bytes();
    for (path, method, door, wrong) in [
        ("/servers/one/mcp", Method::POST, "/servers/one/mcp", 401),
        ("/servers/nobody/mcp", Method::GET, "/servers/nobody/mcp", 401),
        ("/servers/one/raw/a/raw", Method::GET, "/servers/one/raw", 401),
        ("/mcp", Method::POST, "/mcp", 403),
        ("/rpc", Method::POST, "/rpc", 403),
        ("/servers", Method::GET, "", 403),
        ("/metrics", Method::GET, "", 403),
    ] {
        let missing = call(path).send(method.clone(), body()).await;
        let challenge = format!("Bearer realm=\"tollgate\", {}, scope=\"tools:read\"", place(door));
        assert_eq!((missing.status, missing.header("www-authenticate")), (401, Some(&*challenge)), "{path}");
        let refused = call(path).with("x-api-key", "Jd5hC8pL3sF1yG0u-kez").send(method.clone(), body()).await;
        assert_eq!(refused.status, wrong, "{path}: {refused:?}");
        let expired = call(path).with("x-api-key", "Jd5hC8pL3sF1yG0u-key").send(method.clone(), body()).await;
        assert_eq!(expired.status, wrong, "{path}: {expired:?}");
        let said = expired.header("www-authenticate").unwrap();
        let words = "error=\"invalid_token\", error_description=\"the credential has expired\"";
        assert!(said.contains(words) && said.contains(&place(door)), "{said}");
        // Contract 001 has its 403 for keys; a token that is not good is 401 at every door.
        let token = call(path).with("authorization", "Bearer a.b.c").send(method, body()).await;
        let said = token.header("www-authenticate").unwrap_or_default();
        assert_eq!(
            (token.status, said.contains("error=\"invalid_token\"")),
            (401, true),
            "{path}: {token:?}"
        );
        // In the query it is none.
        let query = call(&format!("{path}?api_key=Rq7vB2mX9kT4wZ6n-key")).send(Method::GET, Vec::new()).await;
        assert!(matches!(query.status, 401 | 403 | 405), "{query:?}");
    }
    let good = call("/servers").with("x-api-key", "Rq7vB2mX9kT4wZ6n-key");
    assert_eq!(good.send(Method::GET, Vec::new()).await.status, 200);
}

/// Without an authorization server there is nothing to tell, and a key is asked for as ever.
#[tokio::test]
async fn keys_alone_need_no_metadata() {
    let conf = "drain: 5s\nauth: {keys: [{name: ops, key: Rq7vB2mX9kT4wZ6n-key, servers: ['*']}]}\n";
    let gateway = Gateway::with(&catalog()).conf(conf).start();
    assert_eq!(get(&gateway, &format!("{WELL_KNOWN}/servers/one/mcp")).await.status, 404);
    let answer = get(&gateway, "/servers/one/mcp").await;
    let challenge = answer.header("www-authenticate");
    assert_eq!((answer.status, challenge), (401, Some("Bearer realm=\"tollgate\"")));
    let _: Value = answer.json();
}
