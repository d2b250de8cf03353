//! A server as MCP clients write it (`mcpServers`) becomes one as the `servers` list has it.
//! Not here: checks that are the same for both forms (`check`).

use crate::catalog::raw::{RawClientServer, RawRuntime, RawServer};
use crate::document::{At, Code, Report, Span, nearest};

/// What clients call transports, and our runtimes for them.
const KINDS: [(&str, &str); 5] = [
    ("stdio", "local-process"),
    ("http", "remote-http"),
    ("streamable-http", "remote-http"),
    ("streamableHttp", "remote-http"),
    ("sse", "remote-sse"),
];

/// Turns one form into the other; `None` if its runtime cannot be told, which was reported.
pub(super) fn into_server(
    id: &At<String>,
    server: At<RawClientServer>,
    report: &mut Report,
) -> Option<RawServer> {
    let At { value: raw, span } = server;
    let kind = kind(id, &raw, span, report)?;
    if let (Some(_), Some(disabled)) = (raw.enabled, &raw.disabled) {
        report.add(disabled.span, Code::Conflict, "`enabled` and `disabled` exclude each other");
    }
    let runtime = RawRuntime {
        kind: Some(kind),
        command: raw.command,
        args: raw.args,
        working_dir: raw.cwd,
        env: None,
        url: raw.url,
        endpoints: raw.endpoints,
        headers: None,
    };
    Some(RawServer {
        id: Some(id.clone()),
        display_name: raw.display_name,
        description: raw.description,
        enabled: raw.enabled.or(raw.disabled.map(|disabled| !disabled.value)),
        required: raw.required,
        tags: raw.tags,
        metadata: raw.metadata,
        runtime: Some(At { value: runtime, span }),
        env: raw.env,
        headers: raw.headers,
        auth: raw.auth,
        timeouts: raw.timeouts,
        health: raw.health,
        mode: raw.mode,
        instances: raw.instances,
        max_processes: raw.max_processes,
        max_per_caller: raw.max_per_caller,
        warm: raw.warm,
        max_age: raw.max_age,
        hang_timeout: raw.hang_timeout,
        idle_timeout: raw.idle_timeout,
        balance: raw.balance,
        hash_by: raw.hash_by,
        breaker: raw.breaker,
        retry: raw.retry,
        sandbox: raw.sandbox,
        limit: raw.limit,
        tools: raw.tools,
    })
}

fn kind(id: &At<String>, raw: &RawClientServer, span: Span, report: &mut Report) -> Option<At<String>> {
    let Some(given) = &raw.kind else {
        let url = raw.url.as_ref();
        let runtime = match (&raw.command, url, &raw.endpoints) {
            (Some(_), _, _) => "local-process",
            (None, Some(url), _) if ends_in_sse(url) => "remote-sse",
            (None, Some(_), _) | (None, None, Some(_)) => "remote-http",
            (None, None, None) => {
                if !report.is_incomplete(span) {
                    let message = format!("Server '{}' has neither a command nor a url", id.value);
                    report.add(id.span, Code::Missing, message);
                }
                return None;
            }
        };
        return Some(At { value: runtime.to_owned(), span });
    };
    let known = KINDS.iter().find(|(name, _)| *name == given.value);
    if known.is_none() {
        let names = KINDS.iter().map(|(name, _)| *name);
        let valid = format!("valid types: {}", names.clone().collect::<Vec<_>>().join(", "));
        let advice =
            nearest(given, names).map(|name| format!("did you mean `{name}`? ({valid})")).unwrap_or(valid);
        let message = format!("Server '{}' has unknown type: {}", id.value, given.value);
        report.advise(given.span, Code::InvalidValue, message, advice);
    }
    known.map(|(_, runtime)| At { value: (*runtime).to_owned(), span: given.span })
}

fn ends_in_sse(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.trim_end_matches('/').ends_with("/sse")
}
