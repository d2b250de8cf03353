//! Small requests that the gateway makes for itself: key sets of issuers and tokens of its own.
//! Not here: calls to upstreams, which have a client of their own (`upstream/http`).
//!
//! Such an address is the operator's, and what answers there is believed in matters of trust. So only `https`, or
//! `http` on loopback, is spoken to; a redirect is an error, since it leads where nobody configured; and there is one
//! deadline and one bound for the whole answer.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};

use crate::conf;

/// An answer, whole: a hundred keys with their certificates are a tenth of this.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// From the first packet to the last byte; callers wait for it.
const DEADLINE: Duration = Duration::from_secs(5);
/// Time to connect, within the deadline.
const CONNECT: Duration = Duration::from_secs(3);

/// Why there is no answer. None of it is the caller's fault, and all of it may pass: trying again later is safe for
/// whoever asked. Nothing here carries what was sent.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The address is neither `https` nor `http` on loopback.
    #[error("only https, or http on loopback, is spoken to")]
    Scheme,
    /// No connection, or it broke.
    #[error("no answer: {0}")]
    Unreachable(String),
    /// The deadline passed.
    #[error("no answer within {DEADLINE:?}")]
    Timeout,
    /// The answer is too long.
    #[error("the answer is longer than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
    /// The answer leads elsewhere.
    #[error("the answer is a redirect ({0}), which is not followed")]
    Redirect(StatusCode),
    /// The answer is no success.
    #[error("the answer is {0}")]
    Status(StatusCode),
}

type Https = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client. Requests are minutes apart, so no connection is kept.
#[derive(Debug, Default)]
pub struct Client {
    plain: OnceLock<Https>,
    /// Made at the first `https` address: most gateways on loopback need no root certificates.
    secure: OnceLock<Https>,
}

impl Client {
    /// A client that has not yet read anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// The body at `url`, if the answer is 200.
    pub async fn get(&self, url: &Uri) -> Result<Bytes, EgressError> {
        match self.ask(Method::GET, url, HeaderMap::new(), Bytes::new()).await? {
            (StatusCode::OK, body) => Ok(body),
            (status, _) => Err(EgressError::Status(status)),
        }
    }

    /// The answer to a form (`application/x-www-form-urlencoded`), whatever its status but a redirect.
    pub async fn post_form(
        &self,
        url: &Uri,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), EgressError> {
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, form);
        self.ask(Method::POST, url, headers, body).await
    }

    async fn ask(
        &self,
        method: Method,
        url: &Uri,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), EgressError> {
        let client = self.for_address(url)?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = url.clone();
        *request.headers_mut() = headers;
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let asked = async {
            let answer = client.request(request).await.map_err(|error| unreachable_by(&error))?;
            let status = answer.status();
            if status.is_redirection() {
                return Err(EgressError::Redirect(status));
            }
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
                Some(_) => EgressError::TooLong,
                None => unreachable_by(&*error),
            })?;
            Ok((status, body.to_bytes()))
        };
        tokio::time::timeout(DEADLINE, asked).await.map_err(|_| EgressError::Timeout)?
    }

    fn for_address(&self, url: &Uri) -> Result<&Https, EgressError> {
        if !conf::is_private(url) {
            return Err(EgressError::Scheme);
        }
        let secure = url.scheme_str() == Some("https");
        let client = if secure { &self.secure } else { &self.plain };
        Ok(client.get_or_init(|| {
            let mut tcp = HttpConnector::new();
            tcp.enforce_http(false);
            tcp.set_connect_timeout(Some(CONNECT));
            let tls = HttpsConnectorBuilder::new().with_tls_config(tls_config(secure));
            let connector = tls.https_or_http().enable_http1().wrap_connector(tcp);
            legacy::Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)
        }))
    }
}

/// What went wrong, with its causes: hyper's own words name only the layer.
fn unreachable_by(error: &dyn std::error::Error) -> EgressError {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    EgressError::Unreachable(words)
}

/// TLS by rustls on ring, with the system's root certificates or none.
pub fn tls_config(with_roots: bool) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    if with_roots {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a root certificate of the system cannot be read");
        }
        roots.add_parsable_certificates(found.certs);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    match ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions() {
        Ok(builder) => builder.with_root_certificates(roots).with_no_client_auth(),
        Err(error) => unreachable!("ring has the suites of TLS 1.2 and 1.3: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request with `answer`, and gives back what came.
    async fn serve(answer: String) -> (Uri, impl Future<Output = String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap()).parse().unwrap();
        let served = async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut got = vec![0; 4096];
            let read = stream.read(&mut got).await.unwrap();
            // Whoever has read enough hangs up.
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
            String::from_utf8(got[..read].to_vec()).unwrap()
        };
        (url, served)
    }

    async fn get(answer: &str) -> Result<Bytes, EgressError> {
        let (url, served) = serve(answer.into()).await;
        let client = Client::new();
        tokio::join!(client.get(&url), served).0
    }

    #[tokio::test]
    async fn answers_and_what_is_none() {
        let ok = get("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        assert_eq!(ok.unwrap(), "{}");
        let moved = get("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n");
        assert!(matches!(moved.await, Err(EgressError::Redirect(StatusCode::FOUND))));
        let broken = get("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n").await;
        assert!(matches!(broken, Err(EgressError::Status(StatusCode::INTERNAL_SERVER_ERROR))));
        let long =
            format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}", "a".repeat(ANSWER_BYTES_MAX + 1));
        assert!(matches!(get(&long).await, Err(EgressError::TooLong)));
        let cut = get("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}").await;
        assert!(matches!(cut, Err(EgressError::Unreachable(_))));
    }

    #[tokio::test]
    async fn a_form_is_posted() {
        let (url, served) = serve("HTTP/1.1 400 Bad\r\ncontent-length: 2\r\n\r\n{}".into()).await;
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Basic x"));
        let client = Client::new();
        let posted = client.post_form(&url, headers, Bytes::from_static(b"a=b"));
        let (answer, got) = tokio::join!(posted, served);
        assert_eq!(answer.unwrap().0, StatusCode::BAD_REQUEST);
        assert!(got.starts_with("POST /x ") && got.ends_with("\r\n\r\na=b"), "{got}");
        assert!(got.contains("authorization: Basic x") && got.contains("x-www-form-urlencoded"), "{got}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Uri = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let client = Client::new();
        assert!(matches!(client.get(&url).await, Err(EgressError::Timeout)));
    }
}
