//! From the file's form to the checked configuration, with every mistake reported where it stands.
//! Not here: the form and the defaults (`raw`), credentials, listeners and limits (`check/`).

mod credentials;
mod issuer;
mod limit;
mod listener;
mod secret;
mod tls;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use tracing_subscriber::EnvFilter;

use super::layer::DEFAULT;
use super::raw::{RawConf, RawListener, RawLog, RawLogFormat, RawResume, RawSession};
use super::{
    Access, AuditSink, Conf, Limit, LogConf, LogFormat, Resume, SERVER_URL_WANTED, SessionConf, server_url,
};
use crate::document::{At, Code, Period, Report, Span, nearest};

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Threads beyond this are a mistyped number.
const THREADS_MAX: usize = 1024;

/// Names stand in every log line.
const NAME_CHARS_MAX: usize = 64;

/// Turns a path of the configuration into one that does not depend on where it was written.
pub(super) type Locate<'a> = &'a dyn Fn(&At<String>, &Report) -> PathBuf;

/// Checks a decoded configuration in which every default was set. Files are looked for below `dir`. What is returned
/// means nothing if a mistake was reported.
pub(super) fn check(mut raw: RawConf, dir: &Path, locate: Locate<'_>, report: &mut Report) -> Conf {
    let mut checker = Checker {
        report,
        dir,
        locate,
        classes: BTreeMap::new(),
        classes_used: HashSet::new(),
        without_audience: Vec::new(),
        certificates: None,
    };
    let threads = raw.threads.take().unwrap_or_default();
    if !(1..=THREADS_MAX).contains(&threads.value) && !threads.span.eq(&Span::default()) {
        let message = format!("expected a whole number from 1 to {THREADS_MAX}");
        checker.report.add(threads.span, Code::InvalidValue, message);
    }
    let access = checker.access(&mut raw);
    let several = raw.listeners.take();
    let single = RawListener {
        name: None,
        listen: raw.listen,
        doors: raw.doors,
        kinds: raw.kinds,
        networks: raw.networks,
        hosts: raw.hosts,
        origins: raw.origins,
        public_url: raw.public_url,
        trusted_proxies: raw.trusted_proxies,
        proxy_protocol: raw.proxy_protocol,
        tls: raw.tls,
        h2c: raw.h2c,
    };
    let listeners = checker.listeners(single, several, &access.auth);
    let session = checker.session(raw.session.unwrap_or_default());
    let log = checker.log(raw.log.unwrap_or_default());
    let raw_limits = raw.limits.unwrap_or_default();
    let (limits, bounds) = (checker.limits(&raw_limits), checker.bounds(&raw_limits));
    Conf {
        listeners,
        catalog: raw.catalog.map(|path| checker.path(&path)),
        state_dir: raw.state_dir.map(|path| checker.path(&path)).unwrap_or_default(),
        bridge: raw.bridge.map(|path| checker.path(&path)),
        threads: threads.value,
        drain: raw.drain.map(|period| period.0).unwrap_or_default(),
        drain_delay: raw.drain_delay.map(|period| period.0).unwrap_or_default(),
        access,
        session,
        log,
        limits,
        bounds,
    }
}

struct Checker<'a> {
    report: &'a mut Report,
    dir: &'a Path,
    locate: Locate<'a>,
    classes: BTreeMap<String, Limit>,
    classes_used: HashSet<String>,
    /// Issuers that rely on the addresses of doors.
    without_audience: Vec<Span>,
    /// The first caller by certificate.
    certificates: Option<Span>,
}

