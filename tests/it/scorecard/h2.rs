//! S08 and B06 over HTTP/2: what becomes HTTP/1.1 behind the gateway, and floods of frames.
//! Not here: HTTP/1.1 in front (`smuggling`, `heads`).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Card;
use crate::frames::{
    CONTINUATION, Came, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, fields, frame, integer,
};
use crate::gateway::Gateway;
use crate::meter::Meter;
use crate::recorder::Recorder;
use crate::wire::once;

const CALL: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"n":"aNNN"}}}"#;
const SMUGGLED: &str = "GET /base/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// What is said of memory: this much more at most, whatever comes.
const GROWTH_KIB_MAX: u64 = 20 << 10;
/// How long an answer to a broken request may take: the deadline of bodies is shorter.
const SILENCE: Duration = Duration::from_secs(5);

fn gateway(recorder: &Recorder, limits: &str) -> Gateway {
    let catalog = json!({"servers": [
        {"id": "raw", "runtime": {"type": "raw-http", "url": recorder.url("/base/")}, "health": {"type": "off"}},
        {"id": "mcp", "runtime": {"type": "remote-http", "url": recorder.url("/mcp")}, "health": {"type": "off"}},
    ]});
    let conf = format!("h2c: true\nthreads: 1\ndrain: 5s\nlimits: {{body_timeout: 1s{limits}}}\n");
    Gateway::with(&catalog.to_string()).conf(&conf).start()
}

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// One request: its fields, the frames after them, and whether it may be taken.
struct Case {
    name: String,
    fields: Fields,
    /// `None`: the headers end the stream.
    body: Option<Vec<u8>>,
    trailers: Fields,
    /// Statuses besides refusals (4xx, reset, end) that may come.
    taken: bool,
}

fn field(name: &str, value: &str) -> (Vec<u8>, Vec<u8>) {
    (name.as_bytes().to_vec(), value.as_bytes().to_vec())
}

fn ordinary(door: &str) -> Fields {
    let mut all = vec![field(":method", "POST"), field(":scheme", "http"), field(":authority", "localhost")];
    all.push(field(":path", if door == "raw" { "/servers/raw/raw/x?n=aNNN" } else { "/servers/mcp/mcp" }));
    all.extend([
        field("content-type", "application/json"),
        field("accept", "application/json, text/event-stream"),
    ]);
    all
}

