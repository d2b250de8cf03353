//! Tests of the decision: who may what, and properties that hold for all rules.
//! Not here: rules as the catalog has them (`tests/golden`), the plain spelling of URIs (`uri`).

use proptest::prelude::*;

use super::*;
use crate::auth::CallerKind;
use crate::catalog::{Actions, Globs, Items, Who};
use crate::conf::Grant;

const SERVER: &str = "docs";

fn caller(kind: CallerKind, subject: &str, scopes: &[&str], groups: &[&str]) -> Caller {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
    let grant =
        Grant { servers: vec!["*".into()], scopes: words(scopes), groups: words(groups), ..Grant::default() };
    let issuer = (kind == CallerKind::Jwt).then_some("https://issuer.example");
    Caller::new(kind, issuer, subject, &grant)
}

fn policy(rules: Vec<Rule>) -> Policy {
    let text = format!("servers: [{{id: {SERVER}, runtime: {{type: remote-http, url: http://a/}}}}]");
    let snapshot =
        crate::catalog::parse(&text, "catalog.yaml", std::path::Path::new("/"), 1, &|_| None).unwrap();
    Rulebook::new(&Rules { list: rules }).on(&snapshot.servers[0])
}

fn rules(yaml: &str) -> Policy {
    let text = format!(
        "servers: [{{id: {SERVER}, runtime: {{type: remote-http, url: http://a/}}}}]\nrules:\n{yaml}"
    );
    let snapshot = crate::catalog::parse(&text, "catalog.yaml", std::path::Path::new("/"), 1, &|_| None)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    Rulebook::new(&snapshot.rules).on(&snapshot.servers[0])
}

/// `yes`, `no`, or the scopes that are missing.
fn told(policy: &Policy, caller: &Caller, demand: &Demand) -> String {
    match policy.decide(caller, demand) {
        Verdict::Allowed { .. } => "yes".to_owned(),
        Verdict::Scopes { scopes, .. } => scopes.join(" "),
        Verdict::Denied(_) => "no".to_owned(),
    }
}

fn tool(name: &str) -> Demand {
    Demand::item(ItemKind::Tool, name)
}

fn resource(uri: &str) -> Demand {
    Demand::item(ItemKind::Resource, uri)
}

#[track_caller]
fn check(policy: &Policy, caller: &Caller, wanted: &[(Demand, &str)]) {
    for (demand, wanted) in wanted {
        assert_eq!(told(policy, caller, demand), *wanted, "{demand:?}");
    }
}

#[test]
fn without_rules_the_credential_decides() {
    let policy = policy(Vec::new());
    let none = Caller::new(CallerKind::ApiKey, None, "none", &Grant::default());
    check(&policy, &none, &[(Demand::Session, "no"), (tool("a"), "no"), (Demand::Unknown, "no")]);
    let all = caller(CallerKind::ApiKey, "all", &[], &[]);
    check(&policy, &all, &[(Demand::Session, "yes"), (tool("a"), "yes"), (Demand::Unknown, "yes")]);
    assert!(policy.sight(&all).is_none() && !policy.is_ruled());
}

#[test]
fn any_rule_makes_denial_the_default_and_denial_wins() {
    let policy = rules(
        "  - {allow: [list, call], tools: [get_*, search]}\n  - {deny: [call], tools: [get_secret]}\n  - {allow: '*', who: {groups: [ops-*]}}\n",
    );
    let anybody = caller(CallerKind::ApiKey, "a", &[], &["dev"]);
    check(
        &policy,
        &anybody,
        &[
            (Demand::Session, "yes"),
            (Demand::List(ItemKind::Prompt), "yes"),
            (tool("get_x"), "yes"),
            (tool("search"), "yes"),
            (tool("get_secret"), "no"),
            (tool("Search"), "no"),
            (tool("delete"), "no"),
            (Demand::item(ItemKind::Prompt, "search"), "no"),
            (resource("file:///a"), "no"),
            (Demand::Unnamed(ItemKind::Tool), "no"),
            (Demand::Unknown, "no"),
            (Demand::Raw, "no"),
        ],
    );
    let ops = caller(CallerKind::ApiKey, "b", &[], &["ops-eu"]);
    check(
        &policy,
        &ops,
        &[
            (tool("delete"), "yes"),
            (tool("get_secret"), "no"),
            (resource("a:b"), "yes"),
            (Demand::Unknown, "no"),
        ],
    );
}

