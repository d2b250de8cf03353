//! Golden cases of catalogs (`tests/golden/catalog/*.case`), and properties of reading them.
//! Not here: tests of single checks, which stand beside them.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// A directory with an executable `bin/mcp`, a file `bin/plain` that is not one, and a directory `sub`.
fn base() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bin")).unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    for (name, mode) in [("token", 0o600), ("exposed", 0o644)] {
        let path = dir.path().join(name);
        std::fs::write(&path, "s3cret-in-a-file\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    for (name, mode) in [("bin/mcp", 0o755), ("bin/npx", 0o755), ("bin/plain", 0o644)] {
        let path = dir.path().join(name);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    dir
}

fn variable(name: &str) -> Option<String> {
    let value = match name {
        "PATH" => "bin",
        "SECRET" => "s3cret",
        "TOKEN" => "s3cret-token",
        "PORT" => "8080",
        "COUNT" => "3",
        "YES" => "true",
        "EMPTY" => "",
        "BAD_HEADER" => "two\nlines",
        _ => return None,
    };
    Some(value.to_owned())
}

/// What a server gets that says nothing of it.
const BREAKER: Breaker = Breaker {
    failures: 5,
    error_rate: 50,
    calls: 20,
    window: Duration::from_secs(10),
    open_for: Duration::from_secs(60),
    probes: 3,
    eject_for: Duration::from_secs(5),
    eject_for_max: Duration::from_secs(30),
    ejected_max: 50,
    slow_start: Duration::from_secs(10),
};
const RETRY: Retry = Retry { max: 3, budget: 20, pause: Duration::from_millis(100) };

fn render(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    for server in &snapshot.servers {
        let off = if server.enabled { "" } else { " (disabled)" };
        writeln!(out, "{} \"{}\"{off}", server.id, server.display_name).unwrap();
        if let Some(text) = &server.description {
            writeln!(out, "  description: {text}").unwrap();
        }
        if !server.tags.is_empty() {
            writeln!(out, "  tags: {}", server.tags.join(", ")).unwrap();
        }
        if !server.metadata.is_empty() {
            writeln!(out, "  metadata: {}", serde_json::to_string(&server.metadata).unwrap()).unwrap();
        }
        match &server.runtime {
            Runtime::Local(local) => {
                writeln!(out, "  local: {} {:?}", local.program.display(), local.args).unwrap();
                writeln!(out, "  in: {} env: {:?}", local.working_dir.display(), local.env).unwrap();
                writeln!(out, "  instances: {} idle_timeout: {:?}", local.instances, local.idle_timeout)
                    .unwrap();
                if let Some(profile) = &local.sandbox {
                    writeln!(out, "  {profile:?}").unwrap();
                }
                if local.children != Children::default() {
                    writeln!(out, "  {:?}", local.children).unwrap();
                }
            }
            Runtime::Remote(remote) => {
                for endpoint in &remote.endpoints {
                    let drain = if endpoint.drain { " drains" } else { "" };
                    writeln!(out, "  {:?}: {} weight {}{drain}", remote.kind, endpoint.url, endpoint.weight)
                        .unwrap();
                }
                for (name, value) in &remote.headers {
                    assert!(value.is_sensitive(), "{name} would be seen in logs");
                    writeln!(out, "  header {name}: {}", value.to_str().unwrap()).unwrap();
                }
                if let Some(credential) = &remote.credential {
                    writeln!(out, "  {credential:?}").unwrap();
                }
                writeln!(out, "  {:?}", remote.health).unwrap();
            }
        }
        writeln!(out, "  {:?}", server.timeouts).unwrap();
        if server.required {
            writeln!(out, "  required").unwrap();
        }
        if server.balance != Balance::RoundRobin {
            writeln!(out, "  balance: {:?}", server.balance).unwrap();
        }
        let default = (server.breaker.map(|_| BREAKER), RETRY);
        if matches!(server.runtime, Runtime::Remote(_)) && (server.breaker, server.retry) != default {
            writeln!(out, "  {:?}\n  {:?}", server.breaker, server.retry).unwrap();
        }
        for (name, tool) in &server.tools {
            writeln!(out, "  {name}: {tool:?}").unwrap();
        }
        if let Some(limit) = &server.throttle.limit {
            writeln!(out, "  limit: {}", shared(limit)).unwrap();
        }
        for (name, tool) in &server.throttle.tools {
            let own = tool.limit.as_ref().map_or_else(String::new, shared);
            writeln!(out, "  tool {name}: cost {} {own}", tool.cost).unwrap();
        }
    }
    for rule in &snapshot.rules.list {
        let Rule { name, place, effect, actions, who, servers, items } = rule;
        let actions: Vec<&str> =
            [(actions.list, "list"), (actions.call, "call"), (actions.read, "read"), (actions.get, "get")]
                .into_iter()
                .filter_map(|(given, name)| given.then_some(name))
                .collect();
        writeln!(out, "{name} ({place}): {effect:?} {} on {:?}", actions.join(" "), servers.patterns())
            .unwrap();
        if *who != Who::default() {
            writeln!(out, "  {who:?}").unwrap();
        }
        if *items != Items::All {
            writeln!(out, "  {items:?}").unwrap();
        }
    }
    for warning in &snapshot.warnings.list {
        writeln!(out, "{warning}").unwrap();
    }
    if out.is_empty() { "no servers\n".to_owned() } else { out }
}

fn shared(shared: &Shared) -> String {
    let Shared { limit, each_caller } = shared;
    let rate = limit.rate.map(|rate| format!("{} in {:?}, burst {}", rate.requests, rate.per, rate.burst));
    let flight = limit.in_flight.map(|count| format!("{count} at once"));
    let whose = if *each_caller { "each caller" } else { "all" };
    format!("{} ({whose})", [rate, flight].into_iter().flatten().collect::<Vec<_>>().join(", "))
}