impl Checker<'_> {
    /// Who may come in and how often. Limits before credentials, which refer to them.
    fn access(&mut self, raw: &mut RawConf) -> Access {
        let limit = raw.limit.take().and_then(|limit| self.limit(&limit));
        let address_limit = raw.address_limit.take().and_then(|rate| self.rate(&rate));
        let flood = raw.flood.take().map(|flood| self.at_least_one(Some((flood.value, flood.span))));
        let classes = raw.limit_classes.take().unwrap_or_default().0;
        for (name, class) in &classes {
            self.name(name);
            let limit = self.limit(class).unwrap_or_default();
            self.classes.insert(name.value.clone(), limit);
        }
        let auth = self.auth(raw.auth.take().unwrap_or_default());
        let is_claimed = auth.issuers.iter().any(|issuer| issuer.claims.limit_class.is_some());
        for (name, _) in
            classes.iter().filter(|(name, _)| !is_claimed && !self.classes_used.contains(&name.value))
        {
            let advice = "name it in `limit_class` of a credential, or in `claims.limit_class` of an issuer";
            self.report.warn_advise(name.span, Code::Unused, "a class that no credential uses", advice);
        }
        Access { auth, limit, classes: self.classes.clone(), address_limit, flood }
    }

    fn path(&self, raw: &At<String>) -> PathBuf {
        (self.locate)(raw, self.report)
    }

    /// Whether nobody said it.
    fn is_default(&self, span: Span) -> bool {
        self.report.source(span.source).is_some_and(|source| source.name() == DEFAULT)
    }

    fn name(&mut self, name: &At<String>) {
        let is_name = !name.trim().is_empty()
            && name.chars().count() <= NAME_CHARS_MAX
            && !name.chars().any(char::is_control);
        if !is_name {
            let message = format!("expected a name of 1 to {NAME_CHARS_MAX} visible characters");
            self.report.add(name.span, Code::InvalidValue, message);
        }
    }

    fn unique<K: std::hash::Hash + Eq>(
        &mut self,
        seen: &mut HashMap<K, Span>,
        key: K,
        span: Span,
        message: &str,
    ) {
        if seen.insert(key, span).is_some() {
            self.report.add(span, Code::Conflict, message);
        }
    }

    /// An address of a server that others ask or name: `https`, or `http` on loopback; without user information.
    fn server_url(&mut self, raw: &At<String>) -> Option<Uri> {
        let found = server_url(raw);
        if found.is_none() {
            self.report.add(raw.span, Code::InvalidValue, SERVER_URL_WANTED);
        }
        found
    }

    fn session(&mut self, raw: RawSession) -> SessionConf {
        let ttl = self.positive(raw.ttl.as_ref());
        let resume = match raw.resume.as_ref().map(|resume| (resume.value, resume.span)) {
            None | Some((RawResume::Off, _)) => Resume::Off,
            Some((RawResume::Memory, _)) => Resume::Memory,
            Some((RawResume::Store, span)) => {
                let message = "`store` needs the store, which this version does not have";
                self.report.advise(
                    span,
                    Code::InvalidValue,
                    message,
                    "use `memory`, on one gateway or with clients that keep to theirs",
                );
                Resume::Off
            }
        };
        SessionConf { key: raw.key.and_then(|key| self.session_key(&key)), ttl, resume }
    }

    fn log(&mut self, raw: RawLog) -> LogConf {
        let format = match raw.format.unwrap_or_default() {
            RawLogFormat::Auto => LogFormat::Auto,
            RawLogFormat::Text => LogFormat::Text,
            RawLogFormat::Json => LogFormat::Json,
        };
        let audit = match raw.audit.as_ref() {
            None => AuditSink::Stdout,
            Some(sink) => self.audit(sink),
        };
        let Some(level) = raw.level else {
            return LogConf { format, level: String::new(), audit };
        };
        // To the filter a mistyped level is the name of a target, for which it would be silent.
        let is_word = level.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let lower = level.to_ascii_lowercase();
        let is_valid =
            if is_word { LEVELS.contains(&lower.as_str()) } else { level.parse::<EnvFilter>().is_ok() };
        if !is_valid {
            let message = "expected a level (`error`, `warn`, `info`, `debug`, `trace`, `off`) or a filter";
            match nearest(&lower, LEVELS) {
                Some(near) => {
                    let advice = format!("did you mean `{near}`?");
                    self.report.advise(level.span, Code::InvalidValue, message, advice);
                }
                None => self.report.add(level.span, Code::InvalidValue, message),
            }
        }
        LogConf { format, level: level.value, audit }
    }

    fn positive(&mut self, raw: Option<&At<Period>>) -> Duration {
        if let Some(zero) = raw.filter(|period| period.0.is_zero()) {
            self.report.add(zero.span, Code::InvalidValue, "must be longer than 0");
        }
        raw.map(|period| period.0).unwrap_or_default()
    }

    fn audit(&mut self, raw: &At<String>) -> AuditSink {
        match raw.as_str() {
            "stdout" => AuditSink::Stdout,
            "off" => AuditSink::Off,
            _ => {
                let path = self.path(raw);
                let full = self.dir.join(&path);
                // The parent of a bare file name is the empty path, which stands for the working directory.
                let is_there = |parent: &Path| parent.as_os_str().is_empty() || parent.is_dir();
                if full.is_dir() || !full.parent().is_some_and(is_there) {
                    let message = "expected `stdout`, `off`, or a file in a directory that is there";
                    self.report.add(raw.span, Code::NotFound, message);
                }
                AuditSink::File(path)
            }
        }
    }

    /// Reports that something required is absent, unless it was there and was itself wrong.
    fn missing(&mut self, span: Span, message: &str) {
        if !self.report.is_incomplete(span) {
            self.report.add(span, Code::Missing, message);
        }
    }
}
