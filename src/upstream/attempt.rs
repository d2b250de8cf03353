//! One call on one endpoint, from when it was picked until its answer has passed.
//! Not here: picking (`select`); what an answer has to be (`hub`).

use std::sync::Arc;

use tokio::time::Instant;

use super::Reach;
use super::breaker::Fault;
use super::endpoint::Endpoint;
use super::select::Picked;

/// A call running on an endpoint, until dropped. Whoever reads the answer says how it went.
#[derive(Debug)]
pub struct Attempt {
    reach: Arc<Reach>,
    endpoint: Arc<Endpoint>,
    probing: bool,
    sent: Instant,
}

impl Attempt {
    pub(super) fn begin(reach: &Arc<Reach>, picked: Picked) -> Self {
        let Picked { endpoint, probing } = picked;
        endpoint.enter();
        Self { reach: Arc::clone(reach), endpoint, probing, sent: Instant::now() }
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// When it was sent.
    pub fn sent(&self) -> Instant {
        self.sent
    }

    /// The endpoint kept its word, whatever its answer says.
    pub fn succeeded(&self) {
        self.reach.pool.succeeded(&self.endpoint);
    }

    /// The endpoint did something wrong.
    pub fn failed(&self, fault: Fault) {
        self.reach.pool.failed(&self.endpoint, fault, self.sent);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.endpoint.leave(self.probing);
    }
}
