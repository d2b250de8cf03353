//! F01: the gateway is killed under load, again and again: it is back at once, sessions go on, no child is left.
//! Not here: kills of children (`stdio`) and of upstreams (`toxics`). There is no store yet, so nothing is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::Card;
use crate::client::{Caller, LEGACY, SOON, request};
use crate::gateway::{Gateway, alive, free_port};
use crate::sim::Sim;

/// Kills in the short form.
const KILLS: usize = 8;
/// How soon a gateway answers again, and what a busy machine and a build that is not optimised may add.
const READY: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_secs(4);
/// How soon nothing is left of an earlier run.
const SWEPT: Duration = Duration::from_secs(5);

/// Callers that never stop, whether or not anybody is there.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(url: &str) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..4).map(|task| {
            let (stop, answered, url) = (Arc::clone(&stop), Arc::clone(&answered), url.to_owned());
            tokio::spawn(async move {
                let (caller, mut count) = (Caller::new(&url), 0);
                // As often as that, whether or not anybody is there.
                let mut beat = tokio::time::interval(Duration::from_millis(20));
                while !stop.load(Ordering::Relaxed) {
                    let arguments =
                        json!({"name": "echo", "arguments": {"n": format!("load {task} {count}"), "ms": 20}});
                    let (caller, body) = caller.modern(1, "tools/call", arguments);
                    // What is in flight at the kill is lost, and says so by its connection.
                    let sent = caller.status_of(&body).await;
                    answered.fetch_add(usize::from(sent == Some(200)), Ordering::Relaxed);
                    beat.tick().await;
                    count += 1;
                }
            })
        });
        let tasks = tasks.collect();
        Self { stop, answered, tasks }
    }

    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.answered.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_a_gateway_killed_under_load_is_back_and_sessions_go_on() {
    let sim = Sim::start();
    let local = json!({"type": "local-process", "command": env!("CARGO_BIN_EXE_tollgate"), "args": ["sample", "stdio"]});
    let catalog = json!({"servers": [
        {"id": "it", "runtime": {"type": "remote-http", "url": sim.url()}, "health": {"type": "off"}},
        {"id": "local", "runtime": local},
    ]})
    .to_string();
    let port = free_port();
    let mut gateway = Gateway::with(&catalog).port(port).start();
    let (url, local_url) = (gateway.url("it"), gateway.url("local"));
    let (session, _) = Caller::new(&url).initialize().await;
    let opened = sim.look(|facts| facts.opened);
    let load = Load::start(&url);
    let mut card = Card::new("F01");
    let (mut slowest, mut longest_swept) = (Duration::ZERO, Duration::ZERO);
    for kill in 0..KILLS {
        // A child, so that there is something to sweep.
        let arguments = json!({"name": "echo", "arguments": {"text": "hello"}});
        let answer = Caller::new(&local_url).modern_post(1, "tools/call", arguments).await;
        card.check(&format!("kill {kill}: a child"), answer.status == 200, &answer);
        // In the middle of others' calls.
        let enough = load.answered.load(Ordering::Relaxed) + 40;
        let since = Instant::now();
        while load.answered.load(Ordering::Relaxed) < enough && since.elapsed() < SOON {
            tokio::task::yield_now().await;
        }
        let children = gateway.descendants();
        let home = gateway.kill();
        let killed = Instant::now();
        gateway = Gateway::with(&catalog).port(port).home(home).start();
        let mut answer = session.status_of(&request(1, "ping", json!({}))).await;
        while answer != Some(200) && killed.elapsed() < SOON {
            answer = session.status_of(&request(1, "ping", json!({}))).await;
        }
        let took = killed.elapsed();
        slowest = slowest.max(took);
        card.check(
            &format!("kill {kill}: ready"),
            answer == Some(200) && took < READY + SLACK,
            &(took, answer),
        );
        let listening = Instant::now();
        let left = || children.iter().filter(|pid| alive(**pid)).count();
        while left() > 0 && listening.elapsed() < SOON {
            tokio::task::yield_now().await;
        }
        let swept = listening.elapsed();
        longest_swept = longest_swept.max(swept);
        card.check(
            &format!("kill {kill}: swept"),
            !children.is_empty() && left() == 0 && swept < SWEPT + SLACK,
            &(children, swept),
        );
    }
    let answered = load.stop().await;
    let facts = sim.facts();
    card.check("no session was opened again", facts.opened == opened, &facts.opened);
    card.check("no call ran twice", facts.most() == 1, &facts.most());
    card.check("calls were answered meanwhile", answered >= 40 * KILLS, &answered);
    let list =
        session.clone().with("mcp-protocol-version", LEGACY).post(&request(2, "tools/list", json!({}))).await;
    card.check("the session goes on", list.status == 200, &list);
    card.pass(&format!(
        "checks at {KILLS} kills under {answered} calls: the session of before is answered after {} ms at most, children are gone {} ms after that; no call ran twice",
        slowest.as_millis(), longest_swept.as_millis(),
    ));
}

impl Caller {
    /// The status of a POST, if there was an answer.
    async fn status_of(&self, message: &serde_json::Value) -> Option<u16> {
        let sent = tokio::time::timeout(SOON, self.try_send(message)).await.ok()?;
        sent.ok().map(|response| response.status().as_u16())
    }
}
