//! `tollgate bridge`: local servers in a process of their own, which outlive the gateway.
//! Not here: what a bridge does with its children (`stdio`, `sandbox`).

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Caller, request};
use crate::gateway::{Builder, Gateway, alive};
use crate::packages;
use crate::sandbox::{Eater, eater, runs};

const PATIENCE: Duration = Duration::from_secs(30);

/// A running bridge with its catalog and its state in a folder of its own.
struct Bridge {
    child: Child,
    folder: TempDir,
    lines: Receiver<String>,
}

fn command(folder: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(["bridge", "--socket", "socket", "--catalog", "catalog.yaml"]).args(more);
    command.current_dir(folder).env_clear().env("HOME", folder).stdin(Stdio::null());
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("TOLLGATE_STATE_DIR", folder.join("state")).env("TOLLGATE_LOG_FORMAT", "json");
    command
}

impl Bridge {
    fn start(catalog: &Value) -> Self {
        let folder = TempDir::with_prefix("tollgate-it-").unwrap();
        std::fs::write(folder.path().join("catalog.yaml"), catalog.to_string()).unwrap();
        Self::again(folder)
    }

    #[track_caller]
    fn again(folder: TempDir) -> Self {
        let mut child = command(folder.path(), &[]).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = sync_channel(10_000);
        let log = child.stderr.take().unwrap();
        // Ends with the bridge.
        std::thread::spawn(move || {
            BufReader::new(log).lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
        });
        let bridge = Self { child, folder, lines };
        bridge.wait_for("bridge listening");
        bridge
    }

    #[track_caller]
    fn wait_for(&self, words: &str) {
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            seen.push(line);
            if seen.last().unwrap().contains(words) {
                return;
            }
        }
        panic!("the bridge never said {words:?}, but:\n{}", seen.join("\n"));
    }

    fn edit(&self, catalog: &Value) {
        let new = self.folder.path().join(".new");
        std::fs::write(&new, catalog.to_string()).unwrap();
        std::fs::rename(new, self.catalog()).unwrap();
    }

    fn catalog(&self) -> PathBuf {
        self.folder.path().join("catalog.yaml")
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// A gateway that reads the same catalog.
    fn gateway(&self) -> Builder {
        before(&self.socket(), &self.catalog())
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Stops it, and checks that it leaves nothing behind.
    #[track_caller]
    fn stop(mut self, children: &[u32]) -> TempDir {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the bridge does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(status.success(), "{status}");
        for pid in children {
            assert!(!alive(*pid), "child {pid} is left");
        }
        assert!(!self.socket().exists(), "the socket is left");
        std::mem::replace(&mut self.folder, TempDir::new().unwrap())
    }

    fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.folder, TempDir::new().unwrap())
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.signal(Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

fn before(socket: &Path, catalog: &Path) -> Builder {
    let (socket, catalog) = (socket.to_str().unwrap(), catalog.to_str().unwrap());
    let args = ["run", "-c", "tollgate.yaml", "--catalog", catalog, "--bridge", socket];
    Gateway::bare().args(&args).conf("drain: 5s\n")
}

fn catalog(ids: &[&str]) -> Value {
    json!({"servers": ids.iter().map(|id| eater(id, Value::Null)).collect::<Vec<_>>()})
}

async fn pid(eater: &Eater) -> u32 {
    u32::try_from(eater.ask("pid", json!([])).await.unwrap().as_u64().unwrap()).unwrap()
}

/// Asks until it is answered.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn get(gateway: &Gateway, path: &str) -> Value {
    Caller::new(&gateway.path(path)).send(Method::GET, Vec::new()).await.json()
}

async fn post(gateway: &Gateway, path: &str) -> (u16, Value) {
    let answer = Caller::new(&gateway.path(path)).send(Method::POST, Vec::new()).await;
    (answer.status, answer.json())
}

#[tokio::test]
async fn children_outlive_a_gateway_that_is_killed_or_stopped() {
    let bridge = Bridge::start(&json!({"servers": [eater("one", json!({"files": 64}))]}));
    let gateway = bridge.gateway().start();
    let session = Eater::open(&gateway, "one").await;
    let child = pid(&session).await;
    assert_eq!(get(&gateway, "/servers/one").await["process"]["pids"], json!([child]));
    let id = session.0.session().unwrap();
    let home = gateway.kill();
    assert!(alive(child));
    let gateway = bridge.gateway().home(home).start();
    // The same session goes on, and a new one meets the same child.
    let session = Eater(Caller::new(&gateway.url("one")).with("mcp-session-id", &id));
    assert_eq!(pid(&session).await, child);
    assert_eq!(pid(&Eater::open(&gateway, "one").await).await, child);
    let home = gateway.stop();
    assert!(alive(child));
    let gateway = bridge.gateway().home(home).start();
    assert_eq!(pid(&Eater::open(&gateway, "one").await).await, child);
    gateway.stop();
    bridge.stop(&[child]);
}

#[tokio::test]
async fn a_gateway_waits_for_its_bridge_and_finds_it_again() {
    let folder = TempDir::with_prefix("tollgate-it-").unwrap();
    std::fs::write(folder.path().join("catalog.yaml"), catalog(&["one"]).to_string()).unwrap();
    let gateway = before(&folder.path().join("socket"), &folder.path().join("catalog.yaml")).start();
    gateway.wait_for_log("the bridge is away", PATIENCE, |line| {
        line["message"].as_str()?.starts_with("the bridge does not answer").then_some(())
    });
    let call = request(
        1,
        "initialize",
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}),
    );
    let caller = Caller::new(&gateway.url("one"));
    let refused = caller.post(&call).await;
    assert!(refused.json()["error"]["code"].is_i64(), "{refused:?}");
    let shown = get(&gateway, "/servers/one").await;
    assert_eq!(
        (&shown["status"], &shown["process"]["state"]),
        (&json!("stopped"), &json!("unknown")),
        "{shown}"
    );
    let (status, told) = post(&gateway, "/servers/one/start").await;
    assert!(status == 502 && told.to_string().contains("does not answer"), "{status} {told}");

    let bridge = Bridge::again(folder);
    let answers = async || (caller.post(&call).await.status == 200).then_some(());
    until("the bridge to be found", answers).await;
    let session = Eater::open(&gateway, "one").await;
    let deaf = u32::try_from(session.ask("stay", json!([])).await.unwrap().as_u64().unwrap()).unwrap();

    // A bridge that is killed leaves a child that does not listen; the next one sweeps it.
    let bridge = Bridge::again(bridge.kill());
    assert!(!runs(deaf), "the child of the killed bridge is still there");
    until("the new bridge to be found", answers).await;
    let child = pid(&Eater::open(&gateway, "one").await).await;
    gateway.stop();
    bridge.stop(&[child]);
}

