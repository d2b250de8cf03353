//! One rule, ready to be matched: bits for actions and kinds, sorted words, prepared patterns.
//! Not here: how rules decide together (`policy`).

use super::uri::{Name, bare_pattern};
use super::{Caller, Demand, ItemKind};
use crate::auth::CallerKind;
use crate::catalog::{Effect, Globs, Items, Matcher, Rule, covers, overlap};

pub(super) const LIST: u8 = 1;
pub(super) const CALL: u8 = 2;
pub(super) const READ: u8 = 4;
pub(super) const GET: u8 = 8;
pub(super) const ALL: u8 = LIST | CALL | READ | GET;

/// One rule, ready to be matched.
#[derive(Debug)]
pub(in crate::auth) struct Clause {
    pub(in crate::auth) rule: Rule,
    pub(super) bits: u8,
    /// Sorted.
    pub(super) scopes: Vec<Box<str>>,
    kinds: u8,
    groups: Option<Matcher>,
    subjects: Option<Matcher>,
    issuers: Option<Vec<Box<str>>>,
    /// Tools, prompts, resources; `None` is everything.
    items: Option<[Matcher; 3]>,
}

/// Whether a rule is about a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::auth) enum Fit {
    Yes,
    /// It would be, if the caller's token had so many more scopes.
    Scopes(usize),
    No,
}

/// Whether a rule is about what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::auth) enum Reach {
    Yes,
    /// Its actions are other ones.
    Action,
    /// Its items are other ones.
    Item,
}

impl Clause {
    pub(in crate::auth) fn new(rule: &Rule) -> Self {
        let (actions, who) = (rule.actions, &rule.who);
        let bits = [(actions.list, LIST), (actions.call, CALL), (actions.read, READ), (actions.get, GET)];
        let mut scopes: Vec<Box<str>> =
            who.scopes.iter().flatten().map(|scope| scope.as_str().into()).collect();
        scopes.sort_unstable();
        scopes.dedup();
        let kinds = who.kinds.as_ref().map_or(u8::MAX, |kinds| {
            KINDS
                .iter()
                .filter(|kind| kinds.iter().any(|name| name == kind.as_str()))
                .map(|kind| bit(*kind))
                .sum()
        });
        Self {
            bits: bits.iter().filter(|(given, _)| *given).map(|(_, bit)| bit).sum(),
            scopes,
            kinds,
            groups: who.groups.as_ref().map(Matcher::new),
            subjects: who.subjects.as_ref().map(Matcher::new),
            issuers: who
                .issuers
                .as_ref()
                .map(|issuers| issuers.iter().map(|issuer| issuer.as_str().into()).collect()),
            items: match &rule.items {
                Items::All => None,
                Items::Only { tools, prompts, resources } => {
                    let resources = match rule.effect {
                        Effect::Allow => Matcher::new(resources),
                        Effect::Deny => Matcher::new(&with_bare(resources)),
                    };
                    Some([Matcher::new(tools), Matcher::new(prompts), resources])
                }
            },
            rule: rule.clone(),
        }
    }

    /// Whether the rule is about the caller.
    pub(in crate::auth) fn fits(&self, caller: &Caller) -> Fit {
        let meets = self.is_of_kind(caller)
            && self.is_of_subject(caller)
            && self.is_of_group(caller)
            && self.is_of_issuer(caller);
        if !meets {
            return Fit::No;
        }
        match self.missing(caller).count() {
            0 => Fit::Yes,
            missing if caller.kind == CallerKind::Jwt => Fit::Scopes(missing),
            _ => Fit::No,
        }
    }

    pub(in crate::auth) fn is_of_kind(&self, caller: &Caller) -> bool {
        self.kinds & bit(caller.kind) != 0
    }

    pub(in crate::auth) fn is_of_subject(&self, caller: &Caller) -> bool {
        self.subjects.as_ref().is_none_or(|subjects| subjects.matches(&caller.subject))
    }

    pub(in crate::auth) fn is_of_group(&self, caller: &Caller) -> bool {
        let is_in = |groups: &Matcher| caller.groups.iter().any(|group| groups.matches(group));
        self.groups.as_ref().is_none_or(is_in)
    }

    pub(in crate::auth) fn is_of_issuer(&self, caller: &Caller) -> bool {
        let is_of = |issuers: &Vec<Box<str>>| {
            caller.issuer.as_deref().is_some_and(|issuer| issuers.iter().any(|known| **known == *issuer))
        };
        self.issuers.as_ref().is_none_or(is_of)
    }

    /// Scopes that the rule asks for and the caller does not have.
    pub(in crate::auth) fn missing(&self, caller: &Caller) -> impl Iterator<Item = &Box<str>> {
        self.scopes.iter().filter(|scope| caller.scopes.binary_search(*scope).is_err())
    }

