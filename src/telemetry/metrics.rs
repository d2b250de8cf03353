//! Every metric of the gateway, registered by name in one place; requests hold handles and look nothing up by label.
//! Not here: the route that serves them (`control`).
//!
//! Label values are bounded: servers come from the catalog, methods and outcomes are closed sets, and a tool's name
//! becomes a label only once its server has accepted it, up to a cap.

mod children;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use children::ChildFamilies;
use parking_lot::Mutex;
use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::connections::{ConnectionFamilies, ListenerMeters};
use super::fleet::FleetFamilies;
use super::life::LifeMeters;
use crate::mcp::Method;

/// How an exchange ended. Three layers are told apart: transport, JSON-RPC, and the tool itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A result.
    Ok,
    /// A result with `isError`.
    ToolError,
    /// A JSON-RPC error of the server.
    RpcError,
    /// The upstream could not be reached or broke its word.
    TransportError,
    /// A deadline passed.
    Timeout,
    /// Refused by us: no good credential, not allowed, or a request we do not take.
    Denied,
    /// Refused by us: too many.
    RateLimited,
    /// The client left before the answer was there.
    ClientGone,
}

impl Outcome {
    const COUNT: usize = Self::ClientGone as usize + 1;

    /// Its label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ToolError => "tool_error",
            Self::RpcError => "rpc_error",
            Self::TransportError => "transport_error",
            Self::Timeout => "timeout",
            Self::Denied => "denied",
            Self::RateLimited => "rate_limited",
            Self::ClientGone => "client_gone",
        }
    }
}

/// Buckets of OpenTelemetry's conventions for MCP, with two more below for a gateway's own time.
const SECONDS: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// The gateway's metrics.
#[derive(Debug)]
pub struct Meters {
    registry: Registry,
    families: Arc<Families>,
    connections: ConnectionFamilies,
    life: LifeMeters,
    tool_labels_max: usize,
    servers: Mutex<HashMap<String, Arc<ServerMeters>>>,
}

#[derive(Debug)]
pub(super) struct Families {
    requests: IntCounterVec,
    tool_calls: IntCounterVec,
    operation: HistogramVec,
    upstream: HistogramVec,
    in_flight: IntGauge,
    sessions_active: IntGaugeVec,
    sessions_opened: IntCounterVec,
    server_up: IntGaugeVec,
    pub(super) fleet: FleetFamilies,
    health_checks: IntCounterVec,
    children: ChildFamilies,
    denied: IntCounterVec,
    rate_limited: IntCounterVec,
    authentications: IntCounterVec,
    reloads: IntCounterVec,
    reload_ok: IntGauge,
    reload_time: Gauge,
    reload_seconds: Histogram,
    generation: IntGauge,
    dropped_events: IntCounterVec,
}