#[tokio::test]
async fn both_read_the_catalog_and_the_bridge_decides() {
    let bridge = Bridge::start(&catalog(&["one"]));
    let gateway = bridge.gateway().start();
    let kept = pid(&Eater::open(&gateway, "one").await).await;
    bridge.edit(&catalog(&["one", "two"]));
    // As soon as the gateway knows it, it can be called, whether the bridge's own watch was quicker or not.
    let (status, told) = post(&gateway, "/admin/reload").await;
    assert_eq!(status, 200, "{told}");
    let second = pid(&Eater::open(&gateway, "two").await).await;
    assert_eq!(pid(&Eater::open(&gateway, "one").await).await, kept, "an unchanged server keeps its child");
    // A file with mistakes changes nothing.
    std::fs::write(bridge.catalog(), "servers: 7").unwrap();
    bridge.signal(Signal::SIGHUP);
    bridge.wait_for("the catalog was not reloaded");
    assert_eq!(pid(&Eater::open(&gateway, "two").await).await, second);
    bridge.edit(&catalog(&["one"]));
    until("the removed child's end", async || (!alive(second)).then_some(())).await;
    assert_eq!(pid(&Eater::open(&gateway, "one").await).await, kept);
    gateway.stop();
    bridge.stop(&[kept]);
}

