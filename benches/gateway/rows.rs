//! The rows of the report: who is measured, how it is started, where and how it is called.
//! Not here: the measuring itself (`main`, `load`, `measure`).

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;

use crate::load::{Era, Target};
use crate::measure::{self, GATEWAY_CORE, LOAD_CORE, Running};
use crate::{Failure, nginx};

/// One row: a name, a process to watch, a target to call.
pub(crate) struct Row {
    pub name: &'static str,
    pub pid: u32,
    pub target: Target,
}

impl Row {
    /// Whether the null server itself is measured.
    pub(crate) fn is_direct(&self) -> bool {
        self.name == "direct"
    }

    /// Whether the children belong to what is measured: nginx's worker does, an MCP server on stdio does not.
    pub(crate) fn whole_tree(&self) -> bool {
        self.name == "nginx"
    }
}

/// Every row of a run and the processes behind them.
pub(crate) struct Rows {
    pub all: Vec<Row>,
    // Dropped, and so ended, with the rows.
    running: Vec<Running>,
    folder: tempfile::TempDir,
    only: Vec<String>,
}

const TERMINATING: [(&str, &str); 4] = [
    ("terminate-pingora", "pingora"),
    ("terminate-legacy", "legacy"),
    ("terminate-spawned", "spawned"),
    ("terminate-inline", "inline"),
];

impl Rows {
    /// Starts what the rows named by `only` (all but the `terminate` ones when empty) need.
    pub(crate) fn start(_tollgate: &Path, only: &[String]) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("tollgate-bench-").tempdir()?;
        let mut rows = Self { all: Vec::new(), running: Vec::new(), folder, only: only.to_vec() };
        let me = std::env::current_exe()?.display().to_string();
        let backend = measure::free_addr()?;
        let pid = rows.run(
            "null-server",
            LOAD_CORE,
            backend,
            vec![me.clone(), "null-server".into(), backend.to_string(), "--sessions".into()],
        )?;
        if rows.wants("direct") {
            rows.all.push(Row { name: "direct", pid, target: target(backend) });
        }
        if rows.wants("nginx") {
            let listen = measure::free_addr()?;
            let command = nginx::command(rows.folder.path(), listen, backend)?;
            let pid = rows.run("nginx", GATEWAY_CORE, listen, command)?;
            rows.all.push(Row { name: "nginx", pid, target: target(listen) });
        }
        if rows.wants("bare-pingora") {
            let listen = measure::free_addr()?;
            let command = vec![me.clone(), "bare".into(), listen.to_string(), backend.to_string()];
            let pid = rows.run("bare-pingora", GATEWAY_CORE, listen, command)?;
            rows.all.push(Row { name: "bare-pingora", pid, target: target(listen) });
        }
        for (name, client) in TERMINATING {
            if !rows.only.is_empty() && rows.wants(name) {
                let listen = measure::free_addr()?;
                let command = vec![
                    me.clone(),
                    "terminate".into(),
                    listen.to_string(),
                    backend.to_string(),
                    client.into(),
                ];
                let pid = rows.run(name, GATEWAY_CORE, listen, command)?;
                rows.all.push(Row { name, pid, target: target(listen) });
            }
        }
        if rows.all.is_empty() {
            return Err(format!("no row is named like {only:?}").into());
        }
        Ok(rows)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }

    fn run(
        &mut self,
        name: &str,
        core: &str,
        listen: SocketAddr,
        command: Vec<String>,
    ) -> Result<u32, Failure> {
        let log = File::create(self.folder.path().join(format!("{name}.log")))?;
        let mut running = Running::start(name, core, &command, log)?;
        running.wait_for(listen)?;
        let pid = running.pid();
        self.running.push(running);
        Ok(pid)
    }
}

fn target(addr: SocketAddr) -> Target {
    Target { addr, path: "/mcp".into(), headers: Vec::new(), era: Era::Legacy, tool: "echo".into() }
}