impl Meters {
    /// Registers every metric. Fails only if two have the same name.
    pub fn new(tool_labels_max: usize) -> prometheus::Result<Self> {
        let registry = super::panics::registry()?;
        let families = Arc::new(Families::new(&registry)?);
        let connections = ConnectionFamilies::new(&registry)?;
        let life = LifeMeters::new(&registry)?;
        let info = IntGaugeVec::new(
            Opts::new("tollgate_build_info", "Always 1; the version is a label."),
            &["version"],
        )?;
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(info))?;
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self { registry, families, connections, life, tool_labels_max, servers: Mutex::default() })
    }

    /// All metrics in the text format 0.0.4.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(16 * 1024);
        // Writing to memory fails only for an ill-formed metric, which `new` would have refused.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }

    /// The handles of one server; the same ones for the same id.
    pub fn server(&self, id: &str) -> Arc<ServerMeters> {
        let mut servers = self.servers.lock();
        let make = || Arc::new(ServerMeters::new(id, Arc::clone(&self.families), self.tool_labels_max));
        Arc::clone(servers.entry(id.to_owned()).or_insert_with(make))
    }

    /// Removes the series of servers that the catalog no longer has.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.servers.lock().retain(|id, meters| {
            let stays = keep(id);
            if !stays {
                meters.remove();
            }
            stays
        });
    }

    /// The handles of one listener.
    pub fn listener(&self, name: &str) -> Arc<ListenerMeters> {
        Arc::new(self.connections.listener(name))
    }

    /// Of the process's own life.
    pub fn life(&self) -> &LifeMeters {
        &self.life
    }

    /// Calls in flight.
    pub fn in_flight(&self) -> &IntGauge {
        &self.families.in_flight
    }

    /// Sessions that were used in the last minutes.
    pub fn set_sessions_active(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.families.sessions_active.with_label_values(&["streamable-http"]).set(count);
    }

    /// A refusal because of a limit; `scope` says whose.
    pub fn rate_limited(&self, scope: &'static str) {
        self.families.rate_limited.with_label_values(&[scope]).inc();
    }

    /// The counter of authentications by `method` with `result`, to be kept by whoever counts.
    pub fn authentications(&self, method: &'static str, result: &'static str) -> IntCounter {
        self.families.authentications.with_label_values(&[method, result])
    }

    /// Events that found no room in a bounded queue.
    pub fn dropped(&self, queue: &'static str, count: u64) {
        self.families.dropped_events.with_label_values(&[queue]).inc_by(count);
    }

    /// A load of the catalog that succeeded, as generation `generation`.
    pub fn reloaded(&self, generation: u64, took: Duration) {
        self.families.reloads.with_label_values(&["success"]).inc();
        self.families.reload_ok.set(1);
        self.families.reload_seconds.observe(took.as_secs_f64());
        self.families.reload_time.set(std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64());
        self.families.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// A load of the catalog that changed nothing, because the file is wrong.
    pub fn reload_failed(&self) {
        self.families.reloads.with_label_values(&["failure"]).inc();
        self.families.reload_ok.set(0);
    }
}

impl Families {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone())).map(|()| vec)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone())).map(|()| vec)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone())).map(|()| gauge)
        };
        let histogram = |name: &str, help: &str| {
            let opts = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            let vec = HistogramVec::new(opts, &["server", "mcp_method_name"])?;
            registry.register(Box::new(vec.clone())).map(|()| vec)
        };
        let reload_time = Gauge::new(
            "tollgate_config_last_reload_success_timestamp_seconds",
            "When the catalog was last loaded, in Unix time.",
        )?;
        registry.register(Box::new(reload_time.clone()))?;
        let reload_seconds = Histogram::with_opts(
            HistogramOpts::new("tollgate_config_reload_duration_seconds", "Time a load of the catalog took.")
                .buckets(vec![0.001, 0.005, 0.02, 0.1, 0.5, 2.0]),
        )?;
        registry.register(Box::new(reload_seconds.clone()))?;
        Ok(Self {
            requests: counter(
                "tollgate_requests_total",
                "Exchanges by server, method and outcome.",
                &["server", "method", "outcome"],
            )?,
            tool_calls: counter(
                "tollgate_tool_calls_total",
                "tools/call by server, tool and outcome.",
                &["server", "tool", "outcome"],
            )?,
            operation: histogram(
                "mcp_server_operation_duration_seconds",
                "Time from a request's arrival to the end of its answer.",
            )?,
            upstream: histogram(
                "mcp_client_operation_duration_seconds",
                "Time from sending a request upstream to the head of its answer.",
            )?,
            in_flight: gauge("tollgate_requests_in_flight", "Exchanges that are running.")?,
            sessions_active: gauges(
                "tollgate_sessions_active",
                "Legacy sessions used in the last five minutes.",
                &["transport"],
            )?,
            sessions_opened: counter(
                "tollgate_sessions_opened_total",
                "Legacy sessions opened.",
                &["server"],
            )?,
            server_up: gauges(
                "tollgate_server_up",
                "Whether a server has an endpoint that can answer.",
                &["server"],
            )?,
            fleet: FleetFamilies::new(registry)?,
            health_checks: counter(
                "tollgate_server_health_checks_total",
                "Health checks by result.",
                &["server", "result"],
            )?,
            children: ChildFamilies::new(registry)?,
            denied: counter("tollgate_denied_total", "Requests denied by rules.", &["server", "reason"])?,
            rate_limited: counter("tollgate_rate_limited_total", "Refusals by limits.", &["scope"])?,
            authentications: counter(
                "tollgate_auth_requests_total",
                "Authentications by method and result.",
                &["method", "result"],
            )?,
            reloads: counter(
                "tollgate_config_reloads_total",
                "Loads of the catalog by result.",
                &["result"],
            )?,
            reload_ok: gauge("tollgate_config_last_reload_successful", "Whether the last load succeeded.")?,
            reload_time,
            reload_seconds,
            generation: gauge("tollgate_config_generation", "Number of the catalog in force.")?,
            dropped_events: counter(
                "tollgate_events_dropped_total",
                "Events that found no room.",
                &["queue"],
            )?,
        })
    }
}

