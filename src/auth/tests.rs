//! Tests of authentication: which credential is taken, which is refused, and what it allows.
//! Not here: the code under test (`auth` and its files); forged tokens, key sets and changes (`tests/`).

mod changes;
mod forgeries;
mod issuer;
mod key_sets;
mod minting;

use futures_util::FutureExt as _;
use serde_json::json;

use super::*;
use crate::conf::{
    Access, ApiKey, Auth, Certificate, CertificateMatch, Grant, IssuerKeys, KeyMaterial, Kinds, Secret,
};
use issuer::{AUDIENCE, ISSUER, Signer, claims, issuer};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const TOKENS_MAX: usize = 100;

fn key(name: &str, key: &str, servers: &[&str]) -> ApiKey {
    let servers = servers.iter().map(|server| (*server).to_owned()).collect();
    let grant = Grant { servers, ..Grant::default() };
    let key = KeyMaterial::Plain(Secret::new(key));
    ApiKey { name: name.into(), owner: None, key, expires: None, grant }
}

/// Two keys, and an issuer with a shared secret.
fn access() -> Access {
    let mut issuer = issuer(&Signer::Secret, IssuerKeys::Secret(Secret::new(SECRET)));
    issuer.grant.servers = vec!["weather".into(), "clock".into()];
    let keys = vec![key("ops", "key-of-ops", &["*"]), key("none", "key-of-none", &[])];
    Access { auth: Auth { keys, issuers: vec![issuer], ..Auth::default() }, ..Access::default() }
}

fn authenticator(access: &Access) -> Authenticator {
    Authenticator::new(access, TOKENS_MAX).unwrap()
}

/// Asks for somebody whom no key has to be fetched for.
fn ask(authenticator: &Authenticator, presented: &Presented<'_>) -> Result<Arc<Caller>, AuthError> {
    authenticator.authenticate(presented).now_or_never().expect("it waits for keys")
}

fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    headers
}

fn by_token(authenticator: &Authenticator, token: &str) -> Result<Arc<Caller>, AuthError> {
    ask(authenticator, &Presented::headers(&bearer(token)))
}

