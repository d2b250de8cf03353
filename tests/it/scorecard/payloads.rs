//! What is sent to smuggle a request: nearly every way in which two programs disagree about where one ends.
//! Not here: who sends it and what has to come of it (`smuggling`).
//!
//! In every text `NNN` stands for the number of the payload. Its request says `aNNN`, and what it tries to smuggle says
//! `sNNN`: nobody may ever execute that.

/// What has to come of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Nothing is executed.
    Refused,
    /// It is executed once: a request that only looks strange.
    Once,
    /// It may be executed, but not twice, and what is forwarded is framed anew.
    AtMostOnce,
    /// The same, and the connection ends with the answer.
    AtMostOnceAndClosed,
}

/// One payload.
#[derive(Debug, Clone)]
pub(crate) struct Payload {
    pub(crate) family: &'static str,
    pub(crate) name: String,
    pub(crate) expect: Expect,
    pub(crate) text: String,
}

/// The way in which a front is asked for something that leaves a trace.
#[derive(Debug, Clone)]
pub(crate) struct Front {
    pub(crate) name: &'static str,
    /// `POST` and the path; `NNN` in it as above.
    pub(crate) target: &'static str,
    /// Headers besides `Host`, each with its line end; the credential apart.
    pub(crate) headers: &'static str,
    pub(crate) credential: String,
    /// A method that is taken without a body.
    pub(crate) bodiless: &'static str,
    /// The body; a letter and `NNN` say who sends it.
    pub(crate) body: &'static str,
}

impl Front {
    /// The first line and headers, without the empty line. `who` is the letter of the sender.
    pub(crate) fn head(&self, who: char) -> String {
        self.head_as("POST", who, "HTTP/1.1")
    }

    fn head_as(&self, method: &str, who: char, version: &str) -> String {
        let target = self.target.replace('@', &who.to_string());
        let Self { headers, credential, .. } = self;
        format!("{method} {target} {version}\r\nhost: localhost\r\n{credential}{headers}")
    }

    pub(crate) fn body(&self, who: char) -> String {
        self.body.replace('@', &who.to_string())
    }

    /// An ordinary request.
    pub(crate) fn request(&self, who: char) -> String {
        let body = self.body(who);
        format!("{}content-length: {}\r\n\r\n{body}", self.head(who), body.len())
    }

    fn chunked(&self) -> String {
        let body = self.body('a');
        format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
    }
}

/// All payloads for a front.
pub(crate) fn all(front: &Front) -> Vec<Payload> {
    let mut payloads = Vec::new();
    let mut family = |family, made: Vec<(String, Expect, String)>| {
        payloads.extend(made.into_iter().map(|(name, expect, text)| Payload { family, name, expect, text }));
    };
    family("both lengths", both_lengths(front));
    family("Transfer-Encoding", encodings(front));
    family("Content-Length", lengths(front));
    family("chunks", chunks(front));
    family("versions", versions(front));
    family("Upgrade", upgrades(front));
    family("heads", heads(front));
    family("hosts", hosts(front));
    family("early answers", early(front));
    payloads
}

type Made = Vec<(String, Expect, String)>;

fn both_lengths(front: &Front) -> Made {
    let (chunked, smuggled, head) = (front.chunked(), front.request('s'), front.head('a'));
    let te = "transfer-encoding: chunked\r\n";
    let closed = Expect::AtMostOnceAndClosed;
    let mut made = Made::new();
    let whole = chunked.len() + smuggled.len();
    for (name, length) in [
        ("CL.TE: the length covers the smuggled request", whole),
        ("CL.TE: the length covers the chunks", chunked.len()),
        ("TE.CL: the length ends in the first size line", 2),
        ("TE.CL: the length is nought", 0),
        ("TE.CL: the length ends with the first chunk", front.body('a').len() + 4),
    ] {
        let cl = format!("content-length: {length}\r\n");
        made.push((
            format!("{name}, length first"),
            closed,
            format!("{head}{cl}{te}\r\n{chunked}{smuggled}"),
        ));
        made.push((
            format!("{name}, chunked first"),
            closed,
            format!("{head}{te}{cl}\r\n{chunked}{smuggled}"),
        ));
    }
    // What a reader of lengths takes for a request of its own stands in a chunk.
    let hidden = format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    made.push((
        "TE.CL: a request in a chunk".into(),
        closed,
        format!("{head}content-length: 4\r\n{te}\r\n{hidden}"),
    ));
    let empty = format!("{head}content-length: {}\r\n{te}\r\n0\r\n\r\n{smuggled}", 5 + smuggled.len());
    made.push(("CL.TE: the classic".into(), closed, empty));
    made
}

