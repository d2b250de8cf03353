//! What a running gateway leaves in its state directory for `tollgate upgrade`: its process id, and how an upgrade went.
//! Not here: the upgrade itself (`upgrade`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file with the process id of the gateway that became ready last.
const PID_FILE: &str = "tollgate.pid";
/// The file with the latest attempt at an upgrade.
const ATTEMPT_FILE: &str = "upgrade.json";

/// How an attempt at an upgrade went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The process that was asked.
    pub pid: u32,
    /// Counts the attempts of that process, from 1.
    pub number: u64,
    /// The process that took over, if one did.
    pub successor: Option<u32>,
    /// Why none did.
    pub failure: Option<String>,
}

impl Attempt {
    /// The latest attempt of any gateway on that state directory.
    pub fn latest(state_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(state_dir.join(ATTEMPT_FILE)).ok()?).ok()
    }

    pub(super) fn note(&self, state_dir: &Path) -> io::Result<()> {
        replace(&state_dir.join(ATTEMPT_FILE), &serde_json::to_vec(self)?)
    }
}

/// The gateway that became ready last on that state directory, if one did and has not ended.
pub fn running_pid(state_dir: &Path) -> Option<u32> {
    fs::read_to_string(state_dir.join(PID_FILE)).ok()?.trim().parse().ok()
}

/// The file that says that we run.
pub(super) struct PidFile(PathBuf);

impl PidFile {
    pub(super) fn of(state_dir: &Path) -> Self {
        Self(state_dir.join(PID_FILE))
    }

    /// From now on it is us whom an upgrade is asked of.
    pub(super) fn write(&self) {
        if let Err(error) = replace(&self.0, format!("{}\n", std::process::id()).as_bytes()) {
            tracing::warn!(%error, file = %self.0.display(), "the process id cannot be written");
        }
    }

    /// Removes it, unless a successor has written its own.
    pub(super) fn remove(&self) {
        let ours =
            fs::read_to_string(&self.0).is_ok_and(|text| text.trim() == std::process::id().to_string());
        if ours {
            // Whoever reads it afterwards finds no such process.
            let _ = fs::remove_file(&self.0);
        }
    }
}

/// Replaces a file as a whole.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension(format!("new-{}", std::process::id()));
    fs::write(&new, content)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successors_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = PidFile::of(dir.path());
        file.write();
        assert_eq!(running_pid(dir.path()), Some(std::process::id()));
        fs::write(dir.path().join(PID_FILE), "1\n").unwrap();
        file.remove();
        assert_eq!(running_pid(dir.path()), Some(1));
        file.write();
        file.remove();
        assert_eq!(running_pid(dir.path()), None);
    }

    #[test]
    fn an_attempt_is_read_as_it_was_noted() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Attempt::latest(dir.path()), None);
        let attempt = Attempt { pid: 7, number: 2, successor: None, failure: Some("it ended".into()) };
        attempt.note(dir.path()).unwrap();
        assert_eq!(Attempt::latest(dir.path()), Some(attempt));
    }
}
