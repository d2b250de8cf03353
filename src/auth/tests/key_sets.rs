//! Issuers' keys that come and go: in files and at addresses, and what abuse of them costs (S03).
//! Not here: forged tokens (`forgeries`).

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::issuer::jwks;
use super::*;
use crate::auth::key::KeySet;

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);
/// Soon over.
const SHORT: Duration = Duration::from_millis(20);

/// A place where a key set is, and what it answers at the moment.
struct Place {
    listener: TcpListener,
    answer: Mutex<Answer>,
    fetches: AtomicUsize,
}

#[derive(Clone)]
enum Answer {
    Raw(String),
    Silence,
}

impl Place {
    async fn new(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = Self { listener, answer: Mutex::new(Answer::Silence), fetches: AtomicUsize::new(0) };
        place.hold(keys);
        place
    }

    fn keys(&self) -> IssuerKeys {
        let address = self.listener.local_addr().unwrap();
        IssuerKeys::JwksUrl(format!("http://{address}/jwks").parse().unwrap())
    }

    /// Answers with these keys from now on.
    fn hold(&self, keys: &[Value]) {
        let body = jwks(keys);
        self.say(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
    }

    fn say(&self, answer: &str) {
        *self.answer.lock() = Answer::Raw(answer.to_owned());
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    async fn serve(&self) -> Infallible {
        let mut silent = Vec::new();
        loop {
            let (mut stream, _) = self.listener.accept().await.unwrap();
            self.fetches.fetch_add(1, Ordering::SeqCst);
            let answer = self.answer.lock().clone();
            let Answer::Raw(answer) = answer else {
                silent.push(stream);
                continue;
            };
            let mut asked = [0; 2048];
            let _ = stream.read(&mut asked).await;
            // Whoever has read enough hangs up.
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    }
}

fn access_to(signer: &Signer, keys: IssuerKeys) -> Access {
    let auth = Auth { issuers: vec![issuer(signer, keys)], ..Auth::default() };
    Access { auth, ..Access::default() }
}

/// Runs `scenario` while the place serves and the keys are kept.
async fn with_keys<F: Future>(place: &Place, authenticator: &Authenticator, scenario: F) -> F::Output {
    let scenario = timeout(Duration::from_secs(30), scenario);
    tokio::select! {
        _ = place.serve() => unreachable!("it serves for ever"),
        () = authenticator.keep_keys() => unreachable!("it keeps them for ever"),
        done = scenario => done.expect("the scenario takes too long"),
    }
}

async fn get_in(authenticator: &Authenticator, token: &str) -> Result<Arc<Caller>, AuthError> {
    authenticator.authenticate(&Presented::headers(&bearer(token))).await
}

fn named(signer: &Signer, kid: &str) -> String {
    signer.token(&json!({"alg": signer.algorithm().1, "kid": kid}), &claims(|_| {}))
}

/// Until `is_so`.
async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = timeout(Duration::from_secs(10), async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    });
    deadline.await.expect("it does not come about");
}

#[tokio::test]
async fn the_first_request_waits_for_the_keys() {
    let signer = Signer::rsa();
    let place = Place::new(&[signer.jwk("a")]).await;
    let authenticator = Authenticator::new(&access_to(&signer, place.keys()), TOKENS_MAX).unwrap();
    with_keys(&place, &authenticator, async {
        assert_eq!(&*get_in(&authenticator, &named(&signer, "a")).await.unwrap().subject, "ann");
        assert_eq!(place.fetches(), 1);
    })
    .await;
}

#[tokio::test]
async fn names_that_nobody_knows_cost_one_request_in_all() {
    let signer = Signer::p256();
    let place = Place::new(&[signer.jwk("a")]).await;
    let access = access_to(&signer, place.keys());
    let authenticator = Authenticator::with_cool_down(&access, TOKENS_MAX, LONG).unwrap();
    with_keys(&place, &authenticator, async {
        get_in(&authenticator, &named(&signer, "a")).await.unwrap();
        // Many at once: all wait for the same answer.
        let tokens: Vec<String> = (0..50).map(|kid| named(&signer, &format!("at-once-{kid}"))).collect();
        let results = join_all(tokens.iter().map(|token| get_in(&authenticator, token))).await;
        assert!(results.iter().all(|result| matches!(result, Err(AuthError::Invalid))));
        assert_eq!(place.fetches(), 2);
        for kid in 0..2000 {
            let token = named(&signer, &format!("kid-{kid}"));
            assert_eq!(get_in(&authenticator, &token).await.unwrap_err(), AuthError::Invalid);
        }
        assert_eq!(place.fetches(), 2);
        get_in(&authenticator, &named(&signer, "a")).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_new_key_is_fetched_and_a_withdrawn_one_ends() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let place = Place::new(&[old.jwk("old")]).await;
    let access = access_to(&old, place.keys());
    let authenticator = Authenticator::with_cool_down(&access, TOKENS_MAX, LONG).unwrap();
    with_keys(&place, &authenticator, async {
        let token = named(&old, "old");
        let caller = get_in(&authenticator, &token).await.unwrap();
        assert!(authenticator.stands(&caller));
        place.hold(&[old.jwk("old"), new.jwk("new")]);
        get_in(&authenticator, &named(&new, "new")).await.unwrap();
        assert!(authenticator.stands(&caller), "its key is still there");
        let again = get_in(&authenticator, &token).await.unwrap();
        assert!(Arc::ptr_eq(&caller, &again), "a verified token is remembered over a new set");
    })
    .await;
    // The next one may be asked for at once, and no longer has the old key.
    let access = access_to(&old, place.keys());
    let authenticator = Authenticator::with_cool_down(&access, TOKENS_MAX, Duration::ZERO).unwrap();
    with_keys(&place, &authenticator, async {
        let token = named(&old, "old");
        let caller = get_in(&authenticator, &token).await.unwrap();
        place.hold(&[new.jwk("new"), new.jwk("other")]);
        let _ = get_in(&authenticator, &named(&new, "other")).await.map(drop);
        let fetches = place.fetches();
        let _ = get_in(&authenticator, &named(&new, "nobody's")).await.map(drop);
        assert!(place.fetches() > fetches);
        assert!(!authenticator.stands(&caller));
        assert_eq!(get_in(&authenticator, &token).await.unwrap_err(), AuthError::Invalid);
    })
    .await;
}

#[tokio::test]
async fn another_key_of_the_same_name_is_fetched_and_bad_signatures_cost_one_request_in_all() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let place = Place::new(&[old.jwk("a")]).await;
    let access = access_to(&old, place.keys());
    let authenticator = Authenticator::with_cool_down(&access, TOKENS_MAX, LONG).unwrap();
    with_keys(&place, &authenticator, async {
        let caller = get_in(&authenticator, &named(&old, "a")).await.unwrap();
        place.hold(&[new.jwk("a")]);
        get_in(&authenticator, &named(&new, "a")).await.unwrap();
        assert!(!authenticator.stands(&caller), "its key is gone");
        assert_eq!(place.fetches(), 2);
        let forger = Signer::p256();
        for number in 0..100 {
            let token =
                forger.token(&json!({"alg": "ES256", "kid": "a"}), &claims(|c| c["n"] = json!(number)));
            assert_eq!(get_in(&authenticator, &token).await.unwrap_err(), AuthError::Invalid);
        }
        assert_eq!(place.fetches(), 2);
    })
    .await;
}

#[tokio::test]
async fn the_last_good_set_stays() {
    let signer = Signer::ed25519();
    let place = Place::new(&[signer.jwk("a")]).await;
    let access = access_to(&signer, place.keys());
    let authenticator = Authenticator::with_cool_down(&access, TOKENS_MAX, SHORT).unwrap();
    let many: Vec<Value> = (0..101).map(|kid| signer.jwk(&kid.to_string())).collect();
    let ok = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let bad = [
        "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n".to_owned(),
        ok(&jwks(&[])),
        ok(&jwks(&many)),
        ok("<html>"),
        format!("HTTP/1.1 200 OK\r\n\r\n{}", "a".repeat(10 << 20)),
        String::new(),
    ];
    with_keys(&place, &authenticator, async {
        get_in(&authenticator, &named(&signer, "a")).await.unwrap();
        for (number, answer) in bad.iter().enumerate() {
            place.say(answer);
            let before = place.fetches();
            until(async || {
                let refused = get_in(&authenticator, &named(&signer, "unknown")).await;
                assert_eq!(refused.unwrap_err(), AuthError::Invalid);
                place.fetches() > before + 1
            })
            .await;
            let fresh =
                signer.token(&json!({"alg": "EdDSA", "kid": "a"}), &claims(|c| c["n"] = json!(number)));
            get_in(&authenticator, &fresh).await.unwrap();
        }
        place.hold(&[signer.jwk("b")]);
        until(async || get_in(&authenticator, &named(&signer, "b")).await.is_ok()).await;
    })
    .await;
}

#[tokio::test]
async fn without_any_set_nobody_is_judged() {
    let signer = Signer::p256();
    let place = Place::new(&[]).await;
    let access = access_to(&signer, place.keys());
    let authenticator = Authenticator::with_cool_down(&access, TOKENS_MAX, LONG).unwrap();
    with_keys(&place, &authenticator, async {
        let token = named(&signer, "a");
        assert_eq!(get_in(&authenticator, &token).await.unwrap_err(), AuthError::Unavailable);
        // What is wrong in itself needs no key to be refused.
        let other = signer.token(&json!({"alg": "none"}), &claims(|_| {}));
        assert_eq!(get_in(&authenticator, &other).await.unwrap_err(), AuthError::Invalid);
    })
    .await;
}

#[tokio::test]
async fn a_slow_issuer_holds_up_nobody_else() {
    let signer = Signer::p256();
    let place = Place::new(&[signer.jwk("a")]).await;
    let access = access_to(&signer, place.keys());
    let authenticator = Authenticator::with_cool_down(&access, TOKENS_MAX, LONG).unwrap();
    with_keys(&place, &authenticator, async {
        get_in(&authenticator, &named(&signer, "a")).await.unwrap();
        *place.answer.lock() = Answer::Silence;
        let (headers, good) = (bearer(&named(&signer, "b")), named(&signer, "a"));
        let asking = Presented::headers(&headers);
        let mut waits = std::pin::pin!(authenticator.authenticate(&asking));
        assert!(futures_util::poll!(waits.as_mut()).is_pending());
        until(async || place.fetches() == 2).await;
        // At once, while the other waits.
        assert!(by_token(&authenticator, &good).is_ok());
        assert!(futures_util::poll!(waits.as_mut()).is_pending());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_is_read_again() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, jwks(&[old.jwk("a")])).unwrap();
    let access = access_to(&old, IssuerKeys::JwksFile(path.clone()));
    let entrance = Entrance::new(access, TOKENS_MAX).unwrap();
    let (stop, stopping) = watch::channel(false);
    let scenario = async {
        let by = |token: String| {
            by_token(&entrance.in_force().authenticator, &token)
                .map(|caller| entrance.in_force().authenticator.stands(&caller))
        };
        assert_eq!(by(named(&old, "a")), Ok(true));
        let (first, second) = (named(&old, "a"), named(&new, "bb"));
        let caller = by_token(&entrance.in_force().authenticator, &first).unwrap();
        std::fs::write(&path, "{").unwrap();
        sleep(Duration::from_secs(3)).await;
        assert_eq!(by(first.clone()), Ok(true), "a broken file changes nothing");
        std::fs::write(&path, jwks(&[new.jwk("bb")])).unwrap();
        sleep(Duration::from_secs(3)).await;
        assert_eq!(by(second), Ok(true));
        assert_eq!(by(first), Err(AuthError::Invalid));
        assert!(!entrance.in_force().authenticator.stands(&caller));
        stop.send_replace(true);
    };
    tokio::join!(entrance.keep_keys(stopping), scenario);
}

#[test]
fn sets_of_every_kind() {
    let text = |keys: &[Value]| KeySet::from_jwks(jwks(keys).as_bytes()).map(drop);
    let good = Signer::p256().jwk("a");
    let rsa = Signer::rsa().jwk("a");
    assert_eq!(text(&[rsa.clone(), good.clone()]), Ok(()));
    let with = |key: &Value, name: &str, value: Value| {
        let mut key = key.clone();
        key[name] = value;
        key
    };
    let useless = [
        Signer::Secret.jwk("a"),
        with(&good, "use", json!("enc")),
        with(&good, "key_ops", json!(["sign"])),
        with(&good, "crv", json!("secp256k1")),
        with(&good, "x", json!("AAAA")),
        with(&rsa, "n", json!("AQAB")),
        with(&rsa, "alg", json!("RSA-OAEP")),
        with(&rsa, "kid", json!(7)),
        json!({"kty": "OKP", "crv": "X25519", "x": "AAAA"}),
        json!("key"),
    ];
    for key in useless {
        assert_eq!(text(std::slice::from_ref(&key)), Err(KeyError::NoneUsable), "{key}");
        assert_eq!(text(&[key, good.clone()]), Ok(()), "others of the set are not in the way");
    }
    let hundred = vec![good; 101];
    assert_eq!(text(&hundred[..100]), Ok(()));
    assert_eq!(text(&hundred), Err(KeyError::TooMany(101)));
    assert!(matches!(KeySet::from_jwks(b"{}"), Err(KeyError::NotSet(_))));
    let certificate = include_bytes!("keys/p256.crt.pem");
    assert!(KeySet::from_pem(certificate).is_ok());
    let both = [certificate.as_slice(), Signer::ed25519().pem().as_bytes()].concat();
    assert!(KeySet::from_pem(&both).is_ok());
    assert!(matches!(KeySet::from_pem(b"no pem"), Err(KeyError::NoneUsable)));
    assert!(matches!(KeySet::from_pem(include_bytes!("keys/rsa.pem")), Err(KeyError::NoneUsable)));
}

#[test]
fn tokens_are_remembered_up_to_a_bound() {
    let access = access();
    let authenticator = Authenticator::new(&access, 16).unwrap();
    let token = |number: usize| {
        Signer::Secret.token(&json!({"alg": "HS256"}), &claims(|claims| claims["n"] = json!(number)))
    };
    for number in 0..200 {
        by_token(&authenticator, &token(number)).unwrap();
    }
    assert!((1..=16).contains(&authenticator.table.tokens.remembered_weight()));
    // The same caller, not one like it: the signature was not looked at again.
    let one = token(1000);
    let first = by_token(&authenticator, &one).unwrap();
    assert!(Arc::ptr_eq(&first, &by_token(&authenticator, &one).unwrap()));
    let none = Authenticator::new(&access, 0).unwrap();
    let first = by_token(&none, &one).unwrap();
    assert!(!Arc::ptr_eq(&first, &by_token(&none, &one).unwrap()));
}

#[tokio::test]
async fn an_issuer_keeps_its_keys_while_they_are_at_the_same_place() {
    let signer = Signer::p256();
    let place = Place::new(&[signer.jwk("a")]).await;
    let access = access_to(&signer, place.keys());
    let before = Authenticator::new(&access, TOKENS_MAX).unwrap();
    let token = named(&signer, "a");
    let caller = with_keys(&place, &before, get_in(&before, &token)).await.unwrap();
    let mut other = access.clone();
    other.auth.issuers[0].grant.limit = Some(conf::Limit { rate: None, in_flight: Some(1) });
    let limited = before.successor(&other).unwrap();
    before.give_way_to(&limited);
    assert!(limited.stands(&caller), "a limit ends nothing");
    // Nobody reads keys here: they are those that were there.
    assert_eq!(get_in(&limited, &token).await.unwrap().limit.unwrap().in_flight, Some(1));
    other.auth.issuers[0].grant.scopes = vec!["x".into()];
    let scoped = limited.successor(&other).unwrap();
    limited.give_way_to(&scoped);
    assert!(!scoped.stands(&caller), "it is good for something else now");
    assert!(scoped.stands(&get_in(&scoped, &token).await.unwrap()));
}
