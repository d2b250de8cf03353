//! A bearer token in a file that somebody else renews.
//! Not here: tokens that the gateway fetches itself (`client`).

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use ::http::HeaderValue;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::bearer;
use crate::conf;

/// How long what was read is believed without a look at the file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A file with a token.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    looked_at: Option<Instant>,
    stamp: Option<Stamp>,
    /// What the file held; `None` if it could not be read or is no token. An older one is not used instead: whoever takes
    /// a token away means it.
    value: Option<HeaderValue>,
}

/// Which file it is, and which version of it: links are swapped as well as files written.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    written: (i64, i64),
}

impl TokenFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, seen: Mutex::default() }
    }

    /// The token as a header. At most once in a second it looks whether the file has changed, which on the local disk
    /// or in memory, where such files are, takes some microseconds: a thread for it would take longer.
    pub(super) fn value(&self) -> Option<HeaderValue> {
        let mut seen = self.seen.lock();
        let now = Instant::now();
        if seen.looked_at.is_none_or(|at| now - at >= LOOK_EVERY) {
            seen.looked_at = Some(now);
            let stamp = self.stamp();
            // A file that could not be read may become readable without being written.
            if stamp.is_none() || stamp != seen.stamp || seen.value.is_none() {
                seen.value = self.read();
                seen.stamp = stamp;
            }
        }
        seen.value.clone()
    }

    fn stamp(&self) -> Option<Stamp> {
        let found = std::fs::metadata(&self.path).ok()?;
        Some(Stamp {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.size(),
            written: (found.mtime(), found.mtime_nsec()),
        })
    }

    fn read(&self) -> Option<HeaderValue> {
        let path = self.path.display();
        match conf::read_secret(&self.path) {
            Ok(token) => {
                let value = bearer(token.trim());
                if value.is_none() {
                    tracing::warn!(%path, "the file holds no token: expected one line of visible text");
                }
                value
            }
            Err(error) => {
                tracing::warn!(%path, %error, "the token cannot be read");
                None
            }
        }
    }
}
