//! An issuer of tokens for one test: a key, and the key set that anybody may read.
//! Not here: forged tokens and other algorithms (`tests/interop/forge.py`), a whole provider (`packages`).

use base64::Engine as _;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::client::Caller;

/// A key on P-256 (ES256).
pub(crate) struct Key {
    id: String,
    pair: EcdsaKeyPair,
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl Key {
    /// A new key under that `kid`.
    pub(crate) fn new(id: &str) -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        Self { id: id.to_owned(), pair }
    }

    /// The public key as an entry of a key set.
    pub(crate) fn entry(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id,
            "x": base64(&point[1..33]), "y": base64(&point[33..])})
    }

    /// A token with these claims, signed.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_as(&self.id, claims)
    }

    /// The same under any `kid`.
    pub(crate) fn sign_as(&self, id: &str, claims: &Value) -> String {
        let header = json!({"typ": "at+jwt", "alg": "ES256", "kid": id});
        let data = format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), data.as_bytes()).unwrap();
        format!("{data}.{}", base64(signature.as_ref()))
    }
}

/// A key set of these keys.
pub(crate) fn key_set(keys: &[&Key]) -> Value {
    json!({"keys": keys.iter().map(|key| key.entry()).collect::<Vec<_>>()})
}

/// Claims of a token that is good for the next ten minutes.
pub(crate) fn claims(issuer: &str, audience: &str, subject: &str, more: Value) -> Value {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let mut claims =
        json!({"iss": issuer, "aud": audience, "sub": subject, "iat": now, "nbf": now - 5, "exp": now + 600});
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

impl Caller {
    /// The same client with that bearer token.
    pub(crate) fn bearer(self, token: &str) -> Self {
        self.with("authorization", &format!("Bearer {token}"))
    }
}
