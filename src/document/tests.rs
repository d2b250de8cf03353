//! Tests of reading, expanding and decoding.
//! Not here: what catalogs and configurations may say (`catalog/tests.rs`, `conf/tests.rs`).

use std::time::Duration;

use serde::Deserialize;

use super::expand::Problem;
use super::*;

#[track_caller]
fn expands(text: &str, wanted: &str, problems: &[Problem]) {
    let lookup = |name: &str| match name {
        "A" => Some("1".to_owned()),
        "EMPTY" => Some(String::new()),
        "DOLLAR" => Some("${A}".to_owned()),
        _ => None,
    };
    let mut wrong = Vec::new();
    let (found, _) = expand_text(text, &lookup, &mut wrong);
    assert_eq!((found.as_str(), wrong.as_slice()), (wanted, problems));
}

#[test]
fn variables() {
    expands("${A}", "1", &[]);
    expands("x${A}y${A}z", "x1y1z", &[]);
    expands("$A $$ $ 5$", "$A $$ $ 5$", &[]);
    expands("$${A} $$${A}", "${A} $${A}", &[]);
    expands("${NO:-d}${NO:-}${EMPTY:-d}${EMPTY}", "dd", &[]);
    expands("${NO:-a:-b}", "a:-b", &[]);
    expands("${DOLLAR}", "${A}", &[]);
    expands("${NO}", "", &[Problem::Unset("NO".to_owned())]);
    expands("a${A", "a", &[Problem::Form("${A".to_owned())]);
    expands("${1A}${A-x}", "", &[Problem::Form("${1A}".to_owned()), Problem::Form("${A-x}".to_owned())]);
}

#[test]
fn periods() {
    let read = |text: &str| Period::parse(text).map(|period| (period.0, period.to_string()));
    for (text, millis, shown) in [
        ("500ms", 500, "500ms"),
        ("30s", 30_000, "30s"),
        ("5m", 300_000, "5m"),
        ("1h", 3_600_000, "1h"),
        ("2d", 172_800_000, "48h"),
        ("90", 90_000, "90s"),
        ("0.3", 300, "300ms"),
        ("0", 0, "0s"),
        ("1.5 h", 5_400_000, "90m"),
    ] {
        assert_eq!(read(text), Some((Duration::from_millis(millis), shown.to_owned())), "{text}");
    }
    for text in ["", "s", "-1", "1y", "1 2s", "5 minutes", "1e3", "inf", "NaN", "99999999999"] {
        assert_eq!(read(text), None, "{text}");
    }
}

#[test]
fn sizes() {
    let read = |text: &str| Size::parse(text).map(|size| (size.0, size.to_string()));
    assert_eq!(read("4MiB"), Some((4 << 20, "4MiB".to_owned())));
    assert_eq!(read("1025"), Some((1025, "1025".to_owned())));
    assert_eq!(read("64 KiB"), Some((64 << 10, "64KiB".to_owned())));
    for text in ["", "4MB", "-1", "1.5MiB", "99999999999999999999", "999999999999GiB"] {
        assert_eq!(read(text), None, "{text}");
    }
}

