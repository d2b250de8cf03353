//! Whether a credential is still good, after somebody has come in with it.
//! Not here: whether it was good in the first place (`api_key`, `jwt`, `certificate`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a credential is still good; shared by the credential and by everybody who came in with it. It ends once,
/// when the credential leaves the configuration or its key leaves the issuer's key set.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing(Arc<AtomicBool>);

impl Standing {
    /// The credential is no longer good.
    pub(super) fn end(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether both are the same one.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
