//! F08: what networks do to calls. Each gets an error of ours within its deadline, and the next call is well again.
//! Not here: connections that break at a byte (`once`), servers that lie (`hostile`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::Card;
use crate::breaks::{Ask, Told, told};
use crate::client::{Caller, SOON};
use crate::gateway::Gateway;
use crate::sim::{Door, End, Kind, Manner, Sim};

/// Deadlines of each server in the test.
const CONNECT: Duration = Duration::from_millis(400);
const RESPONSE: Duration = Duration::from_millis(600);
const IDLE: Duration = Duration::from_millis(600);
const TOTAL: Duration = Duration::from_millis(1_500);
/// What a busy machine may add to a deadline, beside a tenth of it.
const SLACK: Duration = Duration::from_secs(3);
/// How often a server's health is looked at, where it is.
const PROBE: Duration = Duration::from_secs(1);

fn server(id: &str, url: &str) -> Value {
    let ms = |time: Duration| format!("{}ms", time.as_millis());
    let timeouts =
        json!({"connect": ms(CONNECT), "response": ms(RESPONSE), "idle": ms(IDLE), "total": ms(TOTAL)});
    json!({"id": id, "runtime": {"type": "remote-http", "url": url}, "health": {"type": "off"}, "timeouts": timeouts})
}

/// One toxic: what it does, what the caller is told, and within which deadline.
struct Toxic {
    name: &'static str,
    poison: Box<dyn Fn(&Sim)>,
    reasons: &'static [&'static str],
    within: Duration,
}

fn toxic(
    name: &'static str,
    within: Duration,
    reasons: &'static [&'static str],
    poison: impl Fn(&Sim) + 'static,
) -> Toxic {
    Toxic { name, poison: Box::new(poison), reasons, within }
}

/// Whether an idle connection's end was seen in time, and whether a reset came within the handshake, is chance.
const REFUSED: &[&str] = &["no_healthy_endpoint", "connection_broke"];

fn toxics() -> Vec<Toxic> {
    let at_call = |manner: Manner| move |sim: &Sim| sim.be_at("tools/call", manner.clone());
    // Behind the head of an answer: its length is that of the shortest head.
    let behind_head = Manner::Cut(120, End::Stall);
    vec![
        toxic("refused", CONNECT, REFUSED, |sim| {
            sim.crash();
        }),
        toxic("black hole", RESPONSE, &["timeout", "connection_broke"], |sim| {
            sim.reset();
            sim.door(Door::Blackhole);
        }),
        toxic("reset when connected", RESPONSE, REFUSED, |sim| {
            sim.reset();
            sim.door(Door::Reset);
        }),
        toxic("half-open", RESPONSE, &["timeout"], Sim::freeze),
        toxic("5 s late", RESPONSE, &["timeout"], at_call(Manner::Late(Duration::from_secs(5)))),
        toxic("silent", RESPONSE, &["timeout"], at_call(Manner::Silent)),
        toxic("stalls in the head", RESPONSE, &["timeout"], at_call(Manner::Cut(20, End::Stall))),
        toxic("stalls behind the head", RESPONSE + IDLE, &["timeout"], at_call(behind_head)),
        toxic(
            "a byte each 100 ms",
            TOTAL + RESPONSE,
            &["timeout"],
            at_call(Manner::Drip(1, Duration::from_millis(100))),
        ),
        toxic("breaks in the head", RESPONSE, &["connection_broke"], at_call(Manner::Cut(20, End::Reset))),
    ]
}

