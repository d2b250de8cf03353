//! What each gateway of the comparison is set up with: settings, catalog, credential.
//! Not here: how it is started (`rows`).
//!
//! Three of them tell what admission costs: `tollgate-open` lets everybody in and limits nobody, `tollgate-locked` has
//! 10,000 keys, 50 rules and a limit in each layer, `tollgate-rs256` the same for tokens with public keys.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::Failure;
use crate::load::Era;

/// Rows of one gateway: name, server in the catalog, how it is called.
type Ways = &'static [(&'static str, &'static str, Era)];

const EVERYDAY: Ways = &[
    ("tollgate", "null", Era::Legacy),
    ("tollgate-modern", "null", Era::Modern),
    ("tollgate-stdio", "stdio", Era::Legacy),
];
const OPEN: Ways = &[("tollgate-open", "null", Era::Legacy)];
const LOCKED: Ways = &[("tollgate-locked", "null", Era::Legacy)];
const RS256: Ways = &[("tollgate-rs256", "null", Era::Legacy)];

/// Every gateway: the name of its process, and its rows.
pub(crate) const ALL: [(&str, Ways); 4] =
    [("tollgate", EVERYDAY), ("tollgate-open", OPEN), ("tollgate-locked", LOCKED), ("tollgate-rs256", RS256)];

/// The API key of the run.
const KEY: &str = "bench-key-0123456789abcdef";
/// A bucket that is counted for every call and never empty.
const NEVER: &str = "requests: 1000000000, per: 1s, burst: 1000000000";
const CALLERS: usize = 10_000;
const RULES: usize = 50;

/// Writes `tollgate.yaml` and `catalog.yaml` into `folder`; returns the credential to call with, if one is needed.
pub(crate) fn write(
    name: &str,
    folder: &Path,
    program: &Path,
    backend: SocketAddr,
) -> Result<Option<String>, Failure> {
    let mut conf = format!(
        "state_dir: {}/state\nthreads: 1\nlog: {{format: json, level: info}}\nlimits: {{child_pending: 2048, idle_connections: 1024}}\n",
        folder.display()
    );
    let mut catalog = format!(
        "servers:\n  - id: 'null'\n    runtime: {{type: remote-http, url: 'http://{backend}/mcp'}}\n"
    );
    let credential = match name {
        "tollgate-open" => {
            conf.push_str("auth: {anonymous: {servers: ['*']}}\n");
            None
        }
        "tollgate-locked" => {
            let _ = write!(
                conf,
                "address_limit: {{{NEVER}}}\nlimit: {{{NEVER}, in_flight: 100000}}\nauth:\n  keys:\n"
            );
            for caller in 1..CALLERS {
                let _ = writeln!(
                    conf,
                    "    - {{name: caller-{caller}, key: 'other-key-{caller:08}-0a1b2c3d', servers: ['null']}}"
                );
            }
            let _ = writeln!(
                conf,
                "    - {{name: bench, key: {KEY}, servers: ['null'], groups: [bench], scopes: [tools]}}"
            );
            lock(&mut catalog);
            Some(KEY.to_owned())
        }
        "tollgate-rs256" => {
            let _ = write!(
                conf,
                "address_limit: {{{NEVER}}}\nlimit: {{{NEVER}, in_flight: 100000}}\nauth:\n  issuers:\n"
            );
            let _ = writeln!(
                conf,
                "    - {{issuer: 'https://login.example.com', audience: bench, algorithms: [RS256], pem_file: public.pem, servers: ['null'], groups: [bench], scopes: [tools]}}"
            );
            lock(&mut catalog);
            Some(token(folder)?)
        }
        _ => {
            let _ = write!(
                conf,
                "auth:\n  keys:\n    - {{name: bench, key: {KEY}, servers: ['*'], limit: {{{NEVER}}}}}\n"
            );
            let _ = writeln!(
                catalog,
                "  - id: stdio\n    runtime: {{type: local-process, command: '{}', args: [sample, stdio]}}",
                program.display()
            );
            Some(KEY.to_owned())
        }
    };
    fs::write(folder.join("tollgate.yaml"), conf)?;
    fs::write(folder.join("catalog.yaml"), catalog)?;
    Ok(credential)
}

/// Limits of server and tool, and rules of which the last of those that give is the caller's.
fn lock(catalog: &mut String) {
    let _ = write!(
        catalog,
        "    limit: {{{NEVER}, in_flight: 100000}}\n    tools: {{echo: {{limit: {{{NEVER}, in_flight: 100000, each_caller: true}}}}}}\nrules:\n"
    );
    for rule in 0..RULES / 2 - 1 {
        let _ = writeln!(
            catalog,
            "  - {{name: give-{rule}, allow: [list, call], who: {{groups: [team-{rule}], scopes: [tools]}}, servers: ['null'], tools: [tool-{rule}, 'get_{rule}_*']}}"
        );
        let _ = writeln!(
            catalog,
            "  - {{name: take-{rule}, deny: [call], who: {{groups: ['team-{rule}-*']}}, servers: ['null'], tools: ['admin_{rule}_*']}}"
        );
    }
    let _ = writeln!(
        catalog,
        "  - {{name: take-last, deny: ['*'], who: {{groups: [bench]}}, servers: ['null'], tools: ['delete_*']}}"
    );
    let _ = writeln!(
        catalog,
        "  - {{name: give-last, allow: ['*'], who: {{groups: [bench], scopes: [tools]}}, servers: ['n*'], tools: ['e*', search]}}"
    );
}

/// A token signed by a key made for this run. It has the claims that login services put into theirs.
fn token(folder: &Path) -> Result<String, Failure> {
    let openssl = |args: &[&str]| -> Result<(), Failure> {
        let done = Command::new("openssl").args(args).current_dir(folder).output()?;
        if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into()) }
    };
    openssl(&["genrsa", "-out", "private.pem", "2048"])?;
    openssl(&["rsa", "-in", "private.pem", "-pubout", "-out", "public.pem"])?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let claims = serde_json::json!({
        "iss": "https://login.example.com", "aud": "bench", "sub": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "iat": now.as_secs(), "nbf": now.as_secs(), "exp": (now + Duration::from_secs(3600)).as_secs(),
        "jti": "7c9e6679-7425-40de-944b-e07fc1f90ae7", "client_id": "bench", "scope": "tools",
    });
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", part(r#"{"alg":"RS256","typ":"at+jwt"}"#), part(&claims.to_string()));
    fs::write(folder.join("signed"), &signed)?;
    openssl(&["dgst", "-sha256", "-sign", "private.pem", "-out", "signature", "signed"])?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(fs::read(folder.join("signature"))?)))
}
