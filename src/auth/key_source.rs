//! Where an issuer's keys come from, and when they are read again.
//! Not here: what a key is (`key`); the requests themselves (`egress`).
//!
//! A file is read again when it changes, an address by age and when a token names a key that is not known.
//!
//! Reading is the work of one task, [`Keys::keep`], so that there is never more than one request to an issuer at a
//! time. Requests that meet an unknown key only ask it to read, at most once in [`COOL_DOWN`] over all of them, and
//! wait for what comes. So whoever invents names of keys costs the issuer one request in that time and himself a
//! refusal at once; no list of bad names is needed. What was read last stays until something better comes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, Guard};
use http::Uri;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::key::{Key, KeyError, KeySet};
use crate::conf::IssuerKeys;
use crate::egress;

/// Age at which keys from an address are read again: how long a key that its issuer withdrew may still be believed.
const AGE_MAX: Duration = Duration::from_secs(600);
/// Time between two readings because of unknown keys, and after a reading that failed.
pub(super) const COOL_DOWN: Duration = Duration::from_secs(30);
/// How often files are looked at.
const FILE_PERIOD: Duration = Duration::from_secs(1);
/// A file with keys; the same as for answers of an address.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How long a request waits for keys: a little longer than `egress` does.
const PATIENCE: Duration = Duration::from_secs(6);
/// Requests that wait for keys of one issuer; others are refused at once.
const WAITING_MAX: usize = 256;

/// Why a file gives no keys.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It is not what it should be.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// It is too long.
    #[error("it is longer than {FILE_BYTES_MAX} bytes")]
    TooLong,
}

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Keys {
    set: ArcSwap<KeySet>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// It never changes.
    Fixed,
    File(File),
    Address(Box<Address>),
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    parse: fn(&[u8]) -> Result<KeySet, KeyError>,
    seen: Mutex<Option<Stamp>>,
}

/// What tells a changed file from an unchanged one without reading it.
type Stamp = (SystemTime, u64);

#[derive(Debug)]
struct Address {
    url: Uri,
    cool_down: Duration,
    gate: Mutex<Gate>,
    asked: Notify,
    /// Counts readings, for those who wait for one.
    rounds: watch::Sender<u64>,
}

#[derive(Debug)]
struct Gate {
    /// A set has come at least once.
    loaded: bool,
    /// A reading is under way or will be at once.
    reading: bool,
    /// When the next reading is due by age.
    due: Instant,
    /// When unknown keys may lead to a reading again.
    cool: Instant,
    waiting: usize,
}

impl Keys {
    /// The keys of a secret or a file, at once; those of an address come when [`Self::keep`] runs.
    pub(super) fn new(source: &IssuerKeys, cool_down: Duration) -> Result<Self, FileError> {
        let file = |path: &PathBuf, parse: fn(&[u8]) -> Result<KeySet, KeyError>| {
            let file = File { path: path.clone(), parse, seen: Mutex::new(stamp(path)) };
            let set = read(path, parse)?;
            Ok::<_, FileError>((set, Source::File(file)))
        };
        let (set, source) = match source {
            IssuerKeys::Secret(secret) => {
                (KeySet::of(Key::secret(secret.expose().as_bytes())), Source::Fixed)
            }
            IssuerKeys::Pem(path) => file(path, KeySet::from_pem)?,
            IssuerKeys::JwksFile(path) => file(path, KeySet::from_jwks)?,
            IssuerKeys::JwksUrl(url) => {
                (KeySet::default(), Source::Address(Box::new(Address::new(url, cool_down))))
            }
        };
        Ok(Self { set: ArcSwap::from_pointee(set), source })
    }

    pub(super) fn set(&self) -> Guard<Arc<KeySet>> {
        self.set.load()
    }

    /// Whether there were ever any.
    pub(super) fn are_loaded(&self) -> bool {
        match &self.source {
            Source::Fixed | Source::File(_) => true,
            Source::Address(address) => address.gate.lock().loaded,
        }
    }

    /// Whether the issuer can be asked for others.
    pub(super) fn are_at_an_address(&self) -> bool {
        matches!(self.source, Source::Address(_))
    }

