//! F18: clients that hang up at random: a modern call ends with its client, a legacy one goes on, nothing is left over.
//! Not here: the run itself (`leavers`), one abort of each kind (`streams`), the long form (`benches/soak`).

use serde_json::json;

use super::Card;
use crate::gateway::Gateway;
use crate::leavers::{CANCEL, Left, leave};
use crate::sim::Sim;

/// Calls of each era.
const CALLS: usize = 1_000;

#[tokio::test]
async fn f18_what_clients_abandon_ends_with_them_or_goes_on_as_their_era_says() {
    let sim = Sim::start();
    let server =
        json!({"id": "it", "runtime": {"type": "remote-http", "url": sim.url()}, "health": {"type": "off"}});
    let gateway = Gateway::start(&json!({"servers": [server]}).to_string());
    let left = leave(&sim, gateway.address(), gateway.pid(), CALLS).await;
    let mut card = Card::new("F18");
    card.check("modern calls end within a second", left.slowest < CANCEL + CANCEL, &left);
    card.check("calls arrived", left.arrived.iter().all(|count| *count > CALLS / 4), &left);
    card.check("no legacy call was given up", left.given_up == 0 && left.cancelled == 0, &left);
    card.check("legacy calls ran on", left.running > 0.0, &left);
    card.check("the session goes on", left.after == 200, &left);
    let Left { arrived, slowest, running, descriptors, .. } = left;
    card.pass(&format!(
        "checks of {} calls abandoned, {} of which had arrived: modern ones end upstream after at most {} ms, {running} legacy ones ran on; descriptors {} before and {} after",
        2 * CALLS, arrived[0] + arrived[1], slowest.as_millis(), descriptors[0], descriptors[1],
    ));
}
