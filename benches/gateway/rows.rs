//! The rows of the report: who is measured, how it is started, where and how it is called.
//! Not here: the measuring itself (`main`, `load`, `measure`).

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;

use crate::load::{Era, Target};
use crate::measure::{self, GATEWAY_CORE, LOAD_CORE, Running};
use crate::{Failure, nginx, setup};

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

    /// Whether the children are part of the program: nginx's worker is, an MCP server on stdio is not.
    pub(crate) fn whole_tree(&self) -> bool {
        self.name == "nginx"
    }
}

/// Every row of a run and the processes behind them.
pub(crate) struct Rows {
    pub all: Vec<Row>,
    // Dropped, and so ended, with the rows: last started, first ended.
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
    pub(crate) fn start(tollgate: &Path, only: &[String]) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("tollgate-bench-").tempdir()?;
        let mut rows = Self { all: Vec::new(), running: Vec::new(), folder, only: only.to_vec() };
        let me = std::env::current_exe()?.display().to_string();
        let backend = measure::free_addr()?;
        let server = vec![me.clone(), "null-server".into(), backend.to_string(), "--sessions".into()];
        let pid = rows.run("null-server", LOAD_CORE, backend, server)?;
        if rows.wants("direct") {
            rows.all.push(Row { name: "direct", pid, target: target(backend) });
        }
        if rows.wants("nginx") {
            let listen = measure::free_addr()?;
            let command = nginx::command(rows.folder.path(), listen, backend)?;
            rows.add("nginx", listen, command)?;
        }
        let ours = |role: &str, listen: SocketAddr| {
            vec![me.clone(), role.into(), listen.to_string(), backend.to_string()]
        };
        if rows.wants("bare-pingora") {
            let listen = measure::free_addr()?;
            rows.add("bare-pingora", listen, ours("bare", listen))?;
        }
        for (name, client) in TERMINATING {
            if !rows.only.is_empty() && rows.wants(name) {
                let listen = measure::free_addr()?;
                let mut command = ours("terminate", listen);
                command.push(client.into());
                rows.add(name, listen, command)?;
            }
        }
        for (process, ways) in setup::ALL {
            if ways.iter().any(|(name, ..)| rows.wants(name)) {
                rows.add_tollgate(tollgate, backend, (process, ways))?;
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

    fn add(&mut self, name: &'static str, listen: SocketAddr, command: Vec<String>) -> Result<(), Failure> {
        let pid = self.run(name, GATEWAY_CORE, listen, command)?;
        self.all.push(Row { name, pid, target: target(listen) });
        Ok(())
    }

    /// One gateway for all its rows, with sealed sessions, access log and metrics, and what its setup says.
    fn add_tollgate(
        &mut self,
        program: &Path,
        backend: SocketAddr,
        (process, ways): (&'static str, &'static [(&'static str, &'static str, Era)]),
    ) -> Result<(), Failure> {
        let program = program.canonicalize().map_err(|error| {
            format!("{}: {error}; build it first, or name it by --tollgate", program.display())
        })?;
        let folder = self.folder.path().join(process);
        fs::create_dir_all(&folder)?;
        let (conf, catalog) = (folder.join("tollgate.yaml"), folder.join("catalog.yaml"));
        let credential = setup::write(process, &folder, &program, backend)?;
        let listen = measure::free_addr()?;
        let command = [
            program.as_os_str(),
            "run".as_ref(),
            "-c".as_ref(),
            conf.as_os_str(),
            "--catalog".as_ref(),
            catalog.as_os_str(),
            "--listen".as_ref(),
            listen.to_string().as_ref(),
        ]
        .map(|part| part.to_string_lossy().into_owned());
        let pid = self.run(process, GATEWAY_CORE, listen, command.to_vec())?;
        for &(name, server, era) in ways {
            if self.wants(name) {
                let target = Target {
                    addr: listen,
                    path: format!("/servers/{server}/mcp"),
                    headers: credential
                        .iter()
                        .map(|credential| ("Authorization".into(), format!("Bearer {credential}")))
                        .collect(),
                    era,
                    tool: "echo".into(),
                };
                self.all.push(Row { name, pid, target });
            }
        }
        Ok(())
    }

    fn run(
        &mut self,
        name: &str,
        core: &str,
        listen: SocketAddr,
        command: Vec<String>,
    ) -> Result<u32, Failure> {
        let log = self.folder.path().join(format!("{name}.log"));
        let mut running = Running::start(name, core, &command, File::create(&log)?)?;
        running.wait_for(listen).map_err(|error| {
            let said = fs::read_to_string(&log).unwrap_or_default();
            format!("{error}\n{said}")
        })?;
        let pid = running.pid();
        self.running.push(running);
        Ok(pid)
    }
}

fn target(addr: SocketAddr) -> Target {
    Target { addr, path: "/mcp".into(), headers: Vec::new(), era: Era::Legacy, tool: "echo".into() }
}
