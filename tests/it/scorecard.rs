//! The scorecard: attacks that are counted, one test or a few for each id of `docs/scorecard.md`.
//! Not here: tests of what honest clients and servers do (the other modules).
//!
//! A test counts its cases, says everything that is wrong at once, and prints one line `PASS id figure`. Each has a
//! positive control: the same attack succeeds against a naive proxy, or with the protection turned off.

mod aborts;
mod bleed;
mod bodies;
mod bombs;
mod callers;
mod clock;
mod commands;
mod crash_loop;
mod descriptors;
mod down;
mod eaters;
mod h2;
mod heads;
mod hijack;
mod hostile;
mod hostile_stdio;
mod json;
mod jwks;
mod keys;
mod kills;
mod leaving;
mod listed;
mod mirrored;
mod once;
#[cfg(debug_assertions)]
mod panics;
mod passthrough;
mod payloads;
mod process_trees;
mod reloads;
mod replacing;
mod replicas;
mod routes;
mod secrets;
mod sites;
mod smuggling;
mod spoofing;
mod tokens;
mod toxics;

use std::io::Write as _;

/// How much there is of something: in `make test`, or in the full form of `make soak`, which sets `SCORECARD=full`.
fn as_much_as<T>(short: T, full: T) -> T {
    if std::env::var("SCORECARD").is_ok_and(|form| form == "full") { full } else { short }
}

/// The cases of one test.
pub(crate) struct Card {
    id: &'static str,
    cases: usize,
    failed: Vec<String>,
}

impl Card {
    /// A test of that id.
    pub(crate) fn new(id: &'static str) -> Self {
        Self { id, cases: 0, failed: Vec::new() }
    }

    /// One case, with what is wrong about it.
    pub(crate) fn case(&mut self, name: &str, complaints: &[String]) {
        self.cases += 1;
        if !complaints.is_empty() {
            self.failed.push(format!("{name}: {}", complaints.join("; ")));
        }
    }

    /// One case that holds or not.
    pub(crate) fn check(&mut self, name: &str, holds: bool, seen: &dyn std::fmt::Debug) {
        let complaints = if holds { Vec::new() } else { vec![format!("{seen:?}")] };
        self.case(name, &complaints);
    }

    /// The end: everything that failed, or the line that says it passed.
    #[track_caller]
    pub(crate) fn pass(self, figure: &str) {
        let Self { id, cases, failed } = self;
        assert!(cases > 0, "{id} has no cases");
        assert!(failed.is_empty(), "{id}: {} of {cases} cases failed\n  {}\n", failed.len(), shown(&failed));
        // Past the capture of the test runner: the line is the result.
        let line = format!("PASS {id} {cases}/{cases} {figure}\n");
        let _ = std::io::stdout().write_all(line.as_bytes());
    }
}

/// The first of what failed, each cut short: enough to see what is wrong, and no more than anybody reads.
fn shown(failed: &[String]) -> String {
    let lines = failed.iter().take(25).map(|line| line.chars().take(700).collect::<String>());
    lines.collect::<Vec<_>>().join("\n  ")
}
