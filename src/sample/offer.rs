//! What the sample servers offer, as the JSON that goes out: capabilities, tools, prompts, resources, revisions.
//! Not here: what the tools do (`tool`); the rest of a result (`write`).

/// The revisions that are spoken, where both eras are.
pub(super) const REVISIONS: [&str; 5] =
    ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"];
/// The revisions that are spoken where only the modern era is.
pub(super) const MODERN: [&str; 1] = ["2026-07-28"];

/// Of `initialize`, and of `server/discover`.
pub(super) const CAPABILITIES: &str =
    r#""capabilities":{"tools":{},"prompts":{},"resources":{},"completions":{},"logging":{}}"#;
pub(super) const INSTRUCTIONS: &str = r#","instructions":"A sample server: try the tool echo with any text, or read the resource sample://readme.""#;

/// Members of `server/discover`, without the instructions.
pub(super) const DISCOVER: &str = r#""supportedVersions":["2026-07-28"],"capabilities":{"tools":{},"prompts":{},"resources":{},"completions":{},"logging":{}}"#;

/// The tools, by name.
pub(super) const TOOLS: &str = concat!(
    r#""tools":["#,
    r#"{"name":"add","title":"Add","description":"Adds two numbers.","inputSchema":{"type":"object","properties":{"a":{"type":"number"},"b":{"type":"number"}},"required":["a","b"]},"outputSchema":{"type":"object","properties":{"sum":{"type":"number"}},"required":["sum"]},"annotations":{"readOnlyHint":true,"openWorldHint":false}},"#,
    r#"{"name":"big","title":"Big","description":"Answers with a text of as many bytes as asked for.","inputSchema":{"type":"object","properties":{"bytes":{"type":"integer","minimum":0,"maximum":4194304}},"required":["bytes"]},"annotations":{"readOnlyHint":true,"openWorldHint":false}},"#,
    r#"{"name":"echo","title":"Echo","description":"Answers with the text it was given.","inputSchema":{"type":"object","properties":{"text":{"type":"string"}},"required":["text"]},"annotations":{"readOnlyHint":true,"openWorldHint":false}},"#,
    r#"{"name":"fail","title":"Fail","description":"Fails, as tools do: with a result that says so.","inputSchema":{"type":"object","properties":{"message":{"type":"string","description":"What it says."}}},"annotations":{"readOnlyHint":true,"openWorldHint":false}},"#,
    r#"{"name":"slow","title":"Slow","description":"Answers after a while. Tells its progress to clients that ask for it, and can be cancelled.","inputSchema":{"type":"object","properties":{"milliseconds":{"type":"integer","minimum":0,"maximum":600000}},"required":["milliseconds"]},"annotations":{"readOnlyHint":true,"openWorldHint":false}},"#,
    r#"{"name":"time","title":"Time","description":"The time now, in UTC.","inputSchema":{"type":"object","properties":{}},"annotations":{"readOnlyHint":true,"openWorldHint":false}}"#,
    "]"
);

pub(super) const PROMPTS: &str = r#""prompts":[{"name":"greeting","title":"Greeting","description":"Asks for a greeting.","arguments":[{"name":"name","description":"Who is greeted.","required":true}]}]"#;

pub(super) const RESOURCES: &str = concat!(
    r#""resources":["#,
    r#"{"uri":"sample://logo","name":"logo","title":"Logo","description":"A gate of 16 by 16 pixels.","mimeType":"image/png"},"#,
    r#"{"uri":"sample://readme","name":"readme","title":"Read me","description":"What this server is.","mimeType":"text/markdown"}"#,
    "]"
);

pub(super) const TEMPLATES: &str = r#""resourceTemplates":[{"uriTemplate":"sample://count/{n}","name":"count","title":"Count","description":"The numbers from 1 to n, at most 1000.","mimeType":"text/plain"}]"#;

/// `sample://readme`, without characters that JSON escapes but line ends.
pub(super) const README: &str = concat!(
    r"# Tollgate's sample server\n\n",
    r"Tools: add, big, echo, fail, slow, time. Prompt: greeting. ",
    r"Resources: sample://readme, sample://logo, sample://count/{n}.\n"
);

/// `sample://logo`: a PNG, in base64.
pub(super) const LOGO: &str = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQMAAAAlPW0iAAAABlBMVEX///8UWozqt6IHAAAAFklEQVR42mNggIEENhD6/x+EIGxsCADGwAhfkJhURgAAAABJRU5ErkJggg==";

/// `sample://count/{n}` counts at most to this.
pub(super) const COUNT_MAX: u16 = 1000;
/// Completions of the prompt's `name`.
pub(super) const NAMES: [&str; 5] = ["Ada", "Alan", "Barbara", "Edsger", "Grace"];
/// Completions of the template's `n`.
pub(super) const COUNTS: [&str; 4] = ["1", "10", "100", "1000"];
