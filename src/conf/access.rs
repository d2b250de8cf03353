//! Who may come in and how often, checked: the part of the configuration that a running gateway takes over anew.
//! Not here: what callers may do once they are in (`catalog`, rules); where the gateway listens (`listener`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use http::Uri;

use super::Secret;

/// Who may come in and how often.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Credentials, and what each is good for.
    pub auth: Auth,
    /// The limit of every caller that has none of its own.
    pub limit: Option<Limit>,
    /// Named limits, for keys and for claims of tokens.
    pub classes: BTreeMap<String, Limit>,
    /// The bucket of every client address, looked at before authentication. IPv6 addresses count by /64.
    pub address_limit: Option<Rate>,
    /// Requests of one address in a second beyond which nothing of them is looked at; a coarse guard.
    pub flood: Option<u32>,
}

/// Credentials.
#[derive(Debug, Clone, Default)]
pub struct Auth {
    /// Static API keys.
    pub keys: Vec<ApiKey>,
    /// Issuers of JSON Web Tokens, each with its own keys and algorithms.
    pub issuers: Vec<Issuer>,
    /// Callers by client certificate.
    pub certificates: Vec<Certificate>,
    /// What callers without a credential may do; `None` refuses them once anything else is configured.
    pub anonymous: Option<Grant>,
    /// Authorization servers that OAuth clients are sent to (RFC 9728 section 2), as their own metadata spells them.
    /// Empty means that there is none.
    pub authorization_servers: Vec<String>,
    /// Scopes that OAuth clients are told to ask for (`scopes_supported`, and the challenge of a 401).
    pub scopes: Vec<String>,
}

impl Auth {
    /// Whether anybody could authenticate at all, or strangers were let in by name.
    pub fn is_configured(&self) -> bool {
        !self.keys.is_empty()
            || !self.issuers.is_empty()
            || !self.certificates.is_empty()
            || self.anonymous.is_some()
    }
}

/// What a credential is good for. Rules of the catalog decide within it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// Servers: ids, or `*` for all. An empty list allows none.
    pub servers: Vec<String>,
    /// Scopes, for rules.
    pub scopes: Vec<String>,
    /// Groups, for rules.
    pub groups: Vec<String>,
    /// The caller's own limit, instead of [`Access::limit`].
    pub limit: Option<Limit>,
}

/// A static API key.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Who the holder is, in logs, buckets and rules. Unique.
    pub name: String,
    /// Who answers for it, for people.
    pub owner: Option<String>,
    /// The key or its digest.
    pub key: KeyMaterial,
    /// The time at which it stops being good.
    pub expires: Option<SystemTime>,
    /// What it is good for.
    pub grant: Grant,
}

/// An API key as the file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyMaterial {
    /// In the clear, from a variable or a file.
    Plain(Secret),
    /// `sha256:` and 64 hexadecimal digits, as `tollgate key new` prints it.
    Sha256([u8; 32]),
}

/// An issuer of JSON Web Tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// The `iss` of its tokens. `None` only for the old form `auth.jwt` without an issuer.
    pub issuer: Option<String>,
    /// Accepted values of `aud`. Empty means: the door's own resource URL, built from the listener's `public_url`.
    pub audiences: Vec<String>,
    /// Whether `aud` is looked at; false only for the old form `auth.jwt` without an audience.
    pub audience_required: bool,
    /// Algorithms that its tokens may be signed with; never empty, all of the same family as `keys`.
    pub algorithms: Vec<Algorithm>,
    /// Where its keys are.
    pub keys: IssuerKeys,
    /// Where in a token is what.
    pub claims: Claims,
    /// What a token is good for whose claims say nothing about it.
    pub grant: Grant,
    /// How far its clock and ours may differ.
    pub leeway: Duration,
}

/// Signature algorithms (RFC 7518 section 3.1, RFC 8037 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of the standard")]
pub enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuerKeys {
    /// A shared secret (HS*).
    Secret(Secret),
    /// A file with public keys or certificates in PEM.
    Pem(PathBuf),
    /// A file with a JSON Web Key Set (RFC 7517), read again when it changes.
    JwksFile(PathBuf),
    /// A JSON Web Key Set at an `https` address (`http` on loopback).
    JwksUrl(Uri),
}

/// Names of the claims that say what a token is good for. A claim may be a list of words, or words separated by
/// spaces; a name with dots leads into objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Who calls; `sub` unless said otherwise.
    pub subject: String,
    /// Scopes; `scope` unless said otherwise (RFC 9068 section 2.2.3), and `scp` as some issuers write it.
    pub scopes: Vec<String>,
    /// Groups; `groups` unless said otherwise.
    pub groups: String,
    /// Servers; `servers` unless said otherwise.
    pub servers: String,
    /// The name of a limit class, if there is such a claim.
    pub limit_class: Option<String>,
}

impl Default for Claims {
    fn default() -> Self {
        Self {
            subject: "sub".into(),
            scopes: vec!["scope".into(), "scp".into()],
            groups: "groups".into(),
            servers: "servers".into(),
            limit_class: None,
        }
    }
}

/// A caller by client certificate. The listener's `tls.client_ca` says which certificates are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Who the holder is, in logs, buckets and rules. Unique among certificates.
    pub name: String,
    /// What of the certificate has to match.
    pub matches: CertificateMatch,
    /// What it is good for.
    pub grant: Grant,
}

/// What of a certificate has to match, exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateMatch {
    /// The subject as RFC 4514 writes it, such as `CN=ci,O=Example`.
    Subject(String),
    /// The subject's common name alone.
    CommonName(String),
    /// A DNS name, URI or e-mail address among the subject alternative names.
    San(String),
}

/// How often, and how many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limit {
    /// A token bucket.
    pub rate: Option<Rate>,
    /// Calls at once.
    pub in_flight: Option<u32>,
}

/// A token bucket: `requests` per `per`, with `burst` saved up at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that flow in during `per`.
    pub requests: u32,
    /// The period.
    pub per: Duration,
    /// The bucket's size.
    pub burst: u32,
}

impl Rate {
    /// Why a limiter that counts in nanoseconds could not keep this rate, if so: a token would take less than one, or a
    /// full bucket longer than its clock reaches.
    pub fn out_of_bounds(&self) -> Option<&'static str> {
        const FILLED_NANOS_MAX: u128 = 10 * 365 * 86_400 * 1_000_000_000;
        let nanos = self.per.as_nanos();
        if nanos < u128::from(self.requests) {
            return Some("more than 1,000,000,000 requests in a second");
        }
        let filled = nanos * u128::from(self.burst) / u128::from(self.requests.max(1));
        (filled > FILLED_NANOS_MAX).then_some("so slow that it would take ten years to save up a burst")
    }
}