    /// Whether the rule is about what is asked, whoever asks; if not, what of it is something else.
    pub(in crate::auth) fn reach(&self, demand: &Demand) -> Reach {
        let deny = self.rule.effect == Effect::Deny;
        let named = |name: &Name<'_>, kind| {
            if deny { self.is_about_either(kind, name) } else { self.is_about_both(kind, name) }
        };
        let (bits, is_about) = match demand {
            Demand::Item(kind, name) => (LIST | kind.use_bit(), named(&Name::new(*kind, name), *kind)),
            Demand::Resources(uris) => {
                let kind = ItemKind::Resource;
                (LIST | READ, uris.iter().any(|uri| named(&Name::new(kind, uri), kind)))
            }
            Demand::Session | Demand::List(_) => (ALL, self.is_about_any()),
            Demand::Unnamed(_) | Demand::Unknown => (ALL, self.is_about_all() || deny && self.is_about_any()),
            Demand::Raw => (ALL, self.is_about_all()),
        };
        match (self.bits & bits != 0, is_about) {
            (false, _) => Reach::Action,
            (true, false) => Reach::Item,
            (true, true) => Reach::Yes,
        }
    }

    fn items(&self, kind: ItemKind) -> Option<&Matcher> {
        let [tools, prompts, resources] = self.items.as_ref()?;
        Some(match kind {
            ItemKind::Tool => tools,
            ItemKind::Prompt => prompts,
            ItemKind::Resource => resources,
        })
    }

    /// Whether the rule is about an item in every spelling of its name: what gives has to give all of them.
    pub(super) fn is_about_both(&self, kind: ItemKind, name: &Name<'_>) -> bool {
        self.items(kind).is_none_or(|items| {
            items.matches(name.written) && name.plain.iter().all(|plain| items.matches(plain))
        })
    }

    /// Whether the rule is about an item in any spelling of its name: what takes one takes the item.
    pub(super) fn is_about_either(&self, kind: ItemKind, name: &Name<'_>) -> bool {
        self.items(kind).is_none_or(|items| {
            let mut others = name.plain.iter().chain(&name.bare);
            items.matches(name.written) || others.any(|other| items.matches(other))
        })
    }

    /// Whether the rule is about everything of a server, traffic that concerns no item included.
    pub(super) fn is_about_all(&self) -> bool {
        self.items.is_none()
    }

    /// Whether the rule is about anything.
    pub(super) fn is_about_any(&self) -> bool {
        self.items.as_ref().is_none_or(|items| items.iter().any(|items| !items.is_empty()))
    }

    /// Whether a rule that allows gives some item all by itself.
    pub(super) fn gives_something(&self) -> bool {
        let lists = self.bits & LIST != 0;
        lists
            && ItemKind::ALL.iter().any(|kind| {
                self.bits & kind.use_bit() != 0 && self.items(*kind).is_none_or(|items| !items.is_empty())
            })
    }

    /// Whether some item that this rule lets be used is listed by one of `allows` and not taken by `denies`.
    ///
    /// What `denies` take is found pattern by pattern, so several that together take all of a pattern are not seen: the
    /// server then is there for the caller, and its lists are empty.
    pub(super) fn gives_beyond(&self, allows: &[&Self], denies: &[&Self]) -> bool {
        ItemKind::ALL.iter().any(|kind| {
            let used = self.patterns(*kind, kind.use_bit());
            let taken = |pattern: &str| {
                denies.iter().any(|deny| {
                    deny.patterns(*kind, LIST | kind.use_bit()).iter().any(|wide| covers(wide, pattern))
                })
            };
            used.iter().filter(|pattern| !taken(pattern)).any(|pattern| {
                let lists = allows.iter().flat_map(|allow| allow.patterns(*kind, LIST));
                lists.into_iter().any(|listed| overlap(listed, pattern) && !taken(listed))
            })
        })
    }

    /// The patterns about items of that kind, if the rule is about any of those actions.
    fn patterns(&self, kind: ItemKind, bits: u8) -> &[String] {
        if self.bits & bits == 0 {
            return &[];
        }
        match (&self.rule.items, kind) {
            (Items::All, _) => any().patterns(),
            (Items::Only { tools, .. }, ItemKind::Tool) => tools.patterns(),
            (Items::Only { prompts, .. }, ItemKind::Prompt) => prompts.patterns(),
            (Items::Only { resources, .. }, ItemKind::Resource) => resources.patterns(),
        }
    }
}

/// Patterns of URIs, and their bare spellings.
fn with_bare(globs: &Globs) -> Globs {
    let bare = globs.patterns().iter().filter_map(|pattern| bare_pattern(pattern));
    Globs::new(globs.patterns().iter().cloned().chain(bare).collect())
}

/// What a rule without items says of each kind.
fn any() -> &'static Globs {
    static ANY: std::sync::LazyLock<Globs> = std::sync::LazyLock::new(|| Globs::new(vec!["*".to_owned()]));
    &ANY
}

const KINDS: [CallerKind; 4] =
    [CallerKind::Anonymous, CallerKind::ApiKey, CallerKind::Jwt, CallerKind::Certificate];

fn bit(kind: CallerKind) -> u8 {
    match kind {
        CallerKind::Anonymous => 1,
        CallerKind::ApiKey => 2,
        CallerKind::Jwt => 4,
        CallerKind::Certificate => 8,
    }
}
