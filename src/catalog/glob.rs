//! Patterns of rules as they are matched: `*` is any text, `?` any one character.
//! Not here: what the patterns are about (`rule`).

use wildmatch::WildMatch;

use super::Globs;

/// Patterns ready to be matched, without any allocation and in time bounded by length of text times length of pattern.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    any: bool,
    /// Those without `*` and `?`, sorted.
    exact: Vec<Box<str>>,
    wild: Vec<Wild>,
}

#[derive(Debug, Clone)]
struct Wild {
    /// What stands before the first `*` or `?`: most texts differ from it.
    head: Box<str>,
    glob: WildMatch,
}

impl Matcher {
    /// Prepares patterns.
    pub fn new(globs: &Globs) -> Self {
        let mut matcher = Self::default();
        for pattern in globs.patterns() {
            match pattern.find(['*', '?']) {
                None => matcher.exact.push(pattern.as_str().into()),
                Some(_) if is_any(pattern) => matcher.any = true,
                Some(at) => matcher.wild.push(Wild {
                    head: pattern.get(..at).unwrap_or_default().into(),
                    glob: WildMatch::new(pattern),
                }),
            }
        }
        matcher.exact.sort_unstable();
        matcher
    }

    /// Whether any pattern matches the whole of `text`.
    pub fn matches(&self, text: &str) -> bool {
        self.any
            || self.exact.binary_search_by(|known| known.as_ref().cmp(text)).is_ok()
            || self.wild.iter().any(|wild| text.starts_with(&*wild.head) && wild.glob.matches(text))
    }

    /// Whether every text is matched, because one of the patterns is `*`.
    pub fn is_any(&self) -> bool {
        self.any
    }

    /// Whether no text is matched.
    pub fn is_empty(&self) -> bool {
        !self.any && self.exact.is_empty() && self.wild.is_empty()
    }
}

fn is_any(pattern: &str) -> bool {
    !pattern.is_empty() && pattern.bytes().all(|byte| byte == b'*')
}

/// Whether `wide` surely matches every text that `narrow` matches. `false` may mean that this was not seen.
pub fn covers(wide: &str, narrow: &str) -> bool {
    let (wide, narrow): (Vec<char>, Vec<char>) = (wide.chars().collect(), narrow.chars().collect());
    table(&wide, &narrow, |w, n| match (w, n) {
        (_, '*') => false,
        ('?', _) => true,
        (w, n) => w == n,
    })
}

/// Whether some text is matched by both patterns.
pub fn overlap(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // `row[j]`: whether what is left of `a` and `b` from `j` on have a text in common.
    let mut row: Vec<bool> = ends(&b);
    for x in a.iter().rev() {
        let mut next = vec![false; b.len() + 1];
        let all_stars = *x == '*' && row.last().copied().unwrap_or(false);
        set(&mut next, b.len(), all_stars);
        for (j, y) in b.iter().enumerate().rev() {
            let (skip_x, skip_y, both) = (at(&row, j), at(&next, j + 1), at(&row, j + 1));
            let found = match (*x, *y) {
                // A star is empty, or takes what the other side has next.
                ('*', _) | (_, '*') => skip_x || skip_y,
                ('?', _) | (_, '?') => both,
                (x, y) => x == y && both,
            };
            set(&mut next, j, found);
        }
        row = next;
    }
    at(&row, 0)
}

/// For each place in `pattern`, whether everything from there on is `*`.
fn ends(pattern: &[char]) -> Vec<bool> {
    let mut row = vec![true; pattern.len() + 1];
    for (j, c) in pattern.iter().enumerate().rev() {
        let rest = at(&row, j + 1);
        set(&mut row, j, *c == '*' && rest);
    }
    row
}

/// Matches `pattern` against the characters of `text`, one of which may itself be a wildcard that `same` judges; `*`
/// in the pattern takes any of them.
fn table(pattern: &[char], text: &[char], same: impl Fn(char, char) -> bool) -> bool {
    let mut row = vec![false; text.len() + 1];
    set(&mut row, 0, true);
    for p in pattern {
        let mut next = vec![false; text.len() + 1];
        if *p == '*' {
            let mut any = false;
            for (j, before) in row.iter().enumerate() {
                any |= *before;
                set(&mut next, j, any);
            }
        } else {
            for (j, t) in text.iter().enumerate() {
                let fits = at(&row, j) && same(*p, *t);
                set(&mut next, j + 1, fits);
            }
        }
        row = next;
    }
    at(&row, text.len())
}

fn at(row: &[bool], place: usize) -> bool {
    row.get(place).copied().unwrap_or(false)
}

fn set(row: &mut [bool], place: usize, value: bool) {
    if let Some(slot) = row.get_mut(place) {
        *slot = value;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matcher(patterns: &[&str]) -> Matcher {
        Matcher::new(&Globs::new(patterns.iter().map(ToString::to_string).collect()))
    }

    #[track_caller]
    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        for (texts, wanted) in [(yes, true), (no, false)] {
            for text in texts {
                assert_eq!(matcher(&[pattern]).matches(text), wanted, "{pattern} {text}");
            }
        }
    }

    #[test]
    fn patterns() {
        check("get_*", &["get_", "get_x", "get_a_b"], &["get", "Get_x", "xget_"]);
        check("*", &["", "a", "file:///a/b\n"], &[]);
        check("**", &["", "a"], &[]);
        check("a?c", &["abc", "aéc", "a?c"], &["ac", "abbc"]);
        check("file:///srv/*/x{n}[1]", &["file:///srv/a/b/x{n}[1]"], &["file:///srv/x{n}[1]"]);
        check("search", &["search"], &["Search", "search ", "searсh", "sear"]);
        assert!(matcher(&[]).is_empty() && !matcher(&[]).matches(""));
        assert!(matcher(&["b", "a", "c*"]).matches("a"));
    }

    #[test]
    fn what_covers_and_what_overlaps() {
        for (wide, narrow, is) in [
            ("*", "a*b", true),
            ("a*", "ab*", true),
            ("ab*", "a*", false),
            ("a?", "ab", true),
            ("a?", "a*", false),
            ("a*c", "a?c", true),
            ("?", "*", false),
            ("a", "a", true),
        ] {
            assert_eq!(covers(wide, narrow), is, "{wide} {narrow}");
        }
        for (a, b, is) in [
            ("a*", "*b", true),
            ("a*", "b*", false),
            ("a?", "?b", true),
            ("", "*", true),
            ("", "?", false),
            ("*x*", "y", false),
            ("a*c", "abc", true),
        ] {
            assert_eq!((overlap(a, b), overlap(b, a)), (is, is), "{a} {b}");
        }
    }

    #[test]
    fn a_long_text_and_a_spiteful_pattern_take_no_longer_than_their_product() {
        let pattern = matcher(&[&"a*".repeat(100)]);
        let text = format!("{}b", "a".repeat(8_000));
        // A matcher that tries every way would not end before the sun does.
        assert!(!matcher(&[&format!("{}c", "a*".repeat(100))]).matches(&text));
        assert!(pattern.matches(&text));
    }

    proptest! {
        #[test]
        fn covering_and_overlapping_agree_with_matching(a in "[ab*?]{0,5}", b in "[ab*?]{0,5}", text in "[ab]{0,5}") {
            let (by_a, by_b) = (matcher(&[&a]).matches(&text), matcher(&[&b]).matches(&text));
            if covers(&a, &b) && by_b { prop_assert!(by_a); }
            if by_a && by_b { prop_assert!(overlap(&a, &b)); }
        }
    }
}
