//! Rust source as text: code without comments and strings, code without tests, comments, literals, functions.
//! Not here: the rules (`../tidy.rs` and the files beside this one).

use std::ops::Range;
use std::path::{Path, PathBuf};

/// One source file.
pub(crate) struct Source {
    /// Relative to the package, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// `text` with comments and the insides of literals blanked: the same length, the same lines.
    pub(crate) code: String,
    /// `code` with everything under `#[cfg(test)]` blanked too; empty of code for a file of tests.
    pub(crate) production: String,
    pub(crate) comments: Vec<Comment>,
    /// String literals: where the opening quote is in `text`, and what is inside.
    pub(crate) strings: Vec<(usize, String)>,
}

/// One comment, delimiters included. Line comments come one by one.
pub(crate) struct Comment {
    pub(crate) line: usize,
    pub(crate) text: String,
}

impl Comment {
    /// `///`, `//!` and their block forms.
    pub(crate) fn is_doc(&self) -> bool {
        ["///", "//!", "/**", "/*!"].iter().any(|start| self.text.starts_with(start))
    }
}

/// A function with a body.
pub(crate) struct Function {
    pub(crate) name: String,
    /// First and last line.
    pub(crate) lines: (usize, usize),
    pub(crate) body: Range<usize>,
}

impl Source {
    pub(crate) fn new(path: &str, text: String) -> Self {
        let mut source = Self {
            path: path.to_owned(),
            code: String::new(),
            production: String::new(),
            comments: Vec::new(),
            strings: Vec::new(),
            text,
        };
        source.lex();
        source.production = if is_test_file(path) {
            blank(&source.code, 0..source.code.len())
        } else {
            without_tests(&source.code)
        };
        source
    }

    /// The line of a byte offset, from 1.
    pub(crate) fn line(&self, offset: usize) -> usize {
        self.text.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    /// Lines that are not under `#[cfg(test)]`.
    pub(crate) fn lines_without_tests(&self) -> usize {
        let all = self.text.lines().count();
        let tests: usize =
            test_items(&self.code).into_iter().map(|item| self.text[item].lines().count()).sum();
        all - tests
    }

    /// Functions outside tests.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let code = &self.production;
        words(code, "fn")
            .filter_map(|at| {
                let rest = code[at + 2..].trim_start();
                let name: String = rest.chars().take_while(|c| is_word(*c)).collect();
                let open = item_body(code, at + 2)?;
                let close = matching(code, open)?;
                let lines = (self.line(at), self.line(close));
                (!name.is_empty()).then_some(Function { name, lines, body: open..close + 1 })
            })
            .collect()
    }

    fn lex(&mut self) {
        let text = self.text.clone();
        let bytes = text.as_bytes();
        let mut code = bytes.to_vec();
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let end = if rest.starts_with(b"//") {
                let end = at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
                self.comments.push(Comment { line: self.line(at), text: text[at..end].to_owned() });
                hide(&mut code, at..end);
                end
            } else if rest.starts_with(b"/*") {
                let end = at + block_comment(rest);
                self.comments.push(Comment { line: self.line(at), text: text[at..end].to_owned() });
                hide(&mut code, at..end);
                end
            } else if let Some((inside, end)) = literal(bytes, at) {
                self.strings.push((at, text[inside.clone()].to_owned()));
                hide(&mut code, inside);
                end
            } else if let Some(end) = character(bytes, at) {
                hide(&mut code, at + 1..end - 1);
                end
            } else {
                at + 1
            };
            at = end;
        }
        self.code = String::from_utf8(code).unwrap();
    }
}

