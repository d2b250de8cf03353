//! Answers that take time: the waiting of `slow`, a subscription, and the GET stream.
//! Not here: who lets them run and carries their messages (`stdio`, `stream`); cancellation's bookkeeping (`peer`).

use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::peer::Ticket;
use super::write::{self, Asked};
use crate::mcp::{Era, Id};

/// Progress is told this many times.
const STEPS: u32 = 10;

/// Messages that come one by one. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Flow {
    kind: Kind,
    ticket: Option<Ticket>,
    over: bool,
}

#[derive(Debug)]
enum Kind {
    Wait(Wait),
    Subscription {
        id: Id,
        acknowledged: bool,
    },
    /// The GET stream of a session.
    Session,
}

/// A call of `slow`.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) id: Id,
    pub(super) era: Era,
    pub(super) total: Duration,
    /// Told about progress under this token.
    pub(super) token: Option<Id>,
    /// Whether the start is logged to the client.
    pub(super) logged: bool,
    pub(super) started: Instant,
    /// How often progress was told.
    pub(super) steps: u32,
}

impl Wait {
    async fn next(&mut self) -> (Vec<u8>, bool) {
        if std::mem::take(&mut self.logged) {
            return (write::log(&format!("waiting {} ms", self.total.as_millis())), false);
        }
        if let Some(token) = &self.token
            && self.steps < STEPS
        {
            let done = self.total * (self.steps + 1) / STEPS;
            sleep_until(self.started + done).await;
            self.steps += 1;
            return (write::progress(token.as_json(), done, self.total), false);
        }
        sleep_until(self.started + self.total).await;
        let asked = Asked { id: self.id.as_json(), era: self.era };
        (asked.content(&format!(r#""waited {} ms""#, self.total.as_millis()), ""), true)
    }
}

impl Flow {
    /// Waits, and then answers.
    pub(super) fn wait(wait: Wait) -> Self {
        Self::new(Kind::Wait(wait))
    }

    /// Acknowledges a subscription, and says no more.
    pub(super) fn subscription(id: Id) -> Self {
        Self::new(Kind::Subscription { id, acknowledged: false })
    }

    /// Says nothing.
    pub(super) fn session() -> Self {
        Self::new(Kind::Session)
    }

    fn new(kind: Kind) -> Self {
        Self { kind, ticket: None, over: false }
    }

    /// The request that it answers; `None` for the GET stream.
    pub(super) fn id(&self) -> Option<&Id> {
        match &self.kind {
            Kind::Wait(wait) => Some(&wait.id),
            Kind::Subscription { id, .. } => Some(id),
            Kind::Session => None,
        }
    }

    /// Makes it end when the ticket is cancelled.
    pub(super) fn hold(&mut self, ticket: Ticket) {
        self.ticket = Some(ticket);
    }

    /// The next message, `None` at its end. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        if self.over {
            return None;
        }
        let message = match &mut self.ticket {
            Some(ticket) => tokio::select! {
                biased;
                () = ticket.cancelled() => None,
                message = self.kind.next() => Some(message),
            },
            None => Some(self.kind.next().await),
        };
        self.over = message.as_ref().is_none_or(|(_, last)| *last);
        message.map(|(message, _)| message)
    }

    /// Ends it for the server's own reason; what is still to be said then.
    pub(super) fn close(&mut self) -> Option<Vec<u8>> {
        let was_over = std::mem::replace(&mut self.over, true);
        match &self.kind {
            Kind::Subscription { id, .. } if !was_over => Some(write::unsubscribed(id.as_json())),
            Kind::Subscription { .. } | Kind::Wait(_) | Kind::Session => None,
        }
    }
}

impl Kind {
    /// The next message, and whether it is the last.
    async fn next(&mut self) -> (Vec<u8>, bool) {
        match self {
            Self::Wait(wait) => wait.next().await,
            Self::Subscription { id, acknowledged } if !*acknowledged => {
                *acknowledged = true;
                (write::acknowledged(id.as_json()), false)
            }
            Self::Subscription { .. } | Self::Session => pending().await,
        }
    }
}
