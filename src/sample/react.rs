//! The sample server itself: one message in, what to write out. Pure but for the clock.
//! Not here: how messages travel (`stdio`, `http`).

use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Value, json};

use super::offer::{
    CAPABILITIES, INSTRUCTIONS, LEGACY_CAPABILITIES, LOGO, NAMES, OFFER, README, SERVER_INFO,
};
use super::slow::Slow;
use crate::mcp::{Code, Id, Kind, Message, Method, Revision, RpcError};

/// What came of a message. What is to be written was appended to the buffer, without a line end.
#[derive(Debug)]
pub(super) enum Reaction {
    /// Nothing is answered.
    Silent,
    /// The answer was written; an error's code.
    Answered(Option<Code>),
    /// The answer takes time.
    Slow(Slow),
    /// A listen stream stands; its first message was written.
    Listening,
    /// A request is cancelled.
    Cancelled(Id),
}

/// Lists and resources never change while the process runs.
const CACHE: &str = r#","ttlMs":3600000,"cacheScope":"public""#;

/// Reacts to a message, in one of the two eras.
pub(super) fn react(message: &Message<'_>, modern: bool, out: &mut Vec<u8>) -> Reaction {
    let id = message.id.and_then(|raw| Id::from_json(raw.get()));
    let Some(id) = id.filter(|_| message.kind == Kind::Request) else {
        let cancelled = message.params.raw("requestId").filter(|_| message.method == Method::Cancelled);
        let cancelled = cancelled.and_then(|raw| Id::from_json(raw.get()));
        return cancelled.map_or(Reaction::Silent, Reaction::Cancelled);
    };
    let answer = Answer { id: &id, modern, out };
    match (message.method, modern) {
        (Method::Discover, true) => {
            let versions = format!(r#""supportedVersions":["{}"]"#, Revision::V2026_07_28.as_str());
            answer.cached(&format!("{versions},{CAPABILITIES},{INSTRUCTIONS}"))
        }
        (Method::Listen, true) => answer.listen(),
        (Method::Initialize, false) => {
            let asked = message.params.text("protocolVersion").and_then(|text| Revision::parse(&text));
            let version = asked.unwrap_or(Revision::LATEST_LEGACY).min(Revision::LATEST_LEGACY).as_str();
            answer.result(&format!(
                r#""protocolVersion":"{version}",{LEGACY_CAPABILITIES},"serverInfo":{SERVER_INFO},{INSTRUCTIONS}"#
            ))
        }
        (
            Method::Ping | Method::SetLevel | Method::ResourcesSubscribe | Method::ResourcesUnsubscribe,
            false,
        ) => answer.result(""),
        (Method::ToolsList, _) => answer.cached(&OFFER.tools),
        (Method::PromptsList, _) => answer.cached(&OFFER.prompts),
        (Method::ResourcesList, _) => answer.cached(&OFFER.resources),
        (Method::ResourcesTemplatesList, _) => answer.cached(&OFFER.templates),
        (Method::ToolsCall, _) => call(message, answer),
        (Method::PromptsGet, _) => prompt(message, answer),
        (Method::ResourcesRead, _) => resource(message, answer),
        (Method::Complete, _) => answer.result(&format!(
            r#""completion":{}"#,
            json!({"values": NAMES, "total": NAMES.len(), "hasMore": false})
        )),
        _ => answer.error(Code::METHOD_NOT_FOUND, &format!("unknown method: {}", message.method_name)),
    }
}

/// A modern request that cannot be served, before its method is looked at: no or another revision.
pub(super) fn refuse_modern(message: &Message<'_>, out: &mut Vec<u8>) -> Option<Code> {
    let id = message.id.and_then(|raw| Id::from_json(raw.get()))?;
    let meta = &message.params.meta;
    let version = meta.protocol_version().map(|raw| raw.get().trim_matches('"'));
    let unsupported = Code(-32022);
    let (code, text, data) = match version {
        Some("2026-07-28") if meta.client_capabilities().is_some() => return None,
        Some("2026-07-28") | None => {
            (Code::INVALID_PARAMS, "`_meta` lacks a member that 2026-07-28 requires", None)
        }
        Some(requested) => (
            unsupported,
            "unsupported protocol version",
            Some(json!({"supported": [Revision::V2026_07_28.as_str()], "requested": requested})),
        ),
    };
    let error = RpcError { code, message: text.to_owned(), data };
    out.extend_from_slice(&error.to_message(Some(&id)));
    Some(code)
}

/// An answer that is being written.
struct Answer<'a> {
    id: &'a Id,
    modern: bool,
    out: &'a mut Vec<u8>,
}

