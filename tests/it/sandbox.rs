//! What a child can still do in its sandbox, and that it could do it without one.
//! Not here: what a hungry child costs the others (`scorecard/eaters`), mistakes in a profile (golden cases).

use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Caller, request};
use crate::gateway::{Gateway, alive};
use crate::packages;

/// A server that takes what it can get.
pub(crate) const EATER: &str = include_str!("eater.py");
/// A user that owns nothing and runs nothing else. It need not have a name.
pub(crate) const NOBODY: &str = "61473:61473";

/// The system's own Python, which every user may run.
pub(crate) fn python() -> PathBuf {
    let places = ["/usr/bin/python3", "/usr/local/bin/python3"].map(PathBuf::from);
    places.into_iter().find(|path| path.exists()).expect("python3 in /usr")
}

/// An eater with that sandbox.
pub(crate) fn eater(id: &str, sandbox: Value) -> Value {
    let mut server = json!({"id": id, "runtime": {"type": "local-process", "command": python(), "args": ["-I", "-u", "-c", EATER]}});
    if !sandbox.is_null() {
        server["sandbox"] = sandbox;
    }
    server
}

/// A session with an eater.
pub(crate) struct Eater(pub(crate) Caller);

impl Eater {
    pub(crate) async fn open(gateway: &Gateway, id: &str) -> Self {
        Self(Caller::new(&gateway.url(id)).initialize().await.0)
    }

    /// What a tool says: what it got, or why it failed, or the error if the child is gone.
    pub(crate) async fn ask(&self, tool: &str, with: Value) -> Result<Value, String> {
        let call = request(1, "tools/call", json!({"name": tool, "arguments": {"with": with}}));
        let answer = self.0.post(&call).await.json();
        let Some(text) = answer["result"]["content"][0]["text"].as_str() else {
            return Err(answer["error"].to_string());
        };
        let said: Value = serde_json::from_str(text).unwrap();
        match said["failed"].as_str() {
            Some(why) => Err(why.to_owned()),
            None => Ok(said["got"].clone()),
        }
    }

