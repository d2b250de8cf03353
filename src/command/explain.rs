//! `tollgate explain`: whether a caller may do something, which rule says so, and which limits it meets.
//! Not here: the decision (`auth`); what a change would do (`plan`).

use std::fmt::{self, Write as _};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use serde_json::{Value, json};

use super::{Done, Failure, Files, Format, check, print, print_json};
use crate::auth::{self, Caller, CallerKind, Considered, Demand, ItemKind, Rulebook, Verdict, Why};
use crate::catalog::{Actions, Effect, Rule, Server, Snapshot};
use crate::conf::{Conf, Grant, Limit, Rate};
use crate::{app, conf, hub, mcp};

/// The exit code of a denial, so that scripts can tell it from a mistake.
const DENIED: u8 = 3;

/// What is asked about.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Question {
    /// Who asks: the name of a key or certificate, `anonymous`, or `jwt:SUBJECT` for a token.
    #[arg(long, value_name = "NAME")]
    caller: String,
    /// The issuer of the token [default: the first one of the configuration].
    #[arg(long, value_name = "ISSUER")]
    issuer: Option<String>,
    /// The token's scopes, separated by commas.
    #[arg(long, value_delimiter = ',')]
    scopes: Vec<String>,
    /// The token's groups, separated by commas.
    #[arg(long, value_delimiter = ',')]
    groups: Vec<String>,
    /// The servers that the token's claims name, separated by commas; they narrow the issuer's [default: the issuer's].
    #[arg(long, value_delimiter = ',')]
    servers: Vec<String>,
    /// The server. Without an item or a method it is asked whether the server is there at all.
    #[arg(long, value_name = "ID")]
    server: String,
    /// A tool, by name.
    #[arg(long, group = "what", value_name = "NAME")]
    tool: Option<String>,
    /// A prompt, by name.
    #[arg(long, group = "what", value_name = "NAME")]
    prompt: Option<String>,
    /// A resource, by URI.
    #[arg(long, group = "what", value_name = "URI")]
    resource: Option<String>,
    /// Another method, such as `tools/list` or one of your own.
    #[arg(long, group = "what", value_name = "METHOD")]
    method: Option<String>,
}

/// Answers a question about the configuration and the catalog.
pub(super) fn explain(files: Files, question: &Question, format: Format) -> Done {
    let loaded = files.load().map_err(|mistakes| check::report(&mistakes))?;
    let catalog =
        app::check(&loaded.conf, conf::environment()).map_err(|mistakes| check::report(&mistakes))?;
    let answer = answer(&loaded.conf, &catalog, question)?;
    match format {
        Format::Text => print(&answer.to_string())?,
        Format::Json => print_json(&answer.json())?,
    };
    Ok(if answer.is_allowed() { ExitCode::SUCCESS } else { ExitCode::from(DENIED) })
}

