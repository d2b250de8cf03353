//! The built-in catalog of sample servers, and the variables that it and other catalogs may use.
//! Not here: the sample servers themselves (`sample`).
//!
//! `${TOLLGATE_EXE}` is this program, so that a catalog can run `sample stdio` wherever the program is installed.
//! `${TOLLGATE_SAMPLES}` is the address of the HTTP samples, which are served only if the catalog mentions it.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use parking_lot::Mutex;

use super::StartError;
use crate::catalog::{self, Seen, Snapshot};
use crate::conf::Conf;
use crate::control::CatalogSource;
use crate::document::Mistakes;

/// The catalog that is served when there is none; the same file stands at the top of the repository.
const BUILT_IN: &str = include_str!("../../catalog.yaml");
const SAMPLES: &str = "TOLLGATE_SAMPLES";
const EXE: &str = "TOLLGATE_EXE";

/// Variables for the catalog, and the samples' socket if it asks for them.
pub(super) struct Demo {
    variables: Vec<(String, String)>,
    samples: Option<TcpListener>,
    seen: Option<Seen>,
    /// Whether the built-in catalog is served.
    pub(super) is_built_in: bool,
    /// The one server of the catalog that is served, if not all are.
    pub(super) only: Option<String>,
}

impl Demo {
    pub(super) fn prepare(conf: &Conf, variables: Vec<(String, String)>) -> Result<Self, StartError> {
        let internal = |error: std::io::Error| StartError::Internal(format!("sample servers: {error}"));
        let mut variables = with_program(variables);
        let text = conf.catalog.as_ref().map(fs::read_to_string);
        let wanted = match &text {
            None => true,
            Some(text) => text.as_ref().is_ok_and(|text| text.contains(SAMPLES)),
        };
        let mut samples = None;
        if wanted {
            let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(internal)?;
            listener.set_nonblocking(true).map_err(internal)?;
            let address = listener.local_addr().map_err(internal)?;
            variables.push((SAMPLES.into(), format!("http://{address}")));
            samples = Some(listener);
        }
        let seen = conf.catalog.as_deref().map(Seen::look);
        Ok(Self { variables, samples, seen, is_built_in: conf.catalog.is_none(), only: None })
    }

    /// The first load.
    pub(super) fn load(&self, conf: &Conf) -> Result<Snapshot, Mistakes> {
        let lookup = |name: &str| find(&self.variables, name);
        match &conf.catalog {
            Some(path) => {
                let snapshot = catalog::load(path, 1, &lookup)?;
                match &self.only {
                    Some(server) => snapshot.only(server, path),
                    None => Ok(snapshot),
                }
            }
            None => built_in(&lookup),
        }
    }

    /// Where later loads come from.
    pub(super) fn source(&self, conf: &Conf) -> CatalogSource {
        match (&conf.catalog, &self.seen) {
            (Some(path), Some(seen)) => CatalogSource::File {
                path: path.clone(),
                variables: self.variables.clone(),
                seen: seen.clone(),
                only: self.only.clone(),
            },
            _ => CatalogSource::BuiltIn,
        }
    }

    /// Whether sample servers are served over HTTP.
    pub(super) fn has_samples(&self) -> bool {
        self.samples.is_some()
    }

    pub(super) fn into_listener(self) -> Mutex<Option<TcpListener>> {
        Mutex::new(self.samples)
    }
}

/// The built-in catalog, checked.
pub(super) fn built_in(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Snapshot, Mistakes> {
    catalog::parse(BUILT_IN, "built-in catalog", Path::new("."), 1, lookup)
}

/// Variables for a check that starts nothing: the samples' address is made up.
pub(super) fn placeholders(variables: Vec<(String, String)>) -> impl Fn(&str) -> Option<String> {
    let mut variables = with_program(variables);
    variables.push((SAMPLES.into(), "http://127.0.0.1:9".into()));
    move |name| find(&variables, name)
}

fn with_program(mut variables: Vec<(String, String)>) -> Vec<(String, String)> {
    if let Ok(exe) = std::env::current_exe() {
        variables.push((EXE.into(), exe.display().to_string()));
    }
    variables
}

/// What the environment says comes first.
fn find(variables: &[(String, String)], name: &str) -> Option<String> {
    variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}
