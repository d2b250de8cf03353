//! Who is calling and what they may use: a credential becomes a [`Caller`], a permission becomes an [`Allowed`].
//! Not here: how often a caller may call (`limit`); what a refusal looks like (`proxy/rejection`, `control/error`).
//!
//! Order, which is all there is:
//! 1. `Authorization`, if present: a bearer token, looked up among the keys, and read as a JSON Web Token only if it is
//!    none of them.
//! 2. Else `X-API-Key`, if present.
//! 3. Else the connection's client certificate, if there is one and certificates are configured.
//! 4. Else nobody: the anonymous caller with what the configuration grants it, or a refusal.
//!
//! A credential that is present but bad is final; there is no fall-through to the next kind, and what stands later in
//! the list is not looked at beside an earlier one. A credential in the query is never taken for one: alone, it is a bad
//! one. While nothing at all is configured everybody is anonymous and may use everything; the gateway is then on
//! loopback only.
//!
//! A caller of a kind that the listener does not let in is refused after the credential was found good, so that nobody
//! learns anything about a bad one.

mod api_key;
mod certificate;
mod claims;
mod credentials;
mod entrance;
mod explain;
mod introduction;
mod jwt;
mod key;
mod key_source;
mod metadata;
mod mint;
mod plan;
mod policy;
mod provider;
mod review;
mod roster;
mod standing;
mod strict;
mod table;

use std::collections::HashSet;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use http::HeaderMap;

use crate::{conf, egress};
use jwt::{Checked, Issuer};
use standing::Standing;
use table::Table;

pub use certificate::CertificateNames;
pub use claims::narrowed;
pub use credentials::{shows_token, without_credentials};
pub use entrance::{Entrance, InForce};
pub use explain::{Considered, consider};
pub use introduction::Introduction;
pub use key::KeyError;
pub use key_source::FileError;
pub use metadata::{Challenge, Resource, ResourceServer, WELL_KNOWN};
pub use mint::{MintError, Minted, mint};
pub use plan::{Change, Given, plan};
pub use policy::{Allowed, Demand, Denied, ItemKind, Policy, Rulebook, Sight, Verdict, Why, allow};
pub use review::review;
pub use roster::{Known, roster, tokens};

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
    standing: Standing,
    /// Of what the configuration says about a token's issuer; never ends for others.
    issuer_standing: Standing,
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
            standing: Standing::default(),
            issuer_standing: Standing::default(),
        }
    }

    /// Whether the credential is still good at `now`: neither expired nor taken away since.
    fn stands(&self, now: SystemTime) -> bool {
        !self.standing.has_ended()
            && !self.issuer_standing.has_ended()
            && self.expires.is_none_or(|expires| now < expires)
    }

    /// Whether the other is the same caller with the same permissions. Limits may differ: they act on the next call.
    fn is_same(&self, other: &Self) -> bool {
        self.id == other.id
            && self.scopes == other.scopes
            && self.groups == other.groups
            && self.servers == other.servers
            && self.expires == other.expires
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

/// Why nobody is authenticated. All but the last are the client's fault, and final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No credential came.
    #[error("no credential")]
    Missing,
    /// One came that is not good.
    #[error("bad credential")]
    Invalid,
    /// One came that was good once.
    #[error("the credential has expired")]
    Expired,
    /// One came that is good, but of a kind that the listener does not let in.
    #[error("credentials of this kind are not taken here")]
    Kind,
    /// The keys of the token's issuer could never be read so far. Ours or the issuer's fault; trying again is safe.
    #[error("the keys of the token's issuer cannot be read")]
    Unavailable,
}

impl AuthError {
    /// What a client is told in a challenge, if another credential would help.
    pub fn challenge(self) -> Option<Challenge<'static>> {
        match self {
            Self::Missing => Some(Challenge::Missing),
            Self::Expired => Some(Challenge::Invalid("the credential has expired")),
            Self::Invalid => Some(Challenge::Invalid("the credential is not good here")),
            Self::Kind | Self::Unavailable => None,
        }
    }
}

/// The labels under which an authentication is counted: method and result.
pub fn labels(result: Result<&Caller, AuthError>) -> (&'static str, &'static str) {
    match result {
        Ok(caller) => (caller.kind.as_str(), "ok"),
        Err(AuthError::Missing) => ("none", "missing"),
        Err(AuthError::Invalid) => ("unknown", "invalid"),
        Err(AuthError::Expired) => ("unknown", "expired"),
        Err(AuthError::Kind) => ("unknown", "kind"),
        Err(AuthError::Unavailable) => ("jwt", "unavailable"),
    }
}

