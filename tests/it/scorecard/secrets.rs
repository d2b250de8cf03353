//! S13: secrets in every place that holds one, and everything that the gateway shows searched for them.
//! Not here: what servers are sent (`passthrough`), what of a key is kept (`keys`).

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Card;
use crate::client::{Caller, SOON, request};
use crate::fake::{self, Act, Fake};
use crate::gateway::Gateway;
use crate::packages;

/// Where a secret is kept or comes from, and the secret.
const PLANTED: [(&str, &str); 18] = [
    ("a key in a variable", "Qm7tRz4kXw9bVn2cLs6jHd3f"),
    ("a key in a file", "Zp5yGk8sWq1eTx7uCv4mNb6a"),
    ("the secret of an issuer", "Hy6gTf3dRe8sWa1qZx5cVb9nMk2jLp7o"),
    ("the session key", "9f3b7c1d5e8a2046f7b9d3c5a1e80264b7d9f3c5a1e8026497f3b7c1d5e8a204"),
    ("a header of a server", "Kj8hGf5dSa2pOi9uYt6rEw3q"),
    ("another header of a server", "Bn4mVc7xZl1kJh8gFd5sAp2o"),
    ("a password of a server", "Ui3yTr9eWq6lKj2hGf8dSa5z"),
    ("a token in a file of a server", "Xc2vBn7mQw4eRt9yUi1oPa6s"),
    ("a client secret", "Df6gHj1kLz8xCv3bNm5qWe0r"),
    ("a fetched token", "Ty9uIo4pAs7dFg2hJk6lZx1c"),
    ("a variable of a child", "Vb5nMq8wEr3tYu6iOp1aSd9f"),
    ("the query of a server's address", "Gh2jKl6zXc9vBn4mQw7eRt1y"),
    ("a variable of the gateway", "Lp8oKi5jUh2yGt9fRd6eSw3a"),
    ("a wrong key that came", "Sz1xDc6fVg9bHn4jMk7lQp2w"),
    ("a token that came", "Ew3rTy8uIo1pLk6jHg9fDs4a"),
    ("a cookie that came", "Mn9bVc4xZa7sDf2gHj5kLq8w"),
    ("a credential in a query that came", "Rt6yUi9oPa3sDf8gHj1kLz4x"),
    ("a proxy credential that came", "Jk4lZx7cVb2nMq9wEr6tYu1i"),
];

fn planted(what: &str) -> &'static str {
    PLANTED.iter().find(|(known, _)| *known == what).unwrap_or_else(|| panic!("{what}")).1
}

/// The ways in which a secret could be written.
fn forms(secret: &str) -> [String; 3] {
    let whole = base64::prelude::BASE64_STANDARD_NO_PAD.encode(secret);
    let hex = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    [secret.to_owned(), whole, hex]
}

/// Secrets that stand in a text.
fn leaks(text: &str) -> Vec<&'static str> {
    let found = |secret: &str| forms(secret).iter().any(|form| text.contains(form.as_str()));
    PLANTED.iter().filter(|(_, secret)| found(secret)).map(|(what, _)| *what).collect()
}

/// A gateway with all of them, and what is behind it.
struct House {
    gateway: Gateway,
    http: Fake,
    basic: Fake,
    raw: Fake,
    tokens: Fake,
}

fn server(seen: &fake::Seen) -> Act {
    match seen.rpc().as_str() {
        "" if !seen.path.starts_with("/mcp") => Act::Json(200, json!({"fine": true})),
        "tools/call" if seen.json()["params"]["name"] == "fail" => Act::Status(500),
        "tools/call" if seen.json()["params"]["name"] == "close" => Act::Close,
        _ => fake::legacy(seen),
    }
}

impl House {
    fn catalog(&self) -> Value {
        catalog([&self.http, &self.basic, &self.raw, &self.tokens])
    }
}

