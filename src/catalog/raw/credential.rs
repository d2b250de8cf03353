//! The form of the gateway's own credential for a server, in `catalog.yaml`.
//! Not here: what it may say (`check/credential.rs`); credentials of callers (`conf`).

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::At;

/// What the gateway shows of itself to a remote server, as `Authorization`. Exactly one of these.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub(in crate::catalog) struct RawCredential {
    /// A user name and a password.
    pub(in crate::catalog) basic: Option<At<RawBasic>>,
    /// A file that holds a bearer token, relative to this file. It is read again when it changes; while it cannot be
    /// read, calls fail.
    pub(in crate::catalog) bearer_file: Option<At<String>>,
    /// OAuth client credentials, with which the gateway fetches a token when it needs one.
    pub(in crate::catalog) client_credentials: Option<At<RawClientCredentials>>,
}

/// A user name and a password.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["username", "password"]))]
pub(in crate::catalog) struct RawBasic {
    /// The user name; it cannot hold a colon.
    pub(in crate::catalog) username: Option<At<String>>,
    /// The password. Give it as `${NAME}`, and it stays out of this file.
    pub(in crate::catalog) password: Option<At<String>>,
}

/// OAuth client credentials.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["token_url", "client_id"]))]
pub(in crate::catalog) struct RawClientCredentials {
    /// The token endpoint: `https`, or `http` on loopback.
    pub(in crate::catalog) token_url: Option<At<String>>,
    /// The client's id.
    pub(in crate::catalog) client_id: Option<At<String>>,
    /// The client's secret. Give it as `${NAME}`, and it stays out of this file.
    pub(in crate::catalog) client_secret: Option<At<String>>,
    /// A file that holds the client's secret, relative to this file; read when this file is.
    pub(in crate::catalog) client_secret_file: Option<At<String>>,
    /// Scopes to ask for.
    pub(in crate::catalog) scopes: Option<Vec<At<String>>>,
    /// The resource that the token is for, as an address (RFC 8707).
    pub(in crate::catalog) resource: Option<At<String>>,
    /// Whether id and secret go into the request's body. Default: false, they go into its `Authorization`.
    pub(in crate::catalog) in_body: Option<bool>,
}
