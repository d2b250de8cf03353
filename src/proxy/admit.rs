//! Who gets in: hygiene of the request's head, the caller, its limits.
//! Not here: how credentials are checked (`auth`); what is paid when (`toll`); what a refusal looks like (`rejection`).

use std::sync::Arc;

use http::{HeaderMap, Uri, header};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use prometheus::IntCounter;

use super::Ctx;
use super::framing;
use super::rejection::Rejection;
use super::toll::{Held, Tally, Tolls, Use};
use crate::auth::{AuthError, Caller, CallerKind, Entrance, InForce};
use crate::catalog::Server;
use crate::conf::{Conf, Limits};
use crate::limit::{Address, Buckets, Gate};
use crate::telemetry::Meters;

/// Decides who gets in.
pub struct Admission {
    entrance: Arc<Entrance>,
    tolls: Tolls,
    names: Names,
    limits: Limits,
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
    held: Held,
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
        let names = match conf.listeners.first() {
            Some(listener) => Names { hosts: lower(&listener.hosts), origins: lower(&listener.origins) },
            None => Names { hosts: Vec::new(), origins: Vec::new() },
        };
        let tolls = Tolls::new(buckets, gate, meters);
        Self { entrance, tolls, names, limits: conf.limits, authentications }
    }

    /// Checks what needs no caller: sizes of the head, how the body is framed, `Host` and `Origin`.
    pub(super) fn inspect(&self, request: &RequestHeader) -> Result<(), Rejection> {
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
        self.names.check(&request.uri, &request.headers)
    }

    /// A request has come; nothing of it was looked at but its address.
    pub(super) fn arrive(&self, session: &Session, tally: &mut Tally) -> Result<(), Rejection> {
        self.tolls.arrive(&self.entrance.in_force().access, address(session), tally)
    }

    /// Hop 2: who calls, whether the caller's bucket has a token, and a place among the calls in flight.
    pub(super) fn admit(&self, session: &Session, ctx: &mut Ctx) -> Result<Admitted, Rejection> {
        let in_force = self.entrance.in_force();
        let caller = self.authenticate(&in_force, &session.req_header().headers)?;
        ctx.record.caller = Some(Arc::clone(&caller));
        let held = self.tolls.enter(&in_force.access, &caller, &mut ctx.tally)?;
        Ok(Admitted { caller, held })
    }

    /// What is called is known and allowed: every limit on the way is asked, and all are paid or none.
    pub(super) fn pay(
        &self,
        admitted: &mut Admitted,
        (server, tool): (&Server, Option<&str>),
        is_call: bool,
        tally: &mut Tally,
    ) -> Result<(), Rejection> {
        let of = Use { caller: &admitted.caller, server, tool, is_call };
        self.tolls.pay(&of, &mut admitted.held, tally)
    }

    /// A request that goes no further pays for having been looked at.
    pub(super) fn settle(&self, tally: &mut Tally) -> Result<(), Rejection> {
        self.tolls.settle(tally)
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

/// The address that a request counts under; none on a unix socket.
fn address(session: &Session) -> Option<Address> {
    Some(Address::of(session.client_addr()?.as_inet()?.ip()))
}

/// Names under which the gateway may be spoken to.
///
/// A page of another site can make a browser send requests here under a name that it controls (DNS rebinding), and
/// cannot do so under an IP address, a loopback name or a name that the operator listed.
#[derive(Debug)]
struct Names {
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl Names {
    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Rejection> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = match (hosts.next(), hosts.next(), uri.authority()) {
            (Some(host), None, _) => host.to_str().map_err(|_| Rejection::Host)?,
            (None, _, Some(authority)) => authority.as_str(),
            _ => return Err(Rejection::NoHost),
        };
        if !self.host_is_ours(host) {
            return Err(Rejection::Host);
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            // Programs that are no browsers send none.
            (None, _) => Ok(()),
            (Some(origin), None) if origin.to_str().is_ok_and(|origin| self.origin_is_ours(origin)) => Ok(()),
            _ => Err(Rejection::Origin),
        }
    }

    fn host_is_ours(&self, host: &str) -> bool {
        let name = without_port(host);
        let is_listed = |known: &String| known.eq_ignore_ascii_case(host) || known.eq_ignore_ascii_case(name);
        is_local_or_address(name) || self.hosts.iter().any(is_listed)
    }

    fn origin_is_ours(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        if self.origins.contains(&origin) {
            return true;
        }
        let Some((scheme, host)) = origin.split_once("://") else { return false };
        let name = without_port(host);
        let plain = !host.contains(['/', '?', '#', '@']);
        plain
            && matches!(scheme, "http" | "https")
            && (is_loopback(name) || self.hosts.iter().any(|h| h == name))
    }
}

fn lower(names: &[String]) -> Vec<String> {
    names.iter().map(|name| name.to_ascii_lowercase()).collect()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

fn is_loopback(name: &str) -> bool {
    let address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn is_local_or_address(name: &str) -> bool {
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(host: &str, origin: Option<&str>, want: bool) {
        let names =
            Names { hosts: vec!["gw.example.com".into()], origins: vec!["https://app.example.com".into()] };
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        assert_eq!(names.check(&Uri::from_static("/"), &headers).is_ok(), want, "{host} {origin:?}");
    }

    #[test]
    fn names_that_are_ours() {
        for host in
            ["localhost", "LOCALHOST:4444", "127.0.0.1:80", "[::1]:4444", "10.1.2.3", "gw.example.com:443"]
        {
            check(host, None, true);
        }
        for host in
            ["evil.example", "localhost.evil.example", "gw.example.com.evil.example", "xgw.example.com", ""]
        {
            check(host, None, false);
        }
        for origin in [
            "http://localhost:3000",
            "https://127.0.0.1",
            "https://app.example.com",
            "https://GW.example.com",
        ] {
            check("localhost", Some(origin), true);
        }
        for origin in [
            "null",
            "http://evil.example",
            "http://localhost.evil.example",
            "https://app.example.com.evil.example",
            "http://app.example.com",
            "http://localhost@evil.example",
            "file://localhost",
            "http://10.1.2.3",
        ] {
            check("localhost", Some(origin), false);
        }
    }
}
