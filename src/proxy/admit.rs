//! Who gets in: hygiene of the request's head, the caller, its limits.
//! Not here: how credentials are checked (`auth`); what is paid when (`toll`); what a refusal looks like (`rejection`).

use std::net::IpAddr;
use std::sync::Arc;

use pingora_http::RequestHeader;
use pingora_proxy::Session;
use prometheus::IntCounter;

use super::Ctx;
use super::rejection::{Bound, Limited, Rejection, Unauthenticated};
use super::standing::Standing;
use super::toll::{Held, Load, Tally, Tolls, Use};
use super::{framing, names, oauth};
use crate::auth::{
    self, Caller, CallerKind, CertificateNames, Entrance, InForce, Presented, Resource, ResourceServer,
};
use crate::catalog::Server;
use crate::conf::{Conf, Kinds, Limits, Listener};
use crate::hub::Crowded;
use crate::limit::{Address, Buckets};
use crate::listener::Connection;
use crate::telemetry::Meters;
use crate::upstream::{Fleet, Upstream};

/// Decides who gets in.
pub struct Admission {
    entrance: Arc<Entrance>,
    tolls: Tolls,
    limits: Limits,
    meters: Arc<Meters>,
    authentications: Authentications,
}

/// Authentications that went well, counted without a look-up by label.
struct Authentications {
    anonymous: IntCounter,
    api_key: IntCounter,
    jwt: IntCounter,
    certificate: IntCounter,
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
        load: Load,
        meters: Arc<Meters>,
    ) -> Self {
        let counter = |method, result| meters.authentications(method, result);
        let authentications = Authentications {
            anonymous: counter(CallerKind::Anonymous.as_str(), "ok"),
            api_key: counter(CallerKind::ApiKey.as_str(), "ok"),
            jwt: counter(CallerKind::Jwt.as_str(), "ok"),
            certificate: counter(CallerKind::Certificate.as_str(), "ok"),
        };
        let tolls =
            Tolls::new(buckets, load, (conf.bounds, conf.limits.streams_per_caller_max), Arc::clone(&meters));
        Self { entrance, tolls, limits: conf.limits, authentications, meters }
    }

    /// Checks what needs no caller: sizes of the head, how the body is framed, `Host` and `Origin`.
    pub(super) fn inspect(&self, listener: &Listener, request: &RequestHeader) -> Result<(), Rejection> {
        let path = request.uri.path_and_query().map_or(0, |path| path.as_str().len());
        if path > self.limits.uri_bytes_max {
            return Err(Rejection::UriTooLong);
        }
        // Any token is a method to Pingora, and no length too long.
        let bytes = request.method.as_str().len()
            + request.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
        if request.headers.len() > self.limits.header_count_max || bytes > self.limits.header_bytes_max {
            return Err(Rejection::HeadersTooLarge);
        }
        framing::check(&request.headers)?;
        names::check(listener, &request.uri, &request.headers)
    }

    /// A request has come; nothing of it was looked at but its address.
    pub(super) fn arrive(&self, client: IpAddr, tally: &mut Tally) -> Result<(), Rejection> {
        self.tolls.arrive(&self.entrance.in_force().access, Some(Address::of(client)), tally)
    }

    /// The same for a question of an orchestrator, which no configured limit counts.
    pub(super) fn probed(&self, client: IpAddr, tally: &mut Tally) -> Result<(), Rejection> {
        self.tolls.probe(Address::of(client), tally)
    }

    /// Hop 2: who calls, whether the caller's bucket has a token, and a place among the calls in flight. `path` is that
    /// of the door, without what follows at a raw upstream; a stream that a client opens to listen is no call.
    pub(super) async fn admit(
        &self,
        session: &Session,
        (path, is_call): (&str, bool),
        ctx: &mut Ctx,
    ) -> Result<Admitted, Rejection> {
        let in_force = self.entrance.in_force();
        let caller = self.authenticate(&in_force, session, path).await?;
        ctx.record.caller = Some(Arc::clone(&caller));
        let held = self.tolls.enter(&in_force.access, &caller, is_call, &mut ctx.tally)?;
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

    /// So many more bytes of the request's body are held.
    pub(super) fn weigh(
        &self,
        admitted: &mut Admitted,
        server: Option<&str>,
        bytes: usize,
    ) -> Result<(), Rejection> {
        self.tolls.weigh(bytes, (&admitted.caller, server), &mut admitted.held)
    }

    /// A connection is one too many for anything but a probe.
    pub(super) fn full(&self, tally: &mut Tally) -> Rejection {
        self.tolls.refuse(tally, Limited::Bound(Bound::Connections))
    }

    /// There is no room for a session that the caller wants to begin.
    pub(super) fn crowded(&self, crowded: Crowded, tally: &mut Tally) -> Rejection {
        let bound = match crowded {
            Crowded::All => Bound::Sessions,
            Crowded::Caller => Bound::SessionsPerCaller,
            Crowded::Server => Bound::SessionsPerServer,
        };
        self.tolls.refuse(tally, Limited::Bound(bound))
    }

    /// Whether the caller may still have what is open.
    pub(super) fn standing(
        &self,
        fleet: &Arc<Fleet>,
        admitted: &Admitted,
        upstream: &Arc<Upstream>,
    ) -> Standing {
        Standing::new(&self.entrance, fleet, &admitted.caller, upstream)
    }

    /// A request that goes no further pays for having been looked at.
    pub(super) fn settle(&self, tally: &mut Tally) -> Result<(), Rejection> {
        self.tolls.settle(tally)
    }

    async fn authenticate(
        &self,
        in_force: &InForce,
        session: &Session,
        path: &str,
    ) -> Result<Arc<Caller>, Rejection> {
        let request = session.req_header();
        let connection = Connection::of(session);
        let public_url = connection.and_then(|connection| connection.listener.public_url.as_ref());
        let of = oauth::resource_path(path);
        let resource = public_url.map(|public_url| Resource { public_url, path: &of });
        let presented = Presented {
            headers: &request.headers,
            // What is in the query of a raw upstream is for the upstream.
            query: request.uri.query().filter(|_| request.uri.path() == path),
            certificate: connection.and_then(certificate),
            resource,
            // Every connection comes by a listener; one that did not would let nobody in.
            kinds: connection.map_or(Kinds::NONE, |connection| connection.listener.kinds),
        };
        let result = in_force.authenticator.authenticate(&presented).await;
        match &result {
            Ok(caller) => self.authentications.came(caller.kind),
            Err(error) => {
                let (method, result) = auth::labels(Err(*error));
                self.meters.authentications(method, result).inc();
            }
        }
        result.map_err(|error| {
            let token = auth::shows_token(&request.headers);
            Rejection::Unauthenticated(Unauthenticated { error, token })
        })
    }

    /// What OAuth clients are told.
    pub(super) fn resource_server(&self) -> Arc<ResourceServer> {
        self.entrance.in_force().authenticator.resource_server()
    }
}

/// The names in the certificate that the client showed.
pub(super) fn certificate(connection: &Connection) -> Option<CertificateNames<'_>> {
    let certificate = connection.certificate.as_ref()?;
    Some(CertificateNames {
        subject: &certificate.subject,
        common_name: certificate.common_name.as_deref(),
        sans: &certificate.sans,
        expires: certificate.expires,
    })
}

impl Authentications {
    fn came(&self, kind: CallerKind) {
        match kind {
            CallerKind::Anonymous => self.anonymous.inc(),
            CallerKind::ApiKey => self.api_key.inc(),
            CallerKind::Jwt => self.jwt.inc(),
            CallerKind::Certificate => self.certificate.inc(),
        }
    }
}