/// The handles of one server. Each is made at its first use, so unused combinations cost no series.
#[derive(Debug)]
pub struct ServerMeters {
    pub(super) id: String,
    pub(super) families: Arc<Families>,
    requests: [[OnceLock<IntCounter>; Outcome::COUNT]; Method::COUNT],
    operation: [OnceLock<Histogram>; Method::COUNT],
    upstream: [OnceLock<Histogram>; Method::COUNT],
    tools: Mutex<HashMap<Box<str>, Arc<ToolMeters>>>,
    other_tools: ToolMeters,
    tool_labels_max: usize,
    pub(super) endpoints: Mutex<Vec<usize>>,
}

#[derive(Debug, Default)]
struct ToolMeters([OnceLock<IntCounter>; Outcome::COUNT]);

/// What the policy denies: see `auth::Denied::reason`.
const DENIALS: [&str; 6] = [
    "denied_server",
    "denied_tool",
    "denied_prompt",
    "denied_resource",
    "denied_method",
    "insufficient_scope",
];
/// The label of tools that have none of their own.
const OTHER_TOOL: &str = "_other";

impl ServerMeters {
    fn new(id: &str, families: Arc<Families>, tool_labels_max: usize) -> Self {
        Self {
            id: id.to_owned(),
            families,
            requests: std::array::from_fn(|_| std::array::from_fn(|_| OnceLock::new())),
            operation: std::array::from_fn(|_| OnceLock::new()),
            upstream: std::array::from_fn(|_| OnceLock::new()),
            tools: Mutex::default(),
            other_tools: ToolMeters::default(),
            tool_labels_max,
            endpoints: Mutex::default(),
        }
    }

    /// An exchange that is over.
    pub fn exchange(&self, method: Method, outcome: Outcome, took: Duration) {
        let labels = || [self.id.as_str(), method.label(), outcome.as_str()];
        if let Some(slot) = self.requests.get(method.index()).and_then(|row| row.get(outcome as usize)) {
            slot.get_or_init(|| self.families.requests.with_label_values(&labels())).inc();
        }
        if let Some(slot) = self.operation.get(method.index()) {
            let make = || self.families.operation.with_label_values(&[self.id.as_str(), method.label()]);
            slot.get_or_init(make).observe(took.as_secs_f64());
        }
    }

    /// The time an upstream took to begin its answer.
    pub fn upstream(&self, method: Method, took: Duration) {
        if let Some(slot) = self.upstream.get(method.index()) {
            let make = || self.families.upstream.with_label_values(&[self.id.as_str(), method.label()]);
            slot.get_or_init(make).observe(took.as_secs_f64());
        }
    }

