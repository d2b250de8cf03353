//! Why a call got no answer from its child, and what the caller is told about it.
//! Not here: how a child's end is noticed (`child`) or counted (`starts`).
//!
//! A child's death, an answer over the limit and a timeout are told with status 200: it is the only status whose
//! JSON-RPC error every SDK shows to its caller as code and message. The gateway learns of them by [`OUTCOME`]. What may be tried again
//! later is 503 with `Retry-After`.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;

use super::berths::Cap;
use crate::catalog::{Local, ServerId};
use crate::mcp::{Code, Id, RpcError};
use crate::sandbox;

/// The header that tells the gateway how an exchange ended; it never reaches a client.
pub(super) const OUTCOME: &str = "x-tollgate-outcome";

/// Why a call got no answer.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The child ended before it answered.
    Died(Arc<Death>),
    /// The child ended before the call was handed to it: it is safe to try again.
    Unsent,
    /// The child answered in a line of more than this many bytes, which was dropped.
    LineTooLong(usize),
    /// The call's deadline passed.
    TimedOut(Duration),
    /// The client cancelled the call, and the child did not answer it any more.
    Cancelled,
    /// As many calls as a child may have are in flight.
    Busy,
    /// The server died too often and is not started for a while.
    Refused(Arc<Death>, Duration),
    /// The bridge is shutting down.
    Closed,
    /// A modern request for a server that speaks the legacy era only.
    LegacyOnly,
    /// As many children run as may, and none of them is idle.
    Full(Cap),
    /// The session's own child is gone, and the session with it.
    NoSession,
}

/// How a child ended.
#[derive(Debug, Clone)]
pub(super) struct Death {
    /// A word for programs.
    pub(super) reason: &'static str,
    /// A sentence without the server's name, such as `exited with code 1`.
    pub(super) what: String,
    /// Its last lines of stderr.
    pub(super) stderr: Vec<String>,
    /// Whether it was meant: by an order or after a time without calls.
    pub(super) meant: bool,
    /// Whether somebody killed it with SIGKILL.
    pub(super) killed: bool,
    /// The code it exited with.
    pub(super) code: Option<i32>,
}

impl Death {
    /// An end of that reason that was not meant.
    pub(super) fn new(reason: &'static str, what: impl Into<String>) -> Self {
        Self { reason, what: what.into(), stderr: Vec::new(), meant: false, killed: false, code: None }
    }

    /// There was no process at all.
    pub(super) fn not_spawned(local: &Local, error: &std::io::Error) -> Self {
        Self::new("spawn_failed", format!("could not be started: {}: {error}", local.command))
    }

    /// An end by order.
    pub(super) fn meant(what: impl Into<String>) -> Self {
        Self { meant: true, ..Self::new("child_stopped", what) }
    }

    /// What an exit status says.
    pub(super) fn of_status(status: ExitStatus) -> Self {
        let what = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited with code {code}"),
            (None, Some(24)) => "was killed by signal 24: it used up its processor time".to_owned(),
            (None, Some(25)) => "was killed by signal 25: it wrote a file beyond its limit".to_owned(),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "ended".to_owned(),
        };
        let (killed, code) = (status.signal() == Some(9), status.code());
        Self { killed, code, ..Self::new("child_exited", what) }
    }

    /// Says what the launcher said, if it is the launcher that ended.
    pub(super) fn of_launcher(&mut self) {
        if self.code != Some(i32::from(sandbox::EXIT_CODE)) {
            return;
        }
        if let Some(why) = self.stderr.iter().rev().find_map(|line| line.strip_prefix(sandbox::PREFIX)) {
            self.what = format!("could not be started in its sandbox: {why}");
            self.reason = "sandbox_failed";
        }
    }
}

/// What the caller is told.
pub(super) struct Told {
    pub(super) status: StatusCode,
    /// Value of [`OUTCOME`].
    pub(super) outcome: &'static str,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Bytes,
}

impl Failure {
    /// Whether the call was handed to a child that was ready, and nobody knows what became of it.
    fn may_have_run(&self) -> bool {
        match self {
            Self::Died(death) => !matches!(death.reason, "spawn_failed" | "start_timeout"),
            Self::LineTooLong(_) | Self::TimedOut(_) | Self::Cancelled => true,
            _ => false,
        }
    }

