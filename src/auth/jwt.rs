//! JSON Web Tokens, checked as RFC 8725 and RFC 9068 ask, and the verified ones remembered.
//! Not here: keys (`key`, `key_source`), signatures (`provider`), what the claims say about the bearer (`claims`).
//!
//! The token names its issuer, and from there on only that issuer's keys, algorithms and audiences count. Of the
//! header only `alg`, `kid` and `typ` are used, each to choose among what the configuration allows; keys that a token
//! brings along or points to (`jwk`, `jku`, `x5c`, `x5u`) are never looked at. `nbf` is checked when it is there, and
//! not demanded: the common providers leave it out, and a token without it is simply valid at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Validation;
use jsonwebtoken::errors::ErrorKind;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::key::{Candidates, Key, library_name};
use super::key_source::{FileError, Keys};
use super::standing::Standing;
use super::table::Digest;
use super::{AuthError, Caller, Resource, claims, provider, strict};
use crate::conf::{self, Algorithm};

/// A key's name only selects one; RFC 7515 sets no bound.
const KID_BYTES_MAX: usize = 256;
/// The end of the year 9999, in seconds: later times are none that calendars can write.
const TIME_SECS_MAX: f64 = 253_402_300_799.0;

/// Checks tokens.
#[derive(Debug)]
pub(super) struct Tokens {
    issuers: Vec<Arc<Issuer>>,
    by_name: HashMap<String, usize>,
    /// The issuer of the old form without a name: it takes tokens that no other issuer claims.
    nameless: Option<usize>,
    classes: BTreeMap<String, conf::Limit>,
    verified: Option<Cache<Digest, Arc<Verified>, Size>>,
}

/// One issuer and its keys.
#[derive(Debug)]
pub(super) struct Issuer {
    conf: conf::Issuer,
    /// What is asked of a token of each algorithm: the library takes no list that mixes kinds of keys.
    validations: Vec<(Algorithm, Validation)>,
    pub(super) keys: Arc<Keys>,
    /// Ends when the configuration says anything else of the issuer but a limit.
    standing: Standing,
}

/// A token whose signature and claims were found good.
#[derive(Debug)]
struct Verified {
    /// Not before this it is good, if it says so.
    begins: Option<SystemTime>,
    caller: Arc<Caller>,
    audiences: Box<[Box<str>]>,
    issuer: Arc<Issuer>,
    bytes: usize,
}

/// What came out.
pub(super) enum Checked {
    Done(Result<Arc<Caller>, AuthError>),
    /// The issuer may know a key that we do not.
    UnknownKey(Arc<Issuer>),
}

/// A remembered token weighs one for each KiB that it has: what is kept of it grows with what is in it.
#[derive(Debug, Clone)]
struct Size;

impl Weighter<Digest, Arc<Verified>> for Size {
    fn weight(&self, _: &Digest, verified: &Arc<Verified>) -> u64 {
        verified.bytes.div_ceil(1024) as u64
    }
}

impl Issuer {
    /// An issuer that was there `before` keeps its keys, unless they are elsewhere now, and its callers, unless more
    /// than a limit has changed.
    fn new(conf: &conf::Issuer, cool_down: Duration, before: Option<&Self>) -> Result<Self, FileError> {
        let mut validation = Validation {
            leeway: conf.leeway.as_secs(),
            validate_nbf: true,
            // Audiences depend on the door, so they are compared for each request.
            validate_aud: false,
            ..Validation::default()
        };
        let mut required = vec!["exp", "sub"];
        if conf.audience_required {
            required.push("aud");
        }
        if let Some(issuer) = &conf.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        let one = |algorithm: &Algorithm| {
            let only = Validation { algorithms: vec![library_name(*algorithm)], ..validation.clone() };
            (*algorithm, only)
        };
        let validations = conf.algorithms.iter().map(one).collect();
        let keys = match before.filter(|before| before.conf.keys == conf.keys) {
            Some(before) => Arc::clone(&before.keys),
            None => Arc::new(Keys::new(&conf.keys, cool_down)?),
        };
        let same = before.filter(|before| without_limits(&before.conf) == without_limits(conf));
        let standing = same.map(|before| before.standing.clone()).unwrap_or_default();
        Ok(Self { conf: conf.clone(), validations, keys, standing })
    }