fn encodings(front: &Front) -> Made {
    use Expect::{AtMostOnce, Refused};
    let (smuggled, head) = (front.request('s'), front.head('a'));
    let body = format!("{}{smuggled}", front.chunked());
    let length = body.len();
    let mut made = Made::new();
    for (line, expect) in [
        ("Transfer-Encoding: xchunked", Refused),
        ("Transfer-Encoding: chunked, identity", Refused),
        ("Transfer-Encoding: identity, chunked", Refused),
        ("Transfer-Encoding: identity", Refused),
        ("Transfer-Encoding: gzip, chunked", Refused),
        ("Transfer-Encoding: chunked, gzip", Refused),
        ("Transfer-Encoding: chunked, chunked", Refused),
        ("Transfer-Encoding: cow, chunked", Refused),
        ("Transfer-Encoding: \"chunked\"", Refused),
        ("Transfer-Encoding: chunked;q=1", Refused),
        ("Transfer-Encoding: chu\tnked", Refused),
        ("Transfer-Encoding:\u{b}chunked", Refused),
        ("Transfer-Encoding:\u{c}chunked", Refused),
        ("Transfer-Encoding: chunked\u{b}", Refused),
        ("Transfer-Encoding: \0chunked", Refused),
        ("Transfer-Encoding: chunked\0", Refused),
        ("Transfer-Encoding:\r\n chunked", Refused),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", Refused),
        ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", Refused),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Refused),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: x", Refused),
        ("Transfer-Encoding : chunked", Refused),
        ("Transfer-Encoding\t: chunked", Refused),
        (" Transfer-Encoding: chunked", Refused),
        ("Transfer-Encoding\0: chunked", Refused),
        ("\rTransfer-Encoding: chunked", Refused),
        ("X: x\rTransfer-Encoding: chunked", Refused),
        ("Transfer-Encoding chunked", Refused),
        ("Transfer-Encoding:", Refused),
        ("Transfer-Encoding: ,", Refused),
        // Nothing but other spellings of the same: one framing wins, and only that is forwarded.
        ("Transfer-Encoding: CHUNKED", AtMostOnce),
        ("tRANSFER-eNCODING:\tchunked \t", AtMostOnce),
        ("Transfer-Encoding: chunked,", AtMostOnce),
        ("Transfer-Encoding: , chunked", AtMostOnce),
        ("X: x\nTransfer-Encoding: chunked", AtMostOnce),
        ("Transfer_Encoding: chunked", AtMostOnce),
        ("X-Transfer-Encoding: chunked", AtMostOnce),
    ] {
        let text = format!("{head}content-length: {length}\r\n{line}\r\n\r\n{body}");
        made.push((format!("{line:?}"), expect, text));
    }
    made
}

