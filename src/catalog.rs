//! What is behind the gateway: `catalog.yaml` read, checked and indexed into one immutable snapshot.
//! Not here: live state such as health, connections or children (`upstream`, `bridge`).

mod changes;
mod check;
mod load;
mod model;
mod raw;

pub use changes::Changes;
pub use load::{load, parse};
pub use model::{
    Endpoint, Health, HealthKind, Local, Remote, RemoteKind, Runtime, Server, ServerId, Snapshot, Timeouts,
};

/// The JSON Schema (draft-07) of `catalog.yaml`, for editors.
pub fn schema() -> serde_json::Value {
    let settings = schemars::generate::SchemaSettings::draft07();
    settings.into_generator().into_root_schema_for::<raw::RawCatalog>().to_value()
}

#[cfg(test)]
mod tests;
