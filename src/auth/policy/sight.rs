//! What of a server's lists a caller sees, decided once for a whole list.
//! Not here: how lists are read and cut (`mcp`, `hub`).

use std::sync::Arc;

use super::clause::{Clause, Fit, LIST};
use super::uri::Name;
use super::{Caller, ItemKind, Policy};

/// What of a server's lists one caller sees: the rules that are about that caller.
#[derive(Debug)]
pub struct Sight {
    denies: Vec<Arc<Clause>>,
    allows: Vec<Arc<Clause>>,
}

impl Sight {
    pub(super) fn new(policy: &Policy, caller: &Caller) -> Self {
        let about = |clauses: &[Arc<Clause>], wanted: fn(Fit) -> bool| {
            clauses.iter().filter(|clause| wanted(clause.fits(caller))).cloned().collect()
        };
        if !caller.may_use(policy.server.as_str()) {
            return Self { denies: Vec::new(), allows: Vec::new() };
        }
        Self {
            denies: about(&policy.denies, |fit| fit == Fit::Yes),
            allows: about(&policy.allows, |fit| fit != Fit::No),
        }
    }

    /// Whether an item is there for the caller: used with what it has, or with more scopes.
    ///
    /// Invariant: the same as what [`Policy::decide`] says of using it, other than `Denied`.
    pub fn shows(&self, kind: ItemKind, name: &str) -> bool {
        if name.len() > kind.name_bytes_max() {
            return false;
        }
        let name = Name::new(kind, name);
        let needed = LIST | kind.use_bit();
        let is_taken =
            self.denies.iter().any(|clause| clause.bits & needed != 0 && clause.is_about_either(kind, &name));
        let given = self.allows.iter().filter(|clause| clause.is_about_both(kind, &name));
        !is_taken && given.fold(0, |bits, clause| bits | clause.bits) & needed == needed
    }
}
