//! A configuration that changes under callers who are already in.
//! Not here: keys that change at their issuer (`key_sets`).

use super::*;
use crate::conf::Limit;

/// Who came in by each way.
fn everybody(entrance: &Entrance) -> Vec<Arc<Caller>> {
    let in_force = entrance.in_force();
    let none = HeaderMap::new();
    let certificate =
        Some(CertificateNames { subject: "CN=ci", common_name: Some("ci"), sans: &[], expires: None });
    let token = Signer::Secret.token(&json!({"alg": "HS256"}), &claims(|_| {}));
    vec![
        by_token(&in_force.authenticator, "key-of-ops").unwrap(),
        by_token(&in_force.authenticator, "key-of-none").unwrap(),
        by_token(&in_force.authenticator, &token).unwrap(),
        ask(&in_force.authenticator, &Presented { certificate, ..Presented::headers(&none) }).unwrap(),
        ask(&in_force.authenticator, &Presented::headers(&none)).unwrap(),
    ]
}

fn configured() -> Access {
    let mut access = access();
    access.auth.anonymous = Some(Grant::default());
    access.auth.certificates = vec![Certificate {
        name: "ci".into(),
        matches: CertificateMatch::CommonName("ci".into()),
        grant: Grant::default(),
    }];
    access
}

/// After `change`, who of [`everybody`] still stands.
#[track_caller]
fn check(change: impl FnOnce(&mut Access), want: [bool; 5]) {
    let entrance = Entrance::new(configured(), TOKENS_MAX).unwrap();
    let callers = everybody(&entrance);
    let mut access = configured();
    change(&mut access);
    entrance.replace(access).unwrap();
    let stand: Vec<bool> =
        callers.iter().map(|caller| entrance.in_force().authenticator.stands(caller)).collect();
    assert_eq!(stand, want, "keys ops and none, token, certificate, anonymous");
}

#[test]
fn what_stays_stands() {
    check(|_| {}, [true; 5]);
    // A limit acts on the next call.
    let limit = Some(Limit { rate: None, in_flight: Some(1) });
    check(
        |access| {
            access.limit = limit;
            access.auth.keys[0].grant.limit = limit;
            access.auth.anonymous.as_mut().unwrap().limit = limit;
            access.auth.issuers[0].grant.limit = limit;
            access.auth.issuers[0].claims.limit_class = Some("plan".into());
        },
        [true; 5],
    );
}

#[test]
fn what_is_gone_or_other_has_ended() {
    check(|access| drop(access.auth.keys.remove(0)), [false, true, true, true, true]);
    check(|access| access.auth.keys[0].name = "other".into(), [false, true, true, true, true]);
    check(
        |access| access.auth.keys[0].key = KeyMaterial::Plain(Secret::new("rotated")),
        [false, true, true, true, true],
    );
    check(|access| access.auth.keys[1].grant.servers = vec!["x".into()], [true, false, true, true, true]);
    check(|access| access.auth.keys[1].grant.scopes = vec!["x".into()], [true, false, true, true, true]);
    check(
        |access| access.auth.keys[1].expires = Some(SystemTime::UNIX_EPOCH),
        [true, false, true, true, true],
    );
    check(|access| access.auth.issuers.clear(), [true, true, false, true, true]);
    check(
        |access| access.auth.issuers[0].keys = IssuerKeys::Secret(Secret::new(SECRET.to_uppercase())),
        [true, true, false, true, true],
    );
    check(|access| access.auth.issuers[0].audiences.clear(), [true, true, false, true, true]);
    check(|access| access.auth.certificates.clear(), [true, true, true, false, true]);
    check(|access| access.auth.anonymous = None, [true, true, true, true, false]);
    check(
        |access| access.auth.anonymous.as_mut().unwrap().groups = vec!["x".into()],
        [true, true, true, true, false],
    );
}

#[test]
fn who_stood_once_and_comes_back_comes_in_anew() {
    let entrance = Entrance::new(configured(), TOKENS_MAX).unwrap();
    let caller = by_token(&entrance.in_force().authenticator, "key-of-ops").unwrap();
    let mut without = configured();
    without.auth.keys.remove(0);
    entrance.replace(without).unwrap();
    let gone = by_token(&entrance.in_force().authenticator, "key-of-ops").unwrap_err();
    assert_eq!(gone, AuthError::Invalid);
    entrance.replace(configured()).unwrap();
    let authenticator = &entrance.in_force().authenticator;
    assert!(authenticator.stands(&by_token(authenticator, "key-of-ops").unwrap()));
    assert!(!authenticator.stands(&caller));
}

#[test]
fn a_configuration_whose_keys_cannot_be_read_changes_nothing() {
    let entrance = Entrance::new(configured(), TOKENS_MAX).unwrap();
    let callers = everybody(&entrance);
    let mut access = configured();
    access.auth.keys.clear();
    access.auth.issuers[0].keys = IssuerKeys::Pem("/nowhere/to/be/found.pem".into());
    let error = entrance.replace(access).unwrap_err().to_string();
    assert!(error.contains("https://issuer") && error.contains("/nowhere/to/be/found.pem"), "{error}");
    let authenticator = &entrance.in_force().authenticator;
    assert!(callers.iter().all(|caller| authenticator.stands(caller)));
    by_token(authenticator, "key-of-ops").unwrap();
}