fn cases(door: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let whole = |name: String, fields: Fields, taken| Case {
        name,
        fields,
        body: Some(CALL.into()),
        trailers: Vec::new(),
        taken,
    };
    for (name, value) in [
        ("x-a", "a\r\nx-smuggled: 1"),
        ("x-a", "a\nx-smuggled: 1"),
        ("x-a", "a\rx-smuggled: 1"),
        ("x-a", "a\0b"),
        ("x-a", "a\r\n\r\nGET /base/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("x-a\r\nx-smuggled", "1"),
        ("x-a: 1\r\nx-smuggled", "1"),
        ("x-a\n", "1"),
        ("x a", "1"),
        ("x:a", "1"),
        ("X-A", "1"),
        ("", "1"),
        ("x\0a", "1"),
        ("x-a", "\u{7f}"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("connection", "close"),
        ("connection", "transfer-encoding"),
        ("keep-alive", "1"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        (":evil", "1"),
        (":status", "200"),
        (":protocol", "websocket"),
        (":path", "/second"),
        (":method", "GET"),
        (":authority", "evil"),
        (":scheme", "https"),
        ("host", "evil"),
        ("content-length", "1"),
        ("content-length", "99999"),
        ("content-length", "+5"),
        ("content-length", "1, 1"),
        ("content-length", "x"),
        ("content-length", ""),
        ("content-length", "18446744073709551617"),
    ] {
        let mut all = ordinary(door);
        all.push(field(name, value));
        cases.push(whole(format!("{name:?}: {value:?}"), all, false));
    }
    for (pseudo, values) in [
        (
            ":path",
            &[
                "/servers/raw/raw/x y",
                "/servers/raw/raw/x HTTP/1.1\r\nHost: localhost\r\n\r\nGET /base/smuggled",
                "/servers/raw/raw/x\r\nx-smuggled: 1",
                "/servers/raw/raw/x\t",
                "/servers/raw/raw/x\0",
                "",
                "x",
                "*",
                "http://evil/x",
                "//evil/x",
                "/servers/raw/raw/../../x",
            ][..],
        ),
        (
            ":method",
            &["GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET", "GE T", "G\r\nET", "", "CONNECT", "G(T"],
        ),
        (
            ":authority",
            &[
                "localhost\r\nx-smuggled: 1",
                "localhost evil",
                "evil",
                "evil@localhost",
                "localhost@evil",
                "localhost/evil",
                "",
                "localhost\0",
            ],
        ),
        (":scheme", &["http\r\nx-smuggled: 1", "", "http://evil/?"]),
    ] {
        for value in values {
            let mut all = ordinary(door);
            all.iter_mut()
                .filter(|(name, _)| name == pseudo.as_bytes())
                .for_each(|(_, known)| *known = value.as_bytes().to_vec());
            // What Pingora escapes or takes anew is forwarded in a form of its own.
            cases.push(whole(format!("{pseudo} {value:?}"), all, true));
        }
        let without: Fields =
            ordinary(door).into_iter().filter(|(name, _)| name != pseudo.as_bytes()).collect();
        cases.push(whole(format!("without {pseudo}"), without, pseudo == ":scheme"));
        let mut late = ordinary(door);
        let at = late.iter().position(|(name, _)| name == pseudo.as_bytes()).unwrap();
        let moved = late.remove(at);
        late.push(moved);
        cases.push(whole(format!("{pseudo} after other fields"), late, false));
    }
    for (length, sent) in [
        (5, CALL.len()),
        (CALL.len() - 1, CALL.len()),
        (CALL.len() + 1, CALL.len()),
        (0, CALL.len()),
        (CALL.len(), 0),
    ] {
        let mut all = ordinary(door);
        all.push(field("content-length", &length.to_string()));
        let body = [CALL.as_bytes(), SMUGGLED.as_bytes()].concat();
        cases.push(Case {
            name: format!("a length of {length} and {sent} bytes"),
            fields: all,
            body: Some(body[..sent].to_vec()),
            trailers: Vec::new(),
            taken: false,
        });
    }
    let mut two = ordinary(door);
    two.extend([
        field("content-length", &CALL.len().to_string()),
        field("content-length", &CALL.len().to_string()),
    ]);
    cases.push(whole("equal lengths twice".into(), two, false));
    let body = [CALL, "\r\n0\r\n\r\n", SMUGGLED].concat().into_bytes();
    cases.push(Case {
        name: "the end of chunks and a request in the body".into(),
        fields: ordinary(door),
        body: Some(body),
        trailers: Vec::new(),
        taken: true,
    });
    for (name, value) in [
        ("content-length", "5"),
        ("transfer-encoding", "chunked"),
        (":path", "/x"),
        ("x-a", "a\r\n\r\nGET /base/smuggled HTTP/1.1"),
        ("x-ok", "1"),
        ("host", "evil"),
    ] {
        cases.push(Case {
            name: format!("trailer {name}: {value:?}"),
            fields: ordinary(door),
            body: Some(CALL.into()),
            trailers: vec![field(name, value)],
            taken: true,
        });
    }
    cases.push(Case {
        name: "no body".into(),
        fields: ordinary(door),
        body: None,
        trailers: Vec::new(),
        taken: true,
    });
    cases.push(whole("an ordinary request".into(), ordinary(door), true));
    cases
}

fn numbered(all: &Fields, number: &str) -> Vec<u8> {
    let replaced: Fields = all
        .iter()
        .map(|(name, value)| {
            (name.clone(), String::from_utf8(value.clone()).unwrap().replace("NNN", number).into_bytes())
        })
        .collect();
    fields(&replaced.iter().map(|(name, value)| (&name[..], &value[..])).collect::<Vec<_>>())
}

fn send(address: SocketAddr, case: &Case, number: &str) -> Came {
    let mut frames = Frames::to(address, &[]);
    let ends = if case.body.is_none() { END_STREAM } else { 0 };
    frames.say(&frame(HEADERS, END_HEADERS | ends, 1, &numbered(&case.fields, number)));
    if let Some(body) = &case.body {
        let body = String::from_utf8(body.clone()).unwrap().replace("NNN", number);
        let ends = if case.trailers.is_empty() { END_STREAM } else { 0 };
        frames.say(&frame(DATA, ends, 1, body.as_bytes()));
        if !case.trailers.is_empty() {
            frames.say(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &numbered(&case.trailers, number)));
        }
    }
    frames.hear(1, SILENCE)
}

#[test]
fn s08_nothing_is_smuggled_from_http_2() {
    let mut card = Card::new("S08");
    let recorder = Recorder::start();
    let gateway = gateway(&recorder, "");
    let (mut refused, mut count) = (0, 0);
    for door in ["raw", "mcp"] {
        for case in cases(door) {
            let number = format!("{count:03}");
            count += 1;
            recorder.clear();
            let came = send(gateway.address(), &case, &number);
            let taken = matches!(came, Came::Status(200..=299));
            let victim =
                once(gateway.address(), "GET /servers/raw/raw/victim HTTP/1.1\r\nhost: localhost\r\n\r\n");
            let seen = recorder.requests();
            let mut complaints: Vec<String> = seen.iter().flat_map(|seen| seen.violations.clone()).collect();
            let whole =
                |what: &str| seen.iter().filter(|seen| seen.whole && seen.target.contains(what)).count();
            if victim.status != 200 || !victim.body.contains("victim") || whole("victim") != 1 {
                complaints.push(format!("the victim was answered {victim:?}"));
            }
            let others = seen.iter().filter(|seen| seen.whole).count() - whole("victim");
            let smuggled =
                whole("smuggled") > 0 || seen.iter().any(|seen| !seen.values("x-smuggled").is_empty());
            let ordinary = case.name == "an ordinary request" && !taken;
            // A length of nought ends the request with its head: what follows costs it its answer.
            let reset = case.name.starts_with("a length of 0 ") && matches!(came, Came::Reset(_));
            if others != usize::from(taken || reset && others == 1)
                || smuggled
                || (taken && !case.taken)
                || ordinary
                || matches!(came, Came::Nothing | Came::Status(500..))
            {
                complaints.push(format!("{came:?}, executed {others} times, smuggled: {smuggled}, {seen:?}"));
            }
            refused += usize::from(!taken);
            card.case(&format!("{door}: {}", case.name), &complaints);
        }
    }
    card.pass(&format!("requests of HTTP/2: {refused} refused, the others framed anew, 0 smuggled"));
}

/// The head of an ordinary request, for floods.
fn head() -> Vec<u8> {
    numbered(&ordinary("raw"), "000")
}

/// A flood: what is said first, what again and again, how often.
type Flood = (&'static str, fn() -> Vec<u8>, fn() -> Vec<u8>, usize);

const FLOODS: [Flood; 14] = [
    (
        "CONTINUATION",
        || frame(HEADERS, 0, 1, &head()),
        || frame(CONTINUATION, 0, 1, &fields(&[(b"x", &[b'y'; 8000])])),
        20_000,
    ),
    (
        "empty CONTINUATION",
        || frame(HEADERS, 0, 1, &head()),
        || frame(CONTINUATION, 0, 1, &[]).repeat(100),
        5_000,
    ),
    ("empty DATA", || frame(HEADERS, END_HEADERS, 1, &head()), || frame(DATA, 0, 1, &[]).repeat(100), 5_000),
    (
        "padded DATA of nothing",
        || frame(HEADERS, END_HEADERS, 1, &head()),
        || frame(DATA, 8, 1, &[&[255][..], &[0; 255]].concat()).repeat(10),
        5_000,
    ),
    ("SETTINGS", Vec::new, || frame(SETTINGS, 0, 0, &[]).repeat(100), 5_000),
    ("long SETTINGS", Vec::new, || frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100].repeat(2000)), 2_000),
    ("PING", Vec::new, || frame(PING, 0, 0, &[0; 8]).repeat(100), 5_000),
    ("PRIORITY", Vec::new, || frame(PRIORITY, 0, 99, &[0, 0, 0, 0, 1]).repeat(100), 5_000),
    ("unknown frames", Vec::new, || frame(0xfa, 0, 0, &[0; 100]).repeat(20), 5_000),
    ("WINDOW_UPDATE", Vec::new, || frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(100), 5_000),
    ("WINDOW_UPDATE of nought", Vec::new, || frame(WINDOW_UPDATE, 0, 0, &[0; 4]).repeat(100), 1_000),
    ("RST_STREAM of idle streams", Vec::new, || frame(RST_STREAM, 0, 9, &[0; 4]).repeat(100), 1_000),
    ("CONTINUATION without HEADERS", Vec::new, || frame(CONTINUATION, 0, 1, &[]).repeat(100), 1_000),
    (
        "a frame of 16 MiB",
        Vec::new,
        || [&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1][..], &[0; 8000]].concat(),
        2_000,
    ),
];