    /// What is asked of a token of that algorithm, if the issuer may use it.
    fn validation(&self, algorithm: Algorithm) -> Option<&Validation> {
        self.validations.iter().find(|(known, _)| *known == algorithm).map(|(_, validation)| validation)
    }

    /// Its name, for logs.
    pub(super) fn name(&self) -> &str {
        self.conf.issuer.as_deref().unwrap_or("without a name")
    }

    /// Whether one of a token's audiences is ours.
    fn is_meant(&self, audiences: &[Box<str>], resource: Option<Resource<'_>>) -> bool {
        if !self.conf.audience_required {
            return true;
        }
        let listed = |audience: &str| {
            let same = |known: &String| without_slash(known) == without_slash(audience);
            self.conf.audiences.iter().any(same)
        };
        if self.conf.audiences.is_empty() {
            audiences.iter().any(|audience| resource.is_some_and(|resource| resource.is_named_by(audience)))
        } else {
            audiences.iter().any(|audience| listed(audience))
        }
    }
}

/// What decides on more than how often callers may call.
fn without_limits(conf: &conf::Issuer) -> conf::Issuer {
    let mut conf = conf.clone();
    (conf.grant.limit, conf.claims.limit_class) = (None, None);
    conf
}

/// Some clients append a slash to a resource's address.
pub(super) fn without_slash(address: &str) -> &str {
    address.strip_suffix('/').unwrap_or(address)
}

impl Tokens {
    /// Issuers that were there before keep their keys; the memory of tokens begins anew.
    pub(super) fn new(
        access: &conf::Access,
        tokens_max: usize,
        cool_down: Duration,
        before: Option<&Self>,
    ) -> Result<Self, (String, FileError)> {
        provider::install();
        let mut issuers = Vec::new();
        for conf in &access.auth.issuers {
            let same_name = |known: &&Arc<Issuer>| known.conf.issuer == conf.issuer;
            let known = before.and_then(|before| before.issuers.iter().find(same_name));
            issuers.push(match known.filter(|known| known.conf == *conf) {
                Some(known) => Arc::clone(known),
                None => Arc::new(
                    Issuer::new(conf, cool_down, known.map(AsRef::as_ref))
                        .map_err(|error| (conf.issuer.clone().unwrap_or_default(), error))?,
                ),
            });
        }
        let named = issuers.iter().enumerate();
        let by_name = named.filter_map(|(at, issuer)| Some((issuer.conf.issuer.clone()?, at))).collect();
        let nameless = issuers.iter().position(|issuer| issuer.conf.issuer.is_none());
        let verified = (!issuers.is_empty() && tokens_max > 0)
            .then(|| Cache::with_weighter(tokens_max.min(1024), tokens_max as u64, Size));
        Ok(Self { issuers, by_name, nameless, classes: access.classes.clone(), verified })
    }

    pub(super) fn issuers(&self) -> &[Arc<Issuer>] {
        &self.issuers
    }

    /// Ends callers of issuers that `next` does not have, or trusts with something else.
    pub(super) fn end_those_missing_in(&self, next: &Self) {
        let gone =
            |issuer: &&Arc<Issuer>| !next.issuers.iter().any(|kept| kept.standing.is(&issuer.standing));
        self.issuers.iter().filter(gone).for_each(|issuer| issuer.standing.end());
    }

