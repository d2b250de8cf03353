//! Metrics of clients' connections, by listener.
//! Not here: requests (`metrics`).

use std::sync::Arc;

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Why the gateway ended a connection of its own accord.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// There are as many connections as there may be.
    Full,
    /// The client's address has as many as it may.
    Address,
    /// The client's address is not among those that may connect.
    Network,
    /// No good PROXY protocol header, or not from a trusted proxy.
    ProxyProtocol,
    /// TLS was not agreed on.
    Tls,
    /// TLS or the head of a request took too long.
    Head,
    /// The head of a request is far longer than any that is taken.
    LongHead,
    /// The client did not read its answers.
    SlowReader,
}

impl Cut {
    const ALL: [Self; 8] = [
        Self::Full,
        Self::Address,
        Self::Network,
        Self::ProxyProtocol,
        Self::Tls,
        Self::Head,
        Self::LongHead,
        Self::SlowReader,
    ];

    /// Its label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Address => "address",
            Self::Network => "network",
            Self::ProxyProtocol => "proxy_protocol",
            Self::Tls => "tls",
            Self::Head => "head_timeout",
            Self::LongHead => "head_too_long",
            Self::SlowReader => "slow_reader",
        }
    }
}

/// The families that every listener has a part of.
#[derive(Debug)]
pub(super) struct ConnectionFamilies {
    open: IntGaugeVec,
    cut: IntCounterVec,
    certificates: IntCounterVec,
}

impl ConnectionFamilies {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let open = IntGaugeVec::new(
            Opts::new("tollgate_connections", "Open connections of clients."),
            &["listener"],
        )?;
        let cut = IntCounterVec::new(
            Opts::new("tollgate_connections_cut_total", "Connections that the gateway refused or ended."),
            &["listener", "reason"],
        )?;
        let certificates = IntCounterVec::new(
            Opts::new("tollgate_certificate_reloads_total", "Changed TLS files by result."),
            &["listener", "result"],
        )?;
        registry.register(Box::new(open.clone()))?;
        registry.register(Box::new(cut.clone()))?;
        registry.register(Box::new(certificates.clone()))?;
        Ok(Self { open, cut, certificates })
    }

    pub(super) fn listener(&self, name: &str) -> ListenerMeters {
        ListenerMeters {
            open: self.open.with_label_values(&[name]),
            cut: Cut::ALL.map(|cut| self.cut.with_label_values(&[name, cut.as_str()])),
            reloaded: self.certificates.with_label_values(&[name, "success"]),
            reload_failed: self.certificates.with_label_values(&[name, "failure"]),
        }
    }
}

/// The handles of one listener.
#[derive(Debug)]
pub struct ListenerMeters {
    open: IntGauge,
    cut: [IntCounter; Cut::ALL.len()],
    reloaded: IntCounter,
    reload_failed: IntCounter,
}

impl ListenerMeters {
    /// Counts a connection as open until the guard is dropped.
    pub fn opened(self: &Arc<Self>) -> OpenConnection {
        self.open.inc();
        OpenConnection(Arc::clone(self))
    }

    /// A connection was refused or ended.
    pub fn cut(&self, cut: Cut) {
        if let Some(counter) = self.cut.get(cut as usize) {
            counter.inc();
        }
    }

    /// Changed TLS files were taken over, or found to be no good.
    pub fn certificate_reloaded(&self, ok: bool) {
        if ok { self.reloaded.inc() } else { self.reload_failed.inc() }
    }
}

/// A connection that is counted as open.
#[derive(Debug)]
pub struct OpenConnection(Arc<ListenerMeters>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.dec();
    }
}
