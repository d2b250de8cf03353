//! What a message wants of a server, as far as rules tell wants apart.
//! Not here: how it is read from a message (`hub/demand`); the decision (`policy`).

use super::Denied;
use super::clause::{CALL, GET, READ};

/// A kind of item that a server offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemKind {
    /// A tool, by name.
    Tool,
    /// A prompt, by name.
    Prompt,
    /// A resource by URI, or a template by its text.
    Resource,
}

impl ItemKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tool, Self::Prompt, Self::Resource];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tool => "tool",
            Self::Prompt => "prompt",
            Self::Resource => "resource",
        }
    }

    /// What using it is called.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Tool => "call",
            Self::Prompt => "get",
            Self::Resource => "read",
        }
    }

    /// The longest name or URI that rules are asked about, in bytes; matching takes time in proportion.
    pub fn name_bytes_max(self) -> usize {
        match self {
            Self::Tool | Self::Prompt => 1024,
            Self::Resource => 8 * 1024,
        }
    }

    pub(super) fn use_bit(self) -> u8 {
        match self {
            Self::Tool => CALL,
            Self::Prompt => GET,
            Self::Resource => READ,
        }
    }
}

/// What a message wants of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// What concerns no item, such as `initialize`, `ping`, the GET stream or an answer to the server.
    Session,
    /// A list of items; what is in it is another question, see [`super::Sight`].
    List(ItemKind),
    /// To use one item.
    Item(ItemKind, Box<str>),
    /// To read several resources, or hear of their changes.
    Resources(Vec<Box<str>>),
    /// To use an item whose name cannot be told, or is too long to be one.
    Unnamed(ItemKind),
    /// A method that we do not know, which may be anything.
    Unknown,
    /// Traffic that is not read.
    Raw,
}

impl Demand {
    /// To use one item; a name that is too long is none.
    pub fn item(kind: ItemKind, name: &str) -> Self {
        if name.len() > kind.name_bytes_max() { Self::Unnamed(kind) } else { Self::Item(kind, name.into()) }
    }

    /// How its denial looks to a caller that sees the server.
    pub(super) fn denied(&self) -> Denied {
        match self {
            Self::Item(kind, name) => Denied::Item(*kind, name.clone()),
            Self::Unnamed(kind) => Denied::Item(*kind, "".into()),
            Self::Resources(uris) => {
                Denied::Item(ItemKind::Resource, uris.first().cloned().unwrap_or_default())
            }
            Self::Unknown => Denied::Method,
            Self::Session | Self::List(_) | Self::Raw => Denied::Server,
        }
    }
}
