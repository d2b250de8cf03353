//! What is behind the gateway: `catalog.yaml` read, checked and indexed into one immutable snapshot.
//! Not here: live state such as health, connections or children (`upstream`, `bridge`).

mod model;

pub use model::{
    Endpoint, Health, HealthKind, Local, Remote, RemoteKind, Runtime, Server, ServerId, Snapshot, Timeouts,
};
