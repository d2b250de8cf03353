//! Checks secrets: that nobody can guess them, and that nobody else can read their files.
//! Not here: what they are for (`credentials`, `issuer`), how they are read (`conf/secret.rs`).

use super::Checker;
use crate::conf::{Secret, secret};
use crate::document::{At, Code};

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
    /// The secret in a file, with the place of the file's name.
    pub(super) fn secret_file(&mut self, raw: &At<String>) -> Option<At<String>> {
        let path = self.dir.join(self.path(raw));
        match secret::read_file(&path) {
            Ok(value) => {
                if secret::is_exposed(&path) {
                    self.exposed_file(raw);
                }
                Some(At { value, span: raw.span })
            }
            Err(error) => {
                self.report.add(raw.span, Code::Unreadable, format!("cannot read the secret: {error}"));
                None
            }
        }
    }

    /// Warns that others can read a file that is nobody else's business.
    pub(super) fn exposed_file(&mut self, raw: &At<String>) {
        let message = "a secret in a file that others can read";
        self.report.warn_advise(raw.span, Code::Exposed, message, "chmod 600");
    }

    pub(super) fn session_key(&mut self, raw: &At<String>) -> Option<Secret> {
        let Some(bytes) = secret::session_key(raw) else {
            let message = "expected 32 bytes as base64 or hex";
            self.report.advise(raw.span, Code::InvalidValue, message, "openssl rand -hex 32");
            return None;
        };
        if bytes.iter().all(|byte| Some(byte) == bytes.first()) {
            let message = "a key that is easily guessed";
            self.report.advise(raw.span, Code::WeakSecret, message, "openssl rand -hex 32");
        }
        Some(Secret::new(raw.value.clone()))
    }

    /// Reports a secret that could be guessed; `command` makes a better one.
    pub(super) fn strong(&mut self, secret: &At<String>, bytes_min: usize, command: &str) {
        if secret.len() < bytes_min {
            let message = format!("too short: expected at least {bytes_min} bytes");
            self.report.advise(secret.span, Code::WeakSecret, message, command);
        } else if is_placeholder(secret) {
            let message = "a placeholder, not a secret: anybody could guess it";
            self.report.advise(secret.span, Code::WeakSecret, message, command);
        }
    }
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
}
