//! Tests of what the gateway shows of itself, with token servers on loopback.
//! Not here: the same over the wire, through the whole gateway (`tests/it/credentials.rs`).

use std::path::Path;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::catalog::{ClientCredentials, Endpoint, Health, HealthKind, RemoteKind};
use crate::conf::Secret;

fn proof(credential: Credential) -> Arc<Proof> {
    Proof::of(&runtime(credential), None, &Arc::default()).unwrap()
}

fn runtime(credential: Credential) -> Runtime {
    let second = Duration::from_secs(1);
    let health = Health {
        kind: HealthKind::Off,
        interval: second,
        timeout: second,
        unhealthy_after: 1,
        healthy_after: 1,
    };
    Runtime::Remote(Remote {
        kind: RemoteKind::Http,
        endpoints: vec![Endpoint { url: "http://127.0.0.1:9/".parse().unwrap(), weight: 1, drain: false }],
        headers: HeaderMap::new(),
        credential: Some(Box::new(credential)),
        health,
    })
}

async fn shown(proof: &Arc<Proof>) -> Result<String, UpstreamError> {
    let mut headers = HeaderMap::new();
    proof.show(&mut headers).await?;
    let value = headers.get(header::AUTHORIZATION).unwrap();
    assert!(value.is_sensitive());
    assert!(!format!("{proof:?} {headers:?}").contains("s3cret"));
    Ok(value.to_str().unwrap().to_owned())
}

/// Lets time pass for everything that asks the clock, without waiting.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_user_name_and_a_password() {
    let basic = proof(Credential::Basic { username: "Aladdin".into(), password: Secret::new("open sesame") });
    assert_eq!(shown(&basic).await.unwrap(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let write = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
    let file = proof(Credential::BearerFile(path.clone()));
    assert_eq!(shown(&file).await, Err(UpstreamError::Credential), "no file yet");
    write(&path, "s3cret-1\n");
    assert_eq!(shown(&file).await, Err(UpstreamError::Credential), "looked at a moment ago");
    pass(Duration::from_secs(1)).await;
    assert_eq!(shown(&file).await.unwrap(), "Bearer s3cret-1");
    write(&path, "s3cret-22\n");
    assert_eq!(shown(&file).await.unwrap(), "Bearer s3cret-1", "at most one look in a second");
    pass(Duration::from_secs(1)).await;
    assert_eq!(shown(&file).await.unwrap(), "Bearer s3cret-22");
    // As Kubernetes does it: another file of the same length takes its place.
    write(&dir.path().join("next"), "s3cret-33\n");
    std::fs::rename(dir.path().join("next"), &path).unwrap();
    pass(Duration::from_secs(1)).await;
    assert_eq!(shown(&file).await.unwrap(), "Bearer s3cret-33");
    for wrong in ["", "two words\n", "two\nlines\n"] {
        write(&path, wrong);
        pass(Duration::from_secs(1)).await;
        assert_eq!(shown(&file).await, Err(UpstreamError::Credential), "{wrong:?}");
    }
    std::fs::remove_file(&path).unwrap();
    pass(Duration::from_secs(1)).await;
    assert_eq!(
        shown(&file).await,
        Err(UpstreamError::Credential),
        "a token that is taken away is not used on"
    );
}

/// A token endpoint that gives `answers` in turn, the last one for ever, and remembers what it was asked.
struct Tokens {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Tokens {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tokens {
    async fn answering(answers: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (noted, answers) =
            (Arc::clone(&asked), answers.iter().map(ToString::to_string).collect::<Vec<_>>());
        #[expect(clippy::disallowed_methods, reason = "aborted when the test drops it")]
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut got = vec![0; 8192];
                let mut read = 0;
                // The body comes last, and ends with its last field.
                while !String::from_utf8_lossy(&got[..read]).contains("client_credentials") {
                    read += stream.read(&mut got[read..]).await.unwrap();
                }
                let at = {
                    let mut noted = noted.lock();
                    noted.push(String::from_utf8(got[..read].to_vec()).unwrap());
                    noted.len() - 1
                };
                let answer = answers.get(at).or(answers.last()).unwrap();
                let (status, body) = answer.split_once(' ').unwrap();
                let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(text.as_bytes()).await;
            }
        });
        Self { url, asked, task }
    }

    fn client(&self) -> ClientCredentials {
        ClientCredentials {
            token_url: self.url.parse().unwrap(),
            client_id: "gate way".into(),
            client_secret: Secret::new("s3cret:&"),
            scopes: vec!["read".into(), "write".into()],
            resource: Some("https://a.example/mcp".into()),
            in_body: false,
        }
    }

    fn proof(&self) -> Arc<Proof> {
        proof(Credential::ClientCredentials(self.client()))
    }

    fn count(&self) -> usize {
        self.asked.lock().len()
    }
}

const FIRST: &str = r#"200 {"access_token":"s3cret-1","token_type":"bearer","expires_in":100}"#;
const SECOND: &str = r#"200 {"access_token":"s3cret-2","token_type":"Bearer","expires_in":"100"}"#;

