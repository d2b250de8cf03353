//! The built-in MCP servers: a few honest tools, prompts and resources, for the demo, for tests and for benchmarks.
//! Not here: the verb `sample` of the command line (`command`) and the catalog that names them (`app/demo`).
//!
//! One small core (`answer`) takes a message and says what follows from it: nothing, one answer, or a flow of
//! messages that takes time. The transports around it only carry messages: lines on standard input and output
//! (`stdio`), and HTTP (`http`). Both eras are spoken everywhere but under `/http` (legacy) and `/modern`.
//!
//! What is offered never changes, so no `listChanged` and no `subscribe` is declared: the GET stream and
//! `subscriptions/listen` are there and stay silent.
//!
//! Not done: batches, which only 2025-03-26 has; and resumption of a broken stream, since events carry no ids.

mod answer;
mod flow;
mod http;
mod offer;
mod peer;
mod refusal;
mod sessions;
mod stdio;
mod stream;
mod tool;
mod write;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::mcp::ParseLimits;

/// A message may be this long; the gateway's own limit is lower.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
const PARSE: ParseLimits = ParseLimits { depth_max: 128 };

/// Speaks MCP, both eras, on standard input and output, one message a line. Ends at the end of the input, or when
/// nobody reads the output any more; calls that still run then are dropped.
pub async fn stdio() {
    stdio::serve().await;
}

/// Speaks MCP over HTTP until `stopping` turns true or its sender is gone; then ends streams and connections, within
/// five seconds. The paths: `/http` is Streamable HTTP of the legacy era, with sessions and the GET stream;
/// `/modern` is 2026-07-28; `/mcp` is both; `/sse` is JSON-RPC over POST without sessions, both eras, every answer as
/// an event.
pub async fn serve_http(listener: TcpListener, stopping: watch::Receiver<bool>) {
    http::serve(listener, stopping).await;
}

#[cfg(test)]
mod tests;
