//! F06: families of processes that ignore SIGTERM and leave their group, ended in every way there is: nobody survives.
//! Not here: one grandchild (`stdio`), a process that crashes by itself (`crash_loop`).

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Card, as_much_as};
use crate::client::{Caller, request};
use crate::gateway::{self, Gateway};
use crate::packages;

/// A family is gone within this time of its order, or of the sweep.
const GONE: Duration = Duration::from_secs(10);
/// How often the gateway is killed and started again.
const KILLS: [usize; 2] = [10, 50];
/// A shell, a launcher in it, and what that starts.
const FAMILY: usize = 4;

/// A launcher that ignores SIGTERM, with a child that does the same and one more in a session of its own.
const LAUNCHER: &str = r#"
import json, os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
family = [os.getppid(), os.getpid()]
for apart in (False, True):
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", deaf], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=apart)
    child.stdout.readline()
    family.append(child.pid)
with open("family", "a") as log:
    log.write("".join("%d\n" % pid for pid in family))
for line in sys.stdin:
    message = json.loads(line)
    if message.get("id") is not None:
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "it", "version": "1"}}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
signal.pause()
"#;

fn catalog(mode: &str, has_family: bool) -> String {
    let shell = r#""$PYTHON" -I -S -c "$LAUNCHER"; true"#;
    let runtime = json!({"type": "local-process", "command": "/bin/sh", "args": ["-c", shell]});
    let env = json!({"PYTHON": packages::python(), "LAUNCHER": LAUNCHER});
    let family = json!({"id": "it", "runtime": runtime, "env": env, "mode": mode});
    let other = json!({"id": "other", "runtime": {"type": "local-process", "command": env!("CARGO_BIN_EXE_tollgate"), "args": ["sample", "stdio"]}});
    json!({"servers": if has_family { vec![family, other] } else { vec![other] }}).to_string()
}

/// Two sessions: a shared server has one family for both, and else each has one.
async fn called(gateway: &Gateway) -> (Vec<Caller>, BTreeSet<u32>) {
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
        let answer = session.post(&request(1, "tools/list", json!({}))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        sessions.push(session);
    }
    let text = std::fs::read_to_string(gateway.home().join("family")).unwrap();
    let family: BTreeSet<u32> = text.lines().map(|pid| pid.parse().unwrap()).collect();
    let family: BTreeSet<u32> = family.into_iter().filter(|pid| gateway::alive(*pid)).collect();
    (sessions, family)
}

/// Who of a family is still there after its time, as a process or as a zombie.
fn survivors(family: &BTreeSet<u32>) -> Vec<String> {
    let deadline = Instant::now() + GONE;
    loop {
        let left: Vec<u32> = family.iter().copied().filter(|pid| gateway::alive(*pid)).collect();
        if left.is_empty() || Instant::now() > deadline {
            return left.iter().map(|pid| format!("{pid} survived")).collect();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Every way to end a family but killing the gateway.
async fn end(
    gateway: Gateway,
    way: &str,
    mode: &str,
    sessions: &[Caller],
    family: &BTreeSet<u32>,
) -> Vec<String> {
    match way {
        "stop" => {
            let stopped = Caller::new(&gateway.path("/servers/it/stop")).post(&json!({})).await;
            assert_eq!(stopped.status, 200, "{stopped:?}");
        }
        "reload" => gateway.edit_catalog(&catalog(mode, false)),
        "goodbye" => {
            for session in sessions {
                let ended = session.send(reqwest::Method::DELETE, Vec::new()).await;
                assert!(ended.status < 300, "{ended:?}");
            }
        }
        _ => {
            drop(gateway.stop());
            return survivors(family);
        }
    }
    survivors(family)
}

/// One family or two, ended in one way: what is wrong, and how many processes that were.
fn ended(mode: &str, way: &str) -> (Vec<String>, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let gateway = Gateway::start(&catalog(mode, true));
        let (sessions, family) = called(&gateway).await;
        let families = if mode == "per_session" { 2 } else { 1 };
        assert_eq!(family.len(), FAMILY * families, "{mode}: {family:?}");
        (end(gateway, way, mode, &sessions, &family).await, family.len())
    })
}

#[test]
fn f06_no_member_of_a_family_survives_whatever_ends_it() {
    let mut card = Card::new("F06");
    let mut count = 0;
    let modes = ["shared", "per_caller", "per_session"];
    let all = modes.iter().flat_map(|mode| ["stop", "reload", "SIGTERM", "goodbye"].map(|way| (*mode, way)));
    std::thread::scope(|scope| {
        // Only a session's own child ends with it.
        let ways = all.filter(|(mode, way)| *way != "goodbye" || *mode == "per_session");
        let running: Vec<_> =
            ways.map(|(mode, way)| (mode, way, scope.spawn(move || ended(mode, way)))).collect();
        for (mode, way, thread) in running {
            let (wrong, processes) = thread.join().unwrap();
            count += processes;
            card.case(&format!("{mode}, {way}"), &wrong);
        }
    });
    card.pass(&format!(
        "{count} processes that ignore SIGTERM or left their group, ended in 10 ways: 0 left, 0 zombies"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f06_what_a_killed_gateway_leaves_is_gone_soon_after_the_next_one_starts() {
    let mut card = Card::new("F06");
    let mut gateway = Gateway::start(&catalog("per_session", true));
    let mut slowest = Duration::ZERO;
    let kills = as_much_as(KILLS[0], KILLS[1]);
    for kill in 0..kills {
        let (_, family) = called(&gateway).await;
        assert_eq!(family.len(), FAMILY * 2, "{family:?}");
        let home = gateway.kill();
        // Nobody but the next gateway ends them.
        assert!(family.iter().all(|pid| gateway::alive(*pid)), "{family:?}");
        std::fs::remove_file(home.path().join("family")).unwrap();
        gateway = Gateway::with(&catalog("per_session", true)).home(home).start();
        let since = Instant::now();
        card.case(&format!("kill {kill}"), &survivors(&family));
        slowest = slowest.max(since.elapsed());
    }
    card.pass(&format!(
        "kill -9 x {kills}: 0 left {:.1} s after the next start at the latest",
        slowest.as_secs_f64()
    ));
}

/// The control: who ends only the process that was started leaves its family behind.
#[test]
fn f06_a_naive_supervisor_leaves_the_family_behind() {
    let folder = tempfile::tempdir().unwrap();
    let catalog: Value = serde_json::from_str(&catalog("shared", true)).unwrap();
    let args = catalog["servers"][0]["runtime"]["args"].as_array().unwrap().clone();
    let mut child = Command::new("/bin/sh")
        .args(args.iter().map(|arg| arg.as_str().unwrap()))
        .env("PYTHON", packages::python())
        .env("LAUNCHER", LAUNCHER)
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let path = folder.path().join("family");
    let deadline = Instant::now() + GONE;
    let family: Vec<u32> = loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if text.lines().count() == FAMILY {
            break text.lines().map(|pid| pid.parse().unwrap()).collect();
        }
        assert!(Instant::now() < deadline, "the family does not start");
        std::thread::sleep(Duration::from_millis(20));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    let left: Vec<u32> = family.into_iter().filter(|pid| gateway::alive(*pid)).collect();
    for pid in &left {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(*pid).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    assert_eq!(left.len(), FAMILY - 1, "{left:?}");
}
