//! The house rules, read from the source as text. Every message says where and what to do.
//! Not here: generated files being fresh (tested beside `conf`); licences and bans (`dependencies.rs`); lints (`clippy.toml`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test stops at the first thing that is wrong, and asks git what is tracked"
)]

#[path = "tidy/map.rs"]
mod map;
#[path = "tidy/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use source::{Comment, Source, read, root, words};

/// A file without its tests.
const FILE_LINES_MAX: usize = 500;
/// A function, from `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;

/// Files that are longer, with their length. May only shrink: take a line out when its file has become short.
const LONG_FILES: &[(&str, usize)] = &[];
/// Functions that are longer (`file name`), with their length. May only shrink.
const LONG_FUNCTIONS: &[(&str, usize)] = &[
    // A table: one row for each metric.
    ("src/telemetry/metrics.rs new", 93),
];

/// Who may name Pingora's crates: a room, or a file.
const NAME_PINGORA: &[&str] = &["app", "listener", "proxy", "src/limit/flood.rs", "src/limit/in_flight.rs"];
/// Who may name axum.
const NAME_AXUM: &[&str] = &["control", "profile"];

/// Names that say nothing about what is inside.
const BANNED_NAMES: &[&str] = &[
    "util", "utils", "helper", "helpers", "common", "manager", "handler", "handlers", "context", "types",
    "misc", "prelude",
];

/// Fails with every complaint at once.
#[track_caller]
fn report(rule: &str, complaints: Vec<String>) {
    assert!(complaints.is_empty(), "{rule}\n  {}\n", complaints.join("\n  "));
}

fn lib() -> String {
    std::fs::read_to_string(root().join("src/lib.rs")).unwrap()
}

#[test]
fn rooms_use_each_other_only_along_the_arrows() {
    let arrows = map::arrows(&lib()).unwrap_or_else(|error| panic!("{error}"));
    report("The arrows in the head of src/lib.rs are what the code does.", along(&arrows, &read("src")));
    if let Some(rooms) = map::cycle(&arrows) {
        panic!(
            "the arrows in src/lib.rs go round: {}; one of these rooms must not know the next",
            rooms.join(" -> ")
        );
    }
}

/// Uses without an arrow, arrows without a use, rooms without a line.
fn along(arrows: &map::Arrows, sources: &[Source]) -> Vec<String> {
    let rooms: BTreeSet<&str> =
        sources.iter().map(|source| map::room(&source.path)).filter(|&room| room != "lib").collect();
    let mut complaints = Vec::new();
    let mut drawn: BTreeSet<(String, String)> = BTreeSet::new();
    for source in sources.iter().filter(|source| source.path != "src/lib.rs") {
        let room = map::room(&source.path);
        for (used, line) in map::uses(source) {
            let known = rooms.contains(used.as_str());
            let allowed = match arrows.get(room) {
                Some(Some(uses)) => uses.contains(&used),
                Some(None) => true,
                None => continue,
            };
            if !known {
                complaints.push(format!(
                    "{}:{line}: `{used}` is no room; src/lib.rs holds only the map",
                    source.path
                ));
            } else if used != room && !allowed {
                complaints.push(format!("{}:{line}: no arrow {room} -> {used}; move the code, or draw the arrow and say why in the commit", source.path));
            }
            drawn.insert((room.to_owned(), used));
        }
    }
    for room in &rooms {
        if !arrows.contains_key(*room) {
            complaints
                .push(format!("src/lib.rs: room `{room}` has no line in the arrows; add `{room} -> …`"));
        }
    }
    for (room, uses) in arrows {
        if !rooms.contains(room.as_str()) {
            complaints
                .push(format!("src/lib.rs: the arrows name `{room}`, which is not in src/; take it out"));
        }
        for used in uses.iter().flatten() {
            if !drawn.contains(&(room.clone(), used.clone())) {
                complaints.push(format!("src/lib.rs: nothing uses the arrow {room} -> {used}; take it out"));
            }
        }
    }
    complaints
}

#[test]
fn pingora_and_axum_are_named_only_where_they_belong() {
    let sources = read("src");
    let mut complaints = naming("pingora", NAME_PINGORA, &sources);
    complaints.extend(naming("axum", NAME_AXUM, &sources));
    report("Substrates stay behind their rooms.", complaints);
}

