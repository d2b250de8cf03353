//! An issuer's keys: one key, and the set that a token's header chooses from.
//! Not here: where a set comes from and when it is read again (`key_source`); whether a token is good (`jwt`).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, EllipticCurveKeyParameters, Jwk, KeyOperations, PublicKeyUse,
};
use ring::digest::{Context, SHA256};
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo, X509Certificate};

use super::standing::Standing;
use crate::conf::Algorithm;

/// More keys than that are no key set but an attack on whoever has to look through them.
const KEYS_MAX: usize = 100;
/// Keys that are tried on a token which names none of them. Issuers have two while they change from one to the next.
const KEYS_TRIED_MAX: usize = 4;
/// RSA keys, in bits. Shorter ones are broken or soon will be (RFC 7518 section 3.3); ring takes no longer ones.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Why text holds no keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is no JSON Web Key Set (RFC 7517 section 5).
    #[error("it is no JSON Web Key Set: {0}")]
    NotSet(String),
    /// It has too many.
    #[error("it has {0} keys, {KEYS_MAX} at most are taken")]
    TooMany(usize),
    /// It has none that could check a signature.
    #[error(
        "it has no public key for signatures (RSA of {} bits and more, P-256, P-384, Ed25519)",
        RSA_BITS.start()
    )]
    NoneUsable,
    /// It is no PEM.
    #[error("it is no PEM: {0}")]
    NotPem(String),
}

/// What a key can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Secret,
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    /// `kid`.
    id: Option<Box<str>>,
    kind: Kind,
    /// The one algorithm that the key is for, if it says so.
    only: Option<jsonwebtoken::Algorithm>,
    digest: [u8; 32],
    pub(super) decoding: DecodingKey,
    /// Ends when the key leaves its set.
    pub(super) standing: Standing,
}

impl Key {
    /// A shared secret.
    pub(super) fn secret(secret: &[u8]) -> Self {
        Self::new(None, Kind::Secret, None, &[secret], DecodingKey::from_secret(secret))
    }

    fn new(
        id: Option<&str>,
        kind: Kind,
        only: Option<jsonwebtoken::Algorithm>,
        material: &[&[u8]],
        decoding: DecodingKey,
    ) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&[kind as u8]);
        for part in material {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let digest = context.finish().as_ref().first_chunk().copied().unwrap_or_default();
        Self { id: id.map(Into::into), kind, only, digest, decoding, standing: Standing::default() }
    }

    /// A public key of a set. `None` for what cannot check signatures here: other uses, other curves, secrets (which
    /// a public set would give away), and short ones.
    fn from_jwk(jwk: &Jwk) -> Option<Self> {
        let uses = jwk.common.public_key_use.as_ref().is_none_or(|r#use| *r#use == PublicKeyUse::Signature);
        let operations = jwk.common.key_operations.as_ref();
        if !uses || operations.is_some_and(|all| !all.contains(&KeyOperations::Verify)) {
            return None;
        }
        let only = match jwk.common.key_algorithm {
            Some(algorithm) => Some(jsonwebtoken::Algorithm::try_from(algorithm).ok()?),
            None => None,
        };
        let id = jwk.common.key_id.as_deref();
        match &jwk.algorithm {
            AlgorithmParameters::RSA(rsa) => {
                let (n, e) = (number(&rsa.n)?, number(&rsa.e)?);
                let decoding = DecodingKey::from_rsa_raw_components(&n, &e);
                RSA_BITS.contains(&bits(&n)).then(|| Self::new(id, Kind::Rsa, only, &[&n, &e], decoding))
            }
            AlgorithmParameters::EllipticCurve(curve) => Self::from_curve(id, only, curve),
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                let x = URL_SAFE_NO_PAD.decode(&pair.x).ok().filter(|x| x.len() == 32)?;
                Some(Self::new(id, Kind::Ed25519, only, &[&x], DecodingKey::from_ed_der(&x)))
            }
            _ => None,
        }
    }

    fn from_curve(
        id: Option<&str>,
        only: Option<jsonwebtoken::Algorithm>,
        curve: &EllipticCurveKeyParameters,
    ) -> Option<Self> {
        let (kind, bytes) = match curve.curve {
            EllipticCurve::P256 => (Kind::P256, 32),
            EllipticCurve::P384 => (Kind::P384, 48),
            _ => return None,
        };
        // Both coordinates have the curve's full length (RFC 7518 section 6.2.1.2).
        let coordinate = |text: &str| URL_SAFE_NO_PAD.decode(text).ok().filter(|x| x.len() == bytes);
        let point = [vec![4], coordinate(&curve.x)?, coordinate(&curve.y)?].concat();
        Some(Self::new(id, kind, only, &[&point], DecodingKey::from_ec_der(&point)))
    }

    /// A public key out of PEM. It has no name.
    fn from_spki(spki: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        let bytes: &[u8] = &spki.subject_public_key.data;
        let parameter = spki.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
        match (spki.algorithm.algorithm.to_id_string().as_str(), parameter) {
            ("1.2.840.113549.1.1.1", _) => {
                let parsed = spki.parsed().ok()?;
                RSA_BITS
                    .contains(&parsed.key_size())
                    .then(|| Self::new(None, Kind::Rsa, None, &[bytes], DecodingKey::from_rsa_der(bytes)))
            }
            ("1.2.840.10045.2.1", Some(curve)) => {
                let (kind, length) = match curve.to_id_string().as_str() {
                    "1.2.840.10045.3.1.7" => (Kind::P256, 65),
                    "1.3.132.0.34" => (Kind::P384, 97),
                    _ => return None,
                };
                (bytes.len() == length)
                    .then(|| Self::new(None, kind, None, &[bytes], DecodingKey::from_ec_der(bytes)))
            }
            ("1.3.101.112", _) if bytes.len() == 32 => {
                Some(Self::new(None, Kind::Ed25519, None, &[bytes], DecodingKey::from_ed_der(bytes)))
            }
            _ => None,
        }
    }

    /// Whether a signature by `algorithm` could be this key's: the kind has to fit, always (RFC 8725 section 3.1).
    fn fits(&self, algorithm: Algorithm) -> bool {
        let kind = match algorithm {
            Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => Kind::Secret,
            Algorithm::Rs256
            | Algorithm::Rs384
            | Algorithm::Rs512
            | Algorithm::Ps256
            | Algorithm::Ps384
            | Algorithm::Ps512 => Kind::Rsa,
            Algorithm::Es256 => Kind::P256,
            Algorithm::Es384 => Kind::P384,
            Algorithm::EdDsa => Kind::Ed25519,
        };
        self.kind == kind && self.only.is_none_or(|only| only == library_name(algorithm))
    }

    fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest && self.id == other.id && self.only == other.only
    }
}

