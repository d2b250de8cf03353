//! The command line: what each verb prints where, and its exit code.
//! Not here: which settings and catalogs are right (`tests/golden`), the gateway at work (the other files here).

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::SOON;
use crate::gateway::Gateway;
use crate::packages::{self, Said};

/// Five mistakes of five kinds, in lines 2, 3, 4, 6 and 8.
const MISTAKES: &str = "servers:
  - id: two words
    descripton: typo
    runtime: {type: nonsense}
  - id: one
    runtime: {type: remote-http, url: \"ftp://a\"}
  - id: other
    runtime: {type: local-process, command: tollgate, args: [\"${NOT_SET}\"]}
";

/// Runs `tollgate` in a folder, with nothing of this machine's environment but the folder as home.
#[track_caller]
fn tollgate(folder: &Path, args: &[&str], env: &[(&str, &str)]) -> Said {
    let program = Path::new(env!("CARGO_BIN_EXE_tollgate"));
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).env_clear();
    command.env("HOME", folder).env("PATH", program.parent().unwrap()).envs(env.iter().copied());
    packages::run(command, SOON)
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::with_prefix("tollgate-cli-").unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[test]
fn validate_tells_every_mistake_with_its_place() {
    let folder = folder(&[("catalog.yaml", MISTAKES)]);
    let said = tollgate(folder.path(), &["validate"], &[]);
    assert_eq!((said.status.code(), said.stdout.as_str()), (Some(1), ""), "{}", said.stderr);
    for place in ["2:9", "3:5", "4:21", "6:39", "8:63"] {
        assert!(said.stderr.contains(&format!("catalog.yaml:{place}: ")), "{place} in\n{}", said.stderr);
    }
    assert!(said.stderr.contains("did you mean `description`?"), "{}", said.stderr);
    assert!(said.stderr.contains("  3 |     descripton: typo\n"), "no snippet in\n{}", said.stderr);
    assert!(said.stderr.trim_end().ends_with("5 mistakes"), "{}", said.stderr);
}

#[test]
fn validate_tells_programs_the_same() {
    let folder = folder(&[("catalog.yaml", MISTAKES)]);
    let said = tollgate(folder.path(), &["validate", "--format", "json"], &[]);
    assert_eq!((said.status.code(), said.stderr.as_str()), (Some(1), ""));
    let told: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(told["ok"], false);
    let mistakes = told["mistakes"].as_array().unwrap();
    let lines: Vec<u64> = mistakes.iter().map(|mistake| mistake["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [2, 3, 4, 6, 8]);
    for mistake in mistakes {
        assert!(mistake["file"].as_str().unwrap().ends_with("catalog.yaml"), "{mistake}");
        assert!(mistake["column"].as_u64().unwrap() > 1, "{mistake}");
        for key in ["code", "message", "snippet"] {
            assert!(mistake[key].as_str().is_some_and(|text| !text.is_empty()), "{key} of {mistake}");
        }
    }
    assert!(mistakes[1]["suggestion"].as_str().unwrap().contains("description"), "{}", mistakes[1]);
}

#[test]
fn validate_likes_what_is_right() {
    let files = [("catalog.yaml", "mcpServers:\n  a: {url: \"http://127.0.0.1:9/mcp\"}\n")];
    let folder = folder(&files);
    let said = tollgate(folder.path(), &["validate"], &[]);
    assert_eq!((said.status.code(), said.stdout.as_str()), (Some(0), "ok: catalog.yaml, 1 servers\n"));
    let said = tollgate(folder.path(), &["validate", "--format", "json"], &[]);
    let told: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((said.status.code(), told), (Some(0), json!({"ok": true, "servers": 1, "mistakes": []})));
}

#[test]
fn validate_tells_warnings_and_is_strict_when_asked() {
    let settings = "auth: {keys: [{name: a, key: 9f86d081884c7d659a2feaa0c55ad015, servers: [], expires: 2020-01-01}]}\n";
    let folder = folder(&[("tollgate.yaml", settings), ("catalog.yaml", "servers: []\n")]);
    let said = tollgate(folder.path(), &["validate"], &[]);
    assert_eq!((said.status.code(), said.stdout.as_str()), (Some(0), "ok: catalog.yaml, 0 servers\n"));
    assert!(
        said.stderr.contains("tollgate.yaml:1:86: warning: a credential whose time is over"),
        "{}",
        said.stderr
    );
    assert!(said.stderr.trim_end().ends_with("1 warning"), "{}", said.stderr);
    let said = tollgate(folder.path(), &["validate", "--strict"], &[]);
    assert_eq!((said.status.code(), said.stdout.as_str()), (Some(1), ""));
    for (strict, code) in [(None, 0), (Some("--strict"), 1)] {
        let mut args = vec!["validate", "--format", "json"];
        args.extend(strict);
        let said = tollgate(folder.path(), &args, &[]);
        let told: Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!((said.status.code(), &told["ok"]), (Some(code), &json!(code == 0)));
        assert_eq!(
            (&told["mistakes"][0]["severity"], &told["mistakes"][0]["code"]),
            (&json!("warning"), &json!("expired"))
        );
    }
    // What is wrong with the catalog hides nothing that is to be said of the configuration.
    std::fs::write(folder.path().join("catalog.yaml"), MISTAKES).unwrap();
    let said = tollgate(folder.path(), &["validate"], &[]);
    assert!(said.stderr.trim_end().ends_with("5 mistakes, 1 warning"), "{}", said.stderr);
}

#[test]
fn run_logs_what_validate_warns_of() {
    let settings = "listeners: [{name: inside, listen: '127.0.0.1:0', kinds: [jwt]}]\nlog: {format: json}\n";
    let gateway = Gateway::with("servers: []")
        .conf(settings)
        .args(&["run", "-c", "tollgate.yaml", "--catalog", "catalog.yaml"])
        // Set but empty is as if it were not set; beside `listeners` it would be a mistake.
        .env("TOLLGATE_LISTEN", "")
        .start();
    let told = gateway.wait_for_log("the warning", SOON, |line| {
        let is_warning = line["level"] == "WARN" && line.to_string().contains("tollgate.yaml:1:");
        is_warning.then(|| line.to_string())
    });
    assert!(told.contains("`auth` knows nobody of this kind"), "{told}");
    gateway.stop();
}

#[test]
fn a_new_key_is_told_once_and_what_is_to_be_pasted_fits() {
    let folder = folder(&[("catalog.yaml", "servers: []\n")]);
    let args =
        ["key", "new", "--name", "a: \"b\" # c", "--owner", "ops", "--servers", "a,*", "--scopes", "x,y"];
    let said = tollgate(folder.path(), &args, &[]);
    assert_eq!((said.status.code(), said.stderr.as_str()), (Some(0), ""));
    let (key, snippet) = said.stdout.split_once('\n').unwrap();
    assert!(key.starts_with("tollgate_") && key.is_ascii() && !key.contains(' '), "{key}");
    assert!(!snippet.contains(key), "{snippet}");
    let again = tollgate(folder.path(), &args, &[]);
    assert_ne!(again.stdout.split_once('\n').unwrap().0, key);
    // Pasted, with the key itself beside it: the digest is the key's.
    let item = snippet.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let item = item.replace(r#"["a","*"]"#, r#"["a"]"#);
    let paste = |more: &str| {
        std::fs::write(folder.path().join("tollgate.yaml"), format!("auth:\n  keys:\n{item}{more}")).unwrap();
        tollgate(folder.path(), &["validate"], &[])
    };
    assert_eq!(paste("").status.code(), Some(0), "{item}");
    let said = paste(&format!("    - {{name: twice, key: {key}, servers: []}}\n"));
    assert!(said.stderr.contains("the same key twice"), "{}", said.stderr);

    let said = tollgate(folder.path(), &["key", "new", "--format", "json"], &[]);
    let told: Value = serde_json::from_str(&said.stdout).unwrap();
    assert!(told["entry"]["hash"].as_str().unwrap().starts_with("sha256:"), "{told}");
    assert_eq!(told["entry"]["servers"], json!([]));
    assert!(told["entry"]["name"].as_str().unwrap().starts_with("key-"), "{told}");
}

#[test]
fn run_does_not_start_on_mistakes() {
    let broken = folder(&[("catalog.yaml", MISTAKES)]);
    let said = tollgate(broken.path(), &["run", "--listen", "127.0.0.1:0"], &[]);
    assert_eq!(said.status.code(), Some(1));
    assert!(said.stderr.contains("5 mistakes"), "{}", said.stderr);
    let empty = folder(&[("tollgate.yaml", "lisen: 127.0.0.1:0\n")]);
    let said = tollgate(empty.path(), &["run"], &[]);
    assert_eq!(said.status.code(), Some(1));
    assert!(
        said.stderr.contains("tollgate.yaml:1:1: ") && said.stderr.contains("`listen`"),
        "{}",
        said.stderr
    );
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = tollgate(folder(&[]).path(), &["run", "--listen", &address], &[]);
    assert_eq!(said.status.code(), Some(1));
    assert!(said.stderr.contains(&format!("cannot listen on {address}")), "{}", said.stderr);
}

#[test]
fn schemas_are_draft_07_and_whole() {
    let folder = folder(&[]);
    for (of, known) in [("catalog", "mcpServers"), ("config", "listen")] {
        let said = tollgate(folder.path(), &["schema", of], &[]);
        assert_eq!(said.status.code(), Some(0), "{}", said.stderr);
        let schema: Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
        assert!(schema["properties"][known].is_object(), "{of} knows no {known}");
        check_schema(&schema, &schema, of);
    }
}

/// What draft-07 asks of every schema in a schema, as far as an editor would stumble over it.
fn check_schema(root: &Value, schema: &Value, at: &str) {
    if schema.is_boolean() {
        return;
    }
    let object = schema.as_object().unwrap_or_else(|| panic!("{at}: {schema} is no schema"));
    for (key, value) in object {
        let at = format!("{at}/{key}");
        match key.as_str() {
            "$defs" | "dependentSchemas" | "unevaluatedProperties" | "prefixItems" => {
                panic!("{at} is of a later draft")
            }
            "$ref" => {
                let path = value.as_str().and_then(|path| path.strip_prefix('#')).unwrap();
                assert!(root.pointer(path).is_some(), "{at}: {path} leads nowhere");
            }
            "properties" | "definitions" | "patternProperties" => {
                for (name, inner) in value.as_object().unwrap() {
                    check_schema(root, inner, &format!("{at}/{name}"));
                }
            }
            "items" | "additionalProperties" | "not" => check_schema(root, value, &at),
            "anyOf" | "oneOf" | "allOf" => {
                let all = value.as_array().unwrap();
                assert!(!all.is_empty(), "{at} is empty");
                all.iter().for_each(|inner| check_schema(root, inner, &at));
            }
            "required" | "enum" => assert!(value.is_array(), "{at}"),
            "type" => {
                let known = ["null", "boolean", "object", "array", "number", "string", "integer"];
                let types = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
                let is_known = |one: &Value| one.as_str().is_some_and(|one| known.contains(&one));
                assert!(types.iter().all(is_known), "{at}: {value}");
            }
            _ => {}
        }
    }
}

#[test]
fn config_show_says_where_values_come_from_and_keeps_secrets() {
    let settings = "threads: 3\nauth:\n  keys:\n    - {name: alice, key: \"${KEY}\", servers: [a]}\nsession: {key: 3f1b7c52a9d04e8f6b21c7d5e0934fa81c6e2b9d7f40a35e8b1d6c92f7a04e53}\n";
    let folder = folder(&[("tollgate.yaml", settings)]);
    let env = [("KEY", "Rq7vB2mX9kT4wZ6n-all"), ("TOLLGATE_LOG_LEVEL", "debug")];
    let args = ["config", "show", "--listen", "127.0.0.1:0"];
    let said = tollgate(folder.path(), &args, &env);
    assert_eq!(said.status.code(), Some(0), "{}", said.stderr);
    let line = |text: &str| {
        let line = said.stdout.lines().find(|line| line.trim_start().starts_with(text));
        line.unwrap_or_else(|| panic!("no {text} in\n{}", said.stdout))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(line("listen:"), "listen: 127.0.0.1:0 # --listen");
    assert_eq!(line("threads:"), "threads: 3 # tollgate.yaml:1");
    assert_eq!(line("level:"), "level: debug # TOLLGATE_LOG_LEVEL");
    assert_eq!(line("drain:"), "drain: 25s # default");
    assert_eq!(line("keys:"), "keys: [{name: alice, key: \"***\", servers: [a]}] # tollgate.yaml:4");
    let json = tollgate(folder.path(), &[&args[..], &["--format", "json"]].concat(), &env);
    let told: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(told["listen"], json!({"value": "127.0.0.1:0", "origin": "--listen"}));
    assert_eq!(told["session.key"]["value"], "***");
    for text in [&said.stdout, &said.stderr, &json.stdout, &json.stderr] {
        assert!(!text.contains("Rq7vB2mX9kT4wZ6n") && !text.contains("3f1b7c52"), "a secret in\n{text}");
    }
}

#[test]
fn upgrade_says_why_nobody_can_be_asked() {
    let folder = folder(&[("tollgate.yaml", "drain: 1s\n"), ("wrong.yaml", "drain: soon\n")]);
    let state = folder.path().join("state");
    let ask = |more: &[&str]| {
        let mut args = vec!["upgrade", "--state-dir", state.to_str().unwrap()];
        args.extend(more);
        let said = tollgate(folder.path(), &args, &[]);
        assert_eq!((said.status.code(), said.stdout.as_str()), (Some(1), ""), "{}", said.stderr);
        said.stderr
    };
    assert!(ask(&[]).contains("no gateway runs on the state directory"));
    assert!(ask(&["--pid", "0"]).contains("0 is no process id"));
    assert!(ask(&["--pid", "4194303"]).contains("there is no process 4194303"));
    assert!(ask(&["-c", "wrong.yaml"]).contains("wrong.yaml:1:8"), "it is looked at before anybody is asked");
}

#[test]
fn healthcheck_tells_by_its_exit_code() {
    let gateway = Gateway::bare().start();
    let here = folder(&[]);
    let address = gateway.address().to_string();
    let said = tollgate(here.path(), &["healthcheck"], &[("TOLLGATE_LISTEN", &address)]);
    assert_eq!((said.status.code(), said.stdout.as_str(), said.stderr.as_str()), (Some(0), "", ""));
    // A gateway that listens everywhere is asked on loopback.
    let everywhere = format!("0.0.0.0:{}", gateway.address().port());
    assert_eq!(tollgate(here.path(), &["healthcheck", "--listen", &everywhere], &[]).status.code(), Some(0));
    gateway.stop();
    let said = tollgate(here.path(), &["healthcheck", "--listen", &address], &[]);
    assert_eq!(said.status.code(), Some(1));
    assert!(said.stderr.starts_with(&format!("not ready: {address}: ")), "{}", said.stderr);
}

#[test]
fn completion_version_and_wrong_usage() {
    let here = folder(&[]);
    let version = tollgate(here.path(), &["--version"], &[]);
    assert_eq!(version.stdout, format!("tollgate {}\n", env!("CARGO_PKG_VERSION")));
    let bash = tollgate(here.path(), &["completion", "bash"], &[]);
    assert_eq!(bash.status.code(), Some(0));
    std::fs::write(here.path().join("completion"), &bash.stdout).unwrap();
    let mut shell = Command::new("bash");
    let offered = "COMP_WORDS=(tollgate va) COMP_CWORD=1; . ./completion; _tollgate tollgate va tollgate; printf '%s\\n' \"${COMPREPLY[@]}\"";
    shell.args(["-euc", offered]).current_dir(here.path());
    let said = packages::run(shell, SOON);
    assert_eq!(said.stdout, "validate\n", "{}", said.stderr);
    for args in [&["rnu"][..], &["run", "--no-such-flag"], &[]] {
        let said = tollgate(here.path(), args, &[]);
        assert_eq!(said.status.code(), Some(2), "{args:?}");
        assert!(said.stderr.contains("Usage: tollgate"), "{args:?}: {}", said.stderr);
    }
}

#[test]
fn without_credentials_it_keeps_to_loopback_and_says_why() {
    let gateway = Gateway::bare().env("TOLLGATE_LISTEN", "0.0.0.0:0").start();
    assert!(gateway.address().ip().is_loopback(), "{}", gateway.address());
    let log = gateway.log();
    let line = log.lines().find(|line| line.contains("loopback only")).expect("it does not say so");
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["level"], &line["asked"]), (&json!("WARN"), &json!("0.0.0.0:0")), "{line}");
    let message = line["message"].as_str().unwrap();
    assert!(message.contains("no credential is configured") && message.contains("auth.keys"), "{message}");
}
