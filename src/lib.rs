//! Tollgate.

pub mod app;
pub mod auth;
pub mod bridge;
pub mod catalog;
pub mod command;
pub mod conf;
pub mod control;
pub mod document;
pub mod hub;
pub mod limit;
pub mod mcp;
pub mod proxy;
pub mod reply;
pub mod sample;
pub mod session;
pub mod telemetry;
pub mod upstream;
