//! Every dependency has a licence that `deny.toml` allows, and none is banned there.
//! Not here: the lists themselves (`deny.toml`); advisories and duplicates, which `cargo deny check` reports where it is installed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test stops at the first thing that is wrong, and asks cargo"
)]

use std::process::Command;

use serde_json::Value;

/// The quoted strings of one array of one section of `deny.toml`. Tables in it give their `crate` (or `name`).
fn list(toml: &str, section: &str, key: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut inside, mut open) = (false, false);
    for line in toml.lines().map(str::trim) {
        if line.starts_with('[') && !open {
            inside = line == format!("[{section}]");
        }
        let mut rest = line;
        if inside && !open {
            let Some(value) = line.strip_prefix(key).and_then(|rest| rest.trim_start().strip_prefix('='))
            else {
                continue;
            };
            (open, rest) = (true, value.trim_start().trim_start_matches('['));
        }
        if open && !rest.starts_with('#') {
            for entry in
                rest.split('{').flat_map(|part| part.split_once('}').map_or(vec![part], |(a, b)| vec![a, b]))
            {
                let table = ["crate", "name"]
                    .into_iter()
                    .find_map(|key| entry.split_once(key)?.1.trim_start().strip_prefix('='));
                match table {
                    Some(value) => found.extend(quoted(value).into_iter().take(1)),
                    None => found.extend(quoted(entry)),
                }
            }
            open = !rest.contains(']');
        }
    }
    found
}

fn quoted(text: &str) -> Vec<String> {
    text.split('#').next().unwrap_or_default().split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether an SPDX expression is met by the allowed licences. `/` is the old way to write `OR`.
fn allows(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any(&words, &mut at, allowed);
    assert_eq!(at, words.len(), "not an SPDX expression: {expression}");
    met
}

fn any(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = all(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all(words, at, allowed);
    }
    met
}

fn all(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let word = words.get(*at).copied().unwrap_or_default();
    *at += 1;
    if word == "(" {
        let met = any(words, at, allowed);
        *at += 1;
        return met;
    }
    let mut licence = word.to_owned();
    if words.get(*at) == Some(&"WITH") {
        licence = format!("{word} WITH {}", words[*at + 1]);
        *at += 2;
    }
    allowed.contains(&licence)
}

fn metadata() -> Value {
    let said = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    serde_json::from_slice(&said.stdout).unwrap()
}

#[test]
fn dependencies_have_allowed_licences_and_none_is_banned() {
    let toml = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml")).expect("deny.toml");
    let (allowed, banned) = (list(&toml, "licenses", "allow"), list(&toml, "bans", "deny"));
    assert!(
        allowed.contains(&"MIT".to_owned()) && !banned.is_empty(),
        "deny.toml was not understood: {allowed:?} {banned:?}"
    );
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50, "{} packages", packages.len());
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        // A ban may name a version, as in `openssl@0.10`: here any version counts.
        if banned.iter().any(|ban| ban.split(['@', ':']).next() == Some(name)) {
            wrong.push(format!("{name} is banned in deny.toml"));
        }
        match package["license"].as_str() {
            Some(licence) if allows(licence, &allowed) => {}
            licence => wrong.push(format!("{name} has licence {licence:?}, which deny.toml does not allow")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn expressions_are_read_as_spdx_says() {
    let allowed = ["MIT".to_owned(), "BSD-3-Clause".to_owned(), "Apache-2.0 WITH LLVM-exception".to_owned()];
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("(GPL-3.0 OR MIT) AND BSD-3-Clause", true),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
        ("GPL-3.0 OR MIT AND GPL-2.0", false),
    ] {
        assert_eq!(allows(expression, &allowed), expected, "{expression}");
    }
}

#[test]
fn lists_are_read_from_the_file() {
    let toml = r#"
        [licenses]
        # allow = ["GPL-3.0"]
        allow = [
            "MIT", # the usual
            # "GPL-2.0",
            "ISC",
        ]
        [bans]
        deny = [
            { crate = "openssl", reason = "rustls only" },
            { name = "serde_yml" }, "native-tls",
        ]
        [sources]
        allow = ["elsewhere"]
    "#;
    assert_eq!(list(toml, "licenses", "allow"), ["MIT", "ISC"]);
    assert_eq!(list(toml, "bans", "deny"), ["openssl", "serde_yml", "native-tls"]);
}

/// HTTP/2 before 0.4.16 lets a client's empty or reset frames pile up (RUSTSEC-2026-0258); Pingora asks for less.
#[test]
fn http2_is_not_older_than_what_bounds_its_frames() {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    let of_h2 = |entry: &&str| entry.lines().any(|line| line == "name = \"h2\"");
    let versions: Vec<Vec<u32>> = lock
        .split("[[package]]")
        .filter(of_h2)
        .map(|entry| entry.lines().find_map(|line| line.strip_prefix("version = ")).unwrap())
        .map(|version| version.trim_matches('"').split('.').map(|part| part.parse().unwrap()).collect())
        .collect();
    assert!(
        !versions.is_empty() && versions.iter().all(|version| *version >= vec![0, 4, 16]),
        "{versions:?}"
    );
}
