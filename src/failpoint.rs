//! Places at which a test makes a debug build panic, to see what is left standing. A release build has none.
//! Not here: what happens then (`proxy` answers 500, `app/keep` starts a task again, `telemetry/panics` counts).

/// Panics if the environment's `FAILPOINTS` says so of this place: `filter=3,reader=1` means the third pass of the one
/// and the first of the other, and no other pass.
#[cfg(debug_assertions)]
pub fn pass(place: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static LEFT: LazyLock<Vec<(String, AtomicUsize)>> = LazyLock::new(|| {
        #[expect(clippy::disallowed_methods, reason = "no setting: a release build does not have it")]
        let said = std::env::var("FAILPOINTS").unwrap_or_default();
        let of = |part: &str| {
            part.split_once('=').and_then(|(place, pass)| Some((place.to_owned(), pass.parse().ok()?)))
        };
        said.split(',').filter_map(of).map(|(place, pass)| (place, AtomicUsize::new(pass))).collect()
    });
    let left = LEFT.iter().find(|(name, _)| name == place).map(|(_, left)| left);
    let counted =
        left.map(|left| left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)));
    assert!(counted != Some(Ok(1)), "a test wants a panic here");
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub fn pass(_place: &str) {}