#[tokio::test]
async fn f08_a_toxic_network_is_an_error_in_time_and_poisons_no_pool() {
    let sim = Sim::start();
    let gateway = Gateway::start(&json!({"servers": [server("it", &sim.url())]}).to_string());
    let mut card = Card::new("F08");
    let mut slowest = Duration::ZERO;
    for kind in [Kind::Json, Kind::Events] {
        for modern in [true, false] {
            for Toxic { name, poison, reasons, within } in toxics() {
                sim.heal();
                sim.answers_in(kind);
                let caller = Caller::new(&gateway.url("it"));
                let caller = if modern { caller } else { caller.initialize().await.0 };
                let ask = Ask { caller, modern };
                let n = format!("{name} {kind:?} {modern}");
                poison(&sim);
                let asked = Instant::now();
                let answer = ask.call(&n).await;
                let took = asked.elapsed();
                slowest = slowest.max(took.saturating_sub(within));
                let mut wrong = Vec::new();
                match told(&answer, &n) {
                    Told::Error { reason, .. } if reasons.contains(&reason.as_str()) => {}
                    other => wrong.push(format!("told {other:?}: {answer:?}")),
                }
                if took > within.mul_f64(1.1) + SLACK {
                    wrong.push(format!("after {took:?}"));
                }
                sim.heal();
                // A new session: a crash has lost the old one, which is another test's.
                let caller = Caller::new(&gateway.url("it"));
                for again in 0..3 {
                    let n = format!("{n} again {again}");
                    let after = Ask { caller: caller.clone(), modern: true }.call(&n).await;
                    if told(&after, &n) != Told::Result {
                        wrong.push(format!("poisoned: {after:?}"));
                    }
                }
                card.case(&n, &wrong);
            }
        }
    }
    // Slow, and within its deadlines: it is no failure.
    for (name, manner) in
        [("slices", Manner::Drip(1, Duration::ZERO)), ("1 kB/s", Manner::Drip(30, Duration::from_millis(30)))]
    {
        for kind in [Kind::Json, Kind::Events] {
            sim.answers_in(kind);
            sim.be_at("tools/call", manner.clone());
            let ask = Ask { caller: Caller::new(&gateway.url("it")), modern: true };
            let n = format!("{name} {kind:?}");
            let answer = ask.call(&n).await;
            card.check(&n, told(&answer, &n) == Told::Result, &answer);
        }
    }
    let most = sim.look(|facts| facts.most());
    card.check("no call ran twice", most == 1, &most);
    card.pass(&format!(
        "toxics × eras × framings: at most {:.1} s past the deadline, well again with the next call",
        slowest.as_secs_f64()
    ));
}

/// An address at which connections hang: its queue is full, and nobody takes any.
struct Hole {
    address: SocketAddr,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Hole {
    async fn dig() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        let full = Duration::from_millis(200);
        while let Ok(connected) = tokio::time::timeout(full, TcpStream::connect(address)).await {
            waiting.push(connected.unwrap());
        }
        Self { address, _listener: listener, _waiting: waiting }
    }
}

#[tokio::test]
async fn f08_an_endpoint_that_hangs_at_connecting_is_passed_over_in_time() {
    let (hole, sim) = (Hole::dig().await, Sim::start());
    let mut both = server("both", "http://unused");
    both["runtime"] = json!({"type": "remote-http", "endpoints": [{"url": format!("http://{}/mcp", hole.address)}, {"url": sim.url()}]});
    both["timeouts"]["response"] = json!("5s");
    let hung = server("hung", &format!("http://{}/mcp", hole.address));
    let gateway = Gateway::start(&json!({"servers": [both, hung]}).to_string());
    let mut card = Card::new("F08");
    for n in 0..4 {
        let n = format!("call {n}");
        let asked = Instant::now();
        let answer = Ask { caller: Caller::new(&gateway.url("both")), modern: true }.call(&n).await;
        let fine = told(&answer, &n) == Told::Result && asked.elapsed() < CONNECT + SLACK;
        card.check(&n, fine, &(asked.elapsed(), answer));
    }
    let asked = Instant::now();
    let answer = Ask { caller: Caller::new(&gateway.url("hung")), modern: true }.call("hung").await;
    let in_time = asked.elapsed() < CONNECT.mul_f64(1.1) + SLACK;
    card.check("hung", in_time && answer.status == 503, &(asked.elapsed(), answer));
    card.pass("calls of an endpoint at which connecting hangs");
}

/// An authority, and a server with a certificate of it.
struct Secure(CertifiedIssuer<'static, KeyPair>);

impl Secure {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn server(&self, name: &str, last_year: i32) -> Sim {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(last_year, 1, 1));
        let signed = params.signed_by(&key, &self.0).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = builder.with_no_client_auth().with_single_cert(vec![signed.der().clone()], key).unwrap();
        Sim::start_tls(Arc::new(config))
    }
}

