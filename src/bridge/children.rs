//! Children, wherever their bridge runs: in this process, or in one of its own.
//! Not here: the bridge itself (`bridge`), the way to one elsewhere (`outside`).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Bridge, BridgeError, Leaving, Outside, Started, State, Status, Stopped};
use crate::catalog::Snapshot;

/// The children of local servers.
#[derive(Debug, Clone)]
pub enum Children {
    /// They are ours, and end with this process.
    Here(Arc<Bridge>),
    /// They are those of another process, and outlive this one.
    There(Arc<Outside>),
}

impl Children {
    /// The socket on which they are called.
    pub fn socket(&self) -> &Path {
        match self {
            Self::Here(bridge) => bridge.socket(),
            Self::There(outside) => outside.socket(),
        }
    }

    /// Takes over a catalog; what left it goes once the answer is dropped. A bridge elsewhere has its own eye on the file, and decides by itself.
    pub fn reconcile(&self, snapshot: &Snapshot) -> Option<Leaving<'_>> {
        match self {
            Self::Here(bridge) => Some(bridge.reconcile(snapshot)),
            Self::There(_) => None,
        }
    }

    /// The gateway is about to end: children that are ours stop once their calls in flight ended, or after `within`.
    pub fn drain(&self, within: Duration) {
        match self {
            Self::Here(bridge) => bridge.drain(within),
            Self::There(_) => {}
        }
    }

    /// Starts a server and waits until every instance is ready.
    ///
    /// # Errors
    /// If there is no such server, if it does not start, or if the bridge does not answer.
    pub async fn start(&self, id: &str) -> Result<Started, BridgeError> {
        match self {
            Self::Here(bridge) => bridge.start(id).await,
            Self::There(outside) => outside.start(id).await,
        }
    }

    /// Stops a server and waits until no process of it is left.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn stop(&self, id: &str) -> Result<Stopped, BridgeError> {
        match self {
            Self::Here(bridge) => bridge.stop(id).await,
            Self::There(outside) => outside.stop(id).await,
        }
    }

    /// Looks at all of them.
    pub async fn look(&self) -> Look {
        match self {
            Self::Here(bridge) => Look::Here(Arc::clone(bridge)),
            Self::There(outside) => outside.status().await.map_or(Look::Away, Look::There),
        }
    }
}

/// What local servers look like.
#[derive(Debug)]
pub enum Look {
    /// As the bridge of this process knows it.
    Here(Arc<Bridge>),
    /// As the bridge elsewhere told it.
    There(HashMap<String, Status>),
    /// The bridge elsewhere does not answer.
    Away,
}

impl Look {
    /// What one looks like; `None` if there is none of that id.
    pub fn status(&self, id: &str) -> Option<Status> {
        match self {
            Self::Here(bridge) => bridge.status(id),
            Self::There(servers) => servers.get(id).cloned(),
            Self::Away => Some(Status::unknown()),
        }
    }
}

impl Status {
    /// Of a server that nobody can tell about.
    fn unknown() -> Self {
        let away = "the bridge does not answer".to_owned();
        Self { state: State::Unknown, last_error: Some(away), ..Self::default() }
    }
}
