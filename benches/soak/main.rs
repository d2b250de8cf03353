//! Loads that a gateway has to stand for minutes: each prints `PASS id figure` or `FAIL id figure`.
//! Not here: what a call costs (`benches/gateway`), attacks that are over at once (`tests/it/scorecard`).
//!
//! `cargo bench --bench soak -- [--seconds N] [--only ID]…`; `scripts/soak` builds the gateway first.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measuring program starts processes and tasks of its own and prints its result"
)]

#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    dead_code,
    reason = "as in the tests"
)]
#[path = "../../tests/it/breaks.rs"]
mod breaks;
mod churn;
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    dead_code,
    reason = "as in the tests"
)]
#[path = "../../tests/it/client.rs"]
mod client;
mod crowd;
mod endure;
mod faults;
mod gateway;
mod good;
mod graph;
mod idle;
mod kills;
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    dead_code,
    reason = "as in the tests"
)]
#[path = "../../tests/it/leavers.rs"]
mod leavers;
#[allow(clippy::unwrap_used, clippy::indexing_slicing, dead_code, reason = "as in the tests")]
#[path = "../../tests/it/meter.rs"]
mod meter;
mod neighbour;
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "as in the tests")]
#[path = "../../tests/it/sim.rs"]
mod sim;
mod slow;
mod upstream;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Why a run could not be completed. It ends the program, so a text is enough.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Puts loads on a gateway for a while and says whether it stood them.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Seconds of each load; 600 is the full length.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Slow connections at once.
    #[arg(long, default_value_t = 4_000)]
    connections: usize,
    /// Clients that come and go in each mode of local servers; 10000 is the full number.
    #[arg(long, default_value_t = 1_000)]
    cycles: usize,
    /// Minutes of L05.
    #[arg(long, default_value_t = 20)]
    minutes: u64,
    /// Where the graph of L05 goes.
    #[arg(long, value_name = "FILE", default_value = "target/soak.svg")]
    graph: PathBuf,
    /// Only these ids; may be repeated.
    #[arg(long, value_name = "ID")]
    only: Vec<String>,
    /// The gateway.
    #[arg(long, value_name = "FILE", default_value = "target/release/tollgate")]
    tollgate: PathBuf,
    /// Set by cargo when it runs benchmarks; without it (`cargo test --benches`) nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// What became of one load.
pub(crate) struct Verdict {
    pub(crate) id: &'static str,
    pub(crate) pass: bool,
    pub(crate) figure: String,
}

fn main() -> std::process::ExitCode {
    let options = match Options::try_parse() {
        Ok(options) if !options.bench => return std::process::ExitCode::SUCCESS,
        Ok(options) => options,
        Err(error) => error.exit(),
    };
    match run(&options) {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// Every load that is wanted, one after the other; whether all were stood.
fn run(options: &Options) -> Result<bool, Failure> {
    gateway::raise_descriptor_limit()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut all = true;
    let wanted = |id: &str| options.only.is_empty() || options.only.iter().any(|only| only == id);
    if wanted("B07") {
        all &= told(&runtime.block_on(crowd::stand(options))?);
    }
    if wanted("F01") {
        all &= told(&runtime.block_on(kills::stand(options))?);
    }
    if wanted("F09") {
        all &= told(&runtime.block_on(faults::once(options))?);
    }
    if wanted("F18") {
        all &= told(&runtime.block_on(faults::leavers(options))?);
    }
    if wanted("L03") {
        all &= told(&runtime.block_on(slow::stand(options))?);
    }
    if wanted("L04") {
        all &= told(&runtime.block_on(idle::streams(options))?);
    }
    if wanted("L05") {
        all &= told(&runtime.block_on(endure::stand(options))?);
    }
    if wanted("L06") {
        all &= told(&runtime.block_on(idle::sessions(options))?);
    }
    if wanted("L07") {
        all &= told(&runtime.block_on(neighbour::stand(options))?);
    }
    if wanted("F06") {
        all &= told(&runtime.block_on(churn::stand(options))?);
    }
    Ok(all)
}

fn told(verdict: &Verdict) -> bool {
    let Verdict { id, pass, figure } = verdict;
    println!("{} {id} {figure}", if *pass { "PASS" } else { "FAIL" });
    *pass
}
