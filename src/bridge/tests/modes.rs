//! Children of sessions and of callers: whose they are, how many there are, how they come and go.
//! Not here: what all children have in common (`calls`, `lives`).

use super::*;
use crate::catalog::Mode;

fn each(id: &str, mode: &str, own: Mode) -> Server {
    let mut server = fake(id, mode);
    local(&mut server).children.mode = own;
    server
}

/// A client of a server: a caller, and a session once it has one.
struct Client<'r> {
    rig: &'r Rig,
    path: String,
    caller: String,
    session: Option<String>,
}

impl<'r> Client<'r> {
    fn new(rig: &'r Rig, server: &str, caller: &str) -> Self {
        Self { rig, path: format!("/{server}/0"), caller: caller.to_owned(), session: None }
    }

    /// Opens a session; the answer.
    async fn open(&mut self) -> Said {
        self.session = None;
        let said = self.post(initialize("2025-06-18")).await;
        self.session = said.headers.get("mcp-session-id").map(|id| id.to_str().unwrap().to_owned());
        if self.session.is_some() {
            let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
            assert_eq!(self.post(ready).await.status, StatusCode::ACCEPTED);
        }
        said
    }

    async fn opened(rig: &'r Rig, server: &str, caller: &str) -> Self {
        let mut client = Self::new(rig, server, caller);
        let said = client.open().await;
        assert!(client.session.is_some(), "{said:?}");
        client
    }

    fn headers(&self) -> Vec<(&str, &str)> {
        let session = self.session.as_deref().map(|id| ("mcp-session-id", id));
        [("x-tollgate-caller", self.caller.as_str())].into_iter().chain(session).collect()
    }

    async fn post(&self, body: Value) -> Said {
        self.rig.post(&self.path, &self.headers(), body).await
    }

    async fn call(&self, name: &str, arguments: Value) -> Said {
        self.post(tool(1, name, arguments)).await
    }

    async fn pid(&self) -> u32 {
        self.call("pid", json!({})).await.text().parse().unwrap()
    }

    async fn stream(&self) -> Incoming {
        self.rig.open(Method::GET, &self.path, &self.headers(), String::new()).await.into_body()
    }

    async fn end(&self) -> StatusCode {
        self.rig.send(Method::DELETE, &self.path, &self.headers(), String::new()).await.status
    }
}

