//! Sessions seen lately: opened once, counted, and forgotten when idle.
//! Not here: what a session is (`seal`). Losing this table costs nothing but the opening of ids again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::census::{Census, Crowded, Room};
use super::seal::{Pin, Sealer, SessionError};
use crate::failpoint;

/// A session counts as active this long after its last message.
const ACTIVE_FOR: Duration = Duration::from_secs(300);
const SHARDS: usize = 16;

/// Opens sealed ids, and remembers those it has opened: the cryptography is paid once for a session, not per message.
///
/// Invariant: what is remembered answers only for the same id, caller and server, and only while it is not expired.
#[derive(Debug)]
pub struct Sessions {
    sealer: Sealer,
    shards: [Mutex<HashMap<u64, Seen>>; SHARDS],
    /// Sessions that their clients ended: they are not opened anew, whatever their ids say.
    ended: Mutex<Ended>,
    /// Sessions that are being opened anew, so that it is done once.
    restoring: Mutex<HashMap<u64, Weak<tokio::sync::Mutex<()>>>>,
    /// How many of them there are, and whose.
    census: Census,
    /// Which shard is looked through next.
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Seen {
    id: Box<str>,
    caller: u128,
    server: Box<str>,
    pin: Arc<Pin>,
    wishes: Wishes,
    expires: SystemTime,
    last: Instant,
}

/// What a client asked of its session that a server keeps for it, and that is asked again when the session is opened
/// anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// The least level of log messages.
    pub level: Option<Box<str>>,
    /// Resources that it subscribed to.
    pub subscriptions: Vec<Box<str>>,
}

/// Subscriptions remembered for one session; a client that has more subscribes again by itself.
const SUBSCRIPTIONS_MAX: usize = 64;

