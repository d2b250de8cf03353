//! S14: what each of six callers sees and may do is the same, and what they may not looks as if it were not there.
//! Not here: how rules are decided (`auth/policy`), routes without a good credential (`routes`).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::Card;
use crate::client::{Answer, Caller, request};
use crate::gateway::Gateway;
use crate::issuer::{Key, claims, key_set};

const ISSUER: &str = "https://login.example.com";
const AUDIENCE: &str = "tollgate";
const ROOT: &str = "Rq7vB2mX9kT4wZ6n-root";
const READER: &str = "Jd5hC8pL3sF1yG0u-reader";
const TENANT: &str = "Ne4aV7oI2tE9rQ5x-tenant";
const WRITER: &str = "Bw6kP3nX8cM1vZ7j-writer";

/// Everything that the sample server offers.
const TOOLS: [&str; 6] = ["add", "big", "echo", "fail", "slow", "time"];
const PROMPTS: [&str; 1] = ["greeting"];
const RESOURCES: [&str; 2] = ["sample://logo", "sample://readme"];
const TEMPLATES: [&str; 1] = ["sample://count/{n}"];
const SERVERS: [&str; 3] = ["docs", "ops", "vault"];

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// A key for every server, in a group that may do everything.
    Root,
    /// A key for `docs` that may read.
    Reader,
    /// A key for `ops` that may read.
    Tenant,
    /// A token that may read; one tool needs a scope more.
    Token,
    /// A key for two servers, in a group that may get prompts at one.
    Writer,
    /// Nobody in particular.
    Stranger,
}

const EVERYBODY: [Who; 6] = [Who::Root, Who::Reader, Who::Tenant, Who::Token, Who::Writer, Who::Stranger];

/// What somebody sees of a server, and what of it would need more scopes.
#[derive(Debug, Clone, Default, PartialEq)]
struct Sees {
    items: [BTreeSet<String>; 4],
    scoped: BTreeSet<String>,
}

fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(ToString::to_string).collect()
}

fn sees(tools: &[&str], prompts: &[&str], resources: &[&str], templates: &[&str]) -> Option<Sees> {
    let items = [set(tools), set(prompts), set(resources), set(templates)];
    Some(Sees { items, scoped: BTreeSet::new() })
}

/// What the rules below mean, in the words of whoever wrote them. `None`: the server is not there.
fn meant(who: Who, server: &str) -> Option<Sees> {
    match (who, server) {
        (Who::Root, _) => sees(&TOOLS, &PROMPTS, &RESOURCES, &TEMPLATES),
        (Who::Reader, "docs") | (Who::Tenant, "ops") => {
            sees(&["echo", "time"], &[], &["sample://readme"], &["sample://count/{n}"])
        }
        (Who::Token, "docs" | "ops") => {
            let mut seen = sees(&["add", "echo", "time"], &[], &["sample://readme"], &["sample://count/{n}"]);
            seen.as_mut().unwrap().scoped = set(&["add"]);
            seen
        }
        (Who::Writer, "docs") => sees(&[], &PROMPTS, &[], &[]),
        (Who::Stranger, "docs") => sees(&["time"], &[], &[], &[]),
        _ => None,
    }
}

fn rules() -> Value {
    json!([
        {"name": "admins", "allow": ["*"], "who": {"groups": ["admins"]}},
        {"name": "readers", "allow": ["list", "call", "read"], "who": {"scopes": ["read"]},
         "tools": ["echo", "time", "slow"], "resources": ["sample://readme", "sample://count/*"]},
        {"name": "adders", "allow": ["list", "call"], "who": {"scopes": ["read", "add"]}, "tools": ["add"]},
        {"name": "nobody is slow", "deny": ["*"], "who": {"scopes": ["read"]}, "tools": ["sl?w"]},
        {"name": "no readers in the vault", "deny": ["*"], "who": {"scopes": ["read"]}, "servers": ["vault"]},
        {"name": "writers", "allow": ["list", "get"], "who": {"groups": ["writers"]}, "servers": ["docs"], "prompts": ["greet*"]},
        {"name": "strangers", "allow": ["list", "call"], "who": {"kinds": ["anonymous"]}, "servers": ["docs"], "tools": ["time"]},
        {"name": "nobody", "allow": ["*"], "servers": []},
    ])
}

struct House {
    gateway: Gateway,
    key: Key,
}

