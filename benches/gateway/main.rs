//! One run that compares: direct, nginx, a bare Pingora proxy, Tollgate to a remote and to a stdio server.
//! Not here: the rows' own code (`bare`, `terminate`, `nginx`, `null_server`), how a call is made and checked (`load`).
//!
//! `cargo bench --bench gateway -- [--quick] [--only NAME]…`; `scripts/bench` builds the gateway first.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measuring program starts processes and tasks of its own and prints its result"
)]

mod bare;
mod load;
mod measure;
mod nginx;
mod null_server;
mod report;
mod rows;
mod setup;
mod terminate;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::load::{Load, Size};
use crate::report::{Cell, Sample};
use crate::rows::{Row, Rows};

/// Why a run could not be completed. It ends the program, so a text is enough.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// jemalloc, as in the gateway: the yardstick must not lose by its allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Compares Tollgate with nginx and a bare Pingora proxy, in one run, as a table and as ratios.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    role: Option<Role>,
    /// About a minute: one round of shorter cells, small calls only.
    #[arg(long)]
    quick: bool,
    /// Only rows whose name contains this; may be repeated. `terminate` adds the rows that compare upstream clients.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Numbers of connections.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32, 512])]
    connections: Vec<usize>,
    /// Sizes of calls.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [SizeName::Small, SizeName::Large])]
    sizes: Vec<SizeName>,
    /// Rounds; each visits every row once. Medians are reported.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of each cell in each round.
    #[arg(long)]
    seconds: Option<f64>,
    /// The gateway to measure.
    #[arg(long, value_name = "FILE", default_value = "target/release/tollgate")]
    tollgate: std::path::PathBuf,
    /// Set by cargo when it runs benchmarks; without it (`cargo test --benches`) nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What the program does when it starts itself.
#[derive(Debug, Subcommand)]
enum Role {
    /// The null MCP server.
    NullServer {
        listen: SocketAddr,
        #[arg(long)]
        sessions: bool,
    },
    /// The bare pass-through proxy.
    Bare { listen: SocketAddr, upstream: SocketAddr },
    /// A proxy that answers from `request_filter`.
    Terminate { listen: SocketAddr, upstream: SocketAddr, client: UpstreamClient },
}

/// The upstream clients that `terminate` compares.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum UpstreamClient {
    Pingora,
    Legacy,
    Spawned,
    Inline,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SizeName {
    Small,
    Large,
}

fn main() -> std::process::ExitCode {
    let outcome = Options::try_parse().map_err(Failure::from).and_then(|options| match options.role {
        Some(Role::NullServer { listen, sessions }) => null_server::run(listen, sessions).map(|()| 0),
        Some(Role::Bare { listen, upstream }) => bare::run(listen, upstream).map(|()| 0),
        Some(Role::Terminate { listen, upstream, client }) => {
            terminate::run(listen, upstream, client).map(|()| 0)
        }
        None if !options.bench => Ok(0),
        None => compare(&options),
    });
    match outcome {
        Ok(0) => std::process::ExitCode::SUCCESS,
        Ok(wrong) => {
            eprintln!("{wrong} answer(s) were wrong: the figures above mean nothing until that is mended");
            std::process::ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// Runs every row in every cell, round by round, and prints the report. Returns the number of wrong answers.
fn compare(options: &Options) -> Result<u64, Failure> {
    let rounds = options.rounds.unwrap_or(if options.quick { 1 } else { 3 });
    let seconds = options.seconds.unwrap_or(if options.quick { 2.0 } else { 2.5 });
    let sizes: &[SizeName] = if options.quick { &[SizeName::Small] } else { &options.sizes };
    measure::pin(std::process::id(), measure::LOAD_CORE)?;
    let rows = Rows::start(&options.tollgate, &options.only)?;
    let mut cells = Vec::new();
    let mut wrong = 0;
    for size in sizes {
        let size = match size {
            SizeName::Small => Size::Small,
            SizeName::Large => Size::Large,
        };
        for &connections in &options.connections {
            let warm_up = Duration::from_millis(250);
            let load = Load { connections, size, warm_up, time: Duration::from_secs_f64(seconds) };
            let mut group: Vec<Cell> = rows
                .all
                .iter()
                .map(|row| Cell { row: row.name.to_owned(), connections, size, samples: Vec::new() })
                .collect();
            for round in 1..=rounds {
                for (row, cell) in rows.all.iter().zip(&mut group) {
                    let (sample, bad) = measure_once(row, load)?;
                    eprintln!(
                        "{:<20} c={connections} {size:?} round {round}: {:.1} µs",
                        row.name, sample.cpu_us
                    );
                    cell.samples.push(sample);
                    wrong += bad;
                }
            }
            cells.append(&mut group);
        }
    }
    report::print(&cells);
    Ok(wrong)
}

/// One row, one load, once.
fn measure_once(row: &Row, load: Load) -> Result<(Sample, u64), Failure> {
    // Called directly, the server stands where a gateway would, so that its figures compare with theirs.
    if row.is_direct() {
        measure::pin(row.pid, measure::GATEWAY_CORE)?;
    }
    measure::forget_peak(row.pid);
    let (tx, rx) = std::sync::mpsc::sync_channel(1);
    let (pid, whole_tree) = (row.pid, row.whole_tree());
    let tally = load::run(&row.target, load, move || {
        let _ = tx.send(measure::read(pid, whole_tree));
    })
    .map_err(|error| format!("{}: {error}", row.name))?;
    let (before, after) = (rx.recv()?, measure::read(pid, whole_tree));
    if row.is_direct() {
        measure::pin(row.pid, measure::LOAD_CORE)?;
    }
    if let Some(complaint) = &tally.complaint {
        eprintln!("{}: {} wrong answer(s), the first: {complaint}", row.name, tally.wrong);
    }
    let calls = tally.calls.max(1) as f64;
    let micros = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64() * 1e6 / calls;
    let child_us = micros(before.below, after.below);
    let sample = Sample {
        calls_per_second: tally.calls as f64 / tally.elapsed.as_secs_f64(),
        p50: tally.latency.quantile(0.5),
        p99: tally.latency.quantile(0.99),
        cpu_us: micros(before.root, after.root) + child_us,
        child_us: if row.whole_tree() { 0.0 } else { child_us },
        resident_mib: after.resident_kib as f64 / 1024.0,
        peak_mib: after.peak_kib as f64 / 1024.0,
    };
    Ok((sample, tally.wrong))
}