fn naming(word: &str, allowed: &[&str], sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        if allowed.contains(&map::room(&source.path)) || allowed.contains(&source.path.as_str()) {
            continue;
        }
        for (at, _) in source.production.match_indices(word) {
            complaints.push(format!(
                "{}:{}: names {word}, which only {} may",
                source.path,
                source.line(at),
                allowed.join(", ")
            ));
        }
    }
    complaints
}

#[test]
fn files_and_functions_are_short() {
    let mut sources = read("src");
    sources.extend(read("benches"));
    let files: Vec<(String, String, usize)> = sources
        .iter()
        .filter(|source| !source::is_test_file(&source.path))
        .map(|source| (source.path.clone(), source.path.clone(), source.lines_without_tests()))
        .collect();
    let mut functions: Vec<(String, String, usize)> = sources
        .iter()
        .flat_map(|source| {
            source.functions().into_iter().map(|function| {
                let (first, last) = function.lines;
                (
                    format!("{} {}", source.path, function.name),
                    format!("{}:{first}", source.path),
                    last - first + 1,
                )
            })
        })
        .collect();
    // Methods of one name in one file count as one: the longest.
    functions.sort_by(|(one, _, short), (other, _, long)| one.cmp(other).then(long.cmp(short)));
    functions.dedup_by(|(later, ..), (first, ..)| later == first);
    let mut complaints = sized(&files, FILE_LINES_MAX, LONG_FILES, "split it by noun");
    complaints.extend(sized(&functions, FUNCTION_LINES_MAX, LONG_FUNCTIONS, "give a part of it a name"));
    report("Files and functions fit into a head.", complaints);
}

/// `measured` is (key, place, lines). Entries of `long` that are not needed, or that grew, are complaints too.
fn sized(
    measured: &[(String, String, usize)],
    max: usize,
    long: &[(&str, usize)],
    advice: &str,
) -> Vec<String> {
    let mut complaints = Vec::new();
    for (key, place, lines) in measured {
        let known = long.iter().find(|(name, _)| name == key).map(|(_, lines)| *lines);
        match known {
            None if *lines > max => {
                complaints.push(format!("{place}: {key} has {lines} lines, {max} at most; {advice}"));
            }
            Some(before) if *lines > before => {
                complaints.push(format!(
                    "{place}: {key} grew from {before} to {lines} lines; it may only shrink: {advice}"
                ));
            }
            Some(before) if *lines <= max || *lines < before => {
                complaints.push(format!(
                    "{place}: {key} shrank to {lines} lines; lower or remove its entry in tests/tidy.rs"
                ));
            }
            _ => {}
        }
    }
    for (name, _) in long.iter().filter(|(name, _)| measured.iter().all(|(key, ..)| key != name)) {
        complaints.push(format!("tests/tidy.rs: {name} is gone; remove its entry"));
    }
    complaints
}

#[test]
fn names_say_what_is_inside() {
    let mut complaints = Vec::new();
    for source in read("src").iter().chain(&read("benches")) {
        complaints.extend(badly_named(source));
    }
    report("A newcomer finds the file to change by reading src/ aloud.", complaints);
}

fn badly_named(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for part in source.path.split('/') {
        let stem = part.trim_end_matches(".rs");
        if BANNED_NAMES.contains(&stem) {
            complaints.push(format!("{}: `{stem}` says nothing; name it after the noun inside", source.path));
        }
        if part == "mod.rs" {
            complaints.push(format!("{}: a room's front door is `room.rs`, not `room/mod.rs`", source.path));
        }
    }
    for at in words(&source.code, "mod") {
        let name: String =
            source.code[at + 3..].trim_start().chars().take_while(|c| source::is_word(*c)).collect();
        if BANNED_NAMES.contains(&name.as_str()) {
            complaints.push(format!(
                "{}:{}: module `{name}` says nothing; name it after the noun inside",
                source.path,
                source.line(at)
            ));
        }
    }
    complaints
}

#[test]
fn files_say_what_is_here_and_what_is_not() {
    let complaints = ["src", "benches", "tests"]
        .iter()
        .flat_map(|folder| read(folder))
        .filter_map(|source| bad_head(&source))
        .collect();
    report("The first line of a file says what is here, the second what is not and where it is.", complaints);
}

