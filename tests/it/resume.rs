//! Streams that a client takes up again after it lost its connection, of servers that do not offer it.
//! Not here: servers that do (`streams`), what is kept (`proxy/replay`).

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Caller, Event, request};
use crate::fake::{self, Act, Fake, Seen, Step};
use crate::gateway::Gateway;
use crate::interop::json_of;
use crate::packages::{self, Server};

const SOON: Duration = Duration::from_secs(20);
const ONE: &str = "Rq7vB2mX9kT4wZ6n-one";
const TWO: &str = "Jd5hC8pL3sF1yG0u-two";

fn before(url: &str, resume: &str) -> Gateway {
    let key = |name: &str, key: &str| json!({"name": name, "key": key, "servers": ["*"]});
    let keys = [key("one", ONE), key("two", TWO)];
    let conf = json!({"drain": "5s", "auth": {"keys": keys}, "session": {"resume": resume}});
    let remote = json!({"type": "remote-http", "url": url});
    let catalog = json!({"servers": [{"id": "it", "runtime": remote, "health": {"type": "off"}}]});
    Gateway::with(&catalog.to_string()).conf(&conf.to_string()).start()
}

async fn session(gateway: &Gateway, key: &str) -> Caller {
    let caller = Caller::new(&gateway.url("it")).with("authorization", &format!("Bearer {key}"));
    caller.initialize().await.0
}

fn note(n: u64) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": n}})
}

/// A server that says 1, waits, says 2 and 3, then answers; and one that says so unasked and stays.
fn server() -> Fake {
    let says = |rest: Vec<Step>| {
        let mut steps = vec![Step::Send(note(1)), Step::Gate, Step::Send(note(2)), Step::Send(note(3))];
        steps.extend(rest);
        Act::Stream(steps)
    };
    Fake::start(move |seen: &Seen| match (seen.method.as_str(), seen.rpc().as_str()) {
        (_, "tools/call") => says(vec![Step::Send(seen.text("done"))]),
        ("GET", _) => says(vec![Step::Hang]),
        _ => fake::legacy(seen),
    })
}

fn call() -> Value {
    request("c", "tools/call", json!({"name": "echo", "arguments": {}}))
}

#[tokio::test]
async fn an_answer_is_had_again_without_loss_and_without_repetition() {
    let fake = server();
    let gateway = before(&fake.url(), "memory");
    let one = session(&gateway, ONE).await;
    let mut stream = one.post_stream(&call()).await;
    let primed = stream.next().await.unwrap();
    assert!(primed.data.is_empty() && primed.id.is_some() && primed.retry.is_some(), "{primed:?}");
    let first = stream.next().await.unwrap();
    assert_eq!((first.json(), first.id.is_some()), (note(1), true));
    drop(stream);
    fake.release();
    // Whoever has the id has nothing without the caller's own credential and session.
    let stolen = first.id.clone().unwrap();
    let two = session(&gateway, TWO).await;
    let other = session(&gateway, ONE).await;
    for thief in [two, other] {
        let mut stream = thief.with("last-event-id", &stolen).get_stream().await;
        // It is a stream like any other, on which the server says what it says to everybody.
        assert_eq!(stream.message().await, note(1), "not what followed the id");
    }
    let mut resumed = one.clone().with("last-event-id", &stolen).get_stream().await;
    let mut got = Vec::new();
    while let Some(event) = resumed.next().await {
        got.push(event.json());
    }
    assert_eq!(got.len(), 3, "{got:?}");
    assert_eq!(got[..2], [note(2), note(3)]);
    assert_eq!((&got[2]["id"], &got[2]["result"]["content"][0]["text"]), (&json!("c"), &json!("done")));
    assert_eq!(fake.seen_rpc("tools/call").len(), 1, "the call ran once");
    assert!(
        fake.seen().iter().all(|seen| !seen.headers.contains_key("last-event-id")),
        "an id of ours is no server's"
    );
    // From the beginning on, as often as it is asked for.
    let mut again = one.clone().with("last-event-id", &primed.id.unwrap()).get_stream().await;
    assert_eq!(again.next().await.unwrap().json(), note(1));
    // The end of the session is the end of what was kept for it.
    assert_eq!(one.send(reqwest::Method::DELETE, Vec::new()).await.status, 200);
    let after = one.with("last-event-id", &stolen).open(reqwest::Method::GET, Vec::new()).await;
    let text = tokio::time::timeout(Duration::from_millis(500), after.text()).await.map(|text| text.unwrap());
    assert!(text.is_err() || !text.unwrap().contains("done"));
}

