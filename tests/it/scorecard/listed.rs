//! Whether `docs/scorecard.md` tells the truth about itself: every id once, and every test that it names.
//! Not here: the tests it names.

use std::collections::BTreeSet;
use std::path::Path;

/// The blocks of the scorecard and how many ids each has.
const BLOCKS: [(char, usize); 4] = [('S', 21), ('B', 11), ('F', 18), ('L', 9)];
/// What an id's state may be.
const STATES: [&str; 3] = ["passes", "partly", "open"];

fn table() -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/scorecard.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| id") && !line.starts_with("| --"));
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// Names of all functions of our tests, those beside the code included.
fn functions() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"),
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
    ];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(entry).unwrap();
                let names = text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next());
                found.extend(names.map(str::to_owned));
            }
        }
    }
    found
}

#[test]
fn the_scorecard_lists_every_id_once_and_only_tests_that_exist() {
    let (rows, functions) = (table(), functions());
    let mut complaints = Vec::new();
    let wanted: Vec<String> = BLOCKS
        .iter()
        .flat_map(|(block, count)| (1..=*count).map(move |number| format!("{block}{number:02}")))
        .collect();
    let listed: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    if listed != wanted {
        complaints.push(format!("the ids are {listed:?}"));
    }
    for row in &rows {
        let [id, core, _, tests, figure, state] = row.as_slice() else {
            complaints.push(format!("not six cells: {row:?}"));
            continue;
        };
        if !["★", ""].contains(&core.as_str()) || !STATES.contains(&state.as_str()) {
            complaints.push(format!("{id}: core {core:?}, state {state:?}"));
        }
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        for name in &named {
            if !functions.contains(name.rsplit("::").next().unwrap_or_default()) {
                complaints.push(format!("{id}: there is no test {name}"));
            }
        }
        if (state == "open") != named.is_empty() || (state == "passes" && figure.is_empty()) {
            complaints.push(format!("{id}: {state} with {} tests and figure {figure:?}", named.len()));
        }
    }
    let core = rows.iter().filter(|row| row.get(1).is_some_and(|core| core == "★")).count();
    assert!(complaints.is_empty() && core == 41, "{core} core ids\n{}", complaints.join("\n"));
}