/// The answer to a question.
struct Answer {
    /// The caller and what it asks for, in words.
    asked: String,
    outcome: Outcome,
    considered: Vec<Considered>,
    limits: Vec<(&'static str, String)>,
    notes: Vec<String>,
}

enum Outcome {
    Allowed(Option<Box<Rule>>),
    Scopes(Vec<String>, Box<Rule>),
    Denied(Denial),
    Expired,
}

enum Denial {
    /// There is no such server, or it is disabled.
    NoServer,
    Servers,
    Rule(Box<Rule>),
    Default,
}

fn answer(conf: &Conf, catalog: &Snapshot, question: &Question) -> Result<Answer, Failure> {
    let (label, caller) = caller(conf, question)?;
    let (words, demand) = demand(question)?;
    let id = &question.server;
    let asked = format!("{label} ({}) wants to {words} `{id}`", caller.kind.as_str());
    let Some(server) = catalog.server(id) else {
        let notes = vec![unknown_server(catalog, id)];
        let outcome = Outcome::Denied(Denial::NoServer);
        return Ok(Answer { asked, outcome, considered: Vec::new(), limits: Vec::new(), notes });
    };
    let rulebook = Rulebook::new(&catalog.rules);
    let policy = rulebook.on(server);
    let demand = if policy.is_raw() && demand == Demand::Session { Demand::Raw } else { demand };
    let mut notes = Vec::new();
    let outcome = match policy.decide(&caller, &demand) {
        _ if has_expired(conf, &caller) => Outcome::Expired,
        Verdict::Allowed { by } => Outcome::Allowed(by.cloned().map(Box::new)),
        Verdict::Scopes { scopes, by } => {
            Outcome::Scopes(scopes.iter().map(ToString::to_string).collect(), Box::new(by.clone()))
        }
        Verdict::Denied(why) => {
            notes.push(looks(policy.sees(&caller), &demand));
            Outcome::Denied(match why {
                Why::Servers => Denial::Servers,
                Why::Rule(rule) => Denial::Rule(Box::new(rule.clone())),
                Why::Default => Denial::Default,
            })
        }
    };
    let considered = auth::consider(&rulebook, server, &caller, &demand);
    let limits = limits(conf, server, &caller, &demand);
    Ok(Answer { asked, outcome, considered, limits, notes })
}

/// What the caller is told instead of the truth.
fn looks(sees: bool, demand: &Demand) -> String {
    let as_if = match demand {
        _ if !sees => "the server were not there",
        Demand::Item(ItemKind::Tool, _) => "there were no such tool",
        Demand::Item(ItemKind::Prompt, _) => "there were no such prompt",
        Demand::Item(ItemKind::Resource, _) | Demand::Resources(_) => "there were no such resource",
        Demand::Session | Demand::List(_) | Demand::Unnamed(_) | Demand::Unknown | Demand::Raw => {
            "there were no such method"
        }
    };
    format!("to the caller it looks as if {as_if}")
}

fn unknown_server(catalog: &Snapshot, id: &str) -> String {
    match catalog.servers.iter().find(|server| server.id.as_str() == id) {
        Some(_) => format!("server `{id}` is disabled"),
        None => {
            let ids: Vec<&str> = catalog.servers.iter().map(|server| server.id.as_str()).collect();
            format!("the catalog has no server `{id}`, but: {}", ids.join(", "))
        }
    }
}

fn caller(conf: &Conf, question: &Question) -> Result<(String, Caller), Failure> {
    let auth = &conf.access.auth;
    let name = question.caller.as_str();
    if let Some(subject) = name.strip_prefix("jwt:") {
        return token(conf, question, subject).map(|caller| (name.to_owned(), caller));
    }
    let is_told = |words: &[String]| !words.is_empty();
    if question.issuer.is_some()
        || [&question.scopes, &question.groups, &question.servers].into_iter().any(|w| is_told(w))
    {
        return Err("error: `--issuer`, `--scopes`, `--groups` and `--servers` are for tokens: `--caller jwt:SUBJECT`".into());
    }
    let known = auth::roster(auth);
    let bare = name.strip_prefix("api_key:").unwrap_or(name);
    let found = known.iter().find(|known| known.label == bare || known.label == name);
    let found = found.or_else(|| known.iter().find(|known| known.label == format!("certificate:{name}")));
    match found {
        Some(known) => Ok((known.label.clone(), known.caller.clone())),
        None => {
            let labels: Vec<&str> = known.iter().map(|known| known.label.as_str()).collect();
            let tokens = if auth.issuers.is_empty() { "" } else { ", or `jwt:SUBJECT` for a token" };
            Err(format!(
                "error: the configuration knows no caller `{name}`, but: {}{tokens}",
                labels.join(", ")
            ))
        }
    }
}

fn token(conf: &Conf, question: &Question, subject: &str) -> Result<Caller, Failure> {
    let issuers = &conf.access.auth.issuers;
    let wanted = question.issuer.as_ref();
    let issuer = issuers.iter().find(|issuer| wanted.is_none_or(|name| issuer.issuer.as_ref() == Some(name)));
    let Some(issuer) = issuer else {
        return Err(match wanted {
            Some(name) => format!("error: the configuration has no issuer `{name}`"),
            None => "error: the configuration has no issuer of tokens".into(),
        });
    };
    let own = &issuer.grant;
    let or = |given: &[String], own: &[String]| if given.is_empty() { own.to_vec() } else { given.to_vec() };
    let grant = Grant {
        servers: match question.servers.as_slice() {
            [] => own.servers.clone(),
            claimed => auth::narrowed(own.servers.clone(), claimed.to_vec()),
        },
        scopes: or(&question.scopes, &own.scopes),
        groups: or(&question.groups, &own.groups),
        limit: own.limit,
    };
    Ok(Caller::new(CallerKind::Jwt, issuer.issuer.as_deref(), subject, &grant))
}

fn has_expired(conf: &Conf, caller: &Caller) -> bool {
    let key = conf
        .access
        .auth
        .keys
        .iter()
        .find(|key| caller.kind == CallerKind::ApiKey && *key.name == *caller.subject);
    key.and_then(|key| key.expires).is_some_and(|expires| expires <= SystemTime::now())
}

fn demand(question: &Question) -> Result<(String, Demand), Failure> {
    let item = |kind: ItemKind, name: &str| {
        (format!("{} {} `{name}` of", kind.verb(), kind.as_str()), Demand::item(kind, name))
    };
    Ok(match question {
        Question { tool: Some(name), .. } => item(ItemKind::Tool, name),
        Question { prompt: Some(name), .. } => item(ItemKind::Prompt, name),
        Question { resource: Some(uri), .. } => item(ItemKind::Resource, uri),
        Question { method: Some(name), .. } => (format!("use `{name}` of"), by_method(name)?),
        _ => ("see".to_owned(), Demand::Session),
    })
}

fn by_method(name: &str) -> Result<Demand, Failure> {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": name, "params": {}}).to_string();
    let message = mcp::parse(body.as_bytes(), mcp::ParseLimits { depth_max: 8 });
    match message.map(|message| hub::demand(&message)) {
        Ok(Demand::Unnamed(kind)) => {
            Err(format!("error: say which one: `--{}` instead of `--method {name}`", kind.as_str()))
        }
        Ok(demand) => Ok(demand),
        Err(_) => Err("error: a method is a word such as `tools/list`".into()),
    }
}

/// The limits on the way of a call, by whose they are.
fn limits(conf: &Conf, server: &Server, caller: &Caller, demand: &Demand) -> Vec<(&'static str, String)> {
    let access = &conf.access;
    let mut found = Vec::new();
    let mut add = |whose: &'static str, limit: Option<Limit>, note: &str| {
        if let Some(limit) = limit {
            found.push((whose, format!("{}{note}", told(&limit))));
        }
    };
    let only = |rate: Rate| Limit { rate: Some(rate), in_flight: None };
    add(
        "client address",
        access
            .flood
            .map(|requests| only(Rate { requests, per: std::time::Duration::from_secs(1), burst: requests })),
        "",
    );
    add("client address", access.address_limit.map(only), "");
    add("caller", caller.limit.or(access.limit), "");
    let each = |is_each: bool| if is_each { ", for each caller" } else { ", for all callers together" };
    if let Some(shared) = server.throttle.limit {
        add("server", Some(shared.limit), each(shared.each_caller));
    }
    let Demand::Item(ItemKind::Tool, name) = demand else { return found };
    let tool = server.throttle.tools.iter().find(|(known, _)| **known == **name);
    if let Some((_, tool)) = tool {
        if let Some(shared) = tool.limit {
            add("tool", Some(shared.limit), each(shared.each_caller));
        }
        if tool.cost > 1 {
            found.push(("cost", format!("{} of each but the client address's", tool.cost)));
        }
    }
    found
}