fn catalog([http, basic, raw, tokens]: [&Fake; 4]) -> Value {
    let off = json!({"type": "off"});
    json!({"servers": [
        {"id": "http", "display_name": "visible-marker", "health": off,
         "runtime": {"type": "remote-http", "url": format!("{}?key={}", http.url(), planted("the query of a server's address"))},
         "headers": {"Authorization": format!("Bearer {}", planted("a header of a server"))}},
        {"id": "basic", "runtime": {"type": "remote-http", "url": basic.url()}, "health": off,
         "auth": {"basic": {"username": "own", "password": planted("a password of a server")}}},
        {"id": "raw", "runtime": {"type": "raw-http", "url": raw.url().replace("/mcp", "/base")}, "health": off,
         "headers": {"X-Own": planted("another header of a server")}, "auth": {"bearer_file": "token"}},
        {"id": "fetched", "runtime": {"type": "remote-http", "url": basic.url()}, "health": off,
         "auth": {"client_credentials": {"token_url": tokens.url(), "client_id": "gateway", "client_secret_file": "client"}}},
        {"id": "child", "runtime": {"type": "local-process", "command": env!("CARGO_BIN_EXE_tollgate"), "args": ["sample", "stdio"]},
         "env": {"PGPASSWORD": planted("a variable of a child")}},
        {"id": "broken", "runtime": {"type": "local-process", "command": "/bin/sh", "args": ["-c", "echo $PGPASSWORD >&2; exit 7"]},
         "env": {"OTHER": "1"}},
        {"id": "away", "runtime": {"type": "remote-http", "url": format!("http://127.0.0.1:9/?key={}", planted("the query of a server's address"))}, "health": off},
    ]})
}

fn conf(level: &str) -> Value {
    json!({
        "drain": "5s",
        "log": {"level": level, "audit": "stdout"},
        "session": {"key": planted("the session key")},
        "auth": {
            "keys": [
                {"name": "variable", "key": "${ALICE_KEY}", "servers": ["*"]},
                {"name": "file", "key_file": "key", "servers": ["*"]},
            ],
            "issuers": [{"issuer": "https://login.example.com", "audience": "tollgate", "algorithms": ["HS256"],
                "secret": planted("the secret of an issuer"), "servers": ["*"]}],
        },
    })
}

