//! A member's name against the list of known ones, and whether it stands for the first time.
//! Not here: what the members mean (`message`).

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Visitor};

use super::MalformedKind;

/// A member's name, told apart without an allocation.
pub(super) enum Key {
    Known(usize),
    /// A known name in another spelling that some readers take for it.
    Alias(usize),
    Unknown,
}

/// Reads a member's name against a list of known ones.
pub(super) struct KeyOf<'k>(pub(super) &'k [&'static str]);

impl<'de> DeserializeSeed<'de> for KeyOf<'_> {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyOf<'_> {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Key, E> {
        if let Some(at) = self.0.iter().position(|known| *known == name) {
            return Ok(Key::Known(at));
        }
        let alias = self.0.iter().position(|known| is_alias(known, name));
        Ok(alias.map_or(Key::Unknown, Key::Alias))
    }
}

/// Whether a reader that ignores case takes `name` for `known`. Go's does, and folds as Unicode says: the long s and the
/// Kelvin sign are letters of ASCII to it (`encoding/json`, "preferring exact but also accepting case-insensitive").
fn is_alias(known: &str, name: &str) -> bool {
    if name.is_ascii() {
        return known.eq_ignore_ascii_case(name);
    }
    let folded = name.chars().map(|letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    });
    folded.eq(known.chars().map(|letter| letter.to_ascii_lowercase()))
}

/// The place of a known member that stands for the first time; records the fault otherwise.
pub(super) fn once(
    key: &Key,
    seen: &mut [bool],
    names: &[&'static str],
    fault: &mut Option<MalformedKind>,
) -> Option<usize> {
    let (at, exact) = match key {
        Key::Known(at) => (*at, true),
        Key::Alias(at) => (*at, false),
        Key::Unknown => return None,
    };
    let first = seen.get_mut(at).is_some_and(|seen| !std::mem::replace(seen, true));
    if exact && first {
        return Some(at);
    }
    let name = names.get(at).copied().unwrap_or_default();
    fault.get_or_insert(MalformedKind::Ambiguous(name));
    None
}
