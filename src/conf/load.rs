//! Finds the configuration and puts its layers together.
//! Not here: what each layer says (`layer`), what is accepted (`check`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access, geteuid};
use serde_json::Value as Json;

use super::raw::RawConf;
use super::{Conf, Effective, check, layer};
use crate::document::{At, Code, Document, Mistake, Mistakes, Report};

/// A configuration file, in bytes; the reference with every comment is a hundredth of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where values may come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file of `-c`; otherwise `TOLLGATE_CONFIG`, or the first that exists of the usual places.
    pub file: Option<PathBuf>,
    /// The environment, as [`super::environment`] tells it.
    pub env: Vec<(String, String)>,
    /// Flags of the command line.
    pub flags: Flags,
}

/// Flags of the command line; `None` where one was not given.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--listen`.
    pub listen: Option<String>,
    /// `--catalog`, relative to the working directory.
    pub catalog: Option<PathBuf>,
    /// `--state-dir`, relative to the working directory.
    pub state_dir: Option<PathBuf>,
    /// `--bridge`, relative to the working directory.
    pub bridge: Option<PathBuf>,
    /// `--log-level`.
    pub log_level: Option<String>,
    /// `--log-format`.
    pub log_format: Option<String>,
}

/// A configuration that was accepted.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What the gateway works with.
    pub conf: Conf,
    /// Every setting and where it came from, for people.
    pub effective: Effective,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// What is accepted and yet hardly meant.
    pub warnings: Mistakes,
}

/// Puts the layers together and checks the result.
///
/// # Errors
/// Every mistake in the file, the environment and the flags.
pub fn load(sources: Sources) -> Result<Loaded, Mistakes> {
    load_in(Path::new(""), sources)
}

/// As [`load`], with another working directory.
pub(super) fn load_in(dir: &Path, sources: Sources) -> Result<Loaded, Mistakes> {
    let env: HashMap<&str, &str> =
        sources.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let places = Places { dir, env: &env };
    let given = sources.file.or_else(|| places.variable("TOLLGATE_CONFIG").map(PathBuf::from));
    let file = given.or_else(|| places.config());
    let mut document = match &file {
        Some(path) => Document::parse(&path.display().to_string(), &read(&dir.join(path))?),
        None => Document::parse("tollgate.yaml", ""),
    };
    document.expand(&|name| env.get(name).map(|value| (*value).to_owned()));
    layer::set_variables(&mut document, &sources.env);
    set_flags(&mut document, &sources.flags);
    set_defaults(&mut document, &places);
    let raw: RawConf = document.decode();
    let locate = |at: &At<String>, report: &Report| places.locate(at, report, file.as_deref());
    let conf = check::check(raw, dir, &locate, &mut document.report);
    let effective = Effective::new(&document);
    let warnings = document.report.finish()?;
    Ok(Loaded { conf, effective, file, warnings })
}

fn set_flags(document: &mut Document, flags: &Flags) {
    let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    for (flag, path, value) in [
        ("--listen", "listen", flags.listen.clone()),
        ("--catalog", "catalog", text(&flags.catalog)),
        ("--state-dir", "state_dir", text(&flags.state_dir)),
        ("--bridge", "bridge", text(&flags.bridge)),
        ("--log-level", "log.level", flags.log_level.clone()),
        ("--log-format", "log.format", flags.log_format.clone()),
    ] {
        if let Some(value) = value {
            layer::set_flag(document, flag, path, &value);
        }
    }
}

fn set_defaults(document: &mut Document, places: &Places<'_>) {
    let has_listeners = layer::find(&document.root, "listeners").is_some_and(|node| !node.is_null());
    for setting in layer::settings() {
        // Several listeners stand instead of the one.
        if has_listeners && setting.path == "listen" {
            continue;
        }
        if let Some(value) = &setting.default {
            layer::set_default(document, &setting.path, value);
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    layer::set_default(document, "threads", &Json::from(cores));
    layer::set_default(document, "state_dir", &Json::from(places.state_dir().display().to_string()));
    if let Some(path) = places.catalog() {
        layer::set_default(document, "catalog", &Json::from(path.display().to_string()));
    }
}

fn read(path: &Path) -> Result<String, Mistakes> {
    use std::io::Read;
    let refuse =
        |code, message: String| Err(Mistakes::one(Mistake::whole(path.display().to_string(), code, message)));
    let mut bytes = Vec::new();
    let result =
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    if let Err(error) = result {
        return refuse(Code::Unreadable, format!("cannot read the configuration: {error}"));
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return refuse(Code::TooLarge, "cannot read the configuration: larger than 1 MiB".to_owned());
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(_) => refuse(Code::Unreadable, "cannot read the configuration: not UTF-8".to_owned()),
    }
}

/// The usual places of this machine and user.
struct Places<'a> {
    dir: &'a Path,
    env: &'a HashMap<&'a str, &'a str>,
}

impl Places<'_> {
    fn variable(&self, name: &str) -> Option<&str> {
        self.env.get(name).copied().filter(|value| !value.is_empty())
    }

    /// A directory of the XDG specification, which says that relative ones are to be ignored.
    fn xdg(&self, name: &str, under_home: &str) -> Option<PathBuf> {
        let given = self.variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        given.or_else(|| self.variable("HOME").map(|home| Path::new(home).join(under_home)))
    }

    fn first(&self, candidates: Vec<Option<PathBuf>>) -> Option<PathBuf> {
        candidates.into_iter().flatten().find(|path| self.dir.join(path).is_file())
    }

    fn config(&self) -> Option<PathBuf> {
        let xdg = self.xdg("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("tollgate/tollgate.yaml"));
        let here = Some(PathBuf::from("tollgate.yaml"));
        let below = Some(PathBuf::from("conf/tollgate.yaml"));
        self.first(vec![here, below, xdg, Some(PathBuf::from("/etc/tollgate/tollgate.yaml"))])
    }

    fn catalog(&self) -> Option<PathBuf> {
        let xdg = self.xdg("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("tollgate/catalog.yaml"));
        self.first(vec![
            Some(PathBuf::from("catalog.yaml")),
            xdg,
            Some(PathBuf::from("/etc/tollgate/catalog.yaml")),
        ])
    }

    fn state_dir(&self) -> PathBuf {
        let system = PathBuf::from("/var/lib/tollgate");
        if let Some(dir) = self.variable("XDG_STATE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute())
        {
            return dir.join("tollgate");
        }
        let existing = if system.is_dir() { system.as_path() } else { Path::new("/var/lib") };
        if geteuid().is_root() && access(existing, AccessFlags::W_OK).is_ok() {
            return system;
        }
        self.variable("HOME").map_or(system, |home| Path::new(home).join(".local/state/tollgate"))
    }

    /// A path in the file is relative to the file; elsewhere it is relative to the working directory.
    fn locate(&self, at: &At<String>, report: &Report, file: Option<&Path>) -> PathBuf {
        if let (Some(rest), Some(home)) = (at.strip_prefix("~/"), self.variable("HOME")) {
            return Path::new(home).join(rest);
        }
        let is_from_file = report.source(at.span.source).is_some_and(|source| source.is_file());
        let base = file.filter(|_| is_from_file).and_then(Path::parent).unwrap_or(Path::new(""));
        base.join(&at.value)
    }
}
