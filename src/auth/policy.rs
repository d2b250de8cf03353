//! The one decision: may this caller do that on that server? It guards every call and filters every list.
//! Not here: who the caller is (`auth`), what a message asks for (`hub`), what is done once it may (`upstream`).
//!
//! An item (a tool, a prompt, a resource) is there for a caller who may list it and use it, and for nobody else: so what
//! is hidden is also denied, and whoever asks for it learns what one learns of an item that does not exist.
//!
//! The order of the decision, which is all there is:
//! 1. The `servers` of the caller's credential. What they leave out is denied.
//! 2. Without any rule in the catalog, everything else is allowed.
//! 3. A rule that denies. Any one is enough.
//! 4. Rules that allow. There has to be one for the listing and one for the use, be it the same.
//! 5. A rule that would allow if a token had more scopes: its items are shown, and using one tells which are missing.
//!    Only tokens can get more scopes, so for other callers such a rule is as if it were not there.
//! 6. Everything else is denied.

mod clause;
mod demand;
mod sight;
#[cfg(test)]
mod tests;
mod uri;

use std::sync::Arc;

use super::Caller;
use crate::catalog::{Effect, Matcher, RemoteKind, Rule, Rules, Runtime, Server, ServerId};
pub(super) use clause::{Clause, Fit, Reach};
pub use demand::{Demand, ItemKind};
pub use sight::Sight;
use uri::Name;

/// A value that was found allowed for a caller. Only [`allow`] makes one of nothing, so whoever takes it need not ask
/// again.
#[derive(Debug)]
pub struct Allowed<T>(T);

impl<T> Allowed<T> {
    /// What was allowed.
    pub fn get(&self) -> &T {
        &self.0
    }

    /// Something made of what was allowed, and allowed with it: a way to the server of which a use was.
    pub fn lead<U, E>(&self, make: impl FnOnce(&T) -> Result<U, E>) -> Result<Allowed<U>, E> {
        make(&self.0).map(Allowed)
    }
}

/// What the caller may not do, as one may tell the caller: it says nothing about whether the thing exists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Anything on that server.
    #[error("no such server for this caller")]
    Server,
    /// A tool of that name, a prompt of that name, a resource of that URI.
    #[error("no such item for this caller")]
    Item(ItemKind, Box<str>),
    /// A method that we do not know, on a server that the caller sees a part of.
    #[error("no such method for this caller")]
    Method,
    /// Something that a token with all of these scopes may do.
    #[error("more scopes are needed")]
    Scopes(Box<[Box<str>]>),
}

impl Denied {
    /// Its stable name in logs and metrics, which may tell more than the caller may know.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Server => "denied_server",
            Self::Item(ItemKind::Tool, _) => "denied_tool",
            Self::Item(ItemKind::Prompt, _) => "denied_prompt",
            Self::Item(ItemKind::Resource, _) => "denied_resource",
            Self::Method => "denied_method",
            Self::Scopes(_) => "insufficient_scope",
        }
    }
}

/// Allows `target`, which is on the server of `policy`, for `caller`.
pub fn allow<T>(policy: &Policy, caller: &Caller, demand: &Demand, target: T) -> Result<Allowed<T>, Denied> {
    match policy.decide(caller, demand) {
        Verdict::Allowed { .. } => Ok(Allowed(target)),
        Verdict::Scopes { scopes, .. } => Err(Denied::Scopes(scopes)),
        Verdict::Denied(_) if !policy.sees(caller) => Err(Denied::Server),
        Verdict::Denied(_) => Err(demand.denied()),
    }
}

/// What was decided, and by which rule.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict<'p> {
    /// Allowed. The rule is the one that gives the use; `None` when no rule had to.
    Allowed {
        /// The rule.
        by: Option<&'p Rule>,
    },
    /// Allowed to a token with these scopes, which are all of the rule's and those of the token that rules ask for.
    Scopes {
        /// The scopes, sorted.
        scopes: Box<[Box<str>]>,
        /// The rule that asks for the most of them.
        by: &'p Rule,
    },
    /// Denied.
    Denied(Why<'p>),
}

/// Why something is denied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Why<'p> {
    /// The server is not among those of the caller's credential.
    Servers,
    /// A rule takes it.
    Rule(&'p Rule),
    /// No rule gives it.
    Default,
}

/// The rules of one catalog, ready to decide.
#[derive(Debug, Default)]
pub struct Rulebook(Vec<(Matcher, Arc<Clause>)>);

impl Rulebook {
    /// Prepares rules.
    pub fn new(rules: &Rules) -> Self {
        let prepare = |rule: &Rule| (Matcher::new(&rule.servers), Arc::new(Clause::new(rule)));
        Self(rules.list.iter().map(prepare).collect())
    }

