//! What a running gateway takes over from a changed `tollgate.yaml`, and the audit lines that tell of it.
//! Not here: the catalog's reloads (`load`), what settings mean (golden folders), each refusal (`hardening`, `scorecard`).

use std::time::Instant;

use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Caller, SOON, request};
use crate::gateway::Gateway;

const OLD: &str = "Rq7vB2mX9kT4wZ6n-old";
const NEW: &str = "Jd5hC8pL3sF1yG0u-new";

fn catalog() -> String {
    json!({"servers": [{
        "id": "local",
        "runtime": {"type": "local-process", "command": env!("CARGO_BIN_EXE_tollgate"), "args": ["sample", "stdio"]},
    }]})
    .to_string()
}

fn conf(key: &str, rest: &str) -> String {
    format!("auth: {{keys: [{{name: ann, key: {key}, servers: ['*']}}]}}\ndrain: 5s\n{rest}")
}

fn edit(gateway: &Gateway, text: &str) {
    let path = gateway.home().join("tollgate.yaml");
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

async fn status(gateway: &Gateway, key: &str) -> u16 {
    let caller = Caller::new(&gateway.path("/servers/local")).with("x-api-key", key);
    caller.send(Method::GET, Vec::new()).await.status
}

async fn reload(gateway: &Gateway) -> u16 {
    let caller = Caller::new(&gateway.path("/admin/reload")).with("x-api-key", OLD);
    caller.send(Method::POST, Vec::new()).await.status
}

/// Waits until that key is answered so.
#[track_caller]
fn becomes(gateway: &Gateway, key: &'static str, wanted: u16) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let since = Instant::now();
        loop {
            let found = status(gateway, key).await;
            if found == wanted {
                return;
            }
            assert!(since.elapsed() < SOON, "{caller}: {found}, not {wanted}, for {key}: {}", gateway.log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// Waits for a line of the log that contains `words`.
#[track_caller]
fn said(gateway: &Gateway, words: &str) {
    gateway.wait_for_log(words, SOON, |line| line.to_string().contains(words).then_some(()));
}

fn audit(gateway: &Gateway) -> Vec<Value> {
    let lines = gateway.log();
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["type"] == "audit").collect()
}

#[tokio::test]
async fn keys_and_limits_change_without_a_restart() {
    let gateway = Gateway::with(&catalog()).conf(&conf(OLD, "")).start();
    assert_eq!(status(&gateway, OLD).await, 200);
    edit(&gateway, &conf(NEW, ""));
    becomes(&gateway, NEW, 200).await;
    assert_eq!(status(&gateway, OLD).await, 403, "a key that was taken out");
    edit(&gateway, &conf(NEW, "limit: {requests: 1, per: 1h}\n"));
    becomes(&gateway, NEW, 429).await;
    edit(&gateway, &conf(NEW, "limit: {requests: 1000, per: 1s}\n"));
    becomes(&gateway, NEW, 200).await;
    gateway.stop();
}

#[tokio::test]
async fn a_wrong_file_and_one_without_credentials_change_nothing() {
    let gateway = Gateway::with(&catalog()).conf(&conf(OLD, "")).start();
    edit(&gateway, "auth: {keys: [{name: ann}]}\n");
    said(&gateway, "configuration was not reloaded");
    assert_eq!(status(&gateway, OLD).await, 200);
    edit(&gateway, "drain: 5s\n");
    said(&gateway, "no credential left");
    assert_eq!(status(&gateway, OLD).await, 200);
    let stranger = Caller::new(&gateway.path("/servers/local")).send(Method::GET, Vec::new()).await;
    assert_eq!(stranger.status, 401, "nobody is let in by a file that forgot its keys");
    assert_eq!(reload(&gateway).await, 500, "no credential left");
    let gone =
        "{issuer: 'https://i', audience: a, algorithms: [RS256], jwks_file: keys.json, servers: [local]}";
    std::fs::write(gateway.home().join("keys.json"), r#"{"keys": [{"kty": "oct", "k": "AA"}]}"#).unwrap();
    let with_issuer = conf(OLD, "").replace("auth: {", &format!("auth: {{issuers: [{gone}], "));
    edit(&gateway, &with_issuer);
    assert_eq!(reload(&gateway).await, 500, "an issuer's keys are none: {}", gateway.log());
    said(&gateway, "keys of issuer");
    edit(&gateway, &conf(OLD, ""));
    assert_eq!(reload(&gateway).await, 200);
    gateway.stop();
}

#[tokio::test]
async fn refusals_and_administrative_acts_are_audited_and_no_input_forges_a_line() {
    let gateway = Gateway::with(&catalog()).conf(&conf(OLD, "")).start();
    let forged = "x\",\"type\":\"audit\",\"event\":\"forged";
    let url = gateway.url("local");
    let wrong = Caller::new(&url)
        .with("x-api-key", "Rq7vB2mX9kT4wZ6n-bad")
        .post(&request(1, "ping", json!({})))
        .await;
    assert_eq!(wrong.status, 401);
    let path = gateway.path(&format!("/servers/{}/mcp", "a%0a%22,%22type%22:%22audit%22"));
    Caller::new(&path).with("x-api-key", OLD).post(&request(1, forged, json!({"name": forged}))).await;
    let start = Caller::new(&gateway.path("/servers/local/start")).with("x-api-key", OLD);
    assert_eq!(start.send(Method::POST, Vec::new()).await.status, 200);
    let start = Caller::new(&gateway.path("/servers/local/start")).with("x-request-id", "who-was-that");
    assert_eq!(start.send(Method::POST, Vec::new()).await.status, 401);
    said(&gateway, "who-was-that");
    edit(&gateway, &conf(NEW, ""));
    becomes(&gateway, NEW, 200).await;
    gateway.wait_for_log("a reload", SOON, |line| (line["event"] == "reload").then_some(()));
    let lines = audit(&gateway);
    let numbers: Vec<u64> = lines.iter().map(|line| line["number"].as_u64().unwrap()).collect();
    assert!(numbers.iter().enumerate().all(|(at, number)| *number == at as u64 + 1), "{numbers:?}");
    let count = |event: &str| lines.iter().filter(|line| line["event"] == event).count();
    assert_eq!(count("forged"), 0, "{lines:#?}");
    assert_eq!(count("admin"), 1, "{lines:#?}");
    assert!(count("refused") >= 3, "{lines:#?}");
    assert!(
        lines.iter().any(|line| line["reason"] == "bad_credential" && line["client"] == "127.0.0.1"),
        "{lines:#?}"
    );
    assert!(!gateway.log().contains(OLD), "a key is in the log");
    gateway.stop();
}
