//! How secrets are written down: as text for a session key, and in files.
//! Not here: the type that hides them (`model`); whether they are good enough (`check/secret.rs`).

use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// A secret in a file, in bytes; keys are a hundredth of that.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Where orchestrators mount secrets for one container alone. They are readable by all in there, and nobody else is.
const MOUNTED: [&str; 2] = ["/run/secrets/", "/var/run/secrets/"];

/// Reads 32 bytes written in hex or base64 (either alphabet, padded or not), as session keys are.
pub fn session_key(text: &str) -> Option<[u8; 32]> {
    let text = text.trim();
    if text.len() == 64 {
        return hex(text);
    }
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let read = |alphabet| GeneralPurpose::new(alphabet, config).decode(text).ok()?.try_into().ok();
    read(&STANDARD).or_else(|| read(&URL_SAFE))
}

/// Reads 32 bytes written as 64 hexadecimal digits.
pub(super) fn hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let byte = |at: usize| text.get(at * 2..at * 2 + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..32).map(byte).collect::<Option<Vec<u8>>>()?.try_into().ok()
}

/// Reads the secret in a file of at most 64 KiB, without the newline that editors and `echo` end it with.
pub fn read_file(path: &Path) -> io::Result<String> {
    // Asked first, because opening a pipe waits for a writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 64 KiB"));
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Whether others than its owner can read a file.
pub fn is_exposed(path: &Path) -> bool {
    !MOUNTED.iter().any(|mounted| path.starts_with(mounted))
        && std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o044 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(session_key(&hex.replace("00", "+0")), None);
    }

    #[test]
    fn files_lose_their_last_newline_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, " a b \r\n").unwrap();
        assert_eq!(read_file(&path).unwrap(), " a b ");
        std::fs::write(&path, "x".repeat(70_000)).unwrap();
        assert!(read_file(&path).is_err());
        assert!(read_file(dir.path()).is_err());
        for (mode, exposed) in [(0o600, false), (0o640, true), (0o604, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_exposed(&path), exposed, "{mode:o}");
        }
    }
}
