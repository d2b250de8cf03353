//! Servers' settings as they may be shown: without what could be a secret.
//! Not here: which settings there are (`catalog`).
//!
//! Header values are always hidden. An environment variable or an argument is shown unless its name or its form
//! suggests a secret; hiding too much costs a look into the file, showing too much costs the secret.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::stats::rfc3339;
use crate::bridge::{Population, State, Status};
use crate::catalog::Runtime;
use crate::upstream::{EndpointState, EndpointStatus};

const HIDDEN: &str = "***";
/// Parts of names that suggest a secret.
const SECRET_WORDS: [&str; 12] = [
    "key",
    "token",
    "secret",
    "pass",
    "pwd",
    "auth",
    "cred",
    "private",
    "cookie",
    "session",
    "signature",
    "dsn",
];

/// A runtime as the file says it, redacted.
pub(super) fn runtime(runtime: &Runtime, kind: &str) -> Value {
    match runtime {
        Runtime::Local(local) => {
            json!({"type": kind, "command": local.command, "args": arguments(&local.args)})
        }
        Runtime::Remote(remote) => {
            let mut shown = Map::new();
            shown.insert("type".into(), kind.into());
            match remote.endpoints.as_slice() {
                [only] => drop(shown.insert("url".into(), url(&only.url).into())),
                several => {
                    let list = several.iter().map(|e| json!({"url": url(&e.url), "weight": e.weight}));
                    shown.insert("endpoints".into(), list.collect());
                }
            }
            if !remote.headers.is_empty() {
                let names = remote.headers.keys().map(|name| (name.to_string(), HIDDEN.into()));
                shown.insert("headers".into(), Value::Object(names.collect()));
            }
            shown.into()
        }
    }
}

/// An environment, redacted.
pub(super) fn environment(env: &BTreeMap<String, String>) -> Value {
    let shown = env.iter().map(|(name, value)| {
        let hide = suggests_secret(name) || holds_secret(value);
        (name.clone(), if hide { HIDDEN.into() } else { value.as_str().into() })
    });
    Value::Object(shown.collect())
}

/// The processes of a local server.
pub(super) fn process(status: &Status) -> Value {
    let state = match status.state {
        State::Stopped => "stopped",
        State::Starting => "starting",
        State::Running => "running",
        State::Stopping => "stopping",
        State::Failed => "failed",
        State::Unknown => "unknown",
    };
    let Population { warm, starting, ready, ending } = status.population;
    let ends: Vec<Value> = status
        .ends
        .iter()
        .map(|end| json!({"at": rfc3339(end.at), "pid": end.pid, "reason": end.reason, "what": end.what, "meant": end.meant}))
        .collect();
    let mut shown = json!({
        "state": state,
        "mode": status.mode.as_str(),
        "pids": status.pids,
        "restarts": status.restarts,
        "children": {"warm": warm, "starting": starting, "ready": ready, "ending": ending},
        "ends": ends,
    });
    if let (Some(error), Some(shown)) = (&status.last_error, shown.as_object_mut()) {
        shown.insert("last_error".into(), error.as_str().into());
        shown.insert("stderr".into(), json!(status.stderr_tail));
    }
    shown
}

/// The endpoints of a remote server.
pub(super) fn endpoints(endpoints: &[EndpointStatus]) -> Value {
    let shown = |e: &EndpointStatus| {
        let mut shown = json!({
            "url": e.url,
            "healthy": e.state.takes_calls(),
            "state": e.state.name(),
            "since": rfc3339(e.since),
            "failures": e.failures,
            "in_flight": e.in_flight,
        });
        let mut put = |key: &str, value: Value| {
            drop(shown.as_object_mut().map(|shown| shown.insert(key.into(), value)))
        };
        if let Some(why) = e.state.why() {
            put("reason", why.into());
        }
        if let EndpointState::Ejected { until, .. } = e.state {
            put("until", rfc3339(until).into());
        }
        if let Some((at, found)) = e.checked {
            let result = found.err().unwrap_or("ok");
            put("last_check", json!({"at": rfc3339(at), "result": result}));
        }
        shown
    };
    endpoints.iter().map(shown).collect()
}

/// `--token=x`, `--token x` and URLs with user information lose their secret.
fn arguments(args: &[String]) -> Vec<String> {
    let mut hide_next = false;
    let mut shown = Vec::with_capacity(args.len());
    for arg in args {
        let hidden = std::mem::take(&mut hide_next);
        shown.push(match arg.split_once('=') {
            _ if hidden || holds_secret(arg) => HIDDEN.to_owned(),
            Some((name, _)) if suggests_secret(name) => format!("{name}={HIDDEN}"),
            _ => arg.clone(),
        });
        hide_next = arg.starts_with('-') && !arg.contains('=') && suggests_secret(arg);
    }
    shown
}

/// An address without its query, which often carries a key.
fn url(uri: &http::Uri) -> String {
    let plain = uri.to_string();
    match plain.split_once('?') {
        Some((address, _)) => format!("{address}?{HIDDEN}"),
        None => plain,
    }
}

fn suggests_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// A URL with user information, or a well-known token form.
fn holds_secret(value: &str) -> bool {
    let userinfo = value.split_once("://").is_some_and(|(_, rest)| {
        rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@'))
    });
    let token = ["sk-", "ghp_", "github_pat_", "xoxb-", "xoxp-", "glpat-", "AKIA", "eyJ", "-----BEGIN"];
    userinfo || token.iter().any(|form| value.starts_with(form))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_settings_are_not() {
        let env = BTreeMap::from(
            [
                ("PGHOST", "localhost"),
                ("PGPASSWORD", "hunter2"),
                ("API_TOKEN", "abc"),
                ("DATABASE_URL", "postgres://u:p@h/db"),
                ("HOME_URL", "https://h/path@x"),
                ("PLAIN", "ghp_abcdef"),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned())),
        );
        let shown = environment(&env);
        assert_eq!(shown["PGHOST"], "localhost");
        assert_eq!(shown["HOME_URL"], "https://h/path@x");
        for name in ["PGPASSWORD", "API_TOKEN", "DATABASE_URL", "PLAIN"] {
            assert_eq!(shown[name], HIDDEN, "{name}");
        }
        let args =
            ["--transport", "stdio", "--token", "abc", "--api-key=x", "postgres://u:p@h"].map(String::from);
        assert_eq!(arguments(&args), ["--transport", "stdio", "--token", HIDDEN, "--api-key=***", HIDDEN]);
        assert_eq!(url(&"https://h/mcp?key=x".parse().unwrap()), "https://h/mcp?***");
    }
}
