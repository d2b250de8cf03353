//! The form of `listeners` and of `tls`.
//! Not here: the keys of a single listener, which stand at the top level (`raw`); what is accepted (`check/listener.rs`).

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::At;

/// An address to listen on.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name", "listen"]))]
pub(in crate::conf) struct RawListener {
    /// Its name in logs and metrics. Unique.
    pub(in crate::conf) name: Option<At<String>>,
    /// Where it listens, such as `[::]:443`.
    pub(in crate::conf) listen: Option<At<String>>,
    /// What can be reached there.
    pub(in crate::conf) doors: Option<At<Vec<At<RawDoor>>>>,
    /// Kinds of callers that are let in.
    pub(in crate::conf) kinds: Option<At<Vec<At<RawKind>>>>,
    /// Addresses that may connect.
    pub(in crate::conf) networks: Option<At<Vec<At<String>>>>,
    /// Values of the `Host` header to accept.
    pub(in crate::conf) hosts: Option<Vec<At<String>>>,
    /// Origins of web pages that may call.
    pub(in crate::conf) origins: Option<Vec<At<String>>>,
    /// Scheme and authority under which clients reach it.
    pub(in crate::conf) public_url: Option<At<String>>,
    /// Proxies in front whose word about the client's address is taken.
    pub(in crate::conf) trusted_proxies: Option<Vec<At<String>>>,
    /// Whether every connection begins with a PROXY protocol header.
    pub(in crate::conf) proxy_protocol: Option<At<bool>>,
    /// TLS.
    pub(in crate::conf) tls: Option<At<RawTls>>,
    /// Whether HTTP/2 without TLS is taken.
    pub(in crate::conf) h2c: Option<At<bool>>,
}

/// What can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::conf) enum RawDoor {
    Mcp,
    OpenMcp,
    Raw,
    Admin,
    Metrics,
    Health,
}

/// Kinds of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::conf) enum RawKind {
    Anonymous,
    ApiKey,
    Jwt,
    Certificate,
}

/// TLS. Paths are relative to this file.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["certificate", "key"]))]
pub(in crate::conf) struct RawTls {
    /// The file with the certificate and its chain, in PEM.
    pub(in crate::conf) certificate: Option<At<String>>,
    /// The file with the private key, in PEM.
    pub(in crate::conf) key: Option<At<String>>,
    /// The file with the authorities whose client certificates are accepted, in PEM. Default: none are asked for.
    pub(in crate::conf) client_ca: Option<At<String>>,
    /// Whether a client certificate is `optional` or `required`. Default: `optional`, so that other credentials work
    /// beside it.
    pub(in crate::conf) client_certificates: Option<At<RawClientCertificates>>,
    /// The oldest version that is spoken, `"1.2"` or `"1.3"`. Default: `"1.2"`, with the cipher suites that have forward
    /// secrecy only; older clients are still met.
    pub(in crate::conf) min_version: Option<At<RawTlsVersion>>,
}

/// Whether a client certificate must be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::conf) enum RawClientCertificates {
    Optional,
    Required,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub(in crate::conf) enum RawTlsVersion {
    #[serde(rename = "1.2")]
    V12,
    #[serde(rename = "1.3")]
    V13,
}
