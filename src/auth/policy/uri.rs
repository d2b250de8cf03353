//! The spellings of a resource's URI, so that a rule about it is not evaded by another one.
//! Not here: what is done with the spellings (`clause`).

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::ItemKind;

/// How often percent-encoding is undone: a proxy and a server that both undo it are two, and more are not known.
const DECODED_MAX: usize = 3;

/// A name as it was written and, for a URI that has others, its other spellings.
pub(super) struct Name<'n> {
    pub(super) written: &'n str,
    /// What servers may come to by reading the same. A rule that gives has to be about all of them.
    pub(super) plain: Vec<String>,
    /// What servers may take for the same: without what often makes no difference. Only what takes looks at them.
    pub(super) bare: Vec<String>,
}

impl<'n> Name<'n> {
    pub(super) fn new(kind: ItemKind, written: &'n str) -> Self {
        let (mut plain, mut bare) = (Vec::new(), Vec::new());
        if kind == ItemKind::Resource && !is_plain(written) {
            let (raw, decoded) = (clean(written), decode(written));
            for (text, is_flat) in [(&raw, false), (&decoded, false), (&decoded, true)] {
                match Parts::new(text, is_flat) {
                    Some(parts) => {
                        plain.push(parts.to_string());
                        bare.push(parts.bare().to_string());
                    }
                    None => plain.push(decoded.clone()),
                }
            }
            bare.retain(|text| text != written && !plain.contains(text));
            plain.retain(|text| text != written);
            plain.dedup();
            bare.dedup();
        }
        Self { written, plain, bare }
    }
}

/// The bare spelling of a pattern of a rule that takes, if that is another one: names are compared in it, too. `?` in a
/// pattern is any character, and so begins no query.
pub(super) fn bare_pattern(pattern: &str) -> Option<String> {
    let decoded = decode(pattern);
    if decoded.contains('?') || decoded.matches('*').count() != pattern.matches('*').count() {
        return None;
    }
    let bare = Parts::new(&clean(pattern), false)?.bare().to_string();
    (bare != pattern).then_some(bare)
}

/// Whether a URI surely has but one spelling; `false` means that it is worth a look.
fn is_plain(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once("://") else { return false };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'+' || b == b'-')
        && (scheme != "file" || authority.is_empty())
        && authority
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase() && !b"%\\@:?#".contains(&b))
        && path.bytes().all(|b| b > b' ' && !b"%\\?#".contains(&b) && b != 0x7f)
        && !authority.ends_with('.')
        && !path.starts_with(['/', '.'])
        && !rest.ends_with('/')
        && !path.contains("//")
        && !path.contains("/.")
}

/// Without control characters and space around, and `\` as `/`.
fn clean(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).map(|c| if c == '\\' { '/' } else { c }).collect()
}

/// With percent-encoding undone until nothing changes, within reason.
fn decode(text: &str) -> String {
    let mut decoded = text.to_owned();
    for _ in 0..DECODED_MAX {
        match percent_decode_str(&decoded).decode_utf8_lossy() {
            Cow::Owned(once) if once != decoded => decoded = once,
            _ => break,
        }
    }
    clean(&decoded)
}

/// A URI in parts, each as servers would come to read it: decoded, scheme and authority in lower case, the path without
/// empty and dot segments, `file:` without an authority.
struct Parts {
    scheme: String,
    /// `None`: there is no tree, as in `urn:a:b`.
    authority: Option<String>,
    path: String,
    /// With its `?`.
    query: String,
    /// With its `#`.
    fragment: String,
}

impl Parts {
    /// Flat is how servers read that take everything after the authority for a path.
    fn new(uri: &str, is_flat: bool) -> Option<Self> {
        let cut = |text: &str, at: char| match text.find(at) {
            Some(at) if !is_flat => (text[..at].to_owned(), text[at..].to_owned()),
            _ => (text.to_owned(), String::new()),
        };
        let (rest, fragment) = cut(uri, '#');
        let (rest, query) = cut(&rest, '?');
        let (scheme, rest) = rest.split_once(':')?;
        let scheme = decode(scheme).to_ascii_lowercase();
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => {
                let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
                (Some(decode(authority).to_ascii_lowercase()), resolved(&decode(path)))
            }
            None if scheme == "file" => (Some(String::new()), resolved(&decode(rest))),
            None => (None, decode(rest)),
        };
        let is_here =
            scheme == "file" && authority.as_deref().map(|a| host(a, "")).as_deref() == Some("localhost");
        let authority = if is_here { Some(String::new()) } else { authority };
        Some(Self { scheme, authority, path, query: decode(&query), fragment: decode(&fragment) })
    }

    /// Without what mostly makes no difference: user information, a default port, the dot after a host, an empty query,
    /// any query of a file, the fragment, slashes at the end.
    fn bare(mut self) -> Self {
        if let Some(authority) = &mut self.authority {
            *authority = host(authority, &self.scheme);
            self.path.truncate(self.path.trim_end_matches('/').len());
        }
        if self.query == "?" || self.scheme == "file" {
            self.query.clear();
        }
        self.fragment.clear();
        self
    }
}

