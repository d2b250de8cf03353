//! How often a caller may call: exact token buckets.
//! Not here: whose bucket it is (`auth`); what a refusal looks like (`proxy/rejection`).

mod bucket;
mod in_flight;

pub use bucket::{Buckets, Decision};
pub use in_flight::{Gate, Permit};
