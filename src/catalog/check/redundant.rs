//! Warns of rules that other rules make needless.
//! Not here: what one rule says by itself (`check/rules.rs`).

use crate::catalog::{Actions, Effect, Globs, Items, Rule, Who, covers, overlap};
use crate::document::{Code, Report, Span};

/// Comparing each rule with each other is worth it up to here; more are made by a program.
const RULES_COMPARED_MAX: usize = 1_000;

/// Warns of rules that can change nothing.
pub(super) fn warn(rules: &[(Rule, Span)], report: &mut Report) {
    if rules.len() > RULES_COMPARED_MAX {
        return;
    }
    for (at, (rule, span)) in rules.iter().enumerate() {
        if is_empty(rule) {
            continue;
        }
        let denied = |other: &&(Rule, Span)| rule.effect == Effect::Allow && other.0.effect == Effect::Deny;
        let earlier = rules.iter().take(at).filter(|other| other.0.effect == rule.effect);
        let by_deny = rules.iter().filter(denied);
        if let Some((other, _)) = by_deny.clone().find(|(other, _)| contains(other, rule)) {
            let message =
                format!("this rule gives nothing: `{}` ({}) denies all of it", other.name, other.place);
            report.warn(*span, Code::Unused, message);
        } else if let Some((other, _)) = earlier.clone().find(|(other, _)| contains(other, rule)) {
            let verb = if rule.effect == Effect::Allow { "gives" } else { "takes" };
            let message =
                format!("this rule changes nothing: `{}` ({}) {verb} all of it", other.name, other.place);
            report.warn(*span, Code::Unused, message);
        } else if rule.effect == Effect::Allow {
            warn_of_halves(rule, *span, rules, report);
        }
    }
}

/// An item is used by whom it is listed for: one half without the other gives nothing.
fn warn_of_halves(rule: &Rule, span: Span, rules: &[(Rule, Span)], report: &mut Report) {
    let uses = |actions: Actions| actions.call || actions.read || actions.get;
    let others = || {
        rules
            .iter()
            .map(|(other, _)| other)
            .filter(|other| other.effect == Effect::Allow && meets(&other.servers, &rule.servers))
    };
    if !rule.actions.list && !others().any(|other| other.actions.list) {
        let message = "this rule gives nothing: what may not be listed may not be used, and no rule allows `list` there";
        report.warn(span, Code::Unused, message);
    } else if !uses(rule.actions) && !others().any(|other| uses(other.actions)) {
        let message = "this rule gives nothing: what may not be used is not listed, and no rule allows `call`, `read` or `get` there";
        report.warn(span, Code::Unused, message);
    }
}

fn is_empty(rule: &Rule) -> bool {
    let no_items = match &rule.items {
        Items::All => false,
        Items::Only { tools, prompts, resources } => {
            [tools, prompts, resources].iter().all(|globs| globs.patterns().is_empty())
        }
    };
    no_items || rule.servers.patterns().is_empty()
}

/// Whether `wide` surely matches wherever `narrow` does.
fn contains(wide: &Rule, narrow: &Rule) -> bool {
    let (w, n) = (wide.actions, narrow.actions);
    let actions = [(w.list, n.list), (w.call, n.call), (w.read, n.read), (w.get, n.get)];
    actions.iter().all(|(wide, narrow)| *wide || !narrow)
        && all_covered(&wide.servers, &narrow.servers)
        && who_contains(&wide.who, &narrow.who)
        && match (&wide.items, &narrow.items) {
            (Items::All, _) => true,
            // `*` of each kind is every item, but not the traffic that concerns none.
            (Items::Only { .. }, Items::All) => false,
            (
                Items::Only { tools, prompts, resources },
                Items::Only { tools: t, prompts: p, resources: r },
            ) => all_covered(tools, t) && all_covered(prompts, p) && all_covered(resources, r),
        }
}

fn who_contains(wide: &Who, narrow: &Who) -> bool {
    let patterns = |wide: &Option<Globs>, narrow: &Option<Globs>| match (wide, narrow) {
        (None, _) => true,
        (Some(wide), Some(narrow)) => all_covered(wide, narrow),
        (Some(_), None) => false,
    };
    let words = |wide: &Option<Vec<String>>, narrow: &Option<Vec<String>>| match (wide, narrow) {
        (None, _) => true,
        (Some(wide), Some(narrow)) => narrow.iter().all(|word| wide.contains(word)),
        (Some(_), None) => false,
    };
    // All scopes of a rule are asked for, so fewer of them are wider.
    let scopes = wide.scopes.as_ref().is_none_or(|wide| {
        narrow.scopes.as_ref().is_some_and(|narrow| wide.iter().all(|scope| narrow.contains(scope)))
    });
    scopes
        && patterns(&wide.groups, &narrow.groups)
        && patterns(&wide.subjects, &narrow.subjects)
        && words(&wide.kinds, &narrow.kinds)
        && words(&wide.issuers, &narrow.issuers)
}

fn all_covered(wide: &Globs, narrow: &Globs) -> bool {
    narrow.patterns().iter().all(|narrow| wide.patterns().iter().any(|wide| covers(wide, narrow)))
}

fn meets(a: &Globs, b: &Globs) -> bool {
    a.patterns().iter().any(|a| b.patterns().iter().any(|b| overlap(a, b)))
}
