//! `mcp-sim`: an MCP server over HTTP that can misbehave at every byte and in every phase, and counts what it did.
//! Not here: a server that plays a script (`fake`), one that records bytes (`recorder`).
//!
//! [`Sim::start`] gives a server that is honest in both eras: sessions with ids, GET streams, answers as JSON or
//! ([`Sim::answers_in`]) as events. Its one tool `echo` takes `n` (a name of the call that no other call has), `ms` (how
//! long it works) and `progress` (how many notifications come meanwhile); it says `n` back.
//!
//! A test makes it misbehave, while it runs, in three places:
//! * at the door, [`Sim::door`]: refuse, black-hole, reset, or half-open what is connected already;
//! * while a request is read, [`Sim::cut_request`]: it breaks after that many bytes;
//! * in the answer, [`Sim::be`] (to all), [`Sim::be_at`] (to one method), [`Sim::once_at`] (to the next of a method): see
//!   [`Manner`]. [`Manner::by`] decides by the request: sometimes, in turns, slower and slower.
//!
//! [`Sim::facts`] is the ground truth. A call counts as executed as soon as all of its request has arrived, whatever is
//! answered, unless it came in a session that is not known: [`Facts::executions`] of a call's `n` above 1 is a call that ran
//! twice. [`Sim::until`] waits for a fact.
//!
//! It panics loudly at what is no HTTP/1.1; the panic becomes the test's when the server is dropped. It knows nothing
//! of this crate, so that a bench may take it as a module too.
#![allow(dead_code, reason = "a server for several programs: not each of them makes every mistake")]

// Found in the same way from wherever this file is taken as a module.
#[path = "sim/bytes.rs"]
mod bytes;
#[path = "sim/serve.rs"]
mod serve;
#[path = "sim/speak.rs"]
mod speak;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{broadcast, oneshot, watch};

/// How long the server may take to do what it is told, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// One request, as far as a manner looks at it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Counts requests, from 0.
    pub(crate) number: usize,
    /// Counts connections, from 0.
    pub(crate) connection: usize,
    /// POST, GET or DELETE.
    pub(crate) verb: String,
    pub(crate) path: String,
    /// Names in lower case, the last of each.
    pub(crate) headers: BTreeMap<String, String>,
    /// The JSON-RPC message; null when there is none.
    pub(crate) message: Value,
}

impl Asked {
    /// The JSON-RPC method; of a request without one, the HTTP method.
    pub(crate) fn method(&self) -> &str {
        self.message["method"].as_str().unwrap_or(&self.verb)
    }

    /// The name that a call has of its own.
    pub(crate) fn n(&self) -> Option<&str> {
        self.message["params"]["arguments"]["n"].as_str()
    }

    /// Whether it is of the era without sessions.
    pub(crate) fn is_modern(&self) -> bool {
        self.headers.get("mcp-protocol-version").is_some_and(|version| version.as_str() >= "2026")
    }
}

/// How an answer ends that is not whole, and how a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// An orderly end (FIN).
    Close,
    /// RST.
    Reset,
    /// Nothing more comes, and nothing ends, until the other side gives up.
    Stall,
}

/// How answers are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Json,
    Events,
}

type Choice = dyn Fn(&Asked) -> Manner + Send + Sync;
type Making = dyn Fn(&Asked) -> Vec<u8> + Send + Sync;

/// How a request is answered.
#[derive(Clone)]
pub(crate) enum Manner {
    /// As it should be.
    Honest,
    /// Not at all, until the other side gives up.
    Silent,
    /// As it should be, but later.
    Late(Duration),
    /// As it should be, up to that many bytes, head included; then so.
    Cut(usize, End),
    /// As it should be, in pieces of that many bytes, with that time between them.
    Drip(usize, Duration),
    /// With this status, and a page that is no JSON.
    Status(u16),
    /// With these bytes, whatever they are; then so.
    Raw(Arc<[u8]>, End),
    /// With bytes made of the request; then so.
    Made(Arc<Making>, End),
    /// With the first bytes, then with the second ones again and again until the other side gives up.
    Endless(Arc<[u8]>, Arc<[u8]>),
    /// As the choice says.
    By(Arc<Choice>),
}

impl Manner {
    /// Bytes as they are; then so.
    pub(crate) fn raw(bytes: impl AsRef<[u8]>, end: End) -> Self {
        Self::Raw(bytes.as_ref().into(), end)
    }

    /// Bytes made of the request; then so.
    pub(crate) fn made(make: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static, end: End) -> Self {
        Self::Made(Arc::new(make), end)
    }