fn bad_head(source: &Source) -> Option<String> {
    let mut lines = source.text.lines();
    let (first, second) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    if !first.starts_with("//! ") || first.starts_with("//! Not here") {
        return Some(format!("{}:1: begin with `//! ` and one sentence: what is here", source.path));
    }
    (!second.starts_with("//! Not here: ")).then(|| {
        format!(
            "{}:2: write `//! Not here: … (where it is)`; the sentence above must fit on its line",
            source.path
        )
    })
}

#[test]
fn a_call_takes_five_hops() {
    let sources = read("src");
    report(
        "The five hops of a call are marked in doc comments, each once (the map in src/lib.rs may list them).",
        hops(&sources),
    );
}

fn hops(sources: &[Source]) -> Vec<String> {
    let mut found: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.path != "src/lib.rs") {
        for comment in source.comments.iter().filter(|comment| comment.is_doc()) {
            for (at, hop) in comment.text.match_indices("Hop ") {
                let number: String =
                    comment.text[at + hop.len()..].chars().take_while(char::is_ascii_digit).collect();
                if let Ok(number) = number.parse() {
                    found.entry(number).or_default().push(format!("{}:{}", source.path, comment.line));
                }
            }
        }
    }
    let mut complaints = Vec::new();
    for number in 1..=5 {
        match found.get(&number).map_or(&[][..], Vec::as_slice) {
            [] => complaints.push(format!(
                "`Hop {number}` is nowhere; say it in the doc comment of the function that does it"
            )),
            [_] => {}
            more => complaints.push(format!("`Hop {number}` is said at {}; say it once", more.join(", "))),
        }
    }
    for (number, places) in found.iter().filter(|(number, _)| !(1..=5).contains(*number)) {
        complaints.push(format!("{}: there is no hop {number}", places.join(", ")));
    }
    complaints
}

#[test]
fn everything_spawned_is_listed() {
    let listed = map::listed_spawns(&lib()).unwrap_or_else(|error| panic!("{error}"));
    report(
        "What is spawned stands in the head of src/lib.rs, one line for each function that spawns.",
        spawned(&listed, &read("src")),
    );
}

fn spawned(listed: &[(String, usize)], sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        let sites = map::spawns(source);
        let lines = listed.iter().filter(|(file, _)| *file == source.path).count();
        if sites.len() != lines {
            let sites: Vec<String> =
                sites.iter().map(|(name, line)| format!("{name} at line {line}")).collect();
            complaints.push(format!(
                "{}: {lines} line(s) in the map's `spawns`, but these functions spawn: [{}]; give each its line `{} — what — who ends it`",
                source.path,
                sites.join(", "),
                source.path
            ));
        }
    }
    for (file, number) in listed.iter().filter(|(file, _)| sources.iter().all(|source| source.path != *file))
    {
        complaints.push(format!("src/lib.rs:{number}: there is no {file}; take the line out"));
    }
    complaints
}

#[test]
fn queues_are_bounded() {
    let complaints = read("src").iter().flat_map(unbounded).collect();
    report("Every queue has a bound with a name and a reason.", complaints);
}

fn unbounded(source: &Source) -> Vec<String> {
    ["unbounded_channel", "mpsc::unbounded", "UnboundedSender", "UnboundedReceiver"]
        .iter()
        .flat_map(|word| words(&source.code, word))
        .map(|at| {
            format!("{}:{}: a queue without a bound; use a bounded channel", source.path, source.line(at))
        })
        .collect()
}

/// Written in two parts so that this file does not find itself.
const UNDONE: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];

#[test]
fn what_is_undone_has_a_number() {
    let sources: Vec<Source> = ["src", "benches", "tests"].iter().flat_map(|folder| read(folder)).collect();
    let complaints = sources
        .iter()
        .flat_map(|source| {
            let bad = source.comments.iter().filter(|comment| undone(comment));
            bad.map(|comment| {
                format!(
                    "{}:{}: name its issue, as in `{} #12`, or do it",
                    source.path, comment.line, UNDONE[0]
                )
            })
        })
        .collect();
    report("What is left to do is an issue.", complaints);
}

fn undone(comment: &Comment) -> bool {
    UNDONE.iter().any(|word| {
        words(&comment.text, word).any(|at| {
            let rest = comment.text[at + word.len()..].trim_start_matches([' ', '(', ':']);
            !rest.strip_prefix('#').is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit()))
        })
    })
}

