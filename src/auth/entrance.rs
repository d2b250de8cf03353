//! Who may come in right now: what the configuration says about it, exchanged as one when that changes.
//! Not here: reading the configuration (`conf`), deciding about one request (`Authenticator`, `limit`).

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use super::Authenticator;
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
    /// Puts `access` in force.
    pub fn new(access: Access) -> Self {
        let authenticator = Authenticator::new(&access.auth);
        let in_force = ArcSwap::from_pointee(InForce { authenticator, access });
        Self { in_force, changes: watch::channel(0).0 }
    }

    /// What is in force.
    pub fn in_force(&self) -> Guard<Arc<InForce>> {
        self.in_force.load()
    }

    /// Puts another `access` in force, at once and for everybody.
    pub fn replace(&self, access: Access) {
        let authenticator = Authenticator::new(&access.auth);
        self.in_force.store(Arc::new(InForce { authenticator, access }));
        self.tell();
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