fn lengths(front: &Front) -> Made {
    use Expect::{AtMostOnce, Once, Refused};
    let (smuggled, head, body) = (front.request('s'), front.head('a'), front.body('a'));
    let (short, long) = (body.len(), body.len() + smuggled.len());
    let mut made = Made::new();
    let mut value = |value: String, expect| {
        let text = format!("{head}Content-Length: {value}\r\n\r\n{body}{smuggled}");
        made.push((format!("Content-Length: {value:?}"), expect, text));
    };
    for text in [
        format!("+{short}"),
        format!("-{short}"),
        format!("0x{short:x}"),
        format!("{short}.0"),
        format!("{short};"),
        format!("{short}_0"),
        format!("{short} {long}"),
        format!("{short},{long}"),
        format!("{long}, {short}"),
        format!("\"{short}\""),
        format!("{short}\0"),
        format!("\u{b}{short}"),
        format!("{short}e0"),
        "".into(),
        "one".into(),
        "18446744073709551616".into(),
        format!("1844674407370955161{short}"),
        format!("{short}\r\nContent-Length: {long}"),
        format!("{long}\r\nContent-Length: {short}"),
        format!("{short}\r\nContent-Length: +{short}"),
        format!("\r\n {short}"),
        "\u{661}\u{662}".into(),
        "NaN".into(),
        format!("{short}\r\nContent-Length:"),
        format!("{short}\r\nX: x\nContent-Length: {short}"),
        format!("{short}, {short}"),
        format!("{short}\r\nContent-Length: {short}"),
    ] {
        value(text, Refused);
    }
    for text in [
        format!("{short}"),
        format!("000{short}"),
        format!(" \t{short}\t "),
        format!("{short}\r\nContent_Length: {long}"),
    ] {
        value(text, AtMostOnce);
    }
    for line in [
        "Content-Length :",
        "Content-Length\t:",
        " Content-Length:",
        "\rContent-Length:",
        "Content-Length\0:",
    ] {
        let text = format!("{head}{line} {short}\r\n\r\n{body}{smuggled}");
        made.push((format!("{line:?}"), Refused, text));
    }
    made.push(("an ordinary request".into(), Once, front.request('a')));
    made
}

fn chunks(front: &Front) -> Made {
    use Expect::{AtMostOnce, Once, Refused};
    let (smuggled, body) = (front.request('s'), front.body('a'));
    let head = format!("{}transfer-encoding: chunked\r\n\r\n", front.head('a'));
    let size = format!("{:x}", body.len());
    let (end, mut made) = ("0\r\n\r\n", Made::new());
    let mut add =
        |name: &str, expect, chunks: String| made.push((name.to_owned(), expect, format!("{head}{chunks}")));
    add("an ordinary chunk", Once, format!("{size}\r\n{body}\r\n{end}"));
    for line in [
        format!("0x{size}"),
        format!("0X{size}"),
        format!("+{size}"),
        format!("-{size}"),
        format!("0_{size}"),
        format!("{size}_"),
        format!("{size}h"),
        format!("{size} {size}"),
        format!("{size}\0"),
        format!("\u{b}{size}"),
        "zz".into(),
        format!("{size},0"),
        format!("fffffffffffffff{size}"),
        format!("10000000000000000{size}"),
        format!("8000000000000000{size}"),
        "ffffffffffffffff".into(),
        format!("{size}.0"),
        format!("\"{size}\""),
    ] {
        add(&format!("size {line:?}"), Refused, format!("{line}\r\n{body}\r\n{end}{smuggled}"));
    }
    for line in [
        format!("{size};a=b"),
        format!("{size};a=\"x;y\""),
        format!("00{size}"),
        format!("{size} "),
        format!("{size}\t;x"),
        format!(" {size}"),
        format!("{size};a\nb"),
        format!("{size};a\rb"),
        format!("{size};{}", "a".repeat(70_000)),
        format!("{}{size}", "0".repeat(3000)),
        format!("{size};\0"),
        size.to_uppercase(),
        // Taken for the end of the body, and the connection ends.
        "".into(),
        " ".into(),
        ";".into(),
    ] {
        let brief: String = line.chars().take(20).collect();
        add(&format!("size {brief:?}"), AtMostOnce, format!("{line}\r\n{body}\r\n{end}{smuggled}"));
    }
    add("bare line feeds", AtMostOnce, format!("{size}\n{body}\n0\n\n{smuggled}"));
    add("a bare line feed after a size", AtMostOnce, format!("{size}\n{body}\r\n{end}{smuggled}"));
    add("a bare CR after a size", AtMostOnce, format!("{size}\r{body}\r\n{end}{smuggled}"));
    add("no end of line after a chunk", Refused, format!("{size}\r\n{body}{end}{smuggled}"));
    add("two bytes too many in a chunk", Refused, format!("{size}\r\n{body}XX{end}{smuggled}"));
    add("other bytes for the end of line", AtMostOnce, format!("{size}\r\n{body}XX0\r\n\r\n{smuggled}"));
    add("a size that is too small", Refused, format!("1\r\n{body}\r\n{end}{smuggled}"));
    add("a size that swallows what follows", Refused, format!("{:x}\r\n{body}\r\n{end}", body.len() + 2));
    add("several noughts at the end", AtMostOnce, format!("{size}\r\n{body}\r\n0000\r\n\r\n{smuggled}"));
    add("an end with bare line feeds", AtMostOnce, format!("{size}\r\n{body}\r\n0\n\n{smuggled}"));
    add("an end with an extension", AtMostOnce, format!("{size}\r\n{body}\r\n0;x=\"\r\n\r\n{smuggled}"));
    for trailer in [
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Host: evil",
        "X-Api-Key: x",
        "x : y",
        "x",
        " x: y",
        "\0: y",
    ] {
        add(
            &format!("trailer {trailer:?}"),
            AtMostOnce,
            format!("{size}\r\n{body}\r\n0\r\n{trailer}\r\n\r\n{smuggled}"),
        );
    }
    add("no end", Refused, format!("{size}\r\n{body}\r\n"));
    made
}

