//! S01: every route that the binary says it has, with every credential that is none, and what listens by default.
//! Not here: forged tokens (`tokens`), what callers may do with each item (`callers`).

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Card;
use crate::client::{Answer, Caller, request};
use crate::fake::{self, Fake};
use crate::gateway::Gateway;
use crate::issuer::{Key, claims, key_set};
use crate::packages;

const ISSUER: &str = "https://login.example.com";
const AUDIENCE: &str = "tollgate";
const ALL: &str = "Rq7vB2mX9kT4wZ6n-all";
const OTHER: &str = "Jd5hC8pL3sF1yG0u-other";
const OLD: &str = "Ne4aV7oI2tE9rQ5x-old";
/// What may be asked without a credential, and nothing else.
const PUBLIC: [&str; 4] = ["/health", "/livez", "/readyz", "/.well-known/oauth-protected-resource"];
/// Methods that a route may be asked with, its own and others.
const METHODS: [&str; 9] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND"];
/// Paths where other programs keep what nobody should see.
const GUESSES: [&str; 16] = [
    "/",
    "/admin",
    "/admin/",
    "/admin/config",
    "/api/v1/servers",
    "/config",
    "/debug/pprof/",
    "/debug/vars",
    "/openapi.json",
    "/docs",
    "/ui",
    "/.env",
    "/servers/it",
    "/servers/it/raw",
    "/metrics/",
    "/mcp/",
];

/// One row of `tollgate routes`.
#[derive(Debug)]
struct Route {
    method: String,
    path: String,
    access: String,
    door: String,
}

impl Route {
    /// Its path for that server.
    fn of(&self, server: &str) -> String {
        let path = self.path.replace("{id}", server);
        match path.split_once("{*") {
            Some((before, _)) if before.starts_with("/.well-known") => {
                format!("{before}servers/{server}/mcp")
            }
            Some((before, _)) => format!("{before}page"),
            None => path,
        }
    }

    /// A message for its door; nothing for doors that read none.
    fn body(&self, server: &str) -> Vec<u8> {
        let mut call = request(1, "tools/call", json!({"name": "echo", "arguments": {}}));
        if self.door == "mcp" {
            call["server_id"] = json!(server);
        }
        let reads =
            self.method == "POST" && ["server", "message", "mcp", "rpc", "raw"].contains(&&*self.door);
        if reads { call.to_string().into_bytes() } else { Vec::new() }
    }

