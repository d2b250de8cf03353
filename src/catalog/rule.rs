//! Rules, checked: who may do what on which servers, tools, prompts and resources.
//! Not here: the decision (`auth/policy`); the file's form (`raw`) and its check (`check/rules.rs`).

use crate::conf::Limit;

/// The rules of one catalog, in file order. Without any, a credential's own servers decide alone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// The rules.
    pub list: Vec<Rule>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Its name; `rule 3` when the file gives none.
    pub name: String,
    /// Where it stands, as `catalog.yaml:12`.
    pub place: String,
    /// Whether it gives or takes. What any rule takes, no rule gives.
    pub effect: Effect,
    /// What it is about.
    pub actions: Actions,
    /// Whom it is about.
    pub who: Who,
    /// Servers.
    pub servers: Globs,
    /// What of those servers.
    pub items: Items,
}

/// Whether a rule gives or takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It gives.
    Allow,
    /// It takes.
    Deny,
}

/// What may be done: to list items, to call a tool, to read a resource, to get a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Actions {
    pub list: bool,
    pub call: bool,
    pub read: bool,
    pub get: bool,
}

impl Actions {
    /// All of them; `*` in a file.
    pub const ALL: Self = Self { list: true, call: true, read: true, get: true };
}

/// Whom a rule is about: a caller that has all that is said here. What is absent is not asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Who {
    /// Scopes, all of which the caller has.
    pub scopes: Option<Vec<String>>,
    /// Groups, one of which the caller is in.
    pub groups: Option<Globs>,
    /// Subjects, one of which is the caller's.
    pub subjects: Option<Globs>,
    /// Kinds of callers: `anonymous`, `api_key`, `jwt`, `certificate`.
    pub kinds: Option<Vec<String>>,
    /// Issuers of tokens, exactly.
    pub issuers: Option<Vec<String>>,
}

/// What of a server a rule is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Items {
    /// Everything, traffic that concerns no item included.
    All,
    /// Only items of these names or URIs.
    Only {
        /// Tools by name.
        tools: Globs,
        /// Prompts by name.
        prompts: Globs,
        /// Resources by URI, templates by their text.
        resources: Globs,
    },
}

/// Patterns in which `*` stands for any text and `?` for any one character. An empty list matches nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Globs(Vec<String>);

impl Globs {
    /// Takes patterns as they are.
    pub fn new(patterns: Vec<String>) -> Self {
        Self(patterns)
    }

    /// The patterns.
    pub fn patterns(&self) -> &[String] {
        &self.0
    }
}

/// Limits of one server and its tools.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Throttle {
    /// The server's own.
    pub limit: Option<Shared>,
    /// Those of single tools, by exact name.
    pub tools: Vec<(String, ToolThrottle)>,
}

/// What one tool costs and how often it may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolThrottle {
    /// Tokens that a call takes from every bucket on its way except the client address's; at least 1.
    pub cost: u32,
    /// The tool's own limit.
    pub limit: Option<Shared>,
}

/// A limit, and whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared {
    /// The limit.
    pub limit: Limit,
    /// Whether each caller has it for itself; otherwise all callers share it.
    pub each_caller: bool,
}