fn versions(front: &Front) -> Made {
    use Expect::{AtMostOnce, AtMostOnceAndClosed, Refused};
    let (smuggled, body, chunked) = (front.request('s'), front.body('a'), front.chunked());
    let measured = format!("content-length: {}\r\n\r\n{body}{smuggled}", body.len());
    let te = format!("transfer-encoding: chunked\r\n\r\n{chunked}{smuggled}");
    let mut made = Made::new();
    for (version, rest, expect) in [
        ("HTTP/1.0", te.clone(), AtMostOnceAndClosed),
        ("HTTP/1.0", format!("connection: keep-alive\r\n{te}"), AtMostOnceAndClosed),
        ("HTTP/1.0", format!("content-length: 5\r\n{te}"), AtMostOnceAndClosed),
        ("HTTP/1.0", measured.clone(), AtMostOnceAndClosed),
        ("HTTP/1.0", format!("connection: keep-alive\r\n{measured}"), AtMostOnce),
        ("HTTP/1.2", measured.clone(), AtMostOnce),
        ("HTTP/1.10", measured.clone(), Refused),
        ("HTTP/2.0", measured.clone(), Refused),
        ("HTTP/0.9", measured.clone(), Refused),
        ("HTTP/11", measured.clone(), Refused),
        ("http/1.1", measured.clone(), Refused),
        ("HTTP/1.1\0", measured.clone(), Refused),
        ("HTTP/1.1 HTTP/1.1", measured.clone(), Refused),
        ("", measured.clone(), Refused),
    ] {
        let kind = if rest.contains("chunked") { "chunked" } else { "measured" };
        let keep = if rest.starts_with("connection") { ", kept alive" } else { "" };
        let text = format!("{}{rest}", front.head_as("POST", 'a', version));
        made.push((format!("{version:?} {kind}{keep} {}", made.len()), expect, text));
    }
    let path = front.target.replace('@', "a");
    made.push(("HTTP/0.9: one line".into(), Refused, format!("GET {path}\r\n\r\n{smuggled}")));
    made.push(("HTTP/0.9: one line with spaces".into(), Refused, format!("GET {path} \r\n\r\n{smuggled}")));
    made.push((
        "the preface of HTTP/2".into(),
        Refused,
        format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{smuggled}"),
    ));
    made
}

