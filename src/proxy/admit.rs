//! Who gets in: hygiene of the request's head, the caller, the caller's bucket, a place among the calls in flight.
//! Not here: how credentials are checked (`auth`) or tokens counted (`limit`); what a refusal looks like (`rejection`).

use std::sync::Arc;

use http::HeaderMap;
use pingora_http::RequestHeader;
use prometheus::IntCounter;

use super::rejection::Rejection;
use super::{framing, names};
use crate::auth::{AuthError, Caller, CallerKind, Entrance, InForce};
use crate::conf::{Conf, Limits, Listener};
use crate::limit::{Buckets, Decision, Gate, Permit};
use crate::telemetry::Meters;

/// Decides who gets in.
pub struct Admission {
    entrance: Arc<Entrance>,
    buckets: Arc<Buckets>,
    gate: Gate,
    limits: Limits,
    meters: Arc<Meters>,
    authentications: Authentications,
}

/// How authentications ended, counted without a look-up by label.
struct Authentications {
    anonymous: IntCounter,
    api_key: IntCounter,
    jwt: IntCounter,
    certificate: IntCounter,
    missing: IntCounter,
    invalid: IntCounter,
}

/// A caller who may go on, with the place it holds. Only [`Admission::admit`] makes one.
pub(super) struct Admitted {
    pub(super) caller: Arc<Caller>,
    /// What the bucket said, if there is one.
    pub(super) decision: Option<Decision>,
    _permit: Permit,
}

impl Admission {
    /// Admission as `conf` says.
    pub fn new(
        conf: &Conf,
        entrance: Arc<Entrance>,
        buckets: Arc<Buckets>,
        gate: Gate,
        meters: Arc<Meters>,
    ) -> Self {
        let counter = |method, result| meters.authentications(method, result);
        let authentications = Authentications {
            anonymous: counter(CallerKind::Anonymous.as_str(), "ok"),
            api_key: counter(CallerKind::ApiKey.as_str(), "ok"),
            jwt: counter(CallerKind::Jwt.as_str(), "ok"),
            certificate: counter(CallerKind::Certificate.as_str(), "ok"),
            missing: counter("none", "missing"),
            invalid: counter("unknown", "invalid"),
        };
        Self { entrance, buckets, gate, limits: conf.limits, authentications, meters }
    }

    /// Checks what needs no caller: sizes of the head, how the body is framed, `Host` and `Origin`.
    pub(super) fn inspect(&self, listener: &Listener, request: &RequestHeader) -> Result<(), Rejection> {
        let path = request.uri.path_and_query().map_or(0, |path| path.as_str().len());
        if path > self.limits.uri_bytes_max {
            return Err(Rejection::UriTooLong);
        }
        let bytes: usize =
            request.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if request.headers.len() > self.limits.header_count_max || bytes > self.limits.header_bytes_max {
            return Err(Rejection::HeadersTooLarge);
        }
        framing::check(&request.headers)?;
        names::check(listener, &request.uri, &request.headers)
    }

    /// Hop 2: who calls, whether the caller's bucket has a token, and a place among the calls in flight.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<Admitted, Rejection> {
        let in_force = self.entrance.in_force();
        let caller = self.authenticate(&in_force, headers)?;
        let rate = caller.limit.or(in_force.access.limit).and_then(|limit| limit.rate);
        let decision = rate.map(|rate| self.buckets.take(caller.id, rate));
        if let Some(decision) = decision.filter(|decision| !decision.allowed) {
            self.meters.rate_limited("caller");
            return Err(Rejection::RateLimited { decision, caller });
        }
        let permit = self.gate.enter().ok_or(Rejection::Busy)?;
        Ok(Admitted { caller, decision, _permit: permit })
    }

    fn authenticate(&self, in_force: &InForce, headers: &HeaderMap) -> Result<Arc<Caller>, Rejection> {
        match in_force.authenticator.authenticate(headers) {
            Ok(caller) => {
                match caller.kind {
                    CallerKind::Anonymous => self.authentications.anonymous.inc(),
                    CallerKind::ApiKey => self.authentications.api_key.inc(),
                    CallerKind::Jwt => self.authentications.jwt.inc(),
                    CallerKind::Certificate => self.authentications.certificate.inc(),
                }
                Ok(caller)
            }
            Err(AuthError::Missing) => {
                self.authentications.missing.inc();
                Err(Rejection::NoCredential)
            }
            Err(AuthError::Invalid) => {
                self.authentications.invalid.inc();
                Err(Rejection::BadCredential)
            }
        }
    }
}
