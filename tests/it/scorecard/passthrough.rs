//! S04: no credential of a caller reaches a server, and none of one server reaches another.
//! Not here: what the gateway shows of its secrets to callers (`secrets`), tokens themselves (`tokens`).

use serde_json::{Value, json};

use super::Card;
use crate::client::{Caller, SOON, request};
use crate::fake::{self, Act, Fake, Seen};
use crate::gateway::Gateway;
use crate::issuer::{Key, claims, key_set};
use crate::naive::Naive;
use crate::packages;
use crate::recorder::Believes;

const KEY: &str = "inbound-key-Rq7vB2mX9kT4wZ6n";
const COOKIE: &str = "inbound-cookie-Jd5hC8pL3sF1";
const PROXY: &str = "inbound-proxy-Ne4aV7oI2tE9";
const ISSUER: &str = "https://login.example.com";
const AUDIENCE: &str = "tollgate";

/// A stdio server in a few lines that writes down its environment and every line it is told.
const CHILD: &str = r#"
import json, os, sys
seen = open("seen.txt", "a")
print(dict(os.environ), file=seen, flush=True)
for line in sys.stdin:
    print(line, file=seen, flush=True)
    message = json.loads(line)
    result = {"content": [{"type": "text", "text": "child"}]}
    if message.get("method") == "initialize":
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "child", "version": "1"}}
    if message.get("id") is not None and message.get("method"):
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"#;

/// Servers behind the gateway: how each is reached, and the credential of its own that it should see.
struct Behind {
    gateway: Gateway,
    fakes: Vec<(&'static str, Fake, Option<&'static str>)>,
    tokens: Fake,
    key: Key,
}

fn recorder() -> Fake {
    Fake::start(|seen| match (seen.method.as_str(), seen.rpc().as_str()) {
        ("GET", "") if !seen.path.starts_with("/mcp") => Act::Json(200, json!({"fine": true})),
        _ => fake::legacy(seen),
    })
}

