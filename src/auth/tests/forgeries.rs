//! Tokens that nobody must get in with, each beside the same token as it should be, which gets in.
//! Not here: keys that come and go (`key_sets`).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::issuer::{hmac_by, jwks};
use super::*;
use crate::conf::Algorithm;

/// An issuer with a public key in a set, and its signer.
struct Fixture {
    signer: Signer,
    /// Another key, of the same kind if there is one to be had.
    stranger: Signer,
    authenticator: Authenticator,
    set: String,
    _file: tempfile::NamedTempFile,
}

impl Fixture {
    fn new(signer: Signer, stranger: Signer) -> Self {
        let set = jwks(&[signer.jwk("main")]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &set).unwrap();
        let issuer = issuer(&signer, IssuerKeys::JwksFile(file.path().into()));
        let auth = Auth { issuers: vec![issuer], ..Auth::default() };
        let authenticator = authenticator(&Access { auth, ..Access::default() });
        Self { signer, stranger, authenticator, set, _file: file }
    }

    fn head(&self) -> Value {
        json!({"alg": self.signer.algorithm().1, "typ": "JWT", "kid": "main"})
    }

    fn get_in(&self, token: &str) -> Result<(), AuthError> {
        by_token(&self.authenticator, token).map(drop)
    }

    /// Signed by the issuer with a changed head.
    fn by_head(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut head = self.head();
        change(&mut head);
        self.signer.token(&head, &claims(|_| {}))
    }

    /// Signed by the issuer with changed claims.
    fn by_claims(&self, change: impl FnOnce(&mut Value)) -> String {
        self.signer.token(&self.head(), &claims(change))
    }

    fn without(&self, claim: &str) -> String {
        self.by_claims(|claims| drop(claims.as_object_mut().unwrap().remove(claim)))
    }

    /// The issuer's token with another head and signature.
    fn resigned(&self, head: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
        let text = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", text(head), text(&claims(|_| {})));
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(sign(message.as_bytes())))
    }
}

fn fixtures() -> Vec<Fixture> {
    vec![
        Fixture::new(Signer::rsa(), Signer::p256()),
        Fixture::new(Signer::p256(), Signer::p256()),
        Fixture::new(Signer::ed25519(), Signer::ed25519()),
    ]
}

/// Everything in `forged` stays out, and what is like it but proper gets in.
#[track_caller]
fn check(fixture: &Fixture, forged: &[(&str, String)]) {
    for (why, token) in forged {
        assert_eq!(fixture.get_in(token), Err(AuthError::Invalid), "{why}: {token}");
        assert_eq!(fixture.get_in(token), Err(AuthError::Invalid), "{why}, again: {token}");
    }
    fixture.get_in(&fixture.by_claims(|_| {})).unwrap();
}

#[test]
fn algorithms_of_the_forgers_choice() {
    for fixture in fixtures() {
        let mut forged = Vec::new();
        for none in ["none", "None", "nOnE", "NONE", ""] {
            forged.push((none, fixture.resigned(&json!({"alg": none}), |_| Vec::new())));
            forged.push((none, fixture.resigned(&json!({"alg": none, "kid": "main"}), |_| vec![1])));
        }
        // The public key taken for a shared secret.
        let secrets = [fixture.signer.pem(), fixture.set.clone(), fixture.signer.jwk("main").to_string()];
        for secret in secrets {
            let head = json!({"alg": "HS256", "kid": "main"});
            let signed = fixture.resigned(&head, |text| hmac_by("HS256", secret.as_bytes(), text));
            forged.push(("public key as secret", signed));
        }
        let head = json!({"alg": "HS256", "kid": "../../../../dev/null"});
        forged.push(("secret of no bytes", fixture.resigned(&head, |text| hmac_by("HS256", b"", text))));
        // Algorithms that the key could do, and its issuer does not.
        for algorithm in ["RS384", "PS256", "ES384", "ES512", "rs256", "HS256", "EdDSA", "RS256", "ES256"] {
            if algorithm != fixture.signer.algorithm().1 {
                forged.push((algorithm, fixture.by_head(|head| head["alg"] = json!(algorithm))));
            }
        }
        forged.push(("no alg", fixture.by_head(|head| drop(head.as_object_mut().unwrap().remove("alg")))));
        check(&fixture, &forged);
    }
}

