//! Writes `conf/tollgate.yaml`, the commented reference of every setting, from the form's own documentation.
//! Not here: that documentation (`raw`).

use std::fmt::Write as _;

use serde_json::Value as Json;

use super::effective::inline;
use super::schema;

const WIDTH: usize = 100;

/// The reference. Documentation is behind `# `, settings at their defaults are behind `#`.
pub(super) fn reference() -> String {
    let schema = schema();
    let mut out = String::new();
    comment(&mut out, 0, schema["description"].as_str().unwrap());
    comment(
        &mut out,
        0,
        "\n\nThis file is generated, and loads as it is: every line is a comment, so everything is at its default.",
    );
    section(&mut out, 0, &schema, &schema);
    out
}

fn section(out: &mut String, depth: usize, schema: &Json, top: &Json) {
    for (key, inner) in schema["properties"].as_object().unwrap() {
        let pad = "  ".repeat(depth);
        out.push('\n');
        comment(
            out,
            depth,
            inner["description"].as_str().unwrap_or_else(|| panic!("{key} is not documented")),
        );
        if let Some(default) = inner.get("default") {
            writeln!(out, "{pad}#{key}: {}", inline(default)).unwrap();
        } else if let Some(example) = inner.get("x-example") {
            writeln!(out, "{pad}# Example:").unwrap();
            writeln!(out, "{pad}#   {key}: {}", inline(example)).unwrap();
            for (name, text) in fields(inner, "", top) {
                comment(out, depth, &format!("- `{name}`: {text}"));
            }
        } else {
            writeln!(out, "{pad}#{key}:").unwrap();
            section(out, depth + 1, inner, top);
        }
    }
}

/// The fields of a setting that is a mapping, or a list of mappings, with their documentation. What `top` has by the
/// same name is documented there.
fn fields(schema: &Json, prefix: &str, top: &Json) -> Vec<(String, String)> {
    let inner = schema.get("items").unwrap_or(schema);
    let properties = inner.get("properties").and_then(Json::as_object).into_iter().flatten();
    let mut out = Vec::new();
    for (name, field) in properties {
        let text = field["description"].as_str().unwrap_or_default();
        out.push((format!("{prefix}{name}"), text.to_owned()));
        if top["properties"].get(name).is_none() {
            out.extend(fields(field, &format!("{name}."), top));
        }
    }
    out
}

fn comment(out: &mut String, depth: usize, text: &str) {
    let pad = "  ".repeat(depth);
    for (at, paragraph) in text.split("\n\n").enumerate() {
        if at > 0 {
            out.push_str("#\n");
        }
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.len() + word.len() + pad.len() + 3 > WIDTH {
                writeln!(out, "{pad}# {line}").unwrap();
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        if !line.is_empty() {
            writeln!(out, "{pad}# {line}").unwrap();
        }
    }
}
