//! JSON Web Tokens signed with HS256, checked as RFC 8725 asks.
//! Not here: tokens of issuers with public keys; the algorithm is pinned, so none of theirs is ever tried.

use std::sync::Once;

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::signature::{Error as SignatureError, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Validation};
use ring::hmac;
use serde::Deserialize;

use super::{Caller, CallerKind};
use crate::conf;

/// Clocks of issuer and gateway may differ by this much, in seconds.
const LEEWAY_SECS: u64 = 30;

/// Checks tokens of one issuer.
pub(super) struct Tokens {
    key: DecodingKey,
    validation: Validation,
    issuer: Option<String>,
    grant: conf::Grant,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// The claims we act on; `exp`, `nbf`, `iss` and `aud` are checked by the library.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    #[serde(default)]
    servers: Option<Servers>,
}

/// A list, or words separated by spaces as in `scope`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Servers {
    List(Vec<String>),
    Words(String),
}

impl Tokens {
    pub(super) fn new(jwt: &conf::Issuer) -> Self {
        install_provider();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECS;
        validation.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        match jwt.audiences.first() {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        if let Some(issuer) = &jwt.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        let secret = match &jwt.keys {
            conf::IssuerKeys::Secret(secret) => secret.expose().as_bytes(),
            _ => &[],
        };
        let key = DecodingKey::from_secret(secret);
        Self { key, validation, issuer: jwt.issuer.clone(), grant: jwt.grant.clone() }
    }

    pub(super) fn verify(&self, token: &str) -> Option<Caller> {
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation).ok()?.claims;
        if claims.sub.is_empty() || claims.sub.len() > 256 {
            return None;
        }
        let mut grant = self.grant.clone();
        match claims.servers {
            Some(Servers::List(names)) => grant.servers = names,
            Some(Servers::Words(words)) => grant.servers = words.split(' ').map(str::to_owned).collect(),
            None => {}
        }
        Some(Caller::new(CallerKind::Jwt, self.issuer.as_deref(), &claims.sub, &grant))
    }
}

/// HMAC by ring, which is in the program anyway, instead of a second set of cryptographic crates.
struct Hs256(hmac::Key);

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        Ok(hmac::sign(&self.0, message).as_ref().to_vec())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        hmac::verify(&self.0, message, signature).map_err(|_| SignatureError::new())
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key: &EncodingKey| match algorithm {
        Algorithm::HS256 => Ok(Box::new(Hs256(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes())))),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    },
    verifier_factory: |algorithm, key: &DecodingKey| match algorithm {
        Algorithm::HS256 => Ok(Box::new(Hs256(hmac::Key::new(hmac::HMAC_SHA256, key.try_get_as_bytes()?)))),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    },
    key_utils: KeyUtils::new_unimplemented(),
};

/// The library keeps one provider for the process; a second call finds ours in place.
fn install_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Refused only if another provider is installed already, and then every token is refused as well.
        let _ = PROVIDER.install_default();
    });
}