/// What the library calls an algorithm.
pub(super) fn library_name(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    use jsonwebtoken::Algorithm as Library;
    match algorithm {
        Algorithm::Hs256 => Library::HS256,
        Algorithm::Hs384 => Library::HS384,
        Algorithm::Hs512 => Library::HS512,
        Algorithm::Rs256 => Library::RS256,
        Algorithm::Rs384 => Library::RS384,
        Algorithm::Rs512 => Library::RS512,
        Algorithm::Ps256 => Library::PS256,
        Algorithm::Ps384 => Library::PS384,
        Algorithm::Ps512 => Library::PS512,
        Algorithm::Es256 => Library::ES256,
        Algorithm::Es384 => Library::ES384,
        Algorithm::EdDsa => Library::EdDSA,
    }
}

/// A number in the form of RFC 7518 section 2, without leading zeros, which some issuers write and ring refuses.
fn number(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Some(bytes.get(zeros..)?.to_vec())
}

fn bits(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

/// Keys of one issuer, as they were at one time.
#[derive(Debug, Default)]
pub(super) struct KeySet(Vec<Arc<Key>>);

/// The keys that may have signed a token.
pub(super) enum Candidates<'s> {
    /// The one that the token names.
    Named(&'s Key),
    /// Those without a name, or all of them for a token that names none; a few at most.
    Unnamed(Vec<&'s Key>),
}

impl KeySet {
    pub(super) fn of(key: Key) -> Self {
        Self(vec![Arc::new(key)])
    }

    /// A JSON Web Key Set. Keys that are of no use here are left out, since sets hold keys for other purposes too.
    pub(super) fn from_jwks(text: &[u8]) -> Result<Self, KeyError> {
        #[derive(serde::Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(text).map_err(|error| KeyError::NotSet(error.to_string()))?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeyError::TooMany(set.keys.len()));
        }
        let keys = set.keys.into_iter().filter_map(|key| Key::from_jwk(&serde_json::from_value(key).ok()?));
        Self::usable(keys.collect())
    }

    /// Public keys and certificates in PEM. Of a certificate only the key counts: who trusts the file trusts the key.
    pub(super) fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
            let (kind, der) = section.map_err(|error| KeyError::NotPem(format!("{error:?}")))?;
            let key = match kind {
                SectionKind::PublicKey => {
                    SubjectPublicKeyInfo::from_der(&der).ok().and_then(|(_, spki)| Key::from_spki(&spki))
                }
                SectionKind::Certificate => X509Certificate::from_der(&der)
                    .ok()
                    .and_then(|(_, certificate)| Key::from_spki(certificate.public_key())),
                _ => None,
            };
            keys.extend(key);
        }
        if keys.len() > KEYS_MAX {
            return Err(KeyError::TooMany(keys.len()));
        }
        Self::usable(keys)
    }

    fn usable(keys: Vec<Key>) -> Result<Self, KeyError> {
        if keys.is_empty() {
            return Err(KeyError::NoneUsable);
        }
        Ok(Self(keys.into_iter().map(Arc::new).collect()))
    }

    /// This set as the successor of `before`: keys that stay are the same keys, and those that are gone have ended.
    pub(super) fn succeed(mut self, before: &Self) -> Self {
        for key in &mut self.0 {
            if let Some(known) = before.0.iter().find(|known| known.is_same(key)) {
                *key = Arc::clone(known);
            }
        }
        for known in &before.0 {
            if !self.0.iter().any(|key| Arc::ptr_eq(key, known)) {
                known.standing.end();
            }
        }
        self
    }

    /// The keys that may have made a signature by `algorithm` under the name `id`. A name only selects.
    pub(super) fn candidates(&self, id: Option<&str>, algorithm: Algorithm) -> Candidates<'_> {
        let fitting = || self.0.iter().map(Arc::as_ref).filter(|key| key.fits(algorithm));
        let Some(id) = id else { return Candidates::Unnamed(fitting().take(KEYS_TRIED_MAX).collect()) };
        match fitting().find(|key| key.id.as_deref() == Some(id)) {
            Some(key) => Candidates::Named(key),
            None => {
                Candidates::Unnamed(fitting().filter(|key| key.id.is_none()).take(KEYS_TRIED_MAX).collect())
            }
        }
    }
}
