//! Every snippet of README.md, run as it is printed, and what the first start tells a newcomer to copy.
//! Not here: settings and commands in all their cases (`cli`, golden folders).
//!
//! The gateway is started as README.md says. Only what would leave this machine is replaced: the port, paths below
//! `/etc`, and the programs `claude`, `docker`, `uvx` and `npx`, which stand here as scripts that print their arguments.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Caller, SOON, request};
use crate::gateway::Gateway;
use crate::packages;

/// The address that README.md names.
const PRINTED: &str = "127.0.0.1:4444";
const KEYS: [(&str, &str); 4] = [
    ("ALICE_KEY", "alice-key-0123456789abcdef"),
    ("CI_KEY", "ci-key-0123456789abcdef"),
    ("PROMETHEUS_KEY", "prometheus-key-0123456789abcdef"),
    ("JWT_SECRET", "a shared secret of more than 32 bytes"),
];

/// A fenced block.
#[derive(Debug)]
struct Block {
    section: String,
    language: String,
    text: String,
}

fn blocks() -> Vec<Block> {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let (mut blocks, mut section, mut open) = (Vec::new(), String::new(), None::<Block>);
    for line in readme.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                assert!(!language.is_empty(), "a block of section {section:?} does not say its language");
                let (section, language) = (section.clone(), language.to_owned());
                open = Some(Block { section, language, text: String::new() });
            }
            (Some(_), Some("")) => blocks.extend(open.take()),
            (Some(block), _) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {
                if let Some(title) = line.strip_prefix("## ") {
                    section = title.to_owned();
                }
            }
        }
    }
    assert!(open.is_none(), "a block of README.md is not closed");
    blocks
}