    /// A head, then pieces without end.
    pub(crate) fn endless(head: impl AsRef<[u8]>, piece: impl AsRef<[u8]>) -> Self {
        Self::Endless(head.as_ref().into(), piece.as_ref().into())
    }

    /// Now so, now otherwise.
    pub(crate) fn by(choice: impl Fn(&Asked) -> Self + Send + Sync + 'static) -> Self {
        Self::By(Arc::new(choice))
    }
}

/// What becomes of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// They are taken and served.
    Open,
    /// Nobody listens.
    Shut,
    /// They are taken, and nothing is ever read or written.
    Blackhole,
    /// They are taken and reset.
    Reset,
}

/// What it did so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct Facts {
    /// Connections taken.
    pub(crate) connections: usize,
    /// Connections open now.
    pub(crate) open: usize,
    /// Whole requests, by [`Asked::method`].
    pub(crate) requests: BTreeMap<String, usize>,
    /// Calls whose request arrived whole, by their `n`.
    pub(crate) executed: HashMap<String, usize>,
    /// Sessions opened by `initialize`, confirmed by `notifications/initialized`, and ended by DELETE.
    pub(crate) opened: usize,
    pub(crate) initialized: usize,
    pub(crate) deleted: usize,
    /// Ids of sessions that it knows now.
    pub(crate) live: HashSet<String>,
    /// Requests that named a session it does not know.
    pub(crate) strangers: usize,
    /// Calls, by their `n`, whose connection the other side closed before they were answered.
    pub(crate) abandoned: HashMap<String, Instant>,
    /// Calls, by their `n`, whose answer was written to its end.
    pub(crate) answered: HashSet<String>,
    /// Ids of requests that `notifications/cancelled` named.
    pub(crate) cancelled: Vec<Value>,
    /// Length of the last request, and of the last honest answer.
    pub(crate) request_bytes: usize,
    pub(crate) answer_bytes: usize,
}

impl Facts {
    /// How often the call with that name ran.
    pub(crate) fn executions(&self, n: &str) -> usize {
        self.executed.get(n).copied().unwrap_or(0)
    }

    /// Requests with that method.
    pub(crate) fn asked(&self, method: &str) -> usize {
        self.requests.get(method).copied().unwrap_or(0)
    }

    /// The most that any call ran.
    pub(crate) fn most(&self) -> usize {
        self.executed.values().copied().max().unwrap_or(0)
    }
}

/// How it behaves now.
struct Behaviour {
    all: Manner,
    at: HashMap<String, Manner>,
    once: Vec<(String, Manner)>,
    cut: Option<(usize, End)>,
    kind: Kind,
    /// What a session that is not known gets.
    stranger: (u16, &'static str),
    modern: bool,
    legacy: bool,
}

/// What happens to connections that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fate {
    /// Rises with each event.
    turn: usize,
    /// Reset, or left half-open.
    reset: bool,
}

struct Shared {
    behaviour: Mutex<Behaviour>,
    facts: Mutex<Facts>,
    /// Counts changes of the facts.
    turn: watch::Sender<usize>,
    door: watch::Sender<Door>,
    /// The door that has been acted upon.
    at_door: Mutex<Door>,
    door_done: Condvar,
    fate: watch::Sender<Fate>,
    /// What open GET streams are sent.
    news: broadcast::Sender<String>,
    tls: Option<tokio_rustls::TlsAcceptor>,
}

impl Shared {
    fn note<T>(&self, change: impl FnOnce(&mut Facts) -> T) -> T {
        let done = change(&mut self.facts.lock().unwrap());
        self.turn.send_modify(|turn| *turn += 1);
        done
    }
}

/// A server that runs until it is dropped.
pub(crate) struct Sim {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sim {
    /// An honest server of both eras.
    pub(crate) fn start() -> Self {
        Self::launch(None)
    }

    /// The same behind TLS.
    pub(crate) fn start_tls(tls: Arc<rustls::ServerConfig>) -> Self {
        Self::launch(Some(tls.into()))
    }

