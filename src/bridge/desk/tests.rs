//! Tests of the table of calls: lines that no well-behaved server writes.
//! Not here: the rest, which is tested with real processes (`bridge/tests`).

use super::super::live::Live;
use super::super::mailbox::{Item, Reader};
use super::*;

const SAMPLE: &str = r#"{"protocolVersion":"2025-11-25"}"#;

fn open() -> Desk {
    let mut desk = Desk::new(&First::Legacy, Arc::default(), Duration::from_secs(1), None);
    let opened = desk.line(format!(r#"{{"jsonrpc":"2.0","id":3,"result":{SAMPLE}}}"#).as_bytes());
    assert!(matches!(opened, Some(Turn::Opened(Opened::Legacy(_)))));
    desk.out.clear();
    desk
}

/// Puts a call on the desk.
fn call(desk: &mut Desk, ticket: u64, session: Option<&str>) -> Reader {
    let mailbox = Mailbox::new(8);
    let pending = Pending {
        id: Id::from_json("\"own\"").unwrap(),
        token: Some("\"token\"".into()),
        session: session.map(Into::into),
        modern: false,
        mailbox: Arc::clone(&mailbox),
        deadline: Some(Instant::now() + Duration::from_secs(1)),
        cancelled: false,
        flight: Live::flight_for_tests(),
    };
    desk.command(Command::Call(Call { ticket, line: b"{}\n".to_vec(), pending }));
    Reader::of_stream(mailbox)
}

#[tokio::test]
async fn only_the_first_answer_counts_and_strangers_ids_are_ignored() {
    let mut desk = open();
    let mut reader = call(&mut desk, 20, None);
    for line in [r#"{"id":99,"result":1}"#, r#"{"id":20,"result":2}"#, r#"{"id":20,"result":3}"#] {
        assert!(desk.line(line.as_bytes()).is_none(), "{line}");
    }
    assert_eq!(reader.said().await, r#"{"id":"own","result":2}"#);
    assert!(desk.is_idle());
}

#[tokio::test]
async fn what_is_no_message_is_rubbish() {
    let mut desk = open();
    let lines = [
        "",
        "x",
        "[]",
        "{}",
        "1",
        "null",
        r#"{"id":1}"#,
        r#"{"id":"a","result":1}"#,
        r#"{"id":null,"error":{}}"#,
    ];
    for line in lines {
        assert!(matches!(desk.line(line.as_bytes()), Some(Turn::Rubbish)), "{line}");
    }
    assert!(matches!(desk.line(b"{\"id\":20,\"result\":\"\xff\"}"), Some(Turn::Rubbish)));
}

#[tokio::test]
async fn progress_reaches_its_owner_with_its_own_token() {
    let mut desk = open();
    let (mut first, mut second) = (call(&mut desk, 20, None), call(&mut desk, 21, None));
    for token in ["21", "\"20\"", "22", "\"token\""] {
        let params = format!(r#"{{"progressToken":{token},"progress":1}}"#);
        desk.line(format!(r#"{{"method":"notifications/progress","params":{params}}}"#).as_bytes());
    }
    desk.line(br#"{"id":20,"result":1}"#);
    desk.line(br#"{"id":21,"result":2}"#);
    for reader in [&mut first, &mut second] {
        assert!(reader.said().await.contains(r#""progressToken":"token""#));
        assert!(reader.said().await.contains(r#""id":"own""#));
    }
}

#[tokio::test]
async fn a_log_message_never_reaches_a_stranger() {
    let mut desk = open();
    let log = br#"{"method":"notifications/message","params":{}}"#;
    let mut first = call(&mut desk, 20, Some("a"));
    let mut newest = call(&mut desk, 21, Some("a"));
    desk.line(log);
    assert!(newest.said().await.contains("notifications/message"));
    let mut stranger = call(&mut desk, 22, Some("b"));
    desk.line(log);
    for ticket in 20..23 {
        desk.line(format!(r#"{{"id":{ticket},"result":0}}"#).as_bytes());
    }
    for reader in [&mut first, &mut newest, &mut stranger] {
        assert!(reader.said().await.contains("result"));
    }
}

#[tokio::test]
async fn a_flood_of_questions_is_not_kept() {
    let mut desk = open();
    for _ in 0..100_000 {
        desk.line(br#"{"id":"q","method":"sampling/createMessage","params":{}}"#);
    }
    assert!(desk.out.len() < 2 * OUT_BYTES_MAX);
}

/// What a line longer than both ends together says of its addressee.
#[track_caller]
fn check_addressee(head: &str, tail: &str, expected: Addressee) {
    let ends = Ends {
        head: format!("{head}{}", "x".repeat(256 - head.len())).into_bytes(),
        tail: format!("{}{tail}", "x".repeat(256 - tail.len())).into_bytes(),
    };
    assert_eq!(addressee(&ends), expected, "{head} ... {tail}");
}

#[test]
fn the_id_of_a_long_answer_is_read_at_either_end() {
    let call = Addressee::Call;
    check_addressee(r#"{"jsonrpc":"2.0","id":20,"result":{"a":""#, r#""}}"#, call(20));
    check_addressee(r#"{"jsonrpc": "2.0", "id": 20, "result": {"a": ""#, "\"}}\r", call(20));
    check_addressee(r#"{"id":20,"jsonrpc":"2.0","error":{"message":""#, r#""}}"#, call(20));
    check_addressee(r#"{"result":{"a":""#, r#""},"jsonrpc":"2.0","id":21}"#, call(21));
    check_addressee(r#"{"jsonrpc":"2.0","result":{"a":""#, r#""} , "id" : 21 } "#, call(21));
    check_addressee(r#"{"error":{"a":""#, r#""},"id":21,"jsonrpc":"2.0"}"#, call(21));
    // The head is the answer's own; what is in the result is not.
    check_addressee(r#"{"jsonrpc":"2.0","id":20,"result":{"id":22,"a":""#, r#"","id":21}}"#, call(20));
}

#[test]
fn what_only_looks_like_the_id_of_a_long_answer_is_not_taken_for_it() {
    let result = r#"{"jsonrpc":"2.0","result":{"id":20,"a":""#;
    for tail in [
        r#"","id":20}}"#,
        r#"\",\"id\":20}"}"#,
        r#""},"xid":20}"#,
        r#""},"id":-20}"#,
        r#""},"id":2.20}"#,
        r#""},"id":"20"}"#,
        r#""},"id":}"#,
        r#""},"id":99999999999999999999}"#,
        r#""},"id":20"#,
    ] {
        check_addressee(result, tail, Addressee::Unsaid);
    }
    for head in [r#"{"jsonrpc":"2.0","id":"20","result":""#, r#"{"_meta":{"a":""#, "{", r#"{"id":20"#] {
        check_addressee(head, r#""}"#, Addressee::Unsaid);
    }
}

#[test]
fn a_long_line_that_is_no_answer_is_for_nobody() {
    // A child's own requests may have the numbers of ours, at either end.
    let ask = r#"{"method":"sampling/createMessage","params":{"a":""#;
    check_addressee(ask, r#""},"jsonrpc":"2.0","id":20}"#, Addressee::Nobody);
    check_addressee(r#"{"jsonrpc":"2.0","id":20,"method":"x","params":{"#, "}}", Addressee::Nobody);
    check_addressee(r#"{"jsonrpc":"2.0","id":"q","params":{"a":""#, r#""},"method":"x"}"#, Addressee::Nobody);
    check_addressee(r#"{"jsonrpc":"2.0","method":"notifications/message","params":"#, "}", Addressee::Nobody);
    check_addressee("x", r#","id":20}"#, Addressee::Nobody);
    check_addressee(r#"[{"id":20,"result":""#, r#""}]"#, Addressee::Nobody);
}

#[track_caller]
fn drop_line(desk: &mut Desk, head: &str, tail: &str) {
    desk.dropped(&Ends { head: head.into(), tail: tail.into() }, 4096);
}

const LONG: (&str, &str) = (r#"{"result":{"a":""#, r#""},"b":1}"#);

#[tokio::test]
async fn a_long_answer_fails_its_call_and_no_other() {
    let mut desk = open();
    let (mut first, mut second) = (call(&mut desk, 20, None), call(&mut desk, 21, None));
    drop_line(&mut desk, r#"{"jsonrpc":"2.0","id":21,"result":{"a":""#, r#""}}"#);
    assert!(matches!(second.next().await, Some(Item::Last(Last::Failed(Failure::LineTooLong(4096))))));
    // It is over, so what else is said to it is said to nobody; nor is the only call left blamed for it.
    drop_line(&mut desk, r#"{"jsonrpc":"2.0","id":21,"result":{"a":""#, r#""}}"#);
    desk.line(br#"{"id":21,"result":2}"#);
    desk.line(br#"{"id":20,"result":1}"#);
    assert_eq!(first.said().await, r#"{"id":"own","result":1}"#);
    assert!(desk.out.starts_with(b"{}\n{}\n") && desk.out.len() == 6, "the child is told nothing of it");
}

#[tokio::test]
async fn a_long_answer_to_an_unknown_call_fails_the_only_one_there_is() {
    let mut desk = open();
    let (mut first, mut second) = (call(&mut desk, 20, None), call(&mut desk, 21, None));
    drop_line(&mut desk, LONG.0, LONG.1);
    desk.line(br#"{"id":20,"result":1}"#);
    assert_eq!(first.said().await, r#"{"id":"own","result":1}"#, "of two calls neither is blamed");
    drop_line(&mut desk, r#"{"jsonrpc":"2.0","method":"notifications/message","params":""#, r#""}"#);
    drop_line(&mut desk, "xxx", "xxx");
    assert!(!desk.is_idle(), "what is no answer fails no call");
    drop_line(&mut desk, LONG.0, LONG.1);
    assert!(matches!(second.next().await, Some(Item::Last(Last::Failed(Failure::LineTooLong(4096))))));
    assert!(desk.is_idle());
    drop_line(&mut desk, LONG.0, LONG.1);
}

#[tokio::test]
async fn a_listen_stream_is_not_blamed_for_a_long_answer_to_an_unknown_call() {
    let mut desk = open();
    let _reader = call(&mut desk, 20, None);
    desk.pending.get_mut(&20).unwrap().deadline = None;
    drop_line(&mut desk, LONG.0, LONG.1);
    assert!(!desk.is_idle());
}
