//! The tool that takes time: what it says, and when.
//! Not here: who waits (`stdio`, `body`).

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::react::result_message;
use crate::mcp::Id;

/// How often progress is reported.
const STEPS: u32 = 10;

/// A call of `slow` under way.
#[derive(Debug)]
pub(super) struct Slow {
    pub(super) id: Id,
    modern: bool,
    began: Instant,
    total: Duration,
    token: Option<Box<str>>,
    step: u32,
}

impl Slow {
    /// Begins now.
    pub(super) fn new(id: Id, modern: bool, total: Duration, token: Option<Box<str>>) -> Self {
        Self { id, modern, began: Instant::now(), total, token, step: 0 }
    }

    /// When it next has something to say.
    pub(super) fn due(&self) -> Instant {
        self.began + if self.token.is_some() { self.total * (self.step + 1) / STEPS } else { self.total }
    }

    /// Says it: a notification, or the result, and then it is over.
    pub(super) fn say(&mut self) -> (String, bool) {
        self.step += 1;
        match &self.token {
            Some(token) if self.step < STEPS => {
                let step = self.step;
                let params = format!(
                    r#"{{"progressToken":{token},"progress":{step},"total":{STEPS},"message":"step {step} of {STEPS}"}}"#
                );
                let method = "notifications/progress";
                (format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#), false)
            }
            _ => {
                let text = format!("took {} ms", self.total.as_millis());
                let content = json!([{"type": "text", "text": text}]);
                (result_message(&self.id, self.modern, &format!(r#""content":{content}"#), ""), true)
            }
        }
    }
}