#[tokio::test]
async fn servers_are_started_and_stopped_over_the_socket() {
    let broken = json!({"id": "broken", "runtime": {"type": "local-process", "command": "/bin/sh", "args": ["-c", "echo out of order >&2; exit 3"]}});
    let mut servers = catalog(&["one"]);
    servers["servers"].as_array_mut().unwrap().push(broken);
    let bridge = Bridge::start(&servers);
    let gateway = bridge.gateway().start();
    for (path, words) in [
        ("/servers/one/start", "Server started successfully"),
        ("/servers/one/start", "Server already running"),
        ("/servers/one/stop", "Server stopped successfully"),
        ("/servers/one/stop", "Server already stopped"),
        ("/servers/one/start", "Server started successfully"),
    ] {
        let (status, told) = post(&gateway, path).await;
        assert_eq!((status, &told["message"]), (200, &json!(words)), "{path}");
    }
    let listed = get(&gateway, "/servers").await;
    assert_eq!(listed[0]["status"], "running", "{listed}");
    assert_eq!(get(&gateway, "/stats").await["active_servers"], 1);
    let (status, told) = post(&gateway, "/servers/broken/start").await;
    assert!(status == 502 && told.to_string().contains("exited with code 3"), "{status} {told}");
    let shown = get(&gateway, "/servers/broken").await;
    assert_eq!(shown["process"]["stderr"], json!(["out of order"]), "{shown}");
    let child = pid(&Eater::open(&gateway, "one").await).await;
    // The gateway has the metrics of children elsewhere, too.
    until("the counts", async || {
        let metrics = Caller::new(&gateway.path("/metrics")).send(Method::GET, Vec::new()).await.body;
        let says = |words: [&str; 2], count: &str| {
            metrics.lines().any(|line| words.iter().all(|word| line.contains(word)) && line.ends_with(count))
        };
        (says(["_starts_total", "\"one\""], " 2") && says(["\"broken\"", "\"failed\""], " 1")).then_some(())
    })
    .await;
    gateway.stop();
    bridge.stop(&[child]);
}

#[test]
fn the_socket_is_nobody_elses() {
    let bridge = Bridge::start(&catalog(&["one"]));
    let socket = bridge.socket();
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let refused = |folder: &Path, more: &[&str], words: &str| {
        let said = packages::run(command(folder, more), PATIENCE);
        assert!(!said.status.success() && said.stderr.contains(words), "{words}: {}", said.stderr);
    };
    // Another bridge, with the same state or with its own.
    refused(bridge.folder.path(), &[], "another bridge listens there");
    refused(bridge.folder.path(), &["--state-dir", "other"], "another bridge listens there");
    refused(bridge.folder.path(), &["--listen", "127.0.0.1:0"], "a bridge listens on no address");
    let folder = bridge.stop(&[]);
    std::fs::write(folder.path().join("socket"), "precious").unwrap();
    refused(folder.path(), &[], "there is a file that is no socket");
    assert_eq!(std::fs::read_to_string(folder.path().join("socket")).unwrap(), "precious");
    // One that a killed bridge left is replaced.
    std::fs::remove_file(folder.path().join("socket")).unwrap();
    drop(UnixListener::bind(folder.path().join("socket")).unwrap());
    let bridge = Bridge::again(folder);
    assert!(std::fs::symlink_metadata(&socket).unwrap().file_type().is_socket());
    if nix::unistd::geteuid().is_root() {
        stranger(&socket);
    }
    bridge.stop(&[]);
}

#[tokio::test]
async fn calls_in_flight_finish_before_the_bridge_ends() {
    let bridge = Bridge::start(&catalog(&["one"]));
    let gateway = bridge.gateway().start();
    let session = Eater::open(&gateway, "one").await;
    let child = pid(&session).await;
    // User time, in ticks of which a second has a hundred: when it has grown, the call is running.
    let ticks = || {
        let text = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap();
        text.rsplit(')').next().unwrap().split_whitespace().nth(11).unwrap().parse::<u64>().unwrap()
    };
    let before = ticks();
    let other = Eater(session.0.clone());
    let call = tokio::spawn(async move { other.ask("cpu", json!([1.0])).await });
    until("the call", async || (ticks() > before + 10).then_some(())).await;
    bridge.signal(Signal::SIGTERM);
    bridge.wait_for("shutting down");
    assert!(call.await.unwrap().is_ok(), "the call was cut off");
    gateway.stop();
    bridge.wait_for("stopped");
    until("the end of the child", async || (!alive(child)).then_some(())).await;
}

