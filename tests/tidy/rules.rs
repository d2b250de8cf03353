//! The rules tried on small texts: each must find what it is for, and nothing else.
//! Not here: tests of the scanners (`source.rs`, `map.rs`), which stand beside them.

use super::*;

fn source(path: &str, text: &str) -> Source {
    Source::new(path, text.to_owned())
}

/// Each of `expected` is part of the complaint at its place.
#[track_caller]
fn check(complaints: Vec<String>, expected: &[&str]) {
    let all = complaints.join("\n");
    assert_eq!(complaints.len(), expected.len(), "{all}");
    for (complaint, part) in complaints.iter().zip(expected) {
        assert!(complaint.contains(part), "wanted `{part}` in:\n{all}");
    }
}

#[test]
fn arrows_hold_in_both_directions() {
    let table = |lines: &str| map::arrows(&format!("//! ```arrows\n{lines}//! ```\n")).unwrap();
    let sources = [
        source("src/a.rs", "\nuse crate::b::X;"),
        source("src/b.rs", ""),
        source("src/c/d.rs", "use crate::Y;"),
    ];
    check(along(&table("//! a -> b\n//! b ->\n//! c ->\n"), &sources), &["src/c/d.rs:1: `Y` is no room"]);
    let wrong = table("//! a ->\n//! b -> c\n//! e ->\n");
    check(
        along(&wrong, &sources),
        &["src/a.rs:2: no arrow a -> b", "room `c` has no line", "nothing uses the arrow b -> c", "name `e`"],
    );
}

#[test]
fn substrates_are_seen_in_code_and_not_in_comments() {
    let sources = [
        source("src/hub.rs", "// pingora\nuse pingora_core::X;"),
        source("src/proxy/a.rs", "use pingora_proxy::Session;"),
        source("src/limit/flood.rs", "use pingora_core::Y;"),
    ];
    check(naming("pingora", NAME_PINGORA, &sources), &["src/hub.rs:2: names pingora"]);
}

#[test]
fn sizes_may_only_shrink() {
    let measured = |lines: usize| vec![("a".to_owned(), "a.rs:1".to_owned(), lines)];
    check(sized(&measured(10), 10, &[], "split"), &[]);
    check(sized(&measured(11), 10, &[], "split"), &["11 lines, 10 at most; split"]);
    check(sized(&measured(12), 10, &[("a", 12)], "split"), &[]);
    check(sized(&measured(13), 10, &[("a", 12)], "split"), &["grew from 12 to 13"]);
    check(sized(&measured(11), 10, &[("a", 12)], "split"), &["lower or remove"]);
    check(sized(&measured(9), 10, &[("b", 12)], "split"), &["b is gone"]);
}

#[test]
fn empty_names_are_banned() {
    check(badly_named(&source("src/hub/utils.rs", "")), &["`utils` says nothing"]);
    check(
        badly_named(&source("src/hub/mod.rs", "mod types;\nmod typed;")),
        &["front door", "src/hub/mod.rs:1: module `types`"],
    );
    check(badly_named(&source("src/hub/names.rs", "// mod misc;\nfn handler() {}")), &[]);
}

#[test]
fn heads_have_two_lines() {
    let check = |text: &str, expected: Option<&str>| {
        let complaint = bad_head(&source("src/a.rs", text));
        match expected {
            None => assert_eq!(complaint, None, "{text}"),
            Some(part) => {
                assert!(complaint.as_ref().is_some_and(|said| said.contains(part)), "{complaint:?}")
            }
        }
    };
    check("//! Here.\n//! Not here: there (`b`).\n", None);
    check("use x;\n", Some("a.rs:1"));
    check("//! Not here: there.\n//! Here.\n", Some("a.rs:1"));
    check("//! Here,\n//! and more.\n//! Not here: there.\n", Some("a.rs:2"));
}

#[test]
fn hops_are_counted() {
    let all = (1..=5).map(|hop| format!("/// Hop {hop}: a step.\nfn f() {{}}\n")).collect::<String>();
    check(hops(&[source("src/a.rs", &all)]), &[]);
    let more = all.replace("Hop 2", "Hop 6") + "// Hop 2\n/// Hop 5 again\nfn g() {}\n";
    check(hops(&[source("src/a.rs", &more)]), &["`Hop 2` is nowhere", "`Hop 5` is said at", "no hop 6"]);
    check(hops(&[source("src/a.rs", &all), source("src/lib.rs", "//! Hop 1 … Hop 5")]), &[]);
}

#[test]
fn spawns_equal_the_list() {
    let sources = [source("src/a.rs", "fn f() { tokio::spawn(x); }\nfn g() { std::thread::spawn(y); }")];
    let line = |file: &str| (file.to_owned(), 7);
    check(spawned(&[line("src/a.rs"), line("src/a.rs")], &sources), &[]);
    check(spawned(&[line("src/a.rs")], &sources), &["[f at line 1, g at line 2]"]);
    check(
        spawned(&[line("src/a.rs"), line("src/a.rs"), line("src/b.rs")], &sources),
        &["lib.rs:7: there is no src/b.rs"],
    );
}

#[test]
fn unbounded_queues_are_found() {
    check(
        unbounded(&source("src/a.rs", "let a = mpsc::unbounded_channel();\nlet b = channel(4);")),
        &["src/a.rs:1"],
    );
}

#[test]
fn undone_things_need_a_number() {
    let check = |text: String, expected: bool| {
        assert_eq!(undone(&Comment { line: 1, text: text.clone() }), expected, "{text}")
    };
    let [todo, fixme] = UNDONE;
    check(format!("// {todo}: later"), true);
    check(format!("// {fixme} later"), true);
    check(format!("// {todo} #12: later"), false);
    check(format!("// {todo}(#12): later"), false);
    check("// to do: later".to_owned(), false);
}

#[test]
fn metrics_and_documents_agree() {
    let text = "fn f() { counter(\n  \"tollgate_a_total\", \"Help of tollgate_a.\", &[\"mcp_server_x\"]); }";
    let registered = metrics(&source("src/telemetry/m.rs", text));
    assert_eq!(registered, [("tollgate_a_total".to_owned(), "src/telemetry/m.rs:2".to_owned())]);
    check(undocumented(&registered, "| `tollgate_a_total{server}` | … |"), &[]);
    check(
        undocumented(&registered, "`tollgate_a_total_b`"),
        &["m.rs:2: tollgate_a_total is not in", "nothing registers tollgate_a_total_b"],
    );
}

#[test]
fn machines_are_found() {
    let [work, top, npm, ..] = MACHINES;
    check(machine("a.md", &format!("x\nsee {work}x\nCOPY . {top}app\n")), &["a.md:2", "a.md:3"]);
    check(machine("a.md", &format!("https://example.com{work}x and $HOME/x")), &[]);
    check(
        machine("package-lock.json", &format!("\"resolved\": \"https://{npm}/a\"")),
        &["names `", "names the host"],
    );
    check(machine("Cargo.lock", "source = \"registry+https://github.com/rust-lang/crates.io-index\""), &[]);
}
