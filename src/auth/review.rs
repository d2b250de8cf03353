//! What a catalog and a configuration that are right by themselves do not come to together.
//! Not here: mistakes and warnings of one file (`catalog`, `conf`).

use super::policy::Fit;
use super::{Caller, Known, Rulebook, roster, tokens};
use crate::catalog::{Actions, Effect, Globs, Matcher, Rule, Snapshot, Who};
use crate::conf::{Conf, Limit, Rate};
use crate::document::{Code, Mistake, Mistakes, Severity};

/// Warns of rules that no credential of the configuration can meet, of scopes that nobody grants and of limits that
/// nobody can hit. Tokens may carry any scope, group and subject, so where an issuer is configured these count as met.
pub fn review(conf: &Conf, catalog: &Snapshot) -> Mistakes {
    let mut found = Vec::new();
    let auth = &conf.access.auth;
    let known = roster(auth);
    for rule in &catalog.rules.list {
        if let Some(why) = unmet(&rule.who, conf, &known) {
            let effect = if rule.effect == Effect::Allow { "gives" } else { "takes" };
            found.push(warning(&rule.place, format!("rule `{}` {effect} nothing: {why}", rule.name)));
        }
    }
    unused_credentials(conf, catalog, &known, &mut found);
    limits(conf, catalog, &mut found);
    Mistakes { list: found }
}

/// A warning at a place such as `catalog.yaml:12`.
fn warning(place: &str, message: String) -> Mistake {
    let (file, line) = match place.rsplit_once(':').map(|(file, line)| (file, line.parse::<usize>())) {
        Some((file, Ok(line))) => (file, line),
        _ => (place, 0),
    };
    let mut mistake = Mistake::whole(file, Code::Unused, message);
    mistake.severity = Severity::Warning;
    mistake.line = line;
    mistake.column = usize::from(line > 0);
    mistake
}

/// Why no credential of the configuration can be in `who`.
fn unmet(who: &Who, conf: &Conf, known: &[Known]) -> Option<String> {
    let auth = &conf.access.auth;
    let is_kind = |kind: &str| match kind {
        "jwt" => !auth.issuers.is_empty(),
        kind => known.iter().any(|known| known.caller.kind.as_str() == kind),
    };
    if let Some(kinds) = who.kinds.as_ref().filter(|kinds| !kinds.iter().any(|kind| is_kind(kind))) {
        return Some(format!("no credential of the configuration is of kind {}", kinds.join(" or ")));
    }
    if let Some(issuers) = &who.issuers {
        let is_known = |name: &String| auth.issuers.iter().any(|issuer| issuer.issuer.as_ref() == Some(name));
        if !issuers.iter().any(is_known) {
            return Some(format!("{} is no issuer of the configuration", issuers.join(" or ")));
        }
    }
    let takes_tokens = who.kinds.as_ref().is_none_or(|kinds| kinds.iter().any(|kind| kind == "jwt"));
    if takes_tokens && !auth.issuers.is_empty() {
        return None;
    }
    let callers = || known.iter().map(|known| &known.caller).filter(|caller| is_of_kind(who, caller));
    if let Some(scope) = who.scopes.iter().flatten().find(|scope| !callers().any(|c| has(&c.scopes, scope))) {
        return Some(format!("nobody grants the scope `{scope}`"));
    }
    if let Some(groups) = who.groups.as_ref().filter(|groups| !callers().any(|c| meets(groups, &c.groups))) {
        return Some(format!("nobody is in a group of: {}", groups.patterns().join(", ")));
    }
    if let Some(subjects) = &who.subjects {
        let matcher = Matcher::new(subjects);
        if !callers().any(|caller| matcher.matches(&caller.subject)) {
            return Some(format!("nobody is called: {}", subjects.patterns().join(", ")));
        }
    }
    let rule = Rule {
        name: String::new(),
        place: String::new(),
        effect: Effect::Allow,
        actions: Actions::ALL,
        who: who.clone(),
        servers: Globs::default(),
        items: crate::catalog::Items::All,
    };
    let clause = super::policy::Clause::new(&rule);
    let nobody = !callers().any(|caller| clause.fits(caller) == Fit::Yes);
    nobody.then(|| "no credential of the configuration is all that it asks for".to_owned())
}

fn is_of_kind(who: &Who, caller: &Caller) -> bool {
    who.kinds.as_ref().is_none_or(|kinds| kinds.iter().any(|kind| kind == caller.kind.as_str()))
}

fn has(words: &[Box<str>], word: &str) -> bool {
    words.iter().any(|known| **known == *word)
}

fn meets(globs: &Globs, words: &[Box<str>]) -> bool {
    let matcher = Matcher::new(globs);
    words.iter().any(|word| matcher.matches(word))
}

