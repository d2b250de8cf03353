//! A gateway of its own for one server of a catalog, in this process.
//! Not here: how it differs from others (`app/private`), the relay (`relay`).
//!
//! It is the whole gateway, so that rules, limits and checks of answers are those of the catalog. It listens on a free
//! loopback port with a key that is made for it and that nobody else knows. Settings come from variables alone: a file
//! that lies about is meant for another gateway.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;

use super::{Stdio, speak};
use crate::app::{self, Private, StartError};
use crate::command::{Done, Failure, check};
use crate::conf::{self, Flags, Loaded, Secret, Sources};

use super::door::Door;
use super::place::Place;

/// Settings that are ours to make, by the beginnings of their variables.
const OURS: [&str; 6] = [
    "TOLLGATE_AUTH",
    "TOLLGATE_CONFIG",
    "TOLLGATE_LISTEN",
    "TOLLGATE_CATALOG",
    "TOLLGATE_LOG__AUDIT",
    "TOLLGATE_DRAIN",
];
/// A gateway that has not started by then never will.
const START_MAX: Duration = Duration::from_secs(30);

/// Runs the server of the catalog, and speaks with it.
pub(super) fn run(asked: Stdio, env: Vec<(String, String)>) -> Done {
    let server = asked.server.clone().ok_or("which server? Name it with --server ID")?;
    // A mistake in the id, before anything starts.
    Place::of(None, Some(&server))?;
    let key = conf::new_key().map_err(|error| format!("no random bytes: {error}"))?;
    let sources = sources(asked, env, &server, &key.hash)?;
    let mut loaded = load(&sources)?;
    // Nothing is watched but the catalog.
    loaded.file = None;
    let (ready, address) = sync_channel(1);
    let (stop, stopping) = watch::channel(false);
    let private = Private { server: server.clone(), ready, stop: stopping };
    let key = key.key;
    #[expect(clippy::disallowed_methods, reason = "joined when the gateway has ended")]
    let client = std::thread::spawn(move || {
        // Dropped at the end, which ends the gateway.
        let _stop = stop;
        converse(&server, &key, &address)
    });
    let served = app::run_privately(loaded, sources, private);
    let spoken = client.join().map_err(|_| "the relay broke".to_owned())?;
    match served {
        Ok(()) => spoken.map(|()| ExitCode::SUCCESS),
        Err(StartError::Catalog(mistakes)) => Err(check::report(&mistakes)),
        Err(error) => Err(format!("error: {error}")),
    }
}

/// The client's side: it begins when the gateway takes calls, and not at all if that never starts.
fn converse(server: &str, key: &Secret, address: &Receiver<std::net::SocketAddr>) -> Result<(), Failure> {
    let address =
        address.recv_timeout(START_MAX).map_err(|_| "the server's gateway did not start".to_owned())?;
    let place = Place::of(Some(&format!("http://{address}")), Some(server))?;
    speak(Door::new(place, Some(key))?)
}

fn load(sources: &Sources) -> Result<Loaded, Failure> {
    conf::load(sources.clone()).map_err(|mistakes| check::report(&mistakes))
}

/// What the gateway is configured with: the environment without what is ours, and ours.
fn sources(
    asked: Stdio,
    env: Vec<(String, String)>,
    server: &str,
    key_hash: &str,
) -> Result<Sources, Failure> {
    let is_ours = |name: &str| OURS.iter().any(|ours| name.starts_with(ours));
    let mut env: Vec<(String, String)> = env.into_iter().filter(|(name, _)| !is_ours(name)).collect();
    let keys = json!([{"name": "stdio", "hash": key_hash, "servers": [server]}]);
    let set = [
        ("TOLLGATE_AUTH__KEYS", keys.to_string()),
        ("TOLLGATE_CONFIG", "/dev/null".to_owned()),
        ("TOLLGATE_LOG__AUDIT", "off".to_owned()),
        // Nobody waits for answers once the client is gone.
        ("TOLLGATE_DRAIN", "1s".to_owned()),
    ];
    env.extend(set.map(|(name, value)| (name.to_owned(), value)));
    let flags = Flags {
        bridge: None,
        listen: Some("127.0.0.1:0".into()),
        catalog: asked.catalog,
        state_dir: asked.state_dir,
        log_level: Some(asked.log_level),
        log_format: None,
    };
    let mut sources = Sources { file: None, env, flags };
    if sources.flags.state_dir.is_none() {
        // Beside that of a gateway on this machine, and shared by all that run a server of their own.
        let state_dir: PathBuf = load(&sources)?.conf.state_dir.join("stdio");
        sources.flags.state_dir = Some(state_dir);
    }
    Ok(sources)
}
