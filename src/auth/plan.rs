//! What a changed catalog gives and takes from whom.
//! Not here: one decision explained (`explain`); how a plan is printed (`command/plan`).
//!
//! Every known caller is asked about every item that a rule of either catalog names on a server, and about one that none
//! names. A pattern stands for what it matches.

use std::collections::BTreeSet;

use super::{Demand, ItemKind, Known, Policy, Rulebook, Verdict};
use crate::catalog::{Items, Rule, Server, Snapshot};

/// The name of an item that no rule names: no server has one like it.
const ANY_OTHER: &str = "\u{10fffd}";

/// What a caller may do with something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// Nothing.
    No,
    /// It may use it, by that rule if there are rules.
    Yes(Option<String>),
    /// It may with a token that has these scopes.
    Scopes(String),
}

impl Given {
    /// Whether both come to the same for the caller, whatever rule it is.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Yes(_), Self::Yes(_)) => true,
            _ => self == other,
        }
    }
}

/// One thing that is different for one caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The caller's label.
    pub caller: String,
    /// Such as `call docs/search`, `read docs/*` for everything that is not named, `use web` for a raw upstream.
    pub what: String,
    /// What it was.
    pub before: Given,
    /// What it will be.
    pub after: Given,
}

/// Every difference, caller by caller and server by server, in the order of the configuration and of the new catalog.
pub fn plan(old: &Snapshot, new: &Snapshot, callers: &[Known]) -> Vec<Change> {
    let (old_rules, new_rules) = (Rulebook::new(&old.rules), Rulebook::new(&new.rules));
    let gone = old.servers.iter().filter(|server| !new.servers.iter().any(|other| other.id == server.id));
    let mut changes = Vec::new();
    for known in callers {
        for server in new.servers.iter().chain(gone.clone()) {
            let id = server.id.as_str();
            let policy =
                |snapshot: &Snapshot, rules: &Rulebook| snapshot.server(id).map(|server| rules.on(server));
            let (before, after) = (policy(old, &old_rules), policy(new, &new_rules));
            let rules = old.rules.list.iter().chain(&new.rules.list);
            for (what, demand) in asked(server, rules, [&before, &after]) {
                let given = |policy: &Option<Policy>| given(policy.as_ref(), known, &demand);
                let (before, after) = (given(&before), given(&after));
                if !before.is_like(&after) {
                    changes.push(Change { caller: known.label.clone(), what, before, after });
                }
            }
        }
    }
    changes
}

fn given(policy: Option<&Policy>, known: &Known, demand: &Demand) -> Given {
    match policy.map(|policy| policy.decide(&known.caller, demand)) {
        None | Some(Verdict::Denied(_)) => Given::No,
        Some(Verdict::Allowed { by }) => Given::Yes(by.map(|rule| rule.name.clone())),
        Some(Verdict::Scopes { scopes, .. }) => Given::Scopes(scopes.join(" ")),
    }
}

/// What there is to ask about on a server.
fn asked<'r>(
    server: &Server,
    rules: impl Iterator<Item = &'r Rule>,
    policies: [&Option<Policy>; 2],
) -> Vec<(String, Demand)> {
    let id = &server.id;
    if policies.iter().any(|policy| policy.as_ref().is_some_and(Policy::is_raw)) {
        return vec![(format!("use {id}"), Demand::Raw)];
    }
    let mut named: [BTreeSet<&str>; 3] = Default::default();
    for rule in rules {
        let Items::Only { tools, prompts, resources } = &rule.items else { continue };
        for (names, globs) in named.iter_mut().zip([tools, prompts, resources]) {
            names.extend(globs.patterns().iter().map(String::as_str).filter(|pattern| *pattern != "*"));
        }
    }
    let mut asked = Vec::new();
    for (kind, names) in ItemKind::ALL.into_iter().zip(named) {
        let verb = kind.verb();
        let items = names.into_iter().map(|name| (format!("{verb} {id}/{name}"), Demand::item(kind, name)));
        asked.extend(items);
        asked.push((format!("{verb} {id}/*"), Demand::item(kind, ANY_OTHER)));
    }
    asked
}