    /// It must fail, and say why with one of these words.
    #[track_caller]
    pub(crate) fn check_denied(what: &str, said: Result<Value, String>, words: &[&str]) {
        let why = said.expect_err(what);
        assert!(words.iter().any(|word| why.contains(word)), "{what}: {why}");
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A gateway with an eater `free` and an eater `boxed`, in a folder with `secret` and the directories `mine` and `given`.
fn two(sandbox: Value) -> Gateway {
    two_with(sandbox, |_| ())
}

fn two_with(sandbox: Value, prepare: impl FnOnce(&Path)) -> Gateway {
    let home = TempDir::with_prefix("tollgate-it-").unwrap();
    for dir in ["mine", "given"] {
        std::fs::create_dir(home.path().join(dir)).unwrap();
    }
    std::fs::write(home.path().join("secret"), "hush").unwrap();
    std::fs::write(home.path().join("given/public"), "hello").unwrap();
    prepare(home.path());
    let catalog = json!({"servers": [eater("free", Value::Null), eater("boxed", sandbox)]});
    Gateway::with(&catalog.to_string()).home(home).start()
}

async fn both(gateway: &Gateway) -> (Eater, Eater) {
    (Eater::open(gateway, "free").await, Eater::open(gateway, "boxed").await)
}

#[tokio::test]
async fn limits_hold_and_cannot_be_lifted() {
    let gateway = two(json!({"memory": "200MiB", "files": 64, "file_size": "64KiB", "cpu": "1s"}));
    let (free, boxed) = both(&gateway).await;
    let path = gateway.home().join("mine/long");
    for (tool, with, words) in [
        ("memory", json!([300]), "MemoryError"),
        ("files", json!([200]), "Too many open files"),
        ("write", json!([path, 128]), "File too large"),
    ] {
        assert!(free.ask(tool, with.clone()).await.is_ok(), "control: {tool} without a sandbox");
        Eater::check_denied(tool, boxed.ask(tool, with).await, &[words]);
    }
    for name in ["AS", "NOFILE", "FSIZE", "CPU", "CORE"] {
        Eater::check_denied(
            name,
            boxed.ask("lift", json!([name])).await,
            &["not allowed to raise", "Errno 1"],
        );
    }
    if is_root() {
        assert_eq!(free.ask("lift", json!(["FSIZE"])).await, Ok(json!("lifted")), "control: root may");
    }
    // The whole life of a process counts.
    assert!(free.ask("cpu", json!([1.5])).await.is_ok(), "control: time without a sandbox");
    let died = boxed.ask("cpu", json!([10])).await;
    Eater::check_denied("cpu", died, &["used up its processor time"]);
    // The next call is served by a new one.
    assert!(Eater::open(&gateway, "boxed").await.ask("pid", json!([])).await.is_ok());
}

#[tokio::test]
async fn no_child_gets_new_privileges_or_leaves_a_core() {
    let gateway = two(json!({"files": 64}));
    let (free, boxed) = both(&gateway).await;
    for eater in [&free, &boxed] {
        assert_eq!(eater.ask("status", json!(["NoNewPrivs"])).await, Ok(json!("1")));
        assert_eq!(eater.ask("limit", json!(["CORE"])).await, Ok(json!([0, 0])));
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(boxed.ask("status", json!([set])).await, Ok(json!("0000000000000000")), "{set}");
    }
    // The gateway's own threads keep what they had: it may have to start a newer self that needs it.
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    assert!(status.contains("NoNewPrivs:\t0"), "{status}");
    // Other limits are the gateway's own.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.pid())).unwrap();
    assert!(
        limits.lines().any(|l| l.starts_with("Max address space") && l.contains("unlimited")),
        "{limits}"
    );
    assert_eq!(free.ask("limit", json!(["AS"])).await, Ok(json!([-1, -1])));
}

#[tokio::test]
async fn a_setuid_program_gives_nothing() {
    if !is_root() {
        return eprintln!("only root can make a setuid program and start another user's process");
    }
    let mut tool = PathBuf::new();
    let gateway = two_with(json!({"user": NOBODY}), |home| {
        // Everybody may look into this folder, or there would be no attack.
        std::fs::set_permissions(home, std::fs::Permissions::from_mode(0o755)).unwrap();
        tool = home.join("mine/id");
        std::fs::copy("/usr/bin/id", &tool).unwrap();
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o4755)).unwrap();
    });
    use std::os::unix::process::CommandExt as _;
    let control = Command::new(&tool).arg("-u").uid(61473).gid(61473).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&control.stdout).trim(), "0", "control: it makes root of anybody");
    let boxed = Eater::open(&gateway, "boxed").await;
    assert_eq!(boxed.ask("who", json!([])).await, Ok(json!([61473, 61473, [61473]])));
    assert_eq!(boxed.ask("run", json!([tool, "-u"])).await, Ok(json!("61473")));
    assert_eq!(boxed.ask("env", json!([])).await.unwrap().get("HOME"), Some(&json!(gateway.home())));
}

