//! What a message wants of a server, told from its body alone.
//! Not here: the body itself (`mcp`); whether the caller may have it (`auth`).

use crate::auth::{Demand, ItemKind};
use crate::mcp::{Message, Method, Reference, reference, subscriptions};

/// What `message` wants. Headers that mirror the body are not asked: they prove nothing.
pub fn demand(message: &Message<'_>) -> Demand {
    let item = |kind: ItemKind, key: &str| match message.params.text(key) {
        Some(name) => Demand::item(kind, &name),
        None => Demand::Unnamed(kind),
    };
    match message.method {
        Method::ToolsCall => item(ItemKind::Tool, "name"),
        Method::PromptsGet => item(ItemKind::Prompt, "name"),
        Method::ResourcesRead | Method::ResourcesSubscribe | Method::ResourcesUnsubscribe => {
            item(ItemKind::Resource, "uri")
        }
        Method::ToolsList => Demand::List(ItemKind::Tool),
        Method::PromptsList => Demand::List(ItemKind::Prompt),
        Method::ResourcesList | Method::ResourcesTemplatesList => Demand::List(ItemKind::Resource),
        Method::Complete => match reference(&message.params) {
            Some(Reference::Prompt(name)) => Demand::item(ItemKind::Prompt, &name),
            Some(Reference::Resource(uri)) => Demand::item(ItemKind::Resource, &uri),
            None => Demand::Unknown,
        },
        Method::Listen => match subscriptions(&message.params) {
            Some(uris) if uris.iter().any(|uri| uri.len() > ItemKind::Resource.name_bytes_max()) => {
                Demand::Unnamed(ItemKind::Resource)
            }
            Some(uris) if uris.is_empty() => Demand::Session,
            Some(uris) => Demand::Resources(uris.iter().map(|uri| uri.as_ref().into()).collect()),
            None => Demand::Unnamed(ItemKind::Resource),
        },
        // The id of a task is a secret of the caller whose call it was, so whoever has it may go on.
        Method::TasksGet | Method::TasksResult | Method::TasksUpdate | Method::TasksCancel => Demand::Session,
        // A list of tasks is one of all callers': to the server, the gateway is one client.
        Method::TasksList | Method::Other => Demand::Unknown,
        Method::Response
        | Method::Stream
        | Method::EndSession
        | Method::Initialize
        | Method::Discover
        | Method::Ping
        | Method::SetLevel
        | Method::Initialized
        | Method::Cancelled
        | Method::Progress
        | Method::RootsListChanged => Demand::Session,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::{ParseLimits, parse};

    #[track_caller]
    fn check(method: &str, params: &str, wanted: &Demand) {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        let message = parse(body.as_bytes(), ParseLimits { depth_max: 64 }).unwrap();
        assert_eq!(&demand(&message), wanted, "{method} {params}");
    }

    #[test]
    fn what_messages_want() {
        use ItemKind::{Prompt, Resource, Tool};
        let item = |kind, name: &str| Demand::Item(kind, name.into());
        check("tools/call", r#"{"name":"e\u0063ho"}"#, &item(Tool, "echo"));
        check("tools/call", "{}", &Demand::Unnamed(Tool));
        check("tools/call", &format!(r#"{{"name":"{}"}}"#, "a".repeat(1025)), &Demand::Unnamed(Tool));
        check("prompts/get", r#"{"name":"p"}"#, &item(Prompt, "p"));
        check("resources/read", r#"{"uri":"a:b"}"#, &item(Resource, "a:b"));
        check("resources/subscribe", r#"{"uri":"a:b"}"#, &item(Resource, "a:b"));
        check("resources/unsubscribe", r#"{"uri":"a:b"}"#, &item(Resource, "a:b"));
        check("resources/templates/list", "{}", &Demand::List(Resource));
        check("completion/complete", r#"{"ref":{"type":"ref/prompt","name":"p"}}"#, &item(Prompt, "p"));
        check(
            "completion/complete",
            r#"{"ref":{"type":"ref/resource","uri":"a:{b}"}}"#,
            &item(Resource, "a:{b}"),
        );
        check("completion/complete", r#"{"ref":{"type":"ref/tool","name":"t"}}"#, &Demand::Unknown);
        check("subscriptions/listen", r#"{"notifications":{"toolsListChanged":true}}"#, &Demand::Session);
        check(
            "subscriptions/listen",
            r#"{"notifications":{"resourceSubscriptions":["a:b","c:d"]}}"#,
            &Demand::Resources(vec!["a:b".into(), "c:d".into()]),
        );
        check(
            "subscriptions/listen",
            r#"{"notifications":{"resourceSubscriptions":[1]}}"#,
            &Demand::Unnamed(Resource),
        );
        check("tasks/get", r#"{"taskId":"t"}"#, &Demand::Session);
        check("tasks/list", "{}", &Demand::Unknown);
        check("vendor/thing", "{}", &Demand::Unknown);
        check("ping", "{}", &Demand::Session);
    }
}
