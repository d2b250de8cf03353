//! Session ids that are authenticated, encrypted tokens.
//! Not here: where the key comes from (`key`); who the caller is (`auth`).
//!
//! A sealed id is `base64url(key id ‖ nonce ‖ XChaCha20-Poly1305(pin))`. Any process with the key reads it, so
//! sessions outlive a restart and move between replicas. Nonces are random 192-bit values, which may be drawn for
//! ever under one key. Invariant: an id opens only for the caller and the server it was made for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead as _, KeyInit as _};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};

use super::Hello;

/// What a session is pinned to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The endpoint that made the session (`upstream::Endpoint::key`).
    pub endpoint: u64,
    /// The upstream's own session id; empty if it has none.
    pub upstream_session: String,
    /// What the client said of itself when it opened the session.
    pub hello: Hello,
}

/// Why an id is not a session of this caller on this server. All of them are "not found" to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Not sealed by us, or not with this key.
    #[error("forged or foreign session id")]
    Forged,
    /// Made for another caller or server.
    #[error("session of another caller or server")]
    Foreign,
    /// Older than the configured age.
    #[error("session expired")]
    Expired,
    /// Its client ended it.
    #[error("session ended")]
    Ended,
    /// Its server does not know it any more, and would not open it anew.
    #[error("the server lost the session")]
    Lost,
    /// An upstream's id that does not fit into ours.
    #[error("the upstream's session id is longer than {MAX_UPSTREAM_ID} bytes or not visible ASCII")]
    Unsealable,
}

/// The longest upstream id that keeps a sealed id within 512 bytes.
const MAX_UPSTREAM_ID: usize = 256;
const NONCE: usize = 24;

/// Seals and opens session ids.
pub struct Sealer {
    cipher: XChaCha20Poly1305,
    key_id: u8,
    ttl: Duration,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl Sealer {
    /// A sealer for ids that live for `ttl`.
    pub fn new(key: &[u8; 32], ttl: Duration) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, key);
        let key_id = digest.as_ref().first().copied().unwrap_or_default();
        Self { cipher: XChaCha20Poly1305::new(&Key::from(*key)), key_id, ttl }
    }

    /// The id of a session that `caller` has with `server`.
    pub fn seal(&self, caller: u128, server: &str, pin: &Pin) -> Result<String, SessionError> {
        let id = pin.upstream_session.as_bytes();
        if id.len() > MAX_UPSTREAM_ID || !id.iter().all(|b| (0x21..=0x7e).contains(b)) {
            return Err(SessionError::Unsealable);
        }
        let made_at = UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        let mut plain = Vec::with_capacity(80 + id.len());
        plain.extend_from_slice(&made_at.to_be_bytes());
        plain.extend_from_slice(&owner(caller, server).to_be_bytes());
        plain.extend_from_slice(&pin.endpoint.to_be_bytes());
        pin.hello.write(&mut plain);
        plain.extend_from_slice(id);
        let mut nonce = [0u8; NONCE];
        getrandom::fill(&mut nonce).map_err(|_| SessionError::Unsealable)?;
        let sealed = self
            .cipher
            .encrypt(&XNonce::from(nonce), plain.as_slice())
            .map_err(|_| SessionError::Unsealable)?;
        let mut token = Vec::with_capacity(1 + NONCE + sealed.len());
        token.push(self.key_id);
        token.extend_from_slice(&nonce);
        token.extend_from_slice(&sealed);
        Ok(URL_SAFE_NO_PAD.encode(token))
    }

    /// What the id is pinned to, if `caller` has it with `server` and it is not too old.
    pub fn open(&self, id: &str, caller: u128, server: &str) -> Result<Pin, SessionError> {
        self.open_until(id, caller, server).map(|(pin, _)| pin)
    }

    /// The same, with the time at which the session will be too old.
    pub(super) fn open_until(
        &self,
        id: &str,
        caller: u128,
        server: &str,
    ) -> Result<(Pin, SystemTime), SessionError> {
        let token = URL_SAFE_NO_PAD.decode(id).map_err(|_| SessionError::Forged)?;
        let (head, sealed) = token.split_at_checked(1 + NONCE).ok_or(SessionError::Forged)?;
        let (key_id, nonce) = head.split_first().ok_or(SessionError::Forged)?;
        let nonce = <[u8; NONCE]>::try_from(nonce).map_err(|_| SessionError::Forged)?;
        if *key_id != self.key_id {
            return Err(SessionError::Forged);
        }
        let plain = self.cipher.decrypt(&XNonce::from(nonce), sealed).map_err(|_| SessionError::Forged)?;
        let (made_at, rest) = plain.split_first_chunk::<8>().ok_or(SessionError::Forged)?;
        let (owned_by, rest) = rest.split_first_chunk::<16>().ok_or(SessionError::Forged)?;
        let (endpoint, rest) = rest.split_first_chunk::<8>().ok_or(SessionError::Forged)?;
        let (hello, upstream) = Hello::read(rest).ok_or(SessionError::Forged)?;
        if u128::from_be_bytes(*owned_by) != owner(caller, server) {
            return Err(SessionError::Foreign);
        }
        let made_at = UNIX_EPOCH + Duration::from_secs(u64::from_be_bytes(*made_at));
        // A clock that was set back makes an age negative, which is no reason to end a session.
        if SystemTime::now().duration_since(made_at).is_ok_and(|age| age >= self.ttl) {
            return Err(SessionError::Expired);
        }
        let upstream_session = String::from_utf8(upstream.to_vec()).map_err(|_| SessionError::Forged)?;
        Ok((Pin { endpoint: u64::from_be_bytes(*endpoint), upstream_session, hello }, made_at + self.ttl))
    }

    /// When a session that is made now will be too old.
    pub(super) fn expiry(&self) -> SystemTime {
        SystemTime::now() + self.ttl
    }
}

