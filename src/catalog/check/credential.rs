//! Checks the gateway's own credential for a server.
//! Not here: its form (`raw/credential.rs`); showing it (`upstream/credential`).

use http::{HeaderMap, Uri, header};

use super::Checker;
use crate::catalog::raw::{RawBasic, RawClientCredentials, RawCredential};
use crate::catalog::{ClientCredentials, Credential};
use crate::conf::{self, Secret};
use crate::document::{At, Code, Span};

impl Checker<'_> {
    /// Checks what stands in `auth`; the server's static `headers` must not say the same.
    pub(super) fn credential(
        &mut self,
        raw: Option<At<RawCredential>>,
        headers: &HeaderMap,
    ) -> Option<Box<Credential>> {
        let At { value: raw, span } = raw?;
        if headers.contains_key(header::AUTHORIZATION) {
            let message = "`auth` and the header `authorization` exclude each other: keep one of them";
            self.report.add(span, Code::Conflict, message);
        }
        let given = [
            ("basic", raw.basic.as_ref().map(|at| at.span)),
            ("bearer_file", raw.bearer_file.as_ref().map(|at| at.span)),
            ("client_credentials", raw.client_credentials.as_ref().map(|at| at.span)),
        ];
        self.one_of(span, "`auth` says nothing", &given)?;
        let RawCredential { basic, bearer_file, client_credentials } = raw;
        let credential = match (basic, bearer_file, client_credentials) {
            (Some(basic), _, _) => self.basic(basic)?,
            (_, Some(file), _) => self.bearer_file(&file)?,
            (_, _, Some(client)) => Credential::ClientCredentials(self.client_credentials(client)?),
            (None, None, None) => return None,
        };
        Some(Box::new(credential))
    }

    /// Reports all but the first of what excludes each other, or that nothing is there.
    fn one_of(&mut self, span: Span, missing: &str, given: &[(&str, Option<Span>)]) -> Option<()> {
        let mut found = given.iter().filter_map(|(name, span)| Some((name, (*span)?)));
        let Some((first, _)) = found.next() else {
            if !self.report.is_incomplete(span) {
                let names: Vec<_> = given.iter().map(|(name, _)| format!("`{name}`")).collect();
                self.report.advise(span, Code::Missing, missing, format!("one of {}", names.join(", ")));
            }
            return None;
        };
        for (other, at) in found {
            let message = format!("`{first}` and `{other}` exclude each other: keep one of them");
            self.report.add(at, Code::Conflict, message);
        }
        Some(())
    }

    fn basic(&mut self, raw: At<RawBasic>) -> Option<Credential> {
        let At { value: RawBasic { username, password }, span } = raw;
        let (Some(username), Some(password)) = (username, password) else {
            self.missing(span, "`basic` needs a username and a password");
            return None;
        };
        if username.contains(':') {
            self.report.add(username.span, Code::InvalidValue, "a user name cannot hold a colon (RFC 7617)");
        }
        for text in [&username, &password] {
            if text.contains(|c: char| c.is_ascii_control()) {
                self.report.add(text.span, Code::InvalidValue, "expected one line of text");
            }
        }
        Some(Credential::Basic { username: username.value, password: Secret::new(password.value) })
    }

    fn bearer_file(&mut self, raw: &At<String>) -> Option<Credential> {
        if raw.is_empty() || raw.contains('\0') {
            self.report.add(raw.span, Code::InvalidValue, "expected the path of a file");
            return None;
        }
        let path = self.base_dir.join(&raw.value);
        // Whoever writes it may start later than the gateway, so a file that is not there yet is no mistake.
        match conf::read_secret(&path) {
            Err(error) => {
                let message = format!("the token cannot be read, so calls will fail: {error}");
                self.report.warn(raw.span, Code::Unreadable, message);
            }
            Ok(_) => self.exposed(raw, &path),
        }
        Some(Credential::BearerFile(path))
    }

    fn exposed(&mut self, raw: &At<String>, path: &std::path::Path) {
        if conf::is_exposed(path) {
            let message = "a secret in a file that others can read";
            self.report.warn_advise(raw.span, Code::Exposed, message, "chmod 600");
        }
    }

    fn client_credentials(&mut self, raw: At<RawClientCredentials>) -> Option<ClientCredentials> {
        let At { value: raw, span } = raw;
        for (name, value) in [("token_url", &raw.token_url), ("client_id", &raw.client_id)] {
            if value.is_none() {
                self.missing(span, format!("`client_credentials` needs a {name}"));
            }
        }
        let given = [
            ("client_secret", raw.client_secret.as_ref().map(|at| at.span)),
            ("client_secret_file", raw.client_secret_file.as_ref().map(|at| at.span)),
        ];
        self.one_of(span, "`client_credentials` needs the client's secret", &given);
        let token_url = raw.token_url.and_then(|url| self.token_url(&url));
        for text in [&raw.client_id, &raw.client_secret].into_iter().flatten().filter(|at| at.is_empty()) {
            self.report.add(text.span, Code::InvalidValue, "must not be empty");
        }
        let scopes = raw.scopes.unwrap_or_default();
        for scope in scopes.iter().filter(|scope| !is_scope(scope)) {
            let message = "a scope is visible ASCII without spaces, `\"` and `\\` (RFC 6749 section 3.3)";
            self.report.add(scope.span, Code::InvalidValue, message);
        }
        if let Some(resource) = &raw.resource
            && (resource.contains('#') || !resource.parse::<Uri>().is_ok_and(|uri| uri.scheme().is_some()))
        {
            let message = "expected an address with its scheme and without a fragment (RFC 8707)";
            self.report.add(resource.span, Code::InvalidValue, message);
        }
        let secret = match (raw.client_secret, &raw.client_secret_file) {
            (Some(secret), _) => Some(secret.value),
            (None, Some(file)) => self.secret_file(file),
            (None, None) => None,
        };
        Some(ClientCredentials {
            token_url: token_url?,
            client_id: raw.client_id?.value,
            client_secret: Secret::new(secret?),
            scopes: scopes.into_iter().map(|scope| scope.value).collect(),
            resource: raw.resource.map(|resource| resource.value),
            in_body: raw.in_body.unwrap_or(false),
        })
    }

    fn secret_file(&mut self, raw: &At<String>) -> Option<String> {
        let path = self.base_dir.join(&raw.value);
        match conf::read_secret(&path) {
            Ok(secret) if secret.is_empty() => {
                self.report.add(raw.span, Code::InvalidValue, "the file is empty");
                None
            }
            Ok(secret) => {
                self.exposed(raw, &path);
                Some(secret)
            }
            Err(error) => {
                self.report.add(raw.span, Code::Unreadable, format!("cannot read the secret: {error}"));
                None
            }
        }
    }

    fn token_url(&mut self, raw: &At<String>) -> Option<Uri> {
        let found = conf::server_url(raw);
        if found.is_none() {
            self.report.add(raw.span, Code::InvalidValue, conf::SERVER_URL_WANTED);
        }
        found
    }
}

/// A scope token by RFC 6749 section 3.3.
fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'))
}