/// Somebody else's socket in the place of the bridge's.
#[tokio::test]
async fn an_impostor_gets_no_call() {
    use std::os::unix::process::CommandExt as _;
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("only root can be two users");
    }
    let folder = TempDir::with_prefix("tollgate-it-").unwrap();
    std::fs::write(folder.path().join("catalog.yaml"), catalog(&["one"]).to_string()).unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let socket = folder.path().join("socket");
    let listen = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\ns.listen()\nwhile True: print(len(s.accept()[0].recv(1)), flush=True)";
    for (uid, wanted) in [(0, "1"), (61474, "0")] {
        let mut command = Command::new(crate::sandbox::python());
        command.args(["-I", "-c", listen]).arg(&socket).current_dir("/").uid(uid).gid(uid);
        let mut impostor = command.stdout(Stdio::piped()).spawn().unwrap();
        until("the impostor", async || std::os::unix::net::UnixStream::connect(&socket).ok()).await;
        let gateway = before(&socket, &folder.path().join("catalog.yaml")).start();
        let call = request(1, "ping", json!({}));
        let asked = Caller::new(&gateway.url("one"));
        let asked = tokio::spawn(async move { asked.post(&call).await });
        let mut said = BufReader::new(impostor.stdout.take().unwrap()).lines().map_while(Result::ok);
        // The first is our own look; as root it is control: the gateway does speak to it.
        let lengths: Vec<String> = said.by_ref().take(3).collect();
        assert!(lengths[1..].iter().all(|length| length == wanted), "user {uid}: {lengths:?}");
        asked.abort();
        impostor.kill().unwrap();
        impostor.wait().unwrap();
        std::fs::remove_file(&socket).unwrap();
    }
}

/// Even where everybody may open the socket, another user gets no answer.
fn stranger(socket: &Path) {
    use std::os::unix::process::CommandExt as _;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    std::fs::set_permissions(socket.parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let ask = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\ns.sendall(b'GET /-/status HTTP/1.1\\r\\nHost: b\\r\\n\\r\\n')\nprint(s.recv(12).decode())";
    let ask_as = |uid: u32| {
        let mut command = Command::new(crate::sandbox::python());
        command.args(["-I", "-c", ask]).arg(socket).current_dir("/").uid(uid).gid(uid);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        child.wait().unwrap();
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        said.trim().to_owned()
    };
    assert_eq!(ask_as(0), "HTTP/1.1 200", "control: our own user is answered");
    assert_eq!(ask_as(61474), "");
}

/// Upgrades and reloads in a row, under calls: the children of a bridge of its own are the same ones all the time, and
/// no connection is refused.
#[tokio::test(flavor = "multi_thread")]
async fn children_stay_over_ten_upgrades_and_two_hundred_reloads_of_the_gateway() {
    const UPGRADES: usize = 10;
    const RELOADS: usize = 200;
    const PACE: Duration = Duration::from_millis(60);
    let bridge = Bridge::start(&catalog(&["one", "two"]));
    let mut gateway = bridge.gateway().start();
    let session = Eater::open(&gateway, "one").await;
    let child = pid(&session).await;
    let id = session.0.session().unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let url = gateway.url("one");
    let load = |connects_anew: bool| {
        let (url, id, stopped) = (url.clone(), id.clone(), stopped.clone());
        tokio::spawn(async move {
            let caller = || Eater(Caller::new(&url).with("mcp-session-id", &id));
            let (kept, mut seen) = (caller(), Vec::new());
            while !*stopped.borrow() {
                let fresh = connects_anew.then(caller);
                let caller = fresh.as_ref().unwrap_or(&kept);
                seen.push(caller.ask("pid", json!([])).await.map(|pid| pid.as_u64()));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            seen
        })
    };
    let loads = [load(false), load(true)];
    let mut old = Vec::new();
    for round in 0..UPGRADES {
        for edit in 0..RELOADS / UPGRADES {
            let mut edited = catalog(&["one", "two"]);
            edited["servers"][1]["description"] = json!(format!("round {round}.{edit}"));
            bridge.edit(&edited);
            gateway.signal(Signal::SIGHUP);
            tokio::time::sleep(PACE).await;
        }
        old.push(tokio::task::block_in_place(|| gateway.upgrade()).unwrap());
    }
    for pid in old {
        tokio::task::block_in_place(|| gateway.wait_for_end_of(pid, PATIENCE));
    }
    stop.send_replace(true);
    let mut seen = Vec::new();
    for load in loads {
        seen.extend(load.await.unwrap());
    }
    let same = |answer: &&Result<Option<u64>, _>| matches!(answer, Ok(Some(pid)) if *pid == u64::from(child));
    assert!(seen.len() > 500, "{}", seen.len());
    assert_eq!(
        seen.iter().filter(same).count(),
        seen.len(),
        "{:?}",
        seen.iter().find(|answer| !same(answer))
    );
    gateway.stop();
    bridge.stop(&[child]);
}
