//! Checks how a server is reached: commands that exist, addresses that can be dialled, headers that can be sent.
//! Not here: what is the same for every server (`check`).

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use nix::unistd::{AccessFlags, access};

use super::{Checker, Form};
use crate::catalog::model::{Endpoint, HealthKind, Local, Remote, RemoteKind, Runtime};
use crate::catalog::raw::{RawEndpoint, RawRuntime, RawServer};
use crate::document::{At, Code, Entries, Span, nearest};

/// The runtimes, as the file names them.
const KINDS: [&str; 4] = ["local-process", "remote-http", "remote-sse", "raw-http"];

/// Headers of a request to an upstream that are the gateway's or the connection's own.
const OWN_HEADERS: [&str; 16] = [
    "accept",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Where commands are looked for when the environment has no `PATH`.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(300);

impl Checker<'_> {
    /// Checks the runtime, and takes out of `server` what belongs to it.
    pub(super) fn runtime(
        &mut self,
        name: &str,
        form: Form,
        raw: At<RawRuntime>,
        server: &mut RawServer,
    ) -> Option<Runtime> {
        let timeouts = server.timeouts.get_or_insert_default();
        let Some(kind) = &raw.kind else {
            self.missing(raw.span, format!("Server '{name}' missing required field: runtime.type"));
            return None;
        };
        match kind.as_str() {
            "local-process" => {
                self.no_effect(timeouts.connect.as_ref(), "connect", "a local process");
                self.no_effect(timeouts.initialize.as_ref(), "initialize", "a local process: see `start`");
                self.local(form, raw, server).map(Runtime::Local)
            }
            name @ ("remote-http" | "remote-sse" | "raw-http") => {
                let kind = match name {
                    "remote-sse" => RemoteKind::Sse,
                    "raw-http" => RemoteKind::Raw,
                    _ => RemoteKind::Http,
                };
                self.no_effect(timeouts.start.as_ref(), "start", "a remote server");
                self.remote(kind, form, raw, server).map(Runtime::Remote)
            }
            unknown => {
                let valid = format!("valid types: {}", KINDS.join(", "));
                let advice = match nearest(unknown, KINDS) {
                    Some(near) => format!("did you mean `{near}`? ({valid})"),
                    None => valid,
                };
                let message = format!("Server '{name}' has unknown runtime type: {unknown}");
                self.report.advise(kind.span, Code::InvalidValue, message, advice);
                None
            }
        }
    }

    fn local(&mut self, form: Form, raw: At<RawRuntime>, server: &mut RawServer) -> Option<Local> {
        let At { value: raw, span } = raw;
        let on = "a local process";
        self.no_effect(raw.url.as_ref(), "url", on);
        self.no_effect(raw.endpoints.as_ref(), "endpoints", on);
        self.no_effect(raw.headers.as_ref(), "headers", on);
        self.no_effect(server.headers.as_ref(), "headers", on);
        self.no_effect(server.auth.as_ref(), "auth", on);
        self.no_effect(server.health.as_ref(), "health", on);
        let enabled = server.enabled.unwrap_or(true);
        let dir_key = if form == Form::Client { "cwd" } else { "working_dir" };
        let working_dir = self.working_dir(raw.working_dir.as_ref(), dir_key, enabled);
        let env = self.either(raw.env, server.env.take(), "env");
        let env = self.env(env.map(|env| env.value).unwrap_or_default());
        let args = raw.args.map(|args| args.value).unwrap_or_default();
        for arg in args.iter().filter(|arg| arg.contains('\0')) {
            self.report.add(arg.span, Code::InvalidValue, "an argument cannot hold a NUL character");
        }
        let (instances, children) = self.children(server);
        let idle_timeout = server.idle_timeout.as_ref().map_or(IDLE_TIMEOUT_DEFAULT, |period| period.0);
        let sandbox = self.sandbox(server.sandbox.take(), enabled);
        let Some(command) = raw.command else {
            self.missing(span, "a local process needs a command");
            return None;
        };
        let program = if enabled { self.program(&command) } else { PathBuf::from(&command.value) };
        Some(Local {
            command: command.value,
            program,
            args: args.into_iter().map(|arg| arg.value).collect(),
            env,
            working_dir,
            instances,
            children,
            idle_timeout: (!idle_timeout.is_zero()).then_some(idle_timeout),
            sandbox,
        })
    }

    fn remote(
        &mut self,
        kind: RemoteKind,
        form: Form,
        raw: At<RawRuntime>,
        server: &mut RawServer,
    ) -> Option<Remote> {
        let At { value: raw, span } = raw;
        let on = "a remote server";
        let dir_key = if form == Form::Client { "cwd" } else { "working_dir" };
        self.no_effect(raw.command.as_ref(), "command", on);
        self.no_effect(raw.args.as_ref(), "args", on);
        self.no_effect(raw.working_dir.as_ref(), dir_key, on);
        self.no_effect(raw.env.as_ref(), "env", on);
        self.no_effect(server.env.as_ref(), "env", on);
        self.no_children(server, on);
        self.no_effect(server.idle_timeout.as_ref(), "idle_timeout", on);
        self.no_effect(server.sandbox.as_ref(), "sandbox", on);
        let headers = self.either(raw.headers, server.headers.take(), "headers");
        let headers = self.headers(headers.map(|headers| headers.value).unwrap_or_default());
        let credential = self.credential(server.auth.take(), &headers);
        let health_span = server.health.as_ref().map(|health| health.span);
        let health = self.health(server.health.take());
        if let (RemoteKind::Raw, HealthKind::Mcp { .. }, Some(span)) = (kind, &health.kind, health_span) {
            self.report.add(
                span,
                Code::Conflict,
                "a raw-http server speaks no MCP: check it by `tcp` or `http`",
            );
        }
        let endpoints = match (raw.url, raw.endpoints) {
            (Some(_), Some(endpoints)) => {
                self.report.add(endpoints.span, Code::Conflict, "`url` and `endpoints` exclude each other");
                return None;
            }
            (None, None) => {
                self.missing(span, "a remote server needs `url` or `endpoints`");
                return None;
            }
            (Some(url), None) => vec![Endpoint { url: self.url(&url)?, weight: 1, drain: false }],
            (None, Some(endpoints)) => self.endpoints(endpoints),
        };
        Some(Remote { kind, endpoints, headers, credential, health })
    }

    /// What may stand in the runtime or at the server, but not in both.
    fn either<T>(&mut self, inner: Option<At<T>>, outer: Option<At<T>>, key: &str) -> Option<At<T>> {
        if let (Some(inner), Some(_)) = (&inner, &outer) {
            let message = format!("`{key}` stands at the server and in its runtime: keep one");
            self.report.add(inner.span, Code::Conflict, message);
        }
        outer.or(inner)
    }

    fn env(&mut self, raw: Entries<At<String>>) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        for (name, value) in raw.0 {
            if name.is_empty() || name.contains(['=', '\0']) {
                self.report.add(name.span, Code::InvalidValue, "not a name of an environment variable");
            }
            if value.contains('\0') {
                self.report.add(value.span, Code::InvalidValue, "a variable cannot hold a NUL character");
            }
            env.insert(name.value, value.value);
        }
        env
    }

    fn headers(&mut self, raw: Entries<At<String>>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in raw.0 {
            let Ok(checked) = HeaderName::from_bytes(name.as_bytes()) else {
                self.report.add(name.span, Code::InvalidValue, "not a name of a header");
                continue;
            };
            if OWN_HEADERS.contains(&checked.as_str()) {
                let message = format!("header `{checked}` is set by the gateway itself");
                self.report.add(name.span, Code::NoEffect, message);
            }
            // HeaderValue trims nothing: a stray newline from a secret's file would make every call fail.
            let Ok(mut value_checked) = HeaderValue::from_str(&value) else {
                self.report.add(
                    value.span,
                    Code::InvalidValue,
                    "a header value must be one line of visible text",
                );
                continue;
            };
            value_checked.set_sensitive(true);
            if headers.insert(&checked, value_checked).is_some() {
                self.report.add(name.span, Code::DuplicateKey, format!("duplicate header `{checked}`"));
            }
        }
        headers
    }

    fn endpoints(&mut self, raw: At<Vec<At<RawEndpoint>>>) -> Vec<Endpoint> {
        if raw.is_empty() {
            self.missing(raw.span, "`endpoints` needs at least one");
        }
        let mut seen = HashSet::new();
        let mut endpoints = Vec::new();
        for endpoint in raw.value {
            let weight = endpoint.weight.as_ref().map_or(1, |weight| weight.value);
            if let Some(wrong) = endpoint.weight.as_ref().filter(|_| !(1..=100).contains(&weight)) {
                self.report.add(wrong.span, Code::InvalidValue, "a weight is a whole number from 1 to 100");
            }
            let Some(url) = &endpoint.url else {
                self.missing(endpoint.span, "an endpoint needs a url");
                continue;
            };
            let Some(checked) = self.url(url) else { continue };
            if !seen.insert(checked.clone()) {
                self.report.advise(
                    url.span,
                    Code::Conflict,
                    "the same url twice",
                    "use `weight` for a larger share",
                );
            }
            endpoints.push(Endpoint { url: checked, weight, drain: endpoint.drain.unwrap_or(false) });
        }
        endpoints
    }

    fn url(&mut self, raw: &At<String>) -> Option<Uri> {
        let checked = parse_url(raw);
        if let Err(message) = &checked {
            self.report.add(raw.span, Code::InvalidValue, *message);
        }
        checked.ok()
    }

    fn working_dir(&mut self, raw: Option<&At<String>>, key: &str, enabled: bool) -> PathBuf {
        let Some(raw) = raw else { return self.base_dir.to_path_buf() };
        let path = self.base_dir.join(&raw.value);
        if enabled && !path.is_dir() {
            self.report.add(raw.span, Code::NotFound, format!("`{key}` is not a directory that exists"));
        }
        path
    }

    fn program(&mut self, command: &At<String>) -> PathBuf {
        if command.is_empty() || command.contains('\0') {
            self.report.add(command.span, Code::InvalidValue, "not a command");
        } else if command.contains('/') {
            let path = self.base_dir.join(&command.value);
            self.executable(&path, command.span);
            return path;
        } else {
            let search = (self.lookup)("PATH").unwrap_or_else(|| PATH_DEFAULT.to_owned());
            let found = std::env::split_paths(&search)
                .map(|dir| self.base_dir.join(dir).join(&command.value))
                .find(|path| is_executable(path));
            if let Some(path) = found {
                return path;
            }
            let advice = if command.contains(char::is_whitespace) {
                "there is no shell: put the arguments into `args`"
            } else {
                "install it, add its directory to the gateway's PATH, or give its whole path"
            };
            self.report.advise(command.span, Code::NotFound, "command not found in PATH", advice);
        }
        PathBuf::from(&command.value)
    }

    fn executable(&mut self, path: &Path, span: Span) {
        if !path.exists() {
            let message = format!("command not found: there is no {}", path.display());
            self.report.add(span, Code::NotFound, message);
        } else if !is_executable(path) {
            let message = "command is not an executable file";
            self.report.advise(span, Code::NotFound, message, format!("chmod +x {}", path.display()));
        }
    }
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, AccessFlags::X_OK).is_ok()
}

