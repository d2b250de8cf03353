//! The parts that collections and places are handed out in.
//! Not here: what a single value becomes (`decode`).

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::{DecodeError, Decoder};
use crate::document::fields::AT;
use crate::document::{Code, Node, Span, nearest};

/// Gives an [`crate::document::At`] its four parts: source, start, end, value.
pub(super) struct Place<'a> {
    pub(super) step: u8,
    pub(super) of: Decoder<'a>,
}

impl<'a> de::SeqAccess<'a> for Place<'a> {
    type Error = DecodeError;

    fn next_element_seed<S: DeserializeSeed<'a>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DecodeError> {
        let span = self.of.node.span;
        self.step += 1;
        let part = match self.step {
            1 => span.source,
            2 => span.start,
            3 => span.end,
            _ => return seed.deserialize(self.of).map(Some),
        };
        seed.deserialize(part.into_deserializer()).map(Some)
    }
}

pub(super) struct List<'a> {
    pub(super) rest: std::slice::Iter<'a, Node>,
    pub(super) of: Decoder<'a>,
}

impl<'a> de::SeqAccess<'a> for List<'a> {
    type Error = DecodeError;

    fn next_element_seed<S: DeserializeSeed<'a>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DecodeError> {
        let Some(node) = self.rest.by_ref().find(|node| !self.of.state.is_absent(node)) else {
            return Ok(None);
        };
        seed.deserialize(self.of.with(node)).map(Some).map_err(|error| error.at(node))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// The items of a comma-separated variable. They all stand where the variable stands.
pub(super) struct Words<'a> {
    pub(super) rest: std::str::Split<'a, char>,
    pub(super) of: Decoder<'a>,
}

impl<'a> de::SeqAccess<'a> for Words<'a> {
    type Error = DecodeError;

    fn next_element_seed<S: DeserializeSeed<'a>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DecodeError> {
        let Some(word) = self.rest.by_ref().map(str::trim).find(|word| !word.is_empty()) else {
            return Ok(None);
        };
        seed.deserialize(Word { text: word, span: self.of.node.span })
            .map(Some)
            .map_err(|error| error.at(self.of.node))
    }
}

pub(super) struct Word<'a> {
    pub(super) text: &'a str,
    pub(super) span: Span,
}

impl<'a> Deserializer<'a> for Word<'a> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_str(self.text)
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        if name != AT {
            return Err(de::Error::invalid_type(de::Unexpected::Str(self.text), &visitor));
        }
        let span = self.span;
        visitor.visit_seq(WordPlace { step: 0, word: self.text, span })
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let word: StrDeserializer<'_, DecodeError> = self.text.into_deserializer();
        visitor.visit_enum(word)
    }

    forward_to_deserialize_any! {
        <W: Visitor<'a>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

pub(super) struct WordPlace<'a> {
    pub(super) step: u8,
    pub(super) word: &'a str,
    pub(super) span: Span,
}

impl<'a> de::SeqAccess<'a> for WordPlace<'a> {
    type Error = DecodeError;

    fn next_element_seed<S: DeserializeSeed<'a>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DecodeError> {
        self.step += 1;
        let part = match self.step {
            1 => self.span.source,
            2 => self.span.start,
            3 => self.span.end,
            _ => return seed.deserialize(Word { text: self.word, span: self.span }).map(Some),
        };
        seed.deserialize(part.into_deserializer()).map(Some)
    }
}

/// Which keys a mapping may have.
#[derive(Clone, Copy)]
pub(super) enum Known {
    Any,
    Only(&'static [&'static str]),
}

pub(super) struct Map<'a> {
    pub(super) rest: std::slice::Iter<'a, (Node, Node)>,
    pub(super) value: Option<&'a Node>,
    pub(super) known: Known,
    pub(super) of: Decoder<'a>,
}

impl Map<'_> {
    /// Whether a key is to be decoded; an unknown one is noted.
    fn takes(&self, key: &Node) -> bool {
        let Known::Only(known) = self.known else { return true };
        let text = key.text().unwrap_or_default();
        if known.contains(&text) {
            return true;
        }
        // As in Compose files, `x-…` at the top holds anchors and whatever else we need not understand.
        let is_extension = self.of.node.id == self.of.state.root && text.starts_with("x-");
        if !is_extension {
            let valid = format!("valid keys: {}", known.join(", "));
            let suggestion = match nearest(text, known.iter().copied()) {
                Some(word) => format!("did you mean `{word}`? ({valid})"),
                None => valid,
            };
            let message = format!("unknown key `{text}`");
            self.of.state.unknown.borrow_mut().push((key.span, message, suggestion));
        }
        false
    }
}

impl<'a> de::MapAccess<'a> for Map<'a> {
    type Error = DecodeError;

    fn next_key_seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<Option<S::Value>, DecodeError> {
        while let Some((key, value)) = self.rest.next() {
            if self.of.state.is_absent(value) || self.of.state.is_absent(key) || !self.takes(key) {
                continue;
            }
            self.value = Some(value);
            // A key such as `1:` or `true:` is its text.
            return seed.deserialize(Key { node: key }).map(Some).map_err(|error| error.at(key));
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'a>>(&mut self, seed: S) -> Result<S::Value, DecodeError> {
        match self.value.take() {
            Some(node) => seed.deserialize(self.of.with(node)).map_err(|error| error.at(node)),
            None => Err(DecodeError::new(Code::Syntax, "a value without its key".to_owned())),
        }
    }
}

pub(super) struct Key<'a> {
    pub(super) node: &'a Node,
}

impl<'a> Deserializer<'a> for Key<'a> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_str(self.node.text().unwrap_or_default())
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        Word { text: self.node.text().unwrap_or_default(), span: self.node.span }
            .deserialize_struct(name, fields, visitor)
    }

    forward_to_deserialize_any! {
        <W: Visitor<'a>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