#[test]
fn near_words() {
    assert_eq!(nearest("comand", ["command", "args"]), Some("command"));
    assert_eq!(nearest("zzz", ["command", "args"]), None);
    assert_eq!(nearest("", ["a"]), Some("a"));
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Sample {
    number: Option<u8>,
    flag: Option<bool>,
    words: Option<Vec<At<String>>>,
    inner: Option<Box<Sample>>,
    any: Option<serde_json::Value>,
}

fn decode(text: &str) -> (Sample, String) {
    let mut document = Document::parse("f", text);
    document.expand(&|name| (name == "N").then(|| "7".to_owned()));
    let sample = document.decode();
    (
        sample,
        document
            .report
            .finish()
            .map_or_else(|mistakes| mistakes.to_string(), |warnings| warnings.to_string()),
    )
}

#[test]
fn what_is_right_survives_what_is_wrong() {
    let (sample, mistakes) =
        decode("number: x\nflag: true\ninner: {number: 300, flag: false, nope: 1}\nwords: [a, [b], c]\n");
    assert_eq!((sample.number, sample.flag), (None, Some(true)));
    let inner = sample.inner.unwrap();
    assert_eq!((inner.number, inner.flag), (None, Some(false)));
    assert_eq!(sample.words.unwrap().iter().map(|word| word.value.as_str()).collect::<Vec<_>>(), ["a", "c"]);
    for wanted in [
        "f:1:9: expected",
        "f:3:17: expected a whole number up to 255",
        "f:3:35: unknown key `nope`",
        "f:4:12:",
    ] {
        assert!(mistakes.contains(wanted), "{wanted} is not in:\n{mistakes}");
    }
}

#[test]
fn quotes_make_text_unless_a_variable_is_in_them() {
    assert_eq!(decode("number: \"${N}\"").0.number, Some(7));
    assert!(decode("number: \"7\"").1.contains("found text"));
    assert!(decode("flag: yes").1.contains("expected true or false, found text"));
    let any =
        decode("any: [1, -1, 1.5, 0x10, 007, true, yes, ~, null, \"null\", \"${N}\", .5, 1e3, '']").0.any;
    let wanted =
        serde_json::json!([1, -1, 1.5, "0x10", 7, true, "yes", null, null, "null", "7", 0.5, 1000.0, ""]);
    assert_eq!(any, Some(wanted));
}

#[test]
fn positions_count_characters() {
    let (sample, _) = decode("words: [\"ä☃\", \"b\"]");
    let word = sample.words.unwrap().remove(1);
    assert_eq!((word.span.start, word.span.end), (17, 20));
    assert!(
        decode("{\"words\": [\"ä☃\", {}]}").1.starts_with("f:1:18:"),
        "{}",
        decode("{\"words\": [\"ä☃\", {}]}").1
    );
}

#[test]
fn the_list_of_mistakes_is_bounded() {
    let text: String = (0..MISTAKES_MAX + 50).map(|at| format!("key{at}: 1\n")).collect();
    let mut document = Document::parse("f", &text);
    let _: Sample = document.decode();
    let list = document.report.finish().unwrap_err().list;
    assert_eq!(list.len(), MISTAKES_MAX + 1);
    assert_eq!(list[MISTAKES_MAX].message, "50 more mistakes are not listed");
}

#[test]
fn the_terminal_form_has_source_and_help() {
    let mistakes = Document::parse("f", "a: *b").report.finish().unwrap_err();
    let report = format!("{:?}", miette::Report::new(mistakes));
    assert!(report.contains("unknown anchor") && report.contains("a: *b"), "{report}");
}

#[test]
fn warnings_are_told_and_do_not_fail() {
    let mut report = Report::default();
    let source = report.add_source(Source::file("a.yaml", "one: 1\ntwo: 2\n"));
    let at = |start, end| Span { source, start, end };
    report.warn_advise(at(7, 10), Code::Unused, "nobody needs two", "remove it");
    assert!(report.is_empty());
    for _ in 0..2 * MISTAKES_MAX {
        report.warn(at(7, 10), Code::Unused, "nobody needs two");
    }
    let warnings = report.finish().unwrap();
    expect_test::expect![[r#"
        a.yaml:2:1: warning: nobody needs two
          2 | two: 2
            | ^^^ remove it"#]]
    .assert_eq(&warnings.to_string());
    assert_eq!(serde_json::to_value(&warnings).unwrap()[0]["severity"], "warning");

    let mut report = Report::default();
    let source = report.add_source(Source::file("a.yaml", "one: 1\n"));
    for at in 0..MISTAKES_MAX as u32 + 5 {
        report.warn(Span { source, start: 0, end: at }, Code::Unused, "so many");
    }
    report.add(Span { source, start: 5, end: 6 }, Code::InvalidValue, "wrong");
    let mistakes = report.finish().unwrap_err();
    assert_eq!((mistakes.count(Severity::Warning), mistakes.count(Severity::Error)), (MISTAKES_MAX, 2));
    assert_eq!(mistakes.brief(), format!("wrong at line 1 (and {} more)", MISTAKES_MAX + 1));
}
