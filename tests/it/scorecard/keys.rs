//! S16: what is kept of an API key, what a wrong one tells about it, and how soon it stops.
//! Not here: routes without a key (`routes`), keys in what the gateway shows (`secrets`).

use std::future::Future as _;
use std::hint::black_box;
use std::process::Command;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tollgate::auth::{Authenticator, Presented};
use tollgate::conf;

use super::Card;
use crate::client::{Caller, request};
use crate::fake::{self, Fake};
use crate::gateway::Gateway;
use crate::packages;

/// Wrong keys of each kind, rounds of measurements, and looks in each.
const SAMPLES: usize = 24;
const ROUNDS: usize = 40;
const TRIES: usize = 20;
/// A difference that chance makes once in a hundred thousand runs; what side-channel laboratories use (TVLA).
const WELCH_T_MAX: f64 = 4.5;

/// A key as `tollgate key new` prints it, and the entry to paste.
struct Printed {
    key: String,
    entry: String,
    whole: String,
}

fn key_new(name: &str) -> Printed {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(["key", "new", "--name", name, "--servers", "it"]);
    let said = packages::run(command, Duration::from_secs(10));
    assert!(said.status.success(), "{}{}", said.stdout, said.stderr);
    let whole = said.stdout + &said.stderr;
    let key = whole
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .find(|word| word.starts_with("tollgate_"));
    let key = key.unwrap_or_else(|| panic!("no key in {whole}")).to_owned();
    let hash = whole
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == ':'))
        .find(|word| word.starts_with("sha256:"));
    Printed { key, entry: hash.unwrap_or_else(|| panic!("no hash in {whole}")).to_owned(), whole }
}

fn settings(keys: &[(&str, &str)]) -> String {
    let keys: Vec<Value> =
        keys.iter().map(|(name, hash)| json!({"name": name, "hash": hash, "servers": ["it"]})).collect();
    json!({"drain": "5s", "auth": {"keys": keys}}).to_string()
}

fn before(fake: &Fake, conf: &str) -> Gateway {
    let catalog = json!({"servers": [{"id": "it", "health": {"type": "off"}, "runtime": {"type": "remote-http", "url": fake.url()}}]});
    Gateway::with(&catalog.to_string()).conf(conf).start()
}

#[tokio::test]
async fn s16_only_the_hash_of_a_key_is_kept() {
    let mut card = Card::new("S16");
    let (a, b) = (key_new("a"), key_new("b"));
    card.check("two keys differ", a.key != b.key && a.entry != b.entry, &(&a.entry, &b.entry));
    card.check("the key is printed once", a.whole.matches(&a.key).count() == 1, &a.whole);
    // 256 bits in any alphabet of letters and digits are 43 characters.
    card.check("it is long enough", a.key.len() >= "tollgate_".len() + 43, &a.key);
    let fake = Fake::start(fake::legacy);
    let gateway = before(&fake, &settings(&[("a", &a.entry), ("b", &b.entry)]));
    let ping = request(1, "ping", json!({}));
    let door = Caller::new(&gateway.url("it"));
    for (name, key) in [("a", &a.key), ("b", &b.key)] {
        let (bearer, header) = (
            door.clone().bearer(key).post(&ping).await,
            door.clone().with("x-api-key", key).post(&ping).await,
        );
        card.check(name, bearer.status == 200 && header.status == 200, &(bearer, header));
    }
    let (prefix, hash) = (&a.key[..a.key.len() - 1], a.entry.trim_start_matches("sha256:"));
    let swapped = format!("{}{}", &a.key[..24], &b.key[24..]);
    for wrong in [
        prefix,
        hash,
        &a.entry,
        &swapped,
        &a.key.to_lowercase(),
        &format!("{}0", a.key),
        &format!(" {}", &b.key[1..]),
    ] {
        let answer = door.clone().bearer(wrong).post(&ping).await;
        card.check(&format!("{wrong:?}"), answer.status == 401, &answer);
    }
    // Ids are in the key, so that it can be found; trying them all tells nothing, whether one is known or not.
    let id = a.key.split('_').nth(1).unwrap_or_default();
    let known = door.clone().bearer(&format!("tollgate_{id}_{}", "0".repeat(48))).post(&ping).await;
    for n in 0..200 {
        let guess = format!("tollgate_{n:08}_{}", "0".repeat(48));
        let answer = door.clone().bearer(&guess).post(&ping).await;
        let same = (answer.status, answer.words()) == (known.status, known.words());
        card.check(&guess, answer.status == 401 && same, &(answer, &known));
    }
    let home = gateway.stop();
    let mut files = 0;
    let mut folders = vec![home.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if let Ok(bytes) = std::fs::read(entry.path()) {
                files += 1;
                let text = String::from_utf8_lossy(&bytes);
                let secret = a.key.rsplit('_').next().unwrap();
                card.check(&format!("{:?}", entry.path()), !text.contains(secret), &"it has the key");
            }
        }
    }
    card.check("positive control: the hash is in a file", files > 0, &files);
    card.pass(&format!("hashes alone in {files} files, 200 guessed ids are told nothing"));
}

#[tokio::test]
async fn s16_a_key_taken_away_is_refused_within_a_second() {
    let mut card = Card::new("S16");
    let (a, b) = (key_new("a"), key_new("b"));
    let fake = Fake::start(fake::legacy);
    let gateway = before(&fake, &settings(&[("a", &a.entry), ("b", &b.entry)]));
    let ping = request(1, "ping", json!({}));
    let door = Caller::new(&gateway.url("it"));
    let (taken, kept) = (door.clone().bearer(&a.key), door.bearer(&b.key));
    card.check(
        "both are good",
        taken.post(&ping).await.status == 200 && kept.post(&ping).await.status == 200,
        &"",
    );
    let started = Instant::now();
    gateway.edit_conf(&settings(&[("b", &b.entry)]));
    let answer = loop {
        let answer = taken.post(&ping).await;
        if answer.status != 200 || started.elapsed() > Duration::from_secs(20) {
            break answer;
        }
    };
    let after = started.elapsed();
    card.check("it is refused", answer.status == 401, &answer);
    card.check("within a second", after <= Duration::from_secs(1), &after);
    let answer = kept.post(&ping).await;
    card.check("positive control: the other is taken", answer.status == 200, &answer);
    card.pass(&format!("refused {after:.1?} after it was taken away"));
}

