//! The map at the head of `src/lib.rs`: who may use whom (`arrows`) and what is spawned where (`spawns`).
//! Not here: rules that need no map (`../tidy.rs`).
//!
//! Both are fenced blocks of the crate's documentation:
//!
//! ````text
//! //! ```text arrows
//! //! app   -> *
//! //! proxy -> auth catalog hub
//! //! mcp   ->
//! //! ```
//! //! ```text spawns
//! //! src/catalog/watch.rs — watches the catalog's folder — the shutdown watch
//! //! ```
//! ````

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, is_word, words};

/// Room → rooms it may use; `None` is `*`, everything.
pub(crate) type Arrows = BTreeMap<String, Option<BTreeSet<String>>>;

/// The lines of the fenced block titled `title` in the `//!` head of a file, with their line numbers.
pub(crate) fn block(text: &str, title: &str) -> Option<Vec<(usize, String)>> {
    let mut found = None;
    for (number, line) in (1..).zip(text.lines()) {
        let Some(line) = line.strip_prefix("//!") else { continue };
        let line = line.trim();
        match (&mut found, line.strip_prefix("```")) {
            (None, Some(info)) if info.split_whitespace().any(|word| word == title) => {
                found = Some(Vec::new())
            }
            (Some(_), Some(_)) => return found,
            (Some(lines), None) if !line.is_empty() => lines.push((number, line.to_owned())),
            _ => {}
        }
    }
    None
}

/// Reads the arrows; a line that is not `room -> rooms` is an error.
pub(crate) fn arrows(text: &str) -> Result<Arrows, String> {
    let lines = block(text, "arrows")
        .ok_or("src/lib.rs: no block titled `arrows` (```text arrows) in its `//!` head")?;
    let mut arrows = Arrows::new();
    for (number, line) in lines {
        let (room, uses) = line
            .split_once("->")
            .ok_or_else(|| format!("src/lib.rs:{number}: `{line}` is not `room -> room room …`"))?;
        let uses: BTreeSet<String> = uses.split_whitespace().map(str::to_owned).collect();
        let uses = if uses.contains("*") { None } else { Some(uses) };
        if arrows.insert(room.trim().to_owned(), uses).is_some() {
            return Err(format!("src/lib.rs:{number}: {} stands twice in the arrows", room.trim()));
        }
    }
    Ok(arrows)
}

/// A room on a cycle of arrows, if there is one.
pub(crate) fn cycle(arrows: &Arrows) -> Option<Vec<String>> {
    fn visit(room: &str, arrows: &Arrows, path: &mut Vec<String>) -> bool {
        if let Some(at) = path.iter().position(|seen| seen == room) {
            path.drain(..at);
            return true;
        }
        path.push(room.to_owned());
        for next in arrows.get(room).into_iter().flatten().flatten() {
            if visit(next, arrows, path) {
                return true;
            }
        }
        path.pop();
        false
    }
    arrows.keys().find_map(|room| {
        let mut path = Vec::new();
        visit(room, arrows, &mut path).then_some(path)
    })
}

/// The room of a file: the first name below `src/`.
pub(crate) fn room(path: &str) -> &str {
    let below = path.strip_prefix("src/").unwrap_or(path);
    below.split('/').next().unwrap_or(below).trim_end_matches(".rs")
}

/// Rooms that production code of a file names, with the line: `crate::x`, `crate::{x, y}`, `tollgate::x` in the
/// binary, and `super::` chains that climb out of the room.
pub(crate) fn uses(source: &Source) -> Vec<(String, usize)> {
    let code = &source.production;
    let mut found = Vec::new();
    let front = if source.path == "src/main.rs" { "tollgate" } else { "crate" };
    for at in words(code, front) {
        let macro_variable = code[..at].ends_with('$');
        let visibility = code[..at].trim_end().ends_with("pub(");
        if let Some(rest) = code[at + front.len()..].strip_prefix("::")
            && !macro_variable
            && !visibility
        {
            found.extend(firsts(rest).into_iter().map(|name| (name, source.line(at))));
        }
    }
    let depth = source.path.trim_start_matches("src/").matches('/').count() + 1;
    let climb = "super::".repeat(depth);
    for (at, _) in code.match_indices(&climb) {
        if !code[..at].ends_with("::") {
            let names = firsts(&code[at + climb.len()..]);
            found.extend(names.into_iter().map(|name| (name, source.line(at))));
        }
    }
    found
}

/// The first name of each path in a use tree: `a::b` → a; `{a, b::{c, d}}` → a, b.
fn firsts(tree: &str) -> Vec<String> {
    let name = |text: &str| text.trim_start().chars().take_while(|c| is_word(*c)).collect::<String>();
    let Some(inner) = tree.trim_start().strip_prefix('{') else { return vec![name(tree)] };
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b',' if depth == 0 => {
                names.push(name(&inner[start..at]));
                start = at + 1;
            }
            b'}' if depth == 0 => {
                names.push(name(&inner[start..at]));
                break;
            }
            b'}' => depth -= 1,
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty() && name != "self");
    names
}