    /// Every rule, and whether it may match on that server.
    pub(super) fn clauses(&self, server: &Server) -> impl Iterator<Item = (bool, &Clause)> {
        self.0.iter().map(|(servers, clause)| (servers.matches(server.id.as_str()), &**clause))
    }

    /// What the rules say about one server.
    pub fn on(&self, server: &Server) -> Policy {
        let is_raw = matches!(&server.runtime, Runtime::Remote(remote) if remote.kind == RemoteKind::Raw);
        let id = server.id.as_str();
        let about = |effect: Effect| {
            let clauses = self.0.iter().filter(|(servers, _)| servers.matches(id)).map(|(_, clause)| clause);
            clauses.filter(|clause| clause.rule.effect == effect).cloned().collect()
        };
        Policy {
            server: server.id.clone(),
            is_raw,
            is_ruled: !self.0.is_empty(),
            denies: about(Effect::Deny),
            allows: about(Effect::Allow),
        }
    }
}

/// What the rules say about one server: those that may match there, in file order.
#[derive(Debug)]
pub struct Policy {
    server: ServerId,
    is_raw: bool,
    /// Whether the catalog has any rule.
    is_ruled: bool,
    denies: Vec<Arc<Clause>>,
    allows: Vec<Arc<Clause>>,
}