fn told(limit: &Limit) -> String {
    let rate = limit.rate.map(|rate| {
        format!(
            "{} in {}, at most {} at once",
            rate.requests,
            humantime::format_duration(rate.per),
            rate.burst
        )
    });
    let in_flight = limit.in_flight.map(|count| format!("{count} running"));
    [rate, in_flight].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// What a rule says, in a few words.
pub(super) fn says(rule: &Rule) -> String {
    let Actions { list, call, read, get } = rule.actions;
    let verb = if rule.effect == Effect::Allow { "allow" } else { "deny" };
    let words = [(list, "list"), (call, "call"), (read, "read"), (get, "get")];
    let words: Vec<&str> = words.into_iter().filter_map(|(given, word)| given.then_some(word)).collect();
    if rule.actions == Actions::ALL { format!("{verb} *") } else { format!("{verb} {}", words.join(", ")) }
}

impl Answer {
    fn is_allowed(&self) -> bool {
        matches!(self.outcome, Outcome::Allowed(_))
    }

    /// The outcome in one word, and why.
    fn outcome(&self) -> (&'static str, String) {
        let by = |rule: &Rule| format!("`{}` ({})", rule.name, rule.place);
        match &self.outcome {
            Outcome::Allowed(None) => ("yes", "no rule has to allow it".into()),
            Outcome::Allowed(Some(rule)) => ("yes", format!("allowed by {}", by(rule))),
            Outcome::Scopes(scopes, rule) => (
                "scopes",
                format!("with a token that has the scopes {}, says {}", scopes.join(" "), by(rule)),
            ),
            Outcome::Denied(Denial::NoServer) => ("no", "there is no such server".into()),
            Outcome::Denied(Denial::Servers) => {
                ("no", "the server is not among the `servers` of the credential".into())
            }
            Outcome::Denied(Denial::Rule(rule)) => ("no", format!("denied by {}", by(rule))),
            Outcome::Denied(Denial::Default) => ("no", "no rule allows it".into()),
            Outcome::Expired => ("no", "the key has expired".into()),
        }
    }

    fn json(&self) -> Value {
        let (answer, why) = self.outcome();
        let named = |rule: &Rule| json!({"name": rule.name, "place": rule.place});
        let by = match &self.outcome {
            Outcome::Allowed(Some(rule)) | Outcome::Scopes(_, rule) => named(rule),
            Outcome::Denied(Denial::Rule(rule)) => named(rule),
            Outcome::Allowed(None) | Outcome::Denied(_) | Outcome::Expired => Value::Null,
        };
        let scopes = match &self.outcome {
            Outcome::Scopes(scopes, _) => json!(scopes),
            Outcome::Allowed(_) | Outcome::Denied(_) | Outcome::Expired => json!([]),
        };
        let considered = self.considered.iter().map(|seen| {
            let rule = &seen.rule;
            json!({"name": rule.name, "place": rule.place, "says": says(rule), "matches": seen.why_not.is_none(), "why_not": seen.why_not})
        });
        json!({
            "asked": self.asked, "answer": answer, "why": why, "rule": by, "scopes": scopes,
            "rules": considered.collect::<Vec<_>>(),
            "limits": self.limits.iter().map(|(whose, what)| json!({"of": whose, "limit": what})).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (answer, why) = self.outcome();
        let answer = if answer == "scopes" { "not yet" } else { answer };
        writeln!(f, "{}: {answer}, {why}", self.asked)?;
        for note in &self.notes {
            writeln!(f, "  {note}")?;
        }
        if !self.considered.is_empty() {
            f.write_str("rules:\n")?;
        }
        for Considered { rule, why_not } in &self.considered {
            let mark = if why_not.is_none() { '*' } else { ' ' };
            let mut line = format!("  {mark} {} ({}): {}", rule.name, rule.place, says(rule));
            match why_not {
                None => line.push_str(", matches"),
                Some(why) => write!(line, ", {why}")?,
            }
            writeln!(f, "{line}")?;
        }
        f.write_str("limits:\n")?;
        if self.limits.is_empty() {
            f.write_str("    none\n")?;
        }
        for (whose, what) in &self.limits {
            writeln!(f, "    {whose}: {what}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
