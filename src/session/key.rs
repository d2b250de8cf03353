//! The key that seals session ids: from the configuration, or from a file of ours that is made once.
//! Not here: what is sealed with it (`seal`).

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::conf::{self, Secret};

/// Why there is no session key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The configured key is not 32 bytes.
    #[error("the session key must be 32 bytes in base64 or hex (make one with `openssl rand -base64 32`)")]
    Shape,
    /// The key file cannot be read or made.
    #[error("session key file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others may read the key file.
    #[error("session key file {0} can be read by others: `chmod 600` it, or remove it to make a new key")]
    Exposed(PathBuf),
}

/// The configured key, or the one in `session.key` of the state directory, which is made (mode 0600) when absent.
pub fn load_key(configured: Option<&Secret>, state_dir: &Path) -> Result<[u8; 32], KeyError> {
    if let Some(secret) = configured {
        return conf::session_key(secret.expose()).ok_or(KeyError::Shape);
    }
    let path = state_dir.join("session.key");
    let failed = |source| KeyError::File { path: path.clone(), source };
    match fs::read_to_string(&path) {
        Ok(text) => {
            let mode = fs::metadata(&path).map_err(failed)?.permissions().mode();
            if mode & 0o077 != 0 {
                return Err(KeyError::Exposed(path));
            }
            conf::session_key(&text).ok_or(KeyError::Shape)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let mut key = [0u8; 32];
            getrandom::fill(&mut key).map_err(|e| failed(std::io::Error::other(e)))?;
            fs::create_dir_all(state_dir).map_err(failed)?;
            keep(&key, &path).map_err(failed)?;
            // Another gateway that starts at the same time may have been first: what the file says is the key.
            let text = fs::read_to_string(&path).map_err(failed)?;
            conf::session_key(&text).ok_or(KeyError::Shape)
        }
        Err(e) => Err(failed(e)),
    }
}

/// Puts `key` into a file of mode 0600 at `path`, whole or not at all, unless there is one already.
fn keep(key: &[u8; 32], path: &Path) -> std::io::Result<()> {
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(STANDARD.encode(key).as_bytes()).and_then(|()| file.sync_all())?;
    let linked = fs::hard_link(&new, path);
    fs::remove_file(&new)?;
    match linked {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_file_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let key = load_key(None, dir.path()).unwrap();
        assert_eq!(load_key(None, dir.path()).unwrap(), key);
        let path = dir.path().join("session.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(load_key(None, dir.path()), Err(KeyError::Exposed(_))));
    }

    #[test]
    fn configured_keys_are_hex_or_base64() {
        let dir = tempfile::tempdir().unwrap();
        let load = |text: &str| load_key(Some(&Secret::new(text)), dir.path());
        assert_eq!(load(&"07".repeat(32)).unwrap(), [7; 32]);
        assert_eq!(load(&STANDARD.encode([9; 32])).unwrap(), [9; 32]);
        assert!(matches!(load("short"), Err(KeyError::Shape)));
    }
}