    /// Checks `token`, whose SHA-256 is `digest`, at the door `resource`.
    pub(super) fn check(
        &self,
        token: &str,
        digest: &Digest,
        resource: Option<Resource<'_>>,
        now: SystemTime,
    ) -> Checked {
        if self.issuers.is_empty() {
            return Checked::Done(Err(AuthError::Invalid));
        }
        let verified = match self.remembered(digest, now) {
            Some(verified) => verified,
            None => match self.verify(token) {
                Ok(verified) => self.remember(*digest, verified),
                Err(Fault::Bad) => return Checked::Done(Err(AuthError::Invalid)),
                Err(Fault::Expired) => return Checked::Done(Err(AuthError::Expired)),
                Err(Fault::UnknownKey(issuer)) => return Checked::UnknownKey(issuer),
            },
        };
        let meant = verified.issuer.is_meant(&verified.audiences, resource);
        Checked::Done(meant.then(|| Arc::clone(&verified.caller)).ok_or(AuthError::Invalid))
    }

    fn remember(&self, digest: Digest, verified: Verified) -> Arc<Verified> {
        let verified = Arc::new(verified);
        if let Some(cache) = &self.verified {
            cache.insert(digest, Arc::clone(&verified));
        }
        verified
    }

    /// What is remembered, in KiB of tokens.
    #[cfg(test)]
    pub(super) fn remembered_weight(&self) -> u64 {
        self.verified.as_ref().map_or(0, Cache::weight)
    }

    /// A token that was good, unless its time or its key's has come since.
    fn remembered(&self, digest: &Digest, now: SystemTime) -> Option<Arc<Verified>> {
        let cache = self.verified.as_ref()?;
        let verified = cache.get(digest)?;
        // A clock that was ahead may have been put right since.
        if verified.begins.is_none_or(|begins| begins <= now) && verified.caller.stands(now) {
            return Some(verified);
        }
        cache.remove(digest);
        None
    }

    fn verify(&self, token: &str) -> Result<Verified, Fault> {
        let (head, payload) = parts(token).ok_or(Fault::Bad)?;
        let head = Head::read(&strict_part(head).ok_or(Fault::Bad)?).ok_or(Fault::Bad)?;
        let claims = strict_part(payload).ok_or(Fault::Bad)?;
        let issuer = self.issuer_of(&claims).ok_or(Fault::Bad)?;
        // `cnf` binds a token to a key that nobody has shown here (RFC 7800): as a plain bearer it is worth nothing.
        if claims.contains_key("cnf") || !head.access && is_id_token(&claims) {
            return Err(Fault::Bad);
        }
        let validation = issuer.validation(head.algorithm).ok_or(Fault::Bad)?;
        let set = issuer.keys.set();
        let key = match set.candidates(head.key.as_deref(), head.algorithm) {
            Candidates::Named(key) if is_signed_by(key, token, validation)? => key,
            // Its issuer may have put another key in the place of the one that we know.
            Candidates::Named(_) if issuer.keys.are_at_an_address() => {
                return Err(Fault::UnknownKey(Arc::clone(issuer)));
            }
            Candidates::Named(_) => return Err(Fault::Bad),
            Candidates::Unnamed(keys) => {
                let mut found = None;
                for key in keys {
                    if is_signed_by(key, token, validation)? {
                        found = Some(key);
                        break;
                    }
                }
                found.ok_or_else(|| Fault::UnknownKey(Arc::clone(issuer)))?
            }
        };
        let ends = time(&claims, "exp").ok_or(Fault::Bad)? + issuer.conf.leeway;
        let begins = time(&claims, "nbf").and_then(|begins| begins.checked_sub(issuer.conf.leeway));
        let audiences = audiences(&claims, issuer.conf.audience_required).ok_or(Fault::Bad)?;
        let mut caller = claims::caller(&claims, &issuer.conf, &self.classes).ok_or(Fault::Bad)?;
        caller.expires = Some(ends);
        caller.standing = key.standing.clone();
        caller.issuer_standing = issuer.standing.clone();
        let issuer = Arc::clone(issuer);
        Ok(Verified { begins, caller: Arc::new(caller), audiences, issuer, bytes: token.len() })
    }

    /// The issuer that the token names. Its word is not believed yet.
    fn issuer_of(&self, claims: &Map<String, Value>) -> Option<&Arc<Issuer>> {
        let named =
            claims.get("iss").and_then(Value::as_str).and_then(|name| self.by_name.get(name).copied());
        self.issuers.get(named.or(self.nameless)?)
    }
}

