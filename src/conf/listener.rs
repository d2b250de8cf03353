//! Where the gateway listens, checked: addresses, doors, names, TLS and who may connect.
//! Not here: the sockets themselves (`listener`), credentials (`access`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use http::Uri;
use ipnet::IpNet;

/// One address that the gateway listens on, with its own doors and rules of admission.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Its name in logs and metrics. Unique.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// What can be reached through it.
    pub doors: Doors,
    /// Kinds of callers that it lets in.
    pub kinds: Kinds,
    /// Client addresses that may connect; `None` means any, an empty list nobody.
    pub networks: Option<Vec<IpNet>>,
    /// `Host` values accepted besides addresses and loopback names.
    pub hosts: Vec<String>,
    /// Pages' origins accepted besides that of `public_url`, and besides loopback ones where `address` is one.
    pub origins: Vec<String>,
    /// Scheme and authority under which clients reach it, without a path; for OAuth metadata and audiences.
    pub public_url: Option<Uri>,
    /// Proxies in front whose word about the client's address is taken.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether every connection begins with a PROXY protocol header (version 1 or 2), from a trusted proxy.
    pub proxy_protocol: bool,
    /// TLS; `None` is plain text.
    pub tls: Option<Tls>,
    /// Whether HTTP/2 without TLS is taken, by prior knowledge.
    pub h2c: bool,
}

/// TLS of a listener. Files are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate chain, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// Authorities whose client certificates are accepted, in PEM.
    pub client_ca: Option<PathBuf>,
    /// Whether a client certificate must be shown; otherwise it may.
    pub client_required: bool,
    /// Whether TLS 1.2 is refused.
    pub only_13: bool,
}

/// What can be reached through a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doors {
    /// `/servers/{id}/mcp`, and the metadata under `/.well-known`.
    pub mcp: bool,
    /// `POST /mcp` and `POST /rpc` of the Open MCP Gateway.
    pub open_mcp: bool,
    /// `/servers/{id}/raw/…`.
    pub raw: bool,
    /// The native API.
    pub admin: bool,
    /// `/metrics`.
    pub metrics: bool,
    /// `/health`, `/livez`, `/readyz`.
    pub health: bool,
}

impl Doors {
    /// Everything.
    pub const ALL: Self =
        Self { mcp: true, open_mcp: true, raw: true, admin: true, metrics: true, health: true };
}

/// Kinds of callers that a listener lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds {
    /// Callers without a credential.
    pub anonymous: bool,
    /// API keys.
    pub api_key: bool,
    /// JSON Web Tokens.
    pub jwt: bool,
    /// Client certificates.
    pub certificate: bool,
}

impl Kinds {
    /// Every kind.
    pub const ALL: Self = Self { anonymous: true, api_key: true, jwt: true, certificate: true };
    /// No kind.
    pub const NONE: Self = Self { anonymous: false, api_key: false, jwt: false, certificate: false };
}

impl Listener {
    /// Everything, for everybody who can connect, in plain text.
    pub fn plain(name: impl Into<String>, address: SocketAddr) -> Self {
        Self {
            name: name.into(),
            address,
            doors: Doors::ALL,
            kinds: Kinds::ALL,
            networks: None,
            hosts: Vec::new(),
            origins: Vec::new(),
            public_url: None,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            tls: None,
            h2c: false,
        }
    }

    /// The loopback address of the same port, if this one can be reached from other machines.
    pub(super) fn loopback(&self) -> Option<SocketAddr> {
        let loopback = match self.address.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        (!self.address.ip().is_loopback()).then(|| SocketAddr::new(loopback, self.address.port()))
    }
}
