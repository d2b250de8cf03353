//! What the gateway shows of itself to a server: made ready once, read from a file, or fetched and kept.
//! Not here: the credential as the catalog has it (`catalog/credential`); the request it goes into (`upstream/endpoint`).
//!
//! A call never waits for anything but the first token, or one that has run out. A refused token is forgotten, so the
//! next call fetches another; the refused call itself is not repeated. A server that refuses fresh tokens as well does
//! not make us fetch one for each call: the pause between two doubles, up to a minute.

mod client;
mod file;

use std::sync::Arc;

use ::http::{HeaderMap, HeaderValue, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::UpstreamError;
use crate::catalog::{Credential, Remote, Runtime};
use crate::egress;
use client::Client;
use file::TokenFile;

/// What is shown to one server.
#[derive(Debug)]
pub(super) struct Proof {
    credential: Credential,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Fixed(HeaderValue),
    File(TokenFile),
    Client(Box<Client>),
}

/// What was shown with one request: whoever sees the answer says whether it was taken.
#[derive(Debug, Clone)]
pub struct Shown {
    proof: Arc<Proof>,
    value: HeaderValue,
}

impl Proof {
    /// What the catalog says is shown to a server. A credential that did not change keeps its token.
    pub(super) fn of(
        runtime: &Runtime,
        known: Option<&Arc<Self>>,
        egress: &Arc<egress::Client>,
    ) -> Option<Arc<Self>> {
        let Runtime::Remote(Remote { credential: Some(credential), .. }) = runtime else { return None };
        if let Some(known) = known.filter(|known| known.credential == **credential) {
            return Some(Arc::clone(known));
        }
        let source = match &**credential {
            Credential::Basic { username, password } => {
                let pair = format!("{username}:{}", password.expose());
                Source::Fixed(sensitive(format!("Basic {}", STANDARD.encode(pair)))?)
            }
            Credential::BearerFile(path) => Source::File(TokenFile::new(path.clone())),
            Credential::ClientCredentials(client) => {
                Source::Client(Box::new(Client::new(client.clone(), Arc::clone(egress))))
            }
        };
        Some(Arc::new(Self { credential: (**credential).clone(), source }))
    }

    /// Puts what is shown into a request's headers.
    pub(super) async fn show(self: &Arc<Self>, headers: &mut HeaderMap) -> Result<Shown, UpstreamError> {
        let value = match &self.source {
            Source::Fixed(value) => Some(value.clone()),
            Source::File(file) => file.value(),
            // What is rare is boxed, so that the future of a call stays small.
            Source::Client(client) => match client.ready() {
                Some(value) => Some(value),
                None => Box::pin(client.value()).await,
            },
        };
        let value = value.ok_or(UpstreamError::Credential)?;
        headers.insert(header::AUTHORIZATION, value.clone());
        Ok(Shown { proof: Arc::clone(self), value })
    }
}

impl Shown {
    /// The server answered with that status.
    pub fn answered(&self, status: StatusCode) {
        if let Source::Client(client) = &self.proof.source {
            if status == StatusCode::UNAUTHORIZED {
                client.refused(&self.value);
            } else {
                client.taken();
            }
        }
    }
}

/// A header's value that no log shows; `None` if it cannot be one.
fn sensitive(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A bearer token as a header's value, if it is one line of visible text.
fn bearer(token: &str) -> Option<HeaderValue> {
    let visible = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    visible.then(|| sensitive(format!("Bearer {token}"))).flatten()
}

#[cfg(test)]
mod tests;
