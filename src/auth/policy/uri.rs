//! The plain spelling of a resource's URI, so that a rule about it is not evaded by another spelling.
//! Not here: what is done with both spellings (`clause`).

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::ItemKind;

/// A name as it was written and, for a URI whose plain spelling differs, that.
pub(super) struct Name<'n> {
    pub(super) written: &'n str,
    pub(super) plain: Option<String>,
}

impl<'n> Name<'n> {
    pub(super) fn new(kind: ItemKind, written: &'n str) -> Self {
        let plain = if kind == ItemKind::Resource && !is_plain(written) {
            Some(plain(written)).filter(|plain| plain != written)
        } else {
            None
        };
        Self { written, plain }
    }
}

/// Whether a URI surely has but one spelling; `false` means that it is worth a look.
fn is_plain(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once("://") else { return false };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'+' || b == b'-')
        && (scheme != "file" || authority.is_empty())
        && authority
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase() && b != b'%' && b != b'\\')
        && path.bytes().all(|b| b > b' ' && b != b'%' && b != b'\\' && b != 0x7f)
        && !path.starts_with(['/', '.'])
        && !path.contains("//")
        && !path.contains("/.")
}

/// The spelling that most servers would come to: control characters out, percent-encoding undone, scheme and authority
/// in lower case, `\` as `/`, no empty or dot segments, `file:` without an authority.
fn plain(uri: &str) -> String {
    let decoded: Cow<'_, str> = percent_decode_str(uri.trim()).decode_utf8_lossy();
    let clean: String =
        decoded.trim().chars().filter(|c| !c.is_control()).map(|c| if c == '\\' { '/' } else { c }).collect();
    let Some((scheme, rest)) = clean.split_once(':') else { return clean };
    let scheme = scheme.to_ascii_lowercase();
    let (mut authority, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.find('/').map_or((rest, ""), |at| rest.split_at(at)),
        None if scheme == "file" => ("", rest),
        // Without an authority there is no tree: `urn:a:b` has one spelling.
        None => return format!("{scheme}:{rest}"),
    };
    if scheme == "file" && authority.eq_ignore_ascii_case("localhost") {
        authority = "";
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name),
        }
    }
    let mut out = format!("{scheme}://{}", authority.to_ascii_lowercase());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if path.ends_with('/') || path.ends_with("/.") || path.ends_with("/..") {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(written: &str, wanted: Option<&str>) {
        assert_eq!(Name::new(ItemKind::Resource, written).plain.as_deref(), wanted, "{written}");
    }

    #[test]
    fn one_spelling_of_many() {
        for same in [
            "file:///srv/a",
            "file:///srv/",
            "sample://count/{n}",
            "ui://widget",
            "https://a.example/b?c=d&e#f",
            "urn:a:b",
        ] {
            check(same, None);
        }
        for other in [
            "FILE:///secret/a",
            "file:/secret/a",
            "file://localhost/secret/a",
            "file:////secret/a",
            "file:///./secret/a",
            "file:///x/../secret/a",
            "file:///x/%2e%2E/secret/a",
            "file:///x/..%2fsecret/a",
            "file:///x\\..\\secret\\a",
            "file:///%73ecret/a",
            "file:///sec\tret/a",
            " file:///secret/a\n",
            "file:///srv/%3F/../../secret/a",
        ] {
            check(other, Some("file:///secret/a"));
        }
        check("HTTPS://A.Example/B", Some("https://a.example/B"));
        check("https://a.example/b/..", Some("https://a.example/"));
        check("..", None);
    }
}
