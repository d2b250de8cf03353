//! A YAML or JSON text as a tree whose every key and value knows where it stands, and the mistakes found in it.
//! Not here: what a catalog or a configuration may say (`catalog`, `conf`).
//!
//! The order of work is parse, expand, decode, check. Each step reports into the same [`Report`] and goes on, so
//! that one run shows every mistake of a file. JSON needs no code of its own: YAML 1.2 contains it.

mod conceal;
mod decode;
mod expand;
mod fields;
mod mistake;
mod parse;
mod schema;

pub use expand::expand_text;
pub use fields::{At, Entries, Period, Size, Words};
pub use mistake::{Code, Mistake, Mistakes, Report, Severity, Source};
pub use schema::schema_of;

use serde::de::DeserializeOwned;

/// Looks up a variable for `${NAME}`.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Mistakes kept for one document; what is beyond helps nobody and costs memory.
pub const MISTAKES_MAX: usize = 200;
/// Values in one document, aliases counted each time they are used: the guard against alias bombs.
pub const NODES_MAX: usize = 1_000_000;
/// Depth of nesting, aliases included. Everything we accept is far flatter.
pub const DEPTH_MAX: usize = 64;

/// Where something stands: a range of bytes in one of the report's sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Span {
    /// Which source, as [`Report::add_source`] numbered it.
    pub source: u32,
    /// First byte.
    pub start: u32,
    /// The byte after the last.
    pub end: u32,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Node {
    pub(crate) id: u32,
    /// Where it stands.
    pub span: Span,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Debug, Clone)]
pub enum Value {
    /// Text, or what plain text stands for: a number, a boolean, null.
    Scalar(Scalar),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in file order. Keys are scalars and unique.
    Map(Vec<(Node, Node)>),
}

/// A scalar as the file has it: nothing is converted before somebody says what he wants.
#[derive(Debug, Clone)]
pub struct Scalar {
    /// The text, escapes resolved.
    pub text: String,
    /// Written without quotes, so that `1` and `true` are not text.
    pub plain: bool,
    /// Came from a variable, or from outside the file: may be read as whatever is wanted.
    pub expanded: bool,
    /// A variable in it has no value, which was reported: it counts as absent.
    pub(crate) is_broken: bool,
}

impl Scalar {
    /// Whether it stands for null.
    pub fn is_null(&self) -> bool {
        self.plain && !self.expanded && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}

impl Node {
    /// A scalar that comes from outside a file, such as an environment variable.
    pub fn outside(span: Span, text: impl Into<String>) -> Self {
        Self {
            id: 0,
            span,
            value: Value::Scalar(Scalar { text: text.into(), plain: true, expanded: true, is_broken: false }),
        }
    }

    /// A null.
    pub fn null(span: Span) -> Self {
        Self {
            id: 0,
            span,
            value: Value::Scalar(Scalar {
                text: String::new(),
                plain: true,
                expanded: false,
                is_broken: false,
            }),
        }
    }

    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.is_null())
    }

    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) => Some(&scalar.text),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    /// The value of a key, and where the key stands.
    pub fn entry(&self, key: &str) -> Option<(&Node, &Node)> {
        match &self.value {
            Value::Map(entries) => {
                entries.iter().find(|(name, _)| name.text() == Some(key)).map(|(name, value)| (name, value))
            }
            Value::Scalar(_) | Value::List(_) => None,
        }
    }

    /// The value of a key.
    pub fn find(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, value)| value)
    }

    /// Sets the value at a path of keys, making the mappings on the way; what stood there before is replaced. What
    /// is no mapping where one is needed stays as it is, for decoding to complain about.
    pub fn set(&mut self, path: &[&str], value: Node) {
        let Some((key, rest)) = path.split_first() else {
            *self = value;
            return;
        };
        if self.is_null() {
            self.value = Value::Map(Vec::new());
        }
        let Value::Map(entries) = &mut self.value else { return };
        match entries.iter_mut().find(|(name, _)| name.text() == Some(key)) {
            Some((_, inner)) => inner.set(rest, value),
            None => {
                let mut inner = Self { id: 0, span: value.span, value: Value::Map(Vec::new()) };
                let span = value.span;
                inner.set(rest, value);
                entries.push((Self::outside(span, *key), inner));
            }
        }
    }

    fn number(&mut self, next: &mut u32) {
        self.id = *next;
        *next = next.saturating_add(1);
        match &mut self.value {
            Value::Scalar(_) => {}
            Value::List(items) => items.iter_mut().for_each(|item| item.number(next)),
            Value::Map(entries) => {
                for (key, value) in entries {
                    key.number(next);
                    value.number(next);
                }
            }
        }
    }
}

/// A text read into a tree.
#[derive(Debug)]
pub struct Document {
    /// The tree; null for a text without any value, and for one that is not YAML.
    pub root: Node,
    /// What was wrong so far.
    pub report: Report,
}

impl Document {
    /// Reads `text`; `name` is what the mistakes call it. Mistakes are in the report, and the root is null when
    /// the text is not YAML at all.
    pub fn parse(name: &str, text: &str) -> Self {
        let mut report = Report::default();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let source = report.add_source(Source::file(name, text));
        let root =
            parse::parse(source, text, &mut report).unwrap_or_else(|| Node::null(report.start(source)));
        Self { root, report }
    }

    /// Reads another text into the same report, for instance a list given in an environment variable.
    pub fn parse_into(report: &mut Report, source: u32, text: &str) -> Option<Node> {
        parse::parse(source, text, report)
    }

    /// Replaces `${NAME}` and `${NAME:-default}` in every value.
    pub fn expand(&mut self, lookup: Lookup<'_>) {
        expand::expand(&mut self.root, lookup, &mut self.report);
    }

    /// Decodes the tree. Every mistake is reported; a value of the wrong type counts as absent, so `T` is usable
    /// for further checks even then.
    pub fn decode<T: DeserializeOwned + Default>(&mut self) -> T {
        let mut count = 0;
        self.root.number(&mut count);
        decode::decode(&self.root, count, &mut self.report)
    }
}

/// The known word nearest to `word`, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |candidate: &&str| (candidate.len().max(word.len()) / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= near(candidate))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests;