#[tokio::test]
async fn a_stream_is_listened_to_for_a_client_that_is_away() {
    let fake = server();
    let gateway = before(&fake.url(), "memory");
    let one = session(&gateway, ONE).await;
    let mut stream = one.get_stream().await;
    let mut last = Event::default();
    while last.data.is_empty() {
        last = stream.next().await.unwrap();
    }
    assert_eq!(last.json(), note(1));
    drop(stream);
    fake.release();
    let mut resumed = one.clone().with("last-event-id", &last.id.unwrap()).get_stream().await;
    for n in [2, 3] {
        assert_eq!(resumed.message().await, note(n));
    }
    assert_eq!(fake.seen().iter().filter(|seen| seen.method == "GET").count(), 1, "one stream of the server");
}

/// The positive control: without it nothing is numbered, and what a client missed is lost.
#[tokio::test]
async fn nothing_is_kept_unless_it_is_asked_for() {
    let fake = server();
    let gateway = before(&fake.url(), "off");
    let one = session(&gateway, ONE).await;
    let mut stream = one.post_stream(&call()).await;
    let first = stream.next().await.unwrap();
    assert_eq!((first.json(), first.id), (note(1), None));
}

#[tokio::test]
async fn a_server_that_offers_resumption_itself_is_left_alone() {
    let fixture = Server::fixture();
    let gateway = before(&fixture.url, "memory");
    let one = session(&gateway, ONE).await;
    let call = request(1, "tools/call", json!({"name": "test_reconnection", "arguments": {}}));
    let mut stream = one.post_stream(&call).await;
    let mut last = None;
    while let Some(event) = tokio::time::timeout(SOON, stream.next()).await.unwrap() {
        last = event.id.or(last);
    }
    let last = last.expect("the server gives ids");
    assert!(!last.starts_with("tollgate-"), "{last}");
    let mut resumed = one.with("last-event-id", &last).get_stream().await;
    assert_eq!(resumed.message().await["id"], 1);
}

/// A relay that cuts the connection on which it first sees `mark` on its way to the client.
fn cutter(
    to: std::net::SocketAddr,
    mark: &'static str,
) -> (std::net::SocketAddr, std::sync::mpsc::Receiver<()>) {
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpListener, TcpStream};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (cut, was_cut) = std::sync::mpsc::sync_channel(1);
    // It ends with the test's process; each connection with either end of it.
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(to).unwrap();
            let (mut up, mut server_end) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut up, &mut server_end);
                let _ = server_end.shutdown(Shutdown::Both);
            });
            let (cut, mut client, mut server) = (cut.clone(), client, server);
            std::thread::spawn(move || {
                let mut buffer = [0; 16 * 1024];
                while let Ok(read @ 1..) = server.read(&mut buffer) {
                    if client.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                    let seen = String::from_utf8_lossy(&buffer[..read]).contains(mark);
                    if seen && cut.try_send(()).is_ok() {
                        break;
                    }
                }
                let _ = client.shutdown(Shutdown::Both);
                let _ = server.shutdown(Shutdown::Both);
            });
        }
    });
    (address, was_cut)
}

#[test]
fn an_official_client_gets_its_answer_though_its_connection_was_cut() {
    let fake = Fake::start(|seen: &Seen| match (seen.method.as_str(), seen.rpc().as_str()) {
        (_, "tools/call") => {
            Act::Stream(vec![Step::Send(note(1)), Step::Gate, Step::Send(seen.text("late"))])
        }
        ("GET", _) => Act::Status(405),
        _ => fake::legacy(seen),
    });
    let gateway = before(&fake.url(), "memory");
    let (relay, cut) = cutter(gateway.address(), "\"data\":1");
    let mut command = std::process::Command::new(packages::node());
    command.arg(packages::folder().join("clients/ts_v1.mjs"));
    command.arg(format!("http://{relay}/servers/it/mcp")).args(["--tool", "echo"]);
    command.args(["--header", &format!("authorization: Bearer {ONE}")]);
    let client = std::thread::spawn(move || packages::run(command, 3 * SOON));
    cut.recv_timeout(SOON).expect("the stream of the call was cut");
    fake.release();
    let said = json_of(&client.join().unwrap());
    assert_eq!(said["result"]["content"][0]["text"], "late", "{said}");
    assert_eq!(fake.seen_rpc("tools/call").len(), 1, "the call ran once");
}
