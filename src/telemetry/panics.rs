//! Panics: each is a fault of ours, told in the log and counted.
//! Not here: what goes on after one (`proxy` answers 500, `app/keep` starts a task again).

use std::panic::PanicHookInfo;
use std::sync::LazyLock;

use prometheus::{IntCounter, Registry};

/// One for the process, as the hook is. Without it nothing is counted, and the rest goes on.
static PANICS: LazyLock<Option<IntCounter>> = LazyLock::new(|| {
    IntCounter::new("tollgate_panics_total", "Panics: each is a fault of the gateway's own.").ok()
});

/// Tells the log of every panic from now on, instead of writing to standard error.
pub fn watch() {
    std::panic::set_hook(Box::new(tell));
}

fn tell(info: &PanicHookInfo<'_>) {
    if let Some(panics) = &*PANICS {
        panics.inc();
    }
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or_default();
    // What is formatted into a message may be somebody's secret: only words that stand in the source are shown.
    let words = info.payload().downcast_ref::<&str>().copied().unwrap_or("a message with values in it");
    tracing::error!(%place, thread, words, "panic");
    if let Some(message) = info.payload().downcast_ref::<String>() {
        tracing::trace!(%message, "panic");
    }
}

/// A registry in which panics are counted.
pub(super) fn registry() -> prometheus::Result<Registry> {
    let registry = Registry::new();
    if let Some(panics) = &*PANICS {
        registry.register(Box::new(panics.clone()))?;
    }
    Ok(registry)
}