fn message(event: &str) -> Value {
    let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    serde_json::from_str(data).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_a_child_of_its_own_which_hears_its_own_client() {
    let rig = Rig::new(vec![each("one", "", Mode::PerSession)]).await;
    let mut one = Client::new(&rig, "one", "a");
    let said = one.open().await;
    assert_eq!(said.json()["id"], "init");
    // The fake repeats what its client can: a shared child would hear of nothing.
    assert_eq!(said.json()["result"]["capabilities"], json!({"sampling": {}}));
    let two = Client::opened(&rig, "one", "a").await;
    let pids = [one.pid().await, two.pid().await, one.pid().await];
    assert!(pids[0] == pids[2] && pids[0] != pids[1], "{pids:?}");
    let status = rig.bridge.status("one").unwrap();
    assert_eq!((status.mode, status.population.ready), (Mode::PerSession, 2));
    // Another caller's session is none, whatever the id.
    let thief =
        Client { caller: "b".to_owned(), session: one.session.clone(), ..Client::new(&rig, "one", "b") };
    assert_eq!(thief.call("pid", json!({})).await.status, StatusCode::NOT_FOUND);
    assert_eq!(thief.end().await, StatusCode::NOT_FOUND);
    assert_eq!(one.pid().await, pids[0]);
    // The end of a session is the end of its child, and of nothing else.
    assert_eq!(one.end().await, StatusCode::NO_CONTENT);
    let gone = one.call("pid", json!({})).await;
    assert_eq!(
        (gone.status, gone.json()["error"]["message"].as_str()),
        (StatusCode::NOT_FOUND, Some("Session not found"))
    );
    assert_eq!(one.end().await, StatusCode::NOT_FOUND);
    rig.until("the child's end", || !alive(pids[0])).await;
    assert_eq!(two.pid().await, pids[1]);
    // A request without a session has a child of its caller's.
    let plain = Client::new(&rig, "one", "a");
    let shared = plain.pid().await;
    assert_eq!((shared, pids.contains(&shared)), (plain.pid().await, false));
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_asks_its_client_on_the_stream_of_the_call_and_gets_the_answer() {
    let rig = Arc::new(Rig::new(vec![each("one", "", Mode::PerSession), fake("shared", "")]).await);
    let client = Client::opened(&rig, "one", "a").await;
    let headers = client.headers();
    let asked = tool(1, "sample", json!({"n": 17})).to_string();
    let mut stream = rig.open(Method::POST, "/one/0", &headers, asked).await.into_body();
    let question = message(&next_event(&mut stream).await.unwrap());
    assert_eq!(
        (&question["method"], &question["params"]["n"]),
        (&json!("sampling/createMessage"), &json!(17))
    );
    // What it did not ask is not answered.
    for id in [json!("s2"), json!(1), question["id"].clone(), question["id"].clone()] {
        let answer = json!({"jsonrpc": "2.0", "id": id, "result": {"said": id}});
        assert_eq!(client.post(answer).await.status, StatusCode::ACCEPTED);
    }
    let answer = message(&next_event(&mut stream).await.unwrap());
    let got: Value = serde_json::from_str(answer["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(got, json!({"jsonrpc": "2.0", "id": "s1", "result": {"said": "s1"}}));
    assert_eq!(next_event(&mut stream).await, None);
    // The control: a shared child gets no such answer, since nothing tells whom it asks.
    let shared = Client::opened(&rig, "shared", "a").await;
    let refused = shared.call("sample", json!({})).await.text();
    assert!(refused.contains("has no capabilities"), "{refused}");
    drop((client, shared));
    Arc::into_inner(rig).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_child_asks_outside_of_calls_goes_on_the_sessions_stream_or_waits_for_it() {
    let rig = Rig::new(vec![each("one", "rooted", Mode::PerSession)]).await;
    let roots = json!({"roots": [{"uri": "file:///x"}]});
    for listens_first in [true, false] {
        let client = Client::opened(&rig, "one", "a").await;
        let mut stream = client.stream().await;
        if !listens_first {
            // The first stream is replaced, and what comes later comes on the second one.
            stream = client.stream().await;
        }
        if listens_first {
            let question = message(&next_event(&mut stream).await.unwrap());
            assert_eq!((&question["method"], &question["id"]), (&json!("roots/list"), &json!(7)));
            client.post(json!({"jsonrpc": "2.0", "id": 7, "result": roots})).await;
            let known = client.call("roots", json!({})).await.text();
            assert_eq!(serde_json::from_str::<Value>(&known).unwrap(), roots);
        }
        client.call("change", json!({"uri": "x://1"})).await;
        let mut told = Vec::new();
        while told.last() != Some(&json!("notifications/resources/updated")) {
            told.push(message(&next_event(&mut stream).await.unwrap())["method"].clone());
        }
        assert_eq!(client.end().await, StatusCode::NO_CONTENT);
        assert_eq!(next_event(&mut stream).await, None, "it ends with the session");
    }
    // A client that never listens is told at its next call.
    let deaf = Client::opened(&rig, "one", "a").await;
    let mut asked = false;
    for _ in 0..100 {
        let said = deaf.call("pid", json!({})).await;
        asked |=
            said.headers["content-type"] == "text/event-stream" && said.events()[0]["method"] == "roots/list";
    }
    assert!(asked);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_has_one_child_for_all_its_sessions_and_others_have_theirs() {
    let rig =
        Rig::new(vec![each("one", "", Mode::PerCaller), each("modern", "modern", Mode::PerCaller)]).await;
    let clients = [
        Client::opened(&rig, "one", "a").await,
        Client::opened(&rig, "one", "a").await,
        Client::opened(&rig, "one", "b").await,
    ];
    let mut pids = Vec::new();
    for client in &clients {
        pids.push(client.pid().await);
    }
    assert!(pids[0] == pids[1] && pids[1] != pids[2], "{pids:?}");
    // Like a shared one it is told of no capabilities, and any well-formed session is good.
    assert_eq!(
        rig.post("/one/0", &[("x-tollgate-caller", "a")], initialize("2025-11-25")).await.json()["result"]["capabilities"],
        json!({})
    );
    // A child that died is started again for the same sessions.
    assert!(
        clients[0].call("die", json!({})).await.json()["error"]["data"]["stderr"]
            .to_string()
            .contains("last words")
    );
    assert_ne!(clients[1].pid().await, pids[0]);
    assert_eq!(clients[2].pid().await, pids[2]);
    let ask = async |caller: &'static str| {
        let said = rig
            .post(
                "/modern/0",
                &[("x-tollgate-caller", caller)],
                modern(1, "tools/call", json!({"name": "pid"})),
            )
            .await;
        said.text()
    };
    let (a, b) = (ask("a").await, ask("b").await);
    assert_ne!(a, b);
    assert_eq!(a, ask("a").await);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_bound_the_idlest_makes_room_and_nobody_who_works_or_listens() {
    let mut server = each("one", "", Mode::PerSession);
    local(&mut server).children.max_processes = 2;
    let rig = Rig::new(vec![server]).await;
    let idle = Client::opened(&rig, "one", "a").await;
    let first = idle.pid().await;
    let listening = Client::opened(&rig, "one", "b").await;
    let second = listening.pid().await;
    let mut stream = listening.stream().await;
    // Both places are taken, and one of those who have them does nothing.
    let third = Client::opened(&rig, "one", "c").await;
    let pid = third.pid().await;
    assert!(!alive(first) && alive(second) && alive(pid));
    assert_eq!(idle.call("pid", json!({})).await.status, StatusCode::NOT_FOUND);
    assert!(
        rig.bridge
            .status("one")
            .unwrap()
            .ends
            .iter()
            .any(|end| end.pid == first && end.what == "made room for another")
    );
    // Now nobody can go: one listens, the other works.
    let slow = {
        let stream = UnixStream::connect(rig.bridge.socket()).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        let mut request = Request::builder().method(Method::POST).uri("/one/0");
        for (name, value) in third.headers() {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::from(tool(1, "hang", json!({})).to_string()))).unwrap();
        tokio::spawn(async move { drop(sender.send_request(request).await) })
    };
    rig.until("the call", || rig.bridge.status("one").unwrap().in_flight == 1).await;
    let mut fourth = Client::new(&rig, "one", "d");
    let refused = fourth.open().await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers.contains_key("retry-after"));
    let error = &refused.json()["error"];
    assert_eq!(error["data"]["reason"], "max_processes");
    assert_eq!(error["message"], "server 'one' runs as many processes as it may: 2 (max_processes)");
    assert!(alive(second) && alive(pid));
    assert_eq!((rig.counts.refused.load(Ordering::SeqCst), rig.counts.living.load(Ordering::SeqCst)), (1, 2));
    assert_eq!(listening.pid().await, second);
    slow.abort();
    assert_eq!(listening.end().await, StatusCode::NO_CONTENT);
    assert_eq!(next_event(&mut stream).await, None);
    assert_ne!(Client::opened(&rig, "one", "d").await.pid().await, second);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_its_time_to_leave_keeps_nobody_from_the_place_of_another() {
    // The first leaves only when it is killed, which takes longer than anybody waits for a place.
    let mut server = each("one", "stubborn", Mode::PerSession);
    local(&mut server).children.max_processes = 2;
    let mut polite = each("two", "", Mode::PerSession);
    local(&mut polite).children.max_processes = 2;
    let rig = Rig::with(Limits { children_max: 2, ..limits() }, vec![server, polite]).await;
    let slow = Client::opened(&rig, "one", "a").await.pid().await;
    let quick = Client::opened(&rig, "two", "a").await.pid().await;
    // The longest unused is asked first, and then the other one.
    let next = Client::opened(&rig, "two", "b").await.pid().await;
    assert!(alive(slow) && !alive(quick) && alive(next));
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_and_the_process_have_bounds_of_their_own() {
    let mut server = each("one", "", Mode::PerSession);
    local(&mut server).children.max_per_caller = 1;
    let rig = Rig::with(Limits { children_max: 3, ..limits() }, vec![server, fake("shared", "")]).await;
    let first = Client::opened(&rig, "one", "a").await;
    let _stream = first.stream().await;
    let refused = Client::new(&rig, "one", "a").open().await;
    assert_eq!(refused.json()["error"]["data"]["reason"], "max_per_caller");
    // Others are not concerned.
    let other = Client::opened(&rig, "one", "b").await;
    let _other_stream = other.stream().await;
    let shared = Client::opened(&rig, "shared", "a").await;
    let _shared_stream = shared.stream().await;
    let refused = Client::new(&rig, "one", "c").open().await;
    assert_eq!(refused.json()["error"]["data"]["reason"], "limits.children");
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    // A caller's own idle session makes room for its next one.
    assert_eq!(other.end().await, StatusCode::NO_CONTENT);
    let idle = Client::opened(&rig, "one", "b").await;
    let pid = idle.pid().await;
    assert_ne!(Client::opened(&rig, "one", "b").await.pid().await, pid);
    assert!(!alive(pid));
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn warm_children_are_taken_and_replaced() {
    for mode in [Mode::PerSession, Mode::PerCaller] {
        let mut server = each("one", "slow", mode);
        local(&mut server).children.warm = 2;
        let rig = Rig::new(vec![server]).await;
        let warm = || rig.bridge.status("one").unwrap().population.warm;
        let pids = || rig.bridge.status("one").unwrap().pids.len();
        rig.until("two warm children", || warm() == 2 && pids() == 2).await;
        let kept = rig.bridge.status("one").unwrap().pids;
        assert_eq!((kept.len(), rig.bridge.status("one").unwrap().state), (2, State::Starting));
        let one = Client::opened(&rig, "one", "a").await;
        assert!(kept.contains(&one.pid().await), "it was there before its client");
        rig.until("its replacement", || warm() == 2).await;
        let two = Client::opened(&rig, "one", "b").await;
        assert!(kept.contains(&two.pid().await));
        // Ready or not, they end with everything else.
        rig.bridge.stop("one").await.unwrap();
        assert_eq!((warm(), rig.bridge.status("one").unwrap().pids.len()), (0, 0));
        assert!(!kept.iter().any(|pid| alive(*pid)));
        rig.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn warm_children_that_cannot_start_are_left_alone_after_five_times() {
    let mut server = each("one", "stillborn", Mode::PerSession);
    local(&mut server).children.warm = 4;
    let rig = Rig::new(vec![server]).await;
    rig.until("the end of it", || rig.bridge.status("one").unwrap().state == State::Failed).await;
    let refused = Client::new(&rig, "one", "a").open().await;
    assert_eq!(refused.json()["error"]["data"]["reason"], "start_limit");
    assert_eq!(rig.counts.started.load(Ordering::SeqCst), 5);
    assert_eq!(rig.bridge.status("one").unwrap().ends.len(), 5);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_child_takes_no_new_calls_and_ends_after_its_last() {
    let age = Duration::from_millis(700);
    let servers = [Mode::Shared, Mode::PerCaller, Mode::PerSession].map(|mode| {
        let mut server = each(mode.as_str(), "", mode);
        local(&mut server).children.max_age = Some(age);
        server
    });
    let rig = Rig::new(servers.into()).await;
    for mode in ["shared", "per_caller", "per_session"] {
        let client = Client::opened(&rig, mode, "a").await;
        let pid = client.pid().await;
        rig.until("its end", || !alive(pid)).await;
        let end = rig.bridge.status(mode).unwrap().ends.into_iter().find(|end| end.pid == pid).unwrap();
        assert!(end.meant, "{end:?}");
        let said = client.call("pid", json!({})).await;
        if mode == "per_session" {
            assert_eq!(said.status, StatusCode::NOT_FOUND);
        } else {
            assert_ne!(said.text(), pid.to_string());
        }
        assert_eq!(rig.bridge.status(mode).unwrap().restarts, 0);
    }
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_stopped_answering_is_asked_and_then_replaced() {
    let mut server = fake("one", "");
    local(&mut server).children.hang_timeout = Some(Duration::from_millis(400));
    let mut slow = fake("slow", "");
    local(&mut slow).children.hang_timeout = Some(Duration::from_millis(400));
    let rig = Rig::new(vec![server, slow]).await;
    let said = rig.tool("/one/0", "deaf", json!({})).await;
    assert_eq!(said.json()["error"]["data"]["reason"], "child_hung");
    assert_eq!(
        said.json()["error"]["message"],
        "server 'one' did not answer a ping within 400ms while calls waited"
    );
    assert_eq!(rig.tool("/one/0", "echo", json!({"text": "again"})).await.text(), "again");
    let status = rig.bridge.status("one").unwrap();
    assert_eq!((status.restarts, &*status.ends[0].reason, status.ends[0].meant), (1, "child_hung", false));
    // One that answers pings may take its time.
    let path = "/slow/0";
    let waiting = rig.open(Method::POST, path, &[], tool(1, "hang", json!({})).to_string());
    assert!(timeout(Duration::from_secs(3), waiting).await.is_err());
    assert_eq!(rig.bridge.status("slow").unwrap().ends, []);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_waits_for_its_client_is_not_asked_whether_it_lives() {
    let mut server = each("one", "", Mode::PerSession);
    local(&mut server).children.hang_timeout = Some(Duration::from_millis(100));
    let rig = Rig::new(vec![server]).await;
    let client = Client::opened(&rig, "one", "a").await;
    let asked = tool(1, "sample", json!({})).to_string();
    let mut stream = rig.open(Method::POST, "/one/0", &client.headers(), asked).await.into_body();
    let question = message(&next_event(&mut stream).await.unwrap());
    // A person thinks for ten times as long; the fake would take a ping for the answer.
    sleep(Duration::from_secs(1)).await;
    client.post(json!({"jsonrpc": "2.0", "id": question["id"], "result": {"said": "yes"}})).await;
    let answer = message(&next_event(&mut stream).await.unwrap());
    assert!(answer["result"]["content"][0]["text"].as_str().unwrap().contains("yes"), "{answer}");
    // With its answer the patience is over, too.
    let said = client.call("deaf", json!({})).await;
    assert_eq!(said.json()["error"]["data"]["reason"], "child_hung");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_child_by_death_or_by_rest() {
    let mut server = each("one", "", Mode::PerSession);
    local(&mut server).idle_timeout = Some(Duration::from_millis(400));
    let rig = Rig::new(vec![server]).await;
    let crashing = Client::opened(&rig, "one", "a").await;
    let error = crashing.call("die", json!({})).await.json()["error"].clone();
    assert_eq!(
        (&error["data"]["reason"], &error["data"]["stderr"]),
        (&json!("child_exited"), &json!(["about to die", "last words"]))
    );
    assert_eq!(crashing.call("pid", json!({})).await.status, StatusCode::NOT_FOUND);
    let listening = Client::opened(&rig, "one", "a").await;
    let stream = listening.stream().await;
    let pid = listening.pid().await;
    let resting = Client::opened(&rig, "one", "a").await;
    let rested = resting.pid().await;
    rig.until("the rest of who neither calls nor listens", || !alive(rested)).await;
    assert_eq!(resting.call("pid", json!({})).await.status, StatusCode::NOT_FOUND);
    assert_eq!(listening.pid().await, pid);
    drop(stream);
    rig.until("the rest of the other", || !alive(pid)).await;
    rig.until("nothing left", || rig.bridge.status("one").unwrap().pids.is_empty()).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_before_they_know_their_session_leave_none_behind() {
    let rig = Rig::new(vec![each("one", "slow", Mode::PerSession)]).await;
    let mut leaving = JoinSet::new();
    for _ in 0..10 {
        let socket = rig.bridge.socket().to_owned();
        leaving.spawn(async move {
            let stream = UnixStream::connect(socket).await.unwrap();
            let body = initialize("2025-11-25").to_string();
            let head = format!("POST /one/0 HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
            for piece in [head.as_bytes(), body.as_bytes()] {
                let mut rest = piece;
                while !rest.is_empty() {
                    stream.writable().await.unwrap();
                    rest = &rest[stream.try_write(rest).unwrap_or(0)..];
                }
            }
            stream
        });
    }
    let streams = leaving.join_all().await;
    rig.until("their children", || rig.counts.started.load(Ordering::SeqCst) == 10).await;
    drop(streams);
    rig.until("their ends", || !rig.bridge.entries.read()["one"].has_processes()).await;
    assert_eq!(rig.counts.clean.load(Ordering::SeqCst), 10);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_change_without_a_restart_and_a_change_of_mode_drains() {
    let rig = Rig::new(vec![each("one", "", Mode::PerSession)]).await;
    let client = Client::opened(&rig, "one", "a").await;
    let pid = client.pid().await;
    let mut wider = each("one", "", Mode::PerSession);
    local(&mut wider).children.warm = 1;
    rig.catalog(vec![wider]);
    assert_eq!(client.pid().await, pid);
    rig.until("a warm child", || rig.bridge.status("one").unwrap().population.warm == 1).await;
    rig.catalog(vec![each("one", "", Mode::PerCaller)]);
    rig.until("the old ones' end", || !alive(pid)).await;
    assert_ne!(client.pid().await, pid, "any session is good for a caller's child");
    rig.end().await;
}
