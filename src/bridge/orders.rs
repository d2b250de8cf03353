//! What a gateway asks of a bridge that is a process of its own: `GET /-/status`, `POST /-/start/{id}`, `POST /-/stop/{id}`.
//! Not here: the gateway's side (`outside`); starting and stopping (`supervisor`).
//!
//! An order names a server of the bridge's own catalog and nothing else: there is no way to say a command here.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::serve::{Answer, json, refuse};
use super::tally::Counts;
use super::{Bridge, BridgeError, Started, Status, Stopped};

/// Paths of orders begin with it; no server's id does.
const PREFIX: &str = "/-/";

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order<'a> {
    /// What every local server looks like.
    Status,
    /// Start a server, and wait until it is ready.
    Start(&'a str),
    /// Stop a server, and wait until it is gone.
    Stop(&'a str),
    /// Something of a newer gateway, or of nobody.
    Unknown,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Said {
    /// Every local server, by id, and what happened to their children.
    Status {
        /// Which run of a bridge this is: counts of another one begin anew.
        run: String,
        /// What they look like.
        servers: HashMap<String, Status>,
        /// What happened since the bridge started.
        counts: HashMap<String, Counts>,
    },
    /// It was started, or ran.
    Started(Started),
    /// It was stopped, or did not run.
    Stopped(Stopped),
    /// There is no such server.
    Unknown,
    /// It did not start.
    Failed {
        /// What it did.
        what: String,
        /// Its last lines of stderr.
        stderr: Vec<String>,
    },
    /// The bridge is shutting down.
    Closed,
}

impl<'a> Order<'a> {
    /// The order of a request, if it is one and not a call.
    pub(super) fn of(method: &Method, path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix(PREFIX)?;
        let order = match (method, rest.split_once('/')) {
            (&Method::GET, None) if rest == "status" => Self::Status,
            (&Method::POST, Some(("start", id))) => Self::Start(id),
            (&Method::POST, Some(("stop", id))) => Self::Stop(id),
            _ => Self::Unknown,
        };
        Some(order)
    }

    /// Its method and path.
    pub(super) fn line(&self) -> (Method, String) {
        match self {
            Self::Status | Self::Unknown => (Method::GET, format!("{PREFIX}status")),
            Self::Start(id) => (Method::POST, format!("{PREFIX}start/{id}")),
            Self::Stop(id) => (Method::POST, format!("{PREFIX}stop/{id}")),
        }
    }

    /// Does it.
    pub(super) async fn carry_out(self, bridge: &Arc<Bridge>) -> Answer {
        let said = match self {
            Self::Status => Ok(Said::Status {
                run: bridge.shared.table.run().to_owned(),
                servers: bridge.statuses(),
                counts: bridge.counts(),
            }),
            Self::Start(id) => bridge.start(id).await.map(Said::Started),
            Self::Stop(id) => bridge.stop(id).await.map(Said::Stopped),
            Self::Unknown => return refuse(StatusCode::NOT_FOUND, "there is no such order"),
        };
        let said = said.unwrap_or_else(|error| match error {
            BridgeError::Unknown(_) => Said::Unknown,
            BridgeError::Start { what, stderr, .. } => Said::Failed { what, stderr },
            _ => Said::Closed,
        });
        match serde_json::to_vec(&said) {
            Ok(body) => json(StatusCode::OK, Bytes::from(body)),
            Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_as_they_are_written() {
        for order in [Order::Status, Order::Start("a.b"), Order::Stop("x~1")] {
            let (method, path) = order.line();
            assert_eq!(Order::of(&method, &path), Some(order));
        }
        assert_eq!(Order::of(&Method::GET, "/-/start/a"), Some(Order::Unknown));
        assert_eq!(Order::of(&Method::POST, "/-/"), Some(Order::Unknown));
        assert_eq!(Order::of(&Method::POST, "/a/0"), None);
    }
}
