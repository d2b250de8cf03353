//! Tests of sifted streams: whatever the pieces, what may not be seen is not in them.
//! Not here: how one list is cut (`mcp`).

use std::convert::Infallible;

use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use proptest::prelude::*;

use super::*;
use crate::auth::{CallerKind, Rulebook};
use crate::conf::Grant;

/// Sees tools that begin with `k`.
fn sift(method: Method, era: Era) -> Option<Arc<Sift>> {
    let text = "servers: [{id: s, runtime: {type: remote-http, url: http://a/}}]\nrules: [{allow: [list, call], tools: ['k*']}]";
    let snapshot = crate::catalog::parse(text, "c", std::path::Path::new("/"), 1, &|_| None).unwrap();
    let policy = Rulebook::new(&snapshot.rules).on(&snapshot.servers[0]);
    let grant = Grant { servers: vec!["*".into()], ..Grant::default() };
    Sift::of(&policy, &Caller::new(CallerKind::ApiKey, None, "a", &grant), method, era)
}

fn sifted(pieces: &[&[u8]]) -> String {
    let frames: Vec<Result<Frame<Bytes>, Infallible>> =
        pieces.iter().map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
    let body = StreamBody::new(stream::iter(frames));
    let events = sift(Method::ToolsList, Era::Legacy).unwrap().events(body, 4096, Some(Id::number(7)));
    let collected = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(events.collect());
    String::from_utf8(collected.unwrap().to_bytes().to_vec()).unwrap()
}

const STREAM: &str = ": hi\n\nid: 1\ndata:\n\nevent: message\r\ndata: {\"method\":\"notifications/message\"}\r\n\r\nid: 2\nevent: message\ndata: {\"id\":7,\ndata: \"result\":{\"tools\":[{\"name\":\"secret\"},{\"name\":\"k\"}]}}\nretry: 5\n\n";
const SIFTED: &str = ": hi\n\nid: 1\ndata:\n\nevent: message\r\ndata: {\"method\":\"notifications/message\"}\r\n\r\nid: 2\nevent: message\nretry: 5\ndata: {\"id\":7,\ndata: \"result\":{\"tools\":[{\"name\":\"k\"}]}}\n\n";

#[test]
fn the_list_of_a_stream_is_cut_and_the_rest_passes() {
    assert_eq!(sifted(&[STREAM.as_bytes()]), SIFTED);
}

#[test]
fn an_event_without_an_end_is_sifted_as_well() {
    let unended = "data: {\"id\":7,\"result\":{\"tools\":[{\"name\":\"secret\"}]}}";
    assert_eq!(sifted(&[unended.as_bytes()]), "data: {\"id\":7,\"result\":{\"tools\":[]}}\n\n");
}

#[test]
fn an_unreadable_list_becomes_an_error_and_ends_the_stream() {
    let long = format!(
        "data: {{\"id\":7,\"result\":{{\"tools\":[{{\"name\":\"secret{}\"}}]}}}}\n\n",
        "x".repeat(5000)
    );
    for bad in
        ["data: {\"id\":7,\"result\":{\"tools\":[{\"label\":\"secret\"}]}}\n\n", "data: secret\n\n", &long]
    {
        let told = sifted(&[bad.as_bytes(), STREAM.as_bytes()]);
        assert!(told.contains("\"id\":7,\"error\"") && told.contains("upstream_content"), "{told}");
        assert!(!told.contains("secret") && !told.contains("\"k\""), "{told}");
    }
}

#[test]
fn what_is_sifted() {
    assert!(sift(Method::ToolsCall, Era::Legacy).is_none());
    assert!(sift(Method::PromptsList, Era::Modern).is_some_and(|sift| sift.owed && sift.private));
    assert!(sift(Method::Stream, Era::Legacy).is_some_and(|sift| !sift.owed && !sift.private));
    let replayed = sift(Method::Stream, Era::Legacy).unwrap();
    let message = Bytes::from_static(br#"{"id":1,"result":{"content":[]}}"#);
    assert_eq!(replayed.message(message.clone()), Ok(message));
}

proptest! {
    #[test]
    fn the_pieces_do_not_matter(cuts in proptest::collection::vec(0usize..STREAM.len(), 0..8), returns: bool) {
        let text = if returns { STREAM.replace("\r\n", "\n").replace('\n', "\r") } else { STREAM.to_owned() };
        let mut cuts = cuts.into_iter().filter(|cut| *cut < text.len()).collect::<Vec<_>>();
        cuts.sort_unstable();
        let (mut pieces, mut from) = (Vec::new(), 0);
        for cut in cuts {
            pieces.push(&text.as_bytes()[from..cut]);
            from = cut;
        }
        pieces.push(&text.as_bytes()[from..]);
        let whole = sifted(&[text.as_bytes()]);
        prop_assert!(!whole.contains("secret") && whole.contains("\"k\""));
        prop_assert_eq!(sifted(&pieces), whole);
    }
}
