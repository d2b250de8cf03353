//! `tollgate stdio`: one server behind a gateway as a stdio server, for clients that know nothing else.
//! Not here: how messages travel (`relay`), the gateway's own answers (`proxy`).
//!
//! The flags are those of the Open MCP Gateway's `gateway-stdio`; the variables `MCP_SERVER_CATALOG_URLS` and
//! `MCP_AUTH_TOKEN` are those of ContextForge's wrapper. A credential is never an argument: everybody on the machine can
//! read those.

mod call;
mod door;
mod line;
mod listen;
mod mirror;
mod own;
mod place;
mod relay;
mod session;
mod streams;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Done, Failure};
use crate::conf::{self, LogConf, LogFormat, Secret};
use crate::telemetry;
use door::Door;
use place::Place;

/// What `tollgate stdio` is told.
#[derive(Debug, Args)]
pub(super) struct Stdio {
    /// The server's id. May be left out if the URL names the server.
    #[arg(short = 's', long, value_name = "ID")]
    server: Option<String>,
    /// The gateway, such as `https://mcp.example.com`, or a server's door on it [default: `MCP_SERVER_CATALOG_URLS`,
    /// then http://127.0.0.1:4444].
    #[arg(short = 'g', long, visible_alias = "gateway", value_name = "URL", conflicts_with = "catalog")]
    url: Option<String>,
    /// Run the server of this catalog here, without a gateway beside.
    #[arg(short = 'c', long, value_name = "FILE")]
    catalog: Option<PathBuf>,
    /// A file with the API key or token to call with [default: `TOLLGATE_TOKEN`, then `MCP_AUTH_TOKEN`].
    #[arg(long, value_name = "FILE", conflicts_with = "catalog")]
    key_file: Option<PathBuf>,
    /// Where a server that runs here keeps its state.
    #[arg(long, value_name = "DIR", requires = "catalog")]
    state_dir: Option<PathBuf>,
    /// What is logged on standard error: error, warn, info, debug, trace, or a filter.
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log_level: String,
}

/// Speaks on standard input and output until the input ends or a signal comes.
pub(super) fn run(asked: Stdio) -> Done {
    let env = conf::environment();
    if asked.catalog.is_some() {
        return own::run(asked, env);
    }
    let variable = |name: &str| find(&env, name);
    let given = asked.url.clone().or_else(|| variable("MCP_SERVER_CATALOG_URLS"));
    let place = Place::of(given.as_deref(), asked.server.as_deref())?;
    let token = match &asked.key_file {
        Some(path) => Some(key_of(path)?),
        None => variable("TOLLGATE_TOKEN").or_else(|| variable("MCP_AUTH_TOKEN")),
    };
    telemetry::init_log(&LogConf {
        format: LogFormat::Auto,
        level: asked.log_level,
        audit: conf::AuditSink::Off,
    });
    if token.is_some() && !conf::is_private(&place.url) {
        tracing::warn!("the credential travels in clear text: use https");
    }
    let door = Door::new(place, token.map(Secret::new).as_ref())?;
    speak(door)?;
    Ok(ExitCode::SUCCESS)
}

fn find(env: &[(String, String)], name: &str) -> Option<String> {
    env.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.clone())
}

fn key_of(path: &std::path::Path) -> Result<String, Failure> {
    let key = conf::read_secret(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if conf::is_exposed(path) {
        super::tell(&format!("warning: {}: others can read it (chmod 600)", path.display()));
    }
    Ok(key)
}

/// Relays between the standard streams and `door`, on this thread.
fn speak(door: Door) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let spoken = runtime.block_on(async {
        let (input, output) = (streams::input()?, streams::output()?);
        relay::converse(input, output, door, told_to_end()).await
    });
    // A read of standard input that is a file cannot be called back.
    runtime.shutdown_background();
    match spoken {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("the standard streams failed: {error}"))
        }
        _ => Ok(()),
    }
}

async fn told_to_end() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
