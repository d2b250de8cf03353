//! S05: session ids cannot be guessed, forged, or used by anybody but their caller, at any server but theirs.
//! Not here: responses that reach the wrong client (`exchange`), callers' credentials (`keys`, `tokens`).

use std::collections::HashSet;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use reqwest::Method;
use serde_json::json;

use super::Card;
use crate::client::{Caller, LEGACY, request};
use crate::gateway::Gateway;
use crate::sim::Sim;

const ALICE: &str = "Rq7vB2mX9kT4wZ6n-alice";
const BOB: &str = "Jd5hC8pL3sF1yG0u-bob";
/// Ids of which the statistics are made.
const IDS: usize = 20_000;
/// 255 degrees of freedom: a fair byte is above this once in ten million times.
const CHI_SQUARE_MAX: f64 = 400.0;
/// A key id, a nonce, and what is sealed: the time, the owner, the endpoint, the server's own id, and a tag.
const NONCE: std::ops::Range<usize> = 1..25;

fn gateway(sim: &Sim, with_keys: bool, ttl: &str) -> Gateway {
    let server = |id: &str| json!({"id": id, "runtime": {"type": "remote-http", "url": sim.url()}, "health": {"type": "off"}});
    let mut conf = json!({"drain": "5s", "session": {"ttl": ttl}});
    if with_keys {
        let key = |name: &str, key: &str| json!({"name": name, "key": key, "servers": ["*"]});
        conf["auth"] = json!({"keys": [key("alice", ALICE), key("bob", BOB)]});
    }
    Gateway::with(&json!({"servers": [server("one"), server("two")]}).to_string())
        .conf(&conf.to_string())
        .start()
}

/// How uneven the values of a byte are.
fn chi_square(bytes: impl Iterator<Item = u8>) -> f64 {
    let mut counts = [0_u32; 256];
    let mut all = 0_u32;
    for byte in bytes {
        counts[usize::from(byte)] += 1;
        all += 1;
    }
    let expected = f64::from(all) / 256.0;
    counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum()
}