/// What starts a task, a thread or a process.
const SPAWNS: [&str; 7] = [
    "tokio::spawn",
    "task::spawn",
    "spawn_blocking",
    "spawn_local",
    "thread::spawn",
    "Command::new",
    ".spawn(",
];

/// Functions of a file that start a task, a thread or a process, each once, with the line of the first.
pub(crate) fn spawns(source: &Source) -> Vec<(String, usize)> {
    let functions = source.functions();
    let mut sites: BTreeMap<String, usize> = BTreeMap::new();
    for token in SPAWNS {
        for at in words(&source.production, token) {
            let name = functions
                .iter()
                .filter(|function| function.body.contains(&at))
                .min_by_key(|function| function.body.len())
                .map_or("(outside functions)", |function| function.name.as_str());
            let line = source.line(at);
            let first = sites.entry(name.to_owned()).or_insert(line);
            *first = line.min(*first);
        }
    }
    sites.into_iter().collect()
}

/// Files of the `spawns` block, one for each line, with the line's number. A line is `file — what — who ends it`.
pub(crate) fn listed_spawns(text: &str) -> Result<Vec<(String, usize)>, String> {
    let lines = block(text, "spawns")
        .ok_or("src/lib.rs: no block titled `spawns` (```text spawns) in its `//!` head")?;
    lines
        .into_iter()
        .map(|(number, line)| match line.split(" — ").map(str::trim).collect::<Vec<_>>().as_slice() {
            [file, what, end] if !what.is_empty() && !end.is_empty() => Ok(((*file).to_owned(), number)),
            _ => Err(format!("src/lib.rs:{number}: `{line}` is not `file — what — who ends it`")),
        })
        .collect()
}

#[test]
fn blocks_are_found_by_title() {
    let text = "//! Head.\n//! ```text\n//! a -> b\n//! ```\n//! ```text arrows\n//! a   -> b c\n//!\n//! b ->\n//! app -> *\n//! ```\n";
    let arrows = arrows(text).unwrap();
    assert_eq!(arrows["a"], Some(BTreeSet::from(["b".to_owned(), "c".to_owned()])));
    assert_eq!((arrows["b"].clone(), arrows["app"].clone()), (Some(BTreeSet::new()), None));
    assert!(super::map::arrows("//! ```text arrows\n//! a b\n//! ```\n").unwrap_err().contains("lib.rs:2"));
    assert!(super::map::arrows("//! Nothing.\n").is_err());
}

#[test]
fn cycles_are_found() {
    let table = |lines: &str| arrows(&format!("//! ```arrows\n{lines}//! ```\n")).unwrap();
    assert_eq!(cycle(&table("//! a -> b\n//! b -> c\n//! c ->\n//! app -> *\n")), None);
    assert_eq!(
        cycle(&table("//! a -> b\n//! b -> c\n//! c -> b\n")),
        Some(vec!["b".to_owned(), "c".to_owned()])
    );
}

#[test]
fn every_way_to_name_a_room_is_seen() {
    let check = |path: &str, code: &str, expected: &[&str]| {
        let names: Vec<String> =
            uses(&Source::new(path, code.to_owned())).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, expected, "{code}");
    };
    check("src/a.rs", "use crate::hub::Hub; fn f(x: crate::mcp::Id) {}", &["hub", "mcp"]);
    check(
        "src/a.rs",
        "use crate::{auth::{self, Caller}, limit, mcp::{Id, Method}};",
        &["auth", "limit", "mcp"],
    );
    check("src/a.rs", "pub(crate) fn f() {} // crate::hub\nmacro_rules! m { () => { $crate::hub } }", &[]);
    check("src/a.rs", "use super::hub; mod b { use super::x; }", &["hub", "x"]);
    check("src/a/b.rs", "use super::c; use super::super::hub::X;", &["hub"]);
    check("src/main.rs", "fn main() { tollgate::app::run() }", &["app"]);
    check("src/a.rs", "#[cfg(test)]\nmod tests { use crate::hub; }", &[]);
}

#[test]
fn one_site_for_each_function_that_spawns() {
    let code = "fn start() { let c = Command::new(p); c.spawn() ; c.spawn(x); }\nfn b() { tokio::spawn(async {}); }\nfn c() { respawn(1); }\n";
    let names: Vec<(String, usize)> = spawns(&Source::new("src/a.rs", code.to_owned()));
    assert_eq!(names, [("b".to_owned(), 2), ("start".to_owned(), 1)]);
    let listed = listed_spawns("//! ```text spawns\n//! src/a.rs — a child — its guard\n//! ```\n").unwrap();
    assert_eq!(listed, [("src/a.rs".to_owned(), 2)]);
    assert!(listed_spawns("//! ```text spawns\n//! src/a.rs — a child\n//! ```\n").is_err());
}
