//! `tollgate key new`: an API key for its holder, and what the operator pastes for it.
//! Not here: the form of keys (`conf`), how callers are recognised by them (`auth`).

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Done, Format, print, print_json};
use crate::conf;

#[derive(Debug, Subcommand)]
pub(super) enum KeyVerb {
    /// Make a key: print it, once, and the lines to paste below `auth.keys`, which hold its digest.
    ///
    /// The first line of standard output is the key; it is kept nowhere. The rest is YAML.
    New(NewArgs),
}

#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// Who will hold it, in logs [default: made from the key's id].
    #[arg(long)]
    name: Option<String>,
    /// Who answers for it, for people.
    #[arg(long)]
    owner: Option<String>,
    /// Ids of servers that it may use, separated by commas; `*` for all [default: none].
    #[arg(long, value_delimiter = ',', value_name = "IDS")]
    servers: Vec<String>,
    /// Scopes that it has, separated by commas.
    #[arg(long, value_delimiter = ',')]
    scopes: Vec<String>,
    /// How it is told.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Does what the verb says.
pub(super) fn run(verb: KeyVerb) -> Done {
    let KeyVerb::New(args) = verb;
    let made = conf::new_key().map_err(|error| format!("error: no random bytes: {error}"))?;
    let name = args.name.unwrap_or_else(|| format!("key-{}", made.id));
    let mut entry = vec![("name", json!(name)), ("hash", json!(made.hash))];
    entry.extend(args.owner.map(|owner| ("owner", json!(owner))));
    entry.push(("servers", json!(args.servers)));
    if !args.scopes.is_empty() {
        entry.push(("scopes", json!(args.scopes)));
    }
    match args.format {
        Format::Text => {
            print(&format!("{}\n\n{}", made.key.expose(), yaml(&entry)))?;
        }
        Format::Json => {
            let entry: serde_json::Map<String, Value> =
                entry.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            print_json(&json!({"key": made.key.expose(), "entry": entry}))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// An item of `auth.keys`. JSON is YAML, so nothing that was given can add keys or lines.
fn yaml(entry: &[(&str, Value)]) -> String {
    let mut out = String::from("# Below `auth.keys` of tollgate.yaml; the key above is shown only now.\n");
    for (at, (key, value)) in entry.iter().enumerate() {
        let dash = if at == 0 { "-" } else { " " };
        let note = if *key == "servers" && value.as_array().is_some_and(Vec::is_empty) {
            " # none yet: ids, or \"*\" for all"
        } else {
            ""
        };
        out += &format!("{dash} {key}: {value}{note}\n");
    }
    out
}