impl Sessions {
    /// Sessions sealed by `sealer`.
    pub fn new(sealer: Sealer) -> Self {
        Self {
            sealer,
            shards: Default::default(),
            ended: Mutex::default(),
            restoring: Mutex::default(),
            census: Census::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// The same with other room for them. Above it ids are opened at every message, and no sessions are begun.
    pub fn with_room(self, room: Room) -> Self {
        Self { census: Census::new(room), ..self }
    }

    /// Whether `caller` may begin a session with `server`. Those that are idle make room first.
    pub fn admit(&self, caller: u128, server: &str) -> Result<(), Crowded> {
        self.census.check(caller, server).or_else(|_| {
            self.active();
            self.census.check(caller, server)
        })
    }

    /// How many are remembered.
    pub fn known(&self) -> usize {
        self.census.all()
    }

    /// The id of a new session that `caller` has with `server`.
    pub fn seal(&self, caller: u128, server: &str, pin: Pin) -> Result<String, SessionError> {
        let id = self.sealer.seal(caller, server, &pin)?;
        self.remember(&id, (caller, server), &Arc::new(pin), self.sealer.expiry());
        Ok(id)
    }

    /// What the id is pinned to, if `caller` has it with `server` and it is not too old.
    pub fn open(&self, id: &str, caller: u128, server: &str) -> Result<Arc<Pin>, SessionError> {
        let key = number(id);
        if let Some(seen) = self.shard(key).lock().get_mut(&key)
            && *seen.id == *id
            && seen.caller == caller
            && *seen.server == *server
        {
            if seen.expires <= SystemTime::now() {
                return Err(SessionError::Expired);
            }
            seen.last = Instant::now();
            return Ok(Arc::clone(&seen.pin));
        }
        let (pin, expires) = self.sealer.open_until(id, caller, server)?;
        if self.ended.lock().has(id) {
            return Err(SessionError::Ended);
        }
        let pin = Arc::new(pin);
        self.remember(id, (caller, server), &pin, expires);
        Ok(pin)
    }

    /// The session was opened anew at its server: what `open` gave before is replaced, as long as it is remembered.
    pub fn restored(&self, id: &str, caller: u128, server: &str, pin: Pin) -> Arc<Pin> {
        let pin = Arc::new(pin);
        let key = number(id);
        if let Some(seen) = self.shard(key).lock().get_mut(&key).filter(|seen| *seen.id == *id) {
            seen.pin = Arc::clone(&pin);
            return pin;
        }
        self.remember(id, (caller, server), &pin, self.sealer.expiry());
        pin
    }

    /// Holds back others that would open the same session anew.
    pub fn gate(&self, id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut restoring = self.restoring.lock();
        restoring.retain(|_, gate| gate.strong_count() > 0);
        if let Some(gate) = restoring.get(&number(id)).and_then(Weak::upgrade) {
            return gate;
        }
        let gate = Arc::default();
        restoring.insert(number(id), Arc::downgrade(&gate));
        gate
    }

    /// What the client asked of its session.
    pub fn wishes(&self, id: &str) -> Wishes {
        let key = number(id);
        let shard = self.shard(key).lock();
        shard.get(&key).filter(|seen| *seen.id == *id).map(|seen| seen.wishes.clone()).unwrap_or_default()
    }

    /// The client set the level of log messages.
    pub fn set_level(&self, id: &str, level: &str) {
        self.wish(id, |wishes| wishes.level = Some(level.into()));
    }

    /// The client subscribed to a resource.
    pub fn subscribed(&self, id: &str, uri: &str) {
        self.wish(id, |wishes| {
            let known = wishes.subscriptions.iter().any(|known| **known == *uri);
            if !known && wishes.subscriptions.len() < SUBSCRIPTIONS_MAX {
                wishes.subscriptions.push(uri.into());
            }
        });
    }

    /// The client unsubscribed from a resource.
    pub fn unsubscribed(&self, id: &str, uri: &str) {
        self.wish(id, |wishes| wishes.subscriptions.retain(|known| **known != *uri));
    }

    fn wish(&self, id: &str, change: impl FnOnce(&mut Wishes)) {
        let key = number(id);
        if let Some(seen) = self.shard(key).lock().get_mut(&key).filter(|seen| *seen.id == *id) {
            change(&mut seen.wishes);
        }
    }

    /// The session ended.
    pub fn end(&self, id: &str) {
        let key = number(id);
        if let Some(seen) = self.shard(key).lock().remove(&key) {
            self.census.leave(seen.caller, &seen.server);
        }
        self.ended.lock().add(id);
    }

    /// How many are active; forgets the others.
    pub fn active(&self) -> usize {
        self.shards.iter().map(|shard| self.forget_idle(shard)).sum()
    }

    /// Forgets some of those that are not active, others with the next call: nobody has to ask for the memory of those
    /// who left without a word.
    pub fn forget_some(&self) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        if let Some(shard) = self.shards.get(turn % SHARDS) {
            self.forget_idle(shard);
        }
    }

    /// How many of a shard are left.
    fn forget_idle(&self, shard: &Mutex<HashMap<u64, Seen>>) -> usize {
        let mut shard = shard.lock();
        shard.retain(|_, seen| {
            let stays = seen.last.elapsed() < ACTIVE_FOR;
            if !stays {
                self.census.leave(seen.caller, &seen.server);
            }
            stays
        });
        // What a busy hour needed is given back.
        if shard.capacity() > 64 && shard.len() * 4 < shard.capacity() {
            let len = shard.len() * 2;
            shard.shrink_to(len);
        }
        shard.len()
    }

    fn remember(&self, id: &str, (caller, server): (u128, &str), pin: &Arc<Pin>, expires: SystemTime) {
        let key = number(id);
        let mut shard = self.shard(key).lock();
        failpoint::pass("lock");
        // Many sessions of other gateways may come here. Whoever is not remembered is only opened again.
        if !self.census.enter(caller, server) {
            return;
        }
        let (id, server, pin) = (id.into(), server.into(), Arc::clone(pin));
        let fresh =
            Seen { id, caller, server, pin, wishes: Wishes::default(), expires, last: Instant::now() };
        if let Some(before) = shard.insert(key, fresh) {
            self.census.leave(before.caller, &before.server);
        }
    }

    fn shard(&self, key: u64) -> &Mutex<HashMap<u64, Seen>> {
        let [first, ..] = &self.shards;
        usize::try_from(key).ok().and_then(|key| self.shards.get(key % SHARDS)).unwrap_or(first)
    }
}

/// Places for ended sessions: half a MiB.
const ENDED_PLACES: usize = 1 << 16;

/// Sessions that their clients ended, by the ends of their ids; a restart forgets them, and then their servers say that
/// they know no such session. Each has one place, where a later one may replace it: what is remembered never grows.
#[derive(Debug)]
struct Ended(Box<[u64]>);

impl Default for Ended {
    fn default() -> Self {
        Self(vec![0; ENDED_PLACES].into())
    }
}

impl Ended {
    fn add(&mut self, id: &str) {
        if let Some((place, mark)) = Self::place(id)
            && let Some(place) = self.0.get_mut(place)
        {
            *place = mark;
        }
    }