impl Policy {
    /// Decides.
    pub fn decide(&self, caller: &Caller, demand: &Demand) -> Verdict<'_> {
        if !caller.may_use(self.server.as_str()) {
            return Verdict::Denied(Why::Servers);
        }
        if !self.is_ruled {
            return Verdict::Allowed { by: None };
        }
        match demand {
            Demand::Session | Demand::List(_) => self.session(caller),
            Demand::Item(kind, name) => self.item(caller, *kind, name),
            Demand::Resources(uris) => self.resources(caller, uris),
            Demand::Unnamed(_) | Demand::Unknown | Demand::Raw => self.everything(caller, demand),
        }
    }

    /// Whether the server is there for the caller at all, if only with more scopes: for what is shown, not for what is
    /// done.
    pub fn sees(&self, caller: &Caller) -> bool {
        let demand = if self.is_raw { Demand::Raw } else { Demand::Session };
        !matches!(self.decide(caller, &demand), Verdict::Denied(_))
    }

    /// Whether nothing of the server is withheld from the caller: what acts on the server itself acts on all of it.
    pub fn gives_all(&self, caller: &Caller) -> bool {
        let demand = if self.is_raw { Demand::Raw } else { Demand::Unknown };
        matches!(self.decide(caller, &demand), Verdict::Allowed { .. })
    }

    /// Whether the caller is shown and given the same as under `other`. May say no where rules are only worded otherwise.
    pub fn is_same_for(&self, other: &Self, caller: &Caller) -> bool {
        fn about<'p>(
            policy: &'p Policy,
            caller: &'p Caller,
        ) -> impl Iterator<Item = impl PartialEq + 'p> + 'p {
            let clauses = policy.denies.iter().chain(&policy.allows);
            clauses
                .filter(|clause| clause.fits(caller) != Fit::No)
                .map(|clause| (clause.rule.effect, clause.bits, &clause.rule.items, &clause.scopes))
        }
        self.is_ruled == other.is_ruled && about(self, caller).eq(about(other, caller))
    }

    /// Whether the server is forwarded unread.
    pub fn is_raw(&self) -> bool {
        self.is_raw
    }

    /// Whether the catalog has any rule: what a list says then depends on who asks.
    pub fn is_ruled(&self) -> bool {
        self.is_ruled
    }

    /// What of the server's lists the caller sees; `None` is all of it.
    pub fn sight(&self, caller: &Caller) -> Option<Sight> {
        if !self.is_ruled || matches!(self.everything(caller, &Demand::Unknown), Verdict::Allowed { .. }) {
            return None;
        }
        Some(Sight::new(self, caller))
    }

    /// One item: nothing denies it, and it may be both listed and used.
    fn item(&self, caller: &Caller, kind: ItemKind, name: &str) -> Verdict<'_> {
        let name = Name::new(kind, name);
        let needed = clause::LIST | kind.use_bit();
        for clause in &self.denies {
            if clause.bits & needed != 0
                && clause.is_about_either(kind, &name)
                && clause.fits(caller) == Fit::Yes
            {
                return Verdict::Denied(Why::Rule(&clause.rule));
            }
        }
        let about = self.allows.iter().filter(|clause| clause.is_about_both(kind, &name));
        self.gather(caller, needed, kind.use_bit(), about)
    }

    fn resources(&self, caller: &Caller, uris: &[Box<str>]) -> Verdict<'_> {
        let mut so_far = self.session(caller);
        for uri in uris {
            match self.item(caller, ItemKind::Resource, uri) {
                Verdict::Denied(why) => return Verdict::Denied(why),
                scopes @ Verdict::Scopes { .. } => so_far = scopes,
                Verdict::Allowed { by } if matches!(so_far, Verdict::Allowed { .. }) => {
                    so_far = Verdict::Allowed { by };
                }
                Verdict::Allowed { .. } => {}
            }
        }
        so_far
    }

    /// What may be anything: allowed to whom nothing of the server is withheld.
    fn everything(&self, caller: &Caller, demand: &Demand) -> Verdict<'_> {
        // A raw upstream has no items, so a rule that names some says nothing about it.
        let counts =
            |clause: &&Arc<Clause>| !self.is_raw || !matches!(demand, Demand::Raw) || clause.is_about_all();
        for clause in self.denies.iter().filter(counts) {
            if clause.is_about_any() && clause.fits(caller) == Fit::Yes {
                return Verdict::Denied(Why::Rule(&clause.rule));
            }
        }
        let about = self.allows.iter().filter(|clause| clause.is_about_all());
        self.gather(caller, clause::ALL, clause::ALL, about)
    }

    /// Whether `about` together give every bit of `needed`. The rule that is told is the first that gives some of
    /// `telling`.
    fn gather<'p>(
        &'p self,
        caller: &Caller,
        needed: u8,
        telling: u8,
        about: impl Iterator<Item = &'p Arc<Clause>> + Clone,
    ) -> Verdict<'p> {
        let (mut given, mut with_scopes, mut by) = (0, 0, None);
        for clause in about.clone() {
            let gives = clause.bits & needed;
            if gives & !given == 0 {
                continue;
            }
            match clause.fits(caller) {
                Fit::Yes => {
                    given |= gives;
                    if gives & telling != 0 {
                        by.get_or_insert(&clause.rule);
                    }
                    if given == needed {
                        return Verdict::Allowed { by };
                    }
                }
                Fit::Scopes(_) => with_scopes |= gives,
                Fit::No => {}
            }
        }
        if given | with_scopes != needed {
            return Verdict::Denied(Why::Default);
        }
        self.step_up(caller, needed & !given, about)
    }

    /// The scopes that a token lacks for `lacking`, of the rules that ask for the fewest more.
    fn step_up<'p>(
        &'p self,
        caller: &Caller,
        mut lacking: u8,
        about: impl Iterator<Item = &'p Arc<Clause>> + Clone,
    ) -> Verdict<'p> {
        let mut rules: Vec<&Clause> = Vec::new();
        while lacking != 0 {
            let nearest = about.clone().filter(|clause| clause.bits & lacking != 0);
            let nearest = nearest.filter_map(|clause| match clause.fits(caller) {
                Fit::Scopes(missing) => Some((missing, clause)),
                Fit::Yes | Fit::No => None,
            });
            let Some((_, clause)) = nearest.min_by_key(|(missing, _)| *missing) else {
                return Verdict::Denied(Why::Default);
            };
            lacking &= !clause.bits;
            rules.push(clause);
        }
        let Some(by) = rules.iter().max_by_key(|clause| clause.scopes.len()) else {
            return Verdict::Denied(Why::Default);
        };
        // A client asks its issuer for exactly what is told, so what it has and needs elsewhere is told again.
        let known = self.allows.iter().flat_map(|clause| &clause.scopes);
        let kept = known.filter(|scope| caller.scopes.binary_search(*scope).is_ok());
        let mut scopes: Vec<Box<str>> =
            rules.iter().flat_map(|clause| &clause.scopes).chain(kept).cloned().collect();
        scopes.sort_unstable();
        scopes.dedup();
        Verdict::Scopes { scopes: scopes.into(), by: &by.rule }
    }

    /// What concerns no item: allowed where some item may be there for the caller.
    fn session(&self, caller: &Caller) -> Verdict<'_> {
        // The usual case costs no list: one rule gives everything, or some items, and none takes anything.
        let whole =
            self.allows.iter().find(|clause| clause.gives_something() && clause.fits(caller) != Fit::No);
        if let Some(clause) = whole
            && self.denies.iter().all(|deny| deny.fits(caller) != Fit::Yes)
        {
            return Verdict::Allowed { by: Some(&clause.rule) };
        }
        let denies: Vec<&Clause> = self
            .denies
            .iter()
            .map(|clause| &**clause)
            .filter(|clause| clause.fits(caller) == Fit::Yes)
            .collect();
        let allows: Vec<&Clause> = self
            .allows
            .iter()
            .map(|clause| &**clause)
            .filter(|clause| clause.fits(caller) != Fit::No)
            .collect();
        let left = allows.iter().find(|clause| clause.gives_beyond(&allows, &denies));
        match (left, denies.first()) {
            (Some(clause), _) => Verdict::Allowed { by: Some(&clause.rule) },
            (None, Some(deny)) if !allows.is_empty() => Verdict::Denied(Why::Rule(&deny.rule)),
            (None, _) => Verdict::Denied(Why::Default),
        }
    }
}
