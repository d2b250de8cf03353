//! The form of the API keys that we make: `tollgate_<id>_<secret><check>`.
//! Not here: the verb that prints one (`command`); how callers are recognised by them (`auth`).
//!
//! A fixed beginning and a checksum let secret scanners find a leaked key without asking anybody, and let us tell a
//! mistyped key from an unknown one (as the tokens of GitHub do, <https://github.blog/2021-04-05-behind-githubs-new-authentication-token-formats/>).
//! Keys of any other form are as good, if they are long enough.

use ring::digest;

use super::Secret;

/// How a key of ours begins.
const PREFIX: &str = "tollgate_";
/// Characters of an id: it only has to differ among the keys of one gateway.
const ID_CHARS: usize = 8;
/// 62^43 is a little more than 2^256.
const SECRET_CHARS: usize = 43;
/// 62^6 is more than 2^32.
const CHECK_CHARS: usize = 6;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key that was just made.
#[derive(Debug)]
pub struct NewKey {
    /// The key itself, for its holder.
    pub key: Secret,
    /// What tells it from others, and no secret.
    pub id: String,
    /// `sha256:` and its digest, for the configuration.
    pub hash: String,
}

/// Makes a key with 256 random bits.
///
/// # Errors
/// When the system has no random bytes.
pub fn new_key() -> Result<NewKey, getrandom::Error> {
    let id = random_digits(ID_CHARS)?.to_ascii_lowercase();
    let body = format!("{PREFIX}{id}_{}", random_digits(SECRET_CHARS)?);
    let key = format!("{body}{}", check_digits(&body));
    let digits: String = digest_of(&key).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(NewKey { key: Secret::new(key), id, hash: format!("sha256:{digits}") })
}

/// The SHA-256 digest of a key, by which keys are compared.
pub(super) fn digest_of(key: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, key.as_bytes()).as_ref());
    out
}

/// Whether a text begins like a key of ours and is none: it was mistyped, or cut.
pub(super) fn is_mistyped(text: &str) -> bool {
    let Some(rest) = text.strip_prefix(PREFIX) else { return false };
    let has_form = rest.len() == ID_CHARS + 1 + SECRET_CHARS + CHECK_CHARS
        && rest.is_ascii()
        && rest.as_bytes().get(ID_CHARS) == Some(&b'_');
    let halves = text.len().checked_sub(CHECK_CHARS).and_then(|at| text.split_at_checked(at));
    !(has_form && halves.is_some_and(|(body, check)| check_digits(body) == check))
}

fn check_digits(body: &str) -> String {
    let mut rest = crc32fast::hash(body.as_bytes());
    let mut digits = [b'0'; CHECK_CHARS];
    for digit in digits.iter_mut().rev() {
        *digit = digit_of(rest % 62);
        rest /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

fn digit_of(value: u32) -> u8 {
    DIGITS.get(value as usize).copied().unwrap_or(b'0')
}

fn random_digits(count: usize) -> Result<String, getrandom::Error> {
    let mut out = String::with_capacity(count);
    let mut bytes = [0_u8; 64];
    while out.len() < count {
        getrandom::fill(&mut bytes)?;
        // 248 is the largest multiple of 62 in a byte: what is beyond would make some digits likelier than others.
        let fair = bytes.iter().filter(|byte| **byte < 248);
        out.extend(fair.take(count - out.len()).map(|byte| char::from(digit_of(u32::from(*byte) % 62))));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_form_and_a_typo_is_seen() {
        let (one, other) = (new_key().unwrap(), new_key().unwrap());
        let key = one.key.expose();
        assert_ne!(key, other.key.expose());
        assert_eq!(key.len(), "tollgate_".len() + 8 + 1 + 43 + 6);
        assert!(key.starts_with(&format!("tollgate_{}_", one.id)));
        assert_eq!(one.hash.len(), "sha256:".len() + 64);
        assert!(!is_mistyped(key));
        for at in "tollgate_".len()..key.len() {
            let mut typo = key.to_owned();
            typo.replace_range(at..=at, if key.as_bytes()[at] == b'x' { "y" } else { "x" });
            assert!(is_mistyped(&typo), "{at}");
        }
        assert!(is_mistyped(&key[..key.len() - 1]) && is_mistyped("tollgate_") && is_mistyped("tollgate_é"));
        assert!(!is_mistyped("another-form-of-key"));
    }

    #[test]
    fn the_checksum_stays_what_it_is() {
        assert_eq!(check_digits("tollgate_abcd1234_secret"), check_digits("tollgate_abcd1234_secret"));
        expect_test::expect!["3hU9Zt"].assert_eq(&check_digits("tollgate_00000000_0"));
    }
}
