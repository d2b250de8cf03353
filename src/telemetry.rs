//! What the gateway shows of itself: metrics, the access log and the program's log.
//! Not here: what is measured; rooms above hand in values when something has happened.

mod access;
mod audit;
mod connections;
mod fleet;
mod life;
mod log;
mod metrics;
mod panics;

pub use access::{AccessLog, Line};
pub use audit::Audit;
pub use connections::{Cut, ListenerMeters, OpenConnection};
pub use life::LifeMeters;
pub use log::init as init_log;
pub use metrics::{Meters, Outcome, ServerMeters};
pub use panics::watch as watch_panics;