/// Wrong keys that share that many bytes with the right one; what follows is random, of the same length and alphabet.
fn wrong_keys(key: &str, shared: usize) -> Vec<String> {
    let alphabet = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let other = |right: u8| {
        let mut byte = [0];
        loop {
            getrandom::fill(&mut byte).unwrap();
            let letter = alphabet[usize::from(byte[0]) % alphabet.len()];
            if letter != right {
                return char::from(letter);
            }
        }
    };
    let tail = || key.bytes().skip(shared).map(other).collect::<String>();
    (0..SAMPLES).map(|_| format!("{}{}", &key[..shared], tail())).collect()
}

/// Nanoseconds of one look, for each wrong key of each kind: the median of many rounds. All kinds take turns, so that
/// whatever else the machine does falls on all alike.
fn measure<T>(wrong: &[Vec<T>], look: impl Fn(&T) -> bool) -> Vec<Vec<f64>> {
    let kinds = wrong.len();
    let mut times = vec![vec![Vec::new(); SAMPLES]; kinds];
    for round in 0..ROUNDS {
        for sample in 0..SAMPLES {
            for turn in 0..kinds {
                let kind = (turn + round + sample) % kinds;
                let started = Instant::now();
                for _ in 0..TRIES {
                    assert!(!black_box(look(black_box(&wrong[kind][sample]))));
                }
                times[kind][sample].push(started.elapsed().as_nanos() as f64 / TRIES as f64);
            }
        }
    }
    let median = |mut times: Vec<f64>| {
        times.sort_unstable_by(f64::total_cmp);
        times[times.len() / 2]
    };
    times.into_iter().map(|kind| kind.into_iter().map(median).collect()).collect()
}

fn mean(times: &[f64]) -> f64 {
    times.iter().sum::<f64>() / times.len() as f64
}

/// Welch's t of two samples: how far their means are apart, in standard errors.
fn welch(a: &[f64], b: &[f64]) -> f64 {
    let error = |times: &[f64]| {
        let mean = mean(times);
        let variance =
            times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (times.len() as f64 - 1.0);
        variance / times.len() as f64
    };
    (mean(a) - mean(b)) / (error(a) + error(b)).sqrt()
}

/// Whether the longest shared prefix takes longer than none, and how sure that is.
fn grows(times: &[Vec<f64>]) -> (bool, f64) {
    let t = welch(times.last().unwrap(), &times[0]);
    let means: Vec<f64> = times.iter().map(|times| mean(times)).collect();
    (t > WELCH_T_MAX && means.is_sorted(), t)
}

#[test]
fn s16_a_wrong_key_takes_as_long_whatever_it_shares_with_a_right_one() {
    let mut card = Card::new("S16");
    let key = format!("tollgate_Ab3dEf7h_{}", "Kp8sWq1eTx7uCv4mNb6aZr5yGk9jHd2fLc0i3o".repeat(2));
    let wrong: Vec<Vec<String>> = (0..=6).map(|part| wrong_keys(&key, (key.len() - 1) * part / 6)).collect();
    let headers = |key: &String| {
        let mut headers = http::HeaderMap::new();
        headers.insert("x-api-key", http::HeaderValue::from_str(key).unwrap());
        headers
    };
    let presented: Vec<Vec<http::HeaderMap>> =
        wrong.iter().map(|kind| kind.iter().map(headers).collect()).collect();
    let authenticator = authenticator(&key);
    card.check("the right one is taken", taken(&authenticator, &headers(&key)), &"");
    // Chance may look like a trend once; not three times.
    let mut last = (true, 0.0);
    for _ in 0..3 {
        if last.0 {
            last = grows(&measure(&presented, |headers| taken(&authenticator, headers)));
        }
    }
    card.check("no trend", !last.0, &last);
    let naive = |wrong: &String| {
        let mut same = true;
        for (a, b) in wrong.bytes().zip(key.bytes()) {
            same = black_box(a == b);
            if !same {
                break;
            }
        }
        same
    };
    let control = grows(&measure(&wrong, naive));
    card.check("positive control: a comparison byte by byte shows one", control.0, &control);
    card.pass(&format!(
        "Welch t {:.1} from no shared prefix to the longest, of a naive comparison {:.1}",
        last.1, control.1
    ));
}

fn authenticator(key: &str) -> Authenticator {
    let grant = conf::Grant { servers: vec!["*".into()], ..conf::Grant::default() };
    let key = conf::ApiKey {
        name: "a".into(),
        owner: None,
        key: conf::KeyMaterial::Plain(conf::Secret::new(key)),
        expires: None,
        grant,
    };
    let auth = conf::Auth { keys: vec![key], ..conf::Auth::default() };
    Authenticator::new(&conf::Access { auth, ..conf::Access::default() }, 100).unwrap()
}

/// Whether the function that every request goes through takes the key in these headers. It never waits for one.
fn taken(authenticator: &Authenticator, headers: &http::HeaderMap) -> bool {
    let presented = Presented::headers(headers);
    let asked = authenticator.authenticate(&presented);
    match std::pin::pin!(asked).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result.is_ok(),
        Poll::Pending => panic!("it waits"),
    }
}
