//! F09 and F18 in full: calls broken at every byte, again and again, and clients that leave by the ten thousand.
//! Not here: the runs themselves, which the tests have in their short forms (`tests/it/breaks`, `tests/it/leavers`).

use std::time::Duration;

use tokio::time::Instant;

use crate::breaks::{Phase, Steps, Told, break_everywhere};
use crate::gateway::Gateway;
use crate::leavers::{CANCEL, leave};
use crate::sim::Sim;
use crate::{Failure, Options, Verdict};

/// Calls of each era that are abandoned.
const ABANDONED: usize = 10_000;

/// After that its memory should be back.
const REST: Duration = Duration::from_secs(20);

/// A gateway before an MCP server that misbehaves. Half of the calls that are abandoned go on, so there is room for them.
fn before(sim: &Sim, options: &Options) -> Result<Gateway, Failure> {
    let server = serde_json::json!({"id": "it", "runtime": {"type": "remote-http", "url": sim.url()},
        "health": {"type": "off"}, "timeouts": {"response": "10m", "idle": "10m", "total": "20m"}});
    let catalog = serde_json::json!({"servers": [server]}).to_string();
    let conf = "log: {level: error, audit: off}\nlimits: {in_flight: 30000, connections: 30000}";
    Gateway::start(&options.tollgate, conf, &catalog)
}

/// F09: every byte of requests and answers, as often as there is time for.
pub(crate) async fn once(options: &Options) -> Result<Verdict, Failure> {
    let until = Instant::now() + options.time();
    let (mut runs, mut ran, mut wrong, mut rounds) = (0_usize, 0_usize, 0_usize, 0);
    while rounds == 0 || Instant::now() < until {
        // A round has a server of its own, since names of calls come again.
        let sim = Sim::start();
        let gateway = before(&sim, options)?;
        let url = format!("http://{}/servers/it/mcp", gateway.address);
        break_everywhere(&sim, &url, Steps { every: 1 }, |run| {
            let executions = sim.look(|facts| facts.executions(&run.n));
            let told = match run.told() {
                Told::Result => run.phase == Phase::Answer,
                Told::Error { unknown, .. } => unknown && !run.is_late,
                Told::Nothing => false,
            };
            runs += 1;
            ran += executions;
            wrong += usize::from(executions > 1 || !told);
        })
        .await;
        rounds += 1;
    }
    let figure = format!(
        "{runs} calls broken at every byte in {rounds} rounds: {ran} ran, {wrong} ran twice or were told something wrong"
    );
    Ok(Verdict { id: "F09", pass: wrong == 0 && ran > 0, figure })
}

/// F18: clients that leave, until nothing is left of their calls.
pub(crate) async fn leavers(options: &Options) -> Result<Verdict, Failure> {
    let sim = Sim::start();
    let gateway = before(&sim, options)?;
    let kib = gateway.resident_kib()?;
    let left = leave(&sim, gateway.address, gateway.pid(), ABANDONED).await;
    let after = gateway.resident_kib()?;
    tokio::time::sleep(REST).await;
    let rested = gateway.resident_kib()?;
    let pass = left.slowest <= CANCEL && left.given_up == 0 && left.cancelled == 0 && left.after == 200;
    let figure = format!(
        "{} calls abandoned, {} of which had arrived: modern ones ended upstream after {} ms at most, {} legacy ones \
         ran on, {} were given up; descriptors {} before and {} after; {} MiB before, {} MiB after and {} MiB after a rest",
        2 * ABANDONED,
        left.arrived.iter().sum::<usize>(),
        left.slowest.as_millis(),
        left.running,
        left.given_up,
        left.descriptors[0],
        left.descriptors[1],
        kib >> 10,
        after >> 10,
        rested >> 10,
    );
    Ok(Verdict { id: "F18", pass, figure })
}
