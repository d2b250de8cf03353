//! Golden cases of configurations (`tests/golden/conf/*.case`), and that generated files are fresh.
//! Not here: tests of single checks, which stand beside them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use proptest::prelude::*;

use super::load::load_in;
use super::*;

/// Files that cases refer to: certificates with their keys, an authority, keys of issuers, and secrets.
static FILES: LazyLock<Vec<(&str, String)>> = LazyLock::new(|| {
    let [one, other] = [0, 1].map(|_| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());
    let mut over = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    over.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let over = over.self_signed(&one.signing_key).unwrap();
    vec![
        ("cert.pem", one.cert.pem()),
        ("over.pem", over.pem()),
        ("key.pem", one.signing_key.serialize_pem()),
        ("other-key.pem", other.signing_key.serialize_pem()),
        ("public.pem", one.signing_key.public_key_pem()),
        ("jwks.json", r#"{"keys": [{"kty": "OKP"}]}"#.to_owned()),
        ("empty.json", r#"{"keys": []}"#.to_owned()),
        ("secret", "kqXv7-from-a-file-2p9LsW\n".to_owned()),
        ("long-secret", "kqXv7Zt1R9pLs4Wm2Yb8kqXv7Zt1R9pLs4Wm2Yb8\n".to_owned()),
    ]
});

fn write_files(dir: &Path) {
    for (name, text) in FILES.iter() {
        std::fs::write(dir.join(name), text).unwrap();
        std::fs::set_permissions(dir.join(name), Permissions::from_mode(0o600)).unwrap();
    }
    std::fs::set_permissions(dir.join("secret"), Permissions::from_mode(0o644)).unwrap();
}

/// A case may begin with lines `#env NAME=value` and `#flag listen=…`, and `#show …` for parts of the outcome that are
/// not shown otherwise.
fn outcome(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tollgate.yaml"), text).unwrap();
    write_files(dir.path());
    let mut sources = Sources { file: Some("tollgate.yaml".into()), ..Sources::default() };
    sources.env.push(("HOME".to_owned(), "/home/alice".to_owned()));
    sources.env.push(("XDG_STATE_HOME".to_owned(), "/state".to_owned()));
    let mut shown = Vec::new();
    for line in text.lines() {
        if let Some((name, value)) = line.strip_prefix("#env ").and_then(|rest| rest.split_once('=')) {
            let value = value.replace("{dir}", dir.path().to_str().unwrap());
            sources.env.push((name.to_owned(), value));
        }
        match line.strip_prefix("#flag ").and_then(|rest| rest.split_once('=')) {
            Some(("listen", value)) => sources.flags.listen = Some(value.to_owned()),
            Some(("catalog", value)) => sources.flags.catalog = Some(value.into()),
            Some(("log-level", value)) => sources.flags.log_level = Some(value.to_owned()),
            Some((other, _)) => panic!("no flag {other}"),
            None => {}
        }
        shown.extend(line.strip_prefix("#show "));
    }
    let outcome = match load_in(dir.path(), sources) {
        Ok(loaded) => accepted(&loaded, &shown),
        Err(mistakes) => {
            assert!(
                !mistakes.list.iter().any(|mistake| mistake.message.contains("kqXv7")),
                "a secret is shown"
            );
            format!("{mistakes}\n")
        }
    };
    outcome.replace(dir.path().to_str().unwrap(), "{dir}")
}

fn accepted(loaded: &Loaded, shown: &[&str]) -> String {
    let given = loaded.effective.values.iter().filter(|value| value.origin != "default");
    let effective = Effective { values: given.cloned().collect() };
    let Conf { listeners, catalog, state_dir, access, .. } = &loaded.conf;
    assert!(!format!("{:?}", loaded.conf).contains("kqXv7"), "Debug shows a secret");
    assert!(!loaded.effective.to_string().contains("kqXv7"), "`config show` shows a secret");
    let json = serde_json::to_string(&loaded.effective).unwrap();
    assert!(!json.contains("kqXv7"), "`config show` shows a secret");
    let listen = listeners[0].address;
    let mut out = format!(
        "{effective}=> {listen} {catalog:?} {state_dir:?}\n=> {:?}\n=> {:?}\n",
        access.auth, access.limit
    );
    for part in shown {
        out += &match *part {
            "listeners" => listeners.iter().map(|listener| format!("=> {listener:?}\n")).collect(),
            "classes" => format!("=> {:?}\n", access.classes),
            "address" => format!("=> {:?} {:?}\n", access.address_limit, access.flood),
            "limits" => format!("=> {:?}\n", loaded.conf.limits),
            "log" => format!("=> {:?}\n", loaded.conf.log),
            other => panic!("no part {other}"),
        };
    }
    if !loaded.warnings.is_empty() {
        out += &format!("{}\n", loaded.warnings);
    }
    out
}

#[expect(clippy::disallowed_methods, reason = "the switch that expect-test has, too")]
fn is_update() -> bool {
    std::env::var_os("UPDATE_EXPECT").is_some()
}

/// Each case is an input, a line of dashes, and what comes of it. `UPDATE_EXPECT=1` writes what comes of it.
#[test]
fn golden() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/conf");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let cases: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|ext| ext == "case")).collect();
    assert!(cases.len() > 20, "only {} cases found", cases.len());
    for path in cases {
        let text = std::fs::read_to_string(&path).unwrap();
        let (input, wanted) = text.split_once("\n----------\n").unwrap_or((text.trim_end(), ""));
        let found = outcome(&format!("{input}\n"));
        if is_update() {
            std::fs::write(&path, format!("{input}\n----------\n{found}")).unwrap();
        } else {
            assert!(found == wanted, "{}:\n--- wanted\n{wanted}\n--- found\n{found}", path.display());
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "(listen|listeners|tls|key|kinds|jwt|issuers|anonymous|limit|limits|auth|keys|body|: |\\n  |\\n|- |\\{|\\}|\\[|\\]|\"|'|\\$\\{|é|\t|[ -~]){0,30}") {
        let text = text.replace('#', "");
        let _ = outcome(&text);
    }
}

/// Rewrites a generated file that differs, and fails: the new one wants to be committed.
#[track_caller]
fn ensure_contents(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return;
    }
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    panic!("{file} was not up to date; it has been written anew, commit it");
}

#[test]
fn reference_is_fresh() {
    ensure_contents("conf/tollgate.yaml", &reference::reference());
}

#[test]
fn schemas_are_fresh() {
    let text = |schema| format!("{:#}\n", schema);
    ensure_contents("conf/tollgate.schema.json", &text(schema()));
    ensure_contents("conf/catalog.schema.json", &text(crate::catalog::schema()));
}

fn load_text(text: &str) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tollgate.yaml"), text).unwrap();
    let env = vec![("HOME".to_owned(), "/home/alice".to_owned())];
    load_in(dir.path(), Sources { env, ..Sources::default() }).unwrap()
}

