//! Tokens that an operator makes with an issuer's shared secret.
//! Not here: the command line (`command/token`); whether a token is good (`jwt`).

use std::time::{Duration, SystemTime};

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Map, Value, json};

use super::key::library_name;
use super::provider;
use crate::conf::{Issuer, IssuerKeys};

/// Longer than that is what API keys are for, which can be taken back one by one.
const TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// What a token is to say. Lists that are absent are left to the issuer's grant.
#[derive(Debug, Clone, Default)]
pub struct Minted {
    /// Who it is for.
    pub subject: String,
    /// Where it is good; without one, the issuer's first audience.
    pub audience: Option<String>,
    /// Scopes.
    pub scopes: Option<Vec<String>>,
    /// Servers: ids, or `*`.
    pub servers: Option<Vec<String>>,
    /// Groups.
    pub groups: Option<Vec<String>>,
    /// How long it is good.
    pub ttl: Duration,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The issuer's keys are public ones.
    #[error("this issuer has no shared secret: only the issuer itself can sign its tokens")]
    NoSecret,
    /// Nothing says where the token would be good.
    #[error("an audience is needed: the address of the door, or of the gateway as a whole (`public_url`)")]
    NoAudience,
    /// It would live too long, or not at all.
    #[error("a token lives between 1s and {} days: for longer, make an API key", TTL_MAX.as_secs() / 86400)]
    Ttl,
    /// The system has no random bytes.
    #[error("no random bytes: {0}")]
    Random(getrandom::Error),
    /// The library refused.
    #[error("the token cannot be signed: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// A token of `issuer`, signed with its secret by the first of its algorithms, with claims under the names that it
/// uses. It begins at `now`.
pub fn mint(issuer: &Issuer, minted: &Minted, now: SystemTime) -> Result<String, MintError> {
    let (IssuerKeys::Secret(secret), Some(algorithm)) = (&issuer.keys, issuer.algorithms.first()) else {
        return Err(MintError::NoSecret);
    };
    if minted.ttl < Duration::from_secs(1) || minted.ttl > TTL_MAX {
        return Err(MintError::Ttl);
    }
    let audience = minted.audience.as_ref().or(issuer.audiences.first());
    if audience.is_none() && issuer.audience_required {
        return Err(MintError::NoAudience);
    }
    let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(MintError::Random)?;
    let mut claims = Map::new();
    let mut say = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            claims.insert(name.to_owned(), value);
        }
    };
    say("iss", issuer.issuer.clone().map(Value::from));
    say("sub", Some(json!(minted.subject)));
    say(&issuer.claims.subject, Some(json!(minted.subject)));
    say("aud", audience.map(|audience| json!(audience)));
    say("iat", Some(json!(seconds(now))));
    say("nbf", Some(json!(seconds(now))));
    say("exp", Some(json!(seconds(now + minted.ttl))));
    say("jti", Some(json!(format!("{:032x}", u128::from_be_bytes(id)))));
    let scopes = minted.scopes.as_ref().map(|scopes| json!(scopes.join(" ")));
    say(issuer.claims.scopes.first().map_or("scope", String::as_str), scopes);
    say(&issuer.claims.groups, minted.groups.as_ref().map(|groups| json!(groups)));
    say(&issuer.claims.servers, minted.servers.as_ref().map(|servers| json!(servers)));
    provider::install();
    let mut head = Header::new(library_name(*algorithm));
    head.typ = Some("at+jwt".into());
    Ok(jsonwebtoken::encode(&head, &claims, &EncodingKey::from_secret(secret.expose().as_bytes()))?)
}