fn hide(code: &mut [u8], range: Range<usize>) {
    for byte in &mut code[range] {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

fn block_comment(bytes: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < bytes.len() {
        let step = match &bytes[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                2
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}

/// A string literal that starts at `at` (with its prefix): where its inside is and where it ends.
fn literal(bytes: &[u8], at: usize) -> Option<(Range<usize>, usize)> {
    if at > 0 && is_word(bytes[at - 1] as char) {
        return None;
    }
    let prefix = bytes[at..].iter().take(2).take_while(|b| matches!(b, b'b' | b'r' | b'c')).count();
    let raw = bytes[at..at + prefix].contains(&b'r');
    let hashes = if raw { bytes[at + prefix..].iter().take_while(|&&b| b == b'#').count() } else { 0 };
    let open = at + prefix + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let mut end = open + 1;
    while end < bytes.len() {
        match bytes[end] {
            b'\\' if !raw => end += 1,
            b'"' if bytes[end + 1..].iter().take(hashes).filter(|&&b| b == b'#').count() == hashes => break,
            _ => {}
        }
        end += 1;
    }
    let end = end.min(bytes.len());
    Some((open + 1..end, (end + 1 + hashes).min(bytes.len())))
}

/// Where a character literal that starts at `at` ends; `None` for a lifetime.
fn character(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes[at] != b'\'' {
        return None;
    }
    if bytes.get(at + 1) == Some(&b'\\') {
        let close = bytes[at + 3..].iter().position(|&b| b == b'\'')?;
        return Some(at + 3 + close + 1);
    }
    // One character of up to four bytes, then the closing quote.
    let width = match bytes.get(at + 1)? {
        0..0x80 => 1,
        0x80..0xE0 => 2,
        0xE0..0xF0 => 3,
        _ => 4,
    };
    (bytes.get(at + 1 + width) == Some(&b'\'')).then_some(at + width + 2)
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Offsets of `word` in `code`, where it is not part of a longer word.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let starts = word.chars().next().is_some_and(is_word);
        let ends = word.chars().next_back().is_some_and(is_word);
        !(starts && before.is_some_and(is_word) || ends && after.is_some_and(is_word))
    })
}

/// The `{` that opens the body of the item at `from`, or `None` when a `;` ends it first.
fn item_body(code: &str, from: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(at),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// The brace that closes the one at `open`.
fn matching(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// Items under `#[cfg(test)]`, attribute included.
fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut items: Vec<Range<usize>> = Vec::new();
    for (at, attribute) in code.match_indices("#[cfg(test)]") {
        if items.last().is_some_and(|item| item.contains(&at)) {
            continue;
        }
        let from = at + attribute.len();
        let end = match item_body(code, from) {
            Some(open) => matching(code, open).map_or(code.len(), |close| close + 1),
            None => code[from..].find(';').map_or(code.len(), |semicolon| from + semicolon + 1),
        };
        items.push(at..end);
    }
    items
}

fn without_tests(code: &str) -> String {
    test_items(code).into_iter().fold(code.to_owned(), |code, item| blank(&code, item))
}

fn blank(code: &str, range: Range<usize>) -> String {
    let mut bytes = code.as_bytes().to_vec();
    hide(&mut bytes, range);
    String::from_utf8(bytes).unwrap()
}

pub(crate) fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// The package's folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `folder`, sorted by path.
pub(crate) fn read(folder: &str) -> Vec<Source> {
    let mut files = Vec::new();
    collect(&root().join(folder), &mut files);
    files.sort();
    let sources: Vec<Source> = files
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            let relative = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
            Source::new(&relative, text)
        })
        .collect();
    assert!(!sources.is_empty(), "no Rust file below {folder}/: the rules were applied to nothing");
    sources
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}

#[test]
fn comments_and_literals_are_blanked_and_kept() {
    let text = "let a = \"fn x() {\"; // use crate::hub\n/* {{ /* } */ */ let b = r#\"\"}\"#; let c = '{'; let d: &'a str = b\"\\\"}\";";
    let source = Source::new("src/x.rs", text.to_owned());
    assert_eq!(source.code.len(), text.len());
    assert!(
        !source.code.contains('{') && !source.code.contains('}') && !source.code.contains("hub"),
        "{}",
        source.code
    );
    assert!(source.code.contains("let d: &'a str"));
    let inside: Vec<&str> = source.strings.iter().map(|(_, inside)| inside.as_str()).collect();
    assert_eq!(inside, ["fn x() {", "\"}", "\\\"}"]);
    assert_eq!(source.comments.len(), 2);
    assert_eq!(source.comments[1].line, 2);
}

#[test]
fn tests_are_not_production() {
    let text = "fn a() {\n}\n#[cfg(test)]\n#[expect(x)]\nmod tests {\n fn b() { crate::hub::x() }\n}\n#[cfg(test)]\nmod more;\nfn c() {}\n";
    let source = Source::new("src/x.rs", text.to_owned());
    assert!(!source.production.contains("hub"));
    assert_eq!(source.lines_without_tests(), 3);
    let names: Vec<(String, (usize, usize))> =
        source.functions().into_iter().map(|function| (function.name, function.lines)).collect();
    assert_eq!(names, [("a".to_owned(), (1, 2)), ("c".to_owned(), (10, 10))]);
    assert!(Source::new("src/x/tests.rs", "fn a() {}".into()).functions().is_empty());
}

#[test]
fn functions_without_a_body_and_function_pointers_are_no_functions() {
    let text = "trait T { fn a(&self) -> [u8; 2]; fn b(f: fn(u8) -> u8) where X: Y {\n\n} }";
    let source = Source::new("src/x.rs", text.to_owned());
    let names: Vec<String> = source.functions().into_iter().map(|function| function.name).collect();
    assert_eq!(names, ["b"]);
}
