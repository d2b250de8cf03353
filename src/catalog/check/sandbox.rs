//! Checks what a local process may use: limits a program can live with, paths and users that exist.
//! Not here: what the kernel can do (the `sandbox` room, when a child is started).

use std::path::PathBuf;

use nix::unistd::{Group, User as Account};

use super::Checker;
use crate::catalog::raw::{RawMissing, RawSandbox};
use crate::document::{At, Code, Size};
use crate::sandbox::{Missing, PATHS_MAX, Paths, Profile, User};

/// No program starts with less: its code and its libraries are mapped.
const MEMORY_BYTES_MIN: usize = 16 << 20;
/// Three pipes, and its libraries one after the other.
const FILES_MIN: u32 = 16;

impl Checker<'_> {
    /// Checks a sandbox.
    pub(super) fn sandbox(&mut self, raw: Option<At<RawSandbox>>, enabled: bool) -> Option<Box<Profile>> {
        let At { value: raw, span } = raw?;
        let profile = Profile {
            memory_bytes: raw.memory.as_ref().map(|size| self.memory(size)),
            cpu_seconds: raw.cpu.as_ref().map(|time| {
                let is_whole = time.0.subsec_nanos() == 0 && !time.0.is_zero();
                if !is_whole {
                    self.report.add(time.span, Code::InvalidValue, "expected whole seconds, at least 1");
                }
                time.0.as_secs()
            }),
            files: self.at_least(raw.files.as_ref(), FILES_MIN),
            processes: self.at_least(raw.processes.as_ref(), 1),
            file_bytes: raw.file_size.as_ref().map(|size| size.value.0 as u64),
            paths: self.paths(raw.read, raw.write, enabled),
            network: raw.network.as_ref().is_none_or(|network| network.value),
            user: raw.user.as_ref().and_then(|user| self.user(user, enabled)),
            missing: match raw.missing.as_ref().map(|missing| missing.value).unwrap_or_default() {
                RawMissing::Refuse => Missing::Refuse,
                RawMissing::Warn => Missing::Warn,
            },
        };
        if (Profile { missing: Missing::default(), ..profile.clone() }) == Profile::default()
            && raw.user.is_none()
        {
            self.missing(
                span,
                "a sandbox takes nothing away: give it a limit, `read`, `write`, `user` or `network: false`",
            );
        }
        Some(Box::new(profile))
    }

    fn memory(&mut self, size: &At<Size>) -> u64 {
        if size.value.0 < MEMORY_BYTES_MIN {
            let advice = "address space is more than what a program fills: Python needs some 64MiB, Node.js 1GiB and more";
            self.report.advise(size.span, Code::InvalidValue, "must be at least 16MiB", advice);
        }
        size.value.0 as u64
    }

    fn at_least(&mut self, count: Option<&At<u32>>, min: u32) -> Option<u64> {
        let count = count?;
        if count.value < min {
            self.report.add(count.span, Code::InvalidValue, format!("must be at least {min}"));
        }
        Some(count.value.into())
    }

    fn paths(
        &mut self,
        read: Option<At<Vec<At<String>>>>,
        write: Option<At<Vec<At<String>>>>,
        enabled: bool,
    ) -> Option<Paths> {
        if read.is_none() && write.is_none() {
            return None;
        }
        let read = self.listed(read, "read", enabled);
        let write = self.listed(write, "write", enabled);
        for (path, at) in &write {
            let covers = path.canonicalize().is_ok_and(|path| {
                self.base_dir.canonicalize().is_ok_and(|base_dir| base_dir.starts_with(path))
            });
            if covers {
                let message =
                    "lets the server change this catalog, and so run any command outside its sandbox";
                let advice = "name a directory below, such as `data`";
                self.report.warn_advise(at.span, Code::Exposed, message, advice);
            }
        }
        let only = |list: Vec<(PathBuf, At<String>)>| list.into_iter().map(|(path, _)| path).collect();
        Some(Paths { read: only(read), write: only(write) })
    }

    fn listed(
        &mut self,
        raw: Option<At<Vec<At<String>>>>,
        key: &str,
        enabled: bool,
    ) -> Vec<(PathBuf, At<String>)> {
        let Some(raw) = raw else { return Vec::new() };
        if raw.len() > PATHS_MAX {
            let message = format!("`{key}` names more than {PATHS_MAX} paths");
            self.report.advise(raw.span, Code::InvalidValue, message, "name directories");
        }
        let mut list = Vec::new();
        for at in raw.value {
            let path = self.base_dir.join(&at.value);
            if at.is_empty() || at.contains('\0') {
                self.report.add(at.span, Code::InvalidValue, "not a path");
            } else if enabled && !path.exists() {
                let message = format!("`{key}` names what is not there: {}", path.display());
                self.report.add(at.span, Code::NotFound, message);
            }
            list.push((path, at));
        }
        list
    }

    /// `name`, `name:group`, or numbers in their places.
    fn user(&mut self, raw: &At<String>, enabled: bool) -> Option<User> {
        let (name, group) = match raw.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (raw.as_str(), None),
        };
        let account = account(name);
        let gid = match group {
            Some(group) => group_of(group),
            None => account.as_ref().and_then(|account| account.gid),
        };
        match (&account, gid) {
            (Some(Found { uid: 0, .. }), _) | (_, Some(0)) => {
                let message = "root is no user of its own";
                self.report.advise(raw.span, Code::InvalidValue, message, "name a user without rights");
                None
            }
            (Some(found), Some(gid)) => {
                let Found { uid, home, .. } = found;
                Some(User { name: raw.value.clone(), uid: *uid, gid, home: home.clone() })
            }
            _ if !enabled => None,
            (None, _) => {
                let message = format!("there is no user `{name}` on this machine");
                self.report.add(raw.span, Code::NotFound, message);
                None
            }
            (Some(_), None) => {
                let message = match group {
                    Some(group) => format!("there is no group `{group}` on this machine"),
                    None => format!("nobody knows the group of user {name}"),
                };
                self.report.advise(raw.span, Code::NotFound, message, format!("`{name}:` and its group"));
                None
            }
        }
    }
}

/// What the system knows of a user; of a number it need not know anything.
struct Found {
    uid: u32,
    gid: Option<u32>,
    home: Option<PathBuf>,
}

fn account(name: &str) -> Option<Found> {
    let number = name.parse::<u32>().ok();
    let known = match number {
        Some(uid) => Account::from_uid(uid.into()),
        None => Account::from_name(name),
    };
    match (known.ok().flatten(), number) {
        (Some(known), _) => {
            Some(Found { uid: known.uid.as_raw(), gid: Some(known.gid.as_raw()), home: Some(known.dir) })
        }
        (None, Some(uid)) => Some(Found { uid, gid: None, home: None }),
        (None, None) => None,
    }
}

fn group_of(name: &str) -> Option<u32> {
    let number = name.parse::<u32>().ok();
    number.or_else(|| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw()))
}
