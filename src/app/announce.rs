//! What a start tells: where the gateway listens, why there, and what to do next.
//! Not here: the log's form (`telemetry`).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::mpsc::SyncSender;

use super::demo::Demo;
use crate::conf::Conf;
use crate::hub::Hub;
use crate::listener::Bound;

/// The words, ready to be said once the gateway accepts connections.
pub(super) struct Announcement {
    addresses: Vec<Address>,
    credentials: bool,
    servers: Vec<String>,
    /// Shown to a person at the first try: URLs and commands to copy.
    guide: Option<String>,
    /// Who is told of the first address, instead of the log.
    told: Option<SyncSender<SocketAddr>>,
}

/// One listener's.
struct Address {
    listener: String,
    address: SocketAddr,
    instead_of: Option<SocketAddr>,
}

impl Announcement {
    pub(super) fn new(conf: &Conf, demo: &Demo, bound: &[Bound], hub: &Hub) -> Self {
        let view = hub.fleet().view();
        let servers: Vec<String> = view.upstreams().map(|upstream| upstream.server.id.to_string()).collect();
        let credentials = conf.access.auth.is_configured();
        let first = bound.first().filter(|_| demo.is_built_in || demo.has_samples());
        let guide = first.map(|bound| guide(bound.address, &servers));
        let address = |bound: &Bound| Address {
            listener: bound.listener.name.clone(),
            address: bound.address,
            instead_of: bound.instead_of,
        };
        Self { addresses: bound.iter().map(address).collect(), credentials, servers, guide, told: None }
    }

    /// Tells nobody but `whom`.
    pub(super) fn tell(&mut self, whom: SyncSender<SocketAddr>) {
        self.told = Some(whom);
    }

    /// Without what is for a person at the first try: whoever upgrades has seen it.
    pub(super) fn without_guide(&mut self) {
        self.guide = None;
    }

    /// Says it, in the log, and to people on standard error.
    pub(super) fn make(&self) {
        if let Some(told) = &self.told {
            for first in self.addresses.iter().take(1) {
                let _ = told.try_send(first.address);
            }
            return;
        }
        for asked in self.addresses.iter().filter_map(|address| address.instead_of) {
            tracing::warn!(
                %asked,
                "no credential is configured, so everybody who can connect may call: listening on loopback only. \
                 Add `auth.keys` or `auth.jwt` to listen on {asked}"
            );
        }
        if !self.credentials && self.addresses.iter().all(|address| address.instead_of.is_none()) {
            tracing::info!(
                "no credential is configured: listening on loopback only, open to everybody on this machine"
            );
        }
        for Address { listener, address, .. } in &self.addresses {
            tracing::info!(%address, listener, servers = self.servers.len(), "listening");
        }
        if let Some(guide) = &self.guide {
            // For people, not for the log: it is several lines long and meant to be copied.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), guide.as_bytes());
        }
    }
}

fn guide(address: SocketAddr, servers: &[String]) -> String {
    let mut text = String::from("\n  MCP servers behind this gateway:\n");
    for server in servers {
        let _ = writeln!(text, "    http://{address}/servers/{server}/mcp");
    }
    if let Some(server) = servers.first() {
        let _ = writeln!(
            text,
            "\n  Add one to Claude Code:\n    claude mcp add --transport http {server} http://{address}/servers/{server}/mcp"
        );
        let _ = writeln!(
            text,
            "\n  Call a tool:\n    curl -s http://{address}/mcp -H 'Content-Type: application/json' -d \
             '{{\"server_id\":\"{server}\",\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\
             \"params\":{{\"name\":\"echo\",\"arguments\":{{\"text\":\"hello\"}}}}}}'"
        );
    }
    let _ = writeln!(text, "\n  Status:  http://{address}/stats   Metrics:  http://{address}/metrics\n");
    text
}
