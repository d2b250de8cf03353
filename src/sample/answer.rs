//! The core: one message in, and what follows from it. It does no I/O.
//! Not here: the tools (`tool`); how messages come and go (`stdio`, `http`).

use serde::Deserialize;
use serde_json::json;

use super::flow::Flow;
use super::offer;
use super::peer::Peer;
use super::refusal::Refusal;
use super::tool;
use super::write::{Asked, SERVER};
use crate::mcp::{Era, HeaderFault, Id, Kind, MalformedKind, Message, Method, Revision};

/// What follows from a message.
#[derive(Debug)]
pub(super) enum Turn {
    /// Nothing: a notification, or a response to nothing we asked.
    Nothing,
    /// The client gives up a request.
    Cancel(Id),
    /// The answer.
    Whole(Vec<u8>),
    /// Messages that come with time, and in the end the answer.
    Flow(Flow),
}

/// Refuses a modern request that lacks what every one carries, or speaks a revision other than ours.
pub(super) fn check_revision(
    message: &Message<'_>,
    era: Era,
    supported: &'static [&'static str],
) -> Result<(), Refusal> {
    if era == Era::Legacy || message.kind != Kind::Request {
        return Ok(());
    }
    let meta = &message.params.meta;
    let version = meta.protocol_version();
    let version = version
        .ok_or(HeaderFault::MissingMeta("io.modelcontextprotocol/protocolVersion"))
        .map_err(Refusal::Header)?;
    let version: String = serde_json::from_str(version.get())
        .map_err(|_| Refusal::Params("`io.modelcontextprotocol/protocolVersion` must be a string".into()))?;
    if Revision::parse(&version).is_none_or(|revision| revision.era() == Era::Legacy) {
        return Err(Refusal::Revision { requested: version, supported });
    }
    match meta.client_capabilities() {
        Some(capabilities) if capabilities.get().starts_with('{') => Ok(()),
        Some(_) => {
            Err(Refusal::Params("`io.modelcontextprotocol/clientCapabilities` must be an object".into()))
        }
        None => Err(Refusal::Header(HeaderFault::MissingMeta("io.modelcontextprotocol/clientCapabilities"))),
    }
}

/// What follows from `message`, which was read from `body`. Without a `peer` nothing is remembered of the client.
pub(super) fn answer(
    body: &[u8],
    message: &Message<'_>,
    era: Era,
    peer: Option<&Peer>,
) -> Result<Turn, Refusal> {
    if message.kind != Kind::Request {
        return Ok(cancelled(message).map_or(Turn::Nothing, Turn::Cancel));
    }
    let Some(id) = message.id.and_then(|raw| Id::from_json(raw.get())) else {
        return Err(Refusal::Malformed(MalformedKind::Envelope("a request has an `id`")));
    };
    let asked = Asked { id: id.as_json(), era };
    match (message.method, era) {
        (Method::ToolsCall, _) => tool::call(asked, &id, message, peer),
        (Method::ToolsList, _) => list(asked, body, offer::TOOLS),
        (Method::PromptsList, _) => list(asked, body, offer::PROMPTS),
        (Method::ResourcesList, _) => list(asked, body, offer::RESOURCES),
        (Method::ResourcesTemplatesList, _) => list(asked, body, offer::TEMPLATES),
        (Method::ResourcesRead, _) => read(asked, message),
        (Method::PromptsGet, _) => prompt(asked, message),
        (Method::Complete, _) => complete(asked, body),
        (Method::Initialize, Era::Legacy) => initialize(asked, message),
        (Method::Ping, Era::Legacy) => Ok(Turn::Whole(asked.result(&[]))),
        (Method::SetLevel, Era::Legacy) => set_level(asked, body, peer),
        (Method::Discover, Era::Modern) => {
            Ok(Turn::Whole(asked.lasting(&[offer::DISCOVER, offer::INSTRUCTIONS])))
        }
        (Method::Listen, Era::Modern) => listen(body, id),
        _ => Err(Refusal::Method(message.method_name.clone().into_owned())),
    }
}

/// The request that a message cancels.
fn cancelled(message: &Message<'_>) -> Option<Id> {
    let id = message.params.raw("requestId").filter(|_| message.method == Method::Cancelled)?;
    Id::from_json(id.get())
}

/// Parameters that the envelope's reader does not know.
fn params<'a, P: Deserialize<'a>>(body: &'a [u8]) -> Result<P, Refusal> {
    #[derive(Deserialize)]
    struct Body<P> {
        params: P,
    }
    serde_json::from_slice::<Body<P>>(body)
        .map(|body| body.params)
        .map_err(|e| Refusal::Params(e.to_string()))
}

fn initialize(asked: Asked<'_>, message: &Message<'_>) -> Result<Turn, Refusal> {
    let wanted = message.params.text("protocolVersion");
    let wanted = wanted.ok_or_else(|| Refusal::Params("`protocolVersion` must be a string".into()))?;
    let spoken = Revision::parse(&wanted).filter(|revision| revision.era() == Era::Legacy);
    let spoken = spoken.unwrap_or(Revision::LATEST_LEGACY).as_str();
    Ok(Turn::Whole(asked.result(&[
        r#""protocolVersion":""#,
        spoken,
        "\",",
        offer::CAPABILITIES,
        r#","serverInfo":"#,
        SERVER,
        offer::INSTRUCTIONS,
    ])))
}

