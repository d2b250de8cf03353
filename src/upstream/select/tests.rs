//! Tests of how calls are spread, and of who leaves and returns.
//! Not here: counting failures (`breaker`), whole servers (`tests/it`).

use super::*;
use crate::telemetry::Meters;

/// A pool of a server with these settings, beside `url`s of three endpoints with these weights.
fn pool(weights: &[u16], settings: &str) -> Pool {
    let endpoints = weights.iter().enumerate();
    let endpoints: String = endpoints
        .map(|(at, weight)| format!("      - {{url: 'http://127.0.0.1:9/{at}', weight: {weight}}}\n"))
        .collect();
    let text = format!(
        "servers:\n- id: s\n  runtime:\n    type: remote-http\n    endpoints:\n{endpoints}  health: {{type: 'off'}}\n{settings}"
    );
    let snapshot =
        crate::catalog::parse(&text, "catalog.yaml", std::path::Path::new("/"), 1, &|_| None).unwrap();
    let meters = Meters::new(10).unwrap().server("s");
    Pool::new(&snapshot.servers[0], &[], 1, None, meters)
}

fn numbers(pool: &Pool, count: usize, want: Want<'_>) -> Vec<usize> {
    (0..count).map(|_| pool.pick(want).unwrap().endpoint.number()).collect()
}

fn shares(pool: &Pool, count: usize) -> Vec<usize> {
    let numbers = numbers(pool, count, Want::default());
    (0..pool.endpoints().len()).map(|at| numbers.iter().filter(|number| **number == at).count()).collect()
}

fn fail(pool: &Pool, at: usize, times: usize) {
    for _ in 0..times {
        pool.failed(&pool.endpoints()[at], Fault::Status(500), Instant::now());
    }
}

