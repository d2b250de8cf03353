//! Refusals of bodies that are no message.
//! Not here: what makes a message (`mcp`).

use http::StatusCode;

use super::Row;
use crate::mcp::{Code, Malformed, MalformedKind};
use crate::telemetry::Outcome;

pub(super) fn row(malformed: &Malformed) -> Row {
    let (code, reason) = match &malformed.kind {
        MalformedKind::NotJson(_) => (Code::PARSE, "not_json"),
        MalformedKind::TooDeep(_) => (Code::PARSE, "too_deep"),
        MalformedKind::Batch => (Code::INVALID_REQUEST, "batch"),
        MalformedKind::NotObject => (Code::INVALID_REQUEST, "not_an_object"),
        MalformedKind::Ambiguous(_) => (Code::INVALID_REQUEST, "ambiguous_member"),
        MalformedKind::Unversioned | MalformedKind::Envelope(_) => (Code::INVALID_REQUEST, "not_json_rpc"),
        MalformedKind::Params | MalformedKind::NoText(_) => (Code::INVALID_PARAMS, "params"),
    };
    let words = malformed.kind.to_string();
    Row { status: StatusCode::BAD_REQUEST, code, reason, words, outcome: Outcome::Denied }
}
