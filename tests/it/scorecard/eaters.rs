//! F07: children that eat memory, time, files, processes and disk, and what it costs the others.
//! Not here: what else a sandbox keeps a child from (`sandbox`).

use std::future::Future;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Card, as_much_as};
use crate::client::{Caller, SOON, request};
use crate::gateway::Gateway;
use crate::sandbox::{Eater, NOBODY, eater};

/// Calls of the others before, and at least as many during each attack.
const CALLS: usize = 200;
/// How much slower the others' calls may be in the full form.
const SLOWER_MAX: f64 = 1.5;
/// A stall of the others that no busy machine explains.
const STALL: Duration = Duration::from_secs(5);

/// What is eaten: the tool, how much of it, how much is eaten without a sandbox, and how it ends with one.
struct Meal {
    what: &'static str,
    tool: &'static str,
    with: Value,
    free: Value,
    ends: &'static [&'static str],
}

fn meals(disk: &str, free_disk: &str) -> Vec<Meal> {
    vec![
        Meal {
            what: "memory",
            tool: "memory",
            with: json!([2000]),
            free: json!([400]),
            ends: &["MemoryError"],
        },
        Meal {
            what: "files",
            tool: "files",
            with: json!([50_000]),
            free: json!([500]),
            ends: &["Too many open files"],
        },
        Meal { what: "processes", tool: "fork", with: json!([500]), free: json!([100]), ends: &[] },
        Meal {
            what: "disk",
            tool: "write",
            with: json!([disk, 1 << 20]),
            free: json!([free_disk, 4096]),
            ends: &["File too large"],
        },
        Meal {
            what: "time",
            tool: "cpu",
            with: json!([600]),
            free: json!([3]),
            ends: &["used up its processor time"],
        },
    ]
}

fn start() -> Gateway {
    let home = TempDir::with_prefix("tollgate-it-").unwrap();
    let plate = home.path().join("plate");
    std::fs::create_dir(&plate).unwrap();
    for (path, mode) in [(home.path(), 0o755), (plate.as_path(), 0o777)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut sandbox =
        json!({"memory": "256MiB", "cpu": "2s", "files": 64, "file_size": "1MiB", "processes": 1});
    if nix::unistd::geteuid().is_root() {
        sandbox["user"] = json!(NOBODY);
        sandbox["processes"] = json!(16);
    }
    let servers = [eater("quiet", Value::Null), eater("free", Value::Null), eater("hungry", sandbox)];
    Gateway::with(&json!({ "servers": servers }).to_string()).home(home).start()
}

/// Resident memory, in KiB.
fn resident_kib(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What the others' calls were like.
#[derive(Debug, Default)]
struct Others {
    times: Vec<Duration>,
    errors: Vec<String>,
}

impl Others {
    async fn call(&mut self, quiet: &Eater) {
        let asked = Instant::now();
        if let Err(error) = quiet.ask("pid", json!([])).await {
            self.errors.push(error);
        }
        self.times.push(asked.elapsed());
    }

    /// Calls until `attack` is over, and at least as often as ever.
    async fn during<T>(&mut self, quiet: &Eater, attack: impl Future<Output = T>) -> T {
        let mut attack = std::pin::pin!(attack);
        let (mut done, before) = (None, self.times.len());
        while done.is_none() || self.times.len() < before + CALLS {
            tokio::select! {
                ended = attack.as_mut(), if done.is_none() => done = Some(ended),
                () = self.call(quiet) => {}
            }
        }
        done.unwrap()
    }

    fn p99(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        times[(times.len() * 99 / 100).min(times.len() - 1)]
    }
}

#[tokio::test]
async fn f07_a_child_that_eats_is_stopped_and_nobody_else_notices() {
    let mut card = Card::new("F07");
    let gateway = start();
    let quiet = Eater::open(&gateway, "quiet").await;
    let free = Eater::open(&gateway, "free").await;
    let plate = |name: &str| gateway.home().join("plate").join(name).display().to_string();
    let meals = meals(&plate("hungry"), &plate("free"));
    for Meal { what, tool, free: with, .. } in &meals {
        let eaten = free.ask(tool, with.clone()).await;
        card.check(&format!("control: {what} without a sandbox"), eaten.is_ok(), &eaten);
    }
    // The same exchanges as later, so that what is allocated once is there before it is measured.
    let mut before = Others::default();
    Eater::open(&gateway, "hungry").await.ask("pid", json!([])).await.unwrap();
    before.during(&quiet, async { tokio::task::yield_now().await }).await;
    before.during(&quiet, async { tokio::task::yield_now().await }).await;
    let resident_before = resident_kib(&gateway);
    let mut during = Others::default();
    for Meal { what, tool, with, ends, .. } in &meals {
        let hungry = Eater::open(&gateway, "hungry").await;
        let eaten = during.during(&quiet, hungry.ask(tool, with.clone())).await;
        let limited = match &eaten {
            Ok(got) => ends.is_empty() && got.as_u64().is_some_and(|got| got < 16),
            Err(why) => ends.iter().any(|end| why.contains(end)),
        };
        card.check(what, limited, &eaten);
        let back = Eater::open(&gateway, "hungry").await.ask("pid", json!([])).await;
        card.check(&format!("{what}: it serves again"), back.is_ok(), &back);
    }
    let resident_after = resident_kib(&gateway);
    card.check("errors of the others", during.errors.is_empty(), &during.errors);
    let slowest = during.times.iter().max().copied().unwrap_or_default();
    card.check("the slowest call of the others", slowest < STALL, &slowest);
    let within = resident_after * 100 <= resident_before * 105;
    card.check("the gateway's memory", within, &(resident_before, resident_after));
    card.check("disk", std::fs::metadata(plate("hungry")).unwrap().len() <= 1 << 20, &"");
    visible(&mut card, &gateway).await;
    let ratio = during.p99().as_secs_f64() / before.p99().as_secs_f64();
    // Beside other tests their time says little.
    card.check("their p99", ratio <= as_much_as(f64::INFINITY, SLOWER_MAX), &ratio);
    card.pass(&format!(
        "{} calls of the others meanwhile, 0 errors, p99 × {ratio:.2}; memory {resident_before} -> {resident_after} KiB",
        during.times.len(),
    ));
}

/// The death by a limit is told in the log, the metrics and the server's own page.
async fn visible(card: &mut Card, gateway: &Gateway) {
    let words = "it used up its processor time";
    gateway.wait_for_log("the death of the eater", SOON, |line| {
        (line["server"] == "hungry" && line["what"].as_str()?.contains(words)).then_some(())
    });
    let get =
        async |path: &str| Caller::new(&gateway.path(path)).send(reqwest::Method::GET, Vec::new()).await;
    let shown = get("/servers/hungry").await.json();
    let told = shown["process"]["last_error"].as_str().unwrap_or_default();
    card.check("its page", told.contains(words) && shown["process"]["restarts"] == 1, &shown["process"]);
    let metrics = get("/metrics").await.body;
    let line = metrics.lines().find(|line| line.contains("hungry") && line.contains("restart"));
    card.check("its metric", line.is_some_and(|line| line.ends_with(" 1")), &line);
    // An eater is called like any other; what it was refused is its own answer.
    let list = Caller::new(&gateway.url("hungry")).initialize().await.0;
    let list = list.post(&request(1, "tools/list", json!({}))).await;
    card.check("its list", list.result()["tools"].as_array().is_some_and(|t| t.len() > 5), &list);
}
