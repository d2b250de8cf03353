//! Tells when what a catalog's path leads to has new content.
//! Not here: reading it again (`load`), what a change means (`changes`).
//!
//! The directory is watched and not the file: editors rename a new file over the old one, and Kubernetes swaps a
//! symbolic link beside it. Events only make us look; the content decides, so that neither `touch` nor our own
//! reading counts as a change. A slow poll looks where no events come from, such as network file systems.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{CatalogError, load};

/// Quiet that must follow an event before we look: an editor writes in several steps.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// Time from the first event after which we look even if events go on.
const DEBOUNCE_MAX: Duration = Duration::from_secs(2);
/// Time between two looks without any event.
const POLL: Duration = Duration::from_secs(2);

/// What a catalog's file held when it was last looked at for a load, whoever asked for it. Without it, a file that is
/// changed, loaded by hand and changed back at once would look unchanged to the watch.
#[derive(Debug, Clone)]
pub struct Seen {
    path: PathBuf,
    content: Arc<Mutex<Option<u64>>>,
}

impl Seen {
    /// Looks at the file. Look before loading it: then no change falls between the two.
    pub fn look(path: &Path) -> Self {
        let seen = Self { path: path.to_path_buf(), content: Arc::default() };
        seen.again();
        seen
    }

    /// Whether it holds something else now.
    pub fn has_changed(&self) -> bool {
        content(&self.path) != *self.content.lock()
    }

    /// Looks again, before another load.
    pub fn again(&self) {
        *self.content.lock() = content(&self.path);
    }
}

/// Watches one catalog file.
pub struct Watch {
    path: PathBuf,
    events: mpsc::Receiver<()>,
    /// Kept for its thread, which ends when it is dropped. `None` when only the poll is left.
    watcher: Option<RecommendedWatcher>,
    trouble: Option<notify::Error>,
    seen: Seen,
    stamp: Option<Stamp>,
    /// First and latest event not looked into yet.
    pending: Option<(Instant, Instant)>,
    next_poll: Option<Instant>,
}

/// What tells a file that was written from one that was not, without reading it.
type Stamp = (u64, u64, i64, i64, u64);

impl Watch {
    /// Starts watching for content other than what was `seen`, be it from now on or since then.
    ///
    /// # Errors
    /// [`CatalogError::NotAFile`] if the path names no file. When the system cannot watch the directory, the poll
    /// does, and [`Self::trouble`] says why.
    pub fn start(path: &Path, seen: Seen) -> Result<Self, CatalogError> {
        let not_a_file = || CatalogError::NotAFile(path.to_path_buf());
        path.file_name().ok_or_else(not_a_file)?;
        let path = std::path::absolute(path).map_err(|_| not_a_file())?;
        // One slot is enough: an event says only that there is something to look at.
        let (sender, events) = mpsc::channel(1);
        let (watcher, trouble) = match watch(&path, sender) {
            Ok(watcher) => (Some(watcher), None),
            Err(error) => (None, Some(error)),
        };
        // No stamp yet: the first poll looks, whatever happened before there were events.
        Ok(Self { path, events, watcher, trouble, seen, stamp: None, pending: None, next_poll: None })
    }

    /// Why the system does not tell us of changes, if so; the poll goes on.
    pub fn trouble(&self) -> Option<&notify::Error> {
        self.trouble.as_ref()
    }

    /// Waits until the content differs from what was seen last, at a load or at the last answer. The file's absence
    /// counts as content, too. May be dropped and called again: nothing is lost.
    pub async fn changed(&mut self) {
        loop {
            let now = Instant::now();
            let poll = *self.next_poll.get_or_insert(now + POLL);
            let wake = match self.pending {
                Some((first, last)) => (last + DEBOUNCE).min(first + DEBOUNCE_MAX),
                None => poll,
            };
            tokio::select! {
                biased;
                () = sleep_until(wake) => {}
                event = self.events.recv(), if self.watcher.is_some() => {
                    if event.is_none() {
                        self.watcher = None;
                    } else {
                        self.note();
                    }
                    continue;
                }
            }
            self.next_poll = Some(Instant::now() + POLL);
            if self.pending.is_none() {
                if stamp(&self.path) != self.stamp {
                    self.note();
                }
                continue;
            }
            self.stamp = stamp(&self.path);
            let path = self.path.clone();
            // Reading may take a while on a network file system; the workers have better to do.
            let read = tokio::task::spawn_blocking(move || content(&path));
            let read = read.await;
            // Only now: whoever drops this future while it reads must not lose the event.
            self.pending = None;
            let Ok(content) = read else { continue };
            let mut seen = self.seen.content.lock();
            if content != *seen {
                *seen = content;
                return;
            }
        }
    }

