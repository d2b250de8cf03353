//! What the process, one caller or one server may have at once, so that none of them takes what the others need.
//! Not here: the defaults (`raw/limit.rs`), other bounds (`Limits`), what callers are allowed (`Limit`).

/// Bounds that are answered with 503 when they are reached. Each is a key of `limits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Calls in flight of one caller.
    pub in_flight_per_caller: u32,
    /// Calls in flight to one server.
    pub in_flight_per_server: u32,
    /// Streams held open to listen to one server.
    pub streams_per_server: u32,
    /// Sessions used lately.
    pub sessions: usize,
    /// The same of one caller.
    pub sessions_per_caller: usize,
    /// The same with one server.
    pub sessions_per_server: usize,
    /// Bodies of requests that are held, in bytes.
    pub request_bytes: usize,
    /// The same of one caller.
    pub request_bytes_per_caller: usize,
    /// The same to one server.
    pub request_bytes_per_server: usize,
    /// Resident memory of the gateway, in bytes; `None` is no bound.
    pub memory: Option<usize>,
}