fn upgrades(front: &Front) -> Made {
    use Expect::{AtMostOnce, Refused};
    let (smuggled, body, head) = (front.request('s'), front.body('a'), front.head('a'));
    let cl = format!("content-length: {}\r\n\r\n{body}", body.len());
    let mut made = Made::new();
    for (name, headers) in [
        (
            "websocket",
            "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        ),
        (
            "h2c",
            "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
        ),
        ("foo", "connection: upgrade\r\nupgrade: foo\r\n"),
        ("TLS/1.0", "connection: upgrade\r\nupgrade: TLS/1.0\r\n"),
        ("nothing", "connection: upgrade\r\nupgrade:\r\n"),
        ("without Connection", "upgrade: websocket\r\n"),
    ] {
        made.push((format!("{name}, with a body"), AtMostOnce, format!("{head}{headers}{cl}{smuggled}")));
        let get = front.head_as(front.bodiless, 'a', "HTTP/1.1");
        made.push((format!("{name}, without a body"), AtMostOnce, format!("{get}{headers}\r\n{smuggled}")));
    }
    let connect = head.replacen("POST", "CONNECT", 1);
    made.push(("CONNECT".into(), Refused, format!("{connect}\r\n{smuggled}")));
    let authority = format!("CONNECT localhost:80 HTTP/1.1\r\nhost: localhost:80\r\n\r\n{smuggled}");
    made.push(("CONNECT to an authority".into(), Refused, authority));
    made
}

fn heads(front: &Front) -> Made {
    use Expect::{AtMostOnce, Refused};
    let (smuggled, body, head) = (front.request('s'), front.body('a'), front.head('a'));
    let cl = format!("content-length: {}\r\n\r\n{body}{smuggled}", body.len());
    let mut made = Made::new();
    for (line, expect) in [
        ("x: a\r\n b", Refused),
        ("x: a\r\n\tb: c", Refused),
        ("x : a", Refused),
        (": a", Refused),
        ("x", Refused),
        ("x y: a", Refused),
        ("x: a\0b", Refused),
        ("x\0: a", Refused),
        ("x: a\rb", Refused),
        ("x: a\r\r", Refused),
        ("x\u{e9}: a", Refused),
        ("x(y): a", Refused),
        ("x: \u{7f}", Refused),
        ("x: \u{1}", Refused),
        ("x: a\ny: b", AtMostOnce),
        ("x: \u{e9}", AtMostOnce),
        ("x:", AtMostOnce),
    ] {
        made.push((format!("header {line:?}"), expect, format!("{head}{line}\r\n{cl}")));
    }
    let path = front.target.replace('@', "a");
    let rest = head.split_once("\r\n").map_or("", |(_, rest)| rest);
    for (line, expect) in [
        (format!("POST {path} x HTTP/1.1"), AtMostOnce),
        (format!("POST  {path} HTTP/1.1"), Refused),
        (format!("POST\t{path}\tHTTP/1.1"), Refused),
        (format!(" POST {path} HTTP/1.1"), Refused),
        (format!("PO ST {path} HTTP/1.1"), Refused),
        (format!("PO,ST {path} HTTP/1.1"), Refused),
        (format!("POST {path}\0 HTTP/1.1"), AtMostOnce),
        (format!("POST {path}\u{1} HTTP/1.1"), AtMostOnce),
        (format!("POST {path}\rHTTP/1.1 HTTP/1.1"), AtMostOnce),
        ("POST * HTTP/1.1".into(), Refused),
        ("POST HTTP/1.1".into(), Refused),
        ("garbage".into(), Refused),
        (format!("\0POST {path} HTTP/1.1"), Refused),
        (format!("POST {path}#x HTTP/1.1"), AtMostOnce),
        (format!("\r\nPOST {path} HTTP/1.1"), AtMostOnce),
        (format!("\nPOST {path} HTTP/1.1"), AtMostOnce),
    ] {
        made.push((format!("first line {line:?}"), expect, format!("{line}\r\n{rest}{cl}")));
    }
    let bare = format!("{head}{cl}").replacen("\r\n\r\n", "\n\n", 1);
    let bare = bare.replacen("\r\n", "\n", 5);
    made.push(("bare line feeds".into(), AtMostOnce, bare));
    let returns = format!("{head}\r\n").replace("\r\n", "\r");
    made.push(("bare carriage returns".into(), Refused, format!("{returns}{smuggled}")));
    made
}

fn hosts(front: &Front) -> Made {
    use Expect::{AtMostOnce, Refused};
    let (smuggled, body, head) = (front.request('s'), front.body('a'), front.head('a'));
    let cl = format!("content-length: {}\r\n\r\n{body}{smuggled}", body.len());
    let path = front.target.replace('@', "a");
    let mut made = Made::new();
    for (lines, expect) in [
        ("", Refused),
        ("host: localhost\r\nhost: localhost\r\n", Refused),
        ("host: localhost\r\nHost: evil\r\n", Refused),
        ("host: evil\r\n", Refused),
        ("host:\r\n", Refused),
        ("host: localhost, evil\r\n", Refused),
        ("host: localhost evil\r\n", Refused),
        ("host: evil@localhost\r\n", Refused),
        ("host: localhost@evil\r\n", Refused),
        ("host: localhost/evil\r\n", Refused),
        ("host: localhost:80:80\r\n", Refused),
        ("host: localhost\\evil\r\n", Refused),
        ("host: localhost\0.evil\r\n", Refused),
        ("host: localhost\tevil\r\n", Refused),
        (" host: localhost\r\n", Refused),
        ("host : localhost\r\n", Refused),
        ("host: localhost\r\n evil\r\n", Refused),
        ("host: LOCALHOST:4444\r\n", AtMostOnce),
    ] {
        let text = format!("{}{cl}", head.replacen("host: localhost\r\n", lines, 1));
        made.push((format!("{lines:?}"), expect, text));
    }
    for (authority, expect) in [
        ("http://evil", Refused),
        ("http://localhost@evil", Refused),
        ("http://evil@localhost", Refused),
        ("//evil", Refused),
        ("http:/", Refused),
        ("http://localhost", AtMostOnce),
        ("https://localhost", AtMostOnce),
    ] {
        let text = format!("{}{cl}", head.replacen(&path, &format!("{authority}{path}"), 1));
        made.push((format!("absolute form {authority:?}"), expect, text));
    }
    made
}

/// Refusals before the body was read: what it holds must not become a request.
fn early(front: &Front) -> Made {
    use Expect::Refused;
    let (smuggled, head) = (front.request('s'), front.head('a'));
    let stranger = head.replacen(&front.credential, "", 1);
    let measured = format!("content-length: {}\r\n\r\n{smuggled}", smuggled.len());
    let chunked =
        format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    let mut made = Made::new();
    let mut add = |name: &str, text: String| made.push((name.to_owned(), Refused, text));
    add("401 to a POST", format!("{stranger}{measured}"));
    add("401 to a POST in chunks", format!("{stranger}{chunked}"));
    add("401 to a GET with a body", format!("{}{measured}", stranger.replacen("POST", "GET", 1)));
    add("401 to one who waits for 100", format!("{stranger}expect: 100-continue\r\n{measured}"));
    add(
        "401 and both lengths",
        format!("{stranger}transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n{smuggled}"),
    );
    let nowhere = head.replacen(front.target.replace('@', "a").as_str(), "/nowhere", 1);
    add("404", format!("{nowhere}{measured}"));
    add("404 in chunks", format!("{nowhere}{chunked}"));
    add("403 for its Origin", format!("{head}origin: http://evil.example\r\n{measured}"));
    add(
        "403 for its Host",
        format!("{}{measured}", head.replacen("host: localhost", "host: evil.example", 1)),
    );
    add(
        "414",
        format!(
            "{}{measured}",
            head.replacen(
                " HTTP/1.1",
                &format!("{}x={} HTTP/1.1", if head.contains('?') { "&" } else { "?" }, "x".repeat(9000)),
                1
            )
        ),
    );
    add("431", format!("{head}{}{measured}", "x: y\r\n".repeat(120)));
    add("417", format!("{stranger}expect: the-unexpected\r\n{measured}"));
    made
}
