//! The form of limits of servers, and of what is said of tools, in `catalog.yaml`.
//! Not here: what they may say (`check/throttle.rs`); limits of callers (`conf`).

use schemars::JsonSchema;
use serde::Deserialize;

use super::RawToolTimeouts;
use crate::document::{At, Period};

/// How often, and how many at once.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::catalog) struct RawShared {
    /// Calls in each period.
    #[schemars(range(min = 1))]
    pub(in crate::catalog) requests: Option<At<u32>>,
    /// The period.
    pub(in crate::catalog) per: Option<At<Period>>,
    /// Calls that may come at once. Default: `requests`.
    #[schemars(range(min = 1))]
    pub(in crate::catalog) burst: Option<At<u32>>,
    /// Calls running at once.
    #[schemars(range(min = 1))]
    pub(in crate::catalog) in_flight: Option<At<u32>>,
    /// Whether each caller has this for itself. Default: false, all callers share it.
    pub(in crate::catalog) each_caller: Option<bool>,
}

/// One tool of a server.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::catalog) struct RawTool {
    /// What a call counts for in every limit but that of the client address. Default: 1.
    #[schemars(range(min = 1))]
    pub(in crate::catalog) cost: Option<At<u32>>,
    /// Its own limit.
    pub(in crate::catalog) limit: Option<At<RawShared>>,
    /// Deadlines of its calls, instead of the server's.
    pub(in crate::catalog) timeouts: Option<RawToolTimeouts>,
    /// Whether a call may be sent again after its connection broke, because calling twice does no more than calling
    /// once. Default: false, no call is ever sent twice.
    pub(in crate::catalog) idempotent: Option<bool>,
}
