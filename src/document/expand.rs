//! Variables: `${NAME}` and `${NAME:-default}` in scalar values.
//! Not here: where variables come from (`conf`).
//!
//! Expansion happens in the tree, after parsing, so a value can never add keys or lines. `$` and `$$` mean
//! themselves; `$${` stands for a literal `${`, because otherwise there were no way to write one.

use super::{Code, Lookup, Node, Report, Scalar, Span, Value, nearest};

pub(super) fn expand(node: &mut Node, lookup: Lookup<'_>, report: &mut Report) {
    match &mut node.value {
        Value::Scalar(scalar) => expand_scalar(scalar, node.span, lookup, report),
        Value::List(items) => items.iter_mut().for_each(|item| expand(item, lookup, report)),
        Value::Map(entries) => entries.iter_mut().for_each(|(_, value)| expand(value, lookup, report)),
    }
}

fn expand_scalar(scalar: &mut Scalar, span: Span, lookup: Lookup<'_>, report: &mut Report) {
    if !scalar.text.contains("${") {
        return;
    }
    let mut wrong = Vec::new();
    let (text, expanded) = expand_text(&scalar.text, lookup, &mut wrong);
    if !wrong.is_empty() {
        scalar.is_broken = true;
        report.take_out(span);
    }
    for problem in wrong {
        let at = find(report, span, &problem.text());
        match problem {
            Problem::Unset(name) => {
                let advice =
                    format!("set {name} in the gateway's environment, or write ${{{name}:-default}}");
                report.advise(at, Code::UnsetVariable, format!("variable {name} is not set"), advice);
            }
            Problem::Form(form) => {
                let message =
                    format!("`{form}` is not a variable: the forms are ${{NAME}} and ${{NAME:-default}}");
                report.advise(at, Code::BadVariable, message, advice(&form));
            }
        }
    }
    scalar.text = text;
    scalar.expanded |= expanded;
}

fn advice(form: &str) -> String {
    let inside = form.trim_start_matches("${").trim_end_matches('}');
    match inside.split_once(':') {
        Some((scope, name)) if nearest(scope, ["env"]).is_some() && is_name(name) => {
            format!("did you mean ${{{name}}}?")
        }
        _ => "write $${ for a literal ${".to_owned(),
    }
}

/// The place of `needle` in the source, if the value is written there as it reads; else the whole value.
fn find(report: &Report, span: Span, needle: &str) -> Span {
    let found = report.text(span).and_then(|text| text.find(needle));
    let Some(offset) = found.and_then(|at| u32::try_from(at).ok()) else { return span };
    let length = u32::try_from(needle.len()).unwrap_or(0);
    Span { start: span.start + offset, end: span.start + offset + length, ..span }
}

/// What is wrong with a `${…}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// A variable without a value; its name.
    Unset(String),
    /// Not one of the two forms; what stands there.
    Form(String),
}

impl Problem {
    fn text(&self) -> String {
        match self {
            Self::Unset(name) => format!("${{{name}}}"),
            Self::Form(form) => form.clone(),
        }
    }
}

/// Expands `text`; tells the result and whether a variable was in it. Problems are pushed to `wrong`, and what
/// they are about is left out of the result.
pub fn expand_text(text: &str, lookup: Lookup<'_>, wrong: &mut Vec<Problem>) -> (String, bool) {
    let mut out = String::with_capacity(text.len());
    let mut expanded = false;
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(literal) = before.strip_suffix('$') {
            out.push_str(literal);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let Some((inside, tail)) = after.split_once('}') else {
            wrong.push(Problem::Form(format!("${{{after}")));
            return (out, expanded);
        };
        rest = tail;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_name(name) {
            wrong.push(Problem::Form(format!("${{{inside}}}")));
            continue;
        }
        expanded = true;
        // As in a shell, the default also stands in for a variable that is set but empty.
        match (lookup(name).filter(|value| default.is_none() || !value.is_empty()), default) {
            (Some(value), _) => out.push_str(&value),
            (None, Some(default)) => out.push_str(default),
            (None, None) => wrong.push(Problem::Unset(name.to_owned())),
        }
    }
    out.push_str(rest);
    (out, expanded)
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
