//! The gateway under load: its files, its process, and what it tells of itself.
//! Not here: the load (`slow`).

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::Failure;

/// A running gateway; ended when it goes out of scope.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) address: SocketAddr,
    home: TempDir,
}

/// This program holds as many sockets as the gateway.
pub(crate) fn raise_descriptor_limit() -> Result<(), Failure> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

impl Gateway {
    /// Starts `program` on a free port with these settings and that catalog.
    pub(crate) fn start(program: &Path, conf: &str, catalog: &str) -> Result<Self, Failure> {
        let home = TempDir::with_prefix("tollgate-soak-")?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let conf = format!("{conf}\nlisten: '{address}'\nstate_dir: state\ndrain: 1s\n");
        fs::write(home.path().join("tollgate.yaml"), conf)?;
        fs::write(home.path().join("catalog.yaml"), catalog)?;
        let child = launch(program, &home, address)?;
        Ok(Self { child, address, home })
    }

    /// Kills it with SIGKILL and starts it again at the same address, with the files of before.
    pub(crate) fn kill_and_start(&mut self, program: &Path) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = launch(program, &self.home, self.address)?;
        Ok(())
    }

    /// Processes that work in its folder: its children, and what an earlier run left.
    pub(crate) fn children(&self) -> Vec<String> {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let names = processes.filter_map(|entry| entry.file_name().into_string().ok());
        let works_here = |name: &String| {
            fs::read_link(format!("/proc/{name}/cwd")).is_ok_and(|cwd| cwd.starts_with(self.home.path()))
        };
        names.filter(|name| *name != self.child.id().to_string()).filter(works_here).collect()
    }

    /// Its folder, in which its children work.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> Result<u64, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        Ok(line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?.parse()?)
    }

    /// The sum of the series of `/metrics` that begin with `prefix` and contain `part`.
    pub(crate) async fn metric(&self, prefix: &str, part: &str) -> Result<f64, Failure> {
        let mut stream = tokio::net::TcpStream::connect(self.address).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let series = text.lines().filter(|line| line.starts_with(prefix) && line.contains(part));
        Ok(series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}

/// Starts `program` in `home` and waits until it listens.
fn launch(program: &Path, home: &TempDir, address: SocketAddr) -> Result<Child, Failure> {
    let log = fs::File::create(home.path().join("log"))?;
    let program = fs::canonicalize(program).map_err(|error| format!("{}: {error}", program.display()))?;
    let mut child = Command::new(program)
        .args(["run", "-c", "tollgate.yaml", "--catalog", "catalog.yaml"])
        .current_dir(home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(15);
    while TcpStream::connect(address).is_err() {
        if child.try_wait()?.is_some() || Instant::now() > deadline {
            let said = fs::read_to_string(home.path().join("log"))?;
            // It may be on its way still, and would outlive this program.
            drop(child.kill().and_then(|()| child.wait()));
            return Err(format!("the gateway does not listen. It wrote:\n{said}").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(child)
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
