//! Checks credentials: that each says what it allows, and that nobody can guess it.
//! Not here: how callers are recognised by them (`auth`).

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::Checker;
use crate::conf::raw::{RawAuth, RawJwt, RawKey};
use crate::conf::{Algorithm, ApiKey, Auth, Claims, Grant, Issuer, IssuerKeys, KeyMaterial, Limit, Secret};
use crate::document::{At, Code, Span};

/// 128 bits, if each byte were random; written in hex it is half of that, and still out of reach over a network.
const KEY_BYTES_MIN: usize = 16;
/// RFC 7518 section 3.2: a key of the size of the hash output or larger.
const JWT_SECRET_BYTES_MIN: usize = 32;
/// A header has to hold it.
const KEY_BYTES_MAX: usize = 1024;
/// Names stand in every log line.
const NAME_CHARS_MAX: usize = 64;

/// Words that examples and templates are made of; a secret of nothing but these was never replaced.
const PLACEHOLDER_WORDS: [&str; 30] = [
    "placeholder",
    "production",
    "changeme",
    "insecure",
    "password",
    "tollgate",
    "example",
    "replace",
    "default",
    "signing",
    "session",
    "secret",
    "please",
    "sample",
    "change",
    "gateway",
    "token",
    "admin",
    "super",
    "local",
    "demo",
    "test",
    "your",
    "this",
    "here",
    "jwt",
    "key",
    "api",
    "dev",
    "123456789",
];

impl Checker<'_> {
    pub(super) fn auth(&mut self, raw: RawAuth) -> Auth {
        let mut names: HashMap<String, Span> = HashMap::new();
        let mut secrets: HashMap<String, Span> = HashMap::new();
        let mut keys = Vec::new();
        for raw in raw.keys.unwrap_or_default() {
            if let Some(name) = &raw.name {
                self.unique(&mut names, name, "the same name twice: logs could not tell the two keys apart");
            }
            if let Some(key) = &raw.key {
                self.unique(&mut secrets, key, "the same key twice");
            }
            keys.extend(self.key(raw));
        }
        Auth { keys, issuers: raw.jwt.and_then(|jwt| self.jwt(jwt)).into_iter().collect(), ..Auth::default() }
    }

    fn unique(&mut self, seen: &mut HashMap<String, Span>, value: &At<String>, message: &str) {
        if seen.insert(value.value.clone(), value.span).is_some() {
            self.report.add(value.span, Code::Conflict, message);
        }
    }

    fn key(&mut self, raw: At<RawKey>) -> Option<ApiKey> {
        let At { value: raw, span } = raw;
        let servers = self.servers(raw.servers, span, "a key");
        let limit = raw.limit.and_then(|limit| self.rate(&limit));
        if raw.name.is_none() {
            self.missing(span, "a key needs a name");
        }
        if raw.key.is_none() {
            self.missing(span, "a key needs a key");
        }
        let (name, key) = (raw.name?, raw.key?);
        let is_name = !name.trim().is_empty()
            && name.chars().count() <= NAME_CHARS_MAX
            && !name.chars().any(char::is_control);
        if !is_name {
            let message = format!("expected a name of 1 to {NAME_CHARS_MAX} visible characters");
            self.report.add(name.span, Code::InvalidValue, message);
        }
        self.strong(&key, KEY_BYTES_MIN, "openssl rand -hex 32");
        if key.len() > KEY_BYTES_MAX || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = format!("expected at most {KEY_BYTES_MAX} visible ASCII characters without spaces");
            self.report.add(key.span, Code::InvalidValue, message);
        }
        let limit = limit.map(|rate| Limit { rate: Some(rate), in_flight: None });
        Some(ApiKey {
            name: name.value,
            owner: None,
            key: KeyMaterial::Plain(Secret::new(key.value)),
            expires: None,
            grant: Grant { servers, limit, ..Grant::default() },
        })
    }

    fn jwt(&mut self, raw: At<RawJwt>) -> Option<Issuer> {
        let At { value: raw, span } = raw;
        let servers = self.servers(raw.servers, span, "jwt");
        if raw.secret.is_none() {
            self.missing(span, "jwt needs a secret");
        }
        let secret = raw.secret?;
        self.strong(&secret, JWT_SECRET_BYTES_MIN, "openssl rand -base64 48");
        Some(Issuer {
            issuer: raw.issuer,
            audience_required: raw.audience.is_some(),
            audiences: raw.audience.into_iter().collect(),
            algorithms: vec![Algorithm::Hs256],
            keys: IssuerKeys::Secret(Secret::new(secret.value)),
            claims: Claims::default(),
            grant: Grant { servers, ..Grant::default() },
            leeway: Duration::from_secs(30),
        })
    }

    /// What a credential allows has to be said: a forgotten line must not open everything, nor nothing silently.
    fn servers(&mut self, raw: Option<At<Vec<At<String>>>>, span: Span, on: &str) -> Vec<String> {
        let Some(raw) = raw else {
            if !self.report.is_incomplete(span) {
                let message = format!("{on} needs `servers`: which ones may be used");
                self.report.advise(span, Code::Missing, message, "servers: [\"*\"] allows all");
            }
            return Vec::new();
        };
        let has_all = raw.iter().any(|id| id.value == "*");
        for id in raw.iter() {
            if id.is_empty() || (id.contains('*') && id.value != "*") {
                self.report.add(id.span, Code::InvalidValue, "expected the id of a server, or `*` for all");
            } else if has_all && id.value != "*" {
                self.report.add(id.span, Code::NoEffect, "beside `*`, which allows all, an id has no effect");
            }
        }
        raw.value.into_iter().map(|id| id.value).collect()
    }

    pub(super) fn session_key(&mut self, raw: &At<String>) -> Option<Secret> {
        let Some(bytes) = session_key(raw) else {
            let message = "expected 32 bytes as base64 or hex";
            self.report.advise(raw.span, Code::InvalidValue, message, "openssl rand -hex 32");
            return None;
        };
        if bytes.iter().all(|byte| Some(byte) == bytes.first()) {
            self.report.advise(
                raw.span,
                Code::WeakSecret,
                "a key that is easily guessed",
                "openssl rand -hex 32",
            );
        }
        Some(Secret::new(raw.value.clone()))
    }

    fn strong(&mut self, secret: &At<String>, bytes_min: usize, command: &str) {
        if secret.len() < bytes_min {
            let message = format!("too short: expected at least {bytes_min} bytes");
            self.report.advise(secret.span, Code::WeakSecret, message, command);
        } else if is_placeholder(secret) {
            let message = "a placeholder, not a secret: anybody could guess it";
            self.report.advise(secret.span, Code::WeakSecret, message, command);
        }
    }
}