#[test]
fn what_may_not_be_listed_may_not_be_used() {
    let policy = rules("  - {allow: [call]}\n  - {allow: [list], tools: [a]}\n");
    let anybody = caller(CallerKind::Anonymous, "anonymous", &[], &[]);
    check(&policy, &anybody, &[(tool("a"), "yes"), (tool("b"), "no"), (Demand::Session, "yes")]);
    let sight = policy.sight(&anybody).unwrap();
    assert!(sight.shows(ItemKind::Tool, "a") && !sight.shows(ItemKind::Tool, "b"));
}

#[test]
fn more_scopes_are_asked_of_tokens_only() {
    let policy = rules(
        "  - {allow: '*', who: {scopes: [read]}, tools: [get]}\n  - {allow: '*', who: {scopes: [read, write]}, tools: [put]}\n  - {allow: '*', who: {scopes: [write, admin, x]}, tools: [put]}\n  - {deny: '*', tools: [drop]}\n  - {allow: '*', who: {scopes: [admin], kinds: [api_key]}, tools: [drop, key]}\n",
    );
    let token = caller(CallerKind::Jwt, "t", &["read", "other"], &[]);
    check(
        &policy,
        &token,
        &[
            (tool("get"), "yes"),
            (tool("put"), "read write"),
            (tool("drop"), "no"),
            (tool("key"), "no"),
            (tool("none"), "no"),
        ],
    );
    let sight = policy.sight(&token).unwrap();
    let shown: Vec<_> =
        ["get", "put", "drop", "key"].into_iter().filter(|name| sight.shows(ItemKind::Tool, name)).collect();
    assert_eq!(shown, ["get", "put"]);
    let bare = caller(CallerKind::Jwt, "t", &[], &[]);
    check(&policy, &bare, &[(Demand::Session, "yes"), (tool("get"), "read"), (tool("put"), "read write")]);
    let key = caller(CallerKind::ApiKey, "k", &["read"], &[]);
    check(&policy, &key, &[(tool("get"), "yes"), (tool("put"), "no")]);
}

#[test]
fn what_a_token_has_and_needs_elsewhere_is_asked_for_again() {
    let policy = rules(
        "  - {allow: '*', who: {scopes: [read]}, tools: [get]}\n  - {allow: '*', who: {scopes: [write]}, tools: [put]}\n",
    );
    let token = caller(CallerKind::Jwt, "t", &["read", "openid"], &[]);
    check(&policy, &token, &[(tool("put"), "read write")]);
}

#[test]
fn a_server_of_which_nothing_is_left_is_not_there() {
    let anybody = caller(CallerKind::ApiKey, "a", &[], &[]);
    for (yaml, wanted) in [
        ("  - {allow: '*'}\n", "yes"),
        ("  - {allow: '*'}\n  - {deny: '*', tools: [x]}\n", "yes"),
        ("  - {allow: '*'}\n  - {deny: '*'}\n", "no"),
        ("  - {allow: '*'}\n  - {deny: [list]}\n", "no"),
        ("  - {allow: '*'}\n  - {deny: [call, read]}\n", "yes"),
        ("  - {allow: '*'}\n  - {deny: [call, read]}\n  - {deny: '*', prompts: ['*']}\n", "no"),
        ("  - {allow: [call]}\n", "no"),
        ("  - {allow: [list], tools: [a*]}\n  - {allow: [call], tools: [b*]}\n", "no"),
        ("  - {allow: [list], tools: [a*]}\n  - {allow: [call], tools: ['*b']}\n", "yes"),
        ("  - {allow: '*', tools: [get_*]}\n  - {deny: [call], tools: ['g*']}\n", "no"),
        ("  - {allow: '*', servers: [other]}\n", "no"),
        ("  - {allow: '*', who: {subjects: [b]}}\n", "no"),
        ("  - {allow: '*', tools: []}\n", "no"),
        ("  - {deny: '*', tools: [x]}\n", "no"),
    ] {
        let policy = rules(yaml);
        assert_eq!(told(&policy, &anybody, &Demand::Session), wanted, "{yaml}");
        assert_eq!(policy.sees(&anybody), wanted == "yes", "{yaml}");
    }
}

