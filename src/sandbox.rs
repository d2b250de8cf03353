//! What a child may use, and the launcher that takes everything else away before the child's program runs.
//! Not here: what a catalog may say of it (`catalog`), or who starts children (`bridge`).
//!
//! Nothing of ours can run between fork and exec: that is unsafe. So the gateway starts *itself* as `tollgate launch`
//! with a profile; that process takes away from itself what the profile does not give, and becomes the server's program
//! by exec, with the same process id, the same three pipes and the same environment. The environment never stands on a
//! command line; the profile does, and holds no secret.
//!
//! Invariant: the program runs with the whole profile, or with less and a warning if the profile says so, or not at
//! all. What fails is told in one line on standard error that begins with [`PREFIX`], and by [`EXIT_CODE`].
//!
//! A program with a profile has no capabilities either: with those of root it could lift its own limits.

mod files;
mod network;
mod process;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Begins every line of the launcher on standard error.
pub const PREFIX: &str = "tollgate launch: ";
/// How the launcher exits when the program cannot be started as the profile says; `env` and `nohup` use it alike.
pub const EXIT_CODE: u8 = 125;
/// Paths in one list of a profile: each is an open file for a moment, and a part of a command line.
pub const PATHS_MAX: usize = 64;

/// What a child may use. What is `None` stays as the gateway itself has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Address space of each process, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processor time of each process, in seconds.
    pub cpu_seconds: Option<u64>,
    /// Open files of each process.
    pub files: Option<u64>,
    /// Processes and threads of its user.
    pub processes: Option<u64>,
    /// Length of a file that it writes, in bytes.
    pub file_bytes: Option<u64>,
    /// The only files it may use besides the system's; `None` is all that its user may.
    pub paths: Option<Paths>,
    /// Whether it may use the network.
    pub network: bool,
    /// Whom it runs as.
    pub user: Option<User>,
    /// What becomes of it where the kernel cannot do all of this.
    pub missing: Missing,
}

/// Files that a child may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paths {
    /// Files and trees that it may read and execute.
    pub read: Vec<PathBuf>,
    /// Files and trees that it may read and change.
    pub write: Vec<PathBuf>,
}

/// A user of the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its name or number, as the catalog gives it.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its group; it has no others.
    pub gid: u32,
    /// Its home directory, if it has one.
    pub home: Option<PathBuf>,
}

/// What becomes of a child where the kernel cannot do all that its profile says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// It is not started.
    #[default]
    Refuse,
    /// It is started with less, and a warning is logged.
    Warn,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            memory_bytes: None,
            cpu_seconds: None,
            files: None,
            processes: None,
            file_bytes: None,
            paths: None,
            network: true,
            user: None,
            missing: Missing::default(),
        }
    }
}

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// What the command line gives is no profile. Ours.
    #[error("not a profile: {0}")]
    Profile(#[from] serde_json::Error),
    /// This kernel, or this user, cannot do what the profile says. The operator's.
    #[error("{0}; `missing: warn` would start it all the same")]
    Missing(String),
    /// Something that the profile names is not there or not allowed. The operator's.
    #[error("{what}: {source}")]
    Refused {
        /// What was to be done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The gateway is gone.
    #[error("the gateway that started it is gone")]
    Orphan,
    /// The program itself. The operator's.
    #[error("cannot run {}: {source}", program.display())]
    Program {
        /// Its path.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl LaunchError {
    fn refused(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self::Refused { what, source }
    }
}

impl Profile {
    /// The command line after `tollgate` that starts `program` with this profile, as a child of process `parent`; the
    /// program's own arguments follow.
    pub fn command_line(&self, parent: u32, program: &Path) -> Result<Vec<OsString>, io::Error> {
        let profile = serde_json::to_string(self)?;
        let parent = parent.to_string();
        let words = ["launch", "--parent", &parent, "--profile", &profile, "--"];
        Ok(words.into_iter().map(OsString::from).chain([program.into()]).collect())
    }

    /// What cannot be had is an end, or a warning.
    fn miss(&self, what: &str) -> Result<(), LaunchError> {
        match self.missing {
            Missing::Refuse => Err(LaunchError::Missing(what.to_owned())),
            Missing::Warn => {
                say(&format!("warning: {what}"));
                Ok(())
            }
        }
    }
}

/// Becomes `program` with no more than `profile` gives. Returns only if it cannot.
pub fn launch(profile: &str, parent: u32, program: &Path, args: &[OsString]) -> LaunchError {
    match prepare(profile, parent, program) {
        Ok(()) => {}
        Err(error) => return error,
    }
    #[expect(clippy::disallowed_methods, reason = "exec: this process becomes the program, no other is made")]
    let source = std::process::Command::new(program).args(args).exec();
    LaunchError::Program { program: program.to_owned(), source }
}

/// The order matters: what needs privileges comes before they are given up, and file rules come last but for the
/// limit of memory, which this process itself may already be over.
fn prepare(profile: &str, parent: u32, program: &Path) -> Result<(), LaunchError> {
    let profile: Profile = serde_json::from_str(profile)?;
    process::stay_with(parent)?;
    let alone = if profile.network { None } else { Some(network::leave()) };
    process::limit(&profile)?;
    process::give_up_privileges(&profile)?;
    // A change of user has cleared what was set before.
    process::stay_with(parent)?;
    files::close(&profile, program)?;
    if let Some(Err(source)) = alone {
        let denied = if files::denies_tcp() { "only TCP is denied" } else { "nothing is denied" };
        profile.miss(&format!("no network of its own ({source}): {denied}"))?;
    }
    process::limit_memory(&profile)
}

/// Says something on standard error, of which the gateway keeps the last lines.
pub fn say(text: &str) {
    // There is nobody else to tell.
    let _ = writeln!(io::stderr().lock(), "{PREFIX}{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_survives_the_command_line() {
        let profile = Profile {
            memory_bytes: Some(1 << 29),
            paths: Some(Paths { read: vec!["/srv/a b".into()], write: Vec::new() }),
            network: false,
            missing: Missing::Warn,
            ..Profile::default()
        };
        let line = profile.command_line(7, Path::new("/bin/x")).unwrap();
        let line: Vec<&str> = line.iter().map(|word| word.to_str().unwrap()).collect();
        let ["launch", "--parent", "7", "--profile", json, "--", "/bin/x"] = line[..] else {
            panic!("{line:?}")
        };
        assert_eq!(serde_json::from_str::<Profile>(json).unwrap(), profile);
        let unknown = r#"{"network": true, "missing": "warn", "memory": 1}"#;
        assert!(serde_json::from_str::<Profile>(unknown).is_err(), "a word nobody knows is no profile");
    }

    #[test]
    fn who_is_not_the_child_of_the_gateway_does_not_run() {
        let error = launch("{\"network\": true, \"missing\": \"refuse\"}", 1, Path::new("/bin/true"), &[]);
        assert!(matches!(error, LaunchError::Orphan), "{error}");
        let error = launch("[]", 1, Path::new("/bin/true"), &[]);
        assert!(matches!(error, LaunchError::Profile(_)), "{error}");
    }
}
