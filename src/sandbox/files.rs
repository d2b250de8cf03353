//! Rules of the kernel's Landlock: files, TCP, and who can be reached by signals and abstract sockets.
//! Not here: owners and modes of files, which hold as well.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope, make_bitflags,
};

use super::{LaunchError, Paths, Profile};

/// Older ones cannot keep a program from cutting files short that it may not write.
const ENOUGH: ABI = ABI::V3;
/// The newest whose rules were tried out.
const KNOWN: ABI = ABI::V6;

/// Programs and libraries of the system.
const SYSTEM: [&str; 8] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/alternatives"];
/// What libraries look up to load, to name, to connect and to trust. Not all of `/etc`: secrets stand there as well, and a
/// server of the gateway's own user could read those of the gateway.
const SETTINGS: [&str; 27] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/protocols",
    "/etc/services",
    "/etc/passwd",
    "/etc/group",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/locale.alias",
    "/etc/os-release",
    "/etc/mime.types",
    "/etc/fonts",
    "/etc/magic",
    "/etc/ssl/openssl.cnf",
    "/etc/ssl/certs",
    "/etc/ca-certificates",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/openssl.cnf",
    "/etc/pki/ca-trust/extracted",
];
/// Facts about the machine and about itself, which runtimes ask for when they start. Not all of `/proc`: it shows what
/// others run.
const FACTS: [&str; 11] = [
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/version",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/filesystems",
    "/proc/sys",
    "/sys/devices/system/cpu",
    "/sys/kernel/mm/transparent_hugepage",
];
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// To read and to execute.
const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{Execute | ReadFile | ReadDir});
/// To make device files is nobody's business.
const DEVICE_FILES: BitFlags<AccessFs> = make_bitflags!(AccessFs::{MakeChar | MakeBlock});

/// Whether this kernel has rules for TCP.
pub(super) fn denies_tcp() -> bool {
    let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    rules.handle_access(AccessNet::from_all(ABI::V4)).and_then(Ruleset::create).is_ok()
}

/// Whether this kernel has rules for files that hold.
fn denies_files() -> bool {
    let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    rules.handle_access(AccessFs::from_all(ENOUGH)).and_then(Ruleset::create).is_ok()
}

/// Closes everything that the profile does not open. Needs a process that gave up new privileges.
pub(super) fn close(profile: &Profile, program: &Path) -> Result<(), LaunchError> {
    if profile.paths.is_some() && !denies_files() {
        profile.miss("read, write: this kernel has no rules for files (Landlock, Linux 6.2)")?;
    }
    let wrong = |error: RulesetError| LaunchError::Refused {
        what: "cannot set rules for files".to_owned(),
        source: io::Error::other(error.to_string()),
    };
    // Signals and abstract sockets are not promised: kernels before 6.12 cannot. Nothing else is at stake with them.
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::from_all(KNOWN))
        .map_err(wrong)?;
    if profile.paths.is_some() {
        rules = rules.handle_access(AccessFs::from_all(KNOWN)).map_err(wrong)?;
    }
    if !profile.network {
        rules = rules.handle_access(AccessNet::from_all(KNOWN)).map_err(wrong)?;
    }
    let mut rules = rules.create().map_err(wrong)?;
    if let Some(paths) = &profile.paths {
        rules = open(rules, paths, program)?;
    }
    rules.restrict_self().map(|_| ()).map_err(wrong)
}

/// Opens the system, the program and what the profile names.
fn open(mut rules: RulesetCreated, paths: &Paths, program: &Path) -> Result<RulesetCreated, LaunchError> {
    let all = AccessFs::from_all(KNOWN);
    for path in SYSTEM.iter().map(Path::new).filter(|path| path.exists()) {
        rules = allow(rules, path, READ)?;
    }
    for path in SETTINGS.iter().chain(&FACTS).map(Path::new).filter(|path| path.exists()) {
        rules = allow(rules, path, make_bitflags!(AccessFs::{ReadFile | ReadDir}))?;
    }
    for path in DEVICES.iter().map(Path::new).filter(|path| path.exists()) {
        rules = allow(rules, path, make_bitflags!(AccessFs::{ReadFile | WriteFile}))?;
    }
    // A link's own directory is not needed to follow it.
    rules = allow(rules, program, READ)?;
    if let Some(interpreter) = interpreter(program) {
        rules = allow(rules, &interpreter, READ)?;
    }
    for path in &paths.read {
        rules = allow(rules, path, READ)?;
    }
    for path in &paths.write {
        rules = allow(rules, path, all & !DEVICE_FILES & !AccessFs::Execute)?;
    }
    Ok(rules)
}

fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, LaunchError> {
    let what = || format!("cannot open {}", path.display());
    let file = fs::metadata(path).map_err(LaunchError::refused(what()))?;
    let access = if file.is_dir() { access } else { access & AccessFs::from_file(KNOWN) };
    let failed = |error: String| LaunchError::Refused { what: what(), source: io::Error::other(error) };
    let opened = PathFd::new(path).map_err(|error| failed(error.to_string()))?;
    rules.add_rule(PathBeneath::new(opened, access)).map_err(|error| failed(error.to_string()))
}

/// The interpreter that the first line of a script names, if it does so by its path.
fn interpreter(program: &Path) -> Option<PathBuf> {
    use std::io::Read as _;
    // The kernel reads no further (BINPRM_BUF_SIZE).
    let mut head = [0u8; 256];
    let read = fs::File::open(program).and_then(|mut file| file.read(&mut head)).ok()?;
    let line = head.get(..read)?.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let word = std::str::from_utf8(line).ok()?.split_whitespace().next()?;
    Some(PathBuf::from(word)).filter(|path| path.is_absolute() && path.exists())
}