    fn launch(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let behaviour = Behaviour {
            all: Manner::Honest,
            at: HashMap::new(),
            once: Vec::new(),
            cut: None,
            kind: Kind::Json,
            stranger: (404, "Session not found"),
            modern: true,
            legacy: true,
        };
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(behaviour),
            facts: Mutex::default(),
            turn: watch::Sender::new(0),
            door: watch::Sender::new(Door::Open),
            at_door: Mutex::new(Door::Open),
            door_done: Condvar::new(),
            fate: watch::Sender::new(Fate { turn: 0, reset: false }),
            news: broadcast::Sender::new(1024),
            tls,
        });
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve::run(listener, serving, stopped));
        });
        Self { address, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its endpoint.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/mcp", self.address)
    }

    fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.shared.behaviour.lock().unwrap());
    }

    /// How it answers from now on.
    pub(crate) fn be(&self, manner: Manner) {
        self.change(|behaviour| behaviour.all = manner);
    }

    /// How it answers one method (`tools/call`, or `GET` and `DELETE`) from now on.
    pub(crate) fn be_at(&self, method: &str, manner: Manner) {
        self.change(|behaviour| drop(behaviour.at.insert(method.to_owned(), manner)));
    }

    /// How it answers the next request with that method, and no other.
    pub(crate) fn once_at(&self, method: &str, manner: Manner) {
        self.change(|behaviour| behaviour.once.push((method.to_owned(), manner)));
    }

    /// The next request on any connection is broken when that many bytes of it were read; if it is shorter, before
    /// the answer.
    pub(crate) fn cut_request(&self, after: usize, end: End) {
        self.change(|behaviour| behaviour.cut = Some((after, end)));
    }

    /// Honest again in all that it answers, and open to all.
    pub(crate) fn heal(&self) {
        self.change(|behaviour| {
            behaviour.all = Manner::Honest;
            behaviour.at.clear();
            behaviour.once.clear();
            behaviour.cut = None;
        });
        self.door(Door::Open);
    }

    /// How it frames its answers to requests from now on.
    pub(crate) fn answers_in(&self, kind: Kind) {
        self.change(|behaviour| behaviour.kind = kind);
    }

    /// Which eras it speaks; both at first.
    pub(crate) fn speaks(&self, legacy: bool, modern: bool) {
        self.change(|behaviour| (behaviour.legacy, behaviour.modern) = (legacy, modern));
    }

    /// What a session that it does not know gets: 404 at first.
    pub(crate) fn meets_strangers_with(&self, status: u16, words: &'static str) {
        self.change(|behaviour| behaviour.stranger = (status, words));
    }

    /// Forgets all sessions, as a restart would.
    pub(crate) fn forget(&self) {
        self.shared.note(|facts| facts.live.clear());
    }

    /// What becomes of new connections, from when this returns. Those that are open are left alone.
    pub(crate) fn door(&self, door: Door) {
        self.shared.door.send_replace(door);
        let at_door = self.shared.at_door.lock().unwrap();
        let done = self.shared.door_done.wait_timeout_while(at_door, PATIENCE, |at| *at != door).unwrap();
        assert!(!done.1.timed_out(), "the server does not act");
    }

    /// Resets all open connections.
    pub(crate) fn reset(&self) {
        self.shared.fate.send_modify(|fate| *fate = Fate { turn: fate.turn + 1, reset: true });
    }

    /// Leaves all open connections half-open: they are neither read nor closed any more.
    pub(crate) fn freeze(&self) {
        self.shared.fate.send_modify(|fate| *fate = Fate { turn: fate.turn + 1, reset: false });
    }

    /// Dies: nobody listens, connections are reset, sessions are lost. [`Sim::heal`] starts it again.
    pub(crate) fn crash(&self) {
        self.door(Door::Shut);
        self.reset();
        self.forget();
    }

    /// Sends a message to everybody who has a stream open.
    pub(crate) fn tell(&self, message: &Value) {
        // Nobody may be listening.
        let _ = self.shared.news.send(message.to_string());
    }

    /// What it did so far.
    pub(crate) fn facts(&self) -> Facts {
        self.shared.facts.lock().unwrap().clone()
    }

    /// Looks at what it did so far, without copying it.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Facts) -> T) -> T {
        look(&self.shared.facts.lock().unwrap())
    }

    /// Waits for a fact.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        within: Duration,
        found: impl Fn(&Facts) -> Option<T>,
    ) -> T {
        let mut turn = self.shared.turn.subscribe();
        let search = async {
            loop {
                if let Some(found) = self.look(&found) {
                    return found;
                }
                turn.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(within, search).await {
            Ok(found) => found,
            Err(_) => {
                panic!("not seen within {within:?}: {what}; {:?}", self.look(|facts| facts.requests.clone()))
            }
        }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if let (Some(Err(panic)), false) = (ended, std::thread::panicking()) {
            std::panic::resume_unwind(panic);
        }
    }
}
