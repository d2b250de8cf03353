//! Starts the built gateway for one test, and stops it with proof: it exits in time and leaves no process behind.
//! Not here: what is behind it (`fake`, `packages`), who calls it (`client`).

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// How long the gateway may take to listen: the machine may be busy building something else.
const START: Duration = Duration::from_secs(30);
/// How long it may take to end after SIGTERM. Longer than the drain time of `CONF`.
const STOP: Duration = Duration::from_secs(15);
/// The settings of a test that gives none.
const CONF: &str = "drain: 5s\n";

/// A running gateway with its own folder, catalog and state.
pub(crate) struct Gateway {
    child: Child,
    /// The process that took over from the one above, by upgrades; no child of ours.
    heir: Option<u32>,
    address: SocketAddr,
    home: TempDir,
    log: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
}

/// What the gateway has written so far, line by line.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

/// What a test may choose before it starts the gateway.
pub(crate) struct Builder {
    catalog: Option<String>,
    conf: Option<String>,
    args: Vec<String>,
    folder: Option<PathBuf>,
    env: Vec<(String, String)>,
    home: Option<TempDir>,
    program: PathBuf,
    /// Whether its settings say where it listens.
    listens_as_said: bool,
}

impl Builder {
    /// The text of `tollgate.yaml`.
    pub(crate) fn conf(mut self, text: &str) -> Self {
        self.conf = Some(text.to_owned());
        self
    }

    /// The command line after `tollgate`; the port is then taken from `TOLLGATE_LISTEN`.
    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.args = args.iter().map(ToString::to_string).collect();
        self
    }

    /// `tollgate.yaml` with listeners of its own.
    pub(crate) fn listeners(mut self, text: &str) -> Self {
        self.listens_as_said = true;
        self.args(&["run", "-c", "tollgate.yaml", "--catalog", "catalog.yaml"]).conf(text)
    }

    /// The port to listen on, when others must know it beforehand: see `free_port`.
    pub(crate) fn port(mut self, port: u16) -> Self {
        for arg in self.args.iter_mut().filter(|arg| *arg == "127.0.0.1:0") {
            *arg = format!("127.0.0.1:{port}");
        }
        self
    }

    /// The folder to start it in, if not its own.
    pub(crate) fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// One variable of the gateway's environment, which otherwise has only `PATH` and `HOME`.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The folder of an earlier gateway, with its state: a restart.
    pub(crate) fn home(mut self, home: TempDir) -> Self {
        self.home = Some(home);
        self
    }

    /// The program, if not the one that was built: a copy that a test may replace.
    pub(crate) fn program(mut self, program: &Path) -> Self {
        self.program = program.to_owned();
        self
    }

    /// Starts it and waits until it listens.
    #[track_caller]
    pub(crate) fn start(self) -> Gateway {
        let home = self.home.unwrap_or_else(|| TempDir::with_prefix("tollgate-it-").unwrap());
        for (name, text) in [("catalog.yaml", &self.catalog), ("tollgate.yaml", &self.conf)] {
            if let Some(text) = text {
                std::fs::write(home.path().join(name), text).unwrap();
            }
        }
        let mut child = Command::new(self.program)
            .args(self.args)
            .current_dir(self.folder.as_deref().unwrap_or(home.path()))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home.path())
            .env("TOLLGATE_STATE_DIR", home.path().join("state"))
            .envs((!self.listens_as_said).then_some(("TOLLGATE_LISTEN", "127.0.0.1:0")))
            .envs(self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Log::default());
        let readers = vec![
            read_into(&log, child.stdout.take().unwrap()),
            read_into(&log, child.stderr.take().unwrap()),
        ];
        let mut gateway =
            Gateway { child, heir: None, address: SocketAddr::from(([127, 0, 0, 1], 0)), home, log, readers };
        gateway.address = gateway.learn_address();
        gateway
    }
}

fn read_into(log: &Arc<Log>, from: impl Read + Send + 'static) -> JoinHandle<()> {
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            log.lines.lock().unwrap().push(line);
            log.grown.notify_all();
        }
    })
}

impl Gateway {
    /// A gateway on that catalog, with everything else at its default.
    #[track_caller]
    pub(crate) fn start(catalog: &str) -> Self {
        Self::with(catalog).start()
    }

    /// A gateway on that catalog, to be told more.
    pub(crate) fn with(catalog: &str) -> Builder {
        let args = ["run", "-c", "tollgate.yaml", "--catalog", "catalog.yaml", "--listen", "127.0.0.1:0"];
        Builder { catalog: Some(catalog.to_owned()), ..Self::bare().args(&args).conf(CONF) }
    }

