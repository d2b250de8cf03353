//! How often and how many at once: exact token buckets, places among the calls in flight, a coarse guard.
//! Not here: what is asked of whom at which point of a request (`proxy/admit`); what a refusal looks like (`proxy/rejection`).

mod address;
mod bucket;
mod decision;
mod flood;
mod in_flight;
mod pressure;
mod shard;

pub use address::Address;
pub use bucket::{Buckets, Spending, Spent};
pub use decision::{Decision, Draw, Key, Layer};
pub use flood::Flood;
pub use in_flight::{Gate, Permit, Place, Places, Scale, Weight};
pub use pressure::{Level, Pressure};
