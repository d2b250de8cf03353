//! How children start, end, come back and leave nothing behind.
//! Not here: what their callers see (`calls`).

use super::*;

async fn pid(rig: &Rig, path: &str) -> u32 {
    rig.tool(path, "pid", json!({})).await.text().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn start_and_stop_by_hand() {
    let mut server = fake("one", "");
    local(&mut server).instances = NonZeroU16::new(2).unwrap();
    let rig = Rig::new(vec![server]).await;
    assert_eq!(rig.bridge.status("one").unwrap().state, State::Stopped);
    assert_eq!(rig.bridge.start("one").await.unwrap(), Started::Now);
    let pids = rig.bridge.status("one").unwrap().pids;
    assert_eq!(pids, [pid(&rig, "/one/0").await, pid(&rig, "/one/1").await]);
    assert_eq!(rig.bridge.start("one").await.unwrap(), Started::Already);
    assert_eq!(rig.bridge.stop("one").await.unwrap(), Stopped::Now);
    assert!(!pids.iter().any(|pid| alive(*pid)));
    let status = rig.bridge.status("one").unwrap();
    assert_eq!((status.state, status.pids.len(), status.restarts), (State::Stopped, 0, 0));
    assert_eq!(rig.bridge.stop("one").await.unwrap(), Stopped::Already);
    assert!(!pids.contains(&pid(&rig, "/one/0").await));
    assert_eq!(rig.counts.clean.load(Ordering::SeqCst), 2);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_start_says_why_and_is_left_alone_after_five_times() {
    let mut missing = fake("missing", "");
    local(&mut missing).program = PathBuf::from("/nonexistent/program");
    let rig = Rig::new(vec![fake("one", "stillborn"), missing, fake("good", "")]).await;
    let error = rig.bridge.start("one").await.unwrap_err();
    assert_eq!(error.to_string(), "server 'one' exited with code 1");
    for _ in 0..4 {
        let said = rig.post("/one/0", &[], initialize("2025-11-25")).await;
        let error = &said.json()["error"];
        assert_eq!(error["message"], "server 'one' exited with code 1");
        assert_eq!(error["data"]["stderr"], json!(["cannot start: no luck"]));
    }
    let started = Instant::now();
    let said = rig.tool("/one/0", "pid", json!({})).await;
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(said.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(said.headers.contains_key("retry-after"));
    assert_eq!(said.json()["error"]["data"]["reason"], "start_limit");
    assert_eq!(said.json()["error"]["data"]["stderr"], json!(["cannot start: no luck"]));
    assert_eq!(rig.bridge.status("one").unwrap().state, State::Failed);
    assert_eq!(rig.counts.started.load(Ordering::SeqCst), 5);
    // By hand it is tried again, and the failure is the fresh one.
    assert!(matches!(rig.bridge.start("one").await, Err(BridgeError::Start { .. })));
    assert_eq!(rig.bridge.stop("one").await.unwrap(), Stopped::Already);
    assert_eq!(rig.bridge.status("one").unwrap().state, State::Stopped);
    let said = rig.tool("/missing/0", "pid", json!({})).await;
    assert!(
        said.json()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("could not be started: python3: No such file")
    );
    assert_eq!(rig.tool("/good/0", "echo", json!({"text": "fine"})).await.text(), "fine");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_answers_its_first_message_is_given_up() {
    let mut server = fake("one", "");
    local(&mut server).args = vec!["-c".to_owned(), "import time; time.sleep(3600)".to_owned()];
    server.timeouts.start = Duration::from_millis(300);
    let rig = Rig::new(vec![server]).await;
    let said = rig.tool("/one/0", "pid", json!({})).await;
    assert_eq!(said.json()["error"]["data"]["reason"], "start_timeout");
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reconcile_keeps_what_is_equal_drains_what_changed_and_drops_what_is_gone() {
    let rig = Arc::new(Rig::new(vec![fake("kept", ""), fake("changed", ""), fake("gone", "")]).await);
    let mut pids = Vec::new();
    for path in ["/kept/0", "/changed/0", "/gone/0"] {
        pids.push(pid(&rig, path).await);
    }
    let session = rig.post("/gone/0", &[], initialize("2025-11-25")).await.session();
    let with = [("mcp-session-id", session.as_str())];
    let mut stream = rig.open(Method::GET, "/gone/0", &with, String::new()).await.into_body();
    // A call in flight finishes on the child it is on, though its server changes.
    let slow = tokio::spawn({
        let rig = Arc::clone(&rig);
        async move {
            let mut message = tool(1, "progress", json!({"times": 20_000, "text": "finished"}));
            message["params"]["_meta"] = json!({"progressToken": 1});
            rig.post("/changed/0", &[], message).await
        }
    });
    rig.until("the call", || rig.bridge.status("changed").unwrap().in_flight == 1).await;
    let mut described = fake("kept", "");
    described.description = Some("new words".to_owned());
    described.timeouts.total = Duration::from_secs(7);
    let mut changed = fake("changed", "");
    local(&mut changed).env.insert("NEW".to_owned(), "1".to_owned());
    rig.catalog(vec![described, changed, fake("added", "")]);

    assert_eq!(pid(&rig, "/kept/0").await, pids[0]);
    assert_ne!(pid(&rig, "/changed/0").await, pids[1]);
    assert_ne!(pid(&rig, "/added/0").await, 0);
    assert_eq!(rig.tool("/gone/0", "pid", json!({})).await.status, StatusCode::NOT_FOUND);
    assert_eq!(next_event(&mut stream).await, None);
    let events = slow.await.unwrap().events();
    assert_eq!(events.last().unwrap()["result"]["content"][0]["text"], "finished");
    rig.until("the old children's ends", || !alive(pids[1]) && !alive(pids[2])).await;
    assert!(rig.bridge.status("gone").is_none());
    Arc::into_inner(rig).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_child_stops_and_the_next_call_starts_it() {
    let mut server = fake("one", "");
    local(&mut server).idle_timeout = Some(Duration::from_millis(200));
    let rig = Rig::new(vec![server]).await;
    let first = pid(&rig, "/one/0").await;
    let session = rig.post("/one/0", &[], initialize("2025-11-25")).await.session();
    let with = [("mcp-session-id", session.as_str())];
    let _stream = rig.open(Method::GET, "/one/0", &with, String::new()).await;
    rig.until("the rest", || rig.bridge.status("one").unwrap().state == State::Stopped).await;
    assert!(!alive(first));
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    assert_eq!(rig.post("/one/0", &with, ping).await.json()["result"], json!({}));
    assert_eq!(rig.bridge.status("one").unwrap().state, State::Stopped);
    assert_ne!(pid(&rig, "/one/0").await, first);
    assert_eq!(rig.bridge.status("one").unwrap().restarts, 0);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_survives_a_stop_neither_the_deaf_nor_grandchildren_nor_those_that_left_the_group() {
    let rig = Rig::new(vec![fake("one", "stubborn")]).await;
    let leader = pid(&rig, "/one/0").await;
    let mut family = vec![leader];
    for session in [false, true] {
        let said = rig.tool("/one/0", "fork", json!({"session": session})).await;
        family.push(said.text().parse().unwrap());
    }
    assert!(family.iter().all(|pid| alive(*pid)));
    assert_eq!(rig.bridge.stop("one").await.unwrap(), Stopped::Now);
    rig.until("the ends", || !family.iter().any(|pid| alive(*pid))).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_takes_the_grandchildren_with_it() {
    let rig = Rig::new(vec![fake("one", "")]).await;
    let grandchild: u32 = rig.tool("/one/0", "fork", json!({})).await.text().parse().unwrap();
    rig.tool("/one/0", "die", json!({})).await;
    rig.until("its end", || !alive(grandchild)).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_never_reads_is_given_up_and_others_do_not_notice() {
    let mut server = fake("one", "");
    server.timeouts.total = Duration::from_secs(2);
    let rig = Arc::new(Rig::new(vec![server, fake("two", "")]).await);
    let first = pid(&rig, "/one/0").await;
    let text = "x".repeat(100_000);
    let mut calls = JoinSet::new();
    for (before, name) in ["deaf", "echo", "echo", "echo", "echo"].into_iter().enumerate() {
        let (rig, text) = (Arc::clone(&rig), text.clone());
        let status = Arc::clone(&rig.bridge);
        Rig::until(&rig, "the call", || status.status("one").unwrap().in_flight == before).await;
        calls.spawn(async move { rig.tool("/one/0", name, json!({"text": text})).await });
    }
    for _ in 0..20 {
        let started = Instant::now();
        assert_eq!(rig.tool("/two/0", "echo", json!({"text": "y"})).await.text(), "y");
        assert!(started.elapsed() < Duration::from_secs(2));
    }
    while let Some(said) = calls.join_next().await {
        let said = said.unwrap();
        assert!(said.json().get("error").is_some(), "{said:?}");
    }
    rig.until("its end", || !alive(first)).await;
    assert_ne!(pid(&rig, "/one/0").await, first);
    Arc::into_inner(rig).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_fifty_times_under_load_and_the_next_call_is_answered_within_two_seconds() {
    let rig = Arc::new(Rig::new(vec![fake("one", ""), fake("two", "")]).await);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut load = JoinSet::new();
    for path in ["/one/0", "/one/0", "/two/0", "/two/0"] {
        let (rig, stop) = (Arc::clone(&rig), Arc::clone(&stop));
        load.spawn(async move {
            let mut failed = 0;
            while !stop.load(Ordering::Relaxed) {
                let said = rig.tool(path, "echo", json!({"text": "z"})).await;
                failed += usize::from(said.json().get("error").is_some());
            }
            (path, failed)
        });
    }
    for _ in 0..50 {
        let victim = loop {
            match rig.bridge.status("one").unwrap().pids.first() {
                Some(pid) => break *pid,
                None => sleep(Duration::from_millis(2)).await,
            }
        };
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(victim as i32), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
        rig.until("its end", || !rig.bridge.status("one").unwrap().pids.contains(&victim)).await;
        let started = Instant::now();
        assert_eq!(rig.tool("/one/0", "echo", json!({"text": "next"})).await.text(), "next");
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(result) = load.join_next().await {
        let (path, failed) = result.unwrap();
        assert!(path == "/one/0" || failed == 0, "{path} failed {failed} times");
    }
    Arc::into_inner(rig).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_gateway_left_is_swept_and_other_gateways_children_are_not() {
    let mut cleaned = fake("cleaned", "stubborn");
    // It hides its environment, so that only the table tells of it.
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bridge/tests/fake.py");
    local(&mut cleaned).program = PathBuf::from("/usr/bin/env");
    let python = local(&mut fake("x", "")).program.display().to_string();
    local(&mut cleaned).args =
        ["-i", &python, "-u", script, "stubborn"].iter().map(|arg| (*arg).to_owned()).collect();
    let rig = Rig::new(vec![fake("marked", "stubborn"), cleaned]).await;
    let other = Rig::new(vec![fake("other", "")]).await;
    let stranger = pid(&other, "/other/0").await;
    let mut family = vec![pid(&rig, "/marked/0").await, pid(&rig, "/cleaned/0").await];
    for session in [false, true] {
        let said = rig.tool("/marked/0", "fork", json!({"session": session})).await;
        family.push(said.text().parse().unwrap());
    }
    // As after a kill, the table on disk still names them, and nobody holds the lock.
    let next = tempfile::tempdir().unwrap();
    for name in ["bridge.id", "children.json"] {
        fs::copy(rig.dir.path().join(name), next.path().join(name)).unwrap();
    }
    assert!(family.iter().all(|pid| alive(*pid)));
    let successor = Rig::at(next, limits(), vec![]).await;
    successor.until("the sweep", || !family.iter().any(|pid| alive(*pid))).await;
    assert!(alive(stranger));
    successor.end().await;
    other.end().await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_serves_one_gateway_at_a_time() {
    let rig = Rig::new(vec![]).await;
    let second = Bridge::new(rig.dir.path(), limits(), Arc::new(Unobserved));
    assert!(matches!(second, Err(BridgeError::Locked(_))));
    use std::os::unix::fs::PermissionsExt as _;
    let private = fs::metadata(rig.bridge.socket().parent().unwrap()).unwrap().permissions().mode();
    assert_eq!(private & 0o777, 0o700);
    assert!(rig.bridge.socket().as_os_str().len() < 100);
    let dir = rig.end().await;
    let long = dir.path().join("x".repeat(120));
    let bridge = Bridge::new(&long, limits(), Arc::new(Unobserved)).unwrap();
    assert!(bridge.socket().as_os_str().len() < 100);
    fs::remove_dir(bridge.socket().parent().unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_starts_and_stops_leave_nothing_behind() {
    let mut server = fake("one", "");
    // A server small enough to be started a thousand times: it answers each line by its first id.
    let shell = r#"while read -r line; do id=${line#*\"id\":}; id=${id%%,*}; case $line in
        *'"id"'*) echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{}}";; esac; done"#;
    local(&mut server).program = PathBuf::from("/bin/sh");
    local(&mut server).args = vec!["-c".to_owned(), shell.to_owned()];
    let rig = Rig::new(vec![server]).await;
    let children = || {
        let text = fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id()));
        text.unwrap_or_default().split_whitespace().count()
    };
    let mut seen = std::collections::BTreeSet::new();
    for cycle in 0..1000 {
        assert_eq!(rig.bridge.start("one").await.unwrap(), Started::Now, "cycle {cycle}");
        seen.extend(rig.bridge.status("one").unwrap().pids);
        assert_eq!(rig.bridge.stop("one").await.unwrap(), Stopped::Now, "cycle {cycle}");
    }
    assert!(seen.len() > 900, "{}", seen.len());
    assert!(!seen.iter().any(|pid| fs::metadata(format!("/proc/{pid}")).is_ok()
        && fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.contains("(sh)"))));
    // Other tests run beside this one and have descriptors too; a leak would be thousands.
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(descriptors < 900, "{descriptors} descriptors, {} children", children());
    rig.end().await;
}