/// A list of one page. Cursors are ours to make and we make none, so any cursor is wrong.
fn list(asked: Asked<'_>, body: &[u8], members: &str) -> Result<Turn, Refusal> {
    #[derive(Deserialize)]
    struct Page {
        cursor: Option<serde_json::Value>,
    }
    if memchr::memmem::find(body, b"\"cursor\"").is_some() && params::<Page>(body)?.cursor.is_some() {
        return Err(Refusal::Params("no such cursor: there is one page".into()));
    }
    Ok(Turn::Whole(asked.lasting(&[members])))
}

fn read(asked: Asked<'_>, message: &Message<'_>) -> Result<Turn, Refusal> {
    let uri = message.params.text("uri").ok_or_else(|| Refusal::Params("`uri` must be a string".into()))?;
    let (kind, member, content) = match uri.as_ref() {
        "sample://readme" => ("text/markdown", "text", offer::README.to_owned()),
        "sample://logo" => ("image/png", "blob", offer::LOGO.to_owned()),
        other => match other.strip_prefix("sample://count/").and_then(count) {
            Some(text) => ("text/plain", "text", text),
            None => return Err(Refusal::Resource(other.to_owned())),
        },
    };
    // Neither the known URIs nor the contents have characters to escape; the readme brings its own escapes.
    let contents = format!(r#""contents":[{{"uri":"{uri}","mimeType":"{kind}","{member}":"{content}"}}]"#);
    Ok(Turn::Whole(asked.lasting(&[&contents])))
}

/// The numbers from 1 to `n`, a line each, with the line ends as JSON escapes them.
fn count(n: &str) -> Option<String> {
    // Another spelling (`+5`, `05`) would be another URI of the same resource.
    let max: u16 =
        n.parse().ok().filter(|max| (1..=offer::COUNT_MAX).contains(max) && max.to_string() == n)?;
    let lines: Vec<String> = (1..=max).map(|line| line.to_string()).collect();
    Some(lines.join("\\n"))
}

fn prompt(asked: Asked<'_>, message: &Message<'_>) -> Result<Turn, Refusal> {
    #[derive(Deserialize)]
    struct Arguments {
        name: String,
    }
    let wanted = message.params.text("name").unwrap_or_default();
    if wanted != "greeting" {
        return Err(Refusal::Params(format!("no prompt `{wanted}`")));
    }
    let arguments = message.params.raw("arguments").map_or("{}", |raw| raw.get());
    let arguments: Arguments = serde_json::from_str(arguments)
        .map_err(|e| Refusal::Params(format!("arguments of `greeting`: {e}")))?;
    let text = json!(format!("Greet {} warmly, in one sentence.", arguments.name)).to_string();
    Ok(Turn::Whole(asked.result(&[
        r#""description":"Asks for a greeting.","messages":[{"role":"user","content":{"type":"text","text":"#,
        &text,
        "}}]",
    ])))
}

fn complete(asked: Asked<'_>, body: &[u8]) -> Result<Turn, Refusal> {
    #[derive(Deserialize)]
    #[serde(tag = "type")]
    enum Reference {
        #[serde(rename = "ref/prompt")]
        Prompt { name: String },
        #[serde(rename = "ref/resource")]
        Resource { uri: String },
    }
    #[derive(Deserialize)]
    struct Argument {
        name: String,
        value: String,
    }
    #[derive(Deserialize)]
    struct Wanted {
        #[serde(rename = "ref")]
        reference: Reference,
        argument: Argument,
    }
    let wanted: Wanted = params(body)?;
    let known: &[&str] = match (&wanted.reference, wanted.argument.name.as_str()) {
        (Reference::Prompt { name }, "name") if name == "greeting" => &offer::NAMES,
        (Reference::Prompt { name }, _) if name == "greeting" => &[],
        (Reference::Resource { uri }, "n") if uri == "sample://count/{n}" => &offer::COUNTS,
        (Reference::Resource { uri }, _) if uri == "sample://count/{n}" => &[],
        (Reference::Prompt { name: what } | Reference::Resource { uri: what }, _) => {
            return Err(Refusal::Params(format!("nothing to complete in `{what}`")));
        }
    };
    let values: Vec<&&str> = known.iter().filter(|value| value.starts_with(&wanted.argument.value)).collect();
    let completion = json!({"values": values, "total": values.len(), "hasMore": false}).to_string();
    Ok(Turn::Whole(asked.result(&[r#""completion":"#, &completion])))
}

fn set_level(asked: Asked<'_>, body: &[u8], peer: Option<&Peer>) -> Result<Turn, Refusal> {
    #[derive(Deserialize)]
    struct Level {
        level: String,
    }
    let Level { level } = params(body)?;
    let wanted = info_is_in(&level).ok_or_else(|| Refusal::Params(format!("no level `{level}`")))?;
    if let Some(peer) = peer {
        peer.want_logs(wanted);
    }
    Ok(Turn::Whole(asked.result(&[])))
}

/// Whether a client that asks for logs from `level` up wants those of level `info`; `None` if there is no such level.
pub(super) fn info_is_in(level: &str) -> Option<bool> {
    match level {
        "debug" | "info" => Some(true),
        "notice" | "warning" | "error" | "critical" | "alert" | "emergency" => Some(false),
        _ => None,
    }
}

fn listen(body: &[u8], id: Id) -> Result<Turn, Refusal> {
    #[derive(Deserialize)]
    struct Wanted {
        #[serde(rename = "notifications")]
        _notifications: serde_json::Map<String, serde_json::Value>,
    }
    params::<Wanted>(body)?;
    Ok(Turn::Flow(Flow::subscription(id)))
}
