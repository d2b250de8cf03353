//! Who may come in right now: what the configuration says about it, exchanged as one when that changes.
//! Not here: reading the configuration (`conf`), deciding about one request (`Authenticator`, `limit`).

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use super::{Authenticator, SetupError};
use crate::conf::Access;

/// What is in force. A request sees one from its first phase to its last.
#[derive(Debug)]
pub struct InForce {
    /// Credentials.
    pub authenticator: Authenticator,
    /// Limits.
    pub access: Access,
}

/// Holds what is in force, and tells when that, or the catalog's rules, are others.
#[derive(Debug)]
pub struct Entrance {
    in_force: ArcSwap<InForce>,
    changes: watch::Sender<u64>,
}

impl Entrance {
    /// Puts `access` in force. At most `tokens_max` verified tokens are remembered.
    pub fn new(access: Access, tokens_max: usize) -> Result<Self, SetupError> {
        let authenticator = Authenticator::new(&access, tokens_max)?;
        let in_force = ArcSwap::from_pointee(InForce { authenticator, access });
        Ok(Self { in_force, changes: watch::channel(0).0 })
    }

    /// What is in force.
    pub fn in_force(&self) -> Guard<Arc<InForce>> {
        self.in_force.load()
    }

    /// Puts another `access` in force, at once and for everybody. If that fails, everything is as before.
    pub fn replace(&self, access: Access) -> Result<(), SetupError> {
        let before = self.in_force.load_full();
        let authenticator = before.authenticator.successor(&access)?;
        let next = Arc::new(InForce { authenticator, access });
        self.in_force.store(Arc::clone(&next));
        before.authenticator.give_way_to(&next.authenticator);
        self.tell();
        Ok(())
    }

    /// Reads issuers' keys again when it is time, until `stopping` turns true. Only one of these may run.
    pub async fn keep_keys(&self, mut stopping: watch::Receiver<bool>) {
        loop {
            let mut changes = self.changes();
            let in_force = self.in_force.load_full();
            let replaced = async {
                while changes.changed().await.is_ok() && Arc::ptr_eq(&in_force, &self.in_force()) {}
            };
            tokio::select! {
                () = in_force.authenticator.keep_keys() => {}
                () = replaced => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
        }
    }

    /// Says that rules have changed, so that whoever has something open looks again whether it may.
    pub fn tell(&self) {
        self.changes.send_modify(|number| *number += 1);
    }

    /// Hears of every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
