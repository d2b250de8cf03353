//! Callers that a configuration knows of before any of them calls: for explaining, planning and reviewing rules.
//! Not here: who sent a request (`auth`).

use super::{Caller, CallerKind};
use crate::catalog::{Rules, Who};
use crate::conf::{Auth, Grant, Issuer};

/// A caller and what people call it: a key by its name, others by their kind as well.
#[derive(Debug, Clone)]
pub struct Known {
    /// Such as `alice`, `certificate:ci`, `anonymous` or `jwt:ada (scopes: read; groups: staff)`.
    pub label: String,
    /// The caller.
    pub caller: Caller,
}

/// Keys, certificates and, if there is one, who calls without a credential.
pub fn roster(auth: &Auth) -> Vec<Known> {
    let keys = auth.keys.iter().map(|key| Known {
        label: key.name.clone(),
        caller: Caller::new(CallerKind::ApiKey, None, &key.name, &key.grant),
    });
    let certificates = auth.certificates.iter().map(|certificate| Known {
        label: format!("certificate:{}", certificate.name),
        caller: Caller::new(CallerKind::Certificate, None, &certificate.name, &certificate.grant),
    });
    let all = Grant { servers: vec!["*".into()], ..Grant::default() };
    let open = (!auth.is_configured()).then_some(&all);
    let anonymous = auth.anonymous.as_ref().or(open).map(|grant| Known {
        label: "anonymous".into(),
        caller: Caller::new(CallerKind::Anonymous, None, "anonymous", grant),
    });
    keys.chain(certificates).chain(anonymous).collect()
}

/// One token for each sort of caller that some rule tells apart, and one without any scope, group or name.
pub fn tokens(auth: &Auth, rules: &[&Rules]) -> Vec<Known> {
    let plain = Who::default();
    let whos = rules.iter().flat_map(|rules| &rules.list).map(|rule| &rule.who);
    let mut found: Vec<Known> = Vec::new();
    for who in std::iter::once(&plain).chain(whos) {
        let is_about_tokens = who.kinds.as_ref().is_none_or(|kinds| kinds.iter().any(|kind| kind == "jwt"));
        let is_about = |issuer: &&Issuer| {
            who.issuers
                .as_ref()
                .is_none_or(|known| issuer.issuer.as_ref().is_some_and(|name| known.contains(name)))
        };
        let Some(issuer) = auth.issuers.iter().find(is_about).filter(|_| is_about_tokens) else { continue };
        let known = token(issuer, who);
        if !found.iter().any(|other| other.label == known.label) {
            found.push(known);
        }
    }
    found
}

/// A token of `issuer` whose bearer is in `who`. A pattern stands for what it matches.
fn token(issuer: &Issuer, who: &Who) -> Known {
    let first = |globs: &Option<crate::catalog::Globs>| {
        globs.as_ref().and_then(|globs| globs.patterns().first().cloned())
    };
    let mut grant = issuer.grant.clone();
    let (scopes, groups) = (who.scopes.clone().unwrap_or_default(), first(&who.groups));
    let mut parts = Vec::new();
    if let (Some(name), true) = (&issuer.issuer, who.issuers.is_some()) {
        parts.push(format!("issuer: {name}"));
    }
    if !scopes.is_empty() {
        parts.push(format!("scopes: {}", scopes.join(" ")));
    }
    if let Some(group) = &groups {
        parts.push(format!("groups: {group}"));
    }
    grant.scopes.extend(scopes);
    grant.groups.extend(groups);
    let subject = first(&who.subjects).unwrap_or_else(|| "anybody".into());
    let told = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join("; ")) };
    Known {
        label: format!("jwt:{subject}{told}"),
        caller: Caller::new(CallerKind::Jwt, issuer.issuer.as_deref(), &subject, &grant),
    }
}