impl Behind {
    fn start() -> Self {
        let key = Key::new("one");
        let names = [
            ("http", Some("Bearer own-of-http-Hs83kd")),
            ("bare", None),
            ("sse", Some("Basic b3duOm9mLXNzZS1LbDQ1")),
            ("raw", Some("Bearer own-of-raw-Wm29xz")),
            ("fetched", Some("Bearer own-of-fetched-Pq61vb")),
        ];
        let fakes: Vec<_> = names.map(|(name, own)| (name, recorder(), own)).into();
        let tokens = Fake::start(|_| {
            Act::Json(
                200,
                json!({"access_token": "own-of-fetched-Pq61vb", "token_type": "Bearer", "expires_in": 600}),
            )
        });
        let bare = fakes[1].1.url();
        let away = Fake::start(move |_| Act::JsonWith(307, vec![("location", bare.clone())], json!({})));
        let home = tempfile::TempDir::with_prefix("tollgate-it-").unwrap();
        std::fs::write(home.path().join("token"), "own-of-raw-Wm29xz\n").unwrap();
        std::fs::write(home.path().join("jwks.json"), key_set(&[&key]).to_string()).unwrap();
        let url = |at: usize| fakes[at].1.url();
        let probe = json!({"type": "mcp", "interval": "1s"});
        let off = json!({"type": "off"});
        let catalog = json!({"servers": [
            {"id": "http", "runtime": {"type": "remote-http", "url": url(0)}, "health": probe,
             "headers": {"Authorization": "Bearer own-of-http-Hs83kd"}},
            {"id": "bare", "runtime": {"type": "remote-http", "url": url(1)}, "health": probe},
            {"id": "sse", "runtime": {"type": "remote-sse", "url": url(2)}, "health": off,
             "auth": {"basic": {"username": "own", "password": "of-sse-Kl45"}}},
            {"id": "raw", "runtime": {"type": "raw-http", "url": url(3).replace("/mcp", "/base")}, "health": {"type": "http", "path": "/base/health", "interval": "1s"},
             "auth": {"bearer_file": "token"}},
            {"id": "fetched", "runtime": {"type": "remote-http", "url": url(4)}, "health": off,
             "auth": {"client_credentials": {"token_url": tokens.url(), "client_id": "gateway", "client_secret": "own-secret-Ty70mn"}}},
            {"id": "away", "runtime": {"type": "remote-http", "url": away.url()}, "health": off,
             "headers": {"Authorization": "Bearer own-of-away-Zc18qw"}},
            {"id": "child", "runtime": {"type": "local-process", "command": packages::python(), "args": ["-u", "-c", CHILD]},
             "env": {"TOKEN": "own-of-child-Bv52rt"}},
        ]});
        let conf = json!({"drain": "5s", "auth": {
            "keys": [{"name": "alice", "key": KEY, "servers": ["*"]}],
            "issuers": [{"issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["ES256"], "jwks_file": "jwks.json", "servers": ["*"]}],
        }});
        let gateway = Gateway::with(&catalog.to_string())
            .conf(&conf.to_string())
            .home(home)
            .env("GATEWAYS_OWN", "gateway-environment-Xd94")
            .start();
        let mut fakes = fakes;
        fakes.push(("away", away, Some("Bearer own-of-away-Zc18qw")));
        Self { gateway, fakes, tokens, key }
    }

    /// Everything a caller may say of itself, at once: with a key in one header or the other, or with a token.
    fn callers(&self, url: &str) -> Vec<(&'static str, Caller)> {
        let token = self.key.sign(&claims(ISSUER, AUDIENCE, "alice", json!({"note": "inbound-claim"})));
        let noisy = |caller: Caller| {
            caller
                .with("cookie", &format!("session={COOKIE}"))
                .with("proxy-authorization", &format!("Basic {PROXY}"))
        };
        let new = || noisy(Caller::new(url));
        vec![
            ("bearer key", new().bearer(KEY)),
            ("key in both headers", new().bearer(KEY).with("x-api-key", KEY)),
            ("x-api-key", new().with("x-api-key", KEY)),
            ("token", new().bearer(&token)),
        ]
    }

    /// Calls every server through every door it has.
    async fn call_all(&self, card: &mut Card) {
        let call = || request(1, "tools/call", json!({"name": "echo", "arguments": {}}));
        for id in ["http", "bare", "sse", "fetched", "child"] {
            for (how, caller) in self.callers(&self.gateway.url(id)) {
                let (session, _) = caller.initialize().await;
                let answer = session.post(&call()).await;
                card.check(&format!("{id} by {how}"), answer.status == 200, &answer);
                let answer =
                    caller.modern_post(2, "tools/call", json!({"name": "echo", "arguments": {}})).await;
                card.check(&format!("{id} by {how}, modern"), answer.status == 200, &answer);
                session.send(reqwest::Method::DELETE, Vec::new()).await;
            }
            for (how, caller) in self.callers(&self.gateway.path("/mcp")) {
                let mut body = call();
                body["server_id"] = json!(id);
                let answer = caller.post(&body).await;
                card.check(&format!("{id} by {how} at /mcp"), answer.status == 200, &answer);
            }
            for (how, caller) in self.callers(&self.gateway.path("/rpc")) {
                let answer = caller.with("x-server-id", id).post(&call()).await;
                card.check(&format!("{id} by {how} at /rpc"), answer.status == 200, &answer);
            }
        }
        for (how, caller) in self.callers(&self.gateway.path("/servers/raw/raw/page")) {
            let answer = caller.send(reqwest::Method::GET, Vec::new()).await;
            card.check(&format!("raw by {how}"), answer.status == 200, &answer);
        }
        for (how, caller) in self.callers(&self.gateway.url("away")) {
            let answer = caller.post(&call()).await;
            card.check(&format!("a redirect by {how} is not followed"), answer.status == 502, &answer);
        }
    }

    /// Asks with credentials in the query, alone and beside a good one. They are never accepted, and never passed on.
    async fn ask_in_query(&self, card: &mut Card) {
        let call = request(1, "tools/call", json!({"name": "echo", "arguments": {}}));
        for path in ["/servers/http/mcp", "/servers/child/mcp", "/servers/raw/raw/page"] {
            for name in ["api_key", "access_token"] {
                let url = self.gateway.path(&format!("{path}?{name}={KEY}&x=1"));
                let answer = Caller::new(&url).post(&call).await;
                card.check(&format!("{name} at {path}"), answer.status == 401, &answer);
                let beside = Caller::new(&url).bearer(KEY).post(&call).await;
                card.check(&format!("{name} beside a key at {path}"), beside.status < 500, &beside);
            }
        }
    }
}

/// What of these texts stands anywhere in a request.
fn found<'a>(seen: &Seen, texts: &[&'a str]) -> Vec<&'a str> {
    let whole = format!("{} {:?} {}", seen.path, seen.headers, String::from_utf8_lossy(&seen.body));
    texts.iter().filter(|text| whole.contains(**text)).copied().collect()
}

