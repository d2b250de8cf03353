//! Tasks that have to go on as long as the gateway does: one that panics is started again.
//! Not here: the tasks themselves (`sidecar`), how a panic is told (`telemetry`).

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::sleep;

/// How long a task rests that panicked once; twice as long after each further time, up to the other.
const REST: Duration = Duration::from_millis(250);
/// A task that always panics costs little at this pace.
const REST_MAX: Duration = Duration::from_secs(30);

/// Does `work` until it ends by itself. What it held when it panicked is gone; what it shares has no lock that a panic
/// could poison. `work` is told whether it is started again, and may have left something undone.
pub(super) async fn keep<F: Future<Output = ()>>(task: &'static str, mut work: impl FnMut(bool) -> F) {
    let (mut again, mut rest) = (false, REST);
    while AssertUnwindSafe(async { work(again).await }).catch_unwind().await.is_err() {
        tracing::error!(task, "a task panicked and is started again");
        sleep(rest).await;
        (again, rest) = (true, REST_MAX.min(rest * 2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn goes_on_until_the_work_ends() {
        let mut times = 0;
        keep("test", |again| {
            assert_eq!(again, times > 0);
            times += 1;
            let last = times == 3;
            async move { assert!(last, "not yet") }
        })
        .await;
        assert_eq!(times, 3);
    }
}