fn states(pool: &Pool) -> Vec<&'static str> {
    pool.status().iter().map(|status| status.state.name()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_round_is_by_weight_and_mixed() {
    let pool = pool(&[1, 2, 1], "");
    assert_eq!(numbers(&pool, 8, Want::default()), [1, 0, 2, 1, 1, 0, 2, 1]);
    assert_eq!(shares(&pool, 400), [100, 200, 100]);
}

#[tokio::test(start_paused = true)]
async fn draws_are_by_weight() {
    let pool = pool(&[1, 2, 1], "  balance: random\n");
    let shares = shares(&pool, 4_000);
    assert!((800..1_200).contains(&shares[0]) && (1_800..2_200).contains(&shares[1]), "{shares:?}");
}

#[tokio::test(start_paused = true)]
async fn the_busy_get_less() {
    let pool = pool(&[1, 1, 1], "  balance: least_in_flight\n");
    for _ in 0..30 {
        pool.endpoints()[0].enter();
    }
    let mut entered = vec![0usize; 3];
    for _ in 0..40 {
        let picked = pool.pick(Want::default()).unwrap();
        picked.endpoint.enter();
        entered[picked.endpoint.number()] += 1;
    }
    assert_eq!(entered[0], 0, "{entered:?}");
    assert!(entered[1].abs_diff(entered[2]) <= 20, "{entered:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hash_stays_as_long_as_there_is_room() {
    let pool = pool(&[1, 1, 1], "  balance: hash\n");
    let mut homes = Vec::new();
    for caller in 0..300 {
        let want = Want { caller, ..Want::default() };
        let chosen = numbers(&pool, 5, want);
        assert!(chosen.iter().all(|number| *number == chosen[0]), "{chosen:?}");
        homes.push(chosen[0]);
    }
    for at in 0..3 {
        let share = homes.iter().filter(|home| **home == at).count();
        assert!((60..140).contains(&share), "{share}");
    }
    // An endpoint that is gone moves its own keys and no other.
    fail(&pool, 0, 5);
    for (caller, home) in (0..).zip(&homes).filter(|(_, home)| **home != 0) {
        assert_eq!(numbers(&pool, 1, Want { caller, ..Want::default() }), [*home]);
    }
    // One key alone never loads its endpoint with more than its share.
    let mut entered = vec![0usize; 3];
    for _ in 0..120 {
        let picked = pool.pick(Want { caller: 7, ..Want::default() }).unwrap();
        picked.endpoint.enter();
        entered[picked.endpoint.number()] += 1;
    }
    assert!(*entered.iter().max().unwrap() <= 120 * 125 / 200 + 1, "{entered:?}");
}

#[tokio::test(start_paused = true)]
async fn a_session_stays_and_says_when_it_cannot() {
    let pool = pool(&[1, 1, 1], "");
    let pin = pool.endpoints()[1].key();
    let want = Want { pin: Some(pin), ..Want::default() };
    assert_eq!(numbers(&pool, 5, want), [1; 5]);
    assert_eq!(pool.pick(Want { pin: Some(1), ..Want::default() }).unwrap_err(), UpstreamError::EndpointGone);
    fail(&pool, 1, 5);
    assert_eq!(pool.pick(want).unwrap_err(), UpstreamError::CircuitOpen(Duration::from_secs(5)));
    assert!(pool.has_other(pin));
}

#[tokio::test(start_paused = true)]
async fn half_of_them_may_be_out_while_others_are_left() {
    let pool = pool(&[1, 1, 1, 1], "");
    fail(&pool, 0, 5);
    fail(&pool, 1, 5);
    assert_eq!(states(&pool), ["ejected", "ejected", "healthy", "healthy"]);
    fail(&pool, 2, 5);
    assert_eq!(states(&pool), ["ejected", "ejected", "degraded", "healthy"]);
    assert_eq!(shares(&pool, 100), [0, 0, 50, 50]);
    // The last one that was well fails too: nobody is left, and callers are told so at once.
    fail(&pool, 3, 5);
    assert_eq!(states(&pool), ["ejected"; 4]);
    let error = pool.pick(Want::default()).unwrap_err();
    assert!(
        matches!(error, UpstreamError::CircuitOpen(left) if left <= Duration::from_secs(60)),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_call_at_a_time_sees_whether_it_is_well() {
    let pool = pool(&[1, 1], "");
    fail(&pool, 0, 5);
    tokio::time::advance(Duration::from_secs(5)).await;
    let out = &pool.endpoints()[0];
    assert_eq!(pool.is_over(out), Some((true, Fault::Status(500))));
    pool.try_again(out);
    let picked = pool.pick(Want::default()).unwrap();
    assert_eq!((picked.endpoint.number(), picked.probing), (0, true));
    picked.endpoint.enter();
    assert_eq!(numbers(&pool, 5, Want::default()), [1; 5], "the others do not wait for it");
    pool.succeeded(out);
    out.leave(true);
    assert_eq!(states(&pool), ["healthy", "healthy"]);
    // It starts with a tenth of its share, and has all of it in the end.
    let slow = shares(&pool, 110);
    assert!((8..=12).contains(&slow[0]), "{slow:?}");
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(shares(&pool, 100), [50, 50]);
}

#[tokio::test(start_paused = true)]
async fn a_single_endpoint_opens_for_a_minute_and_three_calls_see() {
    let pool = pool(&[1], "");
    fail(&pool, 0, 5);
    assert_eq!(pool.pick(Want::default()).unwrap_err(), UpstreamError::CircuitOpen(Duration::from_secs(60)));
    tokio::time::advance(Duration::from_secs(60)).await;
    let only = &pool.endpoints()[0];
    pool.try_again(only);
    for _ in 0..3 {
        let picked = pool.pick(Want::default()).unwrap();
        assert!(picked.probing);
        picked.endpoint.enter();
    }
    assert!(matches!(pool.pick(Want::default()), Err(UpstreamError::CircuitOpen(_))));
    pool.succeeded(only);
    assert_eq!(states(&pool), ["healthy"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_breaker_nobody_leaves() {
    let pool = pool(&[1, 1], "  breaker: {enabled: false}\n");
    fail(&pool, 0, 50);
    assert_eq!(states(&pool), ["healthy", "healthy"]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_is_not_the_endpoints_fault_while_it_answers_others() {
    let pool = pool(&[1], "");
    let only = &pool.endpoints()[0];
    for _ in 0..20 {
        let sent = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        pool.succeeded(only);
        tokio::time::advance(Duration::from_secs(1)).await;
        pool.failed(only, Fault::Late, sent);
    }
    assert_eq!(states(&pool), ["healthy"]);
    for _ in 0..5 {
        let sent = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        pool.failed(only, Fault::Late, sent);
    }
    assert_eq!(states(&pool), ["ejected"]);
}