impl std::fmt::Display for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { scheme, authority, path, query, fragment } = self;
        match authority {
            Some(authority) => write!(f, "{scheme}://{authority}{path}{query}{fragment}"),
            None => write!(f, "{scheme}:{path}{query}{fragment}"),
        }
    }
}

/// The path without empty and dot segments.
fn resolved(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if path.ends_with('/') || path.ends_with("/.") || path.ends_with("/..") {
        out.push('/');
    }
    out
}

/// The host of an authority in lower case, and its port unless the scheme's URIs have that one anyway.
fn host(authority: &str, scheme: &str) -> String {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    let (host, port) = host.rsplit_once(':').filter(|(_, port)| is_port(port)).unwrap_or((host, ""));
    let host = host.strip_suffix('.').unwrap_or(host);
    let default = match scheme {
        "http" | "ws" => "80",
        "https" | "wss" => "443",
        "ftp" => "21",
        _ => "",
    };
    match port.trim_start_matches('0') {
        port if port.is_empty() || port == default => host.to_owned(),
        port => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(written: &str, plain: &[&str], bare: &[&str]) {
        let name = Name::new(ItemKind::Resource, written);
        assert_eq!((name.plain, name.bare), (words(plain), words(bare)), "{written}");
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn one_spelling_of_many() {
        for same in [
            "file:///srv/a",
            "sample://count/{n}",
            "ui://widget",
            "https://a.example/b",
            "urn:a:b",
            "..",
            "a",
        ] {
            check(same, &[], &[]);
        }
        for other in [
            "FILE:///secret/a",
            "file:/secret/a",
            "file://localhost/secret/a",
            "file://me@LOCALHOST.:/secret/a",
            "file:////secret/a",
            "file:///./secret/a",
            "file:///x/../secret/a",
            "file:///x/%2e%2E/secret/a",
            "file:///x/%252e%252E/secret/a",
            "file:///x/%25252e%25252E/secret/a",
            "file:///x/..%2fsecret/a",
            "file:///x/..%255csecret/a",
            "file:///x\\..\\secret\\a",
            "file:///%73ecret/a",
            "file:///%2573ecret/a",
            "%66ile:///secret/a",
            "file%3a///secret/a",
            "file:///sec\tret/a",
            "file:///sec%0Aret/a",
            " file:///secret/a\n",
            "file:///srv/%3F/../../secret/a",
            "file:///srv/?/../../secret/a",
            "file:///srv/#/../../secret/a",
        ] {
            let name = Name::new(ItemKind::Resource, other);
            assert!(name.plain.iter().any(|text| text == "file:///secret/a"), "{other}: {:?}", name.plain);
        }
        check("HTTPS://A.Example/B", &["https://a.example/B"], &[]);
        check("https://a.example/b/..", &["https://a.example/"], &["https://a.example"]);
    }

    #[test]
    fn what_mostly_makes_no_difference() {
        for other in [
            "https://a.example/b#",
            "https://a.example/b#c/../..",
            "https://a.example/b?",
            "https://a.example/b?#c",
            "https://a.example/b%3f%23c",
            "https://a.example/b/",
            "https://a.example/b//",
            "https://a.example/b/?",
            "https://a.example:443/b",
            "https://a.example:00443/b",
            "https://a.example:/b",
            "https://a.example./b",
            "https://a.example.:443/b",
            "https://me@a.example/b",
            "https://me:you@there@a.example/b",
            "https://%6De%40a.example/b",
            "HTTPS://me@A.EXAMPLE.:443//x/..//%2562/?#c",
        ] {
            let name = Name::new(ItemKind::Resource, other);
            assert!(name.bare.iter().any(|text| text == "https://a.example/b"), "{other}: {:?}", name.bare);
        }
        for (other, wanted) in [
            ("https://a.example/", "https://a.example"),
            ("https://a.example/b?c=%64#e", "https://a.example/b?c=d"),
            ("http://a.example:80/", "http://a.example"),
            ("wss://[::1]:443/b", "wss://[::1]/b"),
            ("file:///b?c", "file:///b"),
            ("FILE:///b#/../c", "file:///b"),
            ("urn:a:b#c", "urn:a:b"),
        ] {
            let name = Name::new(ItemKind::Resource, other);
            assert!(name.bare.iter().any(|text| text == wanted), "{other}: {:?}", name.bare);
        }
        for distinct in
            ["https://[::1]/b", "http://a.example:443/b", "https://a.example:8443/b", "https://a.example/b?c"]
        {
            check(distinct, &[], &[]);
        }
        check("ftp://a.example:021/b", &[], &["ftp://a.example/b"]);
    }

    #[test]
    fn patterns_have_a_bare_spelling_too() {
        for (pattern, wanted) in [
            ("https://A.example:443/b/", Some("https://a.example/b")),
            ("https://a.example./*", Some("https://a.example/*")),
            ("file:///secret/*", None),
            ("file:///secret/?/", None),
            ("https://a.example/%2a/", None),
            ("https://a.example/%3f/", None),
            ("*", None),
        ] {
            assert_eq!(bare_pattern(pattern).as_deref(), wanted, "{pattern}");
        }
    }
}
