//! Who is calling and what they may use: a credential becomes a [`Caller`], a permission becomes an [`Allowed`].
//! Not here: how often a caller may call (`limit`); what a refusal looks like (`proxy/rejection`, `control/error`).
//!
//! Order, which is all there is: `Authorization` if present, else `X-API-Key`, else nobody. A credential that is
//! present but bad is final; there is no fall-through to the next kind. A bearer token is first looked up among
//! the keys, and read as a JSON Web Token only if it is none of them.

mod api_key;
mod credentials;
mod entrance;
mod jwt;
mod policy;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;

use crate::conf;
use api_key::ApiKeys;
use credentials::Credential;
pub use entrance::{Entrance, InForce};
use jwt::Tokens;
pub use policy::{Allowed, Demand, Denied, ItemKind, Policy, Rulebook, Sight, Verdict, Why, allow};

/// Who is calling, after authentication.
#[derive(Debug, Clone)]
pub struct Caller {
    /// A number for tables and sessions; the same subject of the same kind always has the same.
    pub id: u128,
    /// The name in logs: a key's name, a token's `sub`, or `anonymous`.
    pub subject: Arc<str>,
    /// How they proved it.
    pub kind: CallerKind,
    /// Who said so, for tokens: the issuer.
    pub issuer: Option<Arc<str>>,
    /// Scopes, for rules; sorted.
    pub scopes: Vec<Box<str>>,
    /// Groups, for rules; sorted.
    pub groups: Vec<Box<str>>,
    /// Their own limit, if they have one.
    pub limit: Option<conf::Limit>,
    /// When the credential stops being good; what is open then ends.
    pub expires: Option<SystemTime>,
    servers: Scope,
}

/// How a caller proved who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerKind {
    /// Not at all; only where no credential is configured, which keeps the gateway on loopback.
    Anonymous,
    /// A static key.
    ApiKey,
    /// A JSON Web Token.
    Jwt,
    /// A client certificate.
    Certificate,
}

impl CallerKind {
    /// Its name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::ApiKey => "api_key",
            Self::Jwt => "jwt",
            Self::Certificate => "certificate",
        }
    }
}

/// Servers a caller may use.
#[derive(Debug, Clone)]
enum Scope {
    All,
    Only(HashSet<Box<str>>),
}

impl Scope {
    /// `*` anywhere means all; an empty list allows none.
    fn new<S: AsRef<str>>(servers: impl IntoIterator<Item = S>) -> Self {
        let names: HashSet<Box<str>> = servers.into_iter().map(|name| name.as_ref().into()).collect();
        if names.contains("*") { Self::All } else { Self::Only(names) }
    }
}

impl Caller {
    /// A caller as a credential makes it. Two issuers may use the same subject for different people.
    pub fn new(kind: CallerKind, issuer: Option<&str>, subject: &str, grant: &conf::Grant) -> Self {
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        digest.update(kind.as_str().as_bytes());
        digest.update(&[0]);
        digest.update(issuer.unwrap_or_default().as_bytes());
        digest.update(&[0]);
        digest.update(subject.as_bytes());
        let digest = digest.finish();
        let id = digest.as_ref().first_chunk::<16>().map_or(0, |bytes| u128::from_be_bytes(*bytes));
        let sorted = |words: &[String]| {
            let mut words: Vec<Box<str>> = words.iter().map(|word| word.as_str().into()).collect();
            words.sort_unstable();
            words.dedup();
            words
        };
        Self {
            id,
            subject: subject.into(),
            kind,
            issuer: issuer.map(Into::into),
            scopes: sorted(&grant.scopes),
            groups: sorted(&grant.groups),
            limit: grant.limit,
            expires: None,
            servers: Scope::new(&grant.servers),
        }
    }

    /// Whether the caller may see and use that server.
    pub fn may_use(&self, server: &str) -> bool {
        match &self.servers {
            Scope::All => true,
            Scope::Only(names) => names.contains(server),
        }
    }

    /// Whether the caller may use every server, and so act on the catalog as a whole.
    pub fn may_use_all(&self) -> bool {
        matches!(self.servers, Scope::All)
    }
}

/// Why nobody is authenticated. Both are the client's fault, and final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No credential came.
    #[error("no credential")]
    Missing,
    /// One came that is not good.
    #[error("bad credential")]
    Invalid,
}

/// Everybody who may call.
#[derive(Debug)]
pub struct Authenticator {
    keys: ApiKeys,
    tokens: Option<Tokens>,
    /// Who calls without a credential; `None` once any credential is configured.
    anonymous: Option<Arc<Caller>>,
}

impl Authenticator {
    /// Builds the tables from checked configuration.
    pub fn new(auth: &conf::Auth) -> Self {
        let all = conf::Grant { servers: vec!["*".into()], ..conf::Grant::default() };
        let anonymous = Caller::new(CallerKind::Anonymous, None, "anonymous", &all);
        Self {
            keys: ApiKeys::new(&auth.keys),
            tokens: auth.issuers.first().map(Tokens::new),
            anonymous: (!auth.is_configured()).then(|| Arc::new(anonymous)),
        }
    }

    /// Who sent these headers.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Caller>, AuthError> {
        if let Some(anonymous) = &self.anonymous {
            return Ok(Arc::clone(anonymous));
        }
        match credentials::find(headers)? {
            Credential::Bearer(token) => self
                .keys
                .find(token)
                .or_else(|| self.tokens.as_ref()?.verify(token).map(Arc::new))
                .ok_or(AuthError::Invalid),
            Credential::ApiKey(key) => self.keys.find(key).ok_or(AuthError::Invalid),
        }
    }
}

#[cfg(test)]
mod tests;