fn outcome(text: &str) -> String {
    let dir = base();
    let outcome = match parse(text, "catalog.yaml", dir.path(), 1, &variable) {
        Ok(snapshot) => render(&snapshot),
        Err(mistakes) => format!("{mistakes}\n"),
    };
    outcome.replace(dir.path().to_str().unwrap(), "{dir}")
}

#[expect(clippy::disallowed_methods, reason = "the switch that expect-test has, too")]
/// Each case is an input, a line of dashes, and what comes of it. `UPDATE_EXPECT=1` writes what comes of it.
#[test]
fn golden() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/catalog");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let cases: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|ext| ext == "case")).collect();
    assert!(cases.len() > 40, "only {} cases found", cases.len());
    for path in cases {
        let text = std::fs::read_to_string(&path).unwrap();
        let (input, wanted) = text.split_once("\n----------\n").unwrap_or((text.trim_end(), ""));
        let found = outcome(&format!("{input}\n"));
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, format!("{input}\n----------\n{found}")).unwrap();
        } else {
            assert!(found == wanted, "{}:\n--- wanted\n{wanted}\n--- found\n{found}", path.display());
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "(?s).{0,200}") {
        let _ = outcome(&text);
    }

    #[test]
    fn any_almost_catalog_is_answered(text in "(servers|id|runtime|a|- |: |\\n  |\\n|\\{|\\}|\\[|\\]|,|&a |\\*a|\"|'|\\$\\{|\\||<<|#|!|%|é|\t){0,40}") {
        let _ = outcome(&text);
    }
}

#[test]
fn alias_bomb_is_refused() {
    let mut text = "x-0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = format!("*a{},", level - 1).repeat(10);
        writeln!(text, "x-{level}: &a{level} [{}]", before.trim_end_matches(',')).unwrap();
    }
    assert!(outcome(&text).contains("more than 1000000 values"), "{}", outcome(&text));
}

#[test]
fn depth_is_bounded() {
    assert!(outcome(&"[".repeat(5_000)).starts_with("catalog.yaml:1:"));
    assert!(outcome(&format!("servers: {}", "{a: ".repeat(100))).starts_with("catalog.yaml:1:"));
}

#[test]
fn files_that_cannot_be_read() {
    let dir = base();
    let path = dir.path().join("catalog.yaml");
    let message = |path: &Path| load(path, 1, &variable).unwrap_err().to_string();
    assert!(message(&path).contains("No such file"), "{}", message(&path));
    assert!(message(dir.path()).contains("not a regular file"));
    std::fs::write(&path, b"servers: []\n# \xff\n").unwrap();
    assert!(message(&path).ends_with("not UTF-8 in line 2"), "{}", message(&path));
    std::fs::write(&path, vec![b'#'; (16 << 20) + 1]).unwrap();
    assert!(message(&path).ends_with("larger than 16 MiB"));
    std::fs::write(&path, "\u{feff}servers: []\r\n").unwrap();
    assert!(load(&path, 1, &variable).unwrap().servers.is_empty());
}

#[test]
fn machine_form_of_mistakes() {
    let dir = base();
    let text = "servers:\n  - id: a\n    runtme: {}\n";
    let mistakes = parse(text, "catalog.yaml", dir.path(), 1, &variable).unwrap_err();
    let json = serde_json::to_value(&mistakes).unwrap();
    assert_eq!(json[0]["file"], "catalog.yaml");
    assert_eq!(json[0]["code"], "missing");
    assert_eq!(
        (&json[1]["line"], &json[1]["column"], &json[1]["code"]),
        (&3.into(), &5.into(), &"unknown_key".into())
    );
    assert_eq!(json[1]["snippet"], "    runtme: {}");
    assert!(json[1]["suggestion"].as_str().unwrap().starts_with("did you mean `runtime`?"));
}

#[test]
fn changes_are_told_in_the_words_of_the_contract() {
    let remote =
        |id: &str, url: &str| format!("  - {{id: {id}, runtime: {{type: remote-http, url: {url}}}}}\n");
    let catalog = |servers: &[String], generation| {
        let text = format!("servers:\n{}", servers.concat());
        parse(&text, "catalog.yaml", Path::new("/"), generation, &variable).unwrap()
    };
    let old = catalog(&[remote("a", "http://a/"), remote("b", "http://b/"), remote("c", "http://c/")], 1);
    let new = catalog(&[remote("c", "http://c/"), remote("b", "http://new/"), remote("d", "http://d/")], 2);
    let changes = new.changes_since(&old);
    assert_eq!(changes.to_string(), "Loaded 3 servers (added: 1, removed: 1, modified: 1, unchanged: 1)");
    assert_eq!(changes.removed[0].as_str(), "a");
    assert!(new.changes_since(&new).is_empty());
    let ruled = |rules: &str| {
        let text = format!("servers: []\n{rules}");
        parse(&text, "catalog.yaml", Path::new("/"), 3, &variable).unwrap()
    };
    let (first, moved, other) = (
        ruled("rules: [{deny: '*'}]\n"),
        ruled("\n# moved\nrules: [{deny: '*'}]\n"),
        ruled("rules: [{deny: [call]}]\n"),
    );
    assert!(moved.changes_since(&first).is_empty());
    assert_eq!(
        other.changes_since(&first).to_string(),
        "Loaded 0 servers (added: 0, removed: 0, modified: 0, unchanged: 0), rules changed"
    );
}