    /// `tollgate run` in an empty folder.
    pub(crate) fn bare() -> Builder {
        let empty = Builder {
            catalog: None,
            conf: None,
            args: Vec::new(),
            folder: None,
            env: Vec::new(),
            home: None,
            program: env!("CARGO_BIN_EXE_tollgate").into(),
            listens_as_said: false,
        };
        empty.args(&["run"])
    }

    /// Its address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of one of several listeners.
    #[track_caller]
    pub(crate) fn listener(&self, name: &str) -> SocketAddr {
        self.wait_for_log("listening", START, |line| {
            (line["message"] == "listening" && line["listener"] == name)
                .then(|| line["address"].as_str()?.parse().ok())?
        })
    }

    /// The door of one server.
    pub(crate) fn url(&self, server: &str) -> String {
        format!("http://{}/servers/{server}/mcp", self.address)
    }

    /// Any path on it.
    pub(crate) fn path(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Its folder: `catalog.yaml`, `tollgate.yaml`, `state/`.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Replaces the catalog as an editor does: a new file, renamed over the old one.
    pub(crate) fn edit_catalog(&self, text: &str) {
        self.edit("catalog.yaml", text);
    }

    /// Replaces the configuration in the same way.
    pub(crate) fn edit_conf(&self, text: &str) {
        self.edit("tollgate.yaml", text);
    }

    fn edit(&self, name: &str, text: &str) {
        let new = self.home().join(format!(".{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.home().join(name)).unwrap();
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.heir.unwrap_or_else(|| self.child.id())
    }

    /// Lets a new process take over, which is from then on the gateway. Gives the process id of the old one, which ends
    /// by itself, or what `tollgate upgrade` said.
    pub(crate) fn upgrade(&mut self) -> Result<u32, String> {
        let old = self.pid();
        let said = self.ask_upgrade(&["-c", "tollgate.yaml"]);
        if !said.status.success() {
            return Err(String::from_utf8_lossy(&said.stderr).into_owned());
        }
        let words = String::from_utf8_lossy(&said.stdout).into_owned();
        let heir = words.split_whitespace().nth(1).and_then(|pid| pid.parse().ok());
        self.heir = Some(heir.unwrap_or_else(|| panic!("who took over? {words}")));
        Ok(old)
    }

    /// `tollgate upgrade` with these settings, for the process that runs here.
    pub(crate) fn ask_upgrade(&self, settings: &[&str]) -> std::process::Output {
        Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["upgrade", "--pid", &self.pid().to_string(), "--state-dir"])
            .arg(self.home().join("state"))
            .args(settings)
            .current_dir(self.home())
            .env_clear()
            .output()
            .unwrap()
    }

    /// Waits until a process that was taken over from is gone.
    #[track_caller]
    pub(crate) fn wait_for_end_of(&mut self, pid: u32, within: Duration) {
        let asked = Instant::now();
        while pid != self.child.id() && alive(pid)
            || pid == self.child.id() && self.child.try_wait().unwrap().is_none()
        {
            assert!(asked.elapsed() < within, "{pid} is still there. It wrote:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Everything it has written so far.
    pub(crate) fn log(&self) -> String {
        self.log.lines.lock().unwrap().join("\n")
    }

    /// Waits for a line of its log that is JSON and of which `wanted` gives something.
    #[track_caller]
    pub(crate) fn wait_for_log<T>(
        &self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&Value) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + within;
        let mut seen = 0;
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            for line in &lines[seen..] {
                if let Some(found) = serde_json::from_str(line).ok().as_ref().and_then(&wanted) {
                    return found;
                }
            }
            seen = lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "no log line ({what}) within {within:?}. It wrote:\n{}",
                lines.join("\n")
            );
            lines = self.log.grown.wait_timeout(lines, left.min(Duration::from_millis(100))).unwrap().0;
        }
    }

    #[track_caller]
    fn learn_address(&mut self) -> SocketAddr {
        let deadline = Instant::now() + START;
        loop {
            let address = self.log.lines.lock().unwrap().iter().find_map(|line| listening(line));
            if let Some(address) = address {
                return address;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                self.readers.drain(..).for_each(|reader| reader.join().unwrap());
                panic!("the gateway ended ({status}) before it listened. It wrote:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "the gateway does not listen. It wrote:\n{}", self.log());
            let lines = self.log.lines.lock().unwrap();
            drop(self.log.grown.wait_timeout(lines, Duration::from_millis(50)).unwrap());
        }
    }

    /// Its descendants, and whatever else works in its folder.
    pub(crate) fn descendants(&self) -> BTreeSet<u32> {
        let mut found = processes_in(self.home());
        let parents: Vec<(u32, u32)> = processes().filter_map(|pid| Some((pid, parent(pid)?))).collect();
        let mut grown = true;
        while grown {
            grown = false;
            for &(pid, parent) in &parents {
                grown |= (parent == self.pid() || found.contains(&parent)) && found.insert(pid);
            }
        }
        found.remove(&self.pid());
        found
    }

    /// Stops it with SIGTERM and checks that it ends in time, with success, and leaves no process behind.
    /// Gives its folder back, for a restart.
    #[track_caller]
    pub(crate) fn stop(mut self) -> TempDir {
        let status = self.end();
        assert!(status.success(), "the gateway ended with {status}. It wrote:\n{}", self.log());
        std::mem::replace(&mut self.home, TempDir::new().unwrap())
    }

    /// Kills it with SIGKILL, as a crash would. Gives its folder back; children may be left over.
    pub(crate) fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.readers.clear();
        std::mem::replace(&mut self.home, TempDir::new().unwrap())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).unwrap());
        // It may have ended by itself: then the signal has nobody to go to, and the status tells.
        let _ = nix::sys::signal::kill(pid, signal);
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn exit(&mut self, within: Duration) -> ExitStatus {
        let asked = Instant::now();
        loop {
            let status = self.child.try_wait().unwrap();
            match (self.heir, status) {
                (None, Some(status)) => return status,
                // Nobody tells us how it went; that it says so itself is checked.
                (Some(heir), Some(status)) if !alive(heir) => {
                    let stops = self.log().matches(r#""message":"stopped""#).count();
                    assert!(stops > 1, "it did not say that it stopped. It wrote:\n{}", self.log());
                    return status;
                }
                _ => {}
            }
            if asked.elapsed() > within {
                self.signal(Signal::SIGKILL);
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                panic!("the gateway did not end within {within:?}. It wrote:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[track_caller]
    fn end(&mut self) -> ExitStatus {
        let children = self.descendants();
        self.signal(Signal::SIGTERM);
        let status = self.exit(STOP);
        let left: Vec<u32> =
            children.union(&processes_in(self.home())).copied().filter(|&pid| alive(pid)).collect();
        assert!(
            left.is_empty(),
            "processes left behind: {:?}",
            left.iter().map(|&pid| (pid, command(pid))).collect::<Vec<_>>()
        );
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        status
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let is_over = !matches!(self.child.try_wait(), Ok(None));
        if is_over && self.heir.is_none_or(|heir| !alive(heir)) {
            return;
        }
        if std::thread::panicking() {
            // The test has failed already; what the gateway wrote is the best explanation there is.
            let children = self.descendants();
            self.signal(Signal::SIGKILL);
            let _ = self.child.kill();
            let _ = self.child.wait();
            for pid in children {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX)),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!(
                    "the gateway wrote last:\n{}\n",
                    tail.into_iter().rev().collect::<Vec<_>>().join("\n")
                )
                .as_bytes(),
            );
            return;
        }
        let status = self.end();
        assert!(status.success(), "the gateway ended with {status}. It wrote:\n{}", self.log());
    }
}

/// A port that nobody listens on. It is below those that the system gives out, so that no other test gets it either.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test runs side by side on one machine begin at different places.
    let start = u16::try_from(std::process::id() % 12_000).unwrap();
    (0..12_000)
        .map(|_| 20_000 + (start + NEXT.fetch_add(1, Ordering::SeqCst) % 12_000) % 12_000)
        .find(|&port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok())
        .expect("a free port")
}

/// The address in the log line that says the gateway listens.
fn listening(line: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields").unwrap_or(&line);
    (fields.get("message")?.as_str()? == "listening")
        .then(|| fields.get("address")?.as_str()?.parse().ok())?
}

fn processes() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Processes whose working directory is in that folder: children of the bridge work in the catalog's folder.
fn processes_in(folder: &Path) -> BTreeSet<u32> {
    let works_in = |pid: &u32| {
        std::fs::read_link(PathBuf::from(format!("/proc/{pid}/cwd"))).is_ok_and(|cwd| cwd.starts_with(folder))
    };
    processes().filter(works_in).collect()
}

fn stat(pid: u32) -> Option<(char, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command in parentheses may contain anything: fields start after the last one.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid).map(|(_, parent)| parent)
}

/// Whether it runs, or is a zombie that nobody waited for. What the system's first process adopted is that one's to
/// reap, and some take seconds.
pub(crate) fn alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, parent)| (state, parent) != ('Z', 1))
}

fn command(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ")
}
