//! How a call is treated: its deadlines, and whether it may be sent again.
//! Not here: keeping to it (`upstream`, and `hub/answer` for the body).

use std::time::Duration;

use super::{Upstream, retry};
use crate::catalog::{Runtime, Tool};
use crate::mcp::Method;

/// A deadline of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// Until the answer to `initialize` begins.
    Initialize,
    /// Until the answer begins.
    Response,
    /// Between two pieces of the answer.
    Idle,
    /// For the whole call.
    Total,
}

impl Deadline {
    /// Its name, as the catalog has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Response => "response",
            Self::Idle => "idle",
            Self::Total => "total",
        }
    }
}

impl std::fmt::Display for Deadline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How a call is treated: its deadlines, and whether it may be sent again.
#[derive(Debug, Clone, Copy)]
pub struct Treatment {
    /// Which deadline the head of the answer has.
    pub deadline: Deadline,
    /// Until the head of the answer.
    pub head: Duration,
    /// Between two pieces of the answer.
    pub idle: Duration,
    /// For the whole call.
    pub total: Duration,
    /// Whether sending it twice does no more than sending it once.
    pub repeatable: bool,
}

impl Upstream {
    /// How a call of `method`, of that tool if it is one, is treated.
    pub fn treatment(&self, method: Method, tool: Option<&str>) -> Treatment {
        let timeouts = self.timeouts();
        if let Some(tool) = tool.and_then(|tool| self.server.tools.get(tool)) {
            let Tool { idempotent, response, idle, total } = *tool;
            return Treatment {
                deadline: Deadline::Response,
                head: response,
                idle,
                total,
                repeatable: idempotent,
            };
        }
        let remote = matches!(self.server.runtime, Runtime::Remote(_));
        let (deadline, head) = match method {
            Method::Initialize if remote => (Deadline::Initialize, timeouts.initialize),
            _ => (Deadline::Response, timeouts.response),
        };
        let repeatable = retry::is_safe(method);
        Treatment { deadline, head, idle: timeouts.idle, total: timeouts.total, repeatable }
    }
}