#[test]
fn every_metric_is_documented() {
    let registered: Vec<(String, String)> = read("src")
        .iter()
        .filter(|source| map::room(&source.path) == "telemetry")
        .flat_map(metrics)
        .collect();
    assert!(registered.len() > 10, "the scanner found only {} metrics: {registered:?}", registered.len());
    let documents: String = ["README.md", "docs/metrics.md"]
        .iter()
        .filter_map(|file| std::fs::read_to_string(root().join(file)).ok())
        .collect();
    report(
        "Operators find every metric in README.md or docs/metrics.md, and none that is gone.",
        undocumented(&registered, &documents),
    );
}

/// Names of metrics that a file of `telemetry` registers: literals that are the first argument of a call.
fn metrics(source: &Source) -> Vec<(String, String)> {
    source
        .strings
        .iter()
        .filter(|(at, name)| {
            let prefixed =
                ["tollgate_", "mcp_server_", "mcp_client_"].iter().any(|prefix| name.starts_with(prefix));
            prefixed
                && name.chars().all(source::is_word)
                && source.production[..*at].trim_end().ends_with('(')
        })
        .map(|(at, name)| (name.clone(), format!("{}:{}", source.path, source.line(*at))))
        .collect()
}

fn undocumented(registered: &[(String, String)], documents: &str) -> Vec<String> {
    let mut complaints: Vec<String> = registered
        .iter()
        .filter(|(name, _)| words(documents, name).next().is_none())
        .map(|(name, place)| format!("{place}: {name} is not in README.md or docs/metrics.md; add its row"))
        .collect();
    for quoted in documents.split('`').skip(1).step_by(2).filter(|quoted| quoted.starts_with("tollgate_")) {
        let name: String = quoted.chars().take_while(|c| source::is_word(*c)).collect();
        if !registered.iter().any(|(known, _)| *known == name) {
            complaints.push(format!("README.md or docs/metrics.md: nothing registers {name}; take it out"));
        }
    }
    complaints
}

#[test]
fn tracked_files_name_no_machine() {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let listed = listed.ok().filter(|listed| listed.status.success());
    // A source archive has no repository; there the check has been done when it was made.
    let Some(listed) = listed else { return };
    let complaints = String::from_utf8(listed.stdout)
        .unwrap()
        .split_terminator('\0')
        .filter_map(|path| Some((path, std::fs::read_to_string(root().join(path)).ok()?)))
        .flat_map(|(path, text)| machine(path, &text))
        .collect();
    report("Tracked files mean the same on every machine.", complaints);
}

/// Paths of a machine we build on, and hosts that packages were fetched from. In two parts, as above.
const MACHINES: [&str; 6] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("registry.", "npmjs.org"),
    concat!("files.", "pythonhosted.org"),
    concat!("index.", "crates.io"),
    concat!("proxy.", "golang.org"),
];

fn machine(path: &str, text: &str) -> Vec<String> {
    // This machine's own: where the checkout and its owner live.
    let here = [Some(root().display().to_string()), std::env::var("HOME").ok()];
    let here = here.into_iter().flatten().filter(|path| path.len() > 4).map(|path| format!("{path}/"));
    let wanted: Vec<String> = MACHINES.iter().map(|word| (*word).to_owned()).chain(here).collect();
    let mut complaints = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        // `https://host/x` and `src/x` are addresses of something else.
        let alone =
            |at: usize| !line[..at].ends_with(|c: char| source::is_word(c) || matches!(c, '.' | '-' | '}'));
        if let Some(word) =
            wanted.iter().find(|word| line.match_indices(word.as_str()).any(|(at, _)| alone(at)))
        {
            complaints.push(format!(
                "{path}:{number}: names `{word}`; use a relative path, a variable, or leave it out"
            ));
        }
        let locked = path.ends_with(".lock")
            || path.ends_with("package-lock.json")
            || path.ends_with("requirements.txt");
        let host = line.split("://").nth(1).and_then(|rest| rest.split(['/', '"', ' ', ':']).next());
        if let Some(host) = host.filter(|host| locked && *host != "github.com") {
            complaints
                .push(format!("{path}:{number}: a lock file names the host {host}; pin versions without it"));
        }
    }
    complaints
}

#[path = "tidy/rules.rs"]
mod rules;