/// Caller and server as one number of fixed size, so that an id's length tells nothing of their names.
fn owner(caller: u128, server: &str) -> u128 {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    digest.update(&caller.to_be_bytes());
    digest.update(server.as_bytes());
    let digest = digest.finish();
    digest.as_ref().first_chunk::<16>().map_or(0, |bytes| u128::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn pin() -> Pin {
        Pin { endpoint: 7, upstream_session: "3b1e-abc".into(), hello: Hello::ours() }
    }

    #[test]
    fn opens_only_for_its_caller_server_and_key() {
        let sealer = Sealer::new(&[1; 32], DAY);
        let id = sealer.seal(5, "weather", &pin()).unwrap();
        assert!(!id.contains("weather") && id.len() <= 512);
        assert_eq!(sealer.open(&id, 5, "weather"), Ok(pin()));
        assert_eq!(
            Sealer::new(&[1; 32], DAY).open(&id, 5, "weather"),
            Ok(pin()),
            "a restart with the same key"
        );
        assert_eq!(sealer.open(&id, 6, "weather"), Err(SessionError::Foreign));
        assert_eq!(sealer.open(&id, 5, "files"), Err(SessionError::Foreign));
        assert_eq!(Sealer::new(&[2; 32], DAY).open(&id, 5, "weather"), Err(SessionError::Forged));
        assert_eq!(Sealer::new(&[1; 32], Duration::ZERO).open(&id, 5, "weather"), Err(SessionError::Expired));
        assert_ne!(id, sealer.seal(5, "weather", &pin()).unwrap(), "two sessions never share an id");
    }

    #[test]
    fn the_longest_upstream_id_fits_into_512_bytes() {
        let sealer = Sealer::new(&[1; 32], DAY);
        let name = "n".repeat(100);
        let hello = format!(r#"{{"params":{{"clientInfo":{{"name":"{name}"}}}}}}"#);
        let hello = Hello::of(hello.as_bytes());
        let long = |n| Pin { endpoint: u64::MAX, upstream_session: "x".repeat(n), hello: hello.clone() };
        assert!(sealer.seal(u128::MAX, &"s".repeat(64), &long(MAX_UPSTREAM_ID)).unwrap().len() <= 512);
        assert_eq!(sealer.seal(1, "s", &long(MAX_UPSTREAM_ID + 1)), Err(SessionError::Unsealable));
        let spaced = Pin { upstream_session: "a b".into(), ..pin() };
        assert_eq!(sealer.seal(1, "s", &spaced), Err(SessionError::Unsealable));
    }

    proptest! {
        #[test]
        fn one_changed_character_is_a_forgery(at in 0usize..100, with in "[A-Za-z0-9_-]") {
            let sealer = Sealer::new(&[1; 32], DAY);
            let id = sealer.seal(5, "s", &pin()).unwrap();
            let at = at % id.len();
            let mut forged = id.clone();
            forged.replace_range(at..=at, &with);
            prop_assume!(forged != id);
            prop_assert!(sealer.open(&forged, 5, "s").is_err());
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            prop_assert!(Sealer::new(&[1; 32], DAY).open(&text, 1, "s").is_err());
        }
    }
}