/// Opens sessions, several at a time, and gives their ids.
async fn ids(caller: &Caller, count: usize) -> Vec<String> {
    let hello =
        json!({"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}});
    let hello = request(0, "initialize", hello);
    let mut found = Vec::with_capacity(count);
    while found.len() < count {
        let answers = futures_util::future::join_all((0..32).map(|_| caller.post(&hello))).await;
        found.extend(answers.iter().map(|answer| answer.header("mcp-session-id").expect("an id").to_owned()));
    }
    found
}

#[tokio::test]
async fn s05_nothing_in_an_id_can_be_guessed() {
    let sim = Sim::start();
    let gateway = gateway(&sim, true, "1h");
    let alice = Caller::new(&gateway.url("one")).with("x-api-key", ALICE);
    let mut card = Card::new("S05");
    let ids = ids(&alice, IDS).await;
    let raw: Vec<Vec<u8>> = ids.iter().map(|id| BASE64.decode(id).unwrap()).collect();
    let apart: HashSet<&String> = ids.iter().collect();
    card.check("no id twice", apart.len() == ids.len(), &(apart.len(), ids.len()));
    let nonces: HashSet<&[u8]> = raw.iter().map(|id| &id[NONCE]).collect();
    card.check("no nonce twice", nonces.len() == raw.len(), &(nonces.len(), raw.len()));
    let shortest = raw.iter().map(Vec::len).min().unwrap();
    let mut worst: f64 = 0.0;
    // All that is sealed is as even as the nonce, though its text is nearly the same each time.
    for place in 1..shortest {
        let uneven = chi_square(raw.iter().map(|id| id[place]));
        worst = worst.max(uneven);
        card.check(&format!("byte {place}"), uneven < CHI_SQUARE_MAX, &uneven);
        // Nor does it follow from the byte of the id before.
        let follows = chi_square(raw.windows(2).map(|two| two[0][place] ^ two[1][place]));
        worst = worst.max(follows);
        card.check(&format!("byte {place} and the one before"), follows < CHI_SQUARE_MAX, &follows);
    }
    // The control: the key's id, which is no secret, is the same in all of them.
    let same = chi_square(raw.iter().map(|id| id[0]));
    card.check("the test tells what is not even", same > 1_000.0 * CHI_SQUARE_MAX, &same);
    for text in ["sim-", "alice", "one"] {
        let bare = raw.iter().zip(&ids).filter(|(raw, id)| {
            id.contains(text) || raw.windows(text.len()).any(|part| part == text.as_bytes())
        });
        // Three letters come up by chance.
        card.check(
            &format!("{text} is not in it"),
            bare.count() < if text.len() > 3 { 2 } else { 40 },
            &text,
        );
    }
    let length = ids.iter().map(String::len).max().unwrap();
    card.check("short", length <= 512, &length);
    card.pass(&format!("checks of {} ids of {length} characters: none twice, chi² of {} places at most {worst:.0} (line: {CHI_SQUARE_MAX})", ids.len(), shortest - 1));
}

#[tokio::test]
async fn s05_an_id_is_good_for_its_caller_at_its_server_until_it_is_old() {
    let sim = Sim::start();
    let gateway = gateway(&sim, true, "1h");
    let caller = |server: &str, key: &str| Caller::new(&gateway.url(server)).with("x-api-key", key);
    let (alice, _) = caller("one", ALICE).initialize().await;
    let id = alice.session().unwrap();
    let raw = BASE64.decode(&id).unwrap();
    let mut card = Card::new("S05");
    let mut wrong: Vec<(String, Caller, String)> = vec![
        ("another caller".into(), caller("one", BOB), id.clone()),
        ("another server".into(), caller("two", ALICE), id.clone()),
        ("another caller at another server".into(), caller("two", BOB), id.clone()),
        (
            "the server's own".into(),
            caller("one", ALICE),
            sim.look(|facts| facts.live.iter().next().unwrap().clone()),
        ),
        ("none of ours".into(), caller("one", ALICE), "7b6c0a1e-0d0f-4f7e-9d51-0c8a5f2f8a11".into()),
        ("longer".into(), caller("one", ALICE), format!("{id}AA")),
        ("padded".into(), caller("one", ALICE), format!("{id}=")),
        ("twice".into(), caller("one", ALICE), format!("{id}{id}")),
    ];
    for bit in 0..raw.len() * 8 {
        let mut forged = raw.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        wrong.push((format!("bit {bit}"), caller("one", ALICE), BASE64.encode(forged)));
    }
    for cut in 0..raw.len() {
        wrong.push((format!("{cut} bytes of it"), caller("one", ALICE), BASE64.encode(&raw[..cut])));
    }
    let before = sim.look(|facts| facts.requests.clone());
    let mut bodies = HashSet::new();
    for (number, (name, caller, id)) in wrong.iter().enumerate() {
        let caller = caller.clone().with("mcp-session-id", id).with("mcp-protocol-version", LEGACY);
        let answer = caller.post(&request(1, "tools/call", json!({"name": "echo", "arguments": {}}))).await;
        bodies.insert(answer.words());
        card.check(&format!("{name}: call"), answer.status == 404, &answer);
        if number < 8 {
            let resumed = caller.clone().with("last-event-id", "1");
            for (what, answer) in [
                ("stream", caller.send(Method::GET, Vec::new()).await),
                ("resumption", resumed.send(Method::GET, Vec::new()).await),
                ("end", caller.send(Method::DELETE, Vec::new()).await),
            ] {
                card.check(&format!("{name}: {what}"), answer.status == 404, &answer);
            }
        }
    }
    let after = sim.look(|facts| facts.requests.clone());
    card.check("nothing reached a server", before == after, &(before, after));
    card.check("all are refused in the same words", bodies.len() == 1, &bodies);
    let still = alice.post(&request(2, "ping", json!({}))).await;
    card.check("its caller still has it", still.status == 200, &still);
    let old = self::gateway(&sim, true, "1s");
    let (short, _) = Caller::new(&old.url("one")).with("x-api-key", ALICE).initialize().await;
    let since = std::time::Instant::now();
    let mut answer = short.post(&request(3, "ping", json!({}))).await;
    while answer.status == 200 && since.elapsed() < Duration::from_secs(20) {
        answer = short.post(&request(3, "ping", json!({}))).await;
    }
    card.check(
        "an old one is not found",
        answer.status == 404 && since.elapsed() > Duration::from_millis(500),
        &answer,
    );
    card.pass("ids that are not the caller's own, at this server, and young: not found, and nothing is sent");
}

/// The control: where nobody is told apart, whoever has an id has the session.
#[tokio::test]
async fn s05_without_callers_an_id_is_all_it_takes() {
    let sim = Sim::start();
    let gateway = gateway(&sim, false, "1h");
    let (alice, _) = Caller::new(&gateway.url("one")).initialize().await;
    let thief = Caller::new(&gateway.url("one"))
        .with("mcp-session-id", &alice.session().unwrap())
        .with("mcp-protocol-version", LEGACY);
    let answer = thief.post(&request(1, "ping", json!({}))).await;
    let mut card = Card::new("S05");
    card.check("taken", answer.status == 200, &answer);
    card.pass("id is enough where callers are not told apart");
}
