//! What is behind the gateway: `catalog.yaml` read, checked and indexed into one immutable snapshot.
//! Not here: live state such as health, connections or children (`upstream`, `bridge`).

mod changes;
mod check;
mod children;
mod credential;
mod endpoint;
mod glob;
mod load;
mod model;
mod raw;
mod rule;
mod watch;

pub use changes::Changes;
pub use children::{Children, Mode};
pub use credential::{ClientCredentials, Credential};
pub use endpoint::{Balance, Breaker, HashBy, Retry};
pub use glob::{Matcher, covers, overlap};
pub use load::{load, parse};
pub use model::{
    Endpoint, Health, HealthKind, Local, Remote, RemoteKind, Runtime, Server, ServerId, Snapshot, Timeouts,
    Tool,
};
pub use rule::{Actions, Effect, Globs, Items, Rule, Rules, Shared, Throttle, ToolThrottle, Who};
pub use watch::{Seen, Watch};

use std::path::PathBuf;

/// What can go wrong with a catalog besides the mistakes in it, which are [`crate::document::Mistakes`].
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The path names no file.
    #[error("{} is not the path of a file", .0.display())]
    NotAFile(PathBuf),
}

/// The JSON Schema (draft-07) of `catalog.yaml`, for editors.
pub fn schema() -> serde_json::Value {
    crate::document::schema_of::<raw::RawCatalog>()
}

#[cfg(test)]
mod tests;