/// What a gateway goes on to do for others while it is attacked: nothing but its duty, in good time.
fn duty(card: &mut Card, name: &str, gateway: &Gateway, slowest: &mut Duration) {
    for _ in 0..10 {
        let asked = Instant::now();
        let heard = once(gateway.address(), "GET /servers/raw/raw/other HTTP/1.1\r\nhost: localhost\r\n\r\n");
        *slowest = (*slowest).max(asked.elapsed());
        card.check(&format!("another client during {name}"), heard.status == 200, &heard.status);
    }
}

#[test]
fn b06_floods_of_frames_cost_little_and_stop() {
    let mut card = Card::new("B06");
    let recorder = Recorder::start();
    let gateway = gateway(&recorder, "");
    let meter = Meter(gateway.pid());
    let mut slowest = Duration::ZERO;
    duty(&mut card, "nothing", &gateway, &mut slowest);
    let rise = meter.rise();
    let mut ended = 0;
    for (name, first, again, times) in FLOODS {
        let mut frames = Frames::to(gateway.address(), &[]);
        frames.say(&first());
        let sent = frames.flood(&again(), times);
        duty(&mut card, name, &gateway, &mut slowest);
        if !HARMLESS.contains(&name) {
            end(&mut card, name, frames, sent);
            ended += 1;
        }
    }
    for (name, open) in STREAMS {
        let mut frames = Frames::to(gateway.address(), &[]);
        let sent = (0..10_000).take_while(|n| frames.say(&open(n * 2 + 1))).count();
        duty(&mut card, name, &gateway, &mut slowest);
        end(&mut card, name, frames, sent);
        ended += 1;
    }
    hpack(&mut card, &gateway);
    duty(&mut card, "the end", &gateway, &mut slowest);
    let growth = rise.kib();
    card.check("memory", growth <= GROWTH_KIB_MAX, &growth);
    card.check("the slowest answer to another client", slowest < Duration::from_secs(5), &slowest);
    card.pass(&format!("checks of 19 floods, {ended} ended by GOAWAY: memory + {growth} KiB, slowest answer to others {slowest:?}"));
}

