//! The bridge's socket as a file: nobody else's, and never in the place of one that is in use.
//! Not here: what is said on it (`serve`).
//!
//! A socket must not be open to others for the moment between being made and being closed to them. So it is made in a
//! new directory that only we can enter, closed, and moved to its place.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream as Blocking};
use std::path::Path;

use nix::unistd::geteuid;
use tokio::net::UnixStream;

use super::SOCKET_PATH_BYTES_MAX;

/// Refuses a path that cannot be used: too long, or where somebody listens. Makes its directory if there is none.
pub(super) fn vacant(path: &Path) -> io::Result<()> {
    if path.as_os_str().as_bytes().len() >= SOCKET_PATH_BYTES_MAX {
        let message = format!("its path must be shorter than {SOCKET_PATH_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    match Blocking::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another bridge listens there")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A file of another kind would be lost.
        Err(_) if is_socket(path) => Ok(()),
        Err(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket")),
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

/// Binds it in place of one that an earlier run left behind.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let closed = dir.join(format!(".{}", super::random_hex::<2>()?));
    DirBuilder::new().mode(0o700).create(&closed)?;
    let new = closed.join("s");
    let bound = UnixListener::bind(&new).and_then(|listener| {
        fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        fs::rename(&new, path)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    let _ = fs::remove_file(&new);
    fs::remove_dir(&closed)?;
    bound
}

/// Whether the other end is of our own user, or of root.
pub(super) fn is_ours(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}

/// Connects to a bridge. What a stranger has put in its place gets no byte of a call.
///
/// # Errors
/// If nobody listens there, or another user does.
pub async fn knock(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path).await?;
    if is_ours(&stream) {
        return Ok(stream);
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is another user who listens there"))
}

/// Removes it, and its directory if that is ours alone and holds nothing else.
pub(super) fn remove(path: &Path, own_dir: bool) {
    // What is not there need not go.
    drop(fs::remove_file(path));
    if let Some(dir) = path.parent().filter(|_| own_dir) {
        drop(fs::remove_dir(dir));
    }
}