/// Reads 32 bytes written in hex or base64 (either alphabet, padded or not).
fn session_key(text: &str) -> Option<[u8; 32]> {
    let text = text.trim();
    if text.len() == 64 && text.is_ascii() {
        let hex = |at: usize| text.get(at * 2..at * 2 + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let bytes: Option<Vec<u8>> = (0..32).map(hex).collect();
        return bytes?.try_into().ok();
    }
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let read = |alphabet| GeneralPurpose::new(alphabet, config).decode(text).ok()?.try_into().ok();
    read(&STANDARD).or_else(|| read(&URL_SAFE))
}

/// Whether a secret is made of the words of examples, or of a few characters only.
fn is_placeholder(secret: &str) -> bool {
    let mut rest: String =
        secret.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    for word in PLACEHOLDER_WORDS {
        rest = rest.replace(word, "");
    }
    let mut kinds: Vec<char> = secret.chars().collect();
    kinds.sort_unstable();
    kinds.dedup();
    rest.len() < 6 || kinds.len() < 6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders() {
        for weak in [
            "changeme-changeme",
            "your-secret-key-here",
            "super-secret-jwt-signing-key-change-me",
            "dev-key-1234567890",
            "aaaaaaaaaaaaaaaaaaaaaaa",
            "abababababababababab",
            "replace-this-secret!",
        ] {
            assert!(is_placeholder(weak), "{weak}");
        }
        for strong in
            ["9f86d081884c7d659a2feaa0c55ad015", "Tr0ub4dor&3-horse-staple", "0123456701234567abcdef"]
        {
            assert!(!is_placeholder(strong), "{strong}");
        }
    }

    #[test]
    fn session_keys() {
        let hex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        let bytes: [u8; 32] = std::array::from_fn(|at| at as u8);
        assert_eq!(session_key(hex), Some(bytes));
        assert_eq!(session_key("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="), Some(bytes));
        assert_eq!(session_key("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"), Some(bytes));
        assert_eq!(session_key("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg=="), None);
        assert_eq!(session_key("short"), None);
        assert_eq!(session_key(&"é".repeat(32)), None);
    }
}
