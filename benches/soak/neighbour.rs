//! L07: one caller at twenty times its limit, and a million addresses with a million wrong keys, beside one that behaves.
//! Not here: the one that behaves (`good`), whom no limit concerns.
//!
//! The calm comes first and is the yardstick. Then the noisy caller, alone; then the million addresses, which fill the
//! limiter; then the noisy caller again, on the full limiter.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval, sleep};

use crate::gateway::Gateway;
use crate::{Failure, Options, Verdict, good, upstream};

/// The noisy caller's limit, in calls each second, and how often it calls.
const LIMIT: u64 = 50;
const TIMES: u64 = 20;
const NOISY_KEY: &str = "Nq7vB2mX9kT4wZ6nP3cL8dR5";
const NOISY_CONNECTIONS: u64 = 8;
/// Addresses, each with a wrong key of its own.
const STRANGERS: u64 = 1_000_000;
const STRANGER_CONNECTIONS: u64 = 32;
/// Clients that behave.
const GOOD_CLIENTS: usize = 8;
/// A bucket begins full: what is saved up is spent before anything is counted.
const SPENDING: Duration = Duration::from_secs(3);
/// How much longer a call of the one that behaves may take.
const SLOWER_MAX: f64 = 1.5;
/// What is let through of the noisy caller may differ from its limit by so much.
const ERROR_MAX: f64 = 0.05;
/// What a million buckets may cost, and what they cannot cost less than: keys and values.
const MEMORY_KIB_MAX: u64 = 64 << 10;
const MEMORY_KIB_MIN: u64 = 16_000_000 >> 10;

/// Tokens of an address come back so slowly that a stranger's bucket stays in memory for the whole run.
fn conf() -> String {
    format!(
        "auth:
  anonymous: {{servers: ['*']}}
  keys: [{{name: noisy, key: {NOISY_KEY}, servers: ['*'], limit: {{requests: {LIMIT}, per: 1s}}}}]
address_limit: {{requests: 30, per: 1h, burst: 1000000}}
trusted_proxies: [127.0.0.1/32]
limits: {{buckets: {STRANGERS}}}
log: {{level: error, audit: off}}"
    )
}

/// What the noisy caller was told.
#[derive(Default)]
struct Told {
    passed: AtomicU64,
    refused: AtomicU64,
    other: AtomicU64,
}

/// Stands it and says how.
pub(crate) async fn stand(options: &Options) -> Result<Verdict, Failure> {
    let behind = upstream::start().await?;
    let catalog = serde_json::json!({"servers": [{
        "id": "soak",
        "runtime": {"type": "remote-http", "url": format!("http://{behind}/mcp")},
        "health": {"type": "off"},
    }]});
    let gateway = Gateway::start(&options.tollgate, &conf(), &catalog.to_string())?;
    let address = gateway.address;
    let time = options.time() / 3;
    let mut calm = good::call(address, GOOD_CLIENTS, time).await;
    let (mut first, first_error) = beside_noise(address, time).await?;
    let before = gateway.resident_kib()?;
    let begun = Instant::now();
    let refused = strangers(address).await?;
    let took = begun.elapsed();
    let memory = gateway.resident_kib()?.saturating_sub(before);
    let (mut second, second_error) = beside_noise(address, time).await?;
    let yardstick = calm.p99().as_secs_f64().max(1e-4);
    let slower = first.p99().max(second.p99()).as_secs_f64() / yardstick;
    let error = if first_error.abs() > second_error.abs() { first_error } else { second_error };
    let bad = calm.bad + first.bad + second.bad;
    let pass = slower <= SLOWER_MAX
        && error.abs() <= ERROR_MAX
        && (MEMORY_KIB_MIN..=MEMORY_KIB_MAX).contains(&memory)
        && refused == STRANGERS
        && bad == 0;
    let why = [calm.first.take(), first.first.take(), second.first.take()].into_iter().flatten().next();
    let figure = format!(
        "neighbour's p99 {:.2} ms, beside noise {:.2} ms, on a full limiter {:.2} ms ({slower:.2} times at most); limit \
         off by {:+.1} %; {refused} addresses in {:.0} s took {} MiB; {bad} calls of the neighbour failed{}",
        yardstick * 1e3,
        first.p99().as_secs_f64() * 1e3,
        second.p99().as_secs_f64() * 1e3,
        error * 100.0,
        took.as_secs_f64(),
        memory / 1024,
        why.map(|why| format!(": {why}")).unwrap_or_default(),
    );
    Ok(Verdict { id: "L07", pass, figure })
}

