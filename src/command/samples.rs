//! `tollgate sample`: the built-in MCP servers as programs of their own.
//! Not here: what they offer (`sample`).

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::ValueEnum;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{Done, print};
use crate::sample;

/// How a sample server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Transport {
    /// Lines on standard input and output; both eras.
    Stdio,
    /// Streamable HTTP with sessions.
    Http,
    /// JSON-RPC over POST, answered by events.
    Sse,
    /// 2026-07-28: stateless HTTP.
    Modern,
}

impl Transport {
    fn path(self) -> &'static str {
        match self {
            Self::Stdio => "",
            Self::Http => "/http",
            Self::Sse => "/sse",
            Self::Modern => "/modern",
        }
    }
}

/// Serves until standard input ends, or until a signal.
pub(super) fn serve(transport: Transport, listen: SocketAddr) -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        if transport == Transport::Stdio {
            sample::stdio().await;
            return Ok(ExitCode::SUCCESS);
        }
        let failed = |error: std::io::Error| format!("cannot listen on {listen}: {error}");
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        print(&format!("http://{address}{}\n", transport.path()))?;
        let (stop, stopping) = watch::channel(false);
        tokio::join!(sample::serve_http(listener, stopping), async {
            let _ = tokio::signal::ctrl_c().await;
            stop.send_replace(true);
        });
        Ok(ExitCode::SUCCESS)
    })
}
