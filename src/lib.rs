//! Tollgate.

pub mod catalog;
pub mod conf;