impl Answer<'_> {
    fn result(self, members: &str) -> Reaction {
        self.write(members, "")
    }

    fn cached(self, members: &str) -> Reaction {
        let cache = if self.modern { CACHE } else { "" };
        self.write(members, cache)
    }

    fn write(self, members: &str, cache: &str) -> Reaction {
        self.out.extend_from_slice(result_message(self.id, self.modern, members, cache).as_bytes());
        Reaction::Answered(None)
    }

    fn text(self, text: &str) -> Reaction {
        let text = Value::from(text).to_string();
        self.raw_text(&text)
    }

    /// A text that is JSON already.
    fn raw_text(self, text: &str) -> Reaction {
        let id = self.id.as_json();
        let tail = if self.modern { modern_members() } else { "" };
        let comma = if self.modern { "," } else { "" };
        // A `Vec` takes everything.
        let _ = write!(
            self.out,
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":{text}}}]{comma}{tail}}}}}"#
        );
        Reaction::Answered(None)
    }

    fn tool_error(self, text: &str) -> Reaction {
        let content = json!([{"type": "text", "text": text}]);
        self.result(&format!(r#""content":{content},"isError":true"#))
    }

    fn error(self, code: Code, text: &str) -> Reaction {
        let error = RpcError { code, message: text.to_owned(), data: None };
        self.out.extend_from_slice(&error.to_message(Some(self.id)));
        Reaction::Answered(Some(code))
    }

    fn listen(self) -> Reaction {
        let id = self.id.as_json();
        // Nothing here ever changes, so nothing is honoured.
        let meta = format!(r#"{{"io.modelcontextprotocol/subscriptionId":{id}}}"#);
        let params = format!(r#"{{"notifications":{{}},"_meta":{meta}}}"#);
        let method = "notifications/subscriptions/acknowledged";
        let _ = write!(self.out, r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#);
        Reaction::Listening
    }
}

fn modern_members() -> &'static str {
    concat!(
        r#""resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"tollgate-sample","version":""#,
        env!("CARGO_PKG_VERSION"),
        r#""}}"#
    )
}

/// A whole result with the members that every modern one has.
pub(super) fn result_message(id: &Id, modern: bool, members: &str, cache: &str) -> String {
    let tail = if modern { modern_members() } else { "" };
    let comma = if modern && !members.is_empty() { "," } else { "" };
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{{members}{comma}{tail}{cache}}}}}"#, id.as_json())
}

#[derive(Deserialize)]
struct Echo<'a> {
    #[serde(borrow)]
    text: &'a serde_json::value::RawValue,
}

#[derive(Deserialize)]
struct Add {
    a: f64,
    b: f64,
}

#[derive(Deserialize)]
struct Sleep {
    milliseconds: u64,
}

#[derive(Deserialize)]
struct Fail {
    #[serde(default)]
    message: Option<String>,
}

#[derive(Deserialize)]
struct Greeting {
    name: String,
}

