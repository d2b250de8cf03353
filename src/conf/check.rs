//! From the file's form to the checked configuration, with every mistake reported where it stands.
//! Not here: the form and the defaults (`raw`), credentials (`check/credentials.rs`).

mod credentials;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::raw::{RawConf, RawLimits, RawLog, RawLogFormat, RawRate, RawSession};
use super::{
    Access, AuditSink, Conf, Doors, Kinds, Limit, Limits, Listener, LogConf, LogFormat, Rate, SessionConf,
};
use crate::document::{At, Code, Period, Report, Size, Span, nearest};

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Threads beyond this are a mistyped number.
const THREADS_MAX: usize = 1024;

/// Turns a path of the configuration into one that does not depend on where it was written.
pub(super) type Locate<'a> = &'a dyn Fn(&At<String>, &Report) -> PathBuf;

/// Checks a decoded configuration in which every default was set. What is returned means nothing if something was
/// reported.
pub(super) fn check(raw: RawConf, locate: Locate<'_>, report: &mut Report) -> Conf {
    let mut checker = Checker { report };
    let listen = checker.listen(raw.listen);
    let hosts = checker.words(raw.hosts, host, "a host such as `mcp.example.com` or `mcp.example.com:8443`");
    let origins = checker.words(raw.origins, origin, "an origin such as `https://app.example.com`");
    let threads = raw.threads.unwrap_or_default();
    if !(1..=THREADS_MAX).contains(&threads.value) && !threads.span.eq(&Span::default()) {
        let message = format!("expected a whole number from 1 to {THREADS_MAX}");
        checker.report.add(threads.span, Code::InvalidValue, message);
    }
    let auth = checker.auth(raw.auth.unwrap_or_default());
    let limit = raw.limit.and_then(|limit| checker.rate(&limit));
    let limit = limit.map(|rate| Limit { rate: Some(rate), in_flight: None });
    let session = checker.session(raw.session.unwrap_or_default());
    let log = checker.log(raw.log.unwrap_or_default());
    let limits = checker.limits(&raw.limits.unwrap_or_default());
    Conf {
        listeners: vec![Listener {
            name: "main".into(),
            address: listen,
            doors: Doors::ALL,
            kinds: Kinds::ALL,
            networks: None,
            hosts,
            origins,
            public_url: None,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            tls: None,
            h2c: false,
        }],
        catalog: raw.catalog.map(|path| locate(&path, report)),
        state_dir: raw.state_dir.map(|path| locate(&path, report)).unwrap_or_default(),
        threads: threads.value,
        drain: raw.drain.map(|period| period.0).unwrap_or_default(),
        access: Access { auth, limit, ..Access::default() },
        session,
        log,
        limits,
    }
}

struct Checker<'a> {
    report: &'a mut Report,
}

