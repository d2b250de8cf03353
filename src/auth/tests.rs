//! Tests of authentication: which credential is taken, which is refused, and what it allows.
//! Not here: the code under test (`auth` and its files).

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::*;
use crate::conf::{Algorithm, ApiKey, Auth, Claims, Grant, Issuer, IssuerKeys, KeyMaterial, Secret};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn authenticator() -> Authenticator {
    let key = |name: &str, key: &str, servers: &[&str]| ApiKey {
        name: name.into(),
        owner: None,
        key: KeyMaterial::Plain(Secret::new(key)),
        expires: None,
        grant: Grant { servers: servers.iter().map(|s| (*s).to_owned()).collect(), ..Grant::default() },
    };
    let issuer = Issuer {
        issuer: Some("https://issuer".into()),
        audiences: vec!["tollgate".into()],
        audience_required: true,
        algorithms: vec![Algorithm::Hs256],
        keys: IssuerKeys::Secret(Secret::new(SECRET)),
        claims: Claims::default(),
        grant: Grant { servers: vec!["weather".into()], ..Grant::default() },
        leeway: std::time::Duration::from_secs(30),
    };
    Authenticator::new(&Auth {
        keys: vec![key("ops", "key-of-ops", &["*"]), key("none", "key-of-none", &[])],
        issuers: vec![issuer],
        ..Auth::default()
    })
}

fn token(claims: &serde_json::Value, algorithm: jsonwebtoken::Algorithm, secret: &str) -> String {
    // The header is written by hand where the library would refuse to sign.
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn claims(change: impl FnOnce(&mut serde_json::Value)) -> serde_json::Value {
    let exp = jsonwebtoken::get_current_timestamp() + 600;
    let mut claims = json!({"sub": "ann", "iss": "https://issuer", "aud": "tollgate", "exp": exp});
    change(&mut claims);
    claims
}

#[track_caller]
fn check(headers: &[(&'static str, &str)], want: Result<&str, AuthError>) {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, value.parse().unwrap());
    }
    let got = authenticator().authenticate(&map);
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
    check(&[("x-api-key", "key-of-ops"), ("x-api-key", "key-of-ops")], Err(AuthError::Invalid));
}

#[test]
fn tokens_are_checked_in_every_claim() {
    use jsonwebtoken::Algorithm::HS256;
    authenticator();
    let good = token(&claims(|_| {}), HS256, SECRET);
    check(&[("authorization", &format!("Bearer {good}"))], Ok("ann"));
    check(&[("x-api-key", &good)], Err(AuthError::Invalid));
    type Change = fn(&mut serde_json::Value);
    let bad: [(&str, Change); 8] = [
        ("expired", |c| c["exp"] = json!(1000)),
        ("not yet", |c| c["nbf"] = json!(jsonwebtoken::get_current_timestamp() + 600)),
        ("no exp", |c| drop(c.as_object_mut().unwrap().remove("exp"))),
        ("no sub", |c| drop(c.as_object_mut().unwrap().remove("sub"))),
        ("other aud", |c| c["aud"] = json!("else")),
        ("no aud", |c| drop(c.as_object_mut().unwrap().remove("aud"))),
        ("other iss", |c| c["iss"] = json!("https://evil")),
        ("exp as text", |c| c["exp"] = json!("9999999999")),
    ];
    for (why, change) in bad {
        let token = token(&claims(change), HS256, SECRET);
        let mut map = HeaderMap::new();
        map.insert("authorization", format!("Bearer {token}").parse().unwrap());
        assert!(authenticator().authenticate(&map).is_err(), "{why}");
    }
    let forged = token(&claims(|_| {}), HS256, "another secret of another issuer");
    check(&[("authorization", &format!("Bearer {forged}"))], Err(AuthError::Invalid));
    let parts: Vec<&str> = good.split('.').collect();
    // {"alg":"none"} with the good payload and no signature.
    let none = format!("eyJhbGciOiJub25lIn0.{}.", parts[1]);
    check(&[("authorization", &format!("Bearer {none}"))], Err(AuthError::Invalid));
}

#[test]
fn scopes_name_servers_and_an_empty_list_allows_none() {
    use jsonwebtoken::Algorithm::HS256;
    let authenticator = authenticator();
    let caller = |value: String| {
        let mut map = HeaderMap::new();
        map.insert("authorization", value.parse().unwrap());
        authenticator.authenticate(&map).unwrap()
    };
    let ops = caller("Bearer key-of-ops".into());
    assert!(ops.may_use("weather") && ops.may_use_all());
    assert!(!caller("Bearer key-of-none".into()).may_use("weather"));
    let by_default = caller(format!("Bearer {}", token(&claims(|_| {}), HS256, SECRET)));
    assert!(by_default.may_use("weather") && !by_default.may_use("files"));
    let by_claim =
        caller(format!("Bearer {}", token(&claims(|c| c["servers"] = json!(["files"])), HS256, SECRET)));
    assert!(by_claim.may_use("files") && !by_claim.may_use("weather"));
    assert_ne!(ops.id, by_default.id);
    assert_eq!(by_default.id, by_claim.id);
}

#[test]
fn without_credentials_everybody_is_anonymous() {
    let caller = Authenticator::new(&Auth::default()).authenticate(&HeaderMap::new()).unwrap();
    assert_eq!(caller.kind, CallerKind::Anonymous);
    assert!(caller.may_use("anything"));
}