#[track_caller]
fn check(headers: &[(&'static str, &str)], want: Result<&str, AuthError>) {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, value.parse().unwrap());
    }
    let got = ask(&authenticator(&access()), &Presented::headers(&map));
    assert_eq!(got.as_deref().map(|caller| &*caller.subject).map_err(|e| *e), want);
}

#[test]
fn keys_by_either_header() {
    check(&[("authorization", "Bearer key-of-ops")], Ok("ops"));
    check(&[("authorization", "bearer  key-of-ops")], Ok("ops"));
    check(&[("x-api-key", "key-of-ops")], Ok("ops"));
    check(&[], Err(AuthError::Missing));
    check(&[("x-api-key", "key-of-op")], Err(AuthError::Invalid));
    check(&[("authorization", "Basic key-of-ops")], Err(AuthError::Invalid));
    check(&[("authorization", "key-of-ops")], Err(AuthError::Invalid));
}

#[test]
fn a_bad_credential_is_final() {
    check(&[("authorization", "Bearer wrong"), ("x-api-key", "key-of-ops")], Err(AuthError::Invalid));
    check(&[("authorization", "Bearer key-of-ops"), ("x-api-key", "wrong")], Ok("ops"));
    check(&[("x-api-key", "key-of-ops"), ("x-api-key", "key-of-ops")], Err(AuthError::Invalid));
}

#[test]
fn keys_expire_and_may_be_digests() {
    let mut access = access();
    let soon = SystemTime::now() + Duration::from_secs(60);
    access.auth.keys = vec![
        ApiKey { expires: Some(SystemTime::UNIX_EPOCH), ..key("old", "key-of-old", &["*"]) },
        ApiKey { expires: Some(soon), ..key("young", "key-of-young", &["*"]) },
        ApiKey { key: KeyMaterial::Sha256(table::digest_of("key-of-hashed")), ..key("hashed", "", &["*"]) },
    ];
    let authenticator = authenticator(&access);
    let by = |key: &str| by_token(&authenticator, key);
    assert_eq!(by("key-of-old").unwrap_err(), AuthError::Expired);
    assert_eq!(by("key-of-hashed").unwrap().subject, "hashed".into());
    let young = by("key-of-young").unwrap();
    assert!(authenticator.stands(&young) && young.stands(soon - Duration::from_secs(1)));
    assert!(!young.stands(soon));
}

#[test]
fn servers_are_those_of_the_credential() {
    let authenticator = authenticator(&access());
    let ops = by_token(&authenticator, "key-of-ops").unwrap();
    assert!(ops.may_use("weather") && ops.may_use_all());
    assert!(!by_token(&authenticator, "key-of-none").unwrap().may_use("weather"));
    let signed = |servers: serde_json::Value| {
        Signer::Secret.token(&json!({"alg": "HS256"}), &claims(|claims| claims["servers"] = servers))
    };
    let by_default = by_token(&authenticator, &signed(json!(null))).unwrap();
    assert!(by_default.may_use("weather") && !by_default.may_use("files"));
    let by_claim = by_token(&authenticator, &signed(json!(["clock", "files"]))).unwrap();
    assert!(by_claim.may_use("clock") && !by_claim.may_use("files") && !by_claim.may_use("weather"));
    assert_ne!(ops.id, by_default.id);
    assert_eq!(by_default.id, by_claim.id);
}

#[test]
fn without_credentials_everybody_is_anonymous() {
    let open = authenticator(&Access::default());
    let caller = ask(&open, &Presented::headers(&bearer("whatever"))).unwrap();
    assert_eq!(caller.kind, CallerKind::Anonymous);
    assert!(caller.may_use("anything"));
}

#[test]
fn anonymous_callers_have_what_they_are_granted() {
    let mut access = access();
    access.auth.anonymous = Some(Grant { servers: vec!["weather".into()], ..Grant::default() });
    let authenticator = authenticator(&access);
    let none = HeaderMap::new();
    let caller = ask(&authenticator, &Presented::headers(&none)).unwrap();
    assert!(caller.may_use("weather") && !caller.may_use("files") && caller.kind == CallerKind::Anonymous);
    assert_eq!(by_token(&authenticator, "wrong").unwrap_err(), AuthError::Invalid);
    let closed = Presented { kinds: Kinds { anonymous: false, ..Kinds::ALL }, ..Presented::headers(&none) };
    assert_eq!(ask(&authenticator, &closed).unwrap_err(), AuthError::Missing);
}

#[test]
fn nothing_in_a_query_is_a_credential() {
    let mut access = access();
    access.auth.anonymous = Some(Grant::default());
    let authenticator = authenticator(&access);
    let (none, some) = (HeaderMap::new(), bearer("key-of-ops"));
    let with = |headers, query| ask(&authenticator, &Presented { query, ..Presented::headers(headers) });
    for query in ["access_token=key-of-ops", "x=1&API_KEY=key-of-ops", "api-key"] {
        assert_eq!(with(&none, Some(query)).unwrap_err(), AuthError::Invalid, "{query}");
        assert_eq!(with(&some, Some(query)).unwrap().subject, "ops".into());
    }
    assert_eq!(with(&none, Some("x=access_token")).unwrap().kind, CallerKind::Anonymous);
}

#[test]
fn certificates_by_their_names() {
    let mut access = access();
    let certificate = |name: &str, matches| {
        let grant = Grant { servers: vec![name.into()], ..Grant::default() };
        Certificate { name: name.into(), matches, grant }
    };
    access.auth.certificates = vec![
        certificate("by-subject", CertificateMatch::Subject("CN=ci,O=Example".into())),
        certificate("by-name", CertificateMatch::CommonName("ops".into())),
        certificate("by-san", CertificateMatch::San("spiffe://example/agent".into())),
    ];
    let authenticator = authenticator(&access);
    let none = HeaderMap::new();
    let shown = |subject, common_name, sans: &[String]| {
        let certificate = Some(CertificateNames { subject, common_name, sans, expires: None });
        let caller = ask(&authenticator, &Presented { certificate, ..Presented::headers(&none) });
        caller.map(|caller| caller.subject.to_string())
    };
    assert_eq!(shown("CN=ci,O=Example", Some("ci"), &[]).unwrap(), "by-subject");
    assert_eq!(shown("CN=ops,O=Other", Some("ops"), &[]).unwrap(), "by-name");
    assert_eq!(shown("CN=x", Some("x"), &["a".into(), "spiffe://example/agent".into()]).unwrap(), "by-san");
    assert_eq!(shown("CN=ci,O=Example,C=DE", Some("ci"), &[]), Err(AuthError::Invalid));
    // A header goes before it, and kinds are the listener's.
    let ops = bearer("key-of-ops");
    let certificate =
        Some(CertificateNames { subject: "CN=ops", common_name: Some("ops"), sans: &[], expires: None });
    let both = Presented { certificate, ..Presented::headers(&ops) };
    assert_eq!(ask(&authenticator, &both).unwrap().kind, CallerKind::ApiKey);
    let kinds = Kinds { certificate: false, ..Kinds::ALL };
    let closed = Presented { certificate, kinds, ..Presented::headers(&none) };
    assert_eq!(ask(&authenticator, &closed).unwrap_err(), AuthError::Kind);
}

#[test]
fn a_certificate_ends_while_its_connection_goes_on() {
    let mut access = access();
    let matches = CertificateMatch::CommonName("ci".into());
    access.auth.certificates = vec![Certificate { name: "ci".into(), matches, grant: Grant::default() }];
    let entrance = Entrance::new(access.clone(), TOKENS_MAX).unwrap();
    let none = HeaderMap::new();
    let shown = |expires| {
        let certificate =
            Some(CertificateNames { subject: "CN=ci", common_name: Some("ci"), sans: &[], expires });
        ask(&entrance.in_force().authenticator, &Presented { certificate, ..Presented::headers(&none) })
    };
    let now = SystemTime::now();
    assert_eq!(shown(Some(now)).unwrap_err(), AuthError::Expired);
    let caller = shown(Some(now + Duration::from_secs(60))).unwrap();
    assert!(caller.stands(now) && !caller.stands(now + Duration::from_secs(60)));
    access.auth.certificates.clear();
    entrance.replace(access).unwrap();
    assert!(!caller.stands(now), "it is gone from the configuration");
}

#[test]
fn listeners_choose_kinds() {
    let authenticator = authenticator(&access());
    let only = Kinds { api_key: false, jwt: true, anonymous: false, certificate: false };
    let token = Signer::Secret.token(&json!({"alg": "HS256"}), &claims(|_| {}));
    for (credential, want) in
        [("key-of-ops", Err(AuthError::Kind)), ("wrong", Err(AuthError::Invalid)), (&token, Ok("ann"))]
    {
        let headers = bearer(credential);
        let got = ask(&authenticator, &Presented { kinds: only, ..Presented::headers(&headers) });
        assert_eq!(got.as_deref().map(|caller| &*caller.subject).map_err(|e| *e), want);
    }
}

#[test]
fn audiences_are_the_doors_unless_they_are_listed() {
    let mut access = access();
    access.auth.issuers[0].audiences = vec![];
    let authenticator = authenticator(&access);
    let public_url = http::Uri::from_static("https://gw.example.com");
    let token = |audience: &str| {
        Signer::Secret.token(&json!({"alg": "HS256"}), &claims(|claims| claims["aud"] = json!(audience)))
    };
    let at = |path: Option<&str>, token: &str| {
        let headers = bearer(token);
        let resource = path.map(|path| Resource { public_url: &public_url, path });
        ask(&authenticator, &Presented { resource, ..Presented::headers(&headers) }).is_ok()
    };
    let door = token("https://gw.example.com/servers/docs/mcp");
    // Twice, since the second time the token is remembered.
    for _ in 0..2 {
        assert!(at(Some("/servers/docs/mcp"), &door));
        assert!(!at(Some("/servers/files/mcp"), &door) && !at(Some(""), &door) && !at(None, &door));
    }
    let whole = token("https://gw.example.com/");
    assert!(at(Some("/servers/docs/mcp"), &whole) && at(Some(""), &whole) && !at(None, &whole));
    assert!(!at(Some("/servers/docs/mcp"), &token(AUDIENCE)));
    assert!(!at(Some("/servers/docs/mcp"), &token(ISSUER)));
}