/// The blocks of one section, in their order; their languages must be these.
#[track_caller]
fn section(title: &str, languages: &[&str]) -> Vec<String> {
    let blocks: Vec<Block> = blocks().into_iter().filter(|block| block.section == title).collect();
    let found: Vec<&str> = blocks.iter().map(|block| block.language.as_str()).collect();
    assert_eq!(found, languages, "section {title:?} has other blocks now: test them here");
    blocks.into_iter().map(|block| block.text).collect()
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder for files of a snippet, and one of programs that print their arguments, one a line.
struct Desk {
    home: TempDir,
    address: String,
}

impl Desk {
    fn new(address: &str) -> Self {
        let home = TempDir::with_prefix("tollgate-readme-").unwrap();
        let bin = home.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for name in ["claude", "docker", "uvx", "npx"] {
            std::fs::write(bin.join(name), "#!/bin/sh\nprintf '%s\\n' \"$@\"\n").unwrap();
            std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { home, address: address.to_owned() }
    }

    fn beside(gateway: &Gateway) -> Self {
        Self::new(&gateway.address().to_string())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Programs here, the built `tollgate`, then the machine's.
    fn search_path(&self) -> String {
        let built = Path::new(env!("CARGO_BIN_EXE_tollgate")).parent().unwrap();
        format!("{}:{}:{}", self.path("bin").display(), built.display(), std::env::var("PATH").unwrap())
    }

    /// Writes a block that begins with a comment naming its file.
    #[track_caller]
    fn write(&self, block: &str) -> PathBuf {
        let name = block.lines().next().and_then(|line| line.strip_prefix("# "));
        let name = name.unwrap_or_else(|| panic!("this block does not begin with its file's name:\n{block}"));
        std::fs::write(self.path(name), block).unwrap();
        self.path(name)
    }

    /// What a block prints when a shell runs it.
    #[track_caller]
    fn sh(&self, block: &str) -> String {
        let mut shell = Command::new("sh");
        shell.args(["-euc", &block.replace(PRINTED, &self.address)]).current_dir(self.home.path());
        shell.env("PATH", self.search_path()).envs(KEYS).env("DOCS_TOKEN", "t").env_remove("http_proxy");
        let said = packages::run(shell, SOON);
        assert!(said.status.success(), "{}:\n{block}{}{}", said.status, said.stdout, said.stderr);
        said.stdout
    }

    #[track_caller]
    fn prints(&self, block: &str, printed: &str) {
        assert_eq!(self.sh(block).trim_end(), printed.trim_end(), "of\n{block}");
    }
}

/// Started by what `make run` runs.
fn as_made() -> Gateway {
    let makefile = std::fs::read_to_string(repository().join("Makefile")).unwrap();
    let recipe = makefile.split_once("\nrun:").and_then(|(_, rest)| rest.split_once("\n\n")).unwrap().0;
    let (_, args) = recipe.split_once("cargo run --quiet -- ").expect("`make run` does not run the gateway");
    let args: Vec<&str> = args.split_whitespace().filter(|&arg| arg != "$(ARGS)").collect();
    Gateway::bare().args(&args).folder(repository()).start()
}

/// Started with the samples, and with a block as its settings but for the address.
fn configured(block: &str) -> Gateway {
    let catalog = std::fs::read_to_string(repository().join("catalog.yaml")).unwrap();
    let builder = Gateway::with(&catalog).conf(block);
    KEYS.into_iter().fold(builder, |builder, (name, value)| builder.env(name, value)).start()
}

/// A server lists its tools, in whichever era it speaks.
async fn lists_tools(url: &str) {
    let caller = Caller::new(url);
    let modern = caller.modern_post(1, "tools/list", json!({})).await;
    let list = if modern.status == 200 {
        modern.result()
    } else {
        let (session, _) = caller.initialize().await;
        session.post(&request(2, "tools/list", json!({}))).await.result()
    };
    assert!(list["tools"].as_array().unwrap().iter().any(|tool| tool["name"] == "echo"), "{url}: {list}");
}

/// What `claude mcp add` was told: the server's name and URL.
#[track_caller]
fn added(desk: &Desk, line: &str) -> (String, String) {
    let said = desk.sh(line);
    let args: Vec<&str> = said.lines().collect();
    assert_eq!(args.get(..4), Some(&["mcp", "add", "--transport", "http"][..]), "{args:?}");
    (args[4].to_owned(), args[5].to_owned())
}

#[test]
fn no_block_is_left_out() {
    let found: BTreeSet<String> = blocks().into_iter().map(|block| block.section).collect();
    let tested =
        ["", "The catalog", "Connect a client", "Authentication", "Lock it down", "Observe", "Deploy"];
    assert_eq!(found, tested.map(String::from).into(), "a section has snippets that no test runs");
}

#[test]
fn links_lead_somewhere() {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let links = readme.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
    let mut count = 0;
    for link in links.filter(|link| !link.contains("://")) {
        assert!(repository().join(link).exists(), "{link} is not there");
        count += 1;
    }
    assert!(count > 5);
    let makefile = std::fs::read_to_string(repository().join("Makefile")).unwrap();
    for target in ["run", "test", "bench"] {
        assert!(readme.contains(&format!("make {target}")) && makefile.contains(&format!("\n{target}: ")));
    }
}

#[test]
fn the_first_screen() {
    let blocks = section("", &["sh", "sh", "json"]);
    assert_eq!(blocks[0], "make run\n");
    let gateway = as_made();
    Desk::beside(&gateway).prints(&blocks[1], &blocks[2]);
}

#[test]
fn the_catalog() {
    let blocks = section("The catalog", &["yaml", "sh", "text", "yaml"]);
    let desk = Desk::new(PRINTED);
    desk.write(&blocks[0]);
    desk.prints(&blocks[1], &blocks[2]);
    desk.write(&blocks[3]);
    assert_eq!(desk.sh(&blocks[1]), "ok: catalog.yaml, 2 servers\n");
}

#[tokio::test]
async fn connecting_a_client() {
    let blocks = section("Connect a client", &["sh", "json", "python", "text"]);
    let gateway = as_made();
    let desk = Desk::beside(&gateway);
    let (name, url) = added(&desk, &blocks[0]);
    assert_eq!(name, "sample");
    lists_tools(&url).await;
    let clients: Value = serde_json::from_str(&blocks[1].replace(PRINTED, &desk.address)).unwrap();
    lists_tools(clients["mcpServers"]["sample"]["url"].as_str().unwrap()).await;
    let mut python = Command::new(packages::python());
    python.args(["-c", &blocks[2].replace(PRINTED, &desk.address)]);
    let said = packages::run(python, Duration::from_secs(60));
    assert_eq!(said.stdout, blocks[3], "{}", said.stderr);
}

#[tokio::test]
async fn api_keys() {
    let blocks = section("Authentication", &["yaml", "sh", "json", "sh", "yaml", "sh", "json"]);
    let gateway = configured(&blocks[0]);
    let desk = Desk::beside(&gateway);
    desk.prints(&blocks[1], &blocks[2]);
    let (name, url) = added(&desk, &blocks[3]);
    let header = desk.sh(&blocks[3]).lines().last().unwrap().to_owned();
    let (header, value) = header.split_once(": ").unwrap();
    let (session, _) = Caller::new(&url).with(header, value).initialize().await;
    session.post(&request(1, "tools/list", json!({}))).await.result();
    // And the other two keys do what the comment says of them.
    let answer = Caller::new(&url).with("X-API-Key", KEYS[1].1).modern_post(1, "tools/list", json!({})).await;
    assert_eq!((answer.status, answer.header("x-ratelimit-limit")), (200, Some("60")), "{answer:?}");
    let scrape = Caller::new(&gateway.path("/metrics")).with("X-API-Key", KEYS[2].1);
    assert_eq!(scrape.send(reqwest::Method::GET, Vec::new()).await.status, 200);
    let call = Caller::new(&gateway.url(&name)).with("X-API-Key", KEYS[2].1);
    assert_eq!(call.modern_post(1, "tools/list", json!({})).await.status, 404);
}

#[test]
fn tokens() {
    let blocks = section("Authentication", &["yaml", "sh", "json", "sh", "yaml", "sh", "json"]);
    let gateway = configured(&blocks[4]);
    Desk::beside(&gateway).prints(&blocks[5], &blocks[6]);
}

/// The steps one after the other, in one folder and one shell's environment, with other ports than those printed.
#[test]
fn locking_down() {
    let blocks =
        section("Lock it down", &["sh", "yaml", "yaml", "sh", "text", "sh", "text", "sh", "text", "yaml"]);
    let free =
        || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let (inside, public) = (free(), free());
    let desk = Desk::new(&format!("127.0.0.1:{inside}"));
    let ported = |block: &str| block.replace("8443", &public).replace(PRINTED, &desk.address);
    desk.write(&ported(&blocks[1]));
    desk.write(&ported(&blocks[2]));
    // A gateway in a test keeps its state to itself.
    let state = format!("export TOLLGATE_STATE_DIR={}\n", desk.path("state").display());
    let keys = ported(&blocks[0]);
    desk.prints(&format!("{keys}{state}{}", ported(&blocks[3])), &blocks[4]);
    let ran = desk.sh(&format!(
        "{keys}{state}{} >/dev/null; wait",
        ported(&blocks[5]).replace("tollgate run &", "tollgate run >/dev/null 2>&1 &")
    ));
    let without_id = |text: &str| {
        let (before, rest) =
            text.split_once("requestId\":\"").unwrap_or_else(|| panic!("no request id in {text}"));
        let (_, after) = rest.split_once('"').unwrap();
        format!("{before}{after}")
    };
    assert_eq!(without_id(ran.trim_end()), without_id(blocks[6].trim_end()));
    let audited = std::fs::read_to_string(desk.path("audit.log")).unwrap();
    assert_eq!(audited.matches("\"event\":\"refused\"").count(), 2, "{audited}");
    desk.prints(&format!("{keys}{}", blocks[7]), &blocks[8]);
    // The last one is for others' addresses: it is only looked at.
    desk.write(&blocks[9]);
    let said = desk.sh(&format!("tollgate validate -c tollgate.yaml; {state} true"));
    assert!(said.starts_with("ok: "), "{said}");
}

#[tokio::test]
async fn observing() {
    let blocks = section("Observe", &["sh", "text", "json", "yaml"]);
    let gateway = as_made();
    let desk = Desk::beside(&gateway);
    desk.prints(&blocks[0], &blocks[1]);
    let echo = json!({"name": "echo", "arguments": {"text": "hello"}});
    Caller::new(&gateway.url("sample")).modern_post(1, "tools/call", echo).await.result();
    let wanted =
        |line: &Value| (line["type"] == "access" && line["method"] == "tools/call").then(|| line.clone());
    let line = gateway.wait_for_log("a line of the access log", SOON, wanted);
    let printed: Value = serde_json::from_str(&blocks[2]).unwrap();
    let keys = |line: &Value| line.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&line), keys(&printed));
    for key in ["door", "verb", "status", "outcome", "caller", "server", "tool", "era", "client", "attempts"]
    {
        assert_eq!(line[key], printed[key], "{key}");
    }
    // promtool wants to see the file with the key.
    std::fs::write(desk.path("tollgate.key"), "key").unwrap();
    let config = desk.write(&blocks[3].replace("/etc/prometheus", desk.home.path().to_str().unwrap()));
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "config"]).arg(config);
    let said = packages::run(promtool, SOON);
    assert!(said.status.success(), "{}{}", said.stdout, said.stderr);
}