fn files(home: &TempDir) {
    let secrets = [
        ("key", planted("a key in a file")),
        ("token", planted("a token in a file of a server")),
        ("client", planted("a client secret")),
    ];
    for (name, secret) in secrets {
        let path = home.path().join(name);
        std::fs::write(&path, format!("{secret}\n")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
}

fn start() -> House {
    let home = TempDir::with_prefix("tollgate-it-").unwrap();
    files(&home);
    let tokens = Fake::start(|_| {
        let token = planted("a fetched token");
        Act::Json(200, json!({"access_token": token, "token_type": "Bearer", "expires_in": 600}))
    });
    let [http, basic, raw] = [(); 3].map(|()| Fake::start(server));
    let catalog = catalog([&http, &basic, &raw, &tokens]);
    let gateway = Gateway::with(&catalog.to_string())
        .conf(&conf("trace").to_string())
        .home(home)
        .env("ALICE_KEY", planted("a key in a variable"))
        .env("AWS_SECRET_ACCESS_KEY", planted("a variable of the gateway"))
        .start();
    House { gateway, http, basic, raw, tokens }
}

/// Callers with all that can come, good and bad.
fn callers(url: &str) -> Vec<Caller> {
    let noisy = |caller: Caller| {
        caller
            .with("cookie", &format!("session={}", planted("a cookie that came")))
            .with("proxy-authorization", &format!("Basic {}", planted("a proxy credential that came")))
    };
    let token = format!("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.{}", planted("a token that came"));
    vec![
        noisy(Caller::new(url)),
        noisy(Caller::new(url).with("x-api-key", planted("a key in a variable"))),
        noisy(Caller::new(url).bearer(planted("a key in a file"))),
        noisy(Caller::new(url).bearer(planted("a wrong key that came"))),
        noisy(Caller::new(url).bearer(&token)),
        Caller::new(url).with("x-api-key", planted("a key in a variable")).with("host", "evil.example"),
        Caller::new(url)
            .with("x-api-key", planted("a key in a variable"))
            .with("origin", "https://evil.example"),
        Caller::new(url).with("x-api-key", planted("a key in a variable")).with("mcp-session-id", "none"),
        Caller::new(url).with("x-api-key", planted("a key in a variable")).with("content-type", "text/plain"),
    ]
}

/// Every route, every server, and what goes wrong there. Gives all answers, heads included.
async fn hit_everything(gateway: &Gateway) -> Vec<(String, String)> {
    let query = format!("?api_key={}", planted("a credential in a query that came"));
    let mut paths: Vec<String> = [
        "/health",
        "/livez",
        "/readyz?verbose",
        "/metrics",
        "/stats",
        "/servers",
        "/admin/reload",
        "/mcp",
        "/rpc",
        "/nowhere",
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/servers/http/mcp",
        "/servers/raw/raw/page",
        "/servers/raw/raw/../x",
    ]
    .map(str::to_owned)
    .into();
    for id in ["http", "basic", "fetched", "child", "broken", "away", "nobody"] {
        for rest in ["", "/start", "/mcp"] {
            paths.push(format!("/servers/{id}{rest}"));
        }
    }
    let call = |name: &str| request(1, "tools/call", json!({"name": name, "arguments": {}})).to_string();
    let (echo, fail, close) = (call("echo"), call("fail"), call("close"));
    let bodies = [
        "",
        "{",
        "[]",
        &*echo,
        &*fail,
        &*close,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}"#,
    ];
    let mut answers = Vec::new();
    for path in &paths {
        for end in ["", &*query] {
            for caller in callers(&gateway.path(&format!("{path}{end}"))) {
                for body in bodies {
                    let method = if body.is_empty() && !path.ends_with("/mcp") { "GET" } else { "POST" };
                    let answer = caller.send(method.parse().unwrap(), body.as_bytes().to_vec()).await;
                    let line = format!("{method} {path}{end} {body}");
                    answers.push((line, format!("{:?} {}", answer.headers, answer.body)));
                }
            }
        }
    }
    for verb in ["/start", "/stop"] {
        for id in ["child", "broken", "http"] {
            for caller in callers(&gateway.path(&format!("/servers/{id}{verb}"))) {
                let answer = caller.send(reqwest::Method::POST, Vec::new()).await;
                answers.push((format!("POST {id}{verb}"), format!("{:?} {}", answer.headers, answer.body)));
            }
        }
    }
    answers
}

/// What programs and files of the kernel say about the gateway and its children.
fn processes(card: &mut Card, gateway: &Gateway) {
    let read = |pid: u32, name: &str| {
        let bytes = std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    };
    let mut children = 0;
    card.check(
        "the gateway's command line",
        leaks(&read(gateway.pid(), "cmdline")).is_empty(),
        &"it shows one",
    );
    for pid in gateway.descendants() {
        children += 1;
        let (line, environ) = (read(pid, "cmdline"), read(pid, "environ"));
        card.check(&format!("command line of {line}"), leaks(&line).is_empty(), &leaks(&line));
        let others: Vec<_> =
            leaks(&environ).into_iter().filter(|what| *what != "a variable of a child").collect();
        card.check(&format!("environment of {line}"), others.is_empty(), &others);
        card.check("its own variable is there", !leaks(&environ).is_empty(), &environ.len());
    }
    card.check("there is a child", children > 0, &children);
}

/// What the other commands say of the same files, and of files that are wrong.
fn commands(card: &mut Card, house: &House) -> usize {
    let home = house.gateway.home();
    let (mut good, mut shows) = (conf("info"), 0);
    let mut cases = vec![("good".to_owned(), good.clone(), house.catalog())];
    good["auth"]["keys"][1]["name"] = json!("variable");
    cases.push(("the same name twice".into(), good.clone(), house.catalog()));
    good["auth"]["issuers"][0]["algorithms"] = json!(["RS256"]);
    cases.push(("a family that does not fit".into(), good.clone(), house.catalog()));
    good["session"]["key"] = json!(format!("{}0", planted("the session key")));
    good["auth"]["issuers"][0]["secret"] = json!([planted("the secret of an issuer")]);
    good["auth"]["keys"][0]["key"] = json!({"x": planted("a key in a variable")});
    cases.push(("values of the wrong form".into(), good, house.catalog()));
    let mut wrong = house.catalog();
    wrong["servers"][1]["auth"]["basic"]["pasword"] = json!(planted("a password of a server"));
    wrong["servers"][4]["env"]["A B"] = json!(planted("a variable of a child"));
    wrong["servers"][6]["runtime"]["url"] =
        json!(format!("ftp://own:{}@h/", planted("a password of a server")));
    cases.push(("a catalog that is wrong".into(), conf("info"), wrong));
    for (what, conf, catalog) in cases {
        std::fs::write(home.join("shown.yaml"), conf.to_string()).unwrap();
        std::fs::write(home.join("shown-catalog.yaml"), catalog.to_string()).unwrap();
        let files = ["-c", "shown.yaml", "--catalog", "shown-catalog.yaml"];
        let explain = ["explain", "--caller", "variable", "--server", "http", "--tool", "echo"];
        let plan = ["plan", "--to", "shown-catalog.yaml"];
        let commands: [&[&str]; 6] = [
            &["validate"],
            &["validate", "--format", "json"],
            &["config", "show"],
            &["config", "show", "--format", "json"],
            &explain,
            &plan,
        ];
        for words in commands {
            let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
            command.args(words).args(files).current_dir(home).env_clear();
            command.env("HOME", home).env("ALICE_KEY", planted("a key in a variable"));
            let said = packages::run(command, Duration::from_secs(20));
            let text = format!("{}{}", said.stdout, said.stderr);
            shows += 1;
            card.check(
                &format!("{words:?} of {what}"),
                leaks(&text).is_empty() && !text.is_empty(),
                &(leaks(&text), &text),
            );
        }
    }
    shows
}

#[tokio::test]
async fn s13_no_secret_is_shown_anywhere() {
    let mut card = Card::new("S13");
    let house = start();
    let answers = hit_everything(&house.gateway).await;
    for (line, text) in &answers {
        card.check(line, leaks(text).is_empty(), &(leaks(text), text));
    }
    let start = Caller::new(&house.gateway.path("/servers/child/start"));
    let start = start.bearer(planted("a key in a file")).send(reqwest::Method::POST, Vec::new()).await;
    card.check("the child is started again", start.status == 200, &start);
    processes(&mut card, &house.gateway);
    let shows = commands(&mut card, &house);
    house.gateway.edit_catalog("servers: [{id: http, runtime: {type: remote-http, url: \"http://x/?key=");
    let reload =
        Caller::new(&house.gateway.path("/admin/reload")).with("x-api-key", planted("a key in a variable"));
    let reload = reload.send(reqwest::Method::POST, Vec::new()).await;
    card.check("a reload that fails", reload.status >= 400 && leaks(&reload.body).is_empty(), &reload);
    used(&mut card, &house).await;
    let marker = answers.iter().filter(|(_, text)| text.contains("visible-marker")).count();
    let House { gateway, .. } = house;
    let log = gateway.log();
    for line in log.lines() {
        let found = leaks(line);
        if !found.is_empty() {
            card.check("the log", false, &(found, line));
        }
    }
    let traced = log.lines().filter(|line| line.contains("\"TRACE\"") || line.contains("\"DEBUG\"")).count();
    card.check(
        "positive control: what may be shown is shown",
        marker > 0 && log.contains("/servers/http/mcp"),
        &marker,
    );
    card.check("positive control: the log is at its most talkative", traced > 0, &traced);
    card.pass(&format!(
        "{} secrets, {} answers, {} lines of log ({traced} of them traces), {shows} commands",
        PLANTED.len(),
        answers.len(),
        log.lines().count()
    ));
    gateway.stop();
}

/// The positive control: each secret was in use where it belongs, and would have been found there.
async fn used(card: &mut Card, house: &House) {
    house.basic.wait_for("tools/call", SOON).await;
    let whole = |fake: &Fake| {
        let seen = fake.seen().into_iter();
        seen.map(|seen| format!("{} {:?} {}", seen.path, seen.headers, String::from_utf8_lossy(&seen.body)))
            .collect::<String>()
    };
    let [http, basic, raw, tokens] = [&house.http, &house.basic, &house.raw, &house.tokens].map(whole);
    let password =
        base64::prelude::BASE64_STANDARD.encode(format!("own:{}", planted("a password of a server")));
    let wanted = BTreeMap::from([
        ("a header of a server", &http),
        ("the query of a server's address", &http),
        ("a fetched token", &basic),
        ("another header of a server", &raw),
        ("a token in a file of a server", &raw),
    ]);
    for (what, text) in wanted {
        card.check(&format!("positive control: {what} is used"), leaks(text).contains(&what), &leaks(text));
    }
    card.check("positive control: the password is used", basic.contains(&password), &basic.len());
    let secret = planted("a client secret");
    let shown = base64::prelude::BASE64_STANDARD.encode(format!("gateway:{secret}"));
    card.check(
        "positive control: the client secret is used",
        tokens.contains(&shown) || tokens.contains(secret),
        &tokens,
    );
}

#[test]
fn s13_weak_and_default_secrets_are_not_started_with() {
    let mut card = Card::new("S13");
    let key = |key: &str| json!({"keys": [{"name": "a", "key": key, "servers": ["*"]}]});
    let secret = |secret: &str| json!({"issuers": [{"issuer": "https://login.example.com", "audience": "tollgate", "algorithms": ["HS256"], "secret": secret, "servers": ["*"]}]});
    let weak = [
        key("changeme"),
        key("short"),
        key("changeme-changeme-changeme"),
        key("your-api-key-your-api-key"),
        key("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        secret("secret"),
        secret("your-256-bit-secret"),
        secret("changemechangemechangemechangeme"),
        secret("00000000000000000000000000000000"),
    ];
    for auth in weak {
        let said = validate(&json!({ "auth": auth }));
        card.check(&auth.to_string(), said.0 != Some(0), &said);
    }
    for session in ["0".repeat(64), "AAAA".into()] {
        let said = validate(&json!({"session": {"key": session}}));
        card.check(&format!("a session key of {session}"), said.0 != Some(0), &said);
    }
    for auth in [key(planted("a key in a file")), secret(planted("the secret of an issuer"))] {
        let said = validate(&json!({ "auth": auth }));
        card.check("positive control: a good one", said.0 == Some(0), &said);
    }
    card.pass("weak secrets are mistakes of the configuration");
}

/// Checks that configuration before a catalog without servers.
fn validate(conf: &Value) -> (Option<i32>, String) {
    let home = TempDir::new().unwrap();
    std::fs::write(home.path().join("tollgate.yaml"), conf.to_string()).unwrap();
    std::fs::write(home.path().join("catalog.yaml"), "servers: []\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(["validate", "-c", "tollgate.yaml", "--catalog", "catalog.yaml"]);
    command.current_dir(home.path()).env_clear().env("HOME", home.path());
    let said = packages::run(command, Duration::from_secs(20));
    (said.status.code(), said.stdout + &said.stderr)
}

#[test]
fn a_leak_would_be_found() {
    let secret = planted("a password of a server");
    for form in forms(secret) {
        assert_eq!(leaks(&format!("x{form}y")), ["a password of a server"]);
    }
    assert!(leaks("nothing").is_empty());
}
