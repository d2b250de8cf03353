//! Micro-benchmarks of what every call passes: parse, check, authenticate, open a session, take a token, write a line.
//! Not here: whole calls (`gateway`).
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot be prepared should stop loudly")]

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::{Criterion, Throughput};
use futures_util::FutureExt as _;
use http::HeaderMap;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents};
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use tollgate::auth::{Authenticator, Caller, CallerKind, Demand, ItemKind, Presented, Rulebook, Verdict};
use tollgate::catalog;
use tollgate::conf::{
    Access, Algorithm, ApiKey, Auth, Claims, Grant, Issuer, IssuerKeys, KeyMaterial, Rate, Secret,
};
use tollgate::limit::{Address, Buckets, Draw, Flood, Layer, Places};
use tollgate::mcp::{self, ParseLimits};
use tollgate::session::{Pin, Sealer};
use tollgate::telemetry::Line;

const LIMITS: ParseLimits = ParseLimits { depth_max: 64 };

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    messages(&mut criterion);
    sessions(&mut criterion);
    authentication(&mut criterion);
    limits(&mut criterion);
    lines(&mut criterion);
    policy(&mut criterion);
    criterion.final_summary();
}

/// A `tools/call` of the modern era with `fill` bytes of argument.
fn call(fill: usize) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1000000001,"method":"tools/call","params":{{"name":"echo","arguments":{{"text":"{}"}},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#,
        "a".repeat(fill)
    )
}

fn messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("message");
    for (name, body) in [("300 bytes", call(60)), ("16 KiB", call(16 << 10))] {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("parse, {name}"), |bencher| {
            bencher.iter(|| mcp::parse(black_box(body.as_bytes()), LIMITS).unwrap());
        });
    }
    let body = call(60);
    let message = mcp::parse(body.as_bytes(), LIMITS).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("mcp-protocol-version", "2026-07-28".parse().unwrap());
    headers.insert("mcp-method", "tools/call".parse().unwrap());
    headers.insert("mcp-name", "echo".parse().unwrap());
    group.bench_function("headers against body", |bencher| {
        bencher.iter(|| mcp::check_mirrored(black_box(&headers), black_box(&message)).unwrap());
    });
    group.finish();
}

fn sessions(criterion: &mut Criterion) {
    let sealer = Sealer::new(&[7; 32], Duration::from_secs(3600));
    let pin = Pin {
        endpoint: 1,
        upstream_session: "null-session-0123456789abcdef".into(),
        hello: tollgate::session::Hello::ours(),
    };
    let id = sealer.seal(1, "server", &pin).unwrap();
    criterion.bench_function("session, seal", |bencher| {
        bencher.iter(|| sealer.seal(black_box(1), "server", &pin).unwrap());
    });
    criterion.bench_function("session, open", |bencher| {
        bencher.iter(|| sealer.open(black_box(&id), 1, "server").unwrap());
    });
}

/// A key among ten thousand, a token that was verified before, and one that is new.
fn authentication(criterion: &mut Criterion) {
    let key = |number: usize| ApiKey {
        name: format!("caller-{number}"),
        owner: None,
        key: KeyMaterial::Plain(Secret::new(format!("tollgate_key-of-caller-number-{number:06}"))),
        expires: None,
        grant: Grant { servers: vec!["docs".into()], ..Grant::default() },
    };
    let signer = Signer::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), signer.key_set()).unwrap();
    let issuer = Issuer {
        issuer: Some("https://login.example.com".into()),
        audiences: vec!["https://gw.example.com".into()],
        audience_required: true,
        algorithms: vec![Algorithm::Rs256],
        keys: IssuerKeys::JwksFile(file.path().into()),
        claims: Claims::default(),
        grant: Grant { servers: vec!["*".into()], ..Grant::default() },
        leeway: Duration::from_secs(30),
    };
    let keys = (0..10_000).map(key).collect();
    let auth = Auth { keys, issuers: vec![issuer], ..Auth::default() };
    let access = Access { auth, ..Access::default() };
    let ask = |authenticator: &Authenticator, headers: &HeaderMap| {
        let presented = Presented::headers(headers);
        authenticator.authenticate(&presented).now_or_never().unwrap().unwrap()
    };
    let bearer = |credential: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {credential}").parse().unwrap());
        headers
    };
    let remembering = Authenticator::new(&access, 10_000).unwrap();
    let forgetting = Authenticator::new(&access, 0).unwrap();
    let mut group = criterion.benchmark_group("admission/authentication");
    let by_key = bearer("tollgate_key-of-caller-number-005000");
    group.bench_function("API key, 10,000 keys", |bencher| {
        bencher.iter(|| ask(&remembering, black_box(&by_key)));
    });
    let by_token = bearer(&signer.token());
    group.bench_function("RS256, verified before", |bencher| {
        bencher.iter(|| ask(&remembering, black_box(&by_token)));
    });
    group.bench_function("RS256, new", |bencher| {
        bencher.iter(|| ask(&forgetting, black_box(&by_token)));
    });
    group.finish();
}

/// An issuer's key; the one of the tests.
struct Signer(RsaKeyPair);

impl Signer {
    fn new() -> Self {
        let pem = include_bytes!("../src/auth/tests/keys/rsa.pem");
        let (_, der) = <(SectionKind, Vec<u8>)>::from_pem_slice(pem).unwrap();
        Self(RsaKeyPair::from_pkcs8(&der).unwrap())
    }

