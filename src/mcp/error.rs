//! JSON-RPC error codes we emit, and the one function that writes an error message.
//! Not here: which mistake gets which code (`proxy/rejection`, `bridge`).

use bytes::Bytes;
use serde_json::json;

use super::message::Id;

/// A JSON-RPC error code.
///
/// Codes of our own lie outside -32768…-32000, as 2026-07-28/basic demands of codes private to an
/// implementation; they read as -31 followed by the HTTP status they go with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub i64);

impl Code {
    /// Not JSON.
    pub const PARSE: Self = Self(-32700);
    /// JSON, but no JSON-RPC message we accept.
    pub const INVALID_REQUEST: Self = Self(-32600);
    /// Unknown method.
    pub const METHOD_NOT_FOUND: Self = Self(-32601);
    /// Wrong parameters.
    pub const INVALID_PARAMS: Self = Self(-32602);
    /// Something broke on our side.
    pub const INTERNAL: Self = Self(-32603);
    /// Open MCP Gateway: a backend failed.
    pub const SERVER_ERROR: Self = Self(-32000);
    /// What SDK servers say of a session they do not know; Open MCP Gateway: an unknown server.
    pub const NOT_FOUND: Self = Self(-32001);
    /// A resource that is not there (until 2025-11-25).
    pub const RESOURCE_NOT_FOUND: Self = Self(-32002);
    /// A mirrored header is missing or differs from the body (2026-07-28).
    pub const HEADER_MISMATCH: Self = Self(-32020);
    /// No or no good credential.
    pub const UNAUTHENTICATED: Self = Self(-31401);
    /// Not for this caller.
    pub const FORBIDDEN: Self = Self(-31403);
    /// The caller's bucket is empty.
    pub const RATE_LIMITED: Self = Self(-31429);
    /// The upstream broke its word.
    pub const BAD_UPSTREAM: Self = Self(-31502);
    /// Nobody can answer now.
    pub const UNAVAILABLE: Self = Self(-31503);
    /// A deadline passed.
    pub const TIMEOUT: Self = Self(-31504);
}

/// A JSON-RPC error as it goes to the other side.
#[derive(Debug, Clone)]
pub struct RpcError {
    /// Its code.
    pub code: Code,
    /// Text for people.
    pub message: String,
    /// Data for programs: `reason`, `requestId` and what belongs to the reason.
    pub data: Option<serde_json::Value>,
}

impl RpcError {
    /// The whole message, answering the request of that id (`null` when it is not known).
    pub fn to_message(&self, id: Option<&Id>) -> Bytes {
        let id = id.map_or("null", Id::as_json);
        let error = match &self.data {
            Some(data) => json!({"code": self.code.0, "message": self.message, "data": data}),
            None => json!({"code": self.code.0, "message": self.message}),
        };
        Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#))
    }
}
