//! An issuer for tests: keys of every kind, what they look like in public, and tokens signed with them.
//! Not here: what the gateway makes of them (`forgeries`, `key_sets`).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RsaKeyPair,
};
use ring::{hmac, signature};
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use serde_json::{Value, json};

use super::SECRET;
use crate::conf::{self, Algorithm, Claims, Grant, IssuerKeys};

pub(super) const ISSUER: &str = "https://issuer";
pub(super) const AUDIENCE: &str = "tollgate";
/// A key made for these tests; ring makes no RSA keys.
const RSA: &str = include_str!("keys/rsa.pem");

/// Whoever signs.
pub(super) enum Signer {
    Secret,
    Rsa(Box<RsaKeyPair>),
    P256(Box<EcdsaKeyPair>),
    P384(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl Signer {
    pub(super) fn rsa() -> Self {
        let (_, der) = <(SectionKind, Vec<u8>)>::from_pem_slice(RSA.as_bytes()).unwrap();
        Self::Rsa(Box::new(RsaKeyPair::from_pkcs8(&der).unwrap()))
    }

    pub(super) fn p256() -> Self {
        Self::P256(Box::new(curve(&ECDSA_P256_SHA256_FIXED_SIGNING)))
    }

    pub(super) fn p384() -> Self {
        Self::P384(Box::new(curve(&ECDSA_P384_SHA384_FIXED_SIGNING)))
    }

    pub(super) fn ed25519() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Box::new(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap()))
    }

    /// What it signs with, usually.
    pub(super) fn algorithm(&self) -> (Algorithm, &'static str) {
        match self {
            Self::Secret => (Algorithm::Hs256, "HS256"),
            Self::Rsa(_) => (Algorithm::Rs256, "RS256"),
            Self::P256(_) => (Algorithm::Es256, "ES256"),
            Self::P384(_) => (Algorithm::Es384, "ES384"),
            Self::Ed25519(_) => (Algorithm::EdDsa, "EdDSA"),
        }
    }

    /// A token, properly signed by the head's `alg` as far as the key can.
    pub(super) fn token(&self, head: &Value, claims: &Value) -> String {
        self.sign_text(&head.to_string(), &claims.to_string())
    }

    /// The same for a head and claims that are no proper JSON.
    pub(super) fn sign_text(&self, head: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.sign(head, message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn sign(&self, head: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Secret => hmac_by(head, SECRET.as_bytes(), message),
            Self::Rsa(pair) => {
                let padding: &dyn signature::RsaEncoding = match head {
                    _ if head.contains("RS384") => &signature::RSA_PKCS1_SHA384,
                    _ if head.contains("RS512") => &signature::RSA_PKCS1_SHA512,
                    _ if head.contains("PS256") => &signature::RSA_PSS_SHA256,
                    _ if head.contains("PS384") => &signature::RSA_PSS_SHA384,
                    _ if head.contains("PS512") => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signed = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, message, &mut signed).unwrap();
                signed
            }
            Self::P256(pair) | Self::P384(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// The public key in a key set.
    pub(super) fn jwk(&self, id: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let point = |pair: &EcdsaKeyPair, name: &str| {
            let point = &pair.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            json!({"kty": "EC", "kid": id, "crv": name, "x": text(x), "y": text(y)})
        };
        match self {
            Self::Secret => json!({"kty": "oct", "kid": id, "k": text(SECRET.as_bytes())}),
            Self::Rsa(pair) => {
                let public = signature::RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "kid": id, "use": "sig", "n": text(&public.n), "e": text(&public.e)})
            }
            Self::P256(pair) => point(pair, "P-256"),
            Self::P384(pair) => point(pair, "P-384"),
            Self::Ed25519(pair) => {
                json!({"kty": "OKP", "kid": id, "crv": "Ed25519", "x": text(pair.public_key().as_ref())})
            }
        }
    }

    /// The public key in PEM.
    pub(super) fn pem(&self) -> String {
        let spki = match self {
            Self::Secret => Vec::new(),
            Self::Rsa(_) => return include_str!("keys/rsa.pub.pem").to_owned(),
            // What stands before the key in each kind's SubjectPublicKeyInfo (RFC 5480, RFC 8410).
            Self::P256(pair) => [
                b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00",
                pair.public_key().as_ref(),
            ]
            .concat(),
            Self::P384(pair) => [
                b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00",
                pair.public_key().as_ref(),
            ]
            .concat(),
            Self::Ed25519(pair) => {
                [b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00", pair.public_key().as_ref()].concat()
            }
        };
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(spki))
    }
}

fn curve(algorithm: &'static signature::EcdsaSigningAlgorithm) -> EcdsaKeyPair {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap()
}

/// HMAC as the head says.
pub(super) fn hmac_by(head: &str, secret: &[u8], message: &[u8]) -> Vec<u8> {
    let algorithm = match head {
        _ if head.contains("HS384") => hmac::HMAC_SHA384,
        _ if head.contains("HS512") => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    hmac::sign(&hmac::Key::new(algorithm, secret), message).as_ref().to_vec()
}

/// Good claims, changed.
pub(super) fn claims(change: impl FnOnce(&mut Value)) -> Value {
    let exp = jsonwebtoken::get_current_timestamp() + 600;
    let mut claims = json!({"sub": "ann", "iss": ISSUER, "aud": AUDIENCE, "exp": exp});
    change(&mut claims);
    claims
}

/// A key set.
pub(super) fn jwks(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

/// An issuer who signs with that and whose keys are there.
pub(super) fn issuer(signer: &Signer, keys: IssuerKeys) -> conf::Issuer {
    conf::Issuer {
        issuer: Some(ISSUER.into()),
        audiences: vec![AUDIENCE.into()],
        audience_required: true,
        algorithms: vec![signer.algorithm().0],
        keys,
        claims: Claims::default(),
        grant: Grant { servers: vec!["*".into()], ..Grant::default() },
        leeway: std::time::Duration::from_secs(30),
    }
}
