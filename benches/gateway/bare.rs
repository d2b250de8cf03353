//! A bare Pingora pass-through proxy: `upstream_peer` with a cached peer and nothing else. The yardstick.
//! Not here: proxies that read the body and answer themselves (`terminate`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::Result;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session};

use crate::Failure;

/// Connections the pool keeps, above the largest number of connections in a run; the same for every Pingora row.
pub(crate) const POOL: usize = 1024;

struct Bare {
    peer: HttpPeer,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        Ok(Box::new(self.peer.clone()))
    }
}

/// Serves until killed.
pub(crate) fn run(listen: SocketAddr, upstream: SocketAddr) -> Result<(), Failure> {
    serve(listen, Bare { peer: peer(upstream) })
}

/// The peer every Pingora row shares: plain HTTP/1.1, kept for a minute when idle.
pub(crate) fn peer(upstream: SocketAddr) -> HttpPeer {
    // A socket address resolves to itself: nothing blocks, nothing can fail.
    let mut peer = HttpPeer::new(upstream, false, String::new());
    peer.options.connection_timeout = Some(Duration::from_secs(2));
    peer.options.idle_timeout = Some(Duration::from_secs(60));
    peer
}

/// Runs one Pingora service on one thread.
pub(crate) fn serve<P>(listen: SocketAddr, proxy: P) -> Result<(), Failure>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    let conf = ServerConf { threads: 1, upstream_keepalive_pool_size: POOL, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = pingora_proxy::http_proxy_service(&Arc::clone(&server.configuration), proxy);
    service.add_tcp(&listen.to_string());
    server.add_service(service);
    server.run_forever()
}
