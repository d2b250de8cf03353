//! Sessions whose server forgot them, dies or leaves; calls that miss a deadline; what is sent again and what is not.
//! Not here: which endpoint is left alone (`scorecard/replicas`), what hostile servers do (`scorecard/hostile`).

use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Answer, Caller, SOON, notification, request};
use crate::gateway::Gateway;
use crate::sim::{End, Kind, Manner, Sim};

fn server(sims: &[&Sim], more: Value) -> Value {
    let endpoints: Vec<Value> = sims.iter().map(|sim| json!({"url": sim.url()})).collect();
    let mut server = json!({"id": "it", "runtime": {"type": "remote-http", "endpoints": endpoints}, "health": {"type": "off"}});
    for (key, value) in more.as_object().unwrap() {
        server[key] = value.clone();
    }
    server
}

fn before(sims: &[&Sim], more: Value) -> Gateway {
    Gateway::start(&json!({"servers": [server(sims, more)]}).to_string())
}

fn echo(n: &str) -> Value {
    request(1, "tools/call", json!({"name": "echo", "arguments": {"n": n}}))
}

#[track_caller]
fn said(answer: &Answer, n: &str) {
    assert!(answer.result().to_string().contains(n), "{answer:?}");
}

#[tokio::test]
async fn a_session_outlives_its_server_whatever_that_says() {
    for (status, words) in [
        (404, "Session not found"),
        (400, "Bad Request: No valid session ID provided"),
        (400, "Bad Request: Server not initialized"),
        (400, "Invalid or missing session ID"),
    ] {
        let sim = Sim::start();
        sim.speaks(true, false);
        sim.meets_strangers_with(status, words);
        let gateway = before(&[&sim], json!({}));
        let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
        session.post(&request(2, "logging/setLevel", json!({"level": "debug"}))).await.result();
        for uri in ["a:1", "a:2"] {
            session.post(&request(3, "resources/subscribe", json!({"uri": uri}))).await.result();
        }
        session.post(&request(4, "resources/unsubscribe", json!({"uri": "a:1"}))).await.result();
        for round in 0..3 {
            sim.forget();
            said(&session.post(&echo(&format!("r{round}"))).await, &format!("r{round}"));
        }
        let facts = sim.facts();
        assert_eq!(
            (facts.opened, facts.initialized, facts.live.len()),
            (4, 4, 1),
            "{words}: {:?}",
            facts.requests
        );
        assert_eq!(facts.asked("logging/setLevel"), 4, "{words}");
        assert_eq!(facts.asked("resources/subscribe"), 2 + 3, "{words}");
        assert_eq!(facts.most(), 1, "{words}");
        gateway.stop();
    }
}

