//! `tollgate validate`: every mistake of both files, with its place.
//! Not here: what a mistake is (`conf`, `catalog`) or how one is drawn (`document`).

use std::process::ExitCode;

use serde_json::json;

use super::{Done, Files, Format, print, print_json, tell};
use crate::document::Mistakes;
use crate::{app, conf};

/// Checks the configuration, then the catalog that it names.
pub(super) fn validate(files: Files, format: Format) -> Done {
    let checked = files.load().and_then(|loaded| {
        let snapshot = app::check(&loaded.conf, conf::environment())?;
        Ok((loaded.conf.catalog, snapshot.servers.len()))
    });
    match (checked, format) {
        (Ok((catalog, servers)), Format::Text) => {
            let catalog =
                catalog.map_or_else(|| "the built-in catalog".into(), |path| path.display().to_string());
            print(&format!("ok: {catalog}, {servers} servers\n"))
        }
        (Ok((_, servers)), Format::Json) => {
            print_json(&json!({"ok": true, "servers": servers, "mistakes": []}))
        }
        (Err(mistakes), Format::Text) => {
            tell(&report(&mistakes));
            Ok(ExitCode::FAILURE)
        }
        (Err(mistakes), Format::Json) => {
            print_json(&json!({"ok": false, "mistakes": mistakes.list}))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Mistakes for a terminal.
pub(super) fn report(mistakes: &Mistakes) -> String {
    let count = mistakes.list.len();
    let noun = if count == 1 { "mistake" } else { "mistakes" };
    format!("{mistakes}\n{count} {noun}")
}
