//! The form of `sandbox` of a local server in `catalog.yaml`.
//! Not here: what it may say (`check/sandbox.rs`), or how it is done (the `sandbox` room).

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::{At, Period, Size};

/// What a local process may use. Whatever is not said stays as the gateway's user has it. A process with a sandbox has
/// no capabilities of root, and can send signals to its own processes only, where the kernel knows how (Linux 6.12).
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub(in crate::catalog) struct RawSandbox {
    /// Address space of each process, which is more than it fills; an allocation beyond fails.
    pub(in crate::catalog) memory: Option<At<Size>>,
    /// Processor time of each process over its whole life, in whole seconds; it is then ended.
    pub(in crate::catalog) cpu: Option<At<Period>>,
    /// Open files of each process.
    #[schemars(range(min = 16))]
    pub(in crate::catalog) files: Option<At<u32>>,
    /// Processes and threads of its user, all servers of that user together. Where Tollgate runs as root it needs `user`.
    #[schemars(range(min = 1))]
    pub(in crate::catalog) processes: Option<At<u32>>,
    /// Length of a file that it writes; `0` lets it write none.
    pub(in crate::catalog) file_size: Option<At<Size>>,
    /// Files and directories that it may read and execute, relative to this file. With `read` or `write` it may use
    /// these, its program and what every program needs of the system (`/usr` and the like), and no others.
    pub(in crate::catalog) read: Option<At<Vec<At<String>>>>,
    /// Files and directories that it may read and change, relative to this file. What stands in them cannot be executed
    /// unless `read` names it, too.
    pub(in crate::catalog) write: Option<At<Vec<At<String>>>>,
    /// Whether it may use the network. Default: true.
    pub(in crate::catalog) network: Option<At<bool>>,
    /// The user it runs as, where Tollgate runs as root: `name`, `name:group`, or numbers. It has no other groups.
    pub(in crate::catalog) user: Option<At<String>>,
    /// What becomes of it where the kernel cannot do all of this: `refuse` does not start it, `warn` starts it with
    /// less and logs a warning. Default: refuse.
    pub(in crate::catalog) missing: Option<At<RawMissing>>,
}

/// What becomes of a process that cannot have its sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::catalog) enum RawMissing {
    #[default]
    Refuse,
    Warn,
}