/// Why the configured credentials cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("keys of issuer {issuer:?}{}: {error}", path.as_ref().map(|path| format!(" in {}", path.display())).unwrap_or_default())]
pub struct SetupError {
    issuer: String,
    path: Option<PathBuf>,
    #[source]
    error: FileError,
}

/// What a request shows of who sent it, and where it came to.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'p> {
    /// Its headers.
    pub headers: &'p HeaderMap,
    /// Its query, unless that is somebody else's, as at a raw upstream.
    pub query: Option<&'p str>,
    /// The client certificate of its connection.
    pub certificate: Option<CertificateNames<'p>>,
    /// The door, if the listener has a public address. `None` fits no token whose issuer has no audience of its own.
    pub resource: Option<Resource<'p>>,
    /// Kinds of callers that the listener lets in.
    pub kinds: conf::Kinds,
}

impl<'p> Presented<'p> {
    /// A request that shows its headers only, and came to a place that lets everybody in.
    pub fn headers(headers: &'p HeaderMap) -> Self {
        Self { headers, query: None, certificate: None, resource: None, kinds: conf::Kinds::ALL }
    }
}

/// Everybody who may call, as the configuration has it at one time.
#[derive(Debug)]
pub struct Authenticator {
    table: Table,
    tokens_max: usize,
    cool_down: Duration,
    client: Arc<egress::Client>,
}

impl Authenticator {
    /// Builds the tables from checked configuration and reads the files it names. At most `tokens_max` verified tokens
    /// are remembered.
    pub fn new(access: &conf::Access, tokens_max: usize) -> Result<Self, SetupError> {
        Self::with_cool_down(access, tokens_max, key_source::COOL_DOWN)
    }

    fn with_cool_down(
        access: &conf::Access,
        tokens_max: usize,
        cool_down: Duration,
    ) -> Result<Self, SetupError> {
        let table = Table::new(access, tokens_max, cool_down, None)?;
        Ok(Self { table, tokens_max, cool_down, client: Arc::default() })
    }

    /// The same for a changed configuration. What is configured as before goes on: key sets of issuers, and the
    /// standing of callers who are already in.
    fn successor(&self, access: &conf::Access) -> Result<Self, SetupError> {
        let table = Table::new(access, self.tokens_max, self.cool_down, Some(&self.table))?;
        Ok(Self { table, client: Arc::clone(&self.client), ..*self })
    }

    /// Callers whose credential `next` does not have, or has for something else, do not stand any longer.
    fn give_way_to(&self, next: &Self) {
        self.table.give_way_to(&next.table);
    }

    /// Who sent this. Waits only for a token whose key is unknown, while its issuer is asked for new keys.
    pub async fn authenticate(&self, presented: &Presented<'_>) -> Result<Arc<Caller>, AuthError> {
        // Boxed, so that the future of every other request stays small.
        let checked = match self.check(presented) {
            Checked::Done(done) => done,
            Checked::UnknownKey(issuer) => Box::pin(self.ask(&issuer, presented)).await,
        };
        let caller = checked?;
        let kinds = &presented.kinds;
        let let_in = match caller.kind {
            CallerKind::Anonymous => kinds.anonymous,
            CallerKind::ApiKey => kinds.api_key,
            CallerKind::Jwt => kinds.jwt,
            CallerKind::Certificate => kinds.certificate,
        };
        match caller.kind {
            _ if let_in => Ok(caller),
            CallerKind::Anonymous => Err(AuthError::Missing),
            CallerKind::ApiKey | CallerKind::Jwt | CallerKind::Certificate => Err(AuthError::Kind),
        }
    }

    fn check(&self, presented: &Presented<'_>) -> Checked {
        self.table.check(presented, SystemTime::now())
    }

    async fn ask(&self, issuer: &Issuer, presented: &Presented<'_>) -> Result<Arc<Caller>, AuthError> {
        if let Some(asked) = issuer.keys.ask() {
            asked.wait().await;
        }
        match self.check(presented) {
            Checked::Done(done) => done,
            Checked::UnknownKey(issuer) if issuer.keys.are_loaded() => Err(AuthError::Invalid),
            Checked::UnknownKey(_) => Err(AuthError::Unavailable),
        }
    }

    /// Whether the credential that `caller` came in with is still good: what is open for one that is not has to end.
    pub fn stands(&self, caller: &Caller) -> bool {
        caller.stands(SystemTime::now())
    }

    /// What OAuth clients are told.
    pub fn resource_server(&self) -> Arc<ResourceServer> {
        Arc::clone(&self.table.resource_server)
    }

    /// Reads issuers' keys again when it is time, for ever.
    async fn keep_keys(&self) {
        let issuers = self.table.tokens.issuers().iter();
        join_all(issuers.map(|issuer| issuer.keys.keep(issuer.name(), &self.client))).await;
        pending().await
    }
}

#[cfg(test)]
mod tests;
