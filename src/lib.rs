//! Tollgate.

pub mod catalog;
pub mod conf;
pub mod document;
