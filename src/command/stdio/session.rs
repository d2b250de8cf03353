//! What is known of the session with the server, and what it takes to open it again.
//! Not here: who notices that it is gone (`call`, `listen`).

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::line::{Message, Setting};
use crate::mcp::MirroredHeaders;

/// The session header of the legacy era.
pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
/// Settings that are repeated in a new session: more subscriptions than any client makes.
const SETTINGS_MAX: usize = 1024;

/// An open session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Opened {
    /// Its id, if the server gave one.
    pub(super) id: Option<HeaderValue>,
    /// The revision that was agreed on.
    pub(super) revision: Option<HeaderValue>,
}

impl Opened {
    /// The headers of every message in it.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(id) = &self.id {
            headers.insert(SESSION, id.clone());
        }
        if let Some(revision) = &self.revision {
            headers.insert(MirroredHeaders::VERSION, revision.clone());
        }
        headers
    }
}

/// The session of the client, over all sessions with the server that it takes.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// The open one.
    pub(super) opened: Opened,
    /// Counts sessions, so that who lost an older one knows that there is another.
    pub(super) number: u64,
    /// The client's `initialize`.
    hello: Option<Message>,
    settings: BTreeMap<Setting, Message>,
}

impl Session {
    /// The client opens a session.
    pub(super) fn begins(&mut self, hello: &Message) {
        self.hello = Some(hello.clone());
        self.settings.clear();
        self.opened = Opened::default();
    }

    /// A session is open.
    pub(super) fn is(&mut self, opened: Opened) {
        self.opened = opened;
        self.number += 1;
    }

    /// Remembers what a message sets.
    pub(super) fn remember(&mut self, message: &Message) {
        match &message.sets {
            Some(Setting::Unsubscribed(uri)) => {
                self.settings.remove(&Setting::Subscribed(uri.clone()));
            }
            Some(setting) if self.settings.len() < SETTINGS_MAX => {
                self.settings.insert(setting.clone(), message.clone());
            }
            Some(_) | None => {}
        }
    }

    /// What opens it again: the client's `initialize`, and what was set since. `None` if it was never open.
    pub(super) fn replay(&self) -> Option<(Message, Vec<Message>)> {
        Some((self.hello.clone()?, self.settings.values().cloned().collect()))
    }
}

/// `notifications/initialized`, which follows a repeated `initialize`.
pub(super) const INITIALIZED: Bytes =
    Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
