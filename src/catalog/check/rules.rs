//! Checks rules: what each says, and what of it can never matter.
//! Not here: the form (`raw/rule.rs`); rules that others make needless (`check/redundant.rs`); whether a credential of
//! the configuration can meet one (`auth/review`).

use std::collections::HashMap;

use super::redundant;
use crate::catalog::raw::{RawActions, RawRule, RawWho};
use crate::catalog::{Actions, Effect, Globs, Items, Matcher, Rule, Rules, Who};
use crate::document::{At, Code, Report, Span, nearest};

const ACTIONS: [&str; 4] = ["list", "call", "read", "get"];
const KINDS: [&str; 4] = ["anonymous", "api_key", "jwt", "certificate"];
/// A pattern, in bytes. Matching takes time in proportion, on every call.
const PATTERN_BYTES_MAX: usize = 512;

/// Checks the rules of a catalog with servers of these ids.
pub(super) fn check(raw: At<Option<Vec<At<RawRule>>>>, servers: &[&str], report: &mut Report) -> Rules {
    let raw = given(raw, report).map(|rules| rules.value).unwrap_or_default();
    let mut checked = Vec::new();
    let mut names: HashMap<String, Span> = HashMap::new();
    for (index, rule) in raw.into_iter().enumerate() {
        let span = rule.span;
        if let Some(name) = &rule.name
            && let Some(first) = names.insert(name.value.clone(), name.span)
        {
            let first = report.line(first);
            let message = format!("two rules have the name `{}`", name.value);
            report.advise(name.span, Code::DuplicateId, message, format!("first given in line {first}"));
        }
        if let Some(rule) = one(index, rule, servers, report) {
            checked.push((rule, span));
        }
    }
    // What a rule that is wrong means for others is not worth saying.
    if report.is_empty() {
        redundant::warn(&checked, report);
    }
    Rules { list: checked.into_iter().map(|(rule, _)| rule).collect() }
}

fn one(index: usize, rule: At<RawRule>, servers: &[&str], report: &mut Report) -> Option<Rule> {
    let At { value: raw, span } = rule;
    let (effect, words) = match (raw.allow, raw.deny) {
        (Some(allow), None) => (Effect::Allow, allow),
        (None, Some(deny)) => (Effect::Deny, deny),
        (Some(_), Some(deny)) => {
            report.add(deny.span, Code::Conflict, "a rule either allows or denies: make it two");
            return None;
        }
        (None, None) => {
            if !report.is_incomplete(span) {
                let advice = "for instance `allow: [list, call]`";
                report.advise(span, Code::Missing, "a rule needs `allow` or `deny`", advice);
            }
            return None;
        }
    };
    let source = report.source(span.source).map_or("", |source| source.name());
    let place = format!("{source}:{}", report.line(span));
    let actions = actions(&words, report);
    let who = given(raw.who, report).map(|who| who_of(who.value, report)).unwrap_or_default();
    let on = given(raw.servers, report).map(|list| {
        if list.value.is_empty() {
            report.warn(list.span, Code::Unused, "an empty list is no server: this rule can never match");
        }
        for pattern in &list.value {
            let matcher = Matcher::new(&Globs::new(vec![pattern.value.clone()]));
            if !servers.iter().any(|id| matcher.matches(id)) && !pattern.is_empty() {
                let message = format!("no server of this catalog is `{}`", pattern.value);
                match nearest(pattern, servers.iter().copied()) {
                    Some(near) => report.warn_advise(
                        pattern.span,
                        Code::Unused,
                        message,
                        format!("did you mean `{near}`?"),
                    ),
                    None => report.warn(pattern.span, Code::Unused, message),
                }
            }
        }
        globs(list.value, report)
    });
    let named = [raw.tools, raw.prompts, raw.resources].map(|list| given(list, report));
    let items = match <(_, _, _)>::from(named) {
        (None, None, None) => Items::All,
        (tools, prompts, resources) => {
            let mut take = |list: Option<At<Vec<At<String>>>>| {
                globs(list.map(|list| list.value).unwrap_or_default(), report)
            };
            let (tools, prompts, resources) = (take(tools), take(prompts), take(resources));
            Items::Only { tools, prompts, resources }
        }
    };
    let rule = Rule {
        name: raw.name.map_or_else(|| format!("rule {}", index + 1), |name| name.value),
        place,
        effect,
        actions,
        who,
        servers: on.unwrap_or_else(|| Globs::new(vec!["*".to_owned()])),
        items,
    };
    warn_of_nothing(&rule, words.span, report);
    Some(rule)
}

