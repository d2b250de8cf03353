//! From the file's form to the checked catalog, with every mistake reported where it stands.
//! Not here: the form (`raw`), reading files (`load`), runtimes, rules and limits (`check/`).

mod children;
mod client;
mod credential;
mod endpoint;
mod redundant;
mod rules;
mod runtime;
mod sandbox;
mod throttle;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Rules;
use super::model::{Health, HealthKind, Server, ServerId, Timeouts};
use super::raw::{RawCatalog, RawHealth, RawHealthKind, RawServer, RawTimeouts};
use crate::document::{At, Code, Lookup, Period, Report, Span};

/// Checks a decoded catalog. What is returned means nothing if something was reported.
pub(super) fn check(
    raw: RawCatalog,
    base_dir: &Path,
    lookup: Lookup<'_>,
    report: &mut Report,
) -> (Vec<Arc<Server>>, Rules) {
    let mut checker = Checker { report, base_dir, lookup };
    let mut servers: Vec<Arc<Server>> = Vec::new();
    let mut lines: HashMap<ServerId, Span> = HashMap::new();
    let mut drafts = Vec::new();
    for (index, server) in raw.servers.unwrap_or_default().into_iter().enumerate() {
        drafts.push((Form::Listed(index), server));
    }
    for (id, server) in raw.mcp_servers.unwrap_or_default().0 {
        let span = server.span;
        if let Some(value) = client::into_server(&id, server, checker.report) {
            drafts.push((Form::Client, At { value, span }));
        }
    }
    for (form, server) in drafts {
        let id = checker.id(form, &server);
        if let Some((id, at)) = &id
            && let first = *lines.entry(id.clone()).or_insert(*at)
            && first != *at
        {
            let first = checker.report.line(first);
            checker.report.advise(
                *at,
                Code::DuplicateId,
                format!("Duplicate server ID: {id}"),
                format!("first given in line {first}"),
            );
        }
        // A wrong id hides no other mistake of its server.
        servers.extend(checker.server(id.map(|(id, _)| id), form, server).map(Arc::new));
    }
    let ids: Vec<&str> = lines.keys().map(ServerId::as_str).collect();
    let rules = rules::check(raw.rules, &ids, checker.report);
    (servers, rules)
}

/// In which of the two forms a server was written; mistakes speak its words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// In `servers`, at that index.
    Listed(usize),
    /// In `mcpServers`.
    Client,
}

struct Checker<'a> {
    report: &'a mut Report,
    base_dir: &'a Path,
    lookup: Lookup<'a>,
}