fn call(message: &Message<'_>, answer: Answer<'_>) -> Reaction {
    let arguments = message.params.raw("arguments").map_or("{}", |raw| raw.get());
    let Some(name) = message.params.text("name") else {
        return answer.error(Code::INVALID_PARAMS, "`name` is missing");
    };
    match name.as_ref() {
        "echo" => match serde_json::from_str::<Echo<'_>>(arguments) {
            Ok(echo) if echo.text.get().starts_with('"') => answer.raw_text(echo.text.get()),
            _ => answer.tool_error("echo needs `text`, a string"),
        },
        "add" => match serde_json::from_str::<Add>(arguments) {
            Ok(Add { a, b }) => {
                let sum = number(a + b);
                let content = json!([{"type": "text", "text": sum.to_string()}]);
                answer.result(&format!(r#""content":{content},"structuredContent":{{"sum":{sum}}}"#))
            }
            Err(error) => answer.tool_error(&format!("add needs two numbers: {error}")),
        },
        "time" => answer.text(&rfc3339(SystemTime::now())),
        "slow" => match serde_json::from_str::<Sleep>(arguments) {
            Ok(Sleep { milliseconds }) if milliseconds <= 600_000 => {
                let token = message.params.meta.progress_token().map(|raw| raw.get().into());
                let total = Duration::from_millis(milliseconds);
                Reaction::Slow(Slow::new(answer.id.clone(), answer.modern, total, token))
            }
            _ => answer.tool_error("slow needs `milliseconds`, an integer from 0 to 600000"),
        },
        "fail" => {
            let said = serde_json::from_str::<Fail>(arguments).ok().and_then(|fail| fail.message);
            answer.tool_error(said.as_deref().unwrap_or("it failed, as it was asked to"))
        }
        _ => answer.error(Code::INVALID_PARAMS, &format!("unknown tool: {name}")),
    }
}

/// A sum as JSON: whole numbers without a fraction.
fn number(sum: f64) -> Value {
    let whole = sum.fract() == 0.0 && sum.abs() < 9.0e15;
    #[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^53")]
    if whole { json!(sum as i64) } else { json!(sum) }
}

fn prompt(message: &Message<'_>, answer: Answer<'_>) -> Reaction {
    if message.params.text("name").as_deref() != Some("greeting") {
        return answer.error(Code::INVALID_PARAMS, "unknown prompt");
    }
    let arguments = message.params.raw("arguments").map_or("{}", |raw| raw.get());
    let Ok(Greeting { name }) = serde_json::from_str(arguments) else {
        return answer.error(Code::INVALID_PARAMS, "greeting needs `name`");
    };
    let text = format!("Greet {name} in one friendly sentence.");
    let messages = json!([{"role": "user", "content": {"type": "text", "text": text}}]);
    answer.result(&format!(r#""description":"A greeting","messages":{messages}"#))
}

fn resource(message: &Message<'_>, answer: Answer<'_>) -> Reaction {
    let uri = message.params.text("uri").unwrap_or_default();
    let count = uri.strip_prefix("sample://count/").and_then(|n| n.parse::<u32>().ok());
    let content = match (uri.as_ref(), count) {
        ("sample://readme", _) => json!({"uri": uri, "mimeType": "text/markdown", "text": README}),
        ("sample://logo", _) => json!({"uri": uri, "mimeType": "image/png", "blob": LOGO}),
        (_, Some(n @ 1..=1000)) => {
            let numbers: Vec<String> = (1..=n).map(|n| n.to_string()).collect();
            json!({"uri": uri, "mimeType": "text/plain", "text": numbers.join(" ")})
        }
        _ => {
            // The code changed with 2026-07-28.
            let code = if answer.modern { Code::INVALID_PARAMS } else { Code(-32002) };
            return answer.error(code, "resource not found");
        }
    };
    answer.cached(&format!(r#""contents":[{content}]"#))
}

/// A time as RFC 3339 writes it, in UTC. Days to a date as in Howard Hinnant's `civil_from_days`.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        let at = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_785_196_800), "2026-07-28T00:00:00Z");
    }
}
