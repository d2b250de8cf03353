//! The form of what a server says about how its processes are shared.
//! Not here: what is accepted, and the defaults (`check/children.rs`).

use schemars::JsonSchema;
use serde::Deserialize;

/// Who shares a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::catalog) enum RawMode {
    #[default]
    Shared,
    PerSession,
    PerCaller,
}