#[test]
fn keys_of_the_forgers_choice() {
    for fixture in fixtures() {
        let stranger = &fixture.stranger;
        let head = |extra: Value| {
            let mut head = json!({"alg": stranger.algorithm().1, "kid": "main"});
            head.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            head
        };
        let foreign = |extra: Value| stranger.token(&head(extra), &claims(|_| {}));
        let mut forged = vec![
            ("another environment's key", foreign(json!({}))),
            ("jwk", foreign(json!({"jwk": stranger.jwk("main")}))),
            ("jku", foreign(json!({"jku": "http://127.0.0.1:9/jwks"}))),
            ("x5u", foreign(json!({"x5u": "http://127.0.0.1:9/x5u"}))),
            ("x5c", foreign(json!({"x5c": ["MIIB"]}))),
        ];
        for kid in ["../../etc/passwd", "' OR 1=1 --", "other", "", "main\0"] {
            forged.push(("kid", fixture.by_head(|head| head["kid"] = json!(kid))));
            forged.push(("kid of a stranger", foreign(json!({"kid": kid}))));
        }
        for kid in [json!("k".repeat(10_000)), json!("k".repeat(257)), json!(["main"]), json!(1), json!(null)]
        {
            forged.push(("kid", fixture.by_head(|head| head["kid"] = kid)));
        }
        check(&fixture, &forged);
        // What a token points to is not looked at, and so does no harm beside a proper signature.
        fixture.get_in(&fixture.by_head(|head| head["jku"] = json!("http://127.0.0.1:9/jwks"))).unwrap();
        // A head may leave the name out.
        let nameless = fixture.by_head(|head| drop(head.as_object_mut().unwrap().remove("kid")));
        fixture.get_in(&nameless).unwrap();
    }
}

#[test]
fn forms_that_are_no_signed_token() {
    for fixture in fixtures() {
        let good = fixture.by_claims(|_| {});
        let parts: Vec<&str> = good.split('.').collect();
        let (head, payload, signature) = (parts[0], parts[1], parts[2]);
        let zeros = URL_SAFE_NO_PAD.encode(vec![0; URL_SAFE_NO_PAD.decode(signature).unwrap().len()]);
        let forged = vec![
            ("stripped", format!("{head}.{payload}.")),
            ("stripped whole", format!("{head}.{payload}")),
            ("zeros", format!("{head}.{payload}.{zeros}")),
            ("encrypted", format!("{head}.{payload}.{signature}.{signature}.{signature}")),
            ("four parts", format!("{good}.{signature}")),
            ("padded", format!("{head}.{payload}.{signature}==")),
            ("space", format!("{head} .{payload}.{signature}")),
            (
                "other payload",
                format!(
                    "{head}.{}.{signature}",
                    &fixture.by_claims(|c| c["sub"] = json!("bob")).split('.').nth(1).unwrap()
                ),
            ),
            ("dots", "..".into()),
            ("no JSON", fixture.signer.sign_text("alg", "claims")),
            ("a list", fixture.signer.sign_text(&fixture.head().to_string(), "[]")),
            ("crit", fixture.by_head(|head| head["crit"] = json!(["exp"]))),
            (
                "unknown crit",
                fixture.by_head(|head| {
                    head["crit"] = json!(["x"]);
                    head["x"] = json!(1);
                }),
            ),
            ("b64", fixture.by_head(|head| head["b64"] = json!(false))),
            (
                "b64 and crit",
                fixture.by_head(|head| {
                    head["b64"] = json!(false);
                    head["crit"] = json!(["b64"]);
                }),
            ),
            ("zip", fixture.by_head(|head| head["zip"] = json!("DEF"))),
            ("enc", fixture.by_head(|head| head["enc"] = json!("A128GCM"))),
            ("typ", fixture.by_head(|head| head["typ"] = json!("dpop+jwt"))),
            ("typ of no text", fixture.by_head(|head| head["typ"] = json!(7))),
            ("long", fixture.by_claims(|claims| claims["fill"] = json!("a".repeat(20_000)))),
            ("long head", fixture.by_head(|head| head["fill"] = json!("a".repeat(10_000)))),
        ];
        check(&fixture, &forged);
        for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt", "AT+JWT"] {
            fixture.get_in(&fixture.by_head(|head| head["typ"] = json!(typ))).unwrap();
        }
    }
}