    async fn ask(&self, gateway: &Gateway, server: &str, with: &[(&str, String)]) -> Answer {
        let mut caller = Caller::new(&gateway.path(&self.of(server)));
        if self.door == "rpc" {
            caller = caller.with("x-server-id", server);
        }
        for (name, value) in with {
            caller = caller.with(name, value);
        }
        caller.send(self.method.parse().unwrap(), self.body(server)).await
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

fn routes() -> Vec<Route> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(["routes", "--format", "json"]);
    let said = packages::run(command, Duration::from_secs(10));
    let rows: Vec<Value> = serde_json::from_str(&said.stdout).unwrap();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    rows.iter()
        .map(|row| Route {
            method: text(row, "method"),
            path: text(row, "path"),
            access: text(row, "access"),
            door: text(row, "door"),
        })
        .collect()
}

fn catalog(fake: &Fake) -> Value {
    let raw = json!({"type": "raw-http", "url": fake.url().replace("/mcp", "/base")});
    let remote = json!({"type": "remote-http", "url": fake.url()});
    json!({"servers": [
        {"id": "it", "runtime": remote, "health": {"type": "off"}},
        {"id": "other", "runtime": remote, "health": {"type": "off"}},
        {"id": "raw", "runtime": raw, "health": {"type": "off"}},
    ]})
}

fn any(fake: &fake::Seen) -> fake::Act {
    match fake.rpc().as_str() {
        "" if fake.path != "/mcp" => fake::Act::Json(200, json!({"fine": true})),
        _ => fake::legacy(fake),
    }
}

struct Closed {
    gateway: Gateway,
    fake: Fake,
    key: Key,
}

impl Closed {
    fn start() -> Self {
        let (key, fake) = (Key::new("one"), Fake::start(any));
        let home = TempDir::with_prefix("tollgate-it-").unwrap();
        std::fs::write(home.path().join("jwks.json"), key_set(&[&key]).to_string()).unwrap();
        let conf = json!({"drain": "5s", "auth": {
            "keys": [
                {"name": "all", "key": ALL, "servers": ["*"]},
                {"name": "other", "key": OTHER, "servers": ["other"]},
                {"name": "old", "key": OLD, "servers": ["*"], "expires": "2001-01-01"},
            ],
            "issuers": [{"issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["ES256"], "jwks_file": "jwks.json", "servers": ["*"]}],
        }});
        let gateway = Gateway::with(&catalog(&fake).to_string()).conf(&conf.to_string()).home(home).start();
        Self { gateway, fake, key }
    }

    /// Credentials that are none.
    fn bad(&self) -> Vec<(&'static str, Vec<(&'static str, String)>)> {
        let bearer = |text: &str| vec![("authorization", format!("Bearer {text}"))];
        let expired = self.key.sign(&claims(ISSUER, AUDIENCE, "alice", json!({"exp": 1_000_000_000})));
        let elsewhere = self.key.sign(&claims(ISSUER, "elsewhere", "alice", json!({})));
        vec![
            ("nothing", Vec::new()),
            ("garbage", bearer("garbage")),
            ("garbage as a key", vec![("x-api-key", "garbage".into())]),
            ("an empty bearer", vec![("authorization", "Bearer ".into())]),
            ("a bearer of spaces", vec![("authorization", "Bearer    ".into())]),
            ("another scheme", vec![("authorization", format!("Basic {ALL}"))]),
            ("an empty key", vec![("x-api-key", String::new())]),
            ("half a key", bearer(&ALL[..12])),
            ("a key and more", bearer(&format!("{ALL}x"))),
            ("a key in upper case", bearer(&ALL.to_uppercase())),
            ("an expired key", bearer(OLD)),
            ("an expired token", bearer(&expired)),
            ("a token for another audience", bearer(&elsewhere)),
            (
                "a cookie",
                vec![("cookie", format!("session={ALL}; api_key={ALL}; authorization=Bearer {ALL}"))],
            ),
            (
                "a bad bearer beside a good key",
                vec![("authorization", "Bearer x".into()), ("x-api-key", ALL.into())],
            ),
        ]
    }
}

#[tokio::test]
async fn s01_no_route_is_open_that_should_not_be() {
    let mut card = Card::new("S01");
    let closed = Closed::start();
    let routes = routes();
    let public: BTreeSet<&str> =
        routes.iter().filter(|route| route.access == "public").map(|route| route.path.as_str()).collect();
    let known =
        |path: &str| PUBLIC.iter().any(|known| path == *known || path.starts_with(&format!("{known}/")));
    card.check("the public set", public.iter().all(|path| known(path)) && public.len() >= 3, &public);
    for route in &routes {
        for (what, headers) in closed.bad() {
            let answer = route.ask(&closed.gateway, server_of(route), &headers).await;
            let name = format!("{} with {what}", route.name());
            if route.access == "public" {
                card.check(&name, answer.status == 200 || answer.status == 503, &answer);
                continue;
            }
            // Contract 001 has 403 for a wrong key where the Open MCP Gateway had it.
            let refused = answer.status == 401 || (what != "nothing" && answer.status == 403);
            let challenge = answer.header("www-authenticate").unwrap_or_default();
            // The native API is no resource of OAuth: it has no metadata to point to.
            let points = challenge.contains("resource_metadata=\"http") || route.door == "control";
            let challenged = challenge.starts_with("Bearer ") && points;
            card.check(&name, refused && challenged, &answer);
        }
        let evil = [("host", "evil.example".to_owned()), ("x-api-key", ALL.to_owned())];
        let answer = route.ask(&closed.gateway, server_of(route), &evil).await;
        card.check(&format!("{} at another host", route.name()), answer.status == 403, &answer);
    }
    for_every_method(&mut card, &closed.gateway, &routes).await;
    card.check("nothing reached a server", closed.fake.seen().is_empty(), &closed.fake.seen().len());
    others(&mut card, &closed, &routes).await;
    let open = control(&routes).await;
    card.check("positive control: without credentials all is open", open.is_empty(), &open);
    let (kinds, bad) = (routes.len(), closed.bad().len());
    card.pass(&format!("{kinds} routes with {bad} credentials that are none; public are {public:?}"));
}

/// The server that a route is about.
fn server_of(route: &Route) -> &'static str {
    if route.door == "raw" { "raw" } else { "it" }
}

/// Every path with every method and no credential, and paths that are not routes at all.
async fn for_every_method(card: &mut Card, gateway: &Gateway, routes: &[Route]) {
    let paths: BTreeSet<String> = routes.iter().map(|route| route.of(server_of(route))).collect();
    for path in paths.iter().map(String::as_str).chain(GUESSES) {
        let public = PUBLIC.iter().any(|public| path.starts_with(public));
        for method in METHODS {
            let answer = Caller::new(&gateway.path(path)).send(method.parse().unwrap(), Vec::new()).await;
            let fine = match answer.status {
                200 | 503 => public && (method == "GET" || method == "HEAD"),
                204 => method == "OPTIONS" && answer.body.is_empty(),
                400 | 401 | 403 | 404 | 405 | 501 => true,
                _ => false,
            };
            card.check(&format!("{method} {path} with nothing"), fine, &answer);
        }
    }
}

/// What a caller with another server gets: the same as for a server that is not there.
async fn others(card: &mut Card, closed: &Closed, routes: &[Route]) {
    let key = [("x-api-key", OTHER.to_owned())];
    for route in routes {
        let name = format!("{} of another tenant", route.name());
        let answer = route.ask(&closed.gateway, server_of(route), &key).await;
        match route.access.as_str() {
            "admin" => card.check(&name, answer.status == 403, &answer),
            "caller" if route.path.contains("{id}") || ["mcp", "rpc"].contains(&&*route.door) => {
                let nobody = route.ask(&closed.gateway, "nobody", &key).await;
                let (here, there) = (same(&answer, server_of(route)), same(&nobody, "nobody"));
                card.check(&name, answer.status == 404 && here == there, &(here, there));
            }
            // Figures are for operators, and name every server: whoever scrapes them has a listener with that door.
            _ if route.path == "/metrics" => card.check(&name, answer.status == 200, &answer.status),
            _ => card.check(&name, answer.status < 500 && !answer.body.contains("\"it\""), &answer),
        }
    }
    card.check(
        "nothing reached a server of another tenant",
        closed.fake.seen().is_empty(),
        &closed.fake.seen().len(),
    );
}

/// What of an answer may depend on whether a server is there: everything but its name.
fn same(answer: &Answer, server: &str) -> (u16, String, Vec<String>) {
    let quoted =
        answer.words().replace(&format!("'{server}'"), "'…'").replace(&format!("\"{server}\""), "\"…\"");
    let names = answer.headers.keys().map(|name| name.as_str().to_owned()).collect();
    (answer.status, quoted, names)
}

/// Routes that are refused even where everybody may come in: then the refusals above would say nothing.
async fn control(routes: &[Route]) -> Vec<String> {
    let fake = Fake::start(any);
    let gateway = Gateway::start(&catalog(&fake).to_string());
    let mut closed = Vec::new();
    // `GET` of a session's stream stays open, and nobody has opened a session. A message needs a stream.
    let mut sse = Caller::new(&gateway.path("/servers/it/sse")).get_stream().await;
    let endpoint = sse.next().await.expect("an endpoint").data;
    let told = Caller::new(&gateway.path(&endpoint)).post(&request(1, "tools/list", json!({}))).await;
    if told.status != 202 {
        closed.push(format!("{endpoint}: {}", told.status));
    }
    let asked = |route: &&Route| {
        let streams =
            ["sse", "message"].contains(&&*route.door) || route.door == "server" && route.method != "POST";
        route.access != "public" && !streams
    };
    for route in routes.iter().filter(asked) {
        let answer = route.ask(&gateway, server_of(route), &[]).await;
        if answer.status >= 400 {
            closed.push(format!("{}: {}", route.name(), answer.status));
        }
    }
    closed
}

#[tokio::test]
async fn s01_a_listener_without_networks_lets_nobody_in() {
    let mut card = Card::new("S01");
    let fake = Fake::start(any);
    let start = |networks: &str| {
        let conf = format!("drain: 5s\nnetworks: {networks}\n");
        Gateway::with(&catalog(&fake).to_string()).conf(&conf).start()
    };
    for (networks, reached) in [("[]", false), ("[192.0.2.0/24]", false), ("[127.0.0.0/8]", true)] {
        let gateway = start(networks);
        let asked = Caller::new("http://unused").http().get(gateway.path("/livez")).send().await;
        card.check(networks, asked.is_ok() == reached, &asked);
    }
    card.pass("an empty list of networks lets nobody in, and the positive control is in the list");
}

#[tokio::test]
async fn s01_it_listens_on_loopback_unless_callers_must_identify_themselves() {
    let mut card = Card::new("S01");
    let run = |conf: &str| {
        let listen = ["run", "-c", "tollgate.yaml", "--catalog", "catalog.yaml", "--listen", "0.0.0.0:0"];
        Gateway::with("servers: []\n").conf(conf).args(&listen).start()
    };
    let open = run("drain: 5s\n").address();
    card.check("without credentials", open.ip().is_loopback(), &open);
    let closed = run(&format!("auth: {{keys: [{{name: all, key: {ALL}, servers: [\"*\"]}}]}}\n")).address();
    card.check("positive control: with a key", !closed.ip().is_loopback(), &closed);
    let answer = Caller::new(&format!("http://127.0.0.1:{}/servers", closed.port()));
    drop(answer);
    let default: Value = {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        let folder = TempDir::new().unwrap();
        command.args(["config", "show", "--format", "json"]).current_dir(folder.path()).env_clear();
        let said = packages::run(command, Duration::from_secs(10));
        serde_json::from_str(&said.stdout).unwrap_or(Value::String(said.stdout + &said.stderr))
    };
    card.check("the default", default.to_string().contains("127.0.0.1:4444"), &default);
    card.pass("loopback by default");
}

#[test]
fn every_route_is_named_once() {
    let routes = routes();
    let names: BTreeSet<String> = routes.iter().map(Route::name).collect();
    assert_eq!(names.len(), routes.len(), "{routes:#?}");
    assert!(routes.iter().all(|route| route.method.parse::<Method>().is_ok()));
}
