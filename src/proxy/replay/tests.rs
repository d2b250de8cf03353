//! What is kept of a stream, and who gets it.
//! Not here: whole exchanges (black-box tests).

use http_body_util::BodyExt as _;

use super::*;

fn owner(caller: u128, session: &str) -> Owner {
    Owner { caller, server: "it".into(), session: Some(session.into()) }
}

fn ids(text: &Bytes) -> Vec<String> {
    let text = String::from_utf8_lossy(text).into_owned();
    text.lines().filter_map(|line| line.strip_prefix("id: ")).map(str::to_owned).collect()
}

async fn all(stream: Stream) -> String {
    String::from_utf8_lossy(&stream.rest.collect().await.unwrap().to_bytes()).into_owned()
}

#[tokio::test]
async fn what_follows_an_id_is_had_again_by_its_owner_alone() {
    let replays = Replays::new(Resume::Memory);
    let mut recording = replays.begin(&owner(1, "s")).unwrap();
    let first = recording.take(&Bytes::from_static(b"data: a\n\ndata: b"));
    let ids_so_far = ids(&first);
    assert_eq!(ids_so_far.len(), 2, "an id to begin with, and one of the event: {first:?}");
    let second = recording.take(&Bytes::from_static(b"\n\n: hi\n\n"));
    assert!(second.ends_with(b"data: b\n\n: hi\n\n"), "{second:?}");
    for stranger in [owner(2, "s"), owner(1, "other"), Owner { server: "x".into(), ..owner(1, "s") }] {
        assert!(replays.after(&ids_so_far[0], &stranger).unwrap().is_none(), "{stranger:?}");
    }
    assert!(replays.after("tollgate-AAAAAAAAAAAAAAAAAAAAAA.0", &owner(1, "s")).unwrap().is_none());
    assert!(replays.after("a-servers-own", &owner(1, "s")).is_none(), "not ours to judge");
    let resumed = replays.after(&ids_so_far[1], &owner(1, "s")).unwrap().unwrap();
    assert!(recording.is_taken());
    recording.take(&Bytes::from_static(b"data: c\n\n"));
    drop(recording);
    let text = all(resumed).await;
    assert!(
        !text.contains("data: a") && text.contains("data: b\n\n") && text.contains("data: c\n\n"),
        "{text}"
    );
    let whole = all(replays.after(&ids_so_far[0], &owner(1, "s")).unwrap().unwrap()).await;
    assert_eq!(whole.matches("data: ").count(), 3, "{whole}");
    replays.forget(&owner(1, "s"));
    assert!(replays.after(&ids_so_far[0], &owner(1, "s")).unwrap().is_none());
}

#[test]
fn a_servers_own_ids_pass_untouched() {
    let replays = Replays::new(Resume::Memory);
    let mut recording = replays.begin(&owner(1, "s")).unwrap();
    let text = Bytes::from_static(b"id: 1\ndata: \n\nid: 2\r\ndata: x\r\n\r\nda");
    assert_eq!(recording.take(&text), text);
    assert!(!recording.is_resumable());
    assert_eq!(recording.take(&Bytes::from_static(b"ta: y\n\n")), "ta: y\n\n");
}

#[tokio::test]
async fn what_is_kept_is_bounded() {
    let replays = Replays::new(Resume::Memory);
    let mut recording = replays.begin(&owner(1, "s")).unwrap();
    let begin = ids(&recording.prime())[0].clone();
    for at in 0..1000 {
        recording.take(&format!("data: {at}\n\n").into());
    }
    drop(recording);
    let text = all(replays.after(&begin, &owner(1, "s")).unwrap().unwrap()).await;
    assert_eq!(text.matches("data: ").count(), EVENTS_MAX);
    assert!(text.contains("data: 999\n"), "the last are kept");
    let mut recording = replays.begin(&owner(1, "s")).unwrap();
    for _ in 0..20 {
        recording.take(&format!("data: {}\n\n", "x".repeat(100_000)).into());
    }
    assert!(replays.bytes.load(Ordering::Relaxed) <= 2 * BYTES_MAX, "two streams");
    let long = Bytes::from(format!("data: {}", "x".repeat(2 * BYTES_MAX)));
    assert_eq!(recording.take(&long), long, "what is too long is not held back");
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_is_forgotten_after_a_while() {
    let replays = Replays::new(Resume::Memory);
    let mut recording = replays.begin(&owner(1, "s")).unwrap();
    let begin = ids(&recording.prime())[0].clone();
    drop(recording);
    tokio::time::advance(KEPT - Duration::from_secs(1)).await;
    assert!(replays.after(&begin, &owner(1, "s")).unwrap().is_some());
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(replays.after(&begin, &owner(1, "s")).unwrap().is_none());
    assert!(Replays::new(Resume::Off).begin(&owner(1, "s")).is_none());
}
