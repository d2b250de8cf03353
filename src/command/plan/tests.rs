//! Golden plans (`tests/golden/policy/plan*.case`): configuration, old catalog, new catalog, what changes.
//! Not here: one decision (`explain`).

use super::super::explain::tests::{Case, catalog, configuration};
use super::*;

#[test]
fn golden() {
    let cases = Case::all("plan");
    let mut rows = 0;
    for case in &cases {
        let [conf, old, new] = &case.given[..] else { panic!("a plan has four parts") };
        let plan = Plan::new(&configuration(conf), &catalog(old), &catalog(new));
        let found = plan.to_string();
        rows += found.lines().count();
        assert_eq!(plan.json()["permissions"].as_array().unwrap().len(), plan.changes.len());
        case.check(&found);
    }
    assert!(rows >= 15, "only {rows} rows");
}

#[test]
fn the_same_catalog_changes_nothing() {
    for case in Case::all("plan") {
        let [conf, old, _] = &case.given[..] else { panic!("a plan has four parts") };
        let plan = Plan::new(&configuration(conf), &catalog(old), &catalog(old));
        assert_eq!(plan.to_string(), "nothing changes for anybody known\n");
    }
}