    fn has(&self, id: &str) -> bool {
        Self::place(id).is_some_and(|(place, mark)| self.0.get(place) == Some(&mark))
    }

    /// Where a session is remembered, and as what: 96 random bits of its id, mixed into 64.
    fn place(id: &str) -> Option<(usize, u64)> {
        let tail = u128::from_be_bytes(*id.as_bytes().last_chunk::<16>()?);
        let mark = ((tail >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32) ^ tail as u64;
        let mark = mark.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The highest bits are mixed best. No session's mark is that of an empty place.
        Some(((mark >> 48) as usize % ENDED_PLACES, mark | 1))
    }
}

/// A session as a number, for tables and hashes. The end of a sealed id is its authentication tag: random enough to be a
/// key by itself. Eight characters of it are 48 bits; two ids that share them are told apart by the whole id.
pub fn number(id: &str) -> u64 {
    id.as_bytes().last_chunk::<8>().map_or(0, |tail| u64::from_be_bytes(*tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(session: &str) -> Pin {
        Pin { endpoint: 7, upstream_session: session.into(), hello: super::super::Hello::ours() }
    }

    #[tokio::test(start_paused = true)]
    async fn remembers_without_loosening_anything() {
        let sessions = || Sessions::new(Sealer::new(&[1; 32], Duration::from_secs(60)));
        let here = sessions();
        let id = here.seal(1, "a", pin("x")).unwrap();
        for table in [&here, &sessions()] {
            assert_eq!(*table.open(&id, 1, "a").unwrap(), pin("x"));
            assert_eq!(table.open(&id, 2, "a"), Err(SessionError::Foreign));
            assert_eq!(table.open(&id, 1, "b"), Err(SessionError::Foreign));
            assert_eq!(*table.open(&id, 1, "a").unwrap(), pin("x"));
            let mut forged = id.clone();
            forged.replace_range(10..11, if id.as_bytes()[10] == b'A' { "B" } else { "A" });
            assert_eq!(table.open(&forged, 1, "a"), Err(SessionError::Forged), "the same tail, another id");
        }
        let expired = Sessions::new(Sealer::new(&[1; 32], Duration::ZERO));
        assert_eq!(expired.open(&id, 1, "a"), Err(SessionError::Expired));
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_idle_make_room() {
        let room = Room { all: 10, each_caller: 2, each_server: 10 };
        let sessions = Sessions::new(Sealer::new(&[1; 32], Duration::from_secs(6000))).with_room(room);
        let id = sessions.seal(1, "a", pin("x")).unwrap();
        sessions.seal(1, "a", pin("y")).unwrap();
        assert_eq!(sessions.admit(1, "a"), Err(Crowded::Caller));
        assert!(sessions.admit(2, "a").is_ok());
        tokio::time::advance(Duration::from_secs(200)).await;
        sessions.open(&id, 1, "a").unwrap();
        assert_eq!(sessions.admit(1, "a"), Err(Crowded::Caller), "nobody is idle yet");
        tokio::time::advance(Duration::from_secs(200)).await;
        assert!(sessions.admit(1, "a").is_ok());
        assert_eq!((sessions.known(), sessions.active()), (1, 1), "the other stays");
        sessions.end(&id);
        assert_eq!(sessions.known(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn counts_what_was_used_lately() {
        let sessions = Sessions::new(Sealer::new(&[1; 32], Duration::from_secs(6000)));
        let ids: Vec<String> = ["x", "y", "z"].map(|s| sessions.seal(1, "a", pin(s)).unwrap()).into();
        sessions.end(&ids[2]);
        assert_eq!(sessions.active(), 2);
        tokio::time::advance(Duration::from_secs(200)).await;
        sessions.open(&ids[1], 1, "a").unwrap();
        tokio::time::advance(Duration::from_secs(200)).await;
        assert_eq!(sessions.active(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_opened_anew_keeps_what_was_asked_of_it() {
        let sessions = Sessions::new(Sealer::new(&[1; 32], Duration::from_secs(6000)));
        let id = sessions.seal(1, "a", pin("x")).unwrap();
        sessions.set_level(&id, "debug");
        for uri in ["a:1", "a:2", "a:1"] {
            sessions.subscribed(&id, uri);
        }
        sessions.unsubscribed(&id, "a:2");
        sessions.restored(&id, 1, "a", pin("y"));
        assert_eq!(*sessions.open(&id, 1, "a").unwrap(), pin("y"));
        assert_eq!(sessions.open(&id, 2, "a"), Err(SessionError::Foreign));
        let wishes = Wishes { level: Some("debug".into()), subscriptions: vec!["a:1".into()] };
        assert_eq!(sessions.wishes(&id), wishes);
        assert_eq!(sessions.wishes("another"), Wishes::default());
        (0..1000).for_each(|n| sessions.subscribed(&id, &format!("b:{n}")));
        assert_eq!(sessions.wishes(&id).subscriptions.len(), SUBSCRIPTIONS_MAX);
        sessions.end(&id);
        assert_eq!(sessions.open(&id, 1, "a"), Err(SessionError::Ended), "what its client ended is over");
        assert!(
            Arc::ptr_eq(&sessions.gate(&id), &sessions.gate(&id)) || sessions.restoring.lock().len() == 1
        );
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_left_without_a_word_are_forgotten_though_nobody_asks() {
        let sessions = Sessions::new(Sealer::new(&[1; 32], Duration::from_secs(6000)));
        let ids: Vec<String> = (0..500).map(|_| sessions.seal(1, "a", pin("x")).unwrap()).collect();
        let pass = || (0..SHARDS).for_each(|_| sessions.forget_some());
        pass();
        assert_eq!(sessions.known(), 500);
        tokio::time::advance(ACTIVE_FOR).await;
        sessions.open(&ids[7], 1, "a").unwrap();
        pass();
        assert_eq!(sessions.known(), 1, "only the one that was used");
    }

    #[test]
    fn thousands_of_ended_sessions_are_remembered_in_a_place_that_does_not_grow() {
        let mut ended = Ended::default();
        let sealer = Sealer::new(&[1; 32], Duration::from_secs(60));
        let id = || sealer.seal(1, "a", &pin("x")).unwrap();
        let ids: Vec<String> = (0..5_000).map(|_| id()).collect();
        ids.iter().for_each(|id| ended.add(id));
        let known = ids.iter().filter(|id| ended.has(id)).count();
        assert!(known > 4_600, "one of 26 shares its place with a later one: {known}");
        assert!((0..5_000).all(|_| !ended.has(&id())));
        assert_eq!(ended.0.len(), ENDED_PLACES);
    }
}