#[tokio::test]
async fn files_outside_are_closed() {
    let gateway = two(json!({"read": ["given"], "write": ["mine"]}));
    let (free, boxed) = both(&gateway).await;
    let home = gateway.home();
    let denied = ["Permission denied"];
    let (secret, outside, link) = (home.join("secret"), home.join("outside"), home.join("mine/link"));
    let key = home.join("state/session.key");
    std::os::unix::fs::symlink(&secret, &link).unwrap();
    for (what, tool, with) in [
        ("a file beside", "read", json!([secret])),
        ("a link that leads out", "read", json!([link])),
        ("a climb out of the tree", "read", json!([home.join("mine/../secret")])),
        ("the gateway's key", "read", json!([key])),
        ("its catalog", "read", json!([home.join("catalog.yaml")])),
        ("the gateway's environment", "read", json!([format!("/proc/{}/environ", gateway.pid())])),
        ("a new file outside", "write", json!([outside])),
        ("a file that it may read", "write", json!([home.join("given/public")])),
        ("cutting a file short", "cut", json!([home.join("given/public")])),
    ] {
        if key.exists() || tool != "read" || with != json!([key]) {
            assert!(free.ask(tool, with.clone()).await.is_ok(), "control: {what}");
        }
        std::fs::write(home.join("given/public"), "hello").unwrap();
        Eater::check_denied(what, boxed.ask(tool, with).await, &denied);
    }
    assert_eq!(std::fs::read_to_string(home.join("given/public")).unwrap(), "hello");
    if is_root() {
        assert!(free.ask("read", json!(["/etc/shadow"])).await.is_ok(), "control: it is root's");
    }
    Eater::check_denied("the system's secrets", boxed.ask("read", json!(["/etc/shadow"])).await, &denied);
    assert!(boxed.ask("read", json!(["/etc/passwd"])).await.is_ok());
    assert_eq!(boxed.ask("read", json!([home.join("given/public")])).await, Ok(json!("hello")));
    assert_eq!(boxed.ask("write", json!([home.join("mine/own"), 3])).await, Ok(json!(3072)));
    // The system's programs run; what it wrote itself does not.
    assert_eq!(boxed.ask("run", json!(["/bin/echo", "hello"])).await, Ok(json!("hello")));
    let own = home.join("mine/program");
    std::fs::copy("/bin/echo", &own).unwrap();
    assert_eq!(free.ask("run", json!([own, "hello"])).await, Ok(json!("hello")), "control");
    Eater::check_denied("its own program", boxed.ask("run", json!([own, "hello"])).await, &denied);
}

#[tokio::test]
async fn the_network_is_out_of_reach() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let greeter =
        std::thread::spawn(move || listener.accept().map(|(mut peer, _)| peer.write_all(b"welcome")));
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    datagrams.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let udp = datagrams.local_addr().unwrap().port();
    // Where neither namespaces nor rules are to be had, the start is refused; that is not what is tested here.
    let gateway = two(json!({"network": false}));
    let (free, boxed) = both(&gateway).await;
    Eater::check_denied("tcp", boxed.ask("tcp", json!([port])).await, &["Permission denied", "unreachable"]);
    Eater::check_denied("udp", boxed.ask("udp", json!([udp])).await, &["unreachable", "Cannot assign"]);
    assert_eq!(free.ask("tcp", json!([port])).await, Ok(json!("welcome")), "control");
    greeter.join().unwrap().unwrap().unwrap();
    assert_eq!(free.ask("udp", json!([udp])).await, Ok(json!(3)), "control");
    let (length, _) = datagrams.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(length, 3);
    assert!(boxed.ask("tcp", json!([gateway.address().port()])).await.is_err(), "the gateway itself");
}

#[tokio::test]
async fn signals_reach_its_own_processes_only() {
    let gateway = two(json!({"files": 64}));
    let (free, boxed) = both(&gateway).await;
    let other = free.ask("pid", json!([])).await.unwrap();
    assert_eq!(free.ask("signal", json!([gateway.pid()])).await, Ok(json!("sent")), "control");
    for pid in [json!(gateway.pid()), other] {
        Eater::check_denied("a signal", boxed.ask("signal", json!([pid])).await, &["not permitted"]);
    }
    let own = boxed.ask("pid", json!([])).await.unwrap();
    assert_eq!(boxed.ask("signal", json!([own])).await, Ok(json!("sent")));
    // To end it is still ours: stopping leaves nothing behind, or the gateway's end fails this test.
    assert!(boxed.ask("stay", json!([])).await.is_ok());
}