    fn note(&mut self) {
        let now = Instant::now();
        let first = self.pending.map_or(now, |(first, _)| first);
        self.pending = Some((first, now));
    }
}

fn watch(path: &Path, sender: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is an event, too; listening to it we would wake ourselves for ever.
        let matters = event.is_ok_and(|event| match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
            EventKind::Access(_) => false,
            _ => true,
        });
        if matters {
            // A full slot means that the news is already waiting.
            let _ = sender.try_send(());
        }
    })?;
    let named = path.parent().unwrap_or(Path::new("/"));
    watcher.watch(named, RecursiveMode::NonRecursive)?;
    // Where a link leads to is watched as well; if that fails, the poll sees it.
    let real = path.canonicalize().ok().and_then(|real| real.parent().map(Path::to_path_buf));
    if let Some(real) = real.filter(|real| real != named) {
        let _ = watcher.watch(&real, RecursiveMode::NonRecursive);
    }
    Ok(watcher)
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
}

fn content(path: &Path) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    load::read_bytes(path).ok()?.hash(&mut hasher);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[track_caller]
    fn start(dir: &tempfile::TempDir) -> (Watch, PathBuf) {
        let path = dir.path().join("catalog.yaml");
        fs::write(&path, "a").unwrap();
        let watch = Watch::start(&path, Seen::look(&path)).unwrap();
        (watch, path)
    }

    #[tokio::test]
    async fn writing_renaming_removing_and_returning() {
        let dir = tempfile::tempdir().unwrap();
        let (mut watch, path) = start(&dir);
        assert!(watch.trouble().is_none());
        fs::write(&path, "b").unwrap();
        timeout(SOON, watch.changed()).await.expect("a write");
        fs::write(dir.path().join("new"), "c").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        timeout(SOON, watch.changed()).await.expect("a rename");
        fs::remove_file(&path).unwrap();
        timeout(SOON, watch.changed()).await.expect("a removal");
        fs::write(&path, "c").unwrap();
        timeout(SOON, watch.changed()).await.expect("a return");
    }

    #[tokio::test]
    async fn the_same_content_is_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let (mut watch, path) = start(&dir);
        fs::write(&path, "b").unwrap();
        fs::write(&path, "a").unwrap();
        timeout(DEBOUNCE * 3, watch.changed()).await.expect_err("nothing changed");
        fs::write(&path, "b").unwrap();
        timeout(SOON, watch.changed()).await.expect("a write");
    }

    #[tokio::test]
    async fn what_others_loaded_and_what_came_before_the_start_are_no_blind_spots() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.yaml");
        fs::write(&path, "a").unwrap();
        let seen = Seen::look(&path);
        fs::write(&path, "b").unwrap();
        let mut watch = Watch::start(&path, seen.clone()).unwrap();
        timeout(SOON, watch.changed()).await.expect("a write between the first load and the start");
        fs::write(&path, "c").unwrap();
        seen.again();
        fs::write(&path, "b").unwrap();
        timeout(SOON, watch.changed()).await.expect("a return to what was there before a load by hand");
    }

    #[tokio::test]
    async fn kubernetes_swaps_a_link() {
        let dir = tempfile::tempdir().unwrap();
        for (version, text) in [("..1", "a"), ("..2", "b")] {
            fs::create_dir(dir.path().join(version)).unwrap();
            fs::write(dir.path().join(version).join("catalog.yaml"), text).unwrap();
        }
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, dir.path().join(name)).unwrap();
        link("..1", "..data");
        link("..data/catalog.yaml", "catalog.yaml");
        let path = dir.path().join("catalog.yaml");
        let mut watch = Watch::start(&path, Seen::look(&path)).unwrap();
        link("..2", "..data_tmp");
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        timeout(SOON, watch.changed()).await.expect("a swap");
    }

    #[tokio::test]
    async fn endless_edits_do_not_starve() {
        let dir = tempfile::tempdir().unwrap();
        let (mut watch, path) = start(&dir);
        let mut edits = tokio::time::interval(Duration::from_millis(100));
        let began = Instant::now();
        let mut count = 0;
        loop {
            tokio::select! {
                () = watch.changed() => break,
                _ = edits.tick() => {
                    count += 1;
                    fs::write(&path, format!("edit {count}")).unwrap();
                    assert!(began.elapsed() < SOON, "no answer after {count} edits");
                }
            }
        }
        assert!(began.elapsed() >= DEBOUNCE_MAX - DEBOUNCE, "edits were not gathered");
    }

    #[tokio::test]
    async fn the_poll_sees_what_events_do_not_tell() {
        let dir = tempfile::tempdir().unwrap();
        let (mut watch, path) = start(&dir);
        watch.watcher = None;
        fs::write(&path, "longer").unwrap();
        timeout(SOON, watch.changed()).await.expect("a write");
    }
}
