//! A tree into raw types through serde, with every mistake reported and not only the first.
//! Not here: what the raw types are (`catalog/raw.rs`, `conf/raw.rs`).
//!
//! serde stops at the first error. So an error is reported where it happened, the value is marked as absent, and
//! decoding starts over, until it goes through. Raw types make every field optional, so that an absent value never
//! is an error of its own. Messages never repeat a value: it may have come from a variable.

mod access;

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, Deserializer, Expected, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use access::{Known, List, Map, Place, Words};

use super::fields::AT;
use super::{Code, Node, Report, Scalar, Span, Value, nearest};

/// Values of the wrong type found in one go. Each costs a pass over the whole tree.
const PASSES_MAX: u32 = 200;
/// Nodes visited in all passes together, so that a huge file full of mistakes does not take for ever.
const NODES_DECODED_MAX: u32 = 5_000_000;

pub(super) fn decode<T: DeserializeOwned + Default>(root: &Node, count: u32, report: &mut Report) -> T {
    let state = State { root: root.id, ..State::default() };
    // A document without values is one without keys: everything is at its default.
    if root.is_null() {
        return T::default();
    }
    let passes_max = (NODES_DECODED_MAX / count.max(1)).clamp(1, PASSES_MAX);
    for _ in 0..passes_max {
        let result = T::deserialize(Decoder { node: root, state: &state });
        for (span, message, suggestion) in state.unknown.borrow_mut().drain(..) {
            report.advise(span, Code::UnknownKey, message, suggestion);
        }
        let error = match result {
            Ok(value) => return value,
            Err(error) => error,
        };
        let (id, span) = error.at.unwrap_or((root.id, root.span));
        match error.suggestion {
            Some(suggestion) => report.advise(span, error.code, error.message, suggestion),
            None => report.add(span, error.code, error.message),
        }
        report.take_out(span);
        let mut absent = state.absent.borrow_mut();
        if id == root.id || !absent.insert(id) {
            break;
        }
    }
    T::default()
}

#[derive(Default)]
struct State {
    root: u32,
    absent: RefCell<HashSet<u32>>,
    unknown: RefCell<Vec<(Span, String, String)>>,
}

impl State {
    fn is_absent(&self, node: &Node) -> bool {
        let is_broken = matches!(&node.value, Value::Scalar(scalar) if scalar.is_broken);
        is_broken || self.absent.borrow().contains(&node.id)
    }
}

/// Why a value could not be decoded, and which.
#[derive(Debug)]
pub(super) struct DecodeError {
    at: Option<(u32, Span)>,
    code: Code,
    message: String,
    suggestion: Option<String>,
}

impl DecodeError {
    fn new(code: Code, message: String) -> Self {
        Self { at: None, code, message, suggestion: None }
    }

    /// The innermost value is the one that is wrong.
    fn at(mut self, node: &Node) -> Self {
        self.at.get_or_insert((node.id, node.span));
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Code::InvalidValue, message.to_string())
    }

    fn invalid_type(found: de::Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::new(Code::WrongType, format!("expected {}, found {}", plainly(wanted), kind(&found)))
    }

    fn invalid_value(_: de::Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::new(Code::InvalidValue, format!("expected {}", plainly(wanted)))
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        let mut error = Self::new(Code::InvalidValue, format!("expected one of {}", words(known)));
        error.suggestion =
            nearest(found, known.iter().copied()).map(|word| format!("did you mean `{word}`?"));
        error
    }
}

/// What was wanted, in words of the file and not of the program.
fn plainly(wanted: &dyn Expected) -> String {
    let text = wanted.to_string();
    match text.as_str() {
        "u8" | "u16" | "u32" | "u64" | "usize" => {
            let most = match text.as_str() {
                "u8" => u64::from(u8::MAX),
                "u16" => u64::from(u16::MAX),
                "u32" => u64::from(u32::MAX),
                _ => return "a whole number".to_owned(),
            };
            format!("a whole number up to {most}")
        }
        "a boolean" => "true or false".to_owned(),
        "a string" => "text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        struct_name if struct_name.starts_with("struct ") => "a mapping".to_owned(),
        enum_name if enum_name.starts_with("enum ") => "a word".to_owned(),
        _ => text,
    }
}

fn kind(found: &de::Unexpected<'_>) -> &'static str {
    match found {
        de::Unexpected::Bool(_) => "true or false",
        de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) | de::Unexpected::Float(_) => "a number",
        de::Unexpected::Seq => "a list",
        de::Unexpected::Map => "a mapping",
        de::Unexpected::Unit | de::Unexpected::Option => "nothing",
        _ => "text",
    }
}

fn words(known: &[&str]) -> String {
    known.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

#[derive(Clone, Copy)]
struct Decoder<'a> {
    node: &'a Node,
    state: &'a State,
}

impl<'a> Decoder<'a> {
    fn with(self, node: &'a Node) -> Self {
        Self { node, ..self }
    }