/// The words of a JSON list that follows `name` in the Dockerfile.
#[track_caller]
fn of_dockerfile(dockerfile: &str, name: &str) -> Vec<String> {
    let (_, rest) = dockerfile.split_once(&format!("{name} [")).unwrap_or_else(|| panic!("no {name}"));
    serde_json::from_str(&format!("[{}]", rest.split_once(']').unwrap().0)).unwrap()
}

/// Starts a gateway by a command line that names files in `/etc/tollgate`; then the health check of the image likes it.
#[track_caller]
fn starts(args: &[String]) {
    let settings = section("Authentication", &["yaml", "sh", "json", "sh", "yaml", "sh", "json"]).remove(0);
    let etc = TempDir::with_prefix("tollgate-etc-").unwrap();
    std::fs::write(etc.path().join("tollgate.yaml"), settings).unwrap();
    std::fs::copy(repository().join("catalog.yaml"), etc.path().join("catalog.yaml")).unwrap();
    let here = |arg: &String| arg.replace("/etc/tollgate", etc.path().to_str().unwrap());
    let args: Vec<String> = args.iter().map(here).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let builder = Gateway::bare().args(&args);
    let gateway = KEYS.into_iter().fold(builder, |builder, (name, value)| builder.env(name, value)).start();
    let dockerfile = std::fs::read_to_string(repository().join("Dockerfile")).unwrap();
    let check = of_dockerfile(&dockerfile, "CMD");
    assert_eq!(check[..2], ["tollgate", "healthcheck"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command
        .args(check[1..].iter().map(here))
        .envs(KEYS)
        .env("TOLLGATE_LISTEN", gateway.address().to_string());
    let said = packages::run(command, SOON);
    assert!(said.status.success(), "{}", said.stderr);
}

#[test]
fn deploying_a_container() {
    let blocks = section("Deploy", &["sh", "ini"]);
    let dockerfile = std::fs::read_to_string(repository().join("Dockerfile")).unwrap();
    let said = Desk::new(PRINTED).sh(&blocks[0]);
    let words: Vec<&str> = said.lines().collect();
    assert_eq!(words[..4], ["build", "-t", "tollgate", "."]);
    for needed in ["EXPOSE 4444", "VOLUME /var/lib/tollgate", "TOLLGATE_LISTEN=0.0.0.0:4444", "USER 1000"] {
        assert!(dockerfile.contains(needed), "{needed}");
    }
    assert!(words.contains(&"4444:4444") && words.contains(&"tollgate-state:/var/lib/tollgate"));
    assert!(words.iter().any(|word| word.ends_with("/deploy:/etc/tollgate:ro")), "{words:?}");
    let (_, run) = dockerfile.rsplit_once("\nENTRYPOINT [\"tollgate\"]\n").expect("another entry point");
    starts(&of_dockerfile(run, "CMD"));
}

#[test]
fn deploying_a_unit() {
    let blocks = section("Deploy", &["sh", "ini"]);
    let value = |key: &str| {
        let line = blocks[1].lines().find_map(|line| line.strip_prefix(&format!("{key}=")));
        line.unwrap_or_else(|| panic!("no {key}")).to_owned()
    };
    let command = value("ExecStart");
    let mut words = command.split(' ');
    assert_eq!(words.next(), Some("/usr/local/bin/tollgate"));
    starts(&words.map(String::from).collect::<Vec<_>>());
    assert_eq!(value("Environment"), format!("TOLLGATE_STATE_DIR=/var/lib/{}", value("StateDirectory")));
    assert!(
        value("TimeoutStopSec").parse::<u64>().unwrap() > 30,
        "the drain takes 25 s, and children some more"
    );
}

#[tokio::test]
async fn a_first_start_in_an_empty_folder_says_what_to_copy_and_all_of_it_works() {
    let gateway = Gateway::bare().start();
    let desk = Desk::beside(&gateway);
    let deadline = Instant::now() + SOON;
    while !gateway.log().contains("Metrics:") {
        assert!(Instant::now() < deadline, "it says nothing to copy:\n{}", gateway.log());
        tokio::task::yield_now().await;
    }
    let said = gateway.log();
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    let urls: Vec<&&str> = lines.iter().filter(|line| line.starts_with("http://")).collect();
    assert_eq!(urls.len(), 4, "{said}");
    for url in urls {
        lists_tools(url).await;
    }
    let line = |start: &str| *lines.iter().find(|line| line.starts_with(start)).expect(start);
    let (_, url) = added(&desk, line("claude mcp add "));
    lists_tools(&url).await;
    desk.prints(line("curl "), &section("", &["sh", "sh", "json"])[2]);
    for word in line("Status:").split_whitespace().filter(|word| word.starts_with("http")) {
        let answer = Caller::new(word).send(reqwest::Method::GET, Vec::new()).await;
        assert_eq!(answer.status, 200, "{word}");
    }
}
