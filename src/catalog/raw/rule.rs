//! The form of a rule in `catalog.yaml`.
//! Not here: what a rule may say (`check/rules.rs`) and what it comes to (`auth/policy`).

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use crate::document::{At, Span};

/// Says who may do what. What any rule denies, no rule allows; and as soon as there is a rule, what no rule allows is
/// denied. A credential's own `servers` still bound what rules can give.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["allow"]}, {"required": ["deny"]}]))]
pub(in crate::catalog) struct RawRule {
    /// Its name in `tollgate explain` and logs. Default: `rule 3` for the third one.
    pub(in crate::catalog) name: Option<At<String>>,
    /// What it gives: of `list`, `call` (tools), `read` (resources), `get` (prompts), or `"*"` for all of them. An
    /// item can be used only if it may be listed as well.
    pub(in crate::catalog) allow: Option<At<RawActions>>,
    /// What it takes, in the same words. Either this or `allow`.
    pub(in crate::catalog) deny: Option<At<RawActions>>,
    /// Whom it is about. Default: everybody.
    pub(in crate::catalog) who: At<Option<RawWho>>,
    /// Servers, by id; `*` stands for any text and `?` for one character. Default: all. An empty list is no server.
    pub(in crate::catalog) servers: RawWords,
    /// Tools, by name or pattern. With any of `tools`, `prompts` and `resources` the rule is about what these list,
    /// otherwise about everything of the servers.
    pub(in crate::catalog) tools: RawWords,
    /// Prompts, by name or pattern.
    pub(in crate::catalog) prompts: RawWords,
    /// Resources by URI and templates by their text, or patterns of these.
    pub(in crate::catalog) resources: RawWords,
}

/// Callers that have all that is said here.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::catalog) struct RawWho {
    /// Scopes, all of which the caller has.
    pub(in crate::catalog) scopes: RawWords,
    /// Groups, one of which the caller is in; patterns.
    pub(in crate::catalog) groups: RawWords,
    /// Subjects: names of keys and certificates, `sub` of tokens; patterns.
    pub(in crate::catalog) subjects: RawWords,
    /// Kinds of callers: `anonymous`, `api_key`, `jwt`, `certificate`.
    #[schemars(extend("items" = {"enum": ["anonymous", "api_key", "jwt", "certificate"]}))]
    pub(in crate::catalog) kinds: RawWords,
    /// Issuers of tokens, exactly.
    pub(in crate::catalog) issuers: RawWords,
}

/// A list that may be left out, but not be there without a value: what is absent asks for nothing, and so gives more than
/// an empty list.
pub(in crate::catalog) type RawWords = At<Option<Vec<At<String>>>>;

/// A list of actions, or the one word `*`.
#[derive(Debug, Default)]
pub(in crate::catalog) struct RawActions(
    /// The words, with their places where they have places of their own.
    pub(in crate::catalog) Vec<(String, Option<Span>)>,
);

impl<'de> Deserialize<'de> for RawActions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Inner;
        impl<'de> Visitor<'de> for Inner {
            type Value = RawActions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of actions, or \"*\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RawActions, E> {
                // A variable has no other way to be a list.
                let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
                Ok(RawActions(words.map(|word| (word.to_owned(), None)).collect()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawActions, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = seq.next_element::<At<String>>()? {
                    words.push((word.value, Some(word.span)));
                }
                Ok(RawActions(words))
            }
        }
        deserializer.deserialize_any(Inner)
    }
}

impl JsonSchema for RawActions {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Actions".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                {"type": "string", "pattern": "^(\\*|.*\\$\\{.*)$"},
                {"type": "array", "items": {"enum": ["list", "call", "read", "get", "*"]}}
            ]
        })
    }
}
