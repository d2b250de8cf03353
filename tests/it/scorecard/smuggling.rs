//! S08: no request is smuggled, through any front that forwards.
//! Not here: what is sent (`payloads`), smuggling from HTTP/2 to HTTP/1.1 (`h2`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use super::Card;
use super::payloads::{Expect, Front, Payload, all};
use crate::gateway::Gateway;
use crate::naive::Naive;
use crate::recorder::{Believes, Recorded, Recorder};
use crate::wire::{Heard, PATIENCE, Wire, once};

const KEY: &str = "Wz3kP8vN5qL1xT7c-scorecard";
/// The body's deadline is short: many payloads announce more than they send.
const CONF: &str = "auth: {keys: [{name: a, key: Wz3kP8vN5qL1xT7c-scorecard, servers: [\"*\"]}]}\nlimits: {body_timeout: 500ms}\nthreads: 1\ndrain: 5s\n";
/// Longer than the body's deadline: who has no answer by then gets none.
const SILENCE: Duration = Duration::from_secs(3);

fn raw() -> Front {
    Front {
        name: "raw",
        target: "/servers/raw/raw/x?n=@NNN",
        headers: "",
        credential: format!("x-api-key: {KEY}\r\n"),
        bodiless: "GET",
        body: "{\"n\":\"@NNN\"}",
    }
}

fn mcp() -> Front {
    Front {
        name: "mcp",
        target: "/servers/mcp/mcp",
        bodiless: "POST",
        headers: "content-type: application/json\r\naccept: application/json, text/event-stream\r\n",
        body: r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"n":"@NNN"}}}"#,
        ..raw()
    }
}

fn control() -> Front {
    Front {
        name: "control",
        target: "/admin/reload?n=@NNN",
        bodiless: "POST",
        body: "{\"n\":\"@NNN\"}",
        ..raw()
    }
}

fn gateway(recorder: &Recorder) -> Gateway {
    let catalog = json!({"servers": [
        {"id": "raw", "runtime": {"type": "raw-http", "url": recorder.url("/base/")}, "health": {"type": "off"}},
        {"id": "mcp", "runtime": {"type": "remote-http", "url": recorder.url("/mcp")}, "health": {"type": "off"}},
    ]});
    Gateway::with(&catalog.to_string()).conf(CONF).start()
}

/// Who sent a request, as the recorder saw it: a letter and a number.
fn sender(recorded: &Recorded) -> String {
    let message = recorded.json();
    if message.get("jsonrpc").is_some() {
        return message["params"]["arguments"]["n"].as_str().unwrap_or_default().to_owned();
    }
    let query = recorded.target.split("n=").nth(1).unwrap_or_default();
    query.chars().take(4).collect()
}

/// How often each sender's request was executed, and what was not canonical about any of them.
fn executed(recorder: &Recorder) -> (BTreeMap<String, usize>, Vec<String>) {
    let (mut counts, mut violations) = (BTreeMap::new(), Vec::new());
    for recorded in recorder.requests() {
        violations.extend(recorded.violations.iter().map(|violation| format!("forwarded: {violation}")));
        if recorded.whole {
            *counts.entry(sender(&recorded)).or_default() += 1;
        }
    }
    (counts, violations)
}

/// What came back for a payload, up to a request that is sent after it, or to the end of the connection.
struct Outcome {
    answers: Vec<Heard>,
    closed: bool,
}

fn attack(address: SocketAddr, front: &Front, payload: &Payload, number: &str) -> Outcome {
    let mut wire = Wire::to(address);
    wire.say(payload.text.replace("NNN", number));
    let mut outcome = Outcome { answers: Vec::new(), closed: false };
    let first = wire.hear(SILENCE);
    let goes_on = first.as_ref().is_some_and(|first| !first.closes()) && !wire.ended();
    outcome.answers.extend(first);
    if goes_on {
        // Whatever the gateway makes of the rest, it answers before it answers this.
        let probe = front.request('p').replacen("\r\n", "\r\nx-request-id: pNNN\r\n", 1);
        wire.say(probe.replace("NNN", number));
    } else {
        wire.finish();
    }
    let probe = format!("p{number}");
    while let Some(heard) = wire.hear(SILENCE) {
        if goes_on && heard.header("x-request-id") == Some(&probe) {
            return outcome;
        }
        outcome.answers.push(heard);
    }
    outcome.closed = wire.ends(SILENCE);
    outcome
}

