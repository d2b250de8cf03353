//! L03: thousands of clients that send and read as slowly as they can, beside some that behave.
//! Not here: those that behave (`good`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};

use crate::gateway::Gateway;
use crate::{Failure, Options, Verdict, good, upstream};

/// Good clients, and the share of their calls that has to succeed.
const GOOD_CLIENTS: usize = 16;
const GOOD_MIN: f64 = 0.995;
/// A slow head is cut after ten seconds, a slow body before thirty. This machine may be a second late.
const HEAD_MAX: Duration = Duration::from_secs(11);
const BODY_MAX: Duration = Duration::from_secs(30);
/// Between two bytes of a slow client.
const DRIP: Duration = Duration::from_secs(1);
/// What stays below most limits for each read.
const RARE_DRIP: Duration = Duration::from_secs(59);
/// A slow reader that was cut may not notice; it comes again after this.
const READ_TIME: Duration = Duration::from_secs(35);
/// Calm before the load, for comparison.
const BEFORE: Duration = Duration::from_secs(3);

/// What a slow client does slowly.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// A head, a byte each second.
    Head,
    /// A head, a byte each 59 seconds.
    RareHead,
    /// A body, a byte each second.
    Body,
    /// It reads a byte of its answer each second.
    Read,
}

const MANNERS: [Manner; 4] = [Manner::Head, Manner::RareHead, Manner::Body, Manner::Read];

/// What slow clients saw.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    refused: AtomicUsize,
    head_longest_ms: AtomicU64,
    body_longest_ms: AtomicU64,
}

/// Stands it and says how.
pub(crate) async fn stand(options: &Options) -> Result<Verdict, Failure> {
    let behind = upstream::start().await?;
    let catalog = serde_json::json!({"servers": [{
        "id": "soak",
        "runtime": {"type": "remote-http", "url": format!("http://{behind}/mcp")},
        "health": {"type": "off"},
    }]});
    let gateway = Gateway::start(&options.tollgate, "log: {level: warn}", &catalog.to_string())?;
    let address = gateway.address;
    let mut before = good::call(address, GOOD_CLIENTS, BEFORE).await;
    let memory_before = gateway.resident_kib()?;
    let until = Instant::now() + options.time();
    let seen = Arc::new(Seen::default());
    let attackers: Vec<_> = (0..options.connections)
        .zip(MANNERS.into_iter().cycle())
        .map(|(_, manner)| tokio::spawn(attack(manner, address, until, Arc::clone(&seen))))
        .collect();
    let mut good = good::call(address, GOOD_CLIENTS, options.time()).await;
    let memory = gateway.resident_kib()?.saturating_sub(memory_before);
    let open = gateway.metric("tollgate_connections{", "").await?;
    let slow_readers = gateway.metric("tollgate_connections_cut_total", "slow_reader").await?;
    for attacker in attackers {
        attacker.await?;
    }
    let longest = |of: &AtomicU64| Duration::from_millis(of.load(Ordering::Relaxed));
    let (head, body) = (longest(&seen.head_longest_ms), longest(&seen.body_longest_ms));
    let long_enough = options.time() > READ_TIME;
    let pass = good.share() >= GOOD_MIN
        && head <= HEAD_MAX
        && body <= BODY_MAX
        && (slow_readers > 0.0 || !long_enough);
    let first = good.first.take().map(|why| format!("; first failure: {why}")).unwrap_or_default();
    let figure = format!(
        "{:.2} % of {} good calls, p99 {:.0} ms ({:.0} ms before); {} slow connections, {} at the end, {} not taken; \
         heads cut after {:.1} s, bodies after {:.1} s at most, {slow_readers:.0} slow readers cut; +{} MiB{first}",
        good.share() * 100.0,
        good.good + good.bad,
        good.p99().as_secs_f64() * 1e3,
        before.p99().as_secs_f64() * 1e3,
        seen.connections.load(Ordering::Relaxed),
        open,
        seen.refused.load(Ordering::Relaxed),
        head.as_secs_f64(),
        body.as_secs_f64(),
        memory / 1024,
    );
    Ok(Verdict { id: "L03", pass, figure })
}

/// One slow client, which comes again as soon as it is cut.
async fn attack(manner: Manner, address: SocketAddr, until: Instant, seen: Arc<Seen>) {
    while Instant::now() < until {
        let Ok(stream) = connect(manner, address).await else {
            seen.refused.fetch_add(1, Ordering::Relaxed);
            sleep(DRIP).await;
            continue;
        };
        seen.connections.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        // One that outlives the run has not been cut so far, which counts as well.
        let _ = timeout_at(until, drip(manner, stream)).await;
        let lived = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let longest = match manner {
            Manner::Head | Manner::RareHead => &seen.head_longest_ms,
            Manner::Body => &seen.body_longest_ms,
            Manner::Read => continue,
        };
        longest.fetch_max(lived, Ordering::Relaxed);
    }
}

async fn connect(manner: Manner, address: SocketAddr) -> Result<TcpStream, Failure> {
    let socket = TcpSocket::new_v4()?;
    if manner == Manner::Read {
        // Little is taken without being read.
        socket.set_recv_buffer_size(4096)?;
    }
    Ok(socket.connect(address).await?)
}

/// Does it slowly, until the gateway has had enough.
async fn drip(manner: Manner, mut stream: TcpStream) -> Result<(), Failure> {
    let (begin, every) = match manner {
        Manner::Head => ("GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ".to_owned(), DRIP),
        Manner::RareHead => ("G".to_owned(), RARE_DRIP),
        Manner::Body => {
            let request = good::request("small", 1);
            let head = request.split("Content-Length").next().unwrap_or_default();
            (format!("{head}Content-Length: 100000\r\n\r\n{{"), DRIP)
        }
        Manner::Read => (good::request("big", 1), DRIP),
    };
    stream.write_all(begin.as_bytes()).await?;
    if manner == Manner::Read {
        let until = Instant::now() + READ_TIME;
        while Instant::now() < until {
            if stream.read(&mut [0]).await? == 0 {
                return Ok(());
            }
            sleep(DRIP).await;
        }
        return Ok(());
    }
    let mut said = [0; 512];
    loop {
        tokio::select! {
            // What the gateway says before it hangs up does not matter.
            read = stream.read(&mut said) => if read? == 0 { return Ok(()) },
            () = sleep(every) => stream.write_all(b"x").await?,
        }
    }
}