fn actions(words: &At<RawActions>, report: &mut Report) -> Actions {
    let mut actions = Actions::default();
    if words.0.is_empty() && !report.is_incomplete(words.span) {
        report.add(words.span, Code::InvalidValue, "expected at least one action");
    }
    for (word, span) in &words.0 {
        match word.as_str() {
            "*" => actions = Actions::ALL,
            "list" => actions.list = true,
            "call" => actions.call = true,
            "read" => actions.read = true,
            "get" => actions.get = true,
            unknown => {
                let valid = "valid actions: `list`, `call`, `read`, `get`, or `\"*\"` for all".to_owned();
                let advice = match nearest(unknown, ACTIONS) {
                    Some(near) => format!("did you mean `{near}`? ({valid})"),
                    None => valid,
                };
                report.advise(span.unwrap_or(words.span), Code::InvalidValue, "unknown action", advice);
            }
        }
    }
    actions
}

/// What a key holds; `None` if it is not there. A key without a value would mean the opposite of what it looks like.
fn given<T>(raw: At<Option<T>>, report: &mut Report) -> Option<At<T>> {
    if raw.value.is_none() && raw.span != Span::default() {
        let advice = "write `[]` for none, or leave the key out for no condition";
        report.advise(raw.span, Code::Missing, "this key has no value", advice);
    }
    let span = raw.span;
    raw.value.map(|value| At { value, span })
}

fn who_of(raw: RawWho, report: &mut Report) -> Who {
    let lists =
        [raw.scopes, raw.groups, raw.subjects, raw.kinds, raw.issuers].map(|list| given(list, report));
    for list in lists.iter().flatten() {
        if list.value.is_empty() && !report.is_incomplete(list.span) {
            let message = "an empty list is nobody: leave the key out to ask for nothing";
            report.add(list.span, Code::InvalidValue, message);
        }
    }
    let [scopes, groups, subjects, kinds, issuers] = lists;
    for kind in kinds.iter().flat_map(|kinds| &kinds.value) {
        if !KINDS.contains(&kind.as_str()) {
            let valid = format!("valid kinds: {}", KINDS.join(", "));
            let advice = match nearest(kind, KINDS) {
                Some(near) => format!("did you mean `{near}`? ({valid})"),
                None => valid,
            };
            report.advise(kind.span, Code::InvalidValue, "unknown kind of caller", advice);
        }
    }
    for scope in scopes.iter().flat_map(|scopes| &scopes.value) {
        if !is_scope(scope) {
            let message = "expected a scope: visible ASCII without spaces, `\"` and `\\`";
            report.add(scope.span, Code::InvalidValue, message);
        }
    }
    let words = |list: Option<At<Vec<At<String>>>>| {
        list.map(|list| list.value.into_iter().map(|word| word.value).collect::<Vec<_>>())
    };
    let mut patterns = |list: Option<At<Vec<At<String>>>>| list.map(|list| globs(list.value, report));
    Who {
        groups: patterns(groups),
        subjects: patterns(subjects),
        scopes: words(scopes),
        kinds: words(kinds),
        issuers: words(issuers),
    }
}

/// A scope as a challenge can carry it (RFC 6749 section 3.3).
fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

fn globs(list: Vec<At<String>>, report: &mut Report) -> Globs {
    for pattern in &list {
        if pattern.is_empty() {
            report.add(pattern.span, Code::InvalidValue, "an empty pattern matches nothing that there is");
        } else if pattern.len() > PATTERN_BYTES_MAX {
            let message = format!("a pattern has at most {PATTERN_BYTES_MAX} bytes");
            report.add(pattern.span, Code::InvalidValue, message);
        }
    }
    Globs::new(list.into_iter().map(|pattern| pattern.value).collect())
}

/// Warns of a rule whose actions and items have nothing to do with each other.
fn warn_of_nothing(rule: &Rule, span: Span, report: &mut Report) {
    let Items::Only { tools, prompts, resources } = &rule.items else { return };
    let Actions { list, call, read, get } = rule.actions;
    if [tools, prompts, resources].iter().all(|globs| globs.patterns().is_empty()) {
        let message = "an empty list is no item: this rule can never match";
        report.warn(span, Code::Unused, message);
        return;
    }
    let matters = [(tools, call), (prompts, get), (resources, read)]
        .iter()
        .any(|(globs, usable)| !globs.patterns().is_empty() && (list || *usable));
    if !matters {
        let message = "this rule can never match: tools are called, prompts are got and resources are read";
        report.warn(span, Code::Unused, message);
    }
}