    /// A `tools/call` that is over. Only a tool that its server accepted gets a label of its own.
    pub fn tool_call(&self, tool: &str, outcome: Outcome) {
        let accepted = matches!(outcome, Outcome::Ok | Outcome::ToolError);
        let known = {
            let mut tools = self.tools.lock();
            match tools.get(tool) {
                Some(meters) => Some(Arc::clone(meters)),
                None if accepted && tools.len() < self.tool_labels_max && tool.len() <= 128 => {
                    Some(Arc::clone(tools.entry(tool.into()).or_default()))
                }
                None => None,
            }
        };
        let (meters, label) = match &known {
            Some(meters) => (meters.as_ref(), tool),
            None => (&self.other_tools, OTHER_TOOL),
        };
        if let Some(slot) = meters.0.get(outcome as usize) {
            let labels = [self.id.as_str(), label, outcome.as_str()];
            slot.get_or_init(|| self.families.tool_calls.with_label_values(&labels)).inc();
        }
    }

    /// A request that the policy denied; `reason` is a word of `auth::Denied`.
    pub fn denied(&self, reason: &'static str) {
        self.families.denied.with_label_values(&[self.id.as_str(), reason]).inc();
    }

    /// A session was opened.
    pub fn session_opened(&self) {
        self.families.sessions_opened.with_label_values(&[&self.id]).inc();
    }

    /// Whether any endpoint is in rotation.
    pub fn up(&self, up: bool) {
        self.families.server_up.with_label_values(&[&self.id]).set(i64::from(up));
    }

    /// A health check.
    pub fn health_check(&self, ok: bool) {
        let result = if ok { "success" } else { "failure" };
        self.families.health_checks.with_label_values(&[self.id.as_str(), result]).inc();
    }

    fn remove(&self) {
        let id = self.id.as_str();
        let families = &self.families;
        let outcomes = [
            Outcome::Ok,
            Outcome::ToolError,
            Outcome::RpcError,
            Outcome::TransportError,
            Outcome::Timeout,
            Outcome::Denied,
            Outcome::RateLimited,
            Outcome::ClientGone,
        ];
        // A series that was never made cannot be removed, which is what we want anyway.
        let methods = Method::KNOWN.map(|(name, _)| name);
        for method in methods.into_iter().chain(["_other", "_response", "_stream", "_end_session"]) {
            let _ = families.operation.remove_label_values(&[id, method]);
            let _ = families.upstream.remove_label_values(&[id, method]);
            for outcome in outcomes {
                let _ = families.requests.remove_label_values(&[id, method, outcome.as_str()]);
            }
        }
        let tools = self.tools.lock();
        for tool in tools.keys().map(AsRef::as_ref).chain([OTHER_TOOL]) {
            for outcome in outcomes {
                let _ = families.tool_calls.remove_label_values(&[id, tool, outcome.as_str()]);
            }
        }
        self.remove_endpoints();
        for reason in DENIALS {
            let _ = families.denied.remove_label_values(&[id, reason]);
        }
        for result in ["success", "failure"] {
            let _ = families.health_checks.remove_label_values(&[id, result]);
        }
        let _ = families.sessions_opened.remove_label_values(&[id]);
        self.forget_children();
        let _ = families.server_up.remove_label_values(&[id]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(meters: &Meters) -> String {
        String::from_utf8(meters.render()).unwrap()
    }

    #[test]
    fn labels_are_bounded_and_go_with_their_server() {
        let meters = Meters::new(2).unwrap();
        let server = meters.server("s");
        for n in 0..50 {
            server.tool_call(&format!("made-up-{n}"), Outcome::RpcError);
            server.tool_call(&format!("real-{n}"), Outcome::Ok);
        }
        server.exchange(Method::ToolsCall, Outcome::Ok, Duration::from_millis(3));
        server.endpoint_state(1, "healthy", true);
        server.circuit(2);
        server.ejected("late");
        server.retried("broken");
        server.session_restored(true);
        DENIALS.iter().for_each(|reason| server.denied(reason));
        let shown = text(&meters);
        assert!(!shown.contains("made-up"));
        assert_eq!(shown.matches("tool=\"real-").count(), 2);
        assert!(shown.contains(r#"tollgate_tool_calls_total{outcome="ok",server="s",tool="_other"} 48"#));
        assert!(shown.contains(r#"tollgate_requests_total{method="tools/call",outcome="ok",server="s"} 1"#));
        meters.retain(|_| false);
        assert!(!text(&meters).contains("server=\"s\""));
    }
}