impl Checker<'_> {
    fn listen(&mut self, raw: Option<At<String>>) -> SocketAddr {
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let Some(raw) = raw else { return nowhere };
        let text = raw.replacen("localhost:", "127.0.0.1:", 1);
        text.parse().unwrap_or_else(|_| {
            let message = "expected an address and a port, such as `127.0.0.1:4444` or `[::]:4444`";
            match text.strip_prefix(':').map(str::parse::<u16>) {
                Some(Ok(port)) => {
                    let advice = format!("did you mean `0.0.0.0:{port}`?");
                    self.report.advise(raw.span, Code::InvalidValue, message, advice);
                }
                _ => self.report.add(raw.span, Code::InvalidValue, message),
            }
            nowhere
        })
    }

    fn words(
        &mut self,
        raw: Option<Vec<At<String>>>,
        is_valid: fn(&str) -> bool,
        wanted: &str,
    ) -> Vec<String> {
        let raw = raw.unwrap_or_default();
        for word in raw.iter().filter(|word| !is_valid(word)) {
            self.report.add(word.span, Code::InvalidValue, format!("expected {wanted}"));
        }
        raw.into_iter().map(|word| word.value.to_ascii_lowercase()).collect()
    }

    fn rate(&mut self, raw: &At<RawRate>) -> Option<Rate> {
        if raw.requests.is_none() {
            self.missing(raw.span, "a limit needs `requests`");
        }
        if raw.per.is_none() {
            self.missing(raw.span, "a limit needs `per`, such as `1m`");
        }
        for zero in [&raw.requests, &raw.burst].into_iter().flatten().filter(|count| count.value == 0) {
            self.report.add(zero.span, Code::InvalidValue, "must be at least 1");
        }
        let per = self.positive(raw.per.as_ref());
        let requests = raw.requests.as_ref()?.value;
        Some(Rate { requests, per, burst: raw.burst.as_ref().map_or(requests, |burst| burst.value) })
    }

    fn session(&mut self, raw: RawSession) -> SessionConf {
        let ttl = self.positive(raw.ttl.as_ref());
        SessionConf { key: raw.key.and_then(|key| self.session_key(&key)), ttl }
    }

    fn log(&mut self, raw: RawLog) -> LogConf {
        let format = match raw.format.unwrap_or_default() {
            RawLogFormat::Auto => LogFormat::Auto,
            RawLogFormat::Text => LogFormat::Text,
            RawLogFormat::Json => LogFormat::Json,
        };
        let Some(level) = raw.level else {
            return LogConf { format, level: String::new(), audit: AuditSink::Stdout };
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
        LogConf { format, level: level.value, audit: AuditSink::Stdout }
    }

    fn limits(&mut self, raw: &RawLimits) -> Limits {
        Limits {
            body_bytes_max: self.size(raw.body.as_ref()),
            header_bytes_max: self.size(raw.headers.as_ref()),
            header_count_max: self.count(raw.header_count.as_ref()),
            uri_bytes_max: self.size(raw.uri.as_ref()),
            json_depth_max: self.depth(raw.json_depth.as_ref()),
            body_timeout: self.positive(raw.body_timeout.as_ref()),
            body_bytes_per_second_min: 256,
            header_timeout: Duration::from_secs(10),
            connections_max: 50_000,
            connections_per_address_max: 50_000,
            requests_per_connection_max: 100_000,
            h2_streams_max: 100,
            tokens_max: 100_000,
            keepalive: self.positive(raw.keepalive.as_ref()),
            write_timeout: self.positive(raw.write_timeout.as_ref()),
            in_flight_max: self.count(raw.in_flight.as_ref()),
            buckets_max: self.count(raw.buckets.as_ref()),
            line_bytes_max: self.size(raw.line.as_ref()),
            child_pending_max: self.count(raw.child_pending.as_ref()),
            child_queue_max: self.count(raw.child_queue.as_ref()),
            stderr_bytes_max: self.size(raw.stderr.as_ref()),
            idle_connections_max: self.count(raw.idle_connections.as_ref()),
            answer_bytes_max: self.size(raw.answer.as_ref()),
            tool_labels_max: self.count(raw.tool_labels.as_ref()),
        }
    }

    fn size(&mut self, raw: Option<&At<Size>>) -> usize {
        self.at_least_one(raw.map(|size| (size.0, size.span)))
    }

    fn count(&mut self, raw: Option<&At<usize>>) -> usize {
        self.at_least_one(raw.map(|count| (count.value, count.span)))
    }

    fn at_least_one(&mut self, raw: Option<(usize, Span)>) -> usize {
        let Some((value, span)) = raw else { return 0 };
        if value == 0 {
            self.report.add(span, Code::InvalidValue, "must be at least 1");
        }
        value
    }

    fn depth(&mut self, raw: Option<&At<usize>>) -> usize {
        // serde_json refuses more than 128 by itself.
        if let Some(deep) = raw.filter(|depth| depth.value > 128) {
            self.report.add(deep.span, Code::InvalidValue, "must be at most 128");
        }
        self.count(raw)
    }

    fn positive(&mut self, raw: Option<&At<Period>>) -> Duration {
        if let Some(zero) = raw.filter(|period| period.0.is_zero()) {
            self.report.add(zero.span, Code::InvalidValue, "must be longer than 0");
        }
        raw.map(|period| period.0).unwrap_or_default()
    }

    /// Reports that something required is absent, unless it was there and was itself wrong.
    fn missing(&mut self, span: Span, message: &str) {
        if !self.report.is_incomplete(span) {
            self.report.add(span, Code::Missing, message);
        }
    }
}

fn host(text: &str) -> bool {
    let authority = text.parse::<http::uri::Authority>();
    authority.is_ok_and(|authority| !authority.host().is_empty() && !text.contains(['@', '*']))
}

fn origin(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, rest)| {
        scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
            && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && host(rest)
    })
}
