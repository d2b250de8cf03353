//! What a token's claims say about its bearer: name, scopes, groups, servers, limit.
//! Not here: whether the token is good (`jwt`); what a bearer may do with them (`policy`).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Caller, CallerKind};
use crate::conf;

/// A name longer than this is no name; it is in logs and tables.
const SUBJECT_BYTES_MAX: usize = 256;

/// The caller that `claims` describe; `None` if they say it in a form that is not understood. What they leave out is
/// as `grant` says, and servers they can only narrow: the issuer is trusted for what the configuration names, and no
/// more.
pub(super) fn caller(
    claims: &Map<String, Value>,
    issuer: &conf::Issuer,
    classes: &BTreeMap<String, conf::Limit>,
) -> Option<Caller> {
    let names = &issuer.claims;
    let subject = find(claims, &names.subject)?.as_str()?;
    if subject.is_empty() || subject.len() > SUBJECT_BYTES_MAX || subject.contains(char::is_control) {
        return None;
    }
    let mut grant = issuer.grant.clone();
    let mut scopes: Option<Vec<String>> = None;
    for name in &names.scopes {
        if let Some(claim) = find(claims, name) {
            scopes.get_or_insert_default().extend(words(claim)?);
        }
    }
    if let Some(scopes) = scopes {
        grant.scopes = scopes;
    }
    if let Some(claim) = find(claims, &names.groups) {
        grant.groups = words(claim)?;
    }
    if let Some(claim) = find(claims, &names.servers) {
        grant.servers = narrowed(grant.servers, words(claim)?);
    }
    if let Some(claim) = names.limit_class.as_deref().and_then(|name| find(claims, name)) {
        // A class that is not configured leaves the issuer's own limit: a token cannot invent one.
        grant.limit = classes.get(claim.as_str()?).copied().or(grant.limit);
    }
    Some(Caller::new(CallerKind::Jwt, issuer.issuer.as_deref(), subject, &grant))
}

/// The claim `name`; if there is none of that very name, one inside objects, as its dots lead. `null` is no claim.
fn find<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    let found = claims.get(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        find(claims.get(first)?.as_object()?, rest)
    });
    found.filter(|value| !value.is_null())
}

/// A list of words, or words separated by spaces as in `scope` (RFC 8693 section 4.2).
fn words(claim: &Value) -> Option<Vec<String>> {
    match claim {
        Value::String(text) => Some(text.split_ascii_whitespace().map(str::to_owned).collect()),
        Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// The servers that both lists have; `*` stands for all. A token's claims take from what its issuer is trusted with, and
/// never add to it.
pub fn narrowed(granted: Vec<String>, claimed: Vec<String>) -> Vec<String> {
    let all = |names: &[String]| names.iter().any(|name| name == "*");
    if all(&claimed) {
        return granted;
    }
    if all(&granted) {
        return claimed;
    }
    claimed.into_iter().filter(|name| granted.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::conf::{Claims, Grant, IssuerKeys, Limit, Secret};

    fn read(claims: &Value, names: Claims, servers: &[&str]) -> Option<Caller> {
        let limit = |in_flight| Limit { rate: None, in_flight: Some(in_flight) };
        let issuer = conf::Issuer {
            issuer: Some("https://issuer".into()),
            audiences: vec![],
            audience_required: true,
            algorithms: vec![],
            keys: IssuerKeys::Secret(Secret::new("")),
            claims: names,
            grant: Grant {
                servers: servers.iter().map(|name| (*name).to_owned()).collect(),
                scopes: vec!["default".into()],
                limit: Some(limit(1)),
                ..Grant::default()
            },
            leeway: std::time::Duration::ZERO,
        };
        let classes = BTreeMap::from([("gold".to_owned(), limit(2))]);
        caller(claims.as_object()?, &issuer, &classes)
    }

    fn scopes(claims: Value) -> Option<Vec<Box<str>>> {
        Some(read(&claims, Claims::default(), &["*"])?.scopes)
    }

    #[test]
    fn scopes_are_words_or_a_list() {
        let want = |words: &[&str]| Some(words.iter().map(|word| Box::from(*word)).collect());
        assert_eq!(scopes(json!({"sub": "a", "scope": "b a"})), want(&["a", "b"]));
        assert_eq!(scopes(json!({"sub": "a", "scp": ["b", "a"], "scope": "c"})), want(&["a", "b", "c"]));
        assert_eq!(scopes(json!({"sub": "a", "scope": ""})), want(&[]));
        assert_eq!(scopes(json!({"sub": "a", "scope": null})), want(&["default"]));
        assert_eq!(scopes(json!({"sub": "a"})), want(&["default"]));
        assert_eq!(scopes(json!({"sub": "a", "scope": 7})), None);
        assert_eq!(scopes(json!({"sub": "a", "scope": ["a", 7]})), None);
    }

    #[test]
    fn a_name_is_a_short_word() {
        for sub in [json!(""), json!(7), json!("a\nb"), json!("a".repeat(257)), Value::Null] {
            assert_eq!(scopes(json!({"sub": sub})), None, "{sub}");
        }
        assert!(scopes(json!({"sub": "a".repeat(256)})).is_some());
    }

    #[test]
    fn servers_are_narrowed() {
        for (granted, claim, want) in [
            (&["*"][..], json!(["a", "b"]), &["a", "b"][..]),
            (&["a"], json!(["a", "b"]), &["a"]),
            (&["a"], json!("*"), &["a"]),
            (&["a"], json!([]), &[]),
            (&[], json!(["a"]), &[]),
        ] {
            let caller = read(&json!({"sub": "s", "servers": claim}), Claims::default(), granted).unwrap();
            let got: Vec<&str> = ["a", "b", "c"].into_iter().filter(|name| caller.may_use(name)).collect();
            assert_eq!(got, want, "{granted:?} {claim}");
        }
    }

    #[test]
    fn names_lead_into_objects_and_a_class_has_a_limit() {
        let names = Claims {
            subject: "user.name".into(),
            groups: "https://example.com/groups".into(),
            limit_class: Some("plan".into()),
            ..Claims::default()
        };
        let claims =
            json!({"user": {"name": "ann"}, "https://example.com/groups": ["staff"], "plan": "gold"});
        let caller = read(&claims, names.clone(), &[]).unwrap();
        assert_eq!((&*caller.subject, &caller.groups[..]), ("ann", &["staff".into()][..]));
        assert_eq!(caller.limit.unwrap().in_flight, Some(2));
        let other = read(&json!({"user": {"name": "ann"}, "plan": "lead"}), names, &[]).unwrap();
        assert_eq!(other.limit.unwrap().in_flight, Some(1));
    }
}
