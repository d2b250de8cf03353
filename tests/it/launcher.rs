//! `tollgate launch` by itself: as an ordinary user, and on a system that cannot do everything.
//! Not here: what a gateway's children can do in a sandbox (`sandbox`).

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::packages::{self, Said};
use crate::sandbox::python;

/// A user without rights and without a name.
const USER: u32 = 61475;
const SOON: Duration = Duration::from_secs(30);

/// A folder that everybody can enter, with the program in it: that of the build may be closed to others.
fn installed() -> (TempDir, PathBuf) {
    let folder = TempDir::with_prefix("tollgate-it-").unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("tollgate");
    let built = env!("CARGO_BIN_EXE_tollgate");
    std::fs::hard_link(built, &program).or_else(|_| std::fs::copy(built, &program).map(drop)).unwrap();
    for (dir, mode) in [("mine", 0o777), ("other", 0o777)] {
        let dir = folder.path().join(dir);
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    (folder, program)
}

fn launch(tollgate: &Path, profile: &Value, program: &[&str]) -> Command {
    let mut command = Command::new(tollgate);
    let parent = std::process::id().to_string();
    command.args(["launch", "--parent", &parent, "--profile", &profile.to_string(), "--"]).args(program);
    command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin");
    command
}

/// Runs a script of Python in a sandbox, as an ordinary user if we can choose.
fn as_user(tollgate: &Path, profile: &Value, script: &str) -> Said {
    let mut command = launch(tollgate, profile, &[python().to_str().unwrap(), "-I", "-c", script]);
    if nix::unistd::geteuid().is_root() {
        command.uid(USER).gid(USER);
    }
    packages::run(command, SOON)
}

fn profile(more: Value) -> Value {
    let mut profile = json!({"network": true, "missing": "refuse"});
    profile.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    profile
}

/// What a script must say with a sandbox, and without what is tested of it.
#[track_caller]
fn check(tollgate: &Path, more: Value, script: &str, boxed: &str, free: &str) {
    let said = as_user(tollgate, &profile(more.clone()), script);
    assert!(said.stdout.contains(boxed), "{more}: {said:?}");
    let said = as_user(tollgate, &profile(json!({})), script);
    assert!(said.stdout.contains(free), "control of {more}: {said:?}");
}

#[test]
fn an_ordinary_user_can_be_shut_in_as_well() {
    let (folder, tollgate) = installed();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let attempt = |what: &str| {
        format!(
            "import os, socket, resource\ntry:\n  {what}\n  print('done')\nexcept BaseException as error: print(type(error).__name__, error)"
        )
    };
    check(
        &tollgate,
        json!({"memory_bytes": 200 << 20}),
        &attempt("bytearray(300 << 20)"),
        "MemoryError",
        "done",
    );
    let open = attempt("x = [open('/dev/null') for _ in range(100)]");
    check(&tollgate, json!({"files": 32}), &open, "Too many open files", "done");
    let fork = attempt("p = os.fork(); p or os._exit(0); os.waitpid(p, 0)");
    check(&tollgate, json!({"processes": 1}), &fork, "temporarily unavailable", "done");
    let paths = json!({"paths": {"read": [], "write": [path("mine")]}});
    let write = |dir: &str| attempt(&format!("open('{}/x', 'w').write('x')", path(dir)));
    check(&tollgate, paths.clone(), &write("other"), "Permission denied", "done");
    check(&tollgate, paths, &write("mine"), "done", "done");
    let lift = attempt("resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9))");
    check(&tollgate, json!({"file_bytes": 8}), &lift, "not allowed to raise", "done");
    let caps = "print(open('/proc/self/status').read())";
    let said = as_user(&tollgate, &profile(json!({})), caps);
    for line in ["CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(said.stdout.contains(line), "{line}: {}", said.stdout);
    }
}

#[test]
fn what_an_ordinary_user_cannot_do_is_refused_or_warned_of() {
    let (_folder, tollgate) = installed();
    let user = json!({"user": {"name": "daemon", "uid": 1, "gid": 1, "home": null}});
    if nix::unistd::geteuid().is_root() {
        let said = as_user(&tollgate, &profile(user.clone()), "print('runs')");
        let why = "tollgate launch: user: it is root that can start a server as user `daemon`";
        assert!(
            said.status.code() == Some(125) && said.stderr.starts_with(why) && said.stdout.is_empty(),
            "{said:?}"
        );
        let mut warned = profile(user);
        warned["missing"] = json!("warn");
        let said = as_user(&tollgate, &warned, "print('runs')");
        assert!(said.stdout.contains("runs"), "{said:?}");
        assert!(said.stderr.starts_with("tollgate launch: warning: user: "), "{said:?}");
    }
    for (profile, program, why) in [
        (json!({"network": true}), "/bin/true", "not a profile: missing field `missing`"),
        (json!("x"), "/bin/true", "not a profile: "),
        (profile(json!({})), "/nowhere/program", "cannot run /nowhere/program: No such file"),
        (profile(json!({})), "/etc", "cannot run /etc: Permission denied"),
        (
            profile(json!({"paths": {"read": ["/nowhere"], "write": []}})),
            "/bin/true",
            "cannot open /nowhere: No such file",
        ),
    ] {
        let said = packages::run(launch(&tollgate, &profile, &[program]), SOON);
        let whole = format!("tollgate launch: {why}");
        assert!(said.status.code() == Some(125) && said.stderr.starts_with(&whole), "{why}: {said:?}");
        assert_eq!(said.stderr.lines().count(), 1, "{said:?}");
    }
}

/// A system that gives out no namespaces, as many containers are. What is left is told truly: TCP is denied, UDP is not.
#[test]
fn without_namespaces_only_tcp_is_denied() {
    let (_folder, tollgate) = installed();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (tcp_port, udp_port) = (tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port());
    let script = format!(
        "import socket\ntry: print('tcp', socket.create_connection(('127.0.0.1', {tcp_port})) and 'done')\nexcept OSError as error: print('tcp', error)\nprint('udp', socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {udp_port})))"
    );
    let run = |missing: &str, network: bool| {
        let mut command = Command::new("unshare");
        let shut = "echo 0 > /proc/sys/user/max_net_namespaces && echo 0 > /proc/sys/user/max_user_namespaces && \"$0\" launch --parent $$ --profile \"$1\" -- \"$2\" -I -c \"$3\"; exit $?";
        let profile = json!({"network": network, "missing": missing}).to_string();
        command.args(["-Ur", "sh", "-c", shut]).arg(&tollgate).arg(profile).arg(python()).arg(&script);
        packages::run(command, SOON)
    };
    let said = run("refuse", false);
    let why =
        "tollgate launch: no network of its own (No space left on device (os error 28)): only TCP is denied";
    assert!(
        said.status.code() == Some(125) && said.stderr.starts_with(why) && said.stdout.is_empty(),
        "{said:?}"
    );
    let said = run("warn", false);
    assert!(said.stderr.starts_with("tollgate launch: warning: no network of its own"), "{said:?}");
    assert!(said.stdout.contains("tcp [Errno 13]") && said.stdout.contains("udp 1"), "{said:?}");
    let said = run("warn", true);
    assert!(said.stdout.contains("tcp done") && said.stdout.contains("udp 1"), "control: {said:?}");
}