    fn key_set(&self) -> String {
        let public = RsaPublicKeyComponents::<Vec<u8>>::from(self.0.public());
        let [n, e] = [&public.n, &public.e].map(|number| URL_SAFE_NO_PAD.encode(number));
        format!(r#"{{"keys":[{{"kty":"RSA","kid":"a","n":"{n}","e":"{e}"}}]}}"#)
    }

    /// A token such as identity providers make.
    fn token(&self) -> String {
        let head = r#"{"alg":"RS256","typ":"at+jwt","kid":"a"}"#;
        let claims = r#"{"iss":"https://login.example.com","sub":"7c0f3a52-6f0e-4a4e-9d4b-8c1d4f6a2b10","aud":"https://gw.example.com","exp":4102444800,"iat":1760000000,"jti":"b9f1c1de","client_id":"desktop","scope":"tools:read tools:write","groups":["staff","research"]}"#;
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
        let mut signature = vec![0; self.0.public().modulus_len()];
        self.0.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn limits(criterion: &mut Criterion) {
    let buckets = Buckets::new(1_000_000);
    let rate = Rate { requests: 4_000_000_000, per: Duration::from_secs(1), burst: 4_000_000_000 };
    let draw = |layer, whose: u32| Draw { key: buckets.key(layer, &whose), rate, cost: 1, layer };
    let mut group = criterion.benchmark_group("admission/limits");
    group.bench_function("one caller", |bencher| {
        bencher.iter(|| buckets.take(&[draw(Layer::Caller, black_box(1))]));
    });
    let mut caller = 0;
    group.bench_function("100,000 callers", |bencher| {
        bencher.iter(|| {
            caller = (caller + 1) % 100_000;
            buckets.take(&[draw(Layer::Caller, black_box(caller))])
        });
    });
    // What a `tools/call` does: two looks on its way in, then all four layers at once.
    group.bench_function("4 layers, 10,000 callers", |bencher| {
        bencher.iter(|| {
            caller = (caller + 1) % 10_000;
            let address = draw(Layer::Address, black_box(caller));
            let known = draw(Layer::Caller, black_box(caller));
            let _ = buckets.look(&[address]);
            let _ = buckets.look(&[address, known]);
            buckets.take(&[address, known, draw(Layer::Server, 1), draw(Layer::Tool, 1)])
        });
    });
    let places = Places::new();
    group.bench_function("3 places, 10,000 callers", |bencher| {
        bencher.iter(|| {
            caller = (caller + 1) % 10_000;
            let enter = |layer, whose: u32| places.enter(layer, &whose, 100);
            (enter(Layer::Caller, caller), enter(Layer::Server, 1), enter(Layer::Tool, 1))
        });
    });
    let flood = Flood::new();
    group.bench_function("flood guard, 10,000 addresses", |bencher| {
        bencher.iter(|| {
            caller = (caller + 1) % 10_000;
            flood.is_flooded(Address::of(std::net::Ipv4Addr::from_bits(caller).into()), 500)
        });
    });
    group.finish();
}

fn lines(criterion: &mut Criterion) {
    criterion.bench_function("access line", |bencher| {
        bencher.iter(|| {
            Line::new()
                .text("time", "2026-11-21T05:00:00.000Z")
                .text("type", "access")
                .text("request_id", black_box("7e5d431100019ff1"))
                .text("door", "server")
                .text("caller", "bench")
                .text("server", "null")
                .text("tool", "echo")
                .number("status", 200)
                .number("bytes_out", 650)
        });
    });
}

/// A decision for one of 10,000 callers by 50 rules, the last of which is the one that gives.
fn policy(criterion: &mut Criterion) {
    let mut rules =
        String::from("servers: [{id: docs, runtime: {type: remote-http, url: 'http://a/'}}]\nrules:\n");
    for at in 0..50 {
        let rule = match at % 5 {
            0 => format!(
                "deny: [call], who: {{groups: ['blocked-{at}-*']}}, tools: ['drop_{at}', 'delete_*_{at}']"
            ),
            1 => format!(
                "allow: [list, call], who: {{scopes: ['docs:read', 'team:{at}']}}, servers: ['do*'], tools: ['get_*']"
            ),
            2 => format!(
                "allow: [list, read], who: {{groups: ['team-{at}']}}, resources: ['file:///srv/{at}/*']"
            ),
            3 => format!("allow: '*', who: {{subjects: ['svc-{at}-*'], kinds: [api_key]}}"),
            _ => format!(
                "allow: [list, call], who: {{groups: ['team-{at}']}}, tools: ['search', 'get_{at}_*']"
            ),
        };
        rules.push_str(&format!("  - {{{rule}}}\n"));
    }
    let catalog = catalog::parse(&rules, "catalog.yaml", Path::new("/"), 1, &|_| None).unwrap();
    let policy = Rulebook::new(&catalog.rules).on(catalog.servers.first().unwrap());
    let callers: Vec<Caller> = (0..10_000)
        .map(|at| {
            let groups = ["staff", "eu", "team-49", "x"].map(str::to_owned).to_vec();
            let scopes = ["docs:read", "docs:write", "openid"].map(str::to_owned).to_vec();
            let grant = Grant { servers: vec!["*".into()], groups, scopes, ..Grant::default() };
            Caller::new(CallerKind::ApiKey, None, &format!("caller-{at}"), &grant)
        })
        .collect();
    let mut group = criterion.benchmark_group("admission/policy");
    for (name, demand) in [
        ("50 rules, allowed", Demand::item(ItemKind::Tool, "search")),
        ("50 rules, denied", Demand::item(ItemKind::Tool, "unknown")),
        ("50 rules, session", Demand::Session),
        ("50 rules, resource", Demand::item(ItemKind::Resource, "file:///srv/x/../y")),
    ] {
        let mut at = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                at = (at + 1) % callers.len();
                matches!(
                    policy.decide(black_box(callers.get(at).unwrap()), black_box(&demand)),
                    Verdict::Allowed { .. }
                )
            });
        });
    }
    group.finish();
}
