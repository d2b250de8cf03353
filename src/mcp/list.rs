//! Lists in answers (`tools/list` and its like): items taken out, everything else byte for byte as it was.
//! Not here: which items are taken out (`auth`), and how answers arrive (`hub`).

use std::ops::Range;

use serde_json::value::RawValue;

use super::message::{span, text};
use super::target::members;

/// What a list lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// Tools, by name.
    Tools,
    /// Prompts, by name.
    Prompts,
    /// Resources, by URI.
    Resources,
    /// Templates of resources, by their text.
    Templates,
}

/// The member of a result that holds the list, and the member of an item that names it.
const LISTS: [(Listed, &str, &str); 4] = [
    (Listed::Tools, "tools", "name"),
    (Listed::Prompts, "prompts", "name"),
    (Listed::Resources, "resources", "uri"),
    (Listed::Templates, "resourceTemplates", "uriTemplate"),
];

/// A message that cannot be read so far that nothing is left in it which may not be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the list cannot be read")]
pub struct Unreadable;

/// What is done to the lists of an answer.
pub struct Cut<'c> {
    /// Whether an item of that name stays.
    pub keep: &'c dyn Fn(Listed, &str) -> bool,
    /// Whether the answer has to hold a list, because one was asked for.
    pub owed: bool,
    /// Whether `cacheScope` becomes `private` (2026-07-28/server/utilities/caching): what is shown depends on who asks.
    pub private: bool,
}

impl Cut<'_> {
    /// The message after the cut; `None` if it stays as it is.
    ///
    /// # Errors
    /// [`Unreadable`] for what is no message, what lacks a list that is owed, and what another reader might read
    /// otherwise, with a member that stands twice or once more in another case.
    pub fn apply(&self, message: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
        let whole: &RawValue = serde_json::from_slice(message).map_err(|_| Unreadable)?;
        let [method, result, error] = members(whole, ["method", "result", "error"]).ok_or(Unreadable)?;
        let result = match (method, result, error) {
            (None, Some(result), None) => result,
            (None, None, Some(_)) | (Some(_), None, None) => return Ok(None),
            _ => return Err(Unreadable),
        };
        let names = [LISTS[0].1, LISTS[1].1, LISTS[2].1, LISTS[3].1, "cacheScope"];
        let [tools, prompts, resources, templates, scope] = members(result, names).ok_or(Unreadable)?;
        let mut edits: Vec<(Range<usize>, String)> = Vec::new();
        let mut found = false;
        for (list, (listed, _, name)) in [tools, prompts, resources, templates].into_iter().zip(LISTS) {
            let Some(list) = list else { continue };
            found = true;
            if let Some(rest) = self.rest(list, listed, name)? {
                edits.push((span(message, list.get()).ok_or(Unreadable)?, rest));
            }
        }
        if self.owed && !found {
            return Err(Unreadable);
        }
        if let Some(scope) = scope.filter(|scope| self.private && scope.get() != "\"private\"") {
            edits.push((span(message, scope.get()).ok_or(Unreadable)?, "\"private\"".to_owned()));
        }
        Ok((!edits.is_empty()).then(|| edited(message, edits)))
    }

    /// The list without what is not kept; `None` if everything is.
    fn rest(&self, list: &RawValue, listed: Listed, name: &str) -> Result<Option<String>, Unreadable> {
        let items: Vec<&RawValue> = serde_json::from_str(list.get()).map_err(|_| Unreadable)?;
        let count = items.len();
        let mut kept = Vec::with_capacity(count);
        for item in items {
            let [named] = members(item, [name]).ok_or(Unreadable)?;
            let named = named.and_then(text).ok_or(Unreadable)?;
            if (self.keep)(listed, &named) {
                kept.push(item.get());
            }
        }
        Ok((kept.len() < count).then(|| format!("[{}]", kept.join(","))))
    }
}

