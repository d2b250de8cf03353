//! The gateway under systemd: what it says to the service manager, and the unit that is shipped.
//! Not here: upgrades and ends as clients see them (`scorecard`).

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::client::SOON;
use crate::gateway::Gateway;

/// A service manager that only listens.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    heard: Vec<String>,
    _home: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let home = tempfile::TempDir::with_prefix("tollgate-notify-").unwrap();
        let path = home.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self { socket, path, heard: Vec::new(), _home: home }
    }

    /// A message that has a line with that beginning, of those that nobody asked for yet; what follows it.
    #[track_caller]
    fn hears(&mut self, beginning: &str) -> String {
        let mut bytes = [0; 4096];
        let deadline = Instant::now() + SOON;
        loop {
            let found =
                self.heard.iter().position(|message| message.lines().any(|line| line.starts_with(beginning)));
            if let Some(found) = found {
                return self.heard.remove(found).replacen(beginning, "", 1);
            }
            assert!(Instant::now() < deadline, "not said: {beginning}; but: {:?}", self.heard);
            if let Ok(length) = self.socket.recv(&mut bytes) {
                self.heard.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
            }
        }
    }
}

#[test]
fn systemd_is_told_of_everything_it_waits_for() {
    let mut manager = Manager::new();
    let runtime = json!({"type": "local-process", "command": env!("CARGO_BIN_EXE_tollgate"), "args": ["sample", "stdio"]});
    let catalog = |ids: &[&str]| {
        let servers: Vec<_> = ids.iter().map(|id| json!({"id": id, "runtime": runtime})).collect();
        json!({ "servers": servers }).to_string()
    };
    let mut gateway = Gateway::with(&catalog(&["a"]))
        .env("NOTIFY_SOCKET", manager.path.to_str().unwrap())
        .env("WATCHDOG_USEC", "400000")
        .start();
    manager.hears("READY=1");
    assert!(manager.hears("STATUS=").starts_with("1/1 servers healthy, generation 1"));
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    gateway.edit_catalog(&catalog(&["a", "b"]));
    assert!(manager.hears("STATUS=2/2 servers healthy, generation ").starts_with('2'));
    manager.heard.clear();
    gateway.signal(Signal::SIGHUP);
    let reloading = manager.hears("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.hears("READY=1");
    // A reload that fails is over, too: systemd would wait for it for ever.
    gateway.edit_catalog("servers: [");
    gateway.signal(Signal::SIGHUP);
    manager.hears("RELOADING=1");
    manager.hears("READY=1");
    gateway.edit_catalog(&catalog(&["a"]));

    let old = gateway.upgrade().unwrap();
    let told = manager.hears("MAINPID=");
    assert!(told.starts_with(&gateway.pid().to_string()), "{told}");
    gateway.wait_for_end_of(old, Duration::from_secs(30));
    manager.hears("WATCHDOG=1");
    gateway.signal(Signal::SIGTERM);
    manager.hears("STOPPING=1");
    gateway.stop();
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/tollgate.service");
    let unit = std::fs::read_to_string(&path).unwrap();
    for wanted in [
        "Type=notify-reload",
        "DynamicUser=yes",
        "StateDirectory=",
        "ProtectSystem=strict",
        "KillMode=mixed",
        "WatchdogSec=",
    ] {
        assert!(unit.lines().any(|line| line.starts_with(wanted)), "{wanted} is missing");
    }
    let Ok(said) = Command::new("systemd-analyze").arg("--version").output() else { return };
    let words = String::from_utf8_lossy(&said.stdout).into_owned();
    let version: u32 = words.split_whitespace().nth(1).unwrap().parse().unwrap();
    // It looks for the program, and an older one does not know the type.
    let mut unit = unit.replace("/usr/local/bin/tollgate", env!("CARGO_BIN_EXE_tollgate"));
    if version < 253 {
        unit = unit.replace("Type=notify-reload", "Type=notify");
    }
    let home = tempfile::tempdir().unwrap();
    let copy = home.path().join("tollgate.service");
    let verify = |unit: &str| {
        std::fs::write(&copy, unit).unwrap();
        let said = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy).output().unwrap();
        let told = String::from_utf8_lossy(&said.stderr).into_owned();
        told.lines().filter(|line| line.contains("tollgate.service")).map(str::to_owned).collect::<Vec<_>>()
    };
    let complaints = verify(&unit);
    assert!(complaints.is_empty(), "{complaints:?}");
    let control = verify(&unit.replace("DynamicUser=yes", "DynamicUser=perhaps"));
    assert!(!control.is_empty(), "systemd-analyze takes anything");
}