#[tokio::test]
async fn a_token_is_fetched_once_and_renewed_before_it_runs_out() {
    let tokens = Tokens::answering(&[FIRST, SECOND]).await;
    let proof = tokens.proof();
    let both = futures_util::future::join_all((0..20).map(|_| shown(&proof))).await;
    assert!(both.iter().all(|value| value.as_deref() == Ok("Bearer s3cret-1")), "{both:?}");
    assert_eq!(tokens.count(), 1, "one fetches, the others wait for it");
    let asked = tokens.asked.lock()[0].clone();
    assert!(
        asked.contains("authorization: Basic Z2F0ZSt3YXk6czNjcmV0JTNBJTI2"),
        "gate+way:s3cret%3A%26 in {asked}"
    );
    assert!(
        asked.ends_with(
            "grant_type=client_credentials&scope=read+write&resource=https%3A%2F%2Fa.example%2Fmcp"
        ),
        "{asked}"
    );
    pass(Duration::from_secs(80)).await;
    assert_eq!(shown(&proof).await.unwrap(), "Bearer s3cret-1");
    pass(Duration::from_secs(12)).await;
    assert_eq!(shown(&proof).await.unwrap(), "Bearer s3cret-2", "after nine tenths of its life");
    assert_eq!(tokens.count(), 2);
}

#[tokio::test]
async fn id_and_secret_in_the_body() {
    let tokens = Tokens::answering(&[FIRST]).await;
    let proof = proof(Credential::ClientCredentials(ClientCredentials { in_body: true, ..tokens.client() }));
    shown(&proof).await.unwrap();
    let asked = tokens.asked.lock()[0].clone();
    assert!(asked.ends_with("&client_id=gate+way&client_secret=s3cret%3A%26"), "{asked}");
    assert!(!asked.contains("authorization:"), "{asked}");
}

#[tokio::test]
async fn a_refused_token_is_fetched_anew_but_not_for_each_call() {
    let tokens = Tokens::answering(&[FIRST, SECOND]).await;
    let proof = tokens.proof();
    let refuse = async || {
        let answered = proof.show(&mut HeaderMap::new()).await.unwrap();
        answered.answered(StatusCode::UNAUTHORIZED);
        // Of the same token, one refusal counts.
        answered.answered(StatusCode::UNAUTHORIZED);
    };
    refuse().await;
    assert_eq!(shown(&proof).await.unwrap(), "Bearer s3cret-2", "the next call has a new one");
    assert_eq!(tokens.count(), 2);
    for _ in 0..50 {
        refuse().await;
    }
    assert_eq!(tokens.count(), 2, "a server that refuses fresh tokens gets no more of them at once");
    pass(Duration::from_secs(1)).await;
    refuse().await;
    refuse().await;
    assert_eq!(tokens.count(), 3, "one after a pause");
    pass(Duration::from_secs(1)).await;
    refuse().await;
    refuse().await;
    assert_eq!(tokens.count(), 3, "the pause doubles");
    proof.show(&mut HeaderMap::new()).await.unwrap().answered(StatusCode::OK);
    refuse().await;
    refuse().await;
    assert_eq!(tokens.count(), 4, "until one is taken");
}

#[tokio::test]
async fn failures_are_not_asked_for_again_at_once() {
    let failures = [
        r#"401 {"error":"invalid_client","error_description":"s3cret"}"#,
        "200 {}",
        r#"200 {"access_token":"a b"}"#,
        r#"200 {"access_token":"x","token_type":"mac"}"#,
        "500 oops",
        r#"302 {"access_token":"x"}"#,
    ];
    for failure in failures {
        let tokens = Tokens::answering(&[failure, failure, SECOND]).await;
        let proof = tokens.proof();
        for _ in 0..10 {
            assert_eq!(shown(&proof).await, Err(UpstreamError::Credential), "{failure}");
        }
        assert_eq!(tokens.count(), 1, "{failure}");
        pass(Duration::from_secs(1)).await;
        assert_eq!(shown(&proof).await, Err(UpstreamError::Credential));
        pass(Duration::from_secs(1)).await;
        assert_eq!(shown(&proof).await, Err(UpstreamError::Credential), "the pause doubles");
        assert_eq!(tokens.count(), 2);
        pass(Duration::from_secs(1)).await;
        assert_eq!(shown(&proof).await.unwrap(), "Bearer s3cret-2");
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_is_used_to_its_end() {
    let tokens = Tokens::answering(&[FIRST, "500 oops"]).await;
    let proof = tokens.proof();
    shown(&proof).await.unwrap();
    pass(Duration::from_secs(92)).await;
    assert_eq!(shown(&proof).await.unwrap(), "Bearer s3cret-1");
    assert_eq!(tokens.count(), 2);
    pass(Duration::from_secs(9)).await;
    assert_eq!(shown(&proof).await, Err(UpstreamError::Credential));
}

#[tokio::test]
async fn an_equal_credential_keeps_its_token_and_a_changed_one_does_not() {
    let tokens = Tokens::answering(&[FIRST, SECOND]).await;
    let old = tokens.proof();
    shown(&old).await.unwrap();
    let same = runtime(Credential::ClientCredentials(tokens.client()));
    let same = Proof::of(&same, Some(&old), &Arc::default()).unwrap();
    assert_eq!(shown(&same).await.unwrap(), "Bearer s3cret-1");
    let changed = ClientCredentials { scopes: Vec::new(), ..tokens.client() };
    let changed = Proof::of(&runtime(Credential::ClientCredentials(changed)), Some(&old), &Arc::default());
    assert_eq!(shown(&changed.unwrap()).await.unwrap(), "Bearer s3cret-2");
}
