//! What the gateway shows to a remote server about itself, checked.
//! Not here: static headers (`model`, `Remote::headers`); fetching and caching tokens (`upstream/credential`).

use std::path::PathBuf;

use http::Uri;

use crate::conf::Secret;

/// A credential for a remote server, sent as `Authorization`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// User name and password (RFC 7617).
    Basic {
        /// The user name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A bearer token in a file, read again when it changes.
    BearerFile(PathBuf),
    /// A token fetched with the gateway's own client credentials (RFC 6749 section 4.4).
    ClientCredentials(ClientCredentials),
}

/// How a token is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCredentials {
    /// The token endpoint: `https`, or `http` on loopback.
    pub token_url: Uri,
    /// The client's id.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: Secret,
    /// Scopes to ask for.
    pub scopes: Vec<String>,
    /// The resource that the token is for (RFC 8707).
    pub resource: Option<String>,
    /// Whether id and secret go into the body; otherwise into `Authorization: Basic`.
    pub in_body: bool,
}
