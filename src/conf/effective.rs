//! Every setting with its value and where that came from, as `config show` prints it.
//! Not here: the values the gateway works with (`model`).

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

use super::{layer, schema};
use crate::document::{Document, Node, Report, Span, Value};

/// What stands for a secret.
const HIDDEN: &str = "***";

/// Every setting, in the order of the reference.
#[derive(Debug, Clone)]
pub struct Effective {
    /// The settings.
    pub values: Vec<EffectiveValue>,
}

/// One setting.
#[derive(Debug, Clone, PartialEq)]
pub struct EffectiveValue {
    /// Its keys, joined by dots.
    pub path: String,
    /// Its value as it was given; null when there is none, `***` for a secret.
    pub value: Json,
    /// `default`, the flag, the variable, or file and line.
    pub origin: String,
}

impl Effective {
    pub(super) fn new(document: &Document) -> Self {
        let settings = layer::settings();
        let schema = schema();
        let is_set = |path: &str| layer::find(&document.root, path).is_some_and(|node| !node.is_null());
        // A rate or a token form is shown as one null when there is none, and by its parts when there is one.
        let is_shown = |path: &str| {
            let is_within = |outer: &str, inner: &str| {
                inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'))
            };
            let has_parts = settings.iter().any(|setting| is_within(path, &setting.path));
            let is_part_of_nothing =
                settings.iter().any(|setting| is_within(&setting.path, path) && !is_set(&setting.path));
            !(is_part_of_nothing || has_parts && is_set(path))
        };
        let value = |setting: &layer::Setting| {
            let node = layer::find(&document.root, &setting.path).filter(|node| !node.is_null());
            let value = match node {
                None => Json::Null,
                Some(node) => match plain(node, part(&schema, &setting.path)) {
                    // A variable says a list with commas.
                    Json::String(words) if setting.is_list => words.split(',').map(str::trim).collect(),
                    value => value,
                },
            };
            let origin =
                node.map_or_else(|| layer::DEFAULT.to_owned(), |node| origin(&document.report, node.span));
            EffectiveValue { path: setting.path.clone(), value, origin }
        };
        Self { values: settings.iter().filter(|setting| is_shown(&setting.path)).map(value).collect() }
    }
}

/// The schema of a setting.
fn part<'a>(schema: &'a Json, path: &str) -> &'a Json {
    let step = |schema: &'a Json, key| schema.get("properties").and_then(|properties| properties.get(key));
    path.split('.').try_fold(schema, step).unwrap_or(&Json::Null)
}

fn origin(report: &Report, span: Span) -> String {
    let Some(source) = report.source(span.source) else { return layer::DEFAULT.to_owned() };
    if source.is_file() {
        format!("{}:{}", source.name(), report.line(span))
    } else {
        source.name().to_owned()
    }
}

/// A value as it was given, with what `schema` calls a secret hidden.
fn plain(node: &Node, schema: &Json) -> Json {
    match &node.value {
        _ if schema.get("writeOnly").is_some() => json!(HIDDEN),
        Value::Scalar(scalar) if scalar.is_null() => Json::Null,
        Value::Scalar(scalar) if scalar.plain || scalar.expanded => match scalar.text.as_str() {
            "true" => json!(true),
            "false" => json!(false),
            text => text.parse::<u64>().map_or_else(|_| json!(text), Json::from),
        },
        Value::Scalar(scalar) => json!(scalar.text),
        Value::List(items) => {
            items.iter().map(|item| plain(item, schema.get("items").unwrap_or(&Json::Null))).collect()
        }
        Value::Map(entries) => {
            let entry = |(key, value): &(Node, Node)| {
                let key = key.text().unwrap_or_default();
                let known = schema.get("properties").and_then(|properties| properties.get(key));
                let inner = known.or_else(|| schema.get("additionalProperties")).unwrap_or(&Json::Null);
                (key.to_owned(), plain(value, inner))
            };
            Json::Object(entries.iter().map(entry).collect())
        }
    }
}

/// A value as YAML on one line.
pub(super) fn inline(value: &Json) -> String {
    let is_word = |text: &str| {
        let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '-' | ':');
        text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
            && text.chars().all(safe)
            && !text.ends_with(':')
            && !matches!(text.to_ascii_lowercase().as_str(), "true" | "false" | "null")
            && text.parse::<f64>().is_err()
    };
    match value {
        Json::String(text) if is_word(text) => text.clone(),
        Json::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Json::Object(entries) => {
            let entry = |(key, value): (&String, &Json)| format!("{key}: {}", inline(value));
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut open: Vec<&str> = Vec::new();
        for setting in &self.values {
            let mut keys: Vec<_> = setting.path.split('.').collect();
            let Some(key) = keys.pop() else { continue };
            let same = open.iter().zip(&keys).take_while(|(a, b)| a == b).count();
            for (depth, section) in keys.iter().enumerate().skip(same) {
                writeln!(f, "{}{section}:", "  ".repeat(depth))?;
            }
            let line = format!("{}{key}: {}", "  ".repeat(keys.len()), inline(&setting.value));
            writeln!(f, "{line:<48} # {}", setting.origin)?;
            open = keys;
        }
        Ok(())
    }
}

impl Serialize for Effective {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.values.len()))?;
        for setting in &self.values {
            map.serialize_entry(&setting.path, &json!({"value": setting.value, "origin": setting.origin}))?;
        }
        map.end()
    }
}
