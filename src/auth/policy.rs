//! The one decision: may this caller use that server?
//! Not here: who the caller is (`auth`), or what is done once they may (`upstream`).

use super::Caller;
use crate::catalog::ServerId;

/// A value that was found allowed for a caller. Only [`allow`] makes one, so whoever takes it need not ask again.
#[derive(Debug)]
pub struct Allowed<T>(T);

impl<T> Allowed<T> {
    /// What was allowed.
    pub fn get(&self) -> &T {
        &self.0
    }
}

/// The caller may not use the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not allowed for this caller")]
pub struct Denied;

/// Allows `target`, which belongs to `server`, for `caller`.
pub fn allow<T>(caller: &Caller, server: &ServerId, target: T) -> Result<Allowed<T>, Denied> {
    if caller.may_use(server.as_str()) { Ok(Allowed(target)) } else { Err(Denied) }
}
