//! Everybody who may call, as the configuration has it at one time, and how one table gives way to the next.
//! Not here: what a request shows (`credentials`); waiting for keys (`key_source`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::api_key::ApiKeys;
use super::certificate::Certificates;
use super::credentials::{self, Credential};
use super::jwt::{Checked, Tokens};
use super::{AuthError, Caller, CallerKind, Presented, ResourceServer, SetupError};
use crate::conf;

/// SHA-256 of a credential.
pub(super) type Digest = [u8; 32];

pub(super) fn digest_of(credential: &str) -> Digest {
    let digest = ring::digest::digest(&ring::digest::SHA256, credential.as_bytes());
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

/// Everybody who may call, as the configuration had it at one time.
#[derive(Debug)]
pub(super) struct Table {
    keys: ApiKeys,
    certificates: Certificates,
    pub(super) tokens: Tokens,
    anonymous: Option<Arc<Caller>>,
    /// Nothing is configured: everybody is anonymous, whatever they show.
    open: bool,
    pub(super) resource_server: Arc<ResourceServer>,
}

impl Table {
    pub(super) fn new(
        access: &conf::Access,
        tokens_max: usize,
        cool_down: Duration,
        before: Option<&Self>,
    ) -> Result<Self, SetupError> {
        let auth = &access.auth;
        let open = !auth.is_configured();
        let all = || conf::Grant { servers: vec!["*".into()], ..conf::Grant::default() };
        let grant = if open { Some(all()) } else { auth.anonymous.clone() };
        let anonymous = grant.map(|grant| {
            let mut caller = Caller::new(CallerKind::Anonymous, None, "anonymous", &grant);
            carry_on(&mut caller, before.and_then(|before| before.anonymous.as_ref()));
            Arc::new(caller)
        });
        let tokens = Tokens::new(access, tokens_max, cool_down, before.map(|before| &before.tokens))
            .map_err(|(issuer, error)| {
                let named = auth.issuers.iter().find(|named| named.issuer.as_ref() == Some(&issuer));
                let path = named.and_then(|issuer| match &issuer.keys {
                    conf::IssuerKeys::Pem(path) | conf::IssuerKeys::JwksFile(path) => Some(path.clone()),
                    conf::IssuerKeys::Secret(_) | conf::IssuerKeys::JwksUrl(_) => None,
                });
                SetupError { issuer, path, error }
            })?;
        Ok(Self {
            keys: ApiKeys::new(&auth.keys, before.map(|before| &before.keys)),
            certificates: Certificates::new(&auth.certificates, before.map(|before| &before.certificates)),
            tokens,
            anonymous,
            open,
            resource_server: Arc::new(ResourceServer::new(auth)),
        })
    }

    /// Ends what `next` does not have in the same form.
    pub(super) fn give_way_to(&self, next: &Self) {
        self.keys.end_those_missing_in(&next.keys);
        self.certificates.end_those_missing_in(&next.certificates);
        self.tokens.end_those_missing_in(&next.tokens);
        if let Some(anonymous) = &self.anonymous {
            end_unless_kept(anonymous, next.anonymous.as_ref());
        }
    }

    pub(super) fn check(&self, presented: &Presented<'_>, now: SystemTime) -> Checked {
        let done = |result: Result<Arc<Caller>, AuthError>| Checked::Done(result);
        if let Some(anonymous) = self.anonymous.as_ref().filter(|_| self.open) {
            return done(Ok(Arc::clone(anonymous)));
        }
        match credentials::find(presented.headers) {
            Ok(Credential::Bearer(token)) => {
                let digest = digest_of(token);
                match self.by_key(&digest, now) {
                    Some(result) => done(result),
                    None => self.tokens.check(token, &digest, presented.resource, now),
                }
            }
            Ok(Credential::ApiKey(key)) => {
                done(self.by_key(&digest_of(key), now).unwrap_or(Err(AuthError::Invalid)))
            }
            Err(AuthError::Missing) => done(self.without_header(presented, now)),
            Err(error) => done(Err(error)),
        }
    }

    fn by_key(&self, digest: &Digest, now: SystemTime) -> Option<Result<Arc<Caller>, AuthError>> {
        let caller = self.keys.find(digest)?;
        Some(if caller.stands(now) { Ok(caller) } else { Err(AuthError::Expired) })
    }

    fn without_header(&self, presented: &Presented<'_>, now: SystemTime) -> Result<Arc<Caller>, AuthError> {
        if presented.query.is_some_and(credentials::is_in_query) {
            return Err(AuthError::Invalid);
        }
        if let Some(names) = presented.certificate.filter(|_| !self.certificates.is_empty()) {
            let caller = self.certificates.find(names).ok_or(AuthError::Invalid)?;
            // TLS has seen to it once, when the connection began.
            return if caller.stands(now) { Ok(caller) } else { Err(AuthError::Expired) };
        }
        let anonymous = self.anonymous.as_ref().filter(|_| presented.kinds.anonymous);
        anonymous.map(Arc::clone).ok_or(AuthError::Missing)
    }
}

/// `caller` takes the place of `before`: if nothing but its limit has changed, it goes on with the same standing.
pub(super) fn carry_on(caller: &mut Caller, before: Option<&Arc<Caller>>) {
    if let Some(before) = before.filter(|before| before.is_same(caller)) {
        caller.standing = before.standing.clone();
    }
}

/// Ends `caller`, unless `next` goes on with its standing.
pub(super) fn end_unless_kept(caller: &Caller, next: Option<&Arc<Caller>>) {
    if !next.is_some_and(|next| next.standing.is(&caller.standing)) {
        caller.standing.end();
    }
}
