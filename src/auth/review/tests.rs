//! Golden reviews (`tests/golden/policy/review*.case`): configuration, catalog, what is warned of.
//! Not here: warnings of one file (`tests/golden/catalog`, `tests/golden/conf`).

use std::fmt::Write as _;
use std::path::Path;

use super::*;
use crate::conf::{self, Sources};

#[expect(clippy::disallowed_methods, reason = "the switch that expect-test has, too")]
#[test]
fn golden() {
    const LINE: &str = "\n----------\n";
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/policy");
    let mut count = 0;
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if !path.file_name().unwrap().to_str().unwrap().starts_with("review") {
            continue;
        }
        count += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        let [settings, servers, wanted] = text.split(LINE).collect::<Vec<_>>()[..] else {
            panic!("three parts")
        };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tollgate.yaml");
        std::fs::write(&file, settings).unwrap();
        let loaded = conf::load(Sources { file: Some(file), ..Sources::default() });
        let conf = loaded.unwrap_or_else(|mistakes| panic!("{mistakes}")).conf;
        let catalog = crate::catalog::parse(servers, "catalog.yaml", Path::new("/"), 1, &|_| None);
        let catalog = catalog.unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let mut found = String::new();
        for warning in review(&conf, &catalog).list {
            writeln!(found, "{warning}").unwrap();
        }
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, format!("{settings}{LINE}{servers}{LINE}{found}")).unwrap();
        } else {
            assert!(found == wanted, "{}:\n--- wanted\n{wanted}\n--- found\n{found}", path.display());
        }
    }
    assert!(count >= 2, "only {count} cases");
}
