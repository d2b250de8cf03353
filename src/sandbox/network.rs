//! A network of its own, with nothing in it.
//! Not here: rules for TCP where there is none (`files`, with the other rules of Landlock).
//!
//! A new network namespace has one interface, the loopback, which is down: no address can be reached, not even this
//! machine's, by whatever protocol, and abstract unix sockets of others are out of sight. Sockets that stand in the file
//! system are files, and can still be reached by whom their permissions let.

use std::fs;
use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// Leaves the network behind. Who may not is helped by a user namespace, where the system allows those.
pub(super) fn leave() -> io::Result<()> {
    let Err(error) = unshare(CloneFlags::CLONE_NEWNET) else { return Ok(()) };
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(|_| io::Error::from(error))?;
    // In its own eyes it stays who it is.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}
