//! What is remembered of a client: what runs for it, so that it can cancel, and whether it wants logs.
//! Not here: how a client is known again over HTTP (`sessions`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::flow::Flow;
use super::refusal::Refusal;
use crate::mcp::Id;

/// Flows that one client may have at a time.
const FLOWS_MAX: usize = 1024;

/// A client: the other end of standard input, or a session.
#[derive(Debug, Default)]
pub(super) struct Peer {
    flows: Mutex<Flows>,
    logs: AtomicBool,
}

#[derive(Debug, Default)]
struct Flows {
    running: Vec<Running>,
    admitted: u64,
}

#[derive(Debug)]
struct Running {
    number: u64,
    /// The request; `None` is the GET stream.
    id: Option<Id>,
    /// Dropped to cancel.
    _cancel: oneshot::Sender<()>,
}

impl Peer {
    /// Lets `flow` run until it ends, is cancelled, or the client is forgotten. A second GET stream takes the place of
    /// the first: a client that lost its connection comes back before the loss is noticed here. A second request with
    /// the id of one that runs is let in, since over HTTP each has its own answer and gateways share sessions.
    pub(super) fn admit(self: &Arc<Self>, flow: &mut Flow) -> Result<(), Refusal> {
        let id = flow.id().cloned();
        let mut flows = self.flows.lock();
        if id.is_none() {
            flows.running.retain(|running| running.id.is_some());
        }
        if flows.running.len() >= FLOWS_MAX {
            return Err(Refusal::Busy);
        }
        flows.admitted += 1;
        let number = flows.admitted;
        let (cancel, cancelled) = oneshot::channel();
        flows.running.push(Running { number, id, _cancel: cancel });
        flow.hold(Ticket { peer: Arc::clone(self), number, cancelled });
        Ok(())
    }

    /// Ends what answers this request, if it still runs.
    pub(super) fn cancel(&self, id: &Id) {
        self.flows.lock().running.retain(|running| running.id.as_ref() != Some(id));
    }

    /// Ends all of it.
    pub(super) fn cancel_all(&self) {
        self.flows.lock().running.clear();
    }

    /// Whether the client asked for logs at level `info`.
    pub(super) fn wants_logs(&self) -> bool {
        self.logs.load(Ordering::Relaxed)
    }

    pub(super) fn want_logs(&self, wanted: bool) {
        self.logs.store(wanted, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        self.flows.lock().running.len()
    }
}

/// A flow's place among those that run.
#[derive(Debug)]
pub(super) struct Ticket {
    peer: Arc<Peer>,
    number: u64,
    cancelled: oneshot::Receiver<()>,
}

impl Ticket {
    /// Returns when the flow is to end. Not to be called again after that.
    pub(super) async fn cancelled(&mut self) {
        // The sender is only ever dropped.
        let _ = (&mut self.cancelled).await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.peer.flows.lock().running.retain(|running| running.number != self.number);
    }
}