/// Everything that is wrong with what came of a payload. `executed` tells by sender; `None` where only sums are known.
fn complaints(
    payload: &Payload,
    number: &str,
    outcome: &Outcome,
    executed: &BTreeMap<String, usize>,
) -> Vec<String> {
    let count = |letter: char| executed.get(&format!("{letter}{number}")).copied().unwrap_or(0);
    let taken = outcome.answers.iter().filter(|heard| heard.status < 300).count();
    let statuses: Vec<u16> = outcome.answers.iter().map(|heard| heard.status).collect();
    let mut found = Vec::new();
    if count('s') > 0 {
        found.push(format!("SMUGGLED {} times", count('s')));
    }
    if count('a') != taken || taken > 1 || outcome.answers.len() > 1 {
        found.push(format!("executed {} times, answered {statuses:?}", count('a')));
    }
    let fits = match payload.expect {
        Expect::Refused => taken == 0,
        Expect::Once => taken == 1,
        Expect::AtMostOnce => true,
        Expect::AtMostOnceAndClosed => outcome.closed,
    };
    if !fits {
        found.push(format!(
            "expected {:?}, answered {statuses:?}, closed: {}",
            payload.expect, outcome.closed
        ));
    }
    if outcome.answers.iter().any(|heard| heard.status >= 500) {
        found.push(format!("answered {statuses:?}"));
    }
    found
}

/// A stranger's request on another connection, which may be given the same upstream connection.
fn victim(address: SocketAddr, front: &Front, number: &str) -> Vec<String> {
    let heard = once(address, &front.request('v').replace("NNN", number));
    let mine = heard.status == 200 && (front.name == "control" || heard.body.contains(&format!("v{number}")));
    if mine { Vec::new() } else { vec![format!("the victim was answered {heard:?}")] }
}

/// All payloads through a front of the gateway whose upstream is the recorder.
fn through(front: &Front) {
    let mut card = Card::new("S08");
    let recorder = Recorder::start();
    let gateway = gateway(&recorder);
    let payloads = all(front);
    let (mut refused, mut all_executed) = (0, BTreeMap::new());
    for (number, payload) in payloads.iter().enumerate() {
        let number = format!("{number:03}");
        recorder.clear();
        let outcome = attack(gateway.address(), front, payload, &number);
        let mut found = victim(gateway.address(), front, &number);
        let (executed, mut violations) = executed(&recorder);
        if executed.get(&format!("v{number}")) != Some(&1) {
            found.push(format!("the victim was executed {executed:?}"));
        }
        refused += usize::from(!executed.contains_key(&format!("a{number}")));
        found.append(&mut complaints(payload, &number, &outcome, &executed));
        found.append(&mut violations);
        card.case(&format!("{} {} ({number}): {}", front.name, payload.family, payload.name), &found);
        all_executed.extend(executed);
    }
    // Once more for what came late.
    let late: Vec<&String> = all_executed.keys().filter(|sender| sender.starts_with('s')).collect();
    card.check("late", late.is_empty(), &late);
    let figure = format!(
        "payloads by way of {}: {refused} refused, {} taken once, 0 smuggled",
        front.name,
        payloads.len() - refused
    );
    card.pass(&figure);
}

#[test]
fn s08_nothing_is_smuggled_to_a_raw_upstream() {
    assert!(all(&raw()).len() >= 80);
    through(&raw());
}

#[test]
fn s08_nothing_is_smuggled_to_an_mcp_server() {
    through(&mcp());
}

