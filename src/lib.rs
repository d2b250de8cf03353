//! Tollgate.

pub mod bridge;
pub mod catalog;
pub mod conf;
pub mod mcp;
pub mod sample;
