//! Arguments of tools that travel in headers as well, in the modern era: `x-mcp-header` in a tool's schema.
//! Not here: the headers that every modern message has (`line`).
//!
//! Over stdio there are no headers, so a client that speaks it makes none; over HTTP a server may refuse a call without
//! them (2026-07-28/basic/transports/streamable-http). They are learned from the lists of tools that pass.

use std::collections::HashMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::Value;

use crate::mcp::{MirroredHeaders, encode_sentinel};

/// Tools whose annotations are remembered: more than any server has.
const TOOLS_MAX: usize = 5_000;
/// Schemas nest no deeper than arguments do.
const DEPTH_MAX: usize = 64;

/// What is known of the server's tools.
#[derive(Debug, Default)]
pub(super) struct Mirror(HashMap<String, Vec<Mirrored>>);

/// One argument that travels in a header.
#[derive(Debug, PartialEq, Eq)]
struct Mirrored {
    path: Vec<String>,
    header: HeaderName,
}

#[derive(Deserialize)]
struct Response {
    result: List,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    tools: Vec<Tool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tool {
    name: String,
    #[serde(default)]
    input_schema: Value,
}

#[derive(Deserialize)]
struct Request {
    params: Call,
}

#[derive(Deserialize)]
struct Call {
    name: String,
    #[serde(default)]
    arguments: Value,
}

impl Mirror {
    /// Learns from a response to `tools/list`.
    pub(super) fn learn(&mut self, response: &[u8]) {
        let Ok(Response { result }) = serde_json::from_slice(response) else { return };
        for tool in result.tools {
            let mut found = Vec::new();
            annotated(&tool.input_schema, &mut Vec::new(), &mut found);
            if found.is_empty() {
                self.0.remove(&tool.name);
            } else if self.0.len() < TOOLS_MAX {
                self.0.insert(tool.name, found);
            }
        }
    }

    /// The headers of a call.
    pub(super) fn headers(&self, request: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.0.is_empty() {
            return headers;
        }
        let Ok(Request { params }) = serde_json::from_slice(request) else { return headers };
        for Mirrored { path, header } in self.0.get(&params.name).into_iter().flatten() {
            let value = path.iter().try_fold(&params.arguments, |value, key| value.get(key));
            if let Some(value) = value.and_then(text) {
                headers.insert(header.clone(), value);
            }
        }
        headers
    }
}

/// Annotated properties, which count only where `properties` alone lead to them.
fn annotated(schema: &Value, path: &mut Vec<String>, found: &mut Vec<Mirrored>) {
    if path.len() >= DEPTH_MAX {
        return;
    }
    for (key, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        path.push(key.clone());
        let name = property.get("x-mcp-header").and_then(Value::as_str);
        let header = name
            .and_then(|name| HeaderName::try_from(format!("{}{name}", MirroredHeaders::PARAM_PREFIX)).ok());
        if let Some(header) = header {
            found.push(Mirrored { path: path.clone(), header });
        }
        annotated(property, path, found);
        path.pop();
    }
}

fn text(value: &Value) -> Option<HeaderValue> {
    let text = match value {
        Value::String(text) => encode_sentinel(text).into_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotated_arguments_travel_in_headers() {
        let mut mirror = Mirror::default();
        mirror.learn(
            br#"{"result":{"tools":[{"name":"t","inputSchema":{"properties":{
                "region":{"type":"string","x-mcp-header":"Region"},
                "deep":{"properties":{"n":{"type":"integer","x-mcp-header":"N"}}},
                "absent":{"x-mcp-header":"Absent"}, "bad":{"x-mcp-header":"not a name"},
                "list":{"items":{"properties":{"x":{"x-mcp-header":"X"}}}}}}}]}}"#,
        );
        let call = br#"{"params":{"name":"t","arguments":{"region":"\u00e9","deep":{"n":7},"absent":null,"list":[{"x":1}]}}}"#;
        let headers = mirror.headers(call);
        assert_eq!(headers.len(), 2, "{headers:?}");
        assert_eq!(
            (&headers["mcp-param-region"], &headers["mcp-param-n"]),
            (&HeaderValue::from_static("=?base64?w6k=?="), &HeaderValue::from_static("7"))
        );
        assert!(mirror.headers(br#"{"params":{"name":"other","arguments":{"region":"x"}}}"#).is_empty());
        mirror.learn(br#"{"result":{"tools":[{"name":"t","inputSchema":{}}]}}"#);
        assert!(mirror.headers(call).is_empty());
    }
}
