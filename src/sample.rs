//! The built-in MCP servers, for the demo, tests and benchmarks: small honest tools over stdio and HTTP.
//! Not here: anything of the gateway; to it these are servers like any other.
//!
//! [`stdio`] serves both eras on one process. [`serve_http`] serves one listener with four paths: `/http` (legacy
//! Streamable HTTP with sessions), `/modern` (2026-07-28), `/mcp` (both) and `/sse` (JSON-RPC over POST, answered
//! as an event stream: what `remote-sse` of a catalog means).

mod body;
mod http;
mod offer;
mod react;
mod slow;
mod stdio;

pub use self::http::serve_http;
pub use self::stdio::stdio;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test runs the server beside itself")]
mod tests;
