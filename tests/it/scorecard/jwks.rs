//! S03: issuers whose key sets are asked for too often, change, lie or do not come.
//! Not here: tokens that are forged while the keys are there (`tokens`).

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::Card;
use crate::client::{Answer, Caller, request};
use crate::fake::{self, Act, Fake};
use crate::gateway::Gateway;
use crate::issuer::{Key, claims, key_set};

const AUDIENCE: &str = "tollgate";
/// Tokens with a `kid` that nobody knows, at once and in all.
const FLOOD: (usize, usize) = (16, 2000);
/// How long an issuer may be left alone before its key set is asked for again, and some time to ask.
const COOLED: Duration = Duration::from_secs(45);

/// What an issuer answers when it is asked for its keys.
#[derive(Clone)]
enum Mode {
    Keys(Value),
    Status(u16),
    Hang,
    Endless,
    Redirect(String),
    Text(&'static str),
}

/// An issuer whose answer the test changes.
struct Issuer {
    name: &'static str,
    fake: Fake,
    mode: Arc<Mutex<Mode>>,
    key: Key,
}

impl Issuer {
    fn start(name: &'static str) -> Self {
        let key = Key::new("first");
        let mode = Arc::new(Mutex::new(Mode::Keys(key_set(&[&key]))));
        let now = Arc::clone(&mode);
        let fake = Fake::start(move |_| match now.lock().unwrap().clone() {
            Mode::Keys(keys) => Act::Json(200, keys),
            Mode::Status(status) => Act::Status(status),
            Mode::Hang => Act::Hang,
            Mode::Endless => Act::Endless("application/json"),
            Mode::Redirect(url) => Act::JsonWith(302, vec![("location", url)], json!({})),
            Mode::Text(text) => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
                Act::Raw(format!("{head}content-length: {}\r\n\r\n{text}", text.len()).into_bytes())
            }
        });
        Self { name, fake, mode, key }
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn url(&self) -> String {
        format!("https://{}.example.com", self.name)
    }

    fn conf(&self) -> Value {
        let url = self.fake.url().replace("/mcp", "/jwks");
        json!({"issuer": self.url(), "audience": AUDIENCE, "algorithms": ["ES256"], "jwks_url": url, "servers": ["*"]})
    }

    /// A good token, whatever its claims are called.
    fn good(&self) -> String {
        self.key.sign(&claims(&self.url(), AUDIENCE, "alice", json!({})))
    }

    /// A token with a `kid` that the key set does not have.
    fn unknown(&self, kid: &str) -> String {
        self.key.sign_as(kid, &claims(&self.url(), AUDIENCE, "alice", json!({"kid": kid})))
    }

    fn asked(&self) -> usize {
        self.fake.seen().len()
    }
}

/// A gateway that trusts these issuers, before a server that answers everything.
struct Trusting {
    gateway: Gateway,
    _fake: Fake,
}

impl Trusting {
    fn start(issuers: &[&Issuer]) -> Self {
        let fake = Fake::start(fake::legacy);
        let conf = json!({"drain": "5s", "auth": {"issuers": issuers.iter().map(|issuer| issuer.conf()).collect::<Vec<_>>()}});
        let catalog = json!({"servers": [{"id": "it", "health": {"type": "off"}, "runtime": {"type": "remote-http", "url": fake.url()}}]});
        Self { gateway: Gateway::with(&catalog.to_string()).conf(&conf.to_string()).start(), _fake: fake }
    }

    fn caller(&self) -> Caller {
        Caller::new(&self.gateway.url("it"))
    }

    async fn show(&self, token: &str) -> Answer {
        self.caller().bearer(token).post(&request(1, "ping", json!({}))).await
    }

