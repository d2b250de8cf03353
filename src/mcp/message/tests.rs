//! Tests of the envelope reader: what is taken, what is refused and with which id.
//! Not here: the reader itself (`message`).

use super::*;
use expect_test::{Expect, expect};
use proptest::prelude::*;

const LIMITS: ParseLimits = ParseLimits { depth_max: 8 };

#[track_caller]
fn check(body: &str, expect: Expect) {
    let told = match parse(body.as_bytes(), LIMITS) {
        Ok(m) => {
            let id = m.id.map_or("-", RawValue::get);
            let name = m.params.text("name").unwrap_or_default();
            let server = m.server_id.as_deref().unwrap_or("-");
            format!("{:?} {} id={id} name={name} server={server}", m.kind, m.method_name)
        }
        Err(e) => format!("{} id={}", e.kind, e.id.as_ref().map_or("-", Id::as_json)),
    };
    expect.assert_eq(&told);
}

#[test]
fn takes_messages() {
    check(
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"e\u0063ho","arguments":{"name":2}}}"#,
        expect!["Request tools/call id=1 name=echo server=-"],
    );
    check(
        r#" {"vendor":[1],"method":"x/y","jsonrpc":"2.0"} "#,
        expect!["Notification x/y id=- name= server=-"],
    );
    check(r#"{"jsonrpc":"2.0","id":"a","result":{}}"#, expect![[r#"Response  id="a" name= server=-"#]]);
    check(
        r#"{"server_id":"s","id":1,"method":"tools/list"}"#,
        expect!["Request tools/list id=1 name= server=s"],
    );
}

#[test]
fn refuses_the_rest_and_keeps_the_id() {
    check("", expect!["the body is not JSON: EOF while parsing a value at line 1 column 0 id=-"]);
    check("\u{feff}{}", expect!["the body is not JSON: expected value at line 1 column 1 id=-"]);
    check(
        r#"{"jsonrpc":"2.0"} x"#,
        expect!["the body is not JSON: trailing characters at line 1 column 19 id=-"],
    );
    check("[]", expect!["batches are not accepted: send one message in each POST id=-"]);
    check("5", expect!["the body is not a JSON-RPC message: it must be an object id=-"]);
    check(
        r#"{"jsonrpc":"2.0","method":"a","method":"b","id":7}"#,
        expect!["member `method` stands more than once, or in another spelling id=7"],
    );
    check(
        r#"{"jsonrpc":"2.0","method":"a","Method":"b","id":7}"#,
        expect!["member `method` stands more than once, or in another spelling id=7"],
    );
    check(
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a","Name":"b"}}"#,
        expect!["member `name` stands more than once, or in another spelling id=7"],
    );
    check(
        "{\"jsonrpc\":\"2.0\",\"method\":\"a\",\"params\":{},\"param\u{17f}\":{},\"id\":7}",
        expect!["member `params` stands more than once, or in another spelling id=7"],
    );
    check(
        "{\"jsonrpc\":\"2.0\",\"method\":\"a\",\"params\":{\"ta\u{17f}\u{212a}Id\":1},\"id\":7}",
        expect!["member `taskId` stands more than once, or in another spelling id=7"],
    );
    check(
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"\ud800"}}"#,
        expect!["`params.name` must be a string of whole characters id=7"],
    );
    check(
        r#"{"jsonrpc":"2.0","id":7,"method":"resources/read","params":{"uri":["a"]}}"#,
        expect!["`params.uri` must be a string of whole characters id=7"],
    );
    check(
        r#"{"jsonrpc":"2.0","id":1.5,"method":"a"}"#,
        expect!["`id` must be a string of at most 256 bytes or an integer id=-"],
    );
    check(
        r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#,
        expect!["`id` must be a string of at most 256 bytes or an integer id=-"],
    );
    check(r#"{"id":1,"method":"a"}"#, expect![[r#"`jsonrpc` must be "2.0" id=1"#]]);
    check(r#"{"jsonrpc":"2.0","id":1,"method":5}"#, expect!["`method` must be a string id=1"]);
    check(
        r#"{"jsonrpc":"2.0","id":1,"method":"a","params":[1]}"#,
        expect!["`params` must be an object id=1"],
    );
    check(
        r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{}}"#,
        expect!["a response has an `id` and either `result` or `error` id=1"],
    );
    check(r#"{"a":[[[[[[[[[1]]]]]]]]]}"#, expect!["the body nests deeper than 8 levels id=-"]);
}

#[test]
fn brackets_in_strings_are_no_depth() {
    let body = format!(
        r#"{{"jsonrpc":"2.0","method":"m","params":{{"x":"{}\"{}"}}}}"#,
        "[".repeat(50),
        "{".repeat(50)
    );
    assert!(parse(body.as_bytes(), LIMITS).is_ok());
}

#[test]
fn splices_ids_and_rebuilds_the_contracts_form() {
    let body = br#"{"id" : 12, "method":"m","jsonrpc":"2.0"}"#;
    let message = parse(body, LIMITS).unwrap();
    let spliced = splice(body, message.id.unwrap(), "\"x\"");
    assert_eq!(spliced, br#"{"id" : "x", "method":"m","jsonrpc":"2.0"}"#);
    let rebuilt =
        rebuild_for_forwarding(br#"{"server_id":"s","method":"tools/list","params":{"a":1.0}}"#).unwrap();
    assert_eq!(
        String::from_utf8(rebuilt).unwrap(),
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"a":1.0}}"#
    );
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, LIMITS);
    }

    #[test]
    fn no_text_makes_it_panic(text in r#"[\[\]{}",:a-c0-2 \\]{0,80}"#) {
        let _ = parse(text.as_bytes(), LIMITS);
    }
}
