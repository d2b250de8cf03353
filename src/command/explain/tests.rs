//! Golden tables of `explain` (`tests/golden/policy/explain*.case`): configuration, catalog, questions with answers.
//! Not here: tests of the decision (`auth/policy/tests.rs`).

use std::path::Path;

use clap::Parser as _;

use super::*;
use crate::conf::{Loaded, Sources};

/// A table on disk: its parts, which lines of dashes divide. `UPDATE_EXPECT=1` writes what comes of it.
pub(in crate::command) struct Case {
    path: std::path::PathBuf,
    /// The parts but the last one.
    pub(in crate::command) given: Vec<String>,
    /// The last part.
    pub(in crate::command) wanted: String,
}

const LINE: &str = "\n----------\n";

impl Case {
    /// Every case whose name begins with `prefix`.
    pub(in crate::command) fn all(prefix: &str) -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/policy");
        let mut paths: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix));
        paths.sort();
        paths.into_iter().map(Self::read).collect()
    }

    fn read(path: std::path::PathBuf) -> Self {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut given: Vec<String> = text.split(LINE).map(str::to_owned).collect();
        let wanted = given.pop().unwrap();
        Self { path, given, wanted }
    }

    #[expect(clippy::disallowed_methods, reason = "the switch that expect-test has, too")]
    #[track_caller]
    pub(in crate::command) fn check(&self, found: &str) {
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            let text = format!("{}{LINE}{found}", self.given.join(LINE));
            std::fs::write(&self.path, text).unwrap();
        } else {
            let wanted = &self.wanted;
            assert!(found == wanted, "{}:\n--- wanted\n{wanted}\n--- found\n{found}", self.path.display());
        }
    }
}

/// The configuration of that text.
pub(in crate::command) fn configuration(text: &str) -> Conf {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tollgate.yaml");
    std::fs::write(&file, text).unwrap();
    let loaded = conf::load(Sources { file: Some(file), ..Sources::default() });
    let Loaded { conf, .. } = loaded.unwrap_or_else(|mistakes| panic!("{mistakes}"));
    conf
}

/// The catalog of that text.
pub(in crate::command) fn catalog(text: &str) -> Snapshot {
    let parsed = crate::catalog::parse(text, "catalog.yaml", Path::new("/"), 1, &|_| Some("/bin".into()));
    parsed.unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    question: Question,
}

/// Each line is a question in the words of the command line; `=>` is followed by the first line of its answer.
#[test]
fn golden() {
    let cases = Case::all("explain_table");
    let mut rows = 0;
    for case in &cases {
        let (conf, catalog) = (configuration(&case.given[0]), catalog(&case.given[1]));
        let mut found = String::new();
        for line in case.wanted.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("  =>")) {
            rows += 1;
            let words = std::iter::once("explain").chain(line.split_whitespace());
            let asked =
                Line::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}")).question;
            let told = match answer(&conf, &catalog, &asked) {
                Ok(answer) => {
                    let (word, why) = answer.outcome();
                    assert_eq!(answer.is_allowed(), word == "yes");
                    assert_eq!(answer.json()["answer"], word);
                    format!("{word}: {why}")
                }
                Err(failure) => failure,
            };
            writeln!(found, "{line}\n  => {told}").unwrap();
        }
        case.check(&found);
    }
    assert!(rows >= 40, "only {rows} rows");
}

/// Whole answers, as they are printed.
#[test]
fn golden_texts() {
    let cases = Case::all("explain_text");
    assert!(!cases.is_empty());
    for case in cases {
        let (conf, catalog) = (configuration(&case.given[0]), catalog(&case.given[1]));
        let mut found = String::new();
        for line in case.wanted.lines().filter(|line| line.starts_with("$ ")) {
            let words = std::iter::once("explain").chain(line.trim_start_matches("$ ").split_whitespace());
            let asked = Line::try_parse_from(words).unwrap().question;
            let told =
                answer(&conf, &catalog, &asked).map_or_else(|failure| failure + "\n", |a| a.to_string());
            write!(found, "{line}\n{told}").unwrap();
        }
        case.check(&found);
    }
}
