//! How a denial of the policy looks: what one may not see looks like what is not there.
//! Not here: the decision (`auth/policy`); the other refusals (`rejection`).

use http::StatusCode;

use super::{Row, unknown_server};
use crate::auth::{Denied, ItemKind};
use crate::mcp::{Code, Era};
use crate::telemetry::Outcome;

/// The row of a denial. `wanted` says whether the client waits for a response; who waits for none is told of none, as by
/// a server that does not know the item.
pub(super) fn row(denied: &Denied, server: &str, era: Era, wanted: bool) -> Row {
    let row = |status, code, reason, words| Row { status, code, reason, words, outcome: Outcome::Denied };
    let (status, code, reason, words) = match denied {
        Denied::Server => return unknown_server(server),
        Denied::Scopes(scopes) => {
            let words = format!("this needs a token with the scopes: {}", scopes.join(" "));
            (StatusCode::FORBIDDEN, Code::FORBIDDEN, "insufficient_scope", words)
        }
        Denied::Item(ItemKind::Tool, name) => {
            (StatusCode::OK, Code::INVALID_PARAMS, "unknown_tool", format!("Unknown tool: {name}"))
        }
        Denied::Item(ItemKind::Prompt, name) => {
            (StatusCode::OK, Code::INVALID_PARAMS, "unknown_prompt", format!("Unknown prompt: {name}"))
        }
        // 2026-07-28 gave up the code of its own.
        Denied::Item(ItemKind::Resource, _) => {
            let code = if era == Era::Modern { Code::INVALID_PARAMS } else { Code::RESOURCE_NOT_FOUND };
            (StatusCode::OK, code, "unknown_resource", "Resource not found".to_owned())
        }
        Denied::Method => {
            // 2026-07-28/basic/transports/streamable-http wants 404; legacy clients take that for a lost session.
            let status = if era == Era::Modern { StatusCode::NOT_FOUND } else { StatusCode::OK };
            (status, Code::METHOD_NOT_FOUND, "unknown_method", "Method not found".to_owned())
        }
    };
    match denied {
        Denied::Item(..) | Denied::Method if !wanted => row(StatusCode::ACCEPTED, code, reason, words),
        _ => row(status, code, reason, words),
    }
}