#[test]
fn reference_says_the_defaults() {
    let empty = load_text("");
    let as_it_is = load_text(&reference::reference());
    let is_setting = |line: &&str| line.trim() != "#" && !line.trim().starts_with("# ");
    let reference = reference::reference();
    let settings: Vec<_> =
        reference.lines().filter(is_setting).map(|line| line.replacen('#', "", 1)).collect();
    let uncommented = load_text(&settings.join("\n"));
    assert_eq!(format!("{:?}", empty.conf), format!("{:?}", as_it_is.conf));
    assert_eq!(format!("{:?}", empty.conf), format!("{:?}", uncommented.conf));
    let from_file =
        uncommented.effective.values.iter().filter(|value| value.origin.starts_with("tollgate.yaml:"));
    assert_eq!(from_file.count(), 47, "a setting with a default is not in the reference");
}

#[test]
fn what_config_show_prints_can_be_loaded() {
    let shown = load_text("limit: {requests: 5, per: 1m}\nhosts: [a.example]\n").effective.to_string();
    assert!(shown.contains("# tollgate.yaml:1"), "{shown}");
    assert_eq!(
        load_text(&shown).conf.access.limit.and_then(|limit| limit.rate).map(|rate| rate.requests),
        Some(5)
    );
}

#[test]
fn what_config_show_prints_of_several_listeners_can_be_loaded() {
    let hash = "9f86d081884c7d659a2feaa0c55ad0159f86d081884c7d659a2feaa0c55ad015";
    let text = format!(
        "listeners:\n  - {{name: a, listen: '[::1]:1', doors: [open-mcp], networks: ['::/0']}}\n  - {{name: b, listen: 127.0.0.1:1}}\n\
         auth: {{keys: [{{name: k, hash: 'sha256:{hash}', servers: ['*'], limit_class: gold, expires: 2999-01-01}}],\n  \
         issuers: [{{issuer: i, audience: [x, 'y z'], jwks_url: 'https://i.example/keys', servers: [], claims: {{groups: a.b}}}}]}}\n\
         limit_classes: {{gold: {{requests: 1, per: 3ms, in_flight: 2}}}}\n\
         address_limit: {{requests: 5, per: 1m}}\nlog: {{audit: off}}\n"
    );
    let loaded = load_text(&text);
    let again = load_text(&loaded.effective.to_string());
    assert_eq!(format!("{:?}", loaded.conf), format!("{:?}", again.conf));
    assert_eq!(again.conf.listeners.len(), 2);
}

#[test]
fn without_credentials_only_loopback() {
    let open = load_text("listen: 0.0.0.0:80\n").conf;
    assert_eq!(open.loopback_instead(&open.listeners[0]), Some("127.0.0.1:80".parse().unwrap()));
    let local = load_text("listen: '[::1]:80'\n").conf;
    assert_eq!(local.loopback_instead(&local.listeners[0]), None);
    let key = "auth: {keys: [{name: a, key: 9f86d081884c7d659a2feaa0c55ad015, servers: ['*']}]}\n";
    let keyed = load_text(&format!("listen: 0.0.0.0:80\n{key}")).conf;
    assert_eq!(keyed.loopback_instead(&keyed.listeners[0]), None);
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let sources = Sources { file: Some("/nowhere/tollgate.yaml".into()), ..Sources::default() };
    assert!(load(sources).unwrap_err().to_string().contains("cannot read the configuration"));
}

proptest! {
    /// What is accepted can be counted in nanoseconds of a `u64`, with room to add the time since the start.
    #[test]
    fn accepted_rates_can_be_counted(requests in 1u32.., per in 1u64..10_000_000_000_000, burst in 1u32..) {
        let rate = Rate { requests, per: std::time::Duration::from_micros(per), burst };
        let filled = rate.per.as_nanos() * u128::from(burst) / u128::from(requests);
        if rate.out_of_bounds().is_none() {
            prop_assert!(rate.per.as_nanos() / u128::from(requests) >= 1);
            prop_assert!(filled < 1 << 62);
        } else {
            prop_assert!(rate.per.as_nanos() < u128::from(requests) || filled > 1 << 58);
        }
    }
}
