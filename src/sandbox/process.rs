//! What a process is: its parent, its limits, its user and its privileges.
//! Not here: files (`files`) and the network (`network`).

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, geteuid, getppid, setgid, setgroups, setuid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{LaunchError, Profile};

/// A process that does not end at SIGXCPU is killed after this much more processor time.
const CPU_GRACE_SECONDS: u64 = 2;

/// Ends with the gateway, however that ends. The kernel takes the *thread* that forked for the parent: the bridge's own,
/// which lives as long as the bridge does.
pub(super) fn stay_with(parent: u32) -> Result<(), LaunchError> {
    let asked = prctl::set_pdeathsig(Signal::SIGKILL);
    asked.map_err(io::Error::from).map_err(LaunchError::refused("cannot be tied to the gateway"))?;
    // It may have ended before it was asked for.
    let gone = u32::try_from(getppid().as_raw()).ok() != Some(parent);
    if gone { Err(LaunchError::Orphan) } else { Ok(()) }
}

/// Sets every limit but that of memory.
pub(super) fn limit(profile: &Profile) -> Result<(), LaunchError> {
    set("core", Resource::RLIMIT_CORE, Some(0), 0)?;
    set("cpu", Resource::RLIMIT_CPU, profile.cpu_seconds, CPU_GRACE_SECONDS)?;
    set("files", Resource::RLIMIT_NOFILE, profile.files, 0)?;
    set("file_size", Resource::RLIMIT_FSIZE, profile.file_bytes, 0)?;
    set("processes", Resource::RLIMIT_NPROC, profile.processes, 0)
}

/// Sets the limit of memory: this process has reserved more address space than many programs use.
pub(super) fn limit_memory(profile: &Profile) -> Result<(), LaunchError> {
    set("memory", Resource::RLIMIT_AS, profile.memory_bytes, 0)
}

/// Sets both the soft and the hard limit, so that it cannot be lifted. A lower limit that is in force already stays.
fn set(name: &str, resource: Resource, wanted: Option<u64>, grace: u64) -> Result<(), LaunchError> {
    let Some(wanted) = wanted else { return Ok(()) };
    let (_, most) = getrlimit(resource).unwrap_or((RLIM_INFINITY, RLIM_INFINITY));
    let hard = wanted.saturating_add(grace).min(most);
    let failed = LaunchError::refused(format!("cannot limit `{name}` to {wanted}"));
    setrlimit(resource, wanted.min(hard), hard).map_err(io::Error::from).map_err(failed)
}

/// Becomes the profile's user, and loses every capability and the way to new ones.
pub(super) fn give_up_privileges(profile: &Profile) -> Result<(), LaunchError> {
    forget_capabilities();
    if let Some(user) = &profile.user {
        if geteuid().is_root() {
            become_user(user).map_err(io::Error::from).map_err(LaunchError::refused(format!(
                "cannot become user `{}` ({}:{})",
                user.name, user.uid, user.gid
            )))?;
        } else if geteuid().as_raw() != user.uid {
            profile.miss(&format!("user: it is root that can start a server as user `{}`", user.name))?;
        }
    }
    if profile.processes.is_some() && geteuid().is_root() {
        profile.miss("processes: the kernel does not count those of root; give the server a `user`")?;
    }
    let dropped = rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        },
    );
    dropped.map_err(io::Error::from).map_err(LaunchError::refused("cannot drop capabilities"))?;
    let set = prctl::set_no_new_privs().map_err(io::Error::from);
    set.map_err(LaunchError::refused("cannot give up new privileges"))
}

/// Takes every capability out of what an exec could give. Who is not root may not, and has none to lose: without new
/// privileges no program gives it any.
fn forget_capabilities() {
    for number in 0..u64::BITS {
        // The kernel does not know as many.
        let capability = CapabilitySet::from_bits_retain(1 << number);
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    let _ = rustix::thread::clear_ambient_capability_set();
}

/// Groups first: afterwards it may not any more.
fn become_user(user: &super::User) -> nix::Result<()> {
    let gid = Gid::from_raw(user.gid);
    setgroups(&[gid])?;
    setgid(gid)?;
    setuid(Uid::from_raw(user.uid))
}