fn own_of_others(name: &str) -> Vec<&'static str> {
    let all = [
        ("http", "own-of-http-Hs83kd"),
        ("sse", "b3duOm9mLXNzZS1LbDQ1"),
        ("sse", "of-sse-Kl45"),
        ("raw", "own-of-raw-Wm29xz"),
        ("fetched", "own-of-fetched-Pq61vb"),
        ("tokens", "own-secret-Ty70mn"),
        ("away", "own-of-away-Zc18qw"),
        ("child", "own-of-child-Bv52rt"),
    ];
    all.iter().filter(|(owner, _)| *owner != name).map(|(_, text)| *text).collect()
}

#[tokio::test]
async fn s04_no_credential_passes_through() {
    let mut card = Card::new("S04");
    let behind = Behind::start();
    behind.call_all(&mut card).await;
    behind.ask_in_query(&mut card).await;
    for name in ["http", "bare"] {
        let (_, fake, _) = behind.fakes.iter().find(|fake| fake.0 == name).unwrap();
        fake.wait_for("server/discover", SOON).await;
    }
    let token = behind.key.sign(&claims(ISSUER, AUDIENCE, "x", json!({})));
    let inbound =
        [KEY, COOKIE, PROXY, "inbound-", "gateway-environment-Xd94", token.split('.').next().unwrap()];
    let mut requests = 0;
    for (name, fake, own) in &behind.fakes {
        let seen = fake.seen();
        card.check(&format!("{name} was asked"), !seen.is_empty(), &seen.len());
        for seen in seen {
            requests += 1;
            let what = format!("{name}: {} {} {}", seen.method, seen.path, seen.rpc());
            let leaked = [found(&seen, &inbound), found(&seen, &own_of_others(name))].concat();
            card.check(&what, leaked.is_empty(), &(leaked, &seen));
            let shown = seen.headers.get("authorization").map(String::as_str);
            card.check(&format!("{what}, its own"), shown == *own, &shown);
            for gone in ["cookie", "x-api-key", "proxy-authorization"] {
                card.check(&format!("{what}, {gone}"), !seen.headers.contains_key(gone), &seen.headers);
            }
        }
    }
    for seen in behind.tokens.seen() {
        let leaked = [found(&seen, &inbound), found(&seen, &own_of_others("tokens"))].concat();
        card.check("the token endpoint", leaked.is_empty(), &(leaked, &seen));
    }
    let child = std::fs::read_to_string(behind.gateway.home().join("seen.txt")).unwrap();
    let leaked: Vec<_> = inbound
        .iter()
        .chain(&own_of_others("child"))
        .filter(|text| child.contains(**text))
        .copied()
        .collect();
    card.check("the child", leaked.is_empty() && child.contains("own-of-child-Bv52rt"), &leaked);
    let control = through_a_naive_proxy(&inbound).await;
    card.check("positive control: a naive proxy passes them all", control.len() == 3, &control);
    card.pass(&format!("{requests} requests to 6 kinds of servers, each with its own credential or none"));
}

/// What a naive proxy passes on of the same.
async fn through_a_naive_proxy<'a>(inbound: &[&'a str]) -> Vec<&'a str> {
    let fake = recorder();
    let address = reqwest::Url::parse(&fake.url()).unwrap();
    let naive = Naive::before(address.socket_addrs(|| None).unwrap()[0], Believes::Length);
    let caller = Caller::new(&format!("http://{}/mcp", naive.address()))
        .bearer(KEY)
        .with("cookie", &format!("session={COOKIE}"))
        .with("proxy-authorization", &format!("Basic {PROXY}"));
    let answer = caller.post(&request(1, "tools/call", json!({"name": "echo"}))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let [seen] = fake.seen().try_into().unwrap();
    found(&seen, &inbound[..3])
}

#[test]
fn a_leak_would_be_found() {
    let headers = [("authorization".to_owned(), format!("Bearer {KEY}"))].into();
    let seen =
        Seen { number: 0, connection: 0, method: "POST".into(), path: "/".into(), headers, body: Vec::new() };
    assert_eq!(found(&seen, &[KEY, COOKIE]), [KEY]);
    let _: Value = seen.json();
}