#[tokio::test]
async fn processes_are_counted() {
    let user = if is_root() { json!(NOBODY) } else { Value::Null };
    let mut sandbox = json!({"processes": if is_root() { 8 } else { 1 }});
    if !user.is_null() {
        sandbox["user"] = user;
    }
    let gateway = two(sandbox);
    let (free, boxed) = both(&gateway).await;
    assert_eq!(free.ask("fork", json!([60])).await, Ok(json!(60)), "control");
    let got = boxed.ask("fork", json!([60])).await.unwrap();
    assert!(got.as_u64().unwrap() < 8, "{got} processes");
}

#[tokio::test]
async fn the_environment_is_what_the_catalog_names() {
    let mut server = eater("boxed", json!({"files": 64}));
    server["env"] = json!({"TOKEN": "t0p-secret"});
    let catalog = json!({"servers": [server]});
    let gateway = Gateway::with(&catalog.to_string()).env("AWS_SECRET_ACCESS_KEY", "leak").start();
    let boxed = Eater::open(&gateway, "boxed").await;
    let Value::Object(env) = boxed.ask("env", json!([])).await.unwrap() else { panic!("no environment") };
    let mut names: Vec<&str> = env.keys().map(String::as_str).collect();
    names.retain(|name| !["LC_CTYPE", "LANG"].contains(name));
    names.sort_unstable();
    assert_eq!(names, ["HOME", "PATH", "TOKEN", "TOLLGATE_CHILD"]);
    let pid = boxed.ask("pid", json!([])).await.unwrap();
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(!line.contains("t0p-secret") && !line.contains("tollgate"), "{line}");
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_or_warned_of() {
    if !is_root() {
        return eprintln!("the limit of processes is beyond the kernel for root only");
    }
    let servers = [
        eater("refused", json!({"processes": 8})),
        eater("warned", json!({"processes": 8, "missing": "warn"})),
        eater("gone", json!({"read": ["given"]})),
    ];
    let home = TempDir::with_prefix("tollgate-it-").unwrap();
    std::fs::create_dir(home.path().join("given")).unwrap();
    let gateway = Gateway::with(&json!({ "servers": servers }).to_string()).home(home).start();
    let words = "could not be started in its sandbox: processes: the kernel does not count those of root";
    let ask = |id: &str| {
        let caller = Caller::new(&gateway.url(id));
        async move {
            caller.post(&request(1, "initialize", json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}))).await
        }
    };
    let refused = ask("refused").await;
    assert!(refused.body.contains(words), "{refused:?}");
    let told = Caller::new(&gateway.path("/servers/refused")).send(reqwest::Method::GET, Vec::new()).await;
    assert!(told.json()["process"]["last_error"].as_str().unwrap_or_default().contains(words), "{told:?}");
    gateway.wait_for_log("the refusal", Duration::from_secs(10), |line| {
        line["what"].as_str()?.contains(words).then_some(())
    });
    assert!(Eater::open(&gateway, "warned").await.ask("pid", json!([])).await.is_ok());
    gateway.wait_for_log("the warning", Duration::from_secs(10), |line| {
        let told = line["message"].as_str()?.contains("sandbox: warning: processes");
        (told && line["level"] == "WARN" && line["server"] == "warned").then_some(())
    });
    std::fs::remove_dir(gateway.home().join("given")).unwrap();
    let gone = ask("gone").await;
    assert!(gone.body.contains("could not be started in its sandbox: cannot open"), "{gone:?}");
}

/// The bridge's thread is the parent in the kernel's eyes, and lives on while others come and go.
#[tokio::test]
async fn a_child_ends_with_a_gateway_that_is_killed() {
    let gateway = two(json!({"files": 64}));
    let (free, boxed) = both(&gateway).await;
    let pid = |said: Result<Value, String>| u32::try_from(said.unwrap().as_u64().unwrap()).unwrap();
    let (deaf, tied) = (pid(free.ask("stay", json!([])).await), pid(boxed.ask("stay", json!([])).await));
    let home = gateway.kill();
    let deadline = Instant::now() + Duration::from_secs(10);
    while runs(tied) {
        assert!(Instant::now() < deadline, "the child outlives its gateway");
        std::thread::sleep(Duration::from_millis(10));
    }
    // Control: without the launcher it stays, until the next gateway sweeps it.
    assert!(runs(deaf));
    let catalog = std::fs::read_to_string(home.path().join("catalog.yaml")).unwrap();
    let gateway = Gateway::with(&catalog).home(home).start();
    let deadline = Instant::now() + Duration::from_secs(10);
    while runs(deaf) {
        assert!(Instant::now() < deadline, "the sweep does not find it");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(gateway);
}

/// Whether it runs. A zombie does not: nobody else may be there to wait for it.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    alive(pid) && !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z')
}

