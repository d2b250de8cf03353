//! Which rules a decision looked at, and why each was about it or not.
//! Not here: the decision itself (`policy`); how it is printed (`command/explain`).

use super::policy::{Clause, Fit, Reach};
use super::{Caller, Demand, Rulebook};
use crate::catalog::{Rule, Server};

/// One rule as a decision saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Considered {
    /// The rule.
    pub rule: Rule,
    /// Why it says nothing about what was asked; `None` if it does.
    pub why_not: Option<String>,
}

/// Every rule of the catalog, in file order, as seen when `caller` asks `server` for `demand`.
pub fn consider(rulebook: &Rulebook, server: &Server, caller: &Caller, demand: &Demand) -> Vec<Considered> {
    let seen = |(matches, clause): (bool, &Clause)| Considered {
        why_not: if matches {
            about(clause, demand).or_else(|| who(clause, caller))
        } else {
            Some(format!("not about server `{}`", server.id))
        },
        rule: clause.rule.clone(),
    };
    rulebook.clauses(server).map(seen).collect()
}

fn about(clause: &Clause, demand: &Demand) -> Option<String> {
    match clause.reach(demand) {
        Reach::Yes => None,
        Reach::Action => Some(match demand {
            Demand::Item(kind, _) | Demand::Unnamed(kind) => format!("not about `list` or `{}`", kind.verb()),
            Demand::Resources(_) => "not about `list` or `read`".into(),
            Demand::Session | Demand::List(_) | Demand::Unknown | Demand::Raw => "about no action".into(),
        }),
        Reach::Item => Some(match demand {
            Demand::Item(kind, name) => format!("not about {} `{name}`", kind.as_str()),
            Demand::Resources(_) => "not about these resources".into(),
            Demand::Unnamed(_) | Demand::Unknown | Demand::Raw => "only about single items".into(),
            Demand::Session | Demand::List(_) => "about no item".into(),
        }),
    }
}

fn who(clause: &Clause, caller: &Caller) -> Option<String> {
    let who = &clause.rule.who;
    let list = |words: &[String]| words.join(", ");
    if !clause.is_of_kind(caller) {
        return Some(format!("not about callers of kind {}", caller.kind.as_str()));
    }
    if !clause.is_of_subject(caller) {
        return Some(format!("not about subject `{}`", caller.subject));
    }
    if !clause.is_of_group(caller) {
        let wanted = who.groups.as_ref().map(|groups| list(groups.patterns())).unwrap_or_default();
        return Some(format!("the caller is in no group of: {wanted}"));
    }
    if !clause.is_of_issuer(caller) {
        let wanted = who.issuers.as_deref().map(list).unwrap_or_default();
        return Some(format!("the caller has no token of: {wanted}"));
    }
    let missing = clause.missing(caller).map(AsRef::as_ref).collect::<Vec<&str>>();
    match clause.fits(caller) {
        Fit::Yes => None,
        Fit::Scopes(_) | Fit::No => Some(format!("the caller lacks the scopes: {}", missing.join(" "))),
    }
}
