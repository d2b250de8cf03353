//! A call that is broken at every byte, on its way there and on its way back: the run of F09, short or whole.
//! Not here: the server that breaks (`sim`), what is asserted (`scorecard/once`), the long form (`benches/soak`).

use serde_json::{Value, json};

use crate::client::{Answer, Caller, request};
use crate::sim::{End, Kind, Manner, Sim};

/// Where a call breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// That many bytes of it arrived.
    Request,
    /// That many bytes of its answer were written.
    Answer,
}

/// One call that was broken.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) n: String,
    pub(crate) phase: Phase,
    /// Whether the server broke it only after all of the answer.
    pub(crate) is_late: bool,
    pub(crate) answer: Answer,
}

/// What a caller is told of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// Its result.
    Result,
    /// An error that says by `data` whether it may have run.
    Error { reason: String, unknown: bool },
    /// Neither: the connection broke, or the answer is no JSON-RPC message for the call.
    Nothing,
}

impl Run {
    /// What the caller was told.
    pub(crate) fn told(&self) -> Told {
        told(&self.answer, &self.n)
    }
}

/// What an answer tells of the call `n`.
pub(crate) fn told(answer: &Answer, n: &str) -> Told {
    let text = if answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
        let mut datas = answer.body.lines().filter_map(|line| line.strip_prefix("data:"));
        datas.rfind(|data| !data.trim().is_empty()).unwrap_or_default()
    } else {
        &answer.body
    };
    let message: Value = serde_json::from_str(text).unwrap_or_default();
    if message["id"] != 7 {
        return Told::Nothing;
    }
    if message["result"]["content"][0]["text"] == n {
        return Told::Result;
    }
    match message["error"]["data"]["reason"].as_str() {
        Some(reason) => Told::Error {
            reason: reason.to_owned(),
            unknown: message["error"]["data"]["outcome"] == "unknown",
        },
        None => Told::Nothing,
    }
}

/// Which bytes are tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steps {
    /// One of so many bytes; 1 tries each.
    pub(crate) every: usize,
}

/// Breaks calls through `url` at the bytes of `steps`, in both eras, with answers of both kinds, by FIN and by RST.
/// Each is handed to `seen`.
pub(crate) async fn break_everywhere(sim: &Sim, url: &str, steps: Steps, mut seen: impl FnMut(Run)) {
    let caller = Caller::new(url);
    let mut count = 0;
    // Of one length, so that every answer is as long as the one that was measured.
    let mut next = || {
        count += 1;
        format!("call-{count:06}")
    };
    for kind in [Kind::Json, Kind::Events] {
        sim.answers_in(kind);
        for modern in [false, true] {
            let (session, _) = caller.initialize().await;
            let ask = Ask { caller: if modern { caller.clone() } else { session }, modern };
            ask.call(&next()).await.result();
            let (there, back) = sim.look(|facts| (facts.request_bytes, facts.answer_bytes));
            for end in [End::Close, End::Reset] {
                for (phase, length) in [(Phase::Request, there), (Phase::Answer, back)] {
                    // Another byte of each step in each run of it, so that a few runs see many bytes.
                    let first = (usize::from(modern) + 2 * usize::from(kind == Kind::Json)) % steps.every;
                    for at in (first..=length).step_by(steps.every).chain([length]) {
                        let name = format!("{kind:?} modern={modern} {end:?} {phase:?} {at}/{length}");
                        let n = next();
                        if at % 2 == 0 {
                            // An idle connection is there to be used.
                            ask.list().await.result();
                        }
                        match phase {
                            Phase::Request => sim.cut_request(at, end),
                            Phase::Answer => sim.once_at("tools/call", Manner::Cut(at, end)),
                        }
                        let answer = ask.call(&n).await;
                        let is_late = phase == Phase::Answer && at == length;
                        seen(Run { name, n, phase, is_late, answer });
                    }
                }
            }
        }
    }
}

/// Who calls, and in which era.
pub(crate) struct Ask {
    pub(crate) caller: Caller,
    pub(crate) modern: bool,
}

impl Ask {
    pub(crate) async fn call(&self, n: &str) -> Answer {
        self.send("tools/call", json!({"name": "echo", "arguments": {"n": n}})).await
    }

    pub(crate) async fn list(&self) -> Answer {
        self.send("tools/list", json!({})).await
    }

    async fn send(&self, method: &str, params: Value) -> Answer {
        if self.modern {
            self.caller.modern_post(7, method, params).await
        } else {
            self.caller.post(&request(7, method, params)).await
        }
    }
}