/// Programs that people run in it: Node and a Python of a virtual environment.
#[tokio::test]
async fn real_servers_run_in_it() {
    let sandbox = |read: Vec<PathBuf>| json!({"read": read, "network": false, "files": 256});
    let real = |path: PathBuf| path.canonicalize().unwrap();
    let packages = packages::folder().join(".packages");
    let trees = vec![real(packages.clone()), real(packages::node()), real(packages::everything())];
    let modules = packages.join("node_modules");
    let mut read = trees;
    read.push(real(modules));
    let everything = json!({"id": "everything", "runtime": {"type": "local-process", "command": packages::node(), "args": [packages::everything(), "stdio"]}, "sandbox": sandbox(read)});
    let gateway = Gateway::start(&json!({"servers": [everything]}).to_string());
    let (session, _) = Caller::new(&gateway.url("everything")).initialize().await;
    let list = session.post(&request(1, "tools/list", json!({}))).await.result();
    assert!(list["tools"].as_array().unwrap().len() > 3, "{list}");
}

/// What `docs/sandbox.md` shows is a catalog, and its commands are the program's own.
#[test]
fn the_document_tells_the_truth() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sandbox.md");
    let text = std::fs::read_to_string(path).unwrap();
    let home = TempDir::with_prefix("tollgate-it-").unwrap();
    for dir in ["data", "cache", "lib", "venv/bin"] {
        std::fs::create_dir_all(home.path().join(dir)).unwrap();
    }
    std::fs::write(home.path().join("server.py"), "").unwrap();
    std::os::unix::fs::symlink(python(), home.path().join("venv/bin/python")).unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.args(args).current_dir(home.path()).env_clear().env("HOME", home.path());
        command.env("PATH", "/usr/bin:/usr/local/bin");
        packages::run(command, Duration::from_secs(30))
    };
    let mut catalogs = 0;
    for snippet in text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        std::fs::write(home.path().join("catalog.yaml"), snippet).unwrap();
        let said = run(&["validate", "--strict", "--catalog", "catalog.yaml"]);
        assert!(said.status.success(), "{snippet}\n{}{}", said.stdout, said.stderr);
        catalogs += 1;
    }
    assert_eq!(catalogs, 3);
    // Every key is in the table.
    let schema: Value = serde_json::from_str(&run(&["schema", "catalog"]).stdout).unwrap();
    let keys = &schema["properties"]["servers"]["items"]["properties"]["sandbox"]["properties"];
    for key in keys.as_object().expect("the schema of a sandbox").keys() {
        assert!(text.contains(&format!("| `{key}")), "`{key}` is not in docs/sandbox.md");
    }
    // What is open besides is what the launcher opens.
    let launcher = include_str!("../../src/sandbox/files.rs");
    let opened = launcher.split("\n/// To read and to execute").next().unwrap();
    let paths = opened.split('"').skip(1).step_by(2);
    let missing: Vec<&str> = paths.filter(|path| !text.contains(&format!("`{path}`"))).collect();
    assert!(missing.is_empty(), "docs/sandbox.md does not name {missing:?}");
    for flag in ["bridge --socket", "run --bridge"] {
        let (verb, flag) = flag.split_once(' ').unwrap();
        assert!(
            run(&[verb, "--help"]).stdout.contains(flag) && text.contains(&format!("tollgate {verb} {flag}"))
        );
    }
}