/// An address we can dial, or what is wrong with it. The message does not repeat it: it may hold a credential.
fn parse_url(text: &str) -> Result<Uri, &'static str> {
    // `Uri` drops a fragment silently.
    if text.contains('#') {
        return Err("a url with a fragment (`#…`)");
    }
    let uri: Uri = text.parse().map_err(|_| "not a url")?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        Some(_) => return Err("a url must begin with http:// or https://"),
        None => return Err("not a url: it must begin with http:// or https://"),
    }
    let authority = uri.authority().ok_or("a url without a host")?;
    if authority.as_str().contains('@') {
        return Err("a url with user information (`user:password@`): use `headers`");
    }
    if authority.host().is_empty() {
        return Err("a url without a host");
    }
    let after_host = authority.as_str().rsplit_once(']').map_or(authority.as_str(), |(_, port)| port);
    if after_host.contains(':') && authority.port_u16().is_none_or(|port| port == 0) {
        return Err("a url with a port that is not a number from 1 to 65535");
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, wanted: &str) {
        let found = parse_url(url).map(|uri| uri.to_string());
        assert_eq!(found.unwrap_or_else(|message| format!("! {message}")), wanted);
    }

    #[test]
    fn urls() {
        check("http://a", "http://a/");
        check("https://a:8443/mcp?x=1", "https://a:8443/mcp?x=1");
        check("http://[::1]:80/", "http://[::1]:80/");
        check("http://[::1]:0/", "! a url with a port that is not a number from 1 to 65535");
        check("http://a:0/", "! a url with a port that is not a number from 1 to 65535");
        check("http://a:99999/", "! a url with a port that is not a number from 1 to 65535");
        check("http://u:p@a/", "! a url with user information (`user:password@`): use `headers`");
        check("http://a/#x", "! a url with a fragment (`#…`)");
        check("ftp://a/", "! a url must begin with http:// or https://");
        check("a/b", "! not a url");
        check("/a", "! not a url: it must begin with http:// or https://");
        check("http:///x", "! not a url");
    }
}