#[tokio::test]
async fn many_calls_that_find_a_session_lost_open_it_once() {
    let sim = Sim::start();
    sim.speaks(true, false);
    let gateway = before(&[&sim], json!({}));
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    sim.forget();
    let calls = (0..50).map(|n| {
        let session = session.clone();
        tokio::spawn(async move { said(&session.post(&echo(&format!("c{n}"))).await, &format!("c{n}")) })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    let facts = sim.facts();
    assert_eq!((facts.opened, facts.executed.len(), facts.most()), (2, 50, 1), "{:?}", facts.requests);
}

#[tokio::test]
async fn a_session_moves_when_its_endpoint_dies() {
    let sims = [Sim::start(), Sim::start()];
    sims.iter().for_each(|sim| sim.speaks(true, false));
    let gateway = before(&[&sims[0], &sims[1]], json!({}));
    let mut sessions = Vec::new();
    for _ in 0..10 {
        sessions.push(Caller::new(&gateway.url("it")).initialize().await.0);
    }
    assert_eq!((sims[0].facts().opened, sims[1].facts().opened), (5, 5), "new sessions are placed evenly");
    sims[0].crash();
    sims[0].until("no connection is left", SOON, |facts| (facts.open == 0).then_some(())).await;
    for (n, session) in sessions.iter().enumerate() {
        said(&session.post(&echo(&format!("m{n}"))).await, &format!("m{n}"));
    }
    assert_eq!(sims[1].facts().live.len(), 10);
    // What moved stays, also when the other is back.
    sims[0].heal();
    for (n, session) in sessions.iter().enumerate() {
        said(&session.post(&echo(&format!("s{n}"))).await, &format!("s{n}"));
    }
    assert_eq!((sims[0].facts().executed.len(), sims[1].facts().most()), (0, 1));
}

#[tokio::test]
async fn what_cannot_be_restored_is_not_pretended() {
    let sim = Sim::start();
    sim.speaks(true, false);
    let gateway = before(&[&sim], json!({}));
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    // The server refuses to open it again: the client is told in the words that make it begin anew.
    sim.forget();
    sim.be_at("initialize", Manner::Status(403));
    let answer = session.post(&echo("x")).await;
    assert_eq!(answer.status, 502, "{answer:?}");
    sim.be_at(
        "initialize",
        Manner::made(|_| b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\nno".into(), End::Close),
    );
    let answer = session.post(&echo("x")).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["data"]["reason"].as_str()),
        (404, Some("session_not_found")),
        "{answer:?}"
    );
    assert_eq!(sim.facts().most(), 0);
    // Ending a session that the server has lost is what the client wanted.
    let ended = session.send(Method::DELETE, Vec::new()).await;
    assert_eq!(ended.status, 204, "{ended:?}");
    // News of calls that went with the session are taken, and open nothing.
    sim.heal();
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let opened = sim.facts().opened;
    sim.forget();
    let told = session.post(&notification("notifications/progress")).await;
    assert_eq!((told.status, sim.facts().opened), (202, opened), "{told:?}");
}

#[tokio::test]
async fn a_server_without_a_stream_keeps_its_session() {
    let sim = Sim::start();
    sim.speaks(true, false);
    sim.be_at("GET", Manner::Status(404));
    let gateway = before(&[&sim], json!({}));
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let answer = session.send(Method::GET, Vec::new()).await;
    assert_eq!((answer.status, sim.facts().opened), (405, 1), "{answer:?}");
    // With a stream, a lost session gets it back as well.
    sim.heal();
    sim.forget();
    let mut stream = session.get_stream().await;
    sim.tell(&notification("notifications/tools/list_changed"));
    assert_eq!(stream.message().await["method"], "notifications/tools/list_changed");
}

/// Which deadline an error says was missed.
#[track_caller]
fn missed(message: &Value) -> (&str, &str) {
    let data = &message["error"]["data"];
    (data["deadline"].as_str().unwrap_or("none"), data["outcome"].as_str().unwrap_or("none"))
}

#[tokio::test]
async fn a_missed_deadline_is_named_the_server_is_told_and_the_session_lives_on() {
    let sim = Sim::start();
    sim.speaks(true, false);
    let timeouts = json!({"response": "10s", "idle": "1s", "total": "30s"});
    let tools = json!({"echo": {"timeouts": {"response": "300ms", "total": "3s"}}});
    let gateway =
        before(&[&sim], json!({"timeouts": timeouts, "tools": tools, "breaker": {"enabled": false}}));
    let (session, _) = Caller::new(&gateway.url("it")).initialize().await;
    let call = |id: u64, args: Value| {
        request(id, "tools/call", json!({"name": "echo", "arguments": args, "_meta": {"progressToken": id}}))
    };

    sim.once_at("tools/call", Manner::Silent);
    let answer = session.post(&call(10, json!({"n": "a"}))).await;
    assert_eq!((answer.status, missed(&answer.json())), (504, ("response", "unknown")), "{answer:?}");

    sim.answers_in(Kind::Events);
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: hello\n\n";
    sim.once_at("tools/call", Manner::raw(head, End::Stall));
    let answer = session.post(&call(11, json!({"n": "b"}))).await;
    assert_eq!((answer.status, missed(&answer.json())), (200, ("idle", "unknown")), "{answer:?}");

    // Progress extends the silence that is borne, and nothing extends the whole.
    let answer = session.post(&call(12, json!({"n": "c", "ms": 20_000, "progress": 100}))).await;
    assert_eq!(missed(&answer.json()), ("total", "unknown"), "{answer:?}");
    assert!(answer.body.matches("notifications/progress").count() > 5, "{answer:?}");

    sim.until("three cancellations", SOON, |facts| {
        (facts.cancelled == [json!(10), json!(11), json!(12)]).then_some(())
    })
    .await;
    said(&session.post(&call(13, json!({"n": "d"}))).await, "d");
    assert_eq!(sim.facts().opened, 1);
}

#[tokio::test]
async fn only_what_is_safe_is_sent_again() {
    let sim = Sim::start();
    let tools = json!({"other": {"idempotent": true}});
    let gateway = before(&[&sim], json!({"tools": tools}));
    let caller = Caller::new(&gateway.url("it"));
    let breaks =
        [Manner::Cut(0, End::Reset), Manner::Cut(30, End::Close), Manner::Status(503), Manner::Status(502)];
    for (n, manner) in breaks.into_iter().enumerate() {
        sim.once_at("tools/list", manner.clone());
        // A head that has passed cannot be taken back.
        if !matches!(manner, Manner::Cut(30, _)) {
            caller.modern_post(1, "tools/list", json!({})).await.result();
        } else {
            caller.modern_post(1, "tools/list", json!({})).await;
        }
        sim.once_at("tools/call", manner);
        let call = caller
            .modern_post(2, "tools/call", json!({"name": "echo", "arguments": {"n": format!("e{n}")}}))
            .await;
        assert!(call.status >= 500, "{call:?}");
        assert!(sim.facts().executions(&format!("e{n}")) <= 1);
    }
    // A tool that its catalog says may be called twice.
    sim.once_at("tools/call", Manner::Cut(0, End::Reset));
    let call =
        caller.modern_post(3, "tools/call", json!({"name": "other", "arguments": {"n": "twice"}})).await;
    assert_eq!((call.status, sim.facts().executions("twice")), (200, 2), "{call:?}");
}

#[tokio::test]
async fn a_probe_keeps_one_session_and_closes_it() {
    for modern in [false, true] {
        let sim = Sim::start();
        sim.speaks(!modern, modern);
        let health = json!({"type": "mcp", "interval": "50ms", "tool": "echo"});
        let gateway = before(&[&sim], json!({"health": health}));
        sim.until("ten checks", SOON, |facts| (facts.asked("tools/list") >= 10).then_some(())).await;
        assert_eq!(sim.facts().opened, usize::from(!modern), "{:?}", sim.facts().requests);
        sim.forget();
        let asked = sim.facts().asked("tools/list");
        sim.until("five more", SOON, |facts| (facts.asked("tools/list") >= asked + 5).then_some(())).await;
        assert_eq!(sim.facts().opened, 2 * usize::from(!modern), "{:?}", sim.facts().requests);
        gateway.stop();
        let facts = sim.facts();
        assert_eq!((facts.deleted, facts.live.len()), (usize::from(!modern), 0), "{:?}", facts.requests);
    }
}

#[tokio::test]
async fn a_new_endpoint_is_not_trusted_before_its_first_check() {
    let (good, mute) = (Sim::start(), Sim::start());
    let health = json!({"type": "mcp", "interval": "100ms", "timeout": "10s"});
    let gateway = before(&[&good], json!({"health": health}));
    let caller = Caller::new(&gateway.url("it"));
    good.until("a check", SOON, |facts| (facts.asked("server/discover") >= 1).then_some(())).await;
    mute.be(Manner::Silent);
    gateway
        .edit_catalog(&json!({"servers": [server(&[&good, &mute], json!({"health": health}))]}).to_string());
    mute.until("a check", SOON, |facts| (facts.connections >= 1).then_some(())).await;
    for n in 0..20 {
        let answer = caller
            .modern_post(1, "tools/call", json!({"name": "echo", "arguments": {"n": format!("n{n}")}}))
            .await;
        said(&answer, &format!("n{n}"));
    }
    assert_eq!((good.facts().executed.len(), mute.facts().asked("tools/call")), (20, 0));
    let shown = Caller::new(&gateway.path("/servers/it")).send(Method::GET, Vec::new()).await.json();
    assert_eq!(shown["endpoints"][1]["state"], "starting", "{shown}");
}

#[tokio::test]
async fn only_a_required_server_makes_the_gateway_unready() {
    let (well, down) = (Sim::start(), Sim::start());
    let one = |id: &str, sim: &Sim, required: bool| {
        json!({"id": id, "runtime": {"type": "remote-http", "url": sim.url()}, "required": required,
            "health": {"type": "tcp", "interval": "100ms"}})
    };
    let catalog =
        |required| json!({"servers": [one("a", &well, true), one("b", &down, required)]}).to_string();
    down.crash();
    let gateway = Gateway::start(&catalog(false));
    let asked = async |query: &str| {
        Caller::new(&gateway.path(&format!("/readyz{query}"))).send(Method::GET, Vec::new()).await
    };
    let deadline = std::time::Instant::now() + SOON;
    let turns = async |status: u16| {
        while asked("").await.status != status {
            assert!(std::time::Instant::now() < deadline, "never {status}");
            // The paths of health answer 50 a second.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    down.until("the checks know", SOON, |facts| (facts.open == 0).then_some(())).await;
    turns(200).await;
    gateway.edit_catalog(&catalog(true));
    turns(503).await;
    let told = asked("?verbose").await;
    assert!(told.body.contains("[-]required servers: 1 of 2 can be called"), "{told:?}");
    down.heal();
    turns(200).await;
}
