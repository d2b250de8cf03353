//! Who listens: the GET streams of legacy sessions and the resources they subscribed to, for one instance.
//! Not here: session ids themselves, which are never stored (`post`), or modern listen streams (`desk`).
//!
//! A session is remembered only while it has a stream or a subscription, so ids survive any restart. A second
//! GET replaces the first: a client that lost its connection comes back before we notice that the old one is
//! dead, and refusing it would leave it deaf.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::mailbox::{Last, Mailbox, Reader};

/// Sessions with a stream or a subscription that one instance remembers: 512 connections and their reconnects
/// are far below, and the whole table stays within a few MiB.
const SESSIONS_MAX: usize = 8192;
/// Subscriptions of one session.
const SUBSCRIPTIONS_MAX: usize = 256;

/// The listeners of one instance.
#[derive(Debug, Default)]
pub(super) struct Audience {
    members: Mutex<HashMap<Box<str>, Member>>,
}

#[derive(Debug, Default)]
struct Member {
    stream: Option<Arc<Mailbox>>,
    uris: HashSet<Box<str>>,
}

impl Member {
    fn prune(&mut self) -> bool {
        self.stream = self.stream.take().filter(|stream| !stream.is_gone());
        self.stream.is_some() || !self.uris.is_empty()
    }

    fn hear(&self, message: &Bytes) {
        if let Some(stream) = &self.stream
            && !stream.note(message.clone())
        {
            tracing::debug!(lost = stream.lost(), "a session is too slow for its notifications");
        }
    }

    fn subscribes(&self, uri: &str) -> bool {
        self.uris.contains(uri)
            // The URI of an update may be below the one subscribed to (2025-11-25/server/resources).
            || self.uris.iter().any(|held| uri.strip_prefix(held.as_ref()).is_some_and(|r| r.starts_with('/')))
    }
}

impl Audience {
    /// Opens the stream of a session and ends the one it had; `None` when too many sessions are remembered.
    pub(super) fn open(&self, session: &str, queue_max: usize) -> Option<Reader> {
        let mailbox = Mailbox::new(queue_max);
        let before = self.with(session, |member| member.stream.replace(Arc::clone(&mailbox)))?;
        if let Some(before) = before {
            before.finish(Last::Closed);
        }
        Some(Reader::of_stream(mailbox))
    }

    /// Remembers a subscription; `false` when there are too many.
    pub(super) fn subscribe(&self, session: &str, uri: &str) -> bool {
        let added = self.with(session, |member| {
            member.uris.len() < SUBSCRIPTIONS_MAX && {
                member.uris.insert(uri.into());
                true
            }
        });
        added.unwrap_or(false)
    }

    /// Forgets a subscription. Tells whether another session still holds it, so that the child must go on.
    pub(super) fn unsubscribe(&self, session: &str, uri: &str) -> bool {
        let mut members = self.members.lock();
        if let Some(member) = members.get_mut(session) {
            member.uris.remove(uri);
        }
        members.values().any(|member| member.uris.contains(uri))
    }

    /// Forgets a session and ends its stream.
    pub(super) fn forget(&self, session: &str) {
        let member = self.members.lock().remove(session);
        if let Some(stream) = member.and_then(|member| member.stream) {
            stream.finish(Last::Closed);
        }
    }

    /// Tells every stream.
    pub(super) fn broadcast(&self, message: &[u8]) {
        let message = Bytes::copy_from_slice(message);
        let mut members = self.members.lock();
        members.retain(|_, member| member.prune());
        members.values().for_each(|member| member.hear(&message));
    }

    /// Tells the sessions that subscribed to `uri`.
    pub(super) fn updated(&self, uri: &str, message: &[u8]) {
        let message = Bytes::copy_from_slice(message);
        let members = self.members.lock();
        members.values().filter(|member| member.subscribes(uri)).for_each(|member| member.hear(&message));
    }

    /// Forgets subscriptions: the child that held them is gone.
    pub(super) fn unsubscribe_all(&self) {
        let mut members = self.members.lock();
        members.retain(|_, member| {
            member.uris.clear();
            member.prune()
        });
    }

    /// Whether any session listens.
    pub(super) fn has_streams(&self) -> bool {
        let mut members = self.members.lock();
        members.retain(|_, member| member.prune());
        members.values().any(|member| member.stream.is_some())
    }

    /// Whether nobody listens and nobody subscribed.
    pub(super) fn is_empty(&self) -> bool {
        let mut members = self.members.lock();
        members.retain(|_, member| member.prune());
        members.is_empty()
    }

    /// Ends every stream.
    pub(super) fn close(&self) {
        for (_, member) in self.members.lock().drain() {
            if let Some(stream) = member.stream {
                stream.finish(Last::Closed);
            }
        }
    }

    fn with<T>(&self, session: &str, act: impl FnOnce(&mut Member) -> T) -> Option<T> {
        let mut members = self.members.lock();
        if !members.contains_key(session) && members.len() >= SESSIONS_MAX {
            members.retain(|_, member| member.prune());
            if members.len() >= SESSIONS_MAX {
                return None;
            }
        }
        Some(act(members.entry(session.into()).or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn updates_go_to_subscribers_only_and_a_second_stream_replaces_the_first() {
        let audience = Audience::default();
        let mut old = audience.open("a", 8).unwrap();
        let mut a = audience.open("a", 8).unwrap();
        let mut b = audience.open("b", 8).unwrap();
        assert_eq!(old.said().await, "closed");
        assert!(audience.subscribe("a", "x://1"));
        audience.updated("x://1", b"one");
        audience.updated("x://1/sub", b"two");
        audience.updated("x://12", b"three");
        audience.broadcast(b"all");
        for want in ["one", "two", "all"] {
            assert_eq!(a.said().await, want);
        }
        assert_eq!(b.said().await, "all");
        assert!(audience.subscribe("b", "x://1"));
        assert!(audience.unsubscribe("a", "x://1"));
        assert!(!audience.unsubscribe("b", "x://1"));
    }

    #[test]
    fn sessions_and_subscriptions_are_bounded() {
        let audience = Audience::default();
        let held: Vec<_> = (0..SESSIONS_MAX).map(|n| audience.open(&n.to_string(), 1).unwrap()).collect();
        assert!(audience.open("one more", 1).is_none());
        drop(held);
        assert!(audience.open("one more", 1).is_some());
        let kept = (0..2 * SUBSCRIPTIONS_MAX).filter(|n| audience.subscribe("s", &n.to_string())).count();
        assert_eq!(kept, SUBSCRIPTIONS_MAX);
    }
}
