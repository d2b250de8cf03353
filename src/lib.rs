//! Tollgate.

pub mod auth;
pub mod catalog;
pub mod conf;
pub mod limit;
pub mod mcp;
pub mod reply;
pub mod session;