#[test]
fn claims_that_are_not_ours() {
    for fixture in fixtures() {
        let text = |claim: &str, value: Value| fixture.by_claims(|claims| claims[claim] = value);
        let now = jsonwebtoken::get_current_timestamp();
        let mut forged = vec![
            ("wrong aud", text("aud", json!("else"))),
            ("aud list without ours", text("aud", json!(["else", "tollgate2"]))),
            ("empty aud", text("aud", json!([]))),
            ("aud of no text", text("aud", json!([7]))),
            ("aud of objects", text("aud", json!({"tollgate": true}))),
            ("wrong iss", text("iss", json!("https://evil"))),
            ("iss with a slash", text("iss", json!("https://issuer/"))),
            ("iss list", text("iss", json!([ISSUER]))),
            ("exp as text", text("exp", json!((now + 600).to_string()))),
            ("exp without end", text("exp", json!(1e308))),
            ("exp beyond calendars", text("exp", json!(253_402_300_800_u64))),
            ("negative exp", text("exp", json!(-1))),
            ("exp of nothing", text("exp", json!(null))),
            ("nbf in the future", text("nbf", json!(now + 600))),
            ("nbf as text", text("nbf", json!(now.to_string()))),
            ("id token", text("nonce", json!("n"))),
            ("id token with a hash", text("at_hash", json!("h"))),
            ("bound to a key", text("cnf", json!({"jkt": "x"}))),
            ("sub of no text", text("sub", json!(7))),
            ("empty sub", text("sub", json!(""))),
        ];
        for claim in ["exp", "iss", "aud", "sub"] {
            forged.push((claim, fixture.without(claim)));
        }
        let good = claims(|_| {}).to_string();
        let body = good.trim_end_matches('}');
        let head = fixture.head().to_string();
        forged.push(("sub twice", fixture.signer.sign_text(&head, &format!("{body},\"sub\":\"root\"}}"))));
        forged
            .push(("aud twice", fixture.signer.sign_text(&head, &format!("{body},\"aud\":\"tollgate\"}}"))));
        let twice = format!("{},\"alg\":\"none\"}}", head.trim_end_matches('}'));
        forged.push(("alg twice", fixture.signer.sign_text(&twice, &good)));
        check(&fixture, &forged);
        for exp in [json!(1000), json!(now - 31), json!(0)] {
            assert_eq!(fixture.get_in(&text("exp", exp)), Err(AuthError::Expired));
        }
        // Clocks differ a little, and lists may have others beside us.
        fixture.get_in(&text("exp", json!(now - 5))).unwrap();
        fixture.get_in(&text("nbf", json!(now + 5))).unwrap();
        fixture.get_in(&text("exp", json!(now as f64 + 600.5))).unwrap();
        fixture.get_in(&text("aud", json!(["else", "tollgate"]))).unwrap();
        fixture.get_in(&text("aud", json!("tollgate/"))).unwrap();
        // A token that says it is an access token may carry what an id token does.
        let access = json!({"alg": fixture.signer.algorithm().1, "typ": "at+jwt", "kid": "main"});
        fixture.get_in(&fixture.signer.token(&access, &claims(|c| c["nonce"] = json!("n")))).unwrap();
    }
}

#[test]
fn every_algorithm_of_the_list() {
    let cases = [
        (
            Signer::Secret,
            vec![("HS256", Algorithm::Hs256), ("HS384", Algorithm::Hs384), ("HS512", Algorithm::Hs512)],
        ),
        (
            Signer::rsa(),
            vec![
                ("RS256", Algorithm::Rs256),
                ("RS384", Algorithm::Rs384),
                ("RS512", Algorithm::Rs512),
                ("PS256", Algorithm::Ps256),
                ("PS384", Algorithm::Ps384),
                ("PS512", Algorithm::Ps512),
            ],
        ),
        (Signer::p256(), vec![("ES256", Algorithm::Es256)]),
        (Signer::p384(), vec![("ES384", Algorithm::Es384)]),
        (Signer::ed25519(), vec![("EdDSA", Algorithm::EdDsa)]),
    ];
    for (signer, algorithms) in cases {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), signer.pem()).unwrap();
        let keys = match signer {
            Signer::Secret => IssuerKeys::Secret(Secret::new(SECRET)),
            _ => IssuerKeys::Pem(file.path().into()),
        };
        for (name, algorithm) in &algorithms {
            let issuer = conf::Issuer { algorithms: vec![*algorithm], ..issuer(&signer, keys.clone()) };
            let auth = Auth { issuers: vec![issuer], ..Auth::default() };
            let authenticator = authenticator(&Access { auth, ..Access::default() });
            for (other, _) in &algorithms {
                let token = signer.token(&json!({"alg": other}), &claims(|_| {}));
                let got = by_token(&authenticator, &token).map(drop);
                let want = if other == name { Ok(()) } else { Err(AuthError::Invalid) };
                assert_eq!(got, want, "{other} where {name} is pinned");
            }
        }
    }
}
