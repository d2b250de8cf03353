//! The official conformance suite, check by check: through the gateway as good as directly.
//! Not here: the comparison (`tests/interop/conformance.mjs`), the server under it (`tests/interop/fixture`).

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::gateway::Gateway;
use crate::packages::{self, Said, Server};

/// Two suites of 3 to 6 seconds, each with a deadline of its own.
const SUITES: Duration = Duration::from_secs(400);

#[track_caller]
fn compare(direct: &str, through: &str, more: &[&str]) -> Said {
    let mut command = Command::new(packages::node());
    command
        .arg(packages::folder().join("conformance.mjs"))
        .args(["--direct", direct, "--through", through])
        .args(more);
    packages::run(command, SUITES)
}

#[track_caller]
fn no_regression(requirements: &str) {
    let fixture = Server::fixture();
    let catalog =
        json!({"servers": [{"id": "fixture", "runtime": {"type": "remote-http", "url": fixture.url}}]});
    let gateway = Gateway::start(&catalog.to_string());
    let said = compare(&fixture.url, &gateway.url("fixture"), &["--requirements", requirements]);
    assert!(said.status.success(), "{}{}", said.stdout, said.stderr);
    assert!(said.stdout.contains("no regression"), "{}", said.stdout);
    gateway.stop();
}

#[test]
fn requirements_2025_11_25_are_met_as_directly() {
    no_regression("2025-11-25");
}

#[test]
fn requirements_2026_07_28_are_met_as_directly() {
    no_regression("2026-07-28");
}

#[test]
fn the_comparison_notices_a_regression() {
    let fixture = Server::fixture();
    let nowhere = fixture.url.replace("/mcp", "/nowhere");
    let said = compare(&fixture.url, &nowhere, &["--requirements", "2025-11-25", "--scenario", "ping"]);
    assert_eq!(said.status.code(), Some(1), "{}{}", said.stdout, said.stderr);
    assert!(said.stdout.contains("WORSE ping ping: SUCCESS ->"), "{}{}", said.stdout, said.stderr);
}

#[test]
fn the_comparison_refuses_a_baseline_that_is_none() {
    let said = compare(
        "http://127.0.0.1:9/mcp",
        "http://127.0.0.1:9/mcp",
        &["--requirements", "2025-11-25", "--scenario", "ping"],
    );
    assert_eq!(said.status.code(), Some(2), "{}{}", said.stdout, said.stderr);
}