fn conf(keys: &[(&str, &str, Value)]) -> String {
    let keys: Vec<Value> = keys
        .iter()
        .map(|(name, key, grant)| {
            let mut whole = json!({"name": name, "key": key});
            whole.as_object_mut().unwrap().extend(grant.as_object().unwrap().clone());
            whole
        })
        .collect();
    let auth = json!({
        "keys": keys,
        "issuers": [{"issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["ES256"], "jwks_file": "jwks.json", "servers": ["*"]}],
        "anonymous": {"servers": ["docs"]},
    });
    json!({"drain": "5s", "auth": auth}).to_string()
}

fn keys() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("root", ROOT, json!({"servers": ["*"], "groups": ["admins"]})),
        ("reader", READER, json!({"servers": ["docs"], "scopes": ["read"]})),
        ("tenant", TENANT, json!({"servers": ["ops"], "scopes": ["read"]})),
        ("writer", WRITER, json!({"servers": ["docs", "ops"], "groups": ["writers"]})),
    ]
}

impl House {
    fn start(rules: &Value) -> Self {
        let key = Key::new("one");
        let home = TempDir::with_prefix("tollgate-it-").unwrap();
        std::fs::write(home.path().join("jwks.json"), key_set(&[&key]).to_string()).unwrap();
        let runtime = json!({"type": "local-process", "command": env!("CARGO_BIN_EXE_tollgate"), "args": ["sample", "stdio"]});
        let servers = SERVERS.map(|id| json!({"id": id, "runtime": runtime}));
        let mut catalog = json!({ "servers": servers });
        if !rules.is_null() {
            catalog["rules"] = rules.clone();
        }
        let gateway = Gateway::with(&catalog.to_string()).conf(&conf(&keys())).home(home).start();
        Self { gateway, key }
    }

    fn at(&self, who: Who, url: &str) -> Caller {
        let caller = Caller::new(url);
        let token = |more: Value| self.key.sign(&claims(ISSUER, AUDIENCE, &format!("{who:?}"), more));
        match who {
            Who::Root => caller.with("x-api-key", ROOT),
            Who::Reader => caller.bearer(READER),
            Who::Tenant => caller.with("x-api-key", TENANT),
            Who::Token => {
                caller.bearer(&token(json!({"scope": "read", "servers": ["docs", "ops", "vault"]})))
            }
            Who::Writer => caller.bearer(WRITER),
            Who::Stranger => caller,
        }
    }

