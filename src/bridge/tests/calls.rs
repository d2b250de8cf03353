//! What callers of one child see: ids, progress, errors, streams.
//! Not here: starts and ends (`lives`).

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_call_starts_the_child_and_gets_its_own_id_back() {
    let rig = Rig::new(vec![fake("one", "")]).await;
    let said = rig.tool("/one/0", "echo", json!({"text": "hällo\n\"x\""})).await;
    assert_eq!((said.status, said.text().as_str()), (StatusCode::OK, "hällo\n\"x\""));
    assert_eq!(said.headers["content-type"], "application/json");
    assert_eq!(said.json()["id"], 1);
    let pretty = "{\n \"jsonrpc\": \"2.0\",\r\n \"id\": \"a b\", \"method\": \"tools/call\",\n \"params\": {\"name\": \"pid\"}}";
    let said = rig.send(Method::POST, "/one/0", &[], pretty.to_owned()).await;
    assert_eq!(said.json()["id"], "a b");
    let status = rig.bridge.status("one").unwrap();
    assert_eq!(status.state, State::Running);
    assert_eq!(status.pids, [said.text().parse::<u32>().unwrap()]);
    assert_eq!((status.in_flight, status.restarts), (0, 0));
    assert!(status.last_activity.is_some() && status.started_at.is_some());
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_gets_only_the_environment_and_pipes_it_should() {
    let rig = Rig::new(vec![fake("one", "")]).await;
    let env: BTreeMap<String, String> =
        serde_json::from_str(&rig.tool("/one/0", "env", json!({})).await.text()).unwrap();
    let known = ["PATH", "HOME", "LANG", "FAKE", "TOLLGATE_CHILD", "LC_CTYPE"];
    let others: Vec<&String> = env.keys().filter(|name| !known.contains(&name.as_str())).collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(env["FAKE"], "yes");
    assert_eq!(rig.tool("/one/0", "cwd", json!({})).await.text(), "/tmp");
    let fds: Vec<String> = serde_json::from_str(&rig.tool("/one/0", "fds", json!({})).await.text()).unwrap();
    // What the test runner left open for us is not ours to close; all that we opened is.
    let inherited = |fd: &&String| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default().trim();
        u32::from_str_radix(flags, 8).is_ok_and(|flags| flags & 0o2_000_000 == 0)
    };
    let own = fds.iter().filter(|fd| fd.as_str() <= "2" && fd.len() == 1 || !inherited(fd)).count();
    // Its three, and the directory it reads to tell them.
    assert_eq!(own, 4, "{fds:?}");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_with_equal_ids_never_get_each_others_answers_or_progress() {
    let rig = Arc::new(Rig::new(vec![fake("one", "")]).await);
    let callers: Vec<_> = (0..200)
        .map(|caller| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move {
                for call in 0..100 {
                    let nonce = format!("{caller}-{call}");
                    let mut message = tool(7, "echo", json!({"text": nonce, "times": 2}));
                    if call % 10 == 0 {
                        message["params"]["name"] = json!("progress");
                        message["params"]["_meta"] = json!({"progressToken": nonce});
                    }
                    let said = rig.post("/one/0", &[], message).await;
                    if call % 10 != 0 {
                        assert_eq!((said.json()["id"].clone(), said.text()), (json!(7), nonce));
                        continue;
                    }
                    let events = said.events();
                    let (last, notes) = events.split_last().unwrap();
                    assert_eq!(last["result"]["content"][0]["text"], nonce);
                    assert_eq!(notes.len(), 2);
                    assert!(notes.iter().all(|note| note["params"]["progressToken"] == nonce), "{notes:?}");
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(rig.bridge.status("one").unwrap().in_flight, 0);
    assert_eq!(rig.counts.started.load(Ordering::SeqCst), 1);
    Arc::into_inner(rig).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_fails_its_calls_at_once_with_the_last_words_and_the_next_call_starts_it() {
    let rig = Arc::new(Rig::new(vec![fake("one", "")]).await);
    rig.tool("/one/0", "echo", json!({"text": ""})).await;
    let hanging = tokio::spawn({
        let rig = Arc::clone(&rig);
        async move { rig.tool("/one/0", "hang", json!({})).await }
    });
    rig.until("the call", || rig.bridge.status("one").unwrap().in_flight == 1).await;
    let killer = rig.tool("/one/0", "die", json!({})).await;
    for said in [killer, hanging.await.unwrap()] {
        assert_eq!(said.status, StatusCode::OK);
        assert_eq!(said.headers["x-tollgate-outcome"], "transport_error");
        let error = &said.json()["error"];
        assert_eq!(error["code"], -31502);
        assert_eq!(error["message"], "server 'one' exited with code 3");
        let data = json!({"reason": "child_exited", "server": "one", "stderr": ["about to die", "last words"], "outcome": "unknown"});
        assert_eq!(error["data"], data);
    }
    assert_eq!(rig.tool("/one/0", "echo", json!({"text": "again"})).await.text(), "again");
    let status = rig.bridge.status("one").unwrap();
    assert_eq!(status.restarts, 1);
    assert_eq!(status.last_error.as_deref(), Some("exited with code 3"));
    assert_eq!(status.stderr_tail, ["about to die", "last words"]);
    Arc::into_inner(rig).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_and_long_lines_are_dropped_and_cost_no_memory() {
    let rig = Rig::new(vec![fake("one", "")]).await;
    assert_eq!(rig.tool("/one/0", "rubbish", json!({})).await.text(), "clean");
    assert_eq!(rig.counts.rubbish.load(Ordering::SeqCst), 2);
    let before = resident_bytes();
    assert_eq!(rig.tool("/one/0", "long", json!({})).await.text(), "after");
    assert_eq!(rig.counts.rubbish.load(Ordering::SeqCst), 3);
    // Other tests run in this process; a line that was kept would be 100 MB.
    assert!(resident_bytes() < before + (60 << 20), "{} -> {}", before, resident_bytes());
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_over_the_limit_is_told_like_a_death_and_the_child_lives() {
    let rig = Rig::new(vec![fake("one", "")]).await;
    let said = rig.tool("/one/0", "long_answer", json!({})).await;
    assert_eq!((said.status, &said.json()["id"]), (StatusCode::OK, &json!(1)));
    assert_eq!(said.headers["x-tollgate-outcome"], "transport_error");
    let error = &said.json()["error"];
    assert_eq!(error["code"], -31502);
    assert_eq!(error["message"], "server 'one' answered in a line over the limit of 4194304 bytes");
    assert_eq!(error["data"], json!({"reason": "line_too_long", "server": "one", "outcome": "unknown"}));
    assert_eq!(rig.counts.rubbish.load(Ordering::SeqCst), 1, "one line is counted once");
    assert_eq!(rig.tool("/one/0", "echo", json!({"text": "again"})).await.text(), "again");
    assert_eq!(rig.counts.started.load(Ordering::SeqCst), 1);
    rig.end().await;
}

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_gets_a_session_of_its_own_and_any_well_formed_id_is_good() {
    let rig = Rig::new(vec![fake("one", "")]).await;
    let first = rig.post("/one/0", &[], initialize("2025-06-18")).await;
    let second = rig.post("/one/0", &[], initialize("2099-01-01")).await;
    assert_ne!(first.session(), second.session());
    assert_eq!(first.json()["id"], "init");
    assert_eq!(first.json()["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(second.json()["result"]["protocolVersion"], "2025-11-25");
    // The fake tells the capabilities it was offered: none, whatever a client has.
    assert_eq!(first.json()["result"]["capabilities"], json!({}));
    let session = first.session();
    let with = [("mcp-session-id", session.as_str())];
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let said = rig.post("/one/0", &with, initialized).await;
    assert_eq!((said.status, said.body.len()), (StatusCode::ACCEPTED, 0));
    let said = rig.post("/one/0", &with, json!({"jsonrpc": "2.0", "id": 1, "result": {}})).await;
    assert_eq!((said.status, said.body.len()), (StatusCode::ACCEPTED, 0));
    let dir = rig.end().await;

    let rig = Rig::at(dir, limits(), vec![fake("one", "")]).await;
    let said = rig.post("/one/0", &with, tool(3, "echo", json!({"text": "still"}))).await;
    assert_eq!(said.text(), "still");
    let said = rig.post("/one/0", &[("mcp-session-id", "guess")], tool(3, "pid", json!({}))).await;
    assert_eq!(said.status, StatusCode::NOT_FOUND);
    assert_eq!(rig.send(Method::DELETE, "/one/0", &with, String::new()).await.status, StatusCode::NO_CONTENT);
    for path in ["/", "/one", "/one/1", "/one/0/x", "/one/-0", "/two/0"] {
        assert_eq!(rig.tool(path, "pid", json!({})).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(
        rig.send(Method::PUT, "/one/0", &with, String::new()).await.status,
        StatusCode::METHOD_NOT_ALLOWED
    );
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_unasked_goes_to_those_it_is_for() {
    let rig = Rig::new(vec![fake("one", "")]).await;
    let a = rig.post("/one/0", &[], initialize("2025-11-25")).await.session();
    let b = rig.post("/one/0", &[], initialize("2025-11-25")).await.session();
    let (a, b) = ([("mcp-session-id", a.as_str())], [("mcp-session-id", b.as_str())]);
    let mut stream_a = rig.open(Method::GET, "/one/0", &a, String::new()).await.into_body();
    let mut stream_b = rig.open(Method::GET, "/one/0", &b, String::new()).await.into_body();
    let subscribe =
        json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": "x://1"}});
    assert_eq!(rig.post("/one/0", &a, subscribe).await.json()["result"], json!({}));
    rig.tool("/one/0", "change", json!({"uri": "x://1"})).await;
    rig.tool("/one/0", "change", json!({"uri": "x://2"})).await;
    let mut heard = Vec::new();
    for _ in 0..3 {
        heard.push(next_event(&mut stream_a).await.unwrap());
    }
    assert!(
        heard[0].contains("list_changed") && heard[1].contains("x://1") && heard[2].contains("list_changed")
    );
    for _ in 0..2 {
        assert!(next_event(&mut stream_b).await.unwrap().contains("list_changed"));
    }
    rig.send(Method::DELETE, "/one/0", &a, String::new()).await;
    assert_eq!(next_event(&mut stream_a).await, None);
    assert_eq!(rig.send(Method::GET, "/one/0", &[], String::new()).await.status, StatusCode::BAD_REQUEST);

    // A log message goes to the only caller there is, and to nobody when there are two.
    assert_eq!(rig.post("/one/0", &a, tool(1, "log", json!({}))).await.events().len(), 2);
    let hanging = rig.open(Method::POST, "/one/0", &b, tool(1, "hang", json!({})).to_string());
    let hanging = async { drop(timeout(Duration::from_millis(500), hanging).await) };
    let logging = async {
        rig.until("the call", || rig.bridge.status("one").unwrap().in_flight == 1).await;
        rig.post("/one/0", &a, tool(1, "log", json!({}))).await
    };
    let (said, ()) = tokio::join!(logging, hanging);
    assert_eq!(said.text(), "logged");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_is_answered_by_the_bridge() {
    let rig = Rig::new(vec![fake("one", "")]).await;
    let answers: Value = serde_json::from_str(&rig.tool("/one/0", "ask", json!({})).await.text()).unwrap();
    assert_eq!(answers[0]["error"]["code"], -32601);
    assert_eq!((&answers[0]["id"], &answers[1]["id"]), (&json!("s1"), &json!("s2")));
    assert_eq!(answers[1]["result"], json!({}));
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn modern_requests_to_a_legacy_server_fall_back_and_share_its_child() {
    let rig = Rig::new(vec![fake("one", "")]).await;
    for _ in 0..2 {
        let said = rig.post("/one/0", &[], modern(5, "server/discover", json!({}))).await;
        assert_eq!((said.status, &said.json()["error"]["code"]), (StatusCode::NOT_FOUND, &json!(-32601)));
        assert_eq!(said.json()["id"], 5);
    }
    assert_eq!(rig.tool("/one/0", "echo", json!({"text": "x"})).await.text(), "x");
    assert_eq!(rig.counts.started.load(Ordering::SeqCst), 1);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_server_is_asked_in_its_own_way_and_told_when_a_caller_leaves() {
    let rig = Rig::new(vec![fake("one", "modern")]).await;
    let said = rig.post("/one/0", &[], modern(5, "server/discover", json!({}))).await;
    assert_eq!((said.status, said.json()["id"].clone()), (StatusCode::OK, json!(5)));
    assert!(!said.headers.contains_key("mcp-session-id"));

    let listen = modern(9, "subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}));
    let mut stream = rig.open(Method::POST, "/one/0", &[], listen.to_string()).await.into_body();
    for name in ["acknowledged", "list_changed"] {
        let event = next_event(&mut stream).await.unwrap();
        assert!(event.contains(name) && event.contains(r#"subscriptionId": 9"#), "{event}");
    }
    assert_eq!(rig.bridge.status("one").unwrap().in_flight, 1);
    drop(stream);
    rig.until("the end of the call", || rig.bridge.status("one").unwrap().in_flight == 0).await;
    let call = modern(1, "tools/call", json!({"name": "cancelled"}));
    let said = rig.post("/one/0", &[], call).await;
    let cancelled: Vec<u64> = serde_json::from_str(&said.text()).unwrap();
    assert_eq!(cancelled.len(), 1);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_call_outlives_its_caller_and_is_cancelled_only_by_name() {
    let rig = Rig::new(vec![fake("one", "")]).await;
    let session = rig.post("/one/0", &[], initialize("2025-11-25")).await.session();
    let with = [("mcp-session-id", session.as_str())];
    let other = [("mcp-session-id", "0123456789abcdef0123456789abcdef")];
    let hanging = rig.open(Method::POST, "/one/0", &with, tool(42, "hang", json!({})).to_string());
    let left = async {
        rig.until("the call", || rig.bridge.status("one").unwrap().in_flight == 1).await;
    };
    tokio::select! { _ = hanging => panic!("it hangs"), () = left => {} }
    let cancelled = async || {
        let said = rig.post("/one/0", &with, tool(1, "cancelled", json!({}))).await;
        serde_json::from_str::<Vec<u64>>(&said.text()).unwrap().len()
    };
    assert_eq!(cancelled().await, 0);
    assert_eq!(rig.bridge.status("one").unwrap().in_flight, 1);
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 42}});
    assert_eq!(rig.post("/one/0", &other, cancel.clone()).await.status, StatusCode::ACCEPTED);
    assert_eq!(cancelled().await, 0);
    assert_eq!(rig.post("/one/0", &with, cancel).await.status, StatusCode::ACCEPTED);
    assert_eq!(cancelled().await, 1);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_an_answer_times_out_and_the_child_is_told() {
    let mut server = fake("one", "");
    server.timeouts.total = Duration::from_millis(1500);
    let rig = Rig::new(vec![server]).await;
    let said = rig.tool("/one/0", "hang", json!({})).await;
    assert_eq!(said.headers["x-tollgate-outcome"], "timeout");
    assert_eq!(said.json()["error"]["code"], -31504);
    let cancelled = rig.tool("/one/0", "cancelled", json!({})).await.text();
    assert_eq!(serde_json::from_str::<Vec<u64>>(&cancelled).unwrap().len(), 1);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_calls_at_once_are_refused() {
    let rig = Arc::new(Rig::with(Limits { child_pending_max: 4, ..limits() }, vec![fake("one", "")]).await);
    let mut hanging = JoinSet::new();
    for _ in 0..4 {
        let rig = Arc::clone(&rig);
        hanging.spawn(async move { rig.tool("/one/0", "hang", json!({})).await });
    }
    rig.until("the calls", || rig.bridge.status("one").unwrap().in_flight == 4).await;
    let said = rig.tool("/one/0", "pid", json!({})).await;
    assert_eq!(said.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((&said.headers["retry-after"], &said.json()["id"]), (&"1".parse().unwrap(), &json!(1)));
    // The others are told when the child is stopped.
    rig.down.send_replace(true);
    while let Some(said) = hanging.join_next().await {
        assert_eq!(said.unwrap().json()["error"]["data"]["reason"], "child_stopped");
    }
    Arc::into_inner(rig).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_loses_notifications_and_never_the_answer() {
    let rig = Rig::with(Limits { child_queue_max: 8, ..limits() }, vec![fake("one", "")]).await;
    let mut message = tool(1, "progress", json!({"times": 20_000}));
    message["params"]["_meta"] = json!({"progressToken": 1});
    let answer = rig.open(Method::POST, "/one/0", &[], message.to_string()).await;
    // The child is answered by others while nobody reads this stream.
    assert_eq!(rig.tool("/one/0", "echo", json!({"text": "x"})).await.text(), "x");
    let (head, body) = answer.into_parts();
    let said =
        Said { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() };
    let events = said.events();
    assert!(events.len() < 20_000, "{}", events.len());
    assert_eq!(events.last().unwrap()["result"]["content"][0]["text"], "done");
    rig.end().await;
}

#[tokio::test]
async fn its_futures_can_run_anywhere() {
    let rig = Rig::new(vec![]).await;
    assert!(assert_send(rig.bridge.start("none")).await.is_err());
    assert!(assert_send(rig.bridge.stop("none")).await.is_err());
    assert!(rig.bridge.status("none").is_none());
    rig.end().await;
}