/// Warns of credentials that open nothing, and of servers of a credential that are not in the catalog.
fn unused_credentials(conf: &Conf, catalog: &Snapshot, known: &[Known], found: &mut Vec<Mistake>) {
    const PLACE: &str = "the configuration";
    let auth = &conf.access.auth;
    let grants = auth.keys.iter().map(|key| (format!("key `{}`", key.name), &key.grant));
    let grants =
        grants.chain(auth.certificates.iter().map(|c| (format!("certificate `{}`", c.name), &c.grant)));
    let grants = grants.chain(auth.anonymous.iter().map(|grant| ("anonymous".to_owned(), grant)));
    for (name, grant) in grants {
        for server in grant.servers.iter().filter(|server| *server != "*") {
            if !catalog.servers.iter().any(|known| known.id.as_str() == server) {
                found.push(warning(
                    PLACE,
                    format!("{name} is for server `{server}`, which the catalog does not have"),
                ));
            }
        }
    }
    let rulebook = Rulebook::new(&catalog.rules);
    let policies: Vec<_> = catalog.servers.iter().map(|server| rulebook.on(server)).collect();
    for known in known.iter().chain(&tokens(auth, &[])) {
        // Who has no server at all is so on purpose: metrics and health are for such keys.
        let has_servers = catalog.servers.iter().any(|server| known.caller.may_use(server.id.as_str()));
        let is_token = known.caller.kind == super::CallerKind::Jwt;
        if has_servers && !is_token && !policies.iter().any(|policy| policy.sees(&known.caller)) {
            let message = format!("`{}` may use no server: no rule gives it anything", known.label);
            found.push(warning(PLACE, message));
        }
    }
}

/// Warns of limits that others are always hit before.
fn limits(conf: &Conf, catalog: &Snapshot, found: &mut Vec<Mistake>) {
    let in_flight_max = conf.limits.in_flight_max;
    let process = |limit: &Limit| {
        let over = |count: &u32| usize::try_from(*count).is_ok_and(|count| count >= in_flight_max);
        limit.in_flight.filter(over)
    };
    let access = &conf.access;
    let named = |name: &str, limit: &Option<Limit>| limit.map(|limit| (name.to_owned(), limit));
    let keys =
        access.auth.keys.iter().filter_map(|key| named(&format!("key `{}`", key.name), &key.grant.limit));
    let classes = access.classes.iter().map(|(name, limit)| (format!("class `{name}`"), *limit));
    let servers = catalog.servers.iter().flat_map(|server| {
        let own = server.throttle.limit.map(|own| (format!("server `{}`", server.id), own.limit));
        let tools = server.throttle.tools.iter().filter_map(|(name, tool)| {
            tool.limit.map(|own| (format!("tool `{}/{name}`", server.id), own.limit))
        });
        own.into_iter().chain(tools).collect::<Vec<_>>()
    });
    for (name, limit) in named("`limit`", &access.limit).into_iter().chain(keys).chain(classes).chain(servers)
    {
        if let Some(count) = process(&limit) {
            let message = format!(
                "nobody can hit the {count} calls at once of {name}: the whole gateway takes {in_flight_max} (`limits.in_flight`)"
            );
            found.push(warning("the configuration", message));
        }
    }
    unlimited(conf, found);
    costs(conf, catalog, found);
}

/// Warns of own limits that say nothing of requests: they replace the common limit as a whole, its rate included.
fn unlimited(conf: &Conf, found: &mut Vec<Mistake>) {
    let (access, auth) = (&conf.access, &conf.access.auth);
    if access.limit.is_none_or(|common| common.rate.is_none()) {
        return;
    }
    let keys = auth.keys.iter().map(|key| (format!("key `{}`", key.name), key.grant.limit));
    let certificates =
        auth.certificates.iter().map(|known| (format!("certificate `{}`", known.name), known.grant.limit));
    let anonymous = auth.anonymous.iter().map(|grant| ("anonymous".to_owned(), grant.limit));
    let issuers = auth.issuers.iter().map(|issuer| {
        (format!("issuer `{}`", issuer.issuer.as_deref().unwrap_or("of any name")), issuer.grant.limit)
    });
    let is_claimed = auth.issuers.iter().any(|issuer| issuer.claims.limit_class.is_some());
    let classes = access.classes.iter().filter(|_| is_claimed);
    let classes = classes.map(|(name, limit)| (format!("class `{name}`"), Some(*limit)));
    for (name, own) in keys.chain(certificates).chain(anonymous).chain(issuers).chain(classes) {
        if own.is_some_and(|own| own.rate.is_none()) {
            let message = format!(
                "{name} may call at any rate: its limit has no `requests`, and replaces the whole of `limit`"
            );
            found.push(warning("the configuration", message));
        }
    }
}

/// Warns of tools that a caller's own bucket can never pay for.
fn costs(conf: &Conf, catalog: &Snapshot, found: &mut Vec<Mistake>) {
    let access = &conf.access;
    let keys = access.auth.keys.iter().map(|key| {
        let rate = key.grant.limit.or(access.limit).and_then(|limit| limit.rate);
        (key.name.as_str(), rate, &key.grant.servers)
    });
    let buckets: Vec<(&str, Rate, &Vec<String>)> =
        keys.filter_map(|(name, rate, servers)| Some((name, rate?, servers))).collect();
    for server in &catalog.servers {
        for (tool, throttle) in &server.throttle.tools {
            let poor = buckets.iter().find(|(_, rate, servers)| {
                rate.burst < throttle.cost && servers.iter().any(|id| id == "*" || *id == server.id.as_str())
            });
            if let Some((name, rate, _)) = poor {
                let message = format!(
                    "key `{name}` can never call `{}/{tool}`: it costs {} and the key's limit has a burst of {}",
                    server.id, throttle.cost, rate.burst
                );
                found.push(warning("the configuration", message));
            }
        }
    }
}

#[cfg(test)]
mod tests;