    fn scalar(self) -> Option<&'a Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) if !scalar.is_null() => Some(scalar),
            Value::Scalar(_) | Value::List(_) | Value::Map(_) => None,
        }
    }

    fn unexpected(self) -> de::Unexpected<'a> {
        match &self.node.value {
            Value::List(_) => de::Unexpected::Seq,
            Value::Map(_) => de::Unexpected::Map,
            Value::Scalar(scalar) if scalar.is_null() => de::Unexpected::Unit,
            Value::Scalar(scalar) if !scalar.plain || scalar.expanded => de::Unexpected::Str(&scalar.text),
            Value::Scalar(scalar) => match number(&scalar.text) {
                Some(_) => de::Unexpected::Float(0.0),
                None if boolean(&scalar.text).is_some() => de::Unexpected::Bool(true),
                None => de::Unexpected::Str(&scalar.text),
            },
        }
    }

    fn wrong(self, wanted: &dyn Expected) -> DecodeError {
        de::Error::invalid_type(self.unexpected(), wanted)
    }

    fn visit_number<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let scalar = self.scalar().filter(|scalar| scalar.plain || scalar.expanded);
        let result = match scalar.and_then(|scalar| number(scalar.text.trim())) {
            Some(Number::Unsigned(value)) => visitor.visit_u64(value),
            Some(Number::Signed(value)) => visitor.visit_i64(value),
            Some(Number::Float(value)) => visitor.visit_f64(value),
            None => Err(self.wrong(&visitor)),
        };
        result.map_err(|error| error.at(self.node))
    }

    fn visit_scalar_text<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let result = match self.scalar() {
            // Any scalar is text as it is written: `8080`, `1.10` and `true` lose nothing.
            Some(scalar) => visitor.visit_str(&scalar.text),
            None => Err(self.wrong(&visitor)),
        };
        result.map_err(|error| error.at(self.node))
    }

    fn visit_entries<V: Visitor<'a>>(self, visitor: V, known: Known) -> Result<V::Value, DecodeError> {
        let result = match &self.node.value {
            Value::Map(entries) => {
                visitor.visit_map(Map { rest: entries.iter(), value: None, known, of: self })
            }
            Value::Scalar(_) | Value::List(_) => Err(self.wrong(&visitor)),
        };
        result.map_err(|error| error.at(self.node))
    }
}

enum Number {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

/// A number of the YAML 1.2 core schema, without its octal and hexadecimal forms: nobody means them here.
fn number(text: &str) -> Option<Number> {
    if !text.bytes().last()?.is_ascii_digit() || !text.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let allowed = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-');
    if !digits.bytes().all(allowed) || !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let unsigned = text.parse().ok().map(Number::Unsigned);
    let signed = || text.parse().ok().map(Number::Signed);
    let float = || text.parse::<f64>().ok().filter(|value| value.is_finite()).map(Number::Float);
    unsigned.or_else(signed).or_else(float)
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            self.visit_number(visitor)
        })*
    };
}

impl<'a> Deserializer<'a> for Decoder<'a> {
    type Error = DecodeError;

    numbers! {
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_f32 deserialize_f64
    }

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
            Value::Scalar(scalar) if scalar.is_null() => visitor.visit_unit(),
            Value::Scalar(scalar) if !scalar.plain || scalar.expanded => self.visit_scalar_text(visitor),
            Value::Scalar(scalar) => match (boolean(&scalar.text), number(&scalar.text)) {
                (Some(value), _) => visitor.visit_bool(value),
                (None, Some(_)) => self.visit_number(visitor),
                (None, None) => self.visit_scalar_text(visitor),
            },
        }
        .map_err(|error| error.at(self.node))
    }

    fn deserialize_bool<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let scalar = self.scalar().filter(|scalar| scalar.plain || scalar.expanded);
        let result = match scalar.and_then(|scalar| boolean(scalar.text.trim())) {
            Some(value) => visitor.visit_bool(value),
            None => Err(self.wrong(&visitor)),
        };
        result.map_err(|error| error.at(self.node))
    }

    fn deserialize_str<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.visit_scalar_text(visitor)
    }

    fn deserialize_string<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.visit_scalar_text(visitor)
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.node.is_null() || self.state.is_absent(self.node) {
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let result = match &self.node.value {
            Value::List(items) => visitor.visit_seq(List { rest: items.iter(), of: self }),
            // `TOLLGATE_HOSTS=a,b`: a variable has no other way to be a list.
            Value::Scalar(scalar) if scalar.expanded => {
                visitor.visit_seq(Words { rest: scalar.text.split(','), of: self })
            }
            Value::Scalar(_) | Value::Map(_) => Err(self.wrong(&visitor)),
        };
        result.map_err(|error| error.at(self.node))
    }

    fn deserialize_map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.visit_entries(visitor, Known::Any)
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        if name == AT {
            return visitor.visit_seq(Place { step: 0, of: self }).map_err(|error| error.at(self.node));
        }
        self.visit_entries(visitor, Known::Only(fields))
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let result = match self.scalar() {
            Some(scalar) => {
                let word: StrDeserializer<'_, DecodeError> = scalar.text.as_str().into_deserializer();
                visitor.visit_enum(word)
            }
            None => Err(self.wrong(&visitor)),
        };
        result.map_err(|error| error.at(self.node))
    }

    fn deserialize_ignored_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        <W: Visitor<'a>>
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}
