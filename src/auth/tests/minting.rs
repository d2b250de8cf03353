//! Tokens that an operator makes get their bearer in, with what was asked for and no more.
//! Not here: the command line (`tests/it/tokens.rs`).

use super::*;
use crate::auth::{MintError, Minted, mint};
use crate::conf::Algorithm;

fn minted() -> Minted {
    Minted { subject: "ann".into(), ttl: Duration::from_secs(60), ..Minted::default() }
}

#[test]
fn a_minted_token_is_what_the_issuer_would_sign() {
    let mut access = access();
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
    for (algorithm, names) in [
        (Algorithm::Hs256, conf::Claims::default()),
        (
            Algorithm::Hs512,
            conf::Claims {
                subject: "client.id".into(),
                scopes: vec!["scp".into()],
                groups: "https://example.com/groups".into(),
                ..conf::Claims::default()
            },
        ),
    ] {
        let issuer = &mut access.auth.issuers[0];
        issuer.algorithms = vec![algorithm];
        issuer.claims = names;
        let asked = Minted {
            scopes: words(&["b", "a"]),
            servers: words(&["clock", "files"]),
            groups: words(&["staff"]),
            ..minted()
        };
        let token = mint(issuer, &asked, SystemTime::now()).unwrap();
        let caller = by_token(&authenticator(&access), &token).unwrap();
        assert_eq!(&*caller.subject, "ann");
        assert_eq!(
            (&caller.scopes[..], &caller.groups[..]),
            (&["a".into(), "b".into()][..], &["staff".into()][..])
        );
        assert!(caller.may_use("clock") && !caller.may_use("weather") && !caller.may_use("files"));
        let left = caller.expires.unwrap().duration_since(SystemTime::now()).unwrap();
        assert!(left <= Duration::from_secs(90) && left > Duration::from_secs(60), "{left:?}");
    }
}

#[test]
fn each_is_one_of_its_own_and_ends() {
    let access = access();
    let issuer = &access.auth.issuers[0];
    let now = SystemTime::now();
    assert_ne!(mint(issuer, &minted(), now).unwrap(), mint(issuer, &minted(), now).unwrap());
    let authenticator = authenticator(&access);
    let old = mint(issuer, &minted(), now - Duration::from_secs(3600)).unwrap();
    assert_eq!(by_token(&authenticator, &old).unwrap_err(), AuthError::Expired);
    let early = mint(issuer, &minted(), now + Duration::from_secs(3600)).unwrap();
    assert_eq!(by_token(&authenticator, &early).unwrap_err(), AuthError::Invalid);
    let elsewhere = Minted { audience: Some("else".into()), ..minted() };
    let elsewhere = mint(issuer, &elsewhere, now).unwrap();
    assert_eq!(by_token(&authenticator, &elsewhere).unwrap_err(), AuthError::Invalid);
}

#[test]
fn what_cannot_be_minted() {
    let mut issuer = access().auth.issuers.remove(0);
    let now = SystemTime::now();
    for ttl in [Duration::ZERO, Duration::from_secs(367 * 24 * 3600)] {
        assert!(matches!(mint(&issuer, &Minted { ttl, ..minted() }, now), Err(MintError::Ttl)));
    }
    issuer.audiences.clear();
    assert!(matches!(mint(&issuer, &minted(), now), Err(MintError::NoAudience)));
    issuer.keys = IssuerKeys::Pem("x.pem".into());
    assert!(matches!(mint(&issuer, &minted(), now), Err(MintError::NoSecret)));
}
