//! `tollgate validate`: every mistake of both files, with its place.
//! Not here: what a mistake is (`conf`, `catalog`) or how one is drawn (`document`).

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::{Done, Files, Format, print, print_json, tell};
use crate::document::{Mistakes, Severity};
use crate::{app, auth, conf};

/// What both files come to.
struct Checked {
    catalog: Option<PathBuf>,
    servers: usize,
    warnings: Mistakes,
}

fn check(files: Files) -> Result<Checked, Mistakes> {
    let loaded = files.load()?;
    let mut warnings = loaded.warnings;
    let snapshot = match app::check(&loaded.conf, conf::environment()) {
        Ok(snapshot) => snapshot,
        Err(mut mistakes) => {
            // What is to be said of the first file is not lost because the second one is wrong.
            warnings.list.append(&mut mistakes.list);
            return Err(warnings);
        }
    };
    warnings.list.extend(auth::review(&loaded.conf, &snapshot).list);
    warnings.list.extend(snapshot.warnings.list);
    Ok(Checked { catalog: loaded.conf.catalog, servers: snapshot.servers.len(), warnings })
}

/// Checks the configuration, then the catalog that it names. With `strict`, warnings are mistakes.
pub(super) fn validate(files: Files, format: Format, strict: bool) -> Done {
    let checked = check(files);
    let is_ok = checked.as_ref().is_ok_and(|checked| !strict || checked.warnings.is_empty());
    match (checked, format) {
        (Ok(checked), Format::Text) => {
            let Checked { catalog, servers, warnings } = checked;
            if !warnings.is_empty() {
                tell(&report(&warnings));
            }
            if is_ok {
                let catalog =
                    catalog.map_or_else(|| "the built-in catalog".into(), |path| path.display().to_string());
                print(&format!("ok: {catalog}, {servers} servers\n"))?;
            }
        }
        (Ok(checked), Format::Json) => {
            let Checked { servers, warnings, .. } = checked;
            print_json(&json!({"ok": is_ok, "servers": servers, "mistakes": warnings.list}))?;
        }
        (Err(mistakes), Format::Text) => tell(&report(&mistakes)),
        (Err(mistakes), Format::Json) => {
            print_json(&json!({"ok": false, "mistakes": mistakes.list}))?;
        }
    }
    Ok(if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Mistakes for a terminal.
pub(super) fn report(mistakes: &Mistakes) -> String {
    let counts = [(Severity::Error, "mistake"), (Severity::Warning, "warning")];
    let counts = counts.map(|(severity, noun)| match mistakes.count(severity) {
        0 => None,
        1 => Some(format!("1 {noun}")),
        count => Some(format!("{count} {noun}s")),
    });
    let counts: Vec<_> = counts.into_iter().flatten().collect();
    format!("{mistakes}\n{}", counts.join(", "))
}