#[test]
fn another_spelling_of_a_uri_evades_no_rule() {
    let policy = rules(
        "  - {allow: '*', resources: ['file:///srv/*', 'file:///*']}\n  - {deny: [read], resources: ['file:///secret/*']}\n",
    );
    let anybody = caller(CallerKind::ApiKey, "a", &[], &[]);
    let narrow = rules("  - {allow: '*', resources: ['file:///srv/*']}\n");
    for uri in
        ["file:///srv/../secret/a", "FILE:///secret/a", "file:///%73ecret/a", "file:///srv/..%2Fsecret/a"]
    {
        check(&policy, &anybody, &[(resource(uri), "no")]);
        check(&narrow, &anybody, &[(resource(uri), "no")]);
    }
    check(
        &policy,
        &anybody,
        &[(resource("file:///srv/a%20b"), "yes"), (resource("file:///srv/{path}"), "yes")],
    );
    let host = rules(
        "  - {allow: '*'}\n  - {deny: [read], resources: ['https://a.example:443/b/', 'https://b.example/*']}\n",
    );
    for uri in [
        "https://a.example/b",
        "https://me@A.example./b/?#c",
        "https://b.example:443/x",
        "https://b.example%2fx",
    ] {
        check(&host, &anybody, &[(resource(uri), "no")]);
    }
    check(
        &host,
        &anybody,
        &[(resource("https://a.example/bc"), "yes"), (resource("https://a.example:8443/b"), "yes")],
    );
    let public = rules("  - {allow: '*', resources: ['https://a.example/pub/*']}\n");
    for uri in [
        "https://a.example/pub/../secret?/../pub/x",
        "https://a.example/pub/x?/../../secret",
        "https://a.example/pub/%252e%252e/x",
    ] {
        check(&public, &anybody, &[(resource(uri), "no")]);
    }
    check(&public, &anybody, &[(resource("https://a.example/pub/x/?y=z#f"), "yes")]);
    let several = |uris: &[&str]| Demand::Resources(uris.iter().map(|uri| (*uri).into()).collect());
    check(
        &policy,
        &anybody,
        &[(several(&["file:///a", "file:///b"]), "yes"), (several(&["file:///a", "file:///secret/b"]), "no")],
    );
}

#[test]
fn raw_upstreams_know_of_no_items() {
    let text = "servers: [{id: web, runtime: {type: raw-http, url: http://a/}}]\nrules:\n  - {allow: '*', who: {subjects: [a, c]}}\n  - {deny: '*', tools: [x]}\n  - {allow: [list, call], who: {subjects: [b]}}\n  - {deny: [read], who: {subjects: [c]}}\n";
    let snapshot =
        crate::catalog::parse(text, "catalog.yaml", std::path::Path::new("/"), 1, &|_| None).unwrap();
    let policy = Rulebook::new(&snapshot.rules).on(&snapshot.servers[0]);
    for (subject, wanted) in [("a", true), ("b", false), ("c", false), ("d", false)] {
        assert_eq!(policy.sees(&caller(CallerKind::ApiKey, subject, &[], &[])), wanted, "{subject}");
    }
}

#[test]
fn denial_tells_no_more_than_absence() {
    let policy = rules("  - {allow: '*', tools: [a]}\n");
    let anybody = caller(CallerKind::ApiKey, "a", &[], &[]);
    let refused = |policy: &Policy, demand: Demand| allow(policy, &anybody, &demand, ()).unwrap_err();
    assert_eq!(refused(&policy, tool("b")), Denied::Item(ItemKind::Tool, "b".into()));
    assert_eq!(refused(&policy, Demand::Unknown), Denied::Method);
    let nothing = rules("  - {allow: '*', who: {subjects: [b]}}\n");
    assert_eq!(refused(&nothing, tool("a")), Denied::Server);
    assert_eq!(refused(&nothing, Demand::Unknown), Denied::Server);
    let allowed = allow(&policy, &anybody, &tool("a"), 7).unwrap();
    assert_eq!(*allowed.lead(|seven| Ok::<_, Denied>(seven + 1)).unwrap().get(), 8);
}

prop_compose! {
    fn globs()(patterns in proptest::collection::vec("[ab*]{1,3}", 0..3)) -> Globs { Globs::new(patterns) }
}

