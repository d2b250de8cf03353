//! F14: the wall clock jumps by an hour and by a day, both ways, under a running gateway.
//! Not here: tokens in general (`tokens`), limits in general (`limits`).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::Card;
use crate::client::{Answer, Caller, SOON, request};
use crate::gateway::Gateway;
use crate::issuer::{Key, claims, key_set};
use crate::sim::{Manner, Sim};

const ISSUER: &str = "https://login.example.com";
const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
/// The deadline of a call of a silent server.
const RESPONSE: Duration = Duration::from_secs(1);

/// The library that gives a process another wall clock, as `scripts/prerequisites` installs it.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path());
    let places = folders.chain(["/usr/lib".into(), "/usr/local/lib".into()]);
    let mut found = places.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    found.find(|path| path.exists()).expect("faketime is not installed: scripts/prerequisites test")
}

/// A gateway whose wall clock is as the file says, and whose other clock is the machine's.
struct Shifted {
    gateway: Gateway,
    file: PathBuf,
    key: Key,
    _folder: tempfile::TempDir,
}

impl Shifted {
    fn start(sim: &Sim) -> Self {
        let (folder, key) = (tempfile::tempdir().unwrap(), Key::new("k1"));
        let (keys, file) = (folder.path().join("keys.json"), folder.path().join("clock"));
        std::fs::write(&keys, key_set(&[&key]).to_string()).unwrap();
        shift(&file, 0);
        let issuer = json!({"issuer": ISSUER, "audience": "gw", "algorithms": ["ES256"], "jwks_file": keys, "servers": ["*"]});
        let keys = json!([
            {"name": "steady", "key": "Rq7vB2mX9kT4wZ6n-steady", "servers": ["*"]},
            {"name": "scarce", "key": "Jd5hC8pL3sF1yG0u-scarce", "servers": ["*"], "limit": {"requests": 3, "per": "1h", "burst": 3}},
        ]);
        let conf = json!({"auth": {"issuers": [issuer], "keys": keys}, "drain": "5s", "session": {"ttl": "12h"},
            "log": {"audit": "stdout"}});
        let server = json!({"id": "it", "runtime": {"type": "remote-http", "url": sim.url()}, "health": {"type": "off"},
            "timeouts": {"response": "1s"}});
        let gateway = Gateway::with(&json!({"servers": [server]}).to_string())
            .conf(&conf.to_string())
            .env("LD_PRELOAD", library().to_str().unwrap())
            .env("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
            .start();
        Self { gateway, file, key, _folder: folder }
    }

    fn caller(&self) -> Caller {
        Caller::new(&self.gateway.url("it"))
    }

    /// A token that is good from and until so many seconds from the machine's own time.
    fn token(&self, from: i64, until: i64) -> String {
        let now = i64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
        self.key.sign(&claims(
            ISSUER,
            "gw",
            "ann",
            json!({"nbf": now + from, "iat": now + from, "exp": now + until}),
        ))
    }

    async fn with_token(&self, token: &str) -> u16 {
        ask(&self.caller().bearer(token)).await.status
    }
}

async fn ask(caller: &Caller) -> Answer {
    caller.modern_post(1, "tools/list", json!({})).await
}

fn shift(file: &Path, seconds: i64) {
    // A file that is half written would be no time at all.
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{seconds:+}s\n")).unwrap();
    std::fs::rename(new, file).unwrap();
}

#[tokio::test]
async fn f14_steps_of_the_clock_change_tokens_and_nothing_else() {
    let sim = Sim::start();
    let shifted = Shifted::start(&sim);
    let mut card = Card::new("F14");
    let good_now = shifted.token(-60, 600);
    let good_for_long = shifted.token(-2 * DAY, 2 * DAY);
    let good_tomorrow = shifted.token(DAY - HOUR, DAY + HOUR);
    let good_yesterday = shifted.token(-DAY - HOUR, -DAY + HOUR);
    let steady = shifted.caller().with("x-api-key", "Rq7vB2mX9kT4wZ6n-steady");
    let scarce = shifted.caller().with("x-api-key", "Jd5hC8pL3sF1yG0u-scarce");
    let (session, _) = steady.initialize().await;
    for n in 0..3 {
        let answer = ask(&scarce).await;
        card.check(&format!("scarce call {n}"), answer.status == 200, &answer);
    }
    let mut told = 0;
    let (mut quickest, mut slowest) = (Duration::MAX, Duration::ZERO);
    let steps = [0, HOUR, 0, DAY, 0, -DAY, 0, DAY, -DAY, -HOUR, 0];
    let mut before = 0;
    for (number, step) in steps.into_iter().enumerate() {
        let name = |what: &str| format!("step {number} to {step:+} s: {what}");
        // A call that waits while the clock jumps.
        sim.once_at("tools/call", Manner::Silent);
        let waiting = steady.clone();
        let asked = Instant::now();
        let call =
            tokio::spawn(async move { waiting.modern_post(7, "tools/call", json!({"name": "echo"})).await });
        let calls = number + 1;
        sim.until("the call", SOON, |facts| (facts.asked("tools/call") == calls).then_some(())).await;
        shift(&shifted.file, step);
        let answer = call.await.unwrap();
        let took = asked.elapsed();
        (quickest, slowest) = (quickest.min(took), slowest.max(took));
        card.check(
            &name("a deadline"),
            answer.status == 504 && took >= RESPONSE && took < SOON / 2,
            &(took, answer),
        );
        for (what, token, holds) in [
            ("a token for now", &good_now, step == 0),
            ("a token for long", &good_for_long, true),
            ("a token of tomorrow", &good_tomorrow, step == DAY),
            ("a token of yesterday", &good_yesterday, step == -DAY),
        ] {
            let status = shifted.with_token(token).await;
            card.check(&name(what), status == if holds { 200 } else { 401 }, &status);
        }
        let answer = ask(&scarce).await;
        card.check(&name("a bucket that is empty"), answer.status == 429, &answer);
        let answer = ask(&steady).await;
        card.check(&name("a key"), answer.status == 200, &answer);
        let answer = session.post(&request(1, "ping", json!({}))).await;
        card.check(
            &name("a session of twelve hours"),
            answer.status == if step == DAY { 404 } else { 200 },
            &answer,
        );
        if step != before {
            told += 1;
            let jump = step - before;
            let seen = |line: &Value| {
                line["type"] == "audit" && line["event"] == "clock" && is_about(&line["jump"], jump)
            };
            shifted.gateway.wait_for_log(&name("its audit line"), SOON, |line| seen(line).then_some(()));
        }
        before = step;
    }
    let metrics = reqwest::Client::new()
        .get(shifted.gateway.path("/metrics"))
        .header("x-api-key", "Rq7vB2mX9kT4wZ6n-steady");
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    card.check("no panic", metrics.contains("tollgate_panics_total 0"), &metrics.len());
    card.pass(&format!(
        "checks at {} steps of up to two days: tokens and sessions go by the clock, deadlines of 1 s take {:.1} to {:.1} s, an empty bucket stays empty; {told} jumps in the audit, no panic",
        steps.len(), quickest.as_secs_f64(), slowest.as_secs_f64(),
    ));
}

/// Whether `+86400 s` is that jump, give or take what was counted as time meanwhile.
fn is_about(said: &Value, jump: i64) -> bool {
    let said = said.as_str().and_then(|said| said.trim_end_matches(" s").parse::<i64>().ok());
    said.is_some_and(|said| (said - jump).abs() <= 5)
}
