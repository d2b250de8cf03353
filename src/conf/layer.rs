//! One tree out of defaults, file, environment and flags, in which every value knows where it came from.
//! Not here: what values are accepted (`check`), the environment itself (`conf::environment`).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value as Json;

use super::{schema, secret};
use crate::document::{Code, Document, Node, Report, Source, Span, nearest};

/// Variables that are not settings but belong to the gateway.
const OTHER_VARIABLES: [&str; 5] =
    ["TOLLGATE_CONFIG", "TOLLGATE_EXE", "TOLLGATE_PREDECESSOR", "TOLLGATE_SAMPLES", "TOLLGATE_TOKEN"];

/// Shorter names of settings in sections; `(variable, path)`.
const SHORT_NAMES: [(&str, &str); 3] = [
    ("TOLLGATE_SESSION_KEY", "session.key"),
    ("TOLLGATE_LOG_LEVEL", "log.level"),
    ("TOLLGATE_LOG_FORMAT", "log.format"),
];

/// What the mistakes and `config show` call values that nobody gave.
pub(super) const DEFAULT: &str = "default";

/// A setting: a leaf of the file's form.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    /// Its keys, joined by dots.
    pub(super) path: String,
    /// Its default, unless that depends on the machine or there is none.
    pub(super) default: Option<Json>,
    /// Whether its value is never shown.
    pub(super) is_secret: bool,
    /// Whether it is a list.
    pub(super) is_list: bool,
}

/// Every setting, in the file's order.
pub(super) fn settings() -> Vec<Setting> {
    fn walk(path: &str, schema: &Json, out: &mut Vec<Setting>) {
        for (key, inner) in schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            // A section is only a container when all it holds is optional; a rate or a token form is a whole.
            if inner.get("properties").is_some() && !is_whole(inner) {
                walk(&path, inner, out);
                continue;
            }
            let is_secret = inner.get("writeOnly").is_some();
            let is_list = inner.get("items").is_some();
            let default = inner.get("default").cloned();
            out.push(Setting { path: path.clone(), default, is_secret, is_list });
            if inner.get("properties").is_some() {
                walk(&path, inner, out);
            }
        }
    }
    let mut out = Vec::new();
    walk("", &schema(), &mut out);
    out
}

/// Whether a mapping is a value of its own: some of its keys need each other.
fn is_whole(schema: &Json) -> bool {
    schema.get("required").or(schema.get("minProperties")).is_some()
}

/// Sets what a setting is unless something was given.
pub(super) fn set_default(document: &mut Document, path: &str, value: &Json) {
    let keys: Vec<_> = path.split('.').collect();
    if find(&document.root, path).is_some_and(|node| !node.is_null()) {
        return;
    }
    let source = document.report.add_source(Source::outside(DEFAULT));
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    document.root.set(&keys, Node::outside(document.report.start(source), text));
}

/// The node at a path.
pub(super) fn find<'a>(root: &'a Node, path: &str) -> Option<&'a Node> {
    path.split('.').try_fold(root, Node::find)
}

/// Sets a value that came from a flag.
pub(super) fn set_flag(document: &mut Document, flag: &str, path: &str, value: &str) {
    let span = outside(&mut document.report, flag);
    let keys: Vec<_> = path.split('.').collect();
    document.root.set(&keys, Node::outside(span, value));
}

/// Sets what `TOLLGATE_…` variables say, and refuses those that say nothing.
pub(super) fn set_variables(document: &mut Document, env: &[(String, String)]) {
    let settings = settings();
    let mut names: BTreeMap<String, &Setting> = BTreeMap::new();
    for setting in &settings {
        names.insert(format!("TOLLGATE_{}", setting.path.replace('.', "__").to_uppercase()), setting);
    }
    for (name, path) in SHORT_NAMES {
        names.extend(
            settings.iter().find(|setting| setting.path == path).map(|setting| (name.to_owned(), setting)),
        );
    }
    // Longer names last, so that a single key wins over the whole it belongs to.
    let mut given: Vec<_> = env.iter().filter(|(name, _)| name.starts_with("TOLLGATE_")).collect();
    given.sort_by_key(|(name, _)| (name.matches("__").count(), name.len()));
    for (name, value) in given {
        // Compose and Kubernetes manifests write `NAME=` for "not set".
        if value.is_empty() || OTHER_VARIABLES.contains(&name.as_str()) || is_service_link(name) {
            continue;
        }
        let span = outside(&mut document.report, name);
        if let Some(setting) = names.get(name) {
            set_variable(document, setting, span, value);
            continue;
        }
        let from_file = name.strip_suffix("_FILE").and_then(|name| Some((name, names.get(name)?)));
        match from_file.filter(|(_, setting)| setting.is_secret) {
            Some((plain, _)) if env.iter().any(|(other, value)| other == plain && !value.is_empty()) => {
                let message = format!("{plain} is set, too: keep one of them");
                document.report.add(span, Code::Conflict, message);
            }
            Some((_, setting)) => match secret::read_file(Path::new(value)) {
                Ok(text) => {
                    if secret::is_exposed(Path::new(value)) {
                        let message = "a secret in a file that others can read";
                        document.report.warn_advise(span, Code::Exposed, message, "chmod 600");
                    }
                    set_variable(document, setting, span, &text);
                }
                Err(error) => {
                    document.report.add(span, Code::Unreadable, format!("cannot read the secret: {error}"))
                }
            },
            None => {
                // Without what all names share: it would make any two of them look alike.
                let known = names.keys().filter_map(|name| name.strip_prefix("TOLLGATE_"));
                let advice = match nearest(name.strip_prefix("TOLLGATE_").unwrap_or_default(), known) {
                    Some(near) => format!("did you mean TOLLGATE_{near}?"),
                    None => "settings are TOLLGATE_<KEY> or TOLLGATE_<SECTION>__<KEY>".to_owned(),
                };
                document.report.advise(span, Code::UnknownKey, "not a setting", advice);
            }
        }
    }
}

fn set_variable(document: &mut Document, setting: &Setting, span: Span, value: &str) {
    let keys: Vec<_> = setting.path.split('.').collect();
    // What is not a scalar is written as in the file, in one line.
    if !setting.is_secret && value.trim_start().starts_with(['[', '{']) {
        if let Some(node) = Document::parse_into(&mut document.report, span.source, value) {
            document.root.set(&keys, node);
        }
        return;
    }
    document.root.set(&keys, Node::outside(span, value));
}

fn outside(report: &mut Report, name: &str) -> Span {
    let source = report.add_source(Source::outside(name));
    report.start(source)
}

/// Kubernetes sets these for a Service that is called `tollgate`; they are not meant for us.
fn is_service_link(name: &str) -> bool {
    let rest = name.strip_prefix("TOLLGATE_").unwrap_or_default();
    rest == "PORT"
        || rest.starts_with("PORT_")
        || rest.starts_with("SERVICE_HOST")
        || rest.starts_with("SERVICE_PORT")
}