    /// Shows many tokens, some at once, and in between a good one again and again. Gives the statuses of the many,
    /// and how long the good one took each time.
    async fn flood(&self, tokens: Vec<String>, good: &str) -> (Vec<u16>, Vec<Duration>) {
        let caller = self.caller();
        let ping = request(1, "ping", json!({}));
        let done = std::cell::Cell::new(false);
        let many = async {
            let shown = futures_util::stream::iter(tokens).map(|token| {
                let (caller, ping) = (caller.clone().bearer(&token), &ping);
                async move { caller.post(ping).await.status }
            });
            let statuses = shown.buffer_unordered(FLOOD.0).collect::<Vec<_>>().await;
            done.set(true);
            statuses
        };
        let one = async {
            let (caller, mut times) = (caller.clone().bearer(good), Vec::new());
            while !done.get() {
                let started = Instant::now();
                assert_eq!(caller.post(&ping).await.status, 200, "a good token is refused during the flood");
                times.push(started.elapsed());
            }
            times
        };
        tokio::join!(many, one)
    }
}

fn p99(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

#[tokio::test]
async fn s03_unknown_keys_are_not_asked_for_again_and_again() {
    let mut card = Card::new("S03");
    let issuer = Issuer::start("flooded");
    let trusting = Trusting::start(&[&issuer]);
    let good = issuer.good();
    let first = trusting.show(&good).await;
    card.check("a good token", first.status == 200, &first);
    let before = issuer.asked();
    // The same load with a `kid` that is known: what checking tokens costs without asking for keys.
    let known = (0..FLOOD.1).map(|n| format!("{}{n}", issuer.good())).collect();
    let (refused, mut times) = trusting.flood(known, &good).await;
    card.check("bad signatures are refused", refused.iter().all(|status| *status == 401), &refused);
    let calm = p99(&mut times);
    // While the issuer is asked for unknown keys it does not answer: whoever waits for it must not keep others waiting.
    issuer.set(Mode::Hang);
    let unknown = (0..FLOOD.1).map(|n| issuer.unknown(&format!("kid-{n}"))).collect();
    let started = Instant::now();
    let (refused, mut times) = trusting.flood(unknown, &good).await;
    let took = started.elapsed();
    card.check("unknown keys are refused", refused.iter().all(|status| *status == 401), &refused);
    let asked = issuer.asked() - before;
    let allowed = 1 + usize::try_from(took.as_secs() / 30).unwrap();
    card.check("at most one fetch for each cool-down", asked <= allowed, &asked);
    let busy = p99(&mut times);
    // On a machine that does other things, too, a few milliseconds say nothing.
    let bound = 2 * calm + Duration::from_millis(20);
    card.check("good tokens do not wait", busy <= bound, &(busy, calm));
    issuer.set(Mode::Keys(key_set(&[&issuer.key])));
    let naive = naive(&issuer, 50).await;
    card.check("positive control: a naive verifier asks each time", naive == 50, &naive);
    card.pass(&format!("{asked} fetches for {} unknown keys in {took:.1?}; p99 of good tokens {busy:.1?}, with known keys {calm:.1?}", FLOOD.1));
}

/// How often a verifier without a cool-down asks for keys when it is shown so many tokens with unknown ones.
async fn naive(issuer: &Issuer, tokens: usize) -> usize {
    let before = issuer.asked();
    for n in 0..tokens {
        let keys = Caller::new(&issuer.fake.url()).send(reqwest::Method::GET, Vec::new()).await.json();
        assert!(keys["keys"].as_array().unwrap().iter().all(|key| key["kid"] != format!("kid-{n}")));
    }
    issuer.asked() - before
}

/// Shows unknown keys until the issuer has been asked again, and then the good token.
async fn asked_again(trusting: &Trusting, issuer: &Issuer, before: usize) -> (Vec<u16>, Answer) {
    let deadline = Instant::now() + COOLED;
    let (mut statuses, mut number) = (Vec::new(), 0);
    while issuer.asked() == before {
        assert!(Instant::now() < deadline, "{} was not asked again within {COOLED:?}", issuer.name);
        number += 1;
        statuses.push(trusting.show(&issuer.unknown(&format!("later-{number}"))).await.status);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    statuses.push(trusting.show(&issuer.unknown("once-more")).await.status);
    (statuses, trusting.show(&issuer.good()).await)
}

#[tokio::test]
async fn s03_the_last_good_keys_are_kept_and_new_ones_found() {
    let mut card = Card::new("S03");
    let names = ["broken", "slow", "endless", "moved", "empty", "babbling", "many"];
    let bad = names.map(Issuer::start);
    let rotated = Issuer::start("rotated");
    let target = Issuer::start("target");
    let all: Vec<&Issuer> = bad.iter().chain([&rotated]).collect();
    let trusting = Trusting::start(&all);
    for issuer in &all {
        let answer = trusting.show(&issuer.good()).await;
        card.check(&format!("{}, while it is well", issuer.name), answer.status == 200, &answer);
    }
    let asked: Vec<usize> = all.iter().map(|issuer| issuer.asked()).collect();
    let next = Key::new("next");
    let many: Vec<Key> = (0..101).map(|n| Key::new(&format!("many-{n}"))).collect();
    let modes = [
        Mode::Status(500),
        Mode::Hang,
        Mode::Endless,
        Mode::Redirect(target.fake.url()),
        Mode::Keys(json!({"keys": []})),
        Mode::Text("<html>not found</html>"),
        Mode::Keys(key_set(&many.iter().collect::<Vec<_>>())),
    ];
    for (issuer, mode) in bad.iter().zip(modes) {
        issuer.set(mode);
    }
    rotated.set(Mode::Keys(key_set(&[&rotated.key, &next])));
    let turned = Instant::now();
    let resident = resident(&trusting.gateway);
    let tried = bad.iter().zip(&asked).map(|(issuer, before)| asked_again(&trusting, issuer, *before));
    let new = next.sign(&claims(&rotated.url(), AUDIENCE, "alice", json!({})));
    let rotation = async {
        loop {
            let answer = trusting.show(&new).await;
            if answer.status == 200 || turned.elapsed() > COOLED {
                return (answer, turned.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let (tried, (found, after)) = tokio::join!(futures_util::future::join_all(tried), rotation);
    for (issuer, (statuses, good)) in bad.iter().zip(tried) {
        let refused = statuses.iter().all(|status| *status == 401);
        card.check(&format!("{}: unknown keys are refused", issuer.name), refused, &statuses);
        card.check(&format!("{}: the last good key is kept", issuer.name), good.status == 200, &good);
    }
    card.check("a new key is found", found.status == 200, &found);
    let old = trusting.show(&rotated.good()).await;
    card.check("the old key beside it", old.status == 200, &old);
    card.check("nobody follows a redirect", target.asked() == 0, &target.asked());
    let grown = self::resident(&trusting.gateway).saturating_sub(resident);
    card.check("an endless answer is given up", grown < 16 << 10, &grown);
    let control = reqwest::get(bad[3].fake.url()).await.unwrap().status();
    card.check(
        "positive control: a naive client follows the redirect",
        control == 200 && target.asked() == 1,
        &control,
    );
    card.pass(&format!(
        "7 bad answers, last good keys kept; a new key after {after:.1?}, memory + {grown} KiB"
    ));
}

#[tokio::test]
async fn s03_an_issuer_without_keys_refuses_its_own_tokens_only() {
    let mut card = Card::new("S03");
    let names = ["broken", "slow", "moved", "empty", "babbling"];
    let bad = names.map(Issuer::start);
    let target = Issuer::start("target");
    let well = Issuer::start("well");
    let modes = [
        Mode::Status(500),
        Mode::Hang,
        Mode::Redirect(target.fake.url()),
        Mode::Keys(json!({"keys": []})),
        Mode::Text("<html>not found</html>"),
    ];
    for (issuer, mode) in bad.iter().zip(modes) {
        issuer.set(mode);
    }
    let trusting = Trusting::start(&bad.iter().chain([&well]).collect::<Vec<_>>());
    let tokens: Vec<String> = bad.iter().map(Issuer::good).collect();
    let refused = futures_util::future::join_all(tokens.iter().map(|token| trusting.show(token)));
    let good = well.good();
    let (refused, answer) = tokio::join!(refused, trusting.show(&good));
    for (issuer, refused) in bad.iter().zip(refused) {
        // It cannot be told whether the token is good: that is nobody's fault, and may be tried again.
        card.check(issuer.name, refused.status == 503 && refused.header("retry-after").is_some(), &refused);
    }
    card.check("an issuer that is well", answer.status == 200, &answer);
    card.check("nobody follows a redirect", target.asked() == 0, &target.asked());
    card.pass("5 issuers without keys refuse their own tokens, another's are taken");
}

/// Memory of the gateway in KiB.
fn resident(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
