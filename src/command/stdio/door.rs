//! The HTTP client of one server's door.
//! Not here: what is sent (`call`, `listen`), the client of the gateway's own upstreams (`upstream/http`).

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::place::Place;
use crate::conf::Secret;
use crate::egress;

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// Gateways and what stands before them close idle connections after this time at the earliest.
const IDLE: Duration = Duration::from_secs(4);
/// A connection that says nothing is asked for a sign of life after this time: streams may be silent for long.
const SILENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum DoorError {
    /// No connection: nothing was sent.
    #[error("cannot connect to the gateway: {0}")]
    Unreachable(String),
    /// It broke after something was sent.
    #[error("the connection to the gateway broke before the answer came; whether the call ran is unknown")]
    Broken,
}

/// A server's door.
#[derive(Debug)]
pub(super) struct Door {
    url: Uri,
    authorization: Option<HeaderValue>,
    client: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Door {
    /// The door at `place`, called with `token`: an API key or token, or a whole `Bearer …` or `Basic …`.
    pub(super) fn new(place: Place, token: Option<&Secret>) -> Result<Self, String> {
        let authorization = token.map(|token| {
            let token = token.expose().trim();
            let has_scheme = token.split_once(' ').is_some_and(|(scheme, _)| {
                ["bearer", "basic"].contains(&scheme.to_ascii_lowercase().as_str())
            });
            let value = if has_scheme { token.to_owned() } else { format!("Bearer {token}") };
            let mut value =
                HeaderValue::try_from(value).map_err(|_| "the credential is no single line of text")?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        });
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_keepalive(Some(SILENCE));
        let is_secure = place.url.scheme_str() == Some("https");
        let tls = HttpsConnectorBuilder::new().with_tls_config(egress::tls_config(is_secure));
        let connector = tls.https_or_http().enable_http1().wrap_connector(tcp);
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.pool_timer(hyper_util::rt::TokioTimer::new()).pool_idle_timeout(IDLE);
        Ok(Self {
            url: place.url,
            authorization: authorization.transpose()?,
            client: builder.build(connector),
        })
    }

    /// Sends a request; the answer streams.
    pub(super) async fn send(
        &self,
        method: Method,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, DoorError> {
        let accept =
            if method == Method::GET { "text/event-stream" } else { "application/json, text/event-stream" };
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        if method == Method::POST {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = headers;
        self.client.request(request).await.map_err(|error| {
            if error.is_connect() { DoorError::Unreachable(causes(&error)) } else { DoorError::Broken }
        })
    }
}

/// What went wrong, with its causes: hyper's own words name only the layer.
fn causes(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}