    /// What the caller of `server` is told, in answer to its request `id`.
    pub(super) fn tell(&self, server: &ServerId, id: Option<&Id>) -> Told {
        let mut told = Told {
            status: StatusCode::OK,
            outcome: "transport_error",
            retry_after: None,
            body: Bytes::new(),
        };
        let mut data = match self {
            Self::Died(death) | Self::Refused(death, _) => {
                json!({"reason": self.reason(), "server": server.as_str(), "stderr": death.stderr})
            }
            _ => json!({"reason": self.reason(), "server": server.as_str()}),
        };
        if let (true, Some(data)) = (self.may_have_run(), data.as_object_mut()) {
            data.insert("outcome".into(), "unknown".into());
        }
        let (code, message) = match self {
            Self::Died(death) => (Code::BAD_UPSTREAM, format!("server '{server}' {}", death.what)),
            Self::Refused(death, after) => {
                told.status = StatusCode::SERVICE_UNAVAILABLE;
                told.retry_after = Some(*after);
                (Code::UNAVAILABLE, refused(server, death, *after))
            }
            Self::LineTooLong(bytes_max) => {
                let message =
                    format!("server '{server}' answered in a line over the limit of {bytes_max} bytes");
                (Code::BAD_UPSTREAM, message)
            }
            Self::TimedOut(total) => {
                told.outcome = "timeout";
                (Code::TIMEOUT, format!("server '{server}' did not answer within {total:?}"))
            }
            Self::Cancelled => {
                told.outcome = "rpc_error";
                (Code::TIMEOUT, "the request was cancelled by the client".to_owned())
            }
            Self::Busy => {
                told.status = StatusCode::SERVICE_UNAVAILABLE;
                told.retry_after = Some(Duration::from_secs(1));
                (Code::UNAVAILABLE, format!("server '{server}' has too many calls in flight"))
            }
            Self::Unsent | Self::Closed => {
                told.status = StatusCode::SERVICE_UNAVAILABLE;
                told.retry_after = Some(Duration::from_secs(1));
                (Code::UNAVAILABLE, format!("server '{server}' is being stopped"))
            }
            Self::Full(cap) => {
                told.status = StatusCode::SERVICE_UNAVAILABLE;
                told.retry_after = Some(Duration::from_secs(1));
                (Code::UNAVAILABLE, cap.sentence(server))
            }
            Self::NoSession => {
                told.status = StatusCode::NOT_FOUND;
                told.outcome = "rpc_error";
                (Code::NOT_FOUND, String::new())
            }
            Self::LegacyOnly => {
                told.status = StatusCode::NOT_FOUND;
                told.outcome = "rpc_error";
                let message = format!("server '{server}' does not speak 2026-07-28: use `initialize`");
                (Code::METHOD_NOT_FOUND, message)
            }
        };
        if matches!(self, Self::NoSession) {
            // In the words of the SDKs' servers, and without an id, as they do.
            return Told { body: no_session(), ..told };
        }
        told.body = RpcError { code, message, data: Some(data) }.to_message(id);
        told
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Died(death) => death.reason,
            Self::Unsent | Self::Closed => "child_stopped",
            Self::LineTooLong(_) => "line_too_long",
            Self::TimedOut(_) => "timeout",
            Self::Cancelled => "cancelled",
            Self::Busy => "too_many_calls",
            Self::Refused(..) => "start_limit",
            Self::LegacyOnly => "legacy_server",
            Self::NoSession => "no_session",
            Self::Full(cap) => cap.word(),
        }
    }
}

/// What is said of a server that is left alone.
fn refused(server: &ServerId, death: &Death, after: Duration) -> String {
    let (after, what) = (after.as_secs().max(1), &death.what);
    format!(
        "server '{server}' failed to start too often and is not started again for {after} s; the last time it {what}"
    )
}

/// What is said of a session that is not there.
pub(super) fn no_session() -> Bytes {
    RpcError { code: Code::NOT_FOUND, message: "Session not found".to_owned(), data: None }.to_message(None)
}

impl Cap {
    /// The keys of all of them.
    pub(super) const WORDS: [&'static str; 3] = ["max_per_caller", "max_processes", "limits.children"];

    /// Its key, for programs.
    pub(super) fn word(self) -> &'static str {
        let [caller, server, process] = Self::WORDS;
        match self {
            Self::Caller(_) => caller,
            Self::Server(_) => server,
            Self::Process(_) => process,
        }
    }

    /// Which bound it is, for the caller.
    pub(super) fn sentence(self, server: &ServerId) -> String {
        match self {
            Self::Caller(max) => {
                format!(
                    "server '{server}' runs as many processes for this caller as it may: {max} (max_per_caller)"
                )
            }
            Self::Server(max) => {
                format!("server '{server}' runs as many processes as it may: {max} (max_processes)")
            }
            Self::Process(max) => {
                format!("the gateway runs as many processes as it may: {max} (limits.children)")
            }
        }
    }
}
