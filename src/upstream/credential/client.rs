//! A token fetched with client credentials (RFC 6749 section 4.4), kept until shortly before it runs out.
//! Not here: tokens in files (`file`); the HTTP client (`egress`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use form_urlencoded::{Serializer, byte_serialize};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use super::{bearer, sensitive};
use crate::catalog::ClientCredentials;
use crate::egress;

/// A token is renewed this long before it runs out, or after nine tenths of a short life.
const MARGIN: Duration = Duration::from_secs(30);
/// The life of a token that comes without one. If it is shorter, the server's refusal tells.
const LIFE_DEFAULT: Duration = Duration::from_secs(300);
/// The longest life that is believed.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);
/// The pause after the first failure; each further one doubles it.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Fetches tokens, one at a time.
#[derive(Debug)]
pub(super) struct Client {
    client: ClientCredentials,
    egress: Arc<egress::Client>,
    kept: Mutex<Kept>,
    /// Held by whoever fetches; the others wait for what comes of it.
    fetching: tokio::sync::Mutex<()>,
    /// Tokens that the server refused in a row.
    refusals: AtomicU32,
}

#[derive(Debug, Default)]
struct Kept {
    token: Option<Token>,
    /// Failures of the token endpoint in a row, and until when it is left alone.
    failures: u32,
    not_before: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Token {
    value: HeaderValue,
    fetched: Instant,
    renew: Instant,
    ends: Instant,
}

/// Why there is no token; nothing of it is a secret.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Egress(#[from] egress::EgressError),
    #[error("the token endpoint answers {0}: {1}")]
    Refused(StatusCode, String),
    #[error("the token endpoint's answer holds no bearer token")]
    NoToken,
}

impl Client {
    pub(super) fn new(client: ClientCredentials, egress: Arc<egress::Client>) -> Self {
        Self {
            client,
            egress,
            kept: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
            refusals: AtomicU32::new(0),
        }
    }

    /// The token that is there, unless it is time to renew it.
    pub(super) fn ready(&self) -> Option<HeaderValue> {
        let now = Instant::now();
        let kept = self.kept.lock();
        kept.token.as_ref().filter(|token| now < token.renew).map(|token| token.value.clone())
    }

    /// A token: the one that is there, or a new one. While one call renews a token that is still good, the others go on
    /// with it; if there is none, they wait for the one that fetches.
    pub(super) async fn value(&self) -> Option<HeaderValue> {
        let good = self.good();
        let _fetching = match (&good, self.fetching.try_lock()) {
            (_, Ok(fetching)) => fetching,
            (Some(_), Err(_)) => return good,
            (None, Err(_)) => self.fetching.lock().await,
        };
        // Somebody else may have fetched one, or have failed to.
        if let Some(value) = self.ready() {
            return Some(value);
        }
        if self.kept.lock().not_before.is_some_and(|until| Instant::now() < until) {
            return self.good();
        }
        let fetched = self.fetch().await;
        let mut kept = self.kept.lock();
        match fetched {
            Ok(token) => {
                let value = token.value.clone();
                *kept = Kept { token: Some(token), failures: 0, not_before: None };
                Some(value)
            }
            Err(error) => {
                let pause = pause(kept.failures);
                kept.failures = kept.failures.saturating_add(1);
                kept.not_before = Some(Instant::now() + pause);
                let url = &self.client.token_url;
                tracing::warn!(%url, %error, "no token could be fetched; tried again after {pause:?}");
                drop(kept);
                self.good()
            }
        }
    }

    /// The server refused `shown`: the next call fetches another token, unless that has not helped either just now.
    pub(super) fn refused(&self, shown: &HeaderValue) {
        let mut kept = self.kept.lock();
        let Some(token) = kept.token.as_ref().filter(|token| token.value == *shown) else { return };
        let before = self.refusals.load(Ordering::Relaxed);
        let patience = before.checked_sub(1).map_or(Duration::ZERO, pause);
        if token.fetched.elapsed() >= patience {
            self.refusals.store(before.saturating_add(1), Ordering::Relaxed);
            kept.token = None;
        }
    }

    /// The server took what was shown.
    pub(super) fn taken(&self) {
        if self.refusals.load(Ordering::Relaxed) != 0 {
            self.refusals.store(0, Ordering::Relaxed);
        }
    }

    /// The token that is there, as long as it has not run out.
    fn good(&self) -> Option<HeaderValue> {
        let now = Instant::now();
        self.kept.lock().token.as_ref().filter(|token| now < token.ends).map(|token| token.value.clone())
    }

    async fn fetch(&self) -> Result<Token, FetchError> {
        let (headers, body) = self.request();
        let asked = Instant::now();
        let (status, answer) = self.egress.post_form(&self.client.token_url, headers, body).await?;
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        if status != StatusCode::OK {
            return Err(FetchError::Refused(status, error_code(&answer)));
        }
        let text = |name: &str| answer.get(name).and_then(Value::as_str);
        let is_bearer = text("token_type").is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
        let value = text("access_token").filter(|_| is_bearer).and_then(bearer);
        let value = value.ok_or(FetchError::NoToken)?;
        let life = answer.get("expires_in").and_then(seconds).unwrap_or(LIFE_DEFAULT).min(LIFE_MAX);
        Ok(Token { value, fetched: asked, renew: asked + life - MARGIN.min(life / 10), ends: asked + life })
    }

    /// The request of RFC 6749 section 4.4.2, authenticated by section 2.3.1.
    fn request(&self) -> (HeaderMap, Bytes) {
        let ClientCredentials { client_id, client_secret, scopes, resource, in_body, .. } = &self.client;
        let mut headers = HeaderMap::new();
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if !scopes.is_empty() {
            form.append_pair("scope", &scopes.join(" "));
        }
        if let Some(resource) = resource {
            form.append_pair("resource", resource);
        }
        if *in_body {
            form.append_pair("client_id", client_id).append_pair("client_secret", client_secret.expose());
        } else {
            let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
            let pair = format!("{}:{}", encoded(client_id), encoded(client_secret.expose()));
            if let Some(value) = sensitive(format!("Basic {}", STANDARD.encode(pair))) {
                headers.insert(header::AUTHORIZATION, value);
            }
        }
        (headers, form.finish().into())
    }
}

/// The pause after `failures` failures before the latest.
fn pause(failures: u32) -> Duration {
    PAUSE.saturating_mul(2u32.saturating_pow(failures)).min(PAUSE_MAX)
}

/// A number of seconds, which some servers write as text.
fn seconds(value: &Value) -> Option<Duration> {
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
    Some(Duration::from_secs(number))
}

/// The error of RFC 6749 section 5.2: a word of the specification, or nothing.
fn error_code(answer: &Value) -> String {
    let code = answer.get("error").and_then(Value::as_str).unwrap_or_default();
    code.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(64).collect()
}