    /// Who speaks to a server in one era.
    async fn speaker(&self, who: Who, server: &str, modern: bool) -> Speaker {
        let caller = self.at(who, &self.gateway.url(server));
        if modern {
            return Speaker { caller, modern };
        }
        let params = json!({"protocolVersion": crate::client::LEGACY, "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}});
        let answer = caller.post(&request(0, "initialize", params)).await;
        let caller = match answer.header("mcp-session-id") {
            Some(id) => caller.with("mcp-session-id", id).with("mcp-protocol-version", crate::client::LEGACY),
            None => caller,
        };
        Speaker { caller, modern }
    }
}

/// A caller with or without a session.
struct Speaker {
    caller: Caller,
    modern: bool,
}

impl Speaker {
    async fn ask(&self, method: &str, params: Value) -> Answer {
        match self.modern {
            true => self.caller.modern_post(7, method, params).await,
            false => self.caller.post(&request(7, method, params)).await,
        }
    }

    /// Uses an item of that kind.
    async fn touch(&self, kind: usize, name: &str) -> Answer {
        let arguments = json!({"text": "x", "a": 1, "b": 2, "bytes": 1, "milliseconds": 0});
        match kind {
            0 => self.ask("tools/call", json!({"name": name, "arguments": arguments})).await,
            1 => self.ask("prompts/get", json!({"name": name, "arguments": {"name": "Ada"}})).await,
            _ => self.ask("resources/read", json!({"uri": name.replace("{n}", "3")})).await,
        }
    }

    /// What it is shown, by kind; the answer itself where it is shown nothing at all.
    async fn shown(&self) -> Result<[BTreeSet<String>; 4], Answer> {
        let mut all: [BTreeSet<String>; 4] = Default::default();
        let lists = [
            ("tools/list", "tools", "name"),
            ("prompts/list", "prompts", "name"),
            ("resources/list", "resources", "uri"),
            ("resources/templates/list", "resourceTemplates", "uriTemplate"),
        ];
        for (kind, (method, list, name)) in lists.into_iter().enumerate() {
            let answer = self.ask(method, json!({})).await;
            if answer.status != 200 {
                return Err(answer);
            }
            let result = answer.result();
            if self.modern {
                assert_ne!(result["cacheScope"], "public", "{result}");
            }
            let items = result[list].as_array().unwrap_or_else(|| panic!("{answer:?}"));
            all[kind] = items.iter().map(|item| item[name].as_str().unwrap().to_owned()).collect();
        }
        Ok(all)
    }
}

/// What an answer says, without the name that was asked for.
fn words(answer: &Answer, name: &str) -> (u16, String, Vec<String>) {
    let name = name.replace("{n}", "3");
    let headers = answer.headers.keys().map(|name| name.as_str().to_owned()).collect();
    (answer.status, answer.words().replace(&name, "…"), headers)
}

fn fine(answer: &Answer) -> bool {
    answer.status == 200 && answer.json().get("result").is_some()
}

fn items() -> [Vec<&'static str>; 4] {
    [TOOLS.into(), PROMPTS.into(), RESOURCES.into(), TEMPLATES.into()]
}

#[tokio::test]
async fn s14_what_is_shown_is_what_may_be_done() {
    let mut card = Card::new("S14");
    let house = House::start(&rules());
    for who in EVERYBODY {
        for server in SERVERS {
            for modern in [false, true] {
                let name = format!("{who:?} at {server}{}", if modern { ", modern" } else { "" });
                one(&mut card, &house, &name, (who, server), modern).await;
            }
        }
    }
    let control = without_rules().await;
    card.check("positive control: without rules a reader calls what is hidden", fine(&control), &control);
    card.pass(&format!(
        "{} callers at {} servers in both eras: list set = call set",
        EVERYBODY.len(),
        SERVERS.len()
    ));
}

async fn one(card: &mut Card, house: &House, name: &str, (who, server): (Who, &str), modern: bool) {
    let speaker = house.speaker(who, server, modern).await;
    let Some(meant) = meant(who, server) else {
        // Nothing of the server can be told from a server that is not there, whatever is asked.
        let nobody = house.speaker(who, "nobody", modern).await;
        for (method, params) in
            [("tools/list", json!({})), ("ping", json!({})), ("tools/call", json!({"name": "echo"}))]
        {
            let (here, there) = (speaker.ask(method, params.clone()).await, nobody.ask(method, params).await);
            let same = words(&here, server) == words(&there, "nobody");
            card.check(&format!("{name}: {method}"), here.status == 404 && same, &(here, there));
        }
        return;
    };
    let shown = speaker.shown().await;
    card.check(
        &format!("{name}: what is shown"),
        shown.as_ref().is_ok_and(|shown| *shown == meant.items),
        &shown,
    );
    for (kind, all) in items().into_iter().enumerate() {
        let unknown =
            ["no-such-tool", "no-such-prompt", "sample://no-such-resource", "sample://no-such/{n}"][kind];
        let nothing = speaker.touch(kind, unknown).await;
        card.check(&format!("{name}: {unknown}"), !fine(&nothing) && nothing.status < 500, &nothing);
        for item in all {
            let answer = speaker.touch(kind, item).await;
            let what = format!("{name}: {item}");
            if meant.scoped.contains(item) {
                let challenge = answer.header("www-authenticate").unwrap_or_default();
                let asked =
                    challenge.contains(r#"scope="add read""#) || challenge.contains(r#"scope="read add""#);
                card.check(&what, answer.status == 403 && asked, &answer);
            } else if meant.items[kind].contains(item) {
                card.check(&what, fine(&answer), &answer);
            } else {
                let same = words(&answer, item) == words(&nothing, unknown);
                card.check(&what, !fine(&answer) && same, &(answer, &nothing));
            }
        }
    }
    if who != Who::Root {
        lookalikes(card, &speaker, name, &meant).await;
        completion(card, &speaker, name, &meant).await;
    }
}

/// Names that look like one that is allowed, or contain it.
async fn lookalikes(card: &mut Card, speaker: &Speaker, name: &str, meant: &Sees) {
    let Some(known) = meant.items[0].iter().find(|tool| !meant.scoped.contains(*tool)) else { return };
    let likes = [
        known.to_uppercase(),
        known[..known.len() - 1].to_owned(),
        format!("{known}2"),
        format!("{known} "),
        format!(" {known}"),
        format!("{known}\0"),
        format!("{known}\u{200b}"),
        known.replacen('e', "\u{435}", 1),
        format!("../{known}"),
        "*".to_owned(),
        String::new(),
    ];
    for like in likes {
        // Headers cannot carry some of these; what counts is the body, so they are sent as a legacy client would.
        let params = json!({"name": like, "arguments": {}});
        let answer = speaker.caller.post(&request(7, "tools/call", params)).await;
        card.check(
            &format!("{name}: {like:?} for {known:?}"),
            !fine(&answer) && answer.status < 500,
            &answer,
        );
    }
    if speaker.modern {
        // A header that names what is allowed does not open what the body names.
        let (caller, body) =
            speaker.caller.modern(7, "tools/call", json!({"name": "big", "arguments": {"bytes": 1}}));
        let answer = caller.with("mcp-name", known).post(&body).await;
        card.check(&format!("{name}: a header that says {known:?}"), !fine(&answer), &answer);
    }
}

/// Completion tells of arguments only what may be used.
async fn completion(card: &mut Card, speaker: &Speaker, name: &str, meant: &Sees) {
    let asks = [
        (
            1,
            "greeting",
            json!({"ref": {"type": "ref/prompt", "name": "greeting"}, "argument": {"name": "name", "value": "A"}}),
        ),
        (
            3,
            "sample://count/{n}",
            json!({"ref": {"type": "ref/resource", "uri": "sample://count/{n}"}, "argument": {"name": "n", "value": "1"}}),
        ),
    ];
    for (kind, item, params) in asks {
        let answer = speaker.ask("completion/complete", params).await;
        let allowed = meant.items[kind].contains(item);
        card.check(&format!("{name}: completion of {item}"), fine(&answer) == allowed, &answer);
    }
}

async fn without_rules() -> Answer {
    let house = House::start(&Value::Null);
    house.speaker(Who::Reader, "docs", true).await.touch(0, "add").await
}

#[tokio::test]
async fn s14_servers_of_others_are_not_there_for_the_native_api() {
    let mut card = Card::new("S14");
    let house = House::start(&rules());
    for who in EVERYBODY {
        let listed =
            house.at(who, &house.gateway.path("/servers")).send(reqwest::Method::GET, Vec::new()).await;
        let rows = listed.json();
        let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
        let ids: BTreeSet<&str> = rows.iter().filter_map(|row| row["id"].as_str()).collect();
        for server in SERVERS {
            let visible = meant(who, server).is_some();
            card.check(&format!("{who:?} lists {server}"), ids.contains(server) == visible, &ids);
            for (method, path) in [("GET", ""), ("POST", "/start"), ("POST", "/stop")] {
                let ask = async |id: &str| {
                    let url = house.gateway.path(&format!("/servers/{id}{path}"));
                    house.at(who, &url).send(method.parse().unwrap(), Vec::new()).await
                };
                let (here, there) = (ask(server).await, ask("nobody").await);
                let what = format!("{who:?}: {method} /servers/{server}{path}");
                match visible {
                    true => card.check(&what, here.status != 404, &here),
                    false => {
                        let same = words(&here, server) == words(&there, "nobody");
                        card.check(&what, here.status == 404 && same, &(here, there));
                    }
                }
            }
        }
        let url = house.gateway.path("/admin/reload");
        let reload = house.at(who, &url).send(reqwest::Method::POST, Vec::new()).await;
        card.check(&format!("{who:?} reloads"), (reload.status == 200) == (who == Who::Root), &reload);
    }
    card.pass("six callers, three servers, every administrative act");
}

#[tokio::test]
async fn s14_a_credential_taken_away_ends_what_is_open() {
    let mut card = Card::new("S14");
    let house = House::start(&rules());
    let mut streams = Vec::new();
    for who in [Who::Reader, Who::Root] {
        let speaker = house.speaker(who, "docs", false).await;
        let stream = speaker.caller.get_stream().await;
        streams.push((speaker, stream));
    }
    let (root, mut kept) = streams.pop().unwrap();
    let (reader, mut ended) = streams.pop().unwrap();
    let left: Vec<_> = keys().into_iter().filter(|key| key.0 != "reader").collect();
    let taken = Instant::now();
    house.gateway.edit_conf(&conf(&left));
    let end =
        tokio::time::timeout(Duration::from_secs(20), async { while ended.next().await.is_some() {} }).await;
    let after = taken.elapsed();
    card.check("the stream ends", end.is_ok() && after <= Duration::from_secs(2), &after);
    house.gateway.wait_for_log("its audit line", Duration::from_secs(20), |line| {
        (line["type"] == "audit" && line["reason"] == "revoked").then_some(())
    });
    let answer = reader.ask("tools/call", json!({"name": "echo", "arguments": {"text": "x"}})).await;
    card.check("the key is refused", answer.status == 401, &answer);
    let answer = root.ask("tools/call", json!({"name": "echo", "arguments": {"text": "x"}})).await;
    card.check("positive control: another key is taken", fine(&answer), &answer);
    let open =
        tokio::time::timeout(Duration::from_millis(300), async { while kept.next().await.is_some() {} })
            .await;
    card.check("positive control: another stream stays open", open.is_err(), &open);
    card.pass(&format!("an open stream ended {after:.1?} after its key was taken away"));
}
