//! Source text as a message may show it: what is or looks like a secret becomes stars, and nothing moves.
//! Not here: values that are known to be secrets once they are decoded (`conf`, `Secret`).
//!
//! A mistake is shown with its line, on a terminal, in a log of a build, to an administrator over the API; and the line
//! may hold a secret beside the mistake, or in it: `pasword: …`. What a value is for is not known while a file does
//! not decode, so its name and its looks decide. Rather too much is hidden: the place and the message say what is wrong.

/// Names that end so are those of secrets.
const NAMES: [&str; 8] =
    ["key", "secret", "password", "pasword", "passwd", "token", "authorization", "credential"];
/// Values that end so are names of files.
const FILES: [&str; 4] = [".pem", ".key", ".crt", ".txt"];
/// A piece of text that is at least this long, with letters and digits in turn, was made by a machine.
const PIECE_CHARS_MIN: usize = 16;
/// And has at least so many of both.
const LETTERS_AND_DIGITS_MIN: usize = 3;

/// The same text with secrets hidden. It keeps its length in bytes and every place in it.
pub(super) fn conceal(text: &str) -> String {
    text.split_inclusive('\n').map(line).collect()
}

fn line(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(end) = rest.find(is_break) {
        let (word, after) = rest.split_at(end);
        shown.push_str(&piece(word));
        let value = after.strip_prefix(is_quote).unwrap_or(after).strip_prefix(':').map(str::trim_start);
        let hidden = if is_name(word) { value.map_or(0, secret_bytes) } else { 0 };
        let before = value.filter(|_| hidden > 0).map_or(1, |value| after.len() - value.len());
        let (mark, after) = after.split_at(after.ceil_char_boundary(before));
        shown.push_str(mark);
        let (secret, after) = after.split_at(hidden);
        shown.extend(secret.chars().flat_map(|c| std::iter::repeat_n('*', c.len_utf8())));
        rest = after;
    }
    shown.push_str(&piece(rest));
    shown
}

/// Where a word of this kind of text ends.
fn is_break(c: char) -> bool {
    !(c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn is_quote(c: char) -> bool {
    c == '"' || c == '\''
}

fn is_name(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    NAMES.iter().any(|name| word.ends_with(name))
}

/// How much of what follows a secret's name is the secret. Places of secrets are none, nor are lists and objects.
fn secret_bytes(value: &str) -> usize {
    let inner = value.trim_start_matches(is_quote);
    if inner.starts_with(['/', '.', '$', '[', '{', '|', '>', '&', '*', '#', '\r', '\n']) {
        return 0;
    }
    let end = match value.chars().next().filter(|c| is_quote(*c)) {
        Some(quote) => inner.find(quote).map_or(value.trim_end().len(), |end| end + 2),
        None => value.find([',', '}', ']', '\r', '\n', '#']).unwrap_or(value.len()),
    };
    let is_file = value.get(..end).is_some_and(|value| {
        FILES.iter().any(|end| value.trim_end_matches(is_quote).trim_end().ends_with(end))
    });
    if is_file { 0 } else { end }
}

fn piece(word: &str) -> String {
    let letters = word.bytes().filter(u8::is_ascii_alphabetic).count();
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    let made = word.len() >= PIECE_CHARS_MIN && letters.min(digits) >= LETTERS_AND_DIGITS_MIN;
    if made { "*".repeat(word.len()) } else { word.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: &str) {
        let shown = conceal(text);
        assert_eq!((shown.as_str(), shown.len()), (want, text.len()));
    }

    #[test]
    fn secrets_become_stars_and_nothing_moves() {
        check("  key: hunter2", "  key: *******");
        check("  pasword: \"hunter 2\"  # mine", "  pasword: **********  # mine");
        check(
            "{\"name\": \"a\", \"key\":\"hunter2\", \"servers\": [x]}",
            "{\"name\": \"a\", \"key\":*********, \"servers\": [x]}",
        );
        check("{name: a, key: hunter2, servers: [x]}", "{name: a, key: *******, servers: [x]}");
        check("Authorization: Bearer abc", "Authorization: **********");
        check("PGPASSWORD: 'ä'\nid: x\n", "PGPASSWORD: ****\nid: x\n");
        check("X-Own: Kj8hGf5dSa2pOi9uYt6rEw3q", "X-Own: ************************");
        check(
            "url: http://h/mcp?key=Gh2jKl6zXc9vBn4mQw7eRt1y",
            "url: http://h/mcp?key=************************",
        );
        check("key: \"half", "key: *****");
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in [
            "listen: 127.0.0.1:4444",
            "  key: /etc/tollgate/key.pem",
            "  key: key.pem, x: 1",
            "  key: ${ALICE_KEY}",
            "keys: [{name: alice}]",
            "keys:\n  - name: alice\n",
            "key:",
            "key: # nothing",
            "requests: 600, per: 1m",
            "command: /usr/lib/node_modules/mcp-server-everything/index.js",
            "expires: 2026-12-31T00:00:00Z",
            "",
            "ключ: значение",
        ] {
            check(text, text);
        }
    }
}
