//! S02: forged tokens.
//! Not here: what is forged and how (`tests/interop/forge.py`), issuers whose keys cannot be had (`jwks`).

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::Card;
use crate::client::{Caller, request};
use crate::fake::{self, Fake};
use crate::gateway::{Gateway, free_port};
use crate::packages;

const ISSUER: &str = "https://login.example.com";
/// The secret of another issuer of the same gateway.
const SECRET: &str = "kf83nV0q2LxZs7Rt5Wc9Yb1Ha4Jd6Mg8";

/// A listener that nobody should ever connect to.
struct Canary {
    address: std::net::SocketAddr,
    hits: Arc<AtomicUsize>,
}

impl Canary {
    fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let hits = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&hits);
        // Ends with the test run: it holds nothing but a socket.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                counting.fetch_add(1, Ordering::SeqCst);
                drop(stream);
            }
        });
        Self { address, hits }
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

fn forge(audience: &str, canary: &Canary) -> Value {
    let mut command = Command::new(packages::python());
    command.arg(packages::folder().join("forge.py")).args(["--issuer", ISSUER, "--audience", audience]);
    command.args(["--other-secret", SECRET, "--canary", &format!("http://{}", canary.address)]);
    let said = packages::run(command, Duration::from_secs(60));
    assert!(said.status.success(), "{}{}", said.stdout, said.stderr);
    serde_json::from_str(&said.stdout).unwrap()
}

fn before(fake: &Fake, port: u16, jwks: &Value) -> Gateway {
    let home = TempDir::with_prefix("tollgate-it-").unwrap();
    std::fs::write(home.path().join("jwks.json"), jwks.to_string()).unwrap();
    let conf = json!({
        "drain": "5s",
        "public_url": format!("http://127.0.0.1:{port}"),
        "auth": {"issuers": [
            {"issuer": ISSUER, "algorithms": ["RS256", "ES256", "EdDSA"], "jwks_file": "jwks.json", "servers": ["*"]},
            {"issuer": "https://other.example.com", "algorithms": ["HS256"], "secret": SECRET, "servers": ["*"]},
        ]},
    });
    let catalog = json!({"servers": [{"id": "it", "health": {"type": "off"}, "runtime": {"type": "remote-http", "url": fake.url()}}]});
    Gateway::with(&catalog.to_string()).conf(&conf.to_string()).home(home).port(port).start()
}

#[tokio::test]
async fn s02_no_forged_token_opens_a_door() {
    let port = free_port();
    let door = format!("http://127.0.0.1:{port}/servers/it/mcp");
    let canary = Canary::start();
    let forged = forge(&door, &canary);
    // The positive control: every forgery is taken by somebody, and the careless verifier asks where it is told to.
    let asked = canary.hits();
    assert_eq!(asked, 4, "the careless verifier asks for keys where the token says");
    let fake = Fake::start(fake::legacy);
    let gateway = before(&fake, port, &forged["jwks"]);
    let call = request(1, "tools/call", json!({"name": "echo", "arguments": {}}));
    let mut card = Card::new("S02");
    let (mut verifier, mut decoder) = (0, 0);
    for row in forged["forged"].as_array().unwrap() {
        let (name, token) = (row[0].as_str().unwrap(), row[1].as_str().unwrap());
        match row[2].as_str() {
            Some("verifier") => verifier += 1,
            Some("decoder") => decoder += 1,
            _ => card.check(name, false, &"nobody takes it: not an attack"),
        }
        let answer = Caller::new(&door).with("authorization", &format!("Bearer {token}")).post(&call).await;
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        let refused = answer.status == 401 && challenge.starts_with("Bearer ");
        card.check(name, refused && fake.seen().is_empty(), &answer);
        let keyed = Caller::new(&door).with("x-api-key", token).post(&call).await;
        card.check(&format!("{name}, as a key"), keyed.status == 401 && fake.seen().is_empty(), &keyed);
    }
    card.check("nobody asked the canary", canary.hits() == asked, &canary.hits());
    let good = forged["good"].as_object().unwrap();
    for (name, token) in good {
        let caller = Caller::new(&door).with("authorization", &format!("Bearer {}", token.as_str().unwrap()));
        let answer = caller.post(&call).await;
        card.check(&format!("good: {name}"), answer.status == 200, &answer);
    }
    card.check("the good ones reached the server", fake.seen().len() == good.len(), &fake.seen().len());
    let log = gateway.log();
    let told =
        forged["forged"].as_array().unwrap().iter().filter(|row| log.contains(row[1].as_str().unwrap()));
    card.check("no token in the log", told.count() == 0, &"a token is in the log");
    card.pass(&format!(
        "{} forgeries refused ({verifier} of them taken by a careless verifier, {decoder} by a decoder), {} good tokens taken",
        verifier + decoder,
        good.len()
    ));
}
