//! Black-box tests: the built gateway, real sockets, real signals, real MCP servers and official clients.
//! Not here: tests of one room (beside their code), the rules of the source text (`tests/tidy.rs`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test stops at the first thing that is wrong, and starts processes and tasks of its own"
)]

mod alone;
mod bounds;
mod breaks;
mod children;
mod cli;
mod client;
mod conformance;
mod cors;
mod credentials;
mod desktop;
mod exchange;
mod fake;
mod frames;
mod gateway;
mod hardening;
mod interop;
mod issuer;
mod launcher;
mod leavers;
mod legacy_sse;
mod limits;
mod links;
mod listeners;
mod load;
mod meter;
mod misbehaving;
mod naive;
mod native_api;
mod oauth;
mod packages;
mod policy;
mod raw;
mod readme;
mod recorder;
mod reload;
mod resume;
mod sandbox;
mod scorecard;
mod service;
mod settings;
mod sim;
mod sse_upstream;
mod stdio;
mod storm;
mod streams;
mod tls;
mod tokens;
mod upstream;
mod wire;