/// Floods that cost as little to take as to send, and are taken.
const HARMLESS: [&str; 6] =
    ["SETTINGS", "long SETTINGS", "PING", "PRIORITY", "unknown frames", "WINDOW_UPDATE"];

fn end(card: &mut Card, name: &str, mut frames: Frames, sent: usize) {
    let came = frames.hear(u32::MAX, SILENCE);
    card.check(&format!("{name} is ended"), matches!(came, Came::GoAway(_) | Came::Closed), &(came, sent));
}

/// What is said for the stream of that number.
type Opening = (&'static str, fn(u32) -> Vec<u8>);

/// Ways to open stream after stream.
const STREAMS: [Opening; 5] = [
    ("10,000 open streams", |id| frame(HEADERS, END_HEADERS, id, &head())),
    ("10,000 requests unread", |id| frame(HEADERS, END_HEADERS | END_STREAM, id, &head())),
    ("rapid reset", |id| {
        [frame(HEADERS, END_HEADERS | END_STREAM, id, &head()), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])]
            .concat()
    }),
    ("made to reset by WINDOW_UPDATE", |id| {
        [frame(HEADERS, END_HEADERS, id, &head()), frame(WINDOW_UPDATE, 0, id, &[0; 4])].concat()
    }),
    ("made to reset by DATA after the end", |id| {
        [frame(HEADERS, END_HEADERS | END_STREAM, id, &head()), frame(DATA, 0, id, b"x")].concat()
    }),
];

/// A large field that is said once and then named thousands of times in one byte each.
fn hpack(card: &mut Card, gateway: &Gateway) {
    let mut frames = Frames::to(gateway.address(), &[]);
    let mut block = head();
    block.push(0x40);
    for text in [&b"x-bomb"[..], &[b'y'; 4000]] {
        integer(&mut block, 7, 0, text.len());
        block.extend_from_slice(text);
    }
    // Index 62 is the newest entry of the dynamic table.
    let named = vec![0x80 | 62; 15_000];
    frames.say(&frame(HEADERS, 0, 1, &block));
    frames.say(&frame(CONTINUATION, END_HEADERS, 1, &named));
    let came = frames.hear(1, SILENCE);
    let refused = matches!(came, Came::Status(400..=499) | Came::Reset(_) | Came::GoAway(_) | Came::Closed);
    card.check("60 MB of fields in 19 KB", refused, &came);
}

/// The positive control: with as many streams as one likes, memory grows beyond the line.
#[test]
fn b06_without_a_limit_streams_take_memory() {
    let recorder = Recorder::start();
    let gateway = gateway(&recorder, ", h2_streams: 100000, in_flight: 100000");
    let meter = Meter(gateway.pid());
    let rise = meter.rise();
    let mut frames = Frames::to(gateway.address(), &[]);
    for n in 0..10_000 {
        frames.say(&frame(HEADERS, END_HEADERS, n * 2 + 1, &head()));
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while rise.kib() <= GROWTH_KIB_MAX {
        assert!(Instant::now() < deadline, "{} KiB", rise.kib());
        std::thread::yield_now();
    }
}