/// The calls of the one that behaves while the noisy caller makes noise, and by what share more was let through of that
/// than its limit says.
async fn beside_noise(address: SocketAddr, time: Duration) -> Result<(good::Tally, f64), Failure> {
    let told = Arc::new(Told::default());
    let until = Instant::now() + SPENDING + time;
    let callers: Vec<_> =
        (0..NOISY_CONNECTIONS).map(|_| tokio::spawn(noise(address, until, Arc::clone(&told)))).collect();
    sleep(SPENDING).await;
    let (begun, passed) = (Instant::now(), told.passed.load(Ordering::Relaxed));
    let tally = good::call(address, GOOD_CLIENTS, time.saturating_sub(Duration::from_millis(500))).await;
    let passed = told.passed.load(Ordering::Relaxed) - passed;
    let due = LIMIT as f64 * begun.elapsed().as_secs_f64();
    for caller in callers {
        caller.await??;
    }
    let (refused, other) = (told.refused.load(Ordering::Relaxed), told.other.load(Ordering::Relaxed));
    if other > 0 || refused < passed * (TIMES / 2) {
        return Err(
            format!("the noise was none: {refused} refused, {other} neither passed nor refused").into()
        );
    }
    Ok((tally, passed as f64 / due - 1.0))
}

async fn noise(address: SocketAddr, until: Instant, told: Arc<Told>) -> Result<(), Failure> {
    let call = good::request("small", 1);
    let call =
        call.replacen("\r\n", &format!("\r\nX-API-Key: {NOISY_KEY}\r\nX-Forwarded-For: 192.0.2.1\r\n"), 1);
    let mut every = interval(Duration::from_micros(1_000_000 * NOISY_CONNECTIONS / (LIMIT * TIMES)));
    let mut line = None;
    while Instant::now() < until {
        every.tick().await;
        let counter = match ask(&mut line, address, &call).await? {
            200 => &told.passed,
            429 => &told.refused,
            _ => &told.other,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// A million addresses come once each; how many of them were refused.
async fn strangers(address: SocketAddr) -> Result<u64, Failure> {
    let some = |connection: u64| {
        tokio::spawn(async move {
            let (mut line, mut refused) = (None, 0);
            for number in (connection..STRANGERS).step_by(STRANGER_CONNECTIONS as usize) {
                let ip = Ipv4Addr::from_bits(0x0B00_0000 + u32::try_from(number)?);
                let call = format!(
                    "GET /servers/soak/mcp HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\
                     X-API-Key: wrong-{number:020}\r\nX-Forwarded-For: {ip}\r\n\r\n"
                );
                refused += u64::from(ask(&mut line, address, &call).await? == 401);
            }
            Ok::<_, Failure>(refused)
        })
    };
    let all: Vec<_> = (0..STRANGER_CONNECTIONS).map(some).collect();
    let mut refused = 0;
    for one in all {
        refused += one.await??;
    }
    Ok(refused)
}

/// The status of the answer to one request. The gateway closes a connection after so many: then there is a new one.
async fn ask(line: &mut Option<TcpStream>, address: SocketAddr, call: &str) -> Result<u16, Failure> {
    for _ in 0..3 {
        let stream = match line {
            Some(stream) => stream,
            None => line.insert(TcpStream::connect(address).await?),
        };
        let mut got = Vec::with_capacity(2048);
        let mut open = stream.write_all(call.as_bytes()).await.is_ok();
        while open {
            open = stream.read_buf(&mut got).await.is_ok_and(|read| read > 0);
            if good::whole(&got).is_some() {
                let status = got.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
                return Ok(status.ok_or("no status")?.parse()?);
            }
        }
        *line = None;
    }
    Err("the gateway hangs up".into())
}
