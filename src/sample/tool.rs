//! The tools.
//! Not here: how they are listed (`offer`); the waiting that `slow` does (`flow`).

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Number, json};
use tokio::time::Instant;

use super::answer::{Turn, info_is_in};
use super::flow::{Flow, Wait};
use super::peer::Peer;
use super::refusal::Refusal;
use super::write::Asked;
use crate::mcp::{Era, Id, Message};

const BIG_BYTES_MAX: usize = 4 * 1024 * 1024;
const SLOW_MS_MAX: u64 = 600_000;

/// Calls a tool. Wrong arguments are the tool's own failure, which the model behind the client sees and can mend
/// (2025-11-25/server/tools, "Error Handling").
pub(super) fn call(
    asked: Asked<'_>,
    id: &Id,
    message: &Message<'_>,
    peer: Option<&Peer>,
) -> Result<Turn, Refusal> {
    let name =
        message.params.text("name").ok_or_else(|| Refusal::Params("`name` must be a string".into()))?;
    let arguments = message.params.raw("arguments").map_or("{}", RawValue::get);
    let done = match name.as_ref() {
        "echo" => echo(asked, arguments),
        "add" => add(asked, arguments),
        "time" => {
            Ok(asked.content(&format!("\"{}\"", humantime::format_rfc3339_millis(SystemTime::now())), ""))
        }
        "big" => big(asked, arguments),
        "fail" => fail(asked, arguments),
        "slow" => match duration(arguments) {
            Ok(total) => return Ok(slow(asked.era, id, message, peer, total)),
            Err(why) => Err(why),
        },
        _ => return Err(Refusal::Params(format!("no tool `{name}`"))),
    };
    Ok(Turn::Whole(done.unwrap_or_else(|why| failed(asked, &format!("arguments of `{name}`: {why}")))))
}

fn failed(asked: Asked<'_>, why: &str) -> Vec<u8> {
    asked.content(&json!(why).to_string(), r#","isError":true"#)
}

fn read<'a, A: Deserialize<'a>>(arguments: &'a str) -> Result<A, String> {
    serde_json::from_str(arguments).map_err(|error| error.to_string())
}

fn echo(asked: Asked<'_>, arguments: &str) -> Result<Vec<u8>, String> {
    #[derive(Deserialize)]
    struct Arguments<'a> {
        #[serde(borrow)]
        text: &'a RawValue,
    }
    // The text goes back as it was written: nothing is decoded.
    let text = read::<Arguments<'_>>(arguments)?.text.get();
    if text.starts_with('"') { Ok(asked.content(text, "")) } else { Err("`text` must be a string".into()) }
}

fn add(asked: Asked<'_>, arguments: &str) -> Result<Vec<u8>, String> {
    #[derive(Deserialize)]
    struct Arguments {
        a: Number,
        b: Number,
    }
    let Arguments { a, b } = read(arguments)?;
    let whole = a.as_i64().zip(b.as_i64()).and_then(|(a, b)| a.checked_add(b)).map(Number::from);
    let float = || a.as_f64().zip(b.as_f64()).and_then(|(a, b)| Number::from_f64(a + b));
    let sum = whole.or_else(float).ok_or("the sum is out of range")?;
    let structured = format!(r#","structuredContent":{{"sum":{sum}}}"#);
    Ok(asked.content(&format!("\"{sum}\""), &structured))
}

fn big(asked: Asked<'_>, arguments: &str) -> Result<Vec<u8>, String> {
    #[derive(Deserialize)]
    struct Arguments {
        bytes: usize,
    }
    let Arguments { bytes } = read(arguments)?;
    if bytes > BIG_BYTES_MAX {
        return Err(format!("`bytes` must be at most {BIG_BYTES_MAX}"));
    }
    Ok(asked.content(&format!("\"{}\"", "x".repeat(bytes)), ""))
}

fn fail(asked: Asked<'_>, arguments: &str) -> Result<Vec<u8>, String> {
    #[derive(Deserialize)]
    struct Arguments {
        message: Option<String>,
    }
    let Arguments { message } = read(arguments)?;
    Ok(failed(asked, message.as_deref().unwrap_or("this tool always fails")))
}

fn duration(arguments: &str) -> Result<Duration, String> {
    #[derive(Deserialize)]
    struct Arguments {
        milliseconds: u64,
    }
    let Arguments { milliseconds } = read(arguments)?;
    if milliseconds > SLOW_MS_MAX {
        return Err(format!("`milliseconds` must be at most {SLOW_MS_MAX}"));
    }
    Ok(Duration::from_millis(milliseconds))
}

fn slow(era: Era, id: &Id, message: &Message<'_>, peer: Option<&Peer>, total: Duration) -> Turn {
    let token = message.params.meta.progress_token().and_then(|token| Id::from_json(token.get()));
    let logged = match era {
        Era::Legacy => peer.is_some_and(Peer::wants_logs),
        Era::Modern => message.params.raw("_meta").is_some_and(|meta| wants_logs(meta.get())),
    };
    let started = Instant::now();
    Turn::Flow(Flow::wait(Wait { id: id.clone(), era, total, token, logged, started, steps: 0 }))
}

/// Whether the `_meta` of a modern request asks for logs at level `info`.
fn wants_logs(meta: &str) -> bool {
    #[derive(Deserialize)]
    struct Meta {
        #[serde(rename = "io.modelcontextprotocol/logLevel")]
        level: Option<String>,
    }
    serde_json::from_str::<Meta>(meta)
        .is_ok_and(|meta| meta.level.as_deref().and_then(info_is_in) == Some(true))
}
