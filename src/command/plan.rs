//! `tollgate plan`: what a changed catalog would give and take from whom, and what it would stop and start.
//! Not here: the comparison of permissions (`auth`); a reload itself (`control`).

use std::fmt::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{Done, Files, Format, check, print, print_json};
use crate::app;
use crate::auth::{self, Change, Given};
use crate::catalog::{Runtime, Server, ServerId, Snapshot};
use crate::conf::{self, Conf};

/// Compares the catalog of the configuration with the one at `to`.
pub(super) fn plan(files: Files, to: &Path, format: Format) -> Done {
    let loaded = files.load().map_err(|mistakes| check::report(&mistakes))?;
    let old = app::check(&loaded.conf, conf::environment()).map_err(|mistakes| check::report(&mistakes))?;
    let new = app::check_file(to, conf::environment()).map_err(|mistakes| check::report(&mistakes))?;
    let plan = Plan::new(&loaded.conf, &old, &new);
    match format {
        Format::Text => print(&plan.to_string())?,
        Format::Json => print_json(&plan.json())?,
    };
    Ok(ExitCode::SUCCESS)
}

/// What a changed catalog would do.
struct Plan {
    servers: Vec<(char, ServerId, String)>,
    rules: bool,
    changes: Vec<Change>,
}

impl Plan {
    fn new(conf: &Conf, old: &Snapshot, new: &Snapshot) -> Self {
        let changed = new.changes_since(old);
        let find = |snapshot: &Snapshot, id: &ServerId| {
            snapshot.servers.iter().find(|server| server.id == *id).cloned()
        };
        let mut servers = Vec::new();
        servers.extend(changed.added.iter().map(|id| ('+', id.clone(), "is new".to_owned())));
        for id in &changed.modified {
            if let (Some(old), Some(new)) = (find(old, id), find(new, id)) {
                servers.push(('~', id.clone(), difference(&old, &new)));
            }
        }
        for id in &changed.removed {
            let local = find(old, id).is_some_and(|server| matches!(server.runtime, Runtime::Local(_)));
            let what = if local { "goes; its processes end with their last call" } else { "goes" };
            servers.push(('-', id.clone(), what.to_owned()));
        }
        let mut callers = auth::roster(&conf.access.auth);
        callers.extend(auth::tokens(&conf.access.auth, &[&old.rules, &new.rules]));
        Self { servers, rules: changed.rules, changes: auth::plan(old, new, &callers) }
    }

    fn json(&self) -> Value {
        let given = |given: &Given| match given {
            Given::No => json!({"answer": "no"}),
            Given::Yes(rule) => json!({"answer": "yes", "rule": rule}),
            Given::Scopes(scopes) => json!({"answer": "scopes", "scopes": scopes}),
        };
        let servers = self.servers.iter().map(|(mark, id, what)| {
            let change = match mark {
                '+' => "added",
                '-' => "removed",
                _ => "changed",
            };
            json!({"server": id.as_str(), "change": change, "what": what})
        });
        let changes = self.changes.iter().map(|change| {
            json!({"caller": change.caller, "what": change.what, "before": given(&change.before), "after": given(&change.after)})
        });
        json!({"servers": servers.collect::<Vec<_>>(), "rules_changed": self.rules, "permissions": changes.collect::<Vec<_>>()})
    }
}

/// What is different about a server, as far as it can be felt.
fn difference(old: &Server, new: &Server) -> String {
    let mut parts = Vec::new();
    match (old.enabled, new.enabled) {
        (true, false) => parts.push("is disabled"),
        (false, true) => parts.push("is enabled"),
        _ => {}
    }
    let is_local = |server: &Server| matches!(server.runtime, Runtime::Local(_));
    if old.runtime != new.runtime {
        parts.push(match (is_local(old), is_local(new)) {
            (true, true) => "its processes restart",
            (true, false) => "its processes end: it becomes remote",
            (false, true) => "it becomes a local process",
            (false, false) => "its connections are made anew",
        });
    }
    if old.throttle != new.throttle {
        parts.push("its limits change");
    }
    if old.timeouts != new.timeouts {
        parts.push("its timeouts change");
    }
    if parts.is_empty() {
        parts.push("changes in what is said about it");
    }
    parts.join("; ")
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (mark, id, what) in &self.servers {
            writeln!(f, "{mark} server {id}: {what}")?;
        }
        for Change { caller, what, before, after } in &self.changes {
            let (mark, note) = match (before, after) {
                (_, Given::Yes(rule)) => ('+', by(rule.as_ref())),
                (Given::No, Given::Scopes(scopes)) => ('+', format!("with the scopes {scopes}")),
                (Given::Yes(_), Given::Scopes(scopes)) => ('-', format!("without the scopes {scopes}")),
                (Given::Scopes(_), Given::Scopes(scopes)) => ('~', format!("now with the scopes {scopes}")),
                (Given::Yes(rule), Given::No) => ('-', by(rule.as_ref())),
                (Given::Scopes(_) | Given::No, Given::No) => ('-', String::new()),
            };
            let mut line = format!("{mark} {caller}: {what}");
            if !note.is_empty() {
                write!(line, " ({note})")?;
            }
            writeln!(f, "{line}")?;
        }
        let nobody = self.changes.is_empty();
        match (nobody, self.rules) {
            (false, _) => Ok(()),
            (true, true) => f.write_str("the rules change, and nothing for anybody known\n"),
            (true, false) => f.write_str("nothing changes for anybody known\n"),
        }
    }
}

fn by(rule: Option<&String>) -> String {
    rule.map_or_else(String::new, |name| format!("rule {name}"))
}

#[cfg(test)]
mod tests;