fn edited(message: &[u8], mut edits: Vec<(Range<usize>, String)>) -> Vec<u8> {
    edits.sort_by_key(|(span, _)| span.start);
    let mut out = Vec::with_capacity(message.len());
    let mut from = 0;
    for (span, text) in edits {
        out.extend_from_slice(message.get(from..span.start).unwrap_or_default());
        out.extend_from_slice(text.as_bytes());
        from = span.end;
    }
    out.extend_from_slice(message.get(from..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: &str, wanted: Result<Option<&str>, Unreadable>) {
        let keep = |_: Listed, name: &str| name.starts_with('k');
        let cut = Cut { keep: &keep, owed: true, private: true };
        let found = cut.apply(message.as_bytes());
        let found = found.map(|found| found.map(|bytes| String::from_utf8(bytes).unwrap()));
        assert_eq!(found.as_ref().map(Option::as_deref).map_err(|error| *error), wanted, "{message}");
    }

    #[test]
    fn items_go_and_bytes_stay() {
        check(
            r#"{"id":1,"result":{"tools":[ {"x":1.0,"name":"k1"}, {"name":"no"},{"name":"\u006b2","inputSchema":{"a":[1, 2]}} ],"nextCursor":"c","_meta":{"tools":[]}},"jsonrpc":"2.0"}"#,
            Ok(Some(
                r#"{"id":1,"result":{"tools":[{"x":1.0,"name":"k1"},{"name":"\u006b2","inputSchema":{"a":[1, 2]}}],"nextCursor":"c","_meta":{"tools":[]}},"jsonrpc":"2.0"}"#,
            )),
        );
        check(
            r#"{"id":1,"result":{"prompts":[{"name":"no"}]}}"#,
            Ok(Some(r#"{"id":1,"result":{"prompts":[]}}"#)),
        );
        check(
            r#"{"id":1,"result":{"cacheScope":"public","resources":[{"uri":"no","name":"k"},{"uri":"k"}],"ttlMs":5}}"#,
            Ok(Some(r#"{"id":1,"result":{"cacheScope":"private","resources":[{"uri":"k"}],"ttlMs":5}}"#)),
        );
        check(
            r#"{"id":1,"result":{"resourceTemplates":[{"uriTemplate":"k{n}"}],"cacheScope":"public"}}"#,
            Ok(Some(
                r#"{"id":1,"result":{"resourceTemplates":[{"uriTemplate":"k{n}"}],"cacheScope":"private"}}"#,
            )),
        );
        check(r#"{"id":1,"result":{"tools":[{"name":"k"}],"cacheScope":"private"}}"#, Ok(None));
        check(r#"{"id":1,"error":{"code":1,"data":{"tools":[{"name":"no"}]}}}"#, Ok(None));
        check(r#"{"method":"notifications/progress"}"#, Ok(None));
    }

    #[test]
    fn what_cannot_be_read_is_never_shown() {
        for message in [
            "",
            "[]",
            "{}",
            r#"{"id":1,"result":{}}"#,
            r#"{"id":1,"result":[]}"#,
            r#"{"id":1,"result":{"tools":{}}}"#,
            r#"{"id":1,"result":{"tools":[1]}}"#,
            r#"{"id":1,"result":{"tools":[{"title":"k"}]}}"#,
            r#"{"id":1,"result":{"tools":[{"name":"k","name":"no"}]}}"#,
            r#"{"id":1,"result":{"tools":[{"name":"k","Name":"no"}]}}"#,
            r#"{"id":1,"result":{"tools":[],"tools":[{"name":"no"}]}}"#,
            r#"{"id":1,"result":{"tools":[],"Tools":[{"name":"no"}]}}"#,
            r#"{"id":1,"result":{"tools":[]},"result":{"tools":[{"name":"no"}]}}"#,
            r#"{"id":1,"method":"x","result":{"tools":[{"name":"no"}]}}"#,
        ] {
            check(message, Err(Unreadable));
        }
    }
}
