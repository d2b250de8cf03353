//! What a reload of the catalog touches, and whom it tells.
//! Not here: reloads in a storm (`scorecard`), the configuration (`settings`), children (`stdio`).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Caller, Events, SOON, request};
use crate::fake::{self, Act, Fake, Step};
use crate::gateway::Gateway;

const CONF: &str = "drain: 5s\nauth: {keys: [{name: alice, key: Yq3hT7wPz0KdLm2N, servers: ['*']}, {name: bob, key: Rb8vXc5nQj1FsGt4, servers: ['*']}]}\n";
const LISTS: [&str; 3] = [
    "notifications/tools/list_changed",
    "notifications/prompts/list_changed",
    "notifications/resources/list_changed",
];

fn local(id: &str, variable: &str) -> Value {
    let command = env!("CARGO_BIN_EXE_tollgate");
    json!({"id": id, "runtime": {"type": "local-process", "command": command, "args": ["sample", "stdio"], "env": {"VARIABLE": variable}}})
}

fn remote(id: &str, fake: &Fake) -> Value {
    json!({"id": id, "runtime": {"type": "remote-http", "url": fake.url()}})
}

fn as_key(url: &str, key: &str) -> Caller {
    Caller::new(url).with("authorization", &format!("Bearer {key}"))
}

async fn generation(gateway: &Gateway) -> String {
    let answer = Caller::new(&gateway.path("/readyz?verbose")).send(reqwest::Method::GET, Vec::new()).await;
    answer.body.lines().find(|line| line.contains("generation")).unwrap_or_default().to_owned()
}

/// Replaces the catalog and waits until the new one is in force.
async fn take_over(gateway: &Gateway, catalog: &Value) {
    let (before, deadline) = (generation(gateway).await, Instant::now() + SOON);
    gateway.edit_catalog(&catalog.to_string());
    while generation(gateway).await == before {
        assert!(Instant::now() < deadline, "the catalog is not taken over");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The next messages of a stream, as many as are wanted.
async fn hears(stream: &mut Events, wanted: usize) -> Vec<Value> {
    let mut heard = Vec::new();
    while heard.len() < wanted {
        heard.push(stream.message().await);
    }
    heard
}

/// Whether nothing comes for a while; to be asked when others have heard.
async fn hears_nothing(stream: &mut Events) -> bool {
    tokio::time::timeout(Duration::from_millis(300), stream.next()).await.is_err()
}

/// A server whose streams stay open, in both eras.
fn quiet() -> Fake {
    Fake::start(|seen| match (seen.method.as_str(), seen.rpc().as_str()) {
        ("GET", _) | (_, "subscriptions/listen") => {
            Act::Stream(vec![Step::Lines(": open".into()), Step::Hang])
        }
        _ => fake::legacy(seen),
    })
}

fn methods(told: &[Value]) -> Vec<&str> {
    told.iter().map(|message| message["method"].as_str().unwrap_or_default()).collect()
}

#[tokio::test]
async fn those_whom_a_reload_concerns_are_told_once_and_nobody_else() {
    let (ruled, other) = (quiet(), quiet());
    let servers = [remote("ruled", &ruled), remote("other", &other)];
    let with = |rules: &[Value]| json!({"servers": servers, "rules": rules});
    let everything = json!({"allow": "*"});
    let not_for_alice =
        json!({"deny": ["call"], "servers": ["ruled"], "tools": ["echo"], "who": {"subjects": ["alice"]}});
    let gateway = Gateway::with(&with(std::slice::from_ref(&everything)).to_string()).conf(CONF).start();
    let (alice, bob) = ("Yq3hT7wPz0KdLm2N", "Rb8vXc5nQj1FsGt4");
    let open = async |server: &str, key: &str| {
        let (session, _) = as_key(&gateway.url(server), key).initialize().await;
        session.get_stream().await
    };
    let mut concerned = open("ruled", alice).await;
    let mut not_of_the_rule = open("ruled", bob).await;
    let mut at_another = open("other", alice).await;
    let listen = json!({"notifications": {"toolsListChanged": true}});
    let (caller, message) =
        as_key(&gateway.url("ruled"), alice).modern("l-1", "subscriptions/listen", listen);
    let mut modern = caller.post_stream(&message).await;

    take_over(&gateway, &with(&[everything.clone(), not_for_alice.clone()])).await;
    assert_eq!(methods(&hears(&mut concerned, 3).await), LISTS);
    let heard = hears(&mut modern, 1).await;
    assert_eq!(methods(&heard), ["notifications/tools/list_changed"], "only what was asked for");
    assert_eq!(heard[0]["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "l-1");
    for stream in [&mut concerned, &mut modern, &mut not_of_the_rule, &mut at_another] {
        assert!(hears_nothing(stream).await, "once, and nobody else");
    }

    // What does not matter to anybody's lists is told to nobody, not even to whom something was told before.
    let mut servers = servers.clone();
    servers[0]["description"] = json!("described");
    take_over(&gateway, &json!({"servers": servers, "rules": [everything, not_for_alice]})).await;
    for stream in [&mut concerned, &mut modern] {
        assert!(hears_nothing(stream).await, "a description is no list");
    }
}

#[tokio::test]
async fn the_process_of_a_changed_server_is_there_before_the_old_one_goes() {
    let gateway = Gateway::start(&json!({"servers": [local("it", "one"), local("kept", "one")]}).to_string());
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let (kept, _) = Caller::new(&gateway.url("kept")).initialize().await;
    let mut stream = session.get_stream().await;
    let mut quiet = kept.get_stream().await;
    let before = gateway.descendants();
    assert_eq!(before.len(), 2);
    // A call that takes longer than the reload: its process may not go before it is done.
    let slow = request(5, "tools/call", json!({"name": "slow", "arguments": {"milliseconds": 1500}}));
    let caller = session.clone();
    let call = tokio::spawn(async move { caller.post(&slow).await });
    let deadline = Instant::now() + SOON;
    let in_flight = async || {
        let metrics =
            Caller::new(&gateway.path("/metrics")).send(reqwest::Method::GET, Vec::new()).await.body;
        metrics.lines().any(|line| line == "tollgate_requests_in_flight 4")
    };
    while !in_flight().await {
        assert!(Instant::now() < deadline, "the call does not begin");
    }

    take_over(&gateway, &json!({"servers": [local("it", "two"), local("kept", "one")]})).await;
    // Nobody called since: the new process was started by the reload, and the old one is still at work.
    while gateway.descendants().len() < 3 {
        assert!(Instant::now() < deadline, "{:?}", gateway.descendants());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(gateway.descendants().is_superset(&before), "the old process went with a call in flight");
    let mut heard = Vec::new();
    while let Some(event) = stream.next().await {
        if !event.data.is_empty() {
            heard.push(event.json());
        }
    }
    assert_eq!(methods(&heard), LISTS, "told before the stream of the old process ended");
    call.await.unwrap().result();
    let (caller, echo) =
        (session.clone(), request(6, "tools/call", json!({"name": "echo", "arguments": {"text": "again"}})));
    assert_eq!(caller.post(&echo).await.result()["content"][0]["text"], "again", "the session goes on");
    while gateway.descendants().len() > 2 {
        assert!(Instant::now() < deadline + SOON, "{:?}", gateway.descendants());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(gateway.descendants().intersection(&before).count(), 1, "the other server keeps its process");
    // And its stream, on which nothing was said.
    assert!(hears_nothing(&mut quiet).await);
    gateway.stop();
}