    /// A token was signed by a key that is not there. Gives something to wait for if it is worth while.
    pub(super) fn ask(&self) -> Option<Asked<'_>> {
        match &self.source {
            Source::Fixed | Source::File(_) => None,
            Source::Address(address) => address.ask(),
        }
    }

    /// Reads keys again when it is time. Does not end, unless there is nothing to read.
    pub(super) async fn keep(&self, issuer: &str, client: &egress::Client) {
        match &self.source {
            Source::Fixed => {}
            Source::File(file) => self.keep_file(issuer, file).await,
            Source::Address(address) => self.keep_address(issuer, address, client).await,
        }
    }

    async fn keep_file(&self, issuer: &str, file: &File) {
        loop {
            sleep(FILE_PERIOD).await;
            let (path, parse) = (file.path.clone(), file.parse);
            let before = *file.seen.lock();
            let looked = tokio::task::spawn_blocking(move || {
                let now = stamp(&path);
                (now != before).then(|| (now, read(&path, parse)))
            });
            let Ok(Some((now, set))) = looked.await else { continue };
            *file.seen.lock() = now;
            match set {
                Ok(set) => self.put(set, issuer),
                Err(error) => {
                    tracing::warn!(issuer, %error, "the file with the issuer's keys changed and is no good: the keys stay as they were")
                }
            }
        }
    }

    async fn keep_address(&self, issuer: &str, address: &Address, client: &egress::Client) {
        loop {
            address.until_asked().await;
            let read = client.get(&address.url).await.map_err(|error| error.to_string());
            let set = read
                .and_then(|text| KeySet::from_jwks(&text).map_err(|error| format!("the answer: {error}")));
            let done = match set {
                Ok(set) => {
                    self.put(set, issuer);
                    Ok(())
                }
                Err(error) => {
                    tracing::warn!(issuer, %error, "the issuer's keys cannot be read: they stay as they were");
                    Err(())
                }
            };
            address.was_read(done.is_ok());
        }
    }

    fn put(&self, set: KeySet, issuer: &str) {
        let set = set.succeed(&self.set.load());
        self.set.store(Arc::new(set));
        tracing::debug!(issuer, "the issuer's keys were read");
    }
}

impl Address {
    fn new(url: &Uri, cool_down: Duration) -> Self {
        let now = Instant::now();
        // The first reading begins as soon as somebody keeps the keys; until then requests wait for it.
        let gate = Gate { loaded: false, reading: true, due: now, cool: now, waiting: 0 };
        Self {
            url: url.clone(),
            cool_down,
            gate: Mutex::new(gate),
            asked: Notify::new(),
            rounds: watch::channel(0).0,
        }
    }

    fn ask(&self) -> Option<Asked<'_>> {
        let mut gate = self.gate.lock();
        if gate.waiting >= WAITING_MAX {
            return None;
        }
        if !gate.reading {
            let now = Instant::now();
            if now < gate.cool {
                return None;
            }
            gate.cool = now + self.cool_down;
            gate.reading = true;
            self.asked.notify_one();
        }
        gate.waiting += 1;
        Some(Asked { rounds: self.rounds.subscribe(), address: self })
    }

    async fn until_asked(&self) {
        loop {
            let due = {
                let mut gate = self.gate.lock();
                gate.reading |= Instant::now() >= gate.due;
                if gate.reading {
                    return;
                }
                gate.due
            };
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.asked.notified() => {}
            }
        }
    }

    fn was_read(&self, well: bool) {
        let mut gate = self.gate.lock();
        gate.loaded |= well;
        gate.reading = false;
        gate.due = Instant::now() + if well { AGE_MAX } else { self.cool_down };
        self.rounds.send_modify(|round| *round += 1);
    }
}

/// A place among those who wait for keys.
pub(super) struct Asked<'k> {
    rounds: watch::Receiver<u64>,
    address: &'k Address,
}

impl Asked<'_> {
    /// Until keys were read, well or not, or it has taken too long.
    pub(super) async fn wait(mut self) {
        let _ = timeout(PATIENCE, self.rounds.changed()).await;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.address.gate.lock().waiting -= 1;
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len()))
}

fn read(path: &Path, parse: fn(&[u8]) -> Result<KeySet, KeyError>) -> Result<KeySet, FileError> {
    let found = std::fs::metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
    }
    if found.len() > FILE_BYTES_MAX {
        return Err(FileError::TooLong);
    }
    Ok(parse(&std::fs::read(path)?)?)
}