prop_compose! {
    fn rule()(
        allow in proptest::bool::weighted(0.7),
        bits in 1u8..16,
        scopes in proptest::option::weighted(0.3, proptest::collection::vec("[st]", 1..3)),
        groups in proptest::option::weighted(0.3, globs()),
        items in proptest::option::weighted(0.7, (globs(), globs(), globs())),
    ) -> Rule {
        Rule {
            name: "r".into(),
            place: "p:1".into(),
            effect: if allow { Effect::Allow } else { Effect::Deny },
            actions: Actions { list: bits & 1 != 0, call: bits & 2 != 0, read: bits & 4 != 0, get: bits & 8 != 0 },
            who: Who { scopes, groups, ..Who::default() },
            servers: Globs::new(vec!["*".into()]),
            items: match items {
                None => Items::All,
                Some((tools, prompts, resources)) => Items::Only { tools, prompts, resources },
            },
        }
    }
}

prop_compose! {
    fn somebody()(jwt: bool, scopes in proptest::collection::vec("[st]", 0..3), groups in proptest::collection::vec("[ab]{1,2}", 0..3)) -> Caller {
        let words = |words: &[String]| words.iter().map(String::as_str).collect::<Vec<_>>().iter().map(ToString::to_string).collect();
        let grant = Grant { servers: vec!["*".into()], scopes: words(&scopes), groups: words(&groups), ..Grant::default() };
        Caller::new(if jwt { CallerKind::Jwt } else { CallerKind::ApiKey }, None, "s", &grant)
    }
}

/// Every name of at most two letters.
fn names() -> impl Iterator<Item = &'static str> {
    ["a", "b", "aa", "ab", "ba", "bb"].into_iter()
}

proptest! {
    #[test]
    fn the_list_holds_what_may_be_called(list in proptest::collection::vec(rule(), 1..6), caller in somebody()) {
        let policy = policy(list);
        let sight = policy.sight(&caller);
        for kind in ItemKind::ALL {
            for name in names() {
                let shown = sight.as_ref().is_none_or(|sight| sight.shows(kind, name));
                let verdict = policy.decide(&caller, &Demand::item(kind, name));
                prop_assert_eq!(shown, !matches!(verdict, Verdict::Denied(_)), "{:?} {}", kind, name);
                // What is there for a caller is on a server that is there.
                prop_assert!(!shown || policy.sees(&caller));
            }
        }
    }

    #[test]
    fn one_more_denial_never_gives(mut list in proptest::collection::vec(rule(), 1..6), mut more in rule(), caller in somebody()) {
        more.effect = Effect::Deny;
        let before = policy(list.clone());
        list.push(more);
        let after = policy(list);
        for demand in [Demand::Session, Demand::Unknown, Demand::Raw].into_iter()
            .chain(ItemKind::ALL.into_iter().flat_map(|kind| names().map(move |name| Demand::item(kind, name))))
        {
            let (before, after) = (before.decide(&caller, &demand), after.decide(&caller, &demand));
            if matches!(after, Verdict::Allowed { .. }) {
                prop_assert!(matches!(before, Verdict::Allowed { .. }), "{:?}", demand);
            }
            if matches!(before, Verdict::Denied(_)) {
                prop_assert!(matches!(after, Verdict::Denied(_)), "{:?}", demand);
            }
        }
    }

    #[test]
    fn a_denial_beats_whatever_allows(list in proptest::collection::vec(rule(), 0..6), caller in somebody(), name in "[ab]{1,2}") {
        let mut list = list;
        let mut deny = Rule { who: Who::default(), effect: Effect::Deny, actions: Actions { call: true, ..Actions::default() }, ..Rule {
            name: "d".into(), place: "p:2".into(), effect: Effect::Deny, actions: Actions::ALL, who: Who::default(),
            servers: Globs::new(vec!["*".into()]), items: Items::All } };
        deny.items = Items::Only { tools: Globs::new(vec![name.clone()]), prompts: Globs::default(), resources: Globs::default() };
        list.insert(0, deny);
        let policy = policy(list);
        prop_assert!(matches!(policy.decide(&caller, &Demand::item(ItemKind::Tool, &name)), Verdict::Denied(Why::Rule(_))));
    }

    #[test]
    fn who_has_no_server_has_nothing(list in proptest::collection::vec(rule(), 0..6), name in "[ab]{1,2}") {
        let policy = policy(list);
        let nobody = Caller::new(CallerKind::Jwt, None, "s", &Grant { scopes: vec!["s".into(), "t".into()], ..Grant::default() });
        for demand in [Demand::Session, Demand::Unknown, Demand::Raw, Demand::item(ItemKind::Tool, &name)] {
            prop_assert_eq!(policy.decide(&nobody, &demand), Verdict::Denied(Why::Servers));
        }
        prop_assert!(!policy.sees(&nobody));
    }
}
