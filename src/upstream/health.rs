//! Active health: which endpoint is asked when, and what follows for those that are out.
//! Not here: what is asked (`probe`); refused connections and failed calls (`breaker`, `select`).
//!
//! All servers are watched by one task, each round of a server being a task of its own, so that a hanging server never
//! delays another's checks.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::breaker::Fault;
use super::probe::Kept;
use super::{Fleet, Upstream};
use crate::catalog::HealthKind;

/// How often the watch looks for servers that are due.
const TICK: Duration = Duration::from_millis(250);
/// A server with an endpoint out of rotation is asked at least this often, so that it returns soon.
const RECOVERY: Duration = Duration::from_secs(1);
/// Probe sessions get this long to be closed at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the watch knows of one server: the probe sessions with its endpoints, and when it is due; `None` while a
/// round is running.
#[derive(Default)]
struct Watched {
    due: Option<Instant>,
    running: bool,
    kept: HashMap<u64, Kept>,
    upstream: Option<Arc<Upstream>>,
}

/// Watches the health of every server until `shutdown` turns true.
pub(super) async fn watch(fleet: &Arc<Fleet>, mut shutdown: watch::Receiver<bool>) {
    let mut rounds: JoinSet<(String, Watched)> = JoinSet::new();
    let mut servers: HashMap<String, Watched> = HashMap::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = shutdown.wait_for(|down| *down) => break,
            Some(done) = rounds.join_next() => {
                if let Ok((id, watched)) = done {
                    servers.insert(id, watched);
                }
            }
            _ = ticks.tick() => {
                look(fleet, &mut servers, &mut rounds);
            }
        }
    }
    // Sessions that were opened to ask are closed: the server would keep them.
    let farewell = async {
        while let Some(done) = rounds.join_next().await {
            servers.extend(done.ok());
        }
        let all = servers.into_values().map(close);
        futures_util::future::join_all(all).await;
    };
    drop(timeout(FAREWELL, farewell).await);
}

/// Starts a round for each server that is due.
fn look(fleet: &Arc<Fleet>, servers: &mut HashMap<String, Watched>, rounds: &mut JoinSet<(String, Watched)>) {
    let view = fleet.view().clone();
    let now = Instant::now();
    for upstream in view.upstreams() {
        let pool = &upstream.reach.pool;
        pool.endpoints().iter().for_each(|endpoint| endpoint.trim());
        if pool.health().is_none() {
            // Nothing is asked here: the next calls see whether it is well.
            let over = pool
                .endpoints()
                .iter()
                .filter(|endpoint| pool.is_over(endpoint).is_some_and(|(over, _)| over));
            over.for_each(|endpoint| pool.try_again(endpoint));
            continue;
        }
        let id = upstream.server.id.as_str();
        let watched = servers.entry(id.to_owned()).or_default();
        let changed =
            watched.upstream.as_ref().is_none_or(|known| !Arc::ptr_eq(&known.reach, &upstream.reach));
        if !watched.running && (changed || watched.due.is_none_or(|due| due <= now)) {
            let watched = std::mem::replace(watched, Watched { running: true, ..Watched::default() });
            rounds.spawn(kept_up(round(Arc::clone(upstream), watched), id.to_owned()));
        }
    }
    let gone = |id: &String, watched: &mut Watched| {
        !watched.running && view.upstream(id).is_none_or(|upstream| upstream.reach.pool.health().is_none())
    };
    for (id, watched) in servers.extract_if(gone) {
        rounds.spawn(async move {
            close(watched).await;
            (id, Watched::default())
        });
    }
}

/// A round that panics is no reason to ask no more: the server is due again, and its probe sessions are lost.
async fn kept_up(round: impl Future<Output = (String, Watched)>, id: String) -> (String, Watched) {
    let done = AssertUnwindSafe(round).catch_unwind().await;
    done.unwrap_or_else(|_| (id, Watched { due: Some(Instant::now() + RECOVERY), ..Watched::default() }))
}

/// One round of checks of one server.
async fn round(upstream: Arc<Upstream>, mut watched: Watched) -> (String, Watched) {
    let id = upstream.server.id.as_str().to_owned();
    let pool = &upstream.reach.pool;
    let Some((health, probe)) = pool.health() else { return (id, watched) };
    let mut asked = Vec::new();
    for endpoint in pool.endpoints() {
        let kept = watched.kept.remove(&endpoint.key());
        asked.push(async move {
            let mut kept = kept;
            let found = timeout(health.timeout, probe.ask(endpoint, &mut kept)).await;
            let found = found.unwrap_or(Err("no answer in time"));
            pool.checked(endpoint, found);
            if let Some((over, why)) = pool.is_over(endpoint) {
                // What put it out says what brings it back: a connection, or an answer.
                let well = match (why, &health.kind) {
                    (Fault::Connect, _) => found.is_ok(),
                    (_, HealthKind::Http { .. } | HealthKind::Mcp { .. }) => over && found.is_ok(),
                    _ => over && timeout(health.timeout, probe.speaks(endpoint)).await.is_ok_and(|ok| ok),
                };
                match (well, over) {
                    (true, _) => pool.try_again(endpoint),
                    (false, true) => pool.still_bad(endpoint),
                    (false, false) => {}
                }
            }
            (endpoint.key(), kept)
        });
    }
    // Endpoints that are gone keep nothing.
    close(Watched {
        upstream: watched.upstream.take(),
        kept: std::mem::take(&mut watched.kept),
        ..Watched::default()
    })
    .await;
    let kept = futures_util::future::join_all(asked).await;
    let kept = kept.into_iter().filter_map(|(key, kept)| Some((key, kept?))).collect();
    pool.publish();
    let all_up = pool.status().iter().all(|endpoint| endpoint.state.name() == "healthy");
    let due = Instant::now() + if all_up { health.interval } else { health.interval.min(RECOVERY) };
    (id, Watched { due: Some(due), running: false, kept, upstream: Some(upstream) })
}

/// Ends the probe sessions of a server.
async fn close(watched: Watched) {
    let Some(upstream) = &watched.upstream else { return };
    let Some((_, probe)) = upstream.reach.pool.health() else { return };
    let endpoints = upstream.reach.pool.endpoints();
    for (key, kept) in watched.kept {
        if let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.key() == key) {
            drop(timeout(FAREWELL, probe.close(endpoint, kept)).await);
        }
    }
}