#[tokio::test]
async fn f08_a_certificate_that_is_not_right_is_sent_nothing() {
    let (known, stranger) = (Secure::new(), Secure::new());
    let cases = [
        ("right", known.server("127.0.0.1", 2100), true),
        ("expired", known.server("127.0.0.1", 2021), false),
        ("another-name", known.server("other.example", 2100), false),
        ("another-authority", stranger.server("127.0.0.1", 2100), false),
    ];
    let home = tempfile::TempDir::with_prefix("tollgate-it-").unwrap();
    let trusted = home.path().join("trusted.pem");
    std::fs::write(&trusted, known.0.pem()).unwrap();
    let patient = |(id, sim, _): &(&str, Sim, bool)| {
        let mut server = server(id, &sim.url());
        // Handshakes take their time in a build that is not optimised.
        server["timeouts"]["response"] = json!("10s");
        server
    };
    let servers: Vec<Value> = cases.iter().map(patient).collect();
    let gateway = Gateway::with(&json!({"servers": servers}).to_string())
        .home(home)
        .env("SSL_CERT_FILE", trusted.to_str().unwrap())
        .start();
    let mut card = Card::new("F08");
    for (id, sim, good) in &cases {
        for n in 0..3 {
            let n = format!("{id} {n}");
            let asked = Instant::now();
            let answer = Ask { caller: Caller::new(&gateway.url(id)), modern: true }.call(&n).await;
            let right = match told(&answer, &n) {
                Told::Result => *good,
                Told::Error { reason, .. } => {
                    !*good && reason == "no_healthy_endpoint" && answer.status == 503
                }
                Told::Nothing => false,
            };
            card.check(&n, right && asked.elapsed() < SOON, &answer);
        }
        let sent: usize = sim.look(|facts| facts.requests.values().sum());
        card.check(&format!("{id} got"), (sent > 0) == *good, &sent);
    }
    card.pass("calls by TLS: a certificate that is expired or another's is sent nothing");
}

/// A server that was found dead by its checks is back with the first check after it is.
#[tokio::test]
async fn f08_a_server_that_is_back_is_found_by_the_next_check() {
    let sim = Sim::start();
    let mut probed = server("it", &sim.url());
    probed["health"] = json!({"type": "tcp", "interval": format!("{}s", PROBE.as_secs())});
    let gateway = Gateway::start(&json!({"servers": [probed]}).to_string());
    let ask = Ask { caller: Caller::new(&gateway.url("it")), modern: true };
    ask.call("before").await.result();
    sim.crash();
    let down = format!("{}{}", "tollgate_server_up{server=\"it\"}", " 0");
    let since = Instant::now();
    loop {
        let metrics = reqwest::get(gateway.path("/metrics")).await.unwrap().text().await.unwrap();
        if metrics.contains(&down) {
            break;
        }
        assert!(since.elapsed() < SOON, "the checks do not notice");
        tokio::task::yield_now().await;
    }
    sim.heal();
    let healed = Instant::now();
    let mut count = 0;
    while told(&ask.call(&format!("after {count}")).await, &format!("after {count}")) != Told::Result {
        assert!(healed.elapsed() < SOON, "it does not come back");
        count += 1;
    }
    let took = healed.elapsed();
    let mut card = Card::new("F08");
    card.check("back", took < PROBE + SLACK, &took);
    card.pass(&format!(
        "server is back {:.1} s after it is well, with checks each second",
        took.as_secs_f64()
    ));
}

/// The control: without a deadline a silent server is waited for.
#[tokio::test]
async fn f08_without_deadlines_a_silent_server_is_waited_for() {
    let sim = Sim::start();
    let mut patient = server("it", &sim.url());
    patient["timeouts"] = json!({"response": "60s"});
    let gateway = Gateway::start(&json!({"servers": [patient]}).to_string());
    sim.be_at("tools/call", Manner::Silent);
    let (caller, body) = Caller::new(&gateway.url("it")).modern(7, "tools/call", json!({"name": "echo"}));
    let waited = tokio::time::timeout(RESPONSE.mul_f64(2.0), caller.post(&body)).await;
    let mut card = Card::new("F08");
    card.check("nothing came", waited.is_err(), &waited);
    card.pass("call of a silent server without a deadline is waited for");
}
