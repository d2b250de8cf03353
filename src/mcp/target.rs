//! Items that a request is about besides `name` and `uri`: a completion's reference, a subscription's resources.
//! Not here: the envelope (`message`); who may use the items (`auth`).
//!
//! As in the envelope, members that we act on may stand once and in their own spelling only.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::message::{Params, text};

/// What a completion is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference<'a> {
    /// An argument of the prompt of that name.
    Prompt(Cow<'a, str>),
    /// A variable of the resource template of that text.
    Resource(Cow<'a, str>),
}

/// The reference of `completion/complete`; `None` if it cannot be told.
pub fn reference<'a>(params: &Params<'a>) -> Option<Reference<'a>> {
    let [kind, name, uri] = members(params.raw("ref")?, ["type", "name", "uri"])?;
    match text(kind?)?.as_ref() {
        "ref/prompt" => text(name?).map(Reference::Prompt),
        "ref/resource" => text(uri?).map(Reference::Resource),
        _ => None,
    }
}

/// The resources whose changes `subscriptions/listen` asks for; `None` if they cannot be told.
pub fn subscriptions<'a>(params: &Params<'a>) -> Option<Vec<Cow<'a, str>>> {
    let Some(filter) = params.raw("notifications") else { return Some(Vec::new()) };
    let [uris] = members(filter, ["resourceSubscriptions"])?;
    let Some(uris) = uris else { return Some(Vec::new()) };
    let uris: Vec<&'a RawValue> = serde_json::from_str(uris.get()).ok()?;
    uris.into_iter().map(text).collect()
}

/// The lists whose changes `subscriptions/listen` asks for: of tools, prompts and resources.
pub fn listens(params: &Params<'_>) -> [bool; 3] {
    let lists = ["toolsListChanged", "promptsListChanged", "resourcesListChanged"];
    let asked = params.raw("notifications").and_then(|filter| members(filter, lists));
    asked.map_or([false; 3], |asked| asked.map(|asked| asked.is_some_and(|asked| asked.get() == "true")))
}

/// Members of an object by name; `None` if it is no object, or if another reader might see other ones.
pub(super) fn members<'a, const N: usize>(
    object: &'a RawValue,
    names: [&str; N],
) -> Option<[Option<&'a RawValue>; N]> {
    let all = serde_json::Deserializer::from_str(object.get()).deserialize_map(Members).ok()?;
    let mut found = [None; N];
    for (key, value) in all {
        if !key.is_ascii() {
            return None;
        }
        for (slot, name) in found.iter_mut().zip(names) {
            if key.eq_ignore_ascii_case(name) && (key != name || slot.replace(value).is_some()) {
                return None;
            }
        }
    }
    Some(found)
}

/// The members of an object in order, twins included.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::{ParseLimits, parse};

    #[track_caller]
    fn check(params: &str, wanted: Option<&Reference<'_>>, uris: Option<&[&str]>) {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{{params}}}}}"#);
        let message = parse(body.as_bytes(), ParseLimits { depth_max: 64 }).unwrap();
        assert_eq!(reference(&message.params).as_ref(), wanted, "{params}");
        let found = subscriptions(&message.params);
        assert_eq!(found, uris.map(|uris| uris.iter().map(|uri| Cow::Borrowed(*uri)).collect()), "{params}");
    }

    #[test]
    fn references() {
        let prompt = Reference::Prompt("a\"b".into());
        let template = Reference::Resource("x://{n}".into());
        check(r#""ref":{"type":"ref/prompt","name":"a\"b","uri":"c"}"#, Some(&prompt), Some(&[]));
        check(r#""ref":{"uri":"x://{n}","type":"ref/resource"}"#, Some(&template), Some(&[]));
        for unclear in [
            r#""ref":{"type":"ref/prompt"}"#,
            r#""ref":{"type":"ref/other","name":"a"}"#,
            r#""ref":{"type":"ref/prompt","name":"a","name":"b"}"#,
            r#""ref":{"type":"ref/prompt","name":"a","Name":"b"}"#,
            r#""ref":{"type":"ref/prompt","name":"a","Name":"b"}"#,
            r#""ref":{"type":"ref/prompt","name":1}"#,
            r#""ref":["ref/prompt","a"]"#,
            "",
        ] {
            check(unclear, None, Some(&[]));
        }
    }

    #[test]
    fn resources_of_a_subscription() {
        check(r#""notifications":{"toolsListChanged":true}"#, None, Some(&[]));
        check(r#""notifications":{"resourceSubscriptions":["a","b"]}"#, None, Some(&["a", "b"]));
        check(r#""notifications":{"resourceSubscriptions":["a",1]}"#, None, None);
        check(r#""notifications":{"resourceSubscriptions":"a"}"#, None, None);
        check(r#""notifications":{"resourceSubscriptions":[],"ResourceSubscriptions":["a"]}"#, None, None);
        check(r#""notifications":{"reſourceSubscriptions":["a"]}"#, None, None);
        check(r#""notifications":[]"#, None, None);
    }
}