impl Checker<'_> {
    fn id(&mut self, form: Form, server: &At<RawServer>) -> Option<(ServerId, Span)> {
        let Some(id) = &server.id else {
            if let Form::Listed(index) = form {
                self.missing(server.span, format!("Server at index {index} missing required field: id"));
            }
            return None;
        };
        let checked = ServerId::new(id);
        if checked.is_none() {
            let rule = "1 to 64 of A-Z a-z 0-9 . _ ~ -, beginning with a letter or digit";
            let message = format!("server id '{}' is not URL-safe", id.value);
            self.report.advise(id.span, Code::InvalidValue, message, rule);
        }
        checked.map(|checked| (checked, id.span))
    }

    fn server(&mut self, id: Option<ServerId>, form: Form, raw: At<RawServer>) -> Option<Server> {
        let At { value: mut raw, span } = raw;
        let name = match (&raw.id, form) {
            (Some(id), _) => id.value.clone(),
            (None, Form::Listed(index)) => format!("#{index}"),
            (None, Form::Client) => String::new(),
        };
        let enabled = raw.enabled.unwrap_or(true);
        let Some(runtime) = raw.runtime.take() else {
            self.missing(span, format!("Server '{name}' missing required field: runtime"));
            return None;
        };
        let runtime = self.runtime(&name, form, runtime, &mut raw)?;
        let timeouts = self.timeouts(&raw.timeouts.take().unwrap_or_default());
        let balance = self.balance(&raw, &runtime);
        let breaker = self.breaker(raw.breaker.take(), &runtime);
        let retry = self.retry(raw.retry.take(), &runtime);
        let (throttle, tools) = self.throttle(&mut raw, &runtime, &timeouts, enabled);
        let id = id?;
        Some(Server {
            display_name: raw.display_name.unwrap_or_else(|| id.to_string()),
            description: raw.description,
            enabled,
            required: raw.required.unwrap_or(false),
            tags: raw.tags.unwrap_or_default(),
            metadata: raw.metadata.unwrap_or_default(),
            runtime,
            timeouts,
            balance,
            breaker,
            retry,
            throttle,
            tools,
            id,
        })
    }

    fn timeouts(&mut self, raw: &RawTimeouts) -> Timeouts {
        Timeouts {
            connect: self.positive(raw.connect.as_ref(), 5),
            initialize: self.positive(raw.initialize.as_ref(), 30),
            response: self.positive(raw.response.as_ref(), 120),
            idle: self.positive(raw.idle.as_ref(), 120),
            total: self.positive(raw.total.as_ref(), 600),
            start: self.positive(raw.start.as_ref(), 30),
        }
    }

    fn health(&mut self, raw: Option<At<RawHealth>>) -> Health {
        let At { value: raw, span } = raw.unwrap_or_default();
        let kind = raw.kind.as_ref().map_or(RawHealthKind::default(), |kind| kind.value);
        if kind != RawHealthKind::Http {
            self.no_effect(raw.path.as_ref(), "path", "a health check that is not of type http");
            self.no_effect(raw.status.as_ref(), "status", "a health check that is not of type http");
        }
        if kind != RawHealthKind::Mcp {
            self.no_effect(raw.tool.as_ref(), "tool", "a health check that is not of type mcp");
        }
        if let Some(at) = raw.status.as_ref().filter(|status| !(100..600).contains(&status.value)) {
            self.report.add(at.span, Code::InvalidValue, "expected a status from 100 to 599");
        }
        if kind == RawHealthKind::Off {
            self.no_effect(raw.timeout.as_ref(), "timeout", "a health check of type off");
            self.no_effect(raw.unhealthy_after.as_ref(), "unhealthy_after", "a health check of type off");
            self.no_effect(raw.healthy_after.as_ref(), "healthy_after", "a health check of type off");
        }
        let kind = match (kind, &raw.path) {
            (RawHealthKind::Off, _) => HealthKind::Off,
            (RawHealthKind::Tcp, _) => HealthKind::Tcp,
            (RawHealthKind::Mcp, _) => {
                HealthKind::Mcp { tool: raw.tool.as_ref().map(|tool| tool.value.clone()) }
            }
            (RawHealthKind::Http, Some(path)) => {
                if !path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err() {
                    self.report.add(path.span, Code::InvalidValue, "expected a path that begins with `/`");
                }
                HealthKind::Http { path: path.value.clone(), status: raw.status.as_ref().map(|at| at.value) }
            }
            (RawHealthKind::Http, None) => {
                self.missing(span, "a health check of type http needs a path");
                HealthKind::Tcp
            }
        };
        Health {
            kind,
            interval: self.positive(raw.interval.as_ref(), 5),
            timeout: self.positive(raw.timeout.as_ref(), 2),
            unhealthy_after: self.count(raw.unhealthy_after.as_ref(), 2),
            healthy_after: self.count(raw.healthy_after.as_ref(), 1),
        }
    }

    fn positive(&mut self, raw: Option<&At<Period>>, default_seconds: u64) -> Duration {
        if let Some(zero) = raw.filter(|period| period.0.is_zero()) {
            self.report.add(zero.span, Code::InvalidValue, "must be longer than 0");
        }
        raw.map_or(Duration::from_secs(default_seconds), |period| period.0)
    }

    fn count(&mut self, raw: Option<&At<u16>>, default: u16) -> u16 {
        if let Some(zero) = raw.filter(|count| count.value == 0) {
            self.report.add(zero.span, Code::InvalidValue, "must be at least 1");
        }
        raw.map_or(default, |count| count.value)
    }

    fn no_effect<T>(&mut self, raw: Option<&At<T>>, key: &str, on: &str) {
        if let Some(at) = raw {
            self.report.add(at.span, Code::NoEffect, format!("`{key}` has no effect on {on}"));
        }
    }

    /// Reports that something required is absent, unless it was there and was itself wrong.
    fn missing(&mut self, span: Span, message: impl Into<String>) {
        if !self.report.is_incomplete(span) {
            self.report.add(span, Code::Missing, message);
        }
    }
}