/// Reloads that the control plane has made.
fn reloads(gateway: &Gateway) -> usize {
    let heard = once(
        gateway.address(),
        &format!("GET /metrics HTTP/1.1\r\nhost: localhost\r\nx-api-key: {KEY}\r\nconnection: close\r\n\r\n"),
    );
    let line = heard
        .body
        .lines()
        .find(|line| line.starts_with("tollgate_config_reloads_total") && line.contains("success"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn s08_nothing_is_smuggled_to_the_control_plane() {
    let front = control();
    let mut card = Card::new("S08");
    let recorder = Recorder::start();
    let gateway = gateway(&recorder);
    let payloads = all(&front);
    let mut before = reloads(&gateway);
    for (number, payload) in payloads.iter().enumerate() {
        let number = format!("{number:03}");
        let outcome = attack(gateway.address(), &front, payload, &number);
        let probed = usize::from(!outcome.closed);
        let mut found = victim(gateway.address(), &front, &number);
        let after = reloads(&gateway);
        // The victim's own reload and the probe's are no news.
        let own = (after - before).saturating_sub(1 + probed);
        found.append(&mut complaints(
            payload,
            &number,
            &outcome,
            &BTreeMap::from([(format!("a{number}"), own)]),
        ));
        card.case(&format!("control {} ({number}): {}", payload.family, payload.name), &found);
        before = after;
    }
    card.pass("payloads by way of the control plane: 0 smuggled");
}

/// The positive control: the same bytes through a naive proxy.
#[test]
fn s08_a_naive_proxy_smuggles() {
    let front = Front { target: "/x?n=@NNN", credential: "x-api-key: k\r\n".into(), ..raw() };
    let payloads = all(&front);
    let mut fell: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut smuggled = 0;
    std::thread::scope(|scope| {
        let mut runs = Vec::new();
        for (number, payload) in payloads.iter().enumerate() {
            let front = &front;
            runs.push(
                scope.spawn(move || (payload.family, naively(front, payload, &format!("{number:03}")))),
            );
            if runs.len() == 16 {
                runs.drain(..).for_each(|run| note(run.join().unwrap(), &mut fell, &mut smuggled));
            }
        }
        runs.drain(..).for_each(|run| note(run.join().unwrap(), &mut fell, &mut smuggled));
    });
    let total: usize = fell.values().map(|(fell, _)| fell).sum();
    assert!(fell.values().all(|(fell, _)| *fell > 0), "a family that harms nobody: {fell:?}");
    assert!(
        smuggled >= 40 && total * 10 >= payloads.len() * 7,
        "{smuggled} smuggled, {total} fell: {fell:?}"
    );
}

fn note(
    (family, (fell, smuggled)): (&'static str, (bool, bool)),
    by_family: &mut BTreeMap<&'static str, (usize, usize)>,
    sum: &mut usize,
) {
    let entry = by_family.entry(family).or_default();
    entry.0 += usize::from(fell);
    entry.1 += 1;
    *sum += usize::from(smuggled);
}

/// Whether a payload harms a naive proxy of either belief before an upstream of the other, and whether the smuggled
/// request was executed.
fn naively(front: &Front, payload: &Payload, number: &str) -> (bool, bool) {
    let mut result = (false, false);
    for belief in [Believes::Length, Believes::Chunks] {
        let other = if belief == Believes::Length { Believes::Chunks } else { Believes::Length };
        let recorder = Recorder::believing(other);
        let naive = Naive::before(recorder.address(), belief);
        let mut wire = Wire::to(naive.address());
        wire.say(payload.text.replace("NNN", number));
        wire.hear(Duration::from_millis(800));
        wire.finish();
        let mut next = Wire::to(naive.address());
        next.say(front.request('v').replace("NNN", number));
        let heard = next.hear(PATIENCE);
        let intact = heard.is_some_and(|heard| heard.body.contains(&format!("v{number}")));
        let (executed, violations) = executed(&recorder);
        let smuggled = executed.contains_key(&format!("s{number}"));
        result.0 |= smuggled || !intact || !violations.is_empty();
        result.1 |= smuggled;
    }
    result
}
