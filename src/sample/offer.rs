//! What the sample servers offer: names, schemas and texts.
//! Not here: what calling them does (`react`).

use std::sync::LazyLock;

use serde_json::{Value, json};

/// Members of the result of each list.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) tools: String,
    pub(super) prompts: String,
    pub(super) resources: String,
    pub(super) templates: String,
}

/// The lists, written once.
pub(super) static OFFER: LazyLock<Offer> = LazyLock::new(|| Offer {
    tools: format!("\"tools\":{}", tools()),
    prompts: format!("\"prompts\":{}", prompts()),
    resources: format!("\"resources\":{}", resources()),
    templates: format!("\"resourceTemplates\":{}", templates()),
});

/// What `initialize` and `server/discover` tell.
pub(super) const CAPABILITIES: &str =
    r#""capabilities":{"tools":{},"prompts":{},"resources":{},"completions":{}}"#;
/// The same for legacy clients, who may set a log level and subscribe.
pub(super) const LEGACY_CAPABILITIES: &str = r#""capabilities":{"tools":{},"prompts":{},"resources":{"subscribe":true},"completions":{},"logging":{}}"#;
/// Who we are.
pub(super) const SERVER_INFO: &str = concat!(
    r#"{"name":"tollgate-sample","title":"Tollgate sample","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}"#
);
/// What a model is told.
pub(super) const INSTRUCTIONS: &str =
    r#""instructions":"A sample server. Its tools are small and have no side effects.""#;

/// The text resource.
pub(super) const README: &str =
    "# Tollgate sample\n\nThis server is built into Tollgate. Try its tools: echo, add, time, slow, fail.\n";
/// A picture of one pixel (PNG).
pub(super) const LOGO: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";
/// Values that `completion/complete` proposes for the prompt's `name`.
pub(super) const NAMES: [&str; 4] = ["Ada", "Alan", "Barbara", "Grace"];

fn tools() -> Value {
    let annotations = json!({"readOnlyHint": true, "idempotentHint": true, "openWorldHint": false});
    let numbers = json!({"a": {"type": "number"}, "b": {"type": "number"}});
    let tool = |name: &str, description: &str, schema: Value| json!({"name": name, "description": description, "inputSchema": schema, "annotations": annotations});
    let object = |properties: Value, required: Value| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    let mut add = tool("add", "Adds two numbers.", object(numbers, json!(["a", "b"])));
    if let Some(add) = add.as_object_mut() {
        add.insert("outputSchema".to_owned(), object(json!({"sum": {"type": "number"}}), json!(["sum"])));
    }
    json!([
        tool(
            "echo",
            "Answers with the text it is given.",
            object(json!({"text": {"type": "string"}}), json!(["text"])),
        ),
        add,
        tool("time", "Tells the time, in UTC (RFC 3339).", object(json!({}), json!([]))),
        tool(
            "slow",
            "Takes as long as it is told, and reports progress to callers who ask for it.",
            object(
                json!({"milliseconds": {"type": "integer", "minimum": 0, "maximum": 600_000}}),
                json!(["milliseconds"]),
            ),
        ),
        tool("fail", "Fails, as tools do.", object(json!({"message": {"type": "string"}}), json!([]))),
    ])
}

fn prompts() -> Value {
    json!([{
        "name": "greeting",
        "description": "Asks for a greeting for somebody.",
        "arguments": [{"name": "name", "description": "Who is greeted.", "required": true}],
    }])
}

fn resources() -> Value {
    json!([
        {"uri": "sample://readme", "name": "readme", "description": "About this server.", "mimeType": "text/markdown"},
        {"uri": "sample://logo", "name": "logo", "description": "A very small picture.", "mimeType": "image/png"},
    ])
}

fn templates() -> Value {
    json!([{
        "uriTemplate": "sample://count/{n}",
        "name": "count",
        "description": "The numbers from 1 to n, at most 1000.",
        "mimeType": "text/plain",
    }])
}