/// What is wrong with a token.
enum Fault {
    Bad,
    Expired,
    UnknownKey(Arc<Issuer>),
}

/// Header and payload of a token in compact form. Five parts would be an encrypted one, which is none of ours.
fn parts(token: &str) -> Option<(&str, &str)> {
    let mut parts = token.split('.');
    match (parts.next()?, parts.next()?, parts.next()?, parts.next()) {
        (head, payload, signature, None) if !signature.is_empty() => Some((head, payload)),
        _ => None,
    }
}

fn strict_part(part: &str) -> Option<Map<String, Value>> {
    strict::object(&URL_SAFE_NO_PAD.decode(part).ok()?)
}

/// What we use of a token's header.
struct Head {
    algorithm: Algorithm,
    key: Option<String>,
    /// Whether it says that it is an access token (RFC 9068 section 2.1).
    access: bool,
}

impl Head {
    fn read(head: &Map<String, Value>) -> Option<Self> {
        let algorithm = match head.get("alg")?.as_str()? {
            "HS256" => Algorithm::Hs256,
            "HS384" => Algorithm::Hs384,
            "HS512" => Algorithm::Hs512,
            "RS256" => Algorithm::Rs256,
            "RS384" => Algorithm::Rs384,
            "RS512" => Algorithm::Rs512,
            "PS256" => Algorithm::Ps256,
            "PS384" => Algorithm::Ps384,
            "PS512" => Algorithm::Ps512,
            "ES256" => Algorithm::Es256,
            "ES384" => Algorithm::Es384,
            "EdDSA" => Algorithm::EdDsa,
            _ => return None,
        };
        // We understand no extension that could be critical (RFC 7515 section 4.1.11), no unencoded payload (RFC 7797),
        // no encryption and no compression.
        if ["crit", "b64", "enc", "zip"].iter().any(|name| head.contains_key(*name)) {
            return None;
        }
        let key = match head.get("kid") {
            None => None,
            Some(Value::String(key)) if key.len() <= KID_BYTES_MAX => Some(key.clone()),
            Some(_) => return None,
        };
        let access = match head.get("typ") {
            None => false,
            Some(Value::String(kind)) => {
                let kind = kind.to_ascii_lowercase();
                match kind.strip_prefix("application/").unwrap_or(&kind) {
                    "at+jwt" => true,
                    "jwt" => false,
                    _ => return None,
                }
            }
            Some(_) => return None,
        };
        Some(Self { algorithm, key, access })
    }
}

/// Whether a token that does not say what it is looks like another kind: an id token, which is for the client alone
/// (OpenID Connect Core section 2).
fn is_id_token(claims: &Map<String, Value>) -> bool {
    ["nonce", "at_hash", "c_hash"].iter().any(|name| claims.contains_key(*name))
}

/// Whether `key` made the signature. If it did, the library has found times and names as it was told.
fn is_signed_by(key: &Key, token: &str, validation: &Validation) -> Result<bool, Fault> {
    match jsonwebtoken::decode::<IgnoredAny>(token, &key.decoding, validation) {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            ErrorKind::InvalidSignature => Ok(false),
            ErrorKind::ExpiredSignature => Err(Fault::Expired),
            _ => Err(Fault::Bad),
        },
    }
}

/// When a token begins or ends, if it says so in a number that is a time.
fn time(claims: &Map<String, Value>, name: &str) -> Option<SystemTime> {
    let seconds = claims.get(name).filter(|time| time.is_number())?.as_f64()?;
    let is_time = (0.0..=TIME_SECS_MAX).contains(&seconds);
    is_time.then(|| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds))
}

fn audiences(claims: &Map<String, Value>, required: bool) -> Option<Box<[Box<str>]>> {
    match claims.get("aud") {
        None if !required => Some(Box::default()),
        Some(Value::String(audience)) => Some([audience.as_str().into()].into()),
        Some(Value::Array(list)) => list.iter().map(|item| item.as_str().map(Box::from)).collect(),
        _ => None,
    }
}
