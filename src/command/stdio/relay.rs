//! The relay between lines and a door: which message goes out when, and what becomes of a session that is lost.
//! Not here: one message (`call`), the server's stream (`listen`), what a session is (`session`).
//!
//! It is one task, in which every message, the server's stream and the session's reopening are futures of their own.
//! Notifications and responses are sent one after the other and before the next line is read, so that they arrive in
//! the order in which the client wrote them; requests wait for nobody.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::{AbortHandle, Aborted, OptionFuture, abortable};
use futures_util::stream::FuturesUnordered;
use http::Method as Verb;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::call::{Caller, Ended, Said, Trouble};
use super::door::Door;
use super::line::Message;
use super::listen::{Deaf, listen};
use super::mirror::Mirror;
use super::session::{INITIALIZED, Opened, Session};
use super::streams::{Lines, Overlong};
use crate::mcp::{Code, Id, Kind, Method, RpcError};

/// Requests of the client that run at once; one more is answered with an error.
const CALLS_MAX: usize = 256;
/// Messages between the futures and the client; when there are more, the server waits.
const SAID_MAX: usize = 64;
/// How long answers are waited for once the client has said all it had to say.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// How long the farewell may take.
const FAREWELL: Duration = Duration::from_secs(2);

type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A message that has ended: its id if it was a request, and how; `None` if the client cancelled it.
struct Finished {
    id: Option<Id>,
    number: u64,
    ended: Option<Ended>,
}

/// What keeps the next line waiting.
enum Held {
    /// A notification or a response of the client.
    Sent(Ended),
    /// `notifications/initialized`, after which the server may speak.
    Initialized(Ended),
    /// The session is opened again, or is not.
    Reopened(Result<Opened, Trouble>),
}

struct Relay {
    door: Arc<Door>,
    session: Session,
    tell: mpsc::Sender<Said>,
    calls: FuturesUnordered<Task<Finished>>,
    /// Requests that run, and whether closing their stream cancels them.
    running: HashMap<Id, (AbortHandle, bool)>,
    held: Option<Task<Held>>,
    listening: Option<Task<Deaf>>,
    /// The client's `initialize` that runs: what was written after it belongs to the session that it opens.
    opening: Option<Id>,
    /// What is sent again once the session is open again.
    lost: Vec<Message>,
    mirror: Mirror,
    /// Lines of our own; each is for one line read or one call ended.
    own: VecDeque<Bytes>,
}

/// Relays until the input ends, the output breaks or `told_to_end` is done. Then the session is ended.
pub(super) async fn converse<R, W>(
    input: R,
    mut output: W,
    door: Door,
    told_to_end: impl Future<Output = ()>,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (tell, mut said) = mpsc::channel(SAID_MAX);
    let mut relay = Relay::new(door, tell);
    let mut lines = Lines::new(input);
    let mut told_to_end = pin!(told_to_end);
    let mut until = None;
    let done = loop {
        if let Some(line) = relay.own.pop_front() {
            match write(&mut output, line).await {
                Ok(()) => continue,
                Err(error) => break Err(error),
            }
        }
        if until.is_some() && relay.is_idle() && said.is_empty() {
            break Ok(());
        }
        let reads = until.is_none() && relay.held.is_none() && relay.opening.is_none();
        tokio::select! {
            biased;
            () = &mut told_to_end => break Ok(()),
            Some(said) = said.recv() => {
                if let Err(error) = write(&mut output, relay.take(said)).await {
                    break Err(error);
                }
            }
            Some(finished) = relay.calls.next() => relay.finish(finished),
            Some(held) = OptionFuture::from(relay.held.as_mut()) => {
                relay.held = None;
                relay.proceed(held);
            }
            Some(deaf) = OptionFuture::from(relay.listening.as_mut()) => {
                relay.listening = None;
                if deaf == Deaf::Lost {
                    relay.reopen();
                }
            }
            line = lines.next(), if reads => match line {
                Ok(Some(line)) => relay.read(line),
                Ok(None) => until = Some(Instant::now() + LAST_WORDS),
                Err(error) => break Err(error),
            },
            () = passed(until) => break Ok(()),
        }
    };
    relay.end().await;
    done
}

async fn passed(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

async fn write<W: AsyncWrite + Unpin>(output: &mut W, line: Bytes) -> io::Result<()> {
    output.write_all(&line).await?;
    output.write_all(b"\n").await?;
    output.flush().await
}

impl Relay {
    fn new(door: Door, tell: mpsc::Sender<Said>) -> Self {
        Self {
            door: Arc::new(door),
            session: Session::default(),
            tell,
            calls: FuturesUnordered::new(),
            running: HashMap::new(),
            held: None,
            listening: None,
            opening: None,
            lost: Vec::new(),
            mirror: Mirror::default(),
            own: VecDeque::new(),
        }
    }

    fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.held.is_none()
    }

    /// The line of what is said; the session that comes with it is the one of what the client writes next.
    fn take(&mut self, said: Said) -> Bytes {
        match said {
            Said::Line(line) => line,
            Said::Tools(line) => {
                self.mirror.learn(&line);
                line
            }
            Said::Opened(opened, line) => {
                self.session.is(opened);
                line
            }
        }
    }

    /// Says something of our own.
    fn say(&mut self, line: Bytes) {
        self.own.push_back(line);
    }

    fn read(&mut self, line: Result<Bytes, Overlong>) {
        let Ok(line) = line else {
            let words = "the line is too long".to_owned();
            let error = RpcError { code: Code::INVALID_REQUEST, message: words, data: None };
            return self.say(error.to_message(None));
        };
        let message = match Message::read(&line) {
            Ok(message) => message,
            Err(refusal) => return self.say(refusal),
        };
        if message.kind == Kind::Request {
            return self.request(message);
        }
        if let Some(id) = &message.cancels
            && let Some((handle, by_closing)) = self.running.get(id)
            && *by_closing
        {
            // The modern era cancels over HTTP by closing the stream (2026-07-28/basic/transports).
            return handle.abort();
        }
        let opened = self.session.opened.clone();
        let (door, tell) = (Arc::clone(&self.door), self.tell.clone());
        self.held = Some(Box::pin(async move {
            let initialized = message.method == Method::Initialized;
            let caller = Caller { door: &door, opened: &opened, tell: &tell };
            let ended = caller.call(message).await;
            if initialized { Held::Initialized(ended) } else { Held::Sent(ended) }
        }));
    }

    fn request(&mut self, mut message: Message) {
        if self.calls.len() >= CALLS_MAX {
            let words = "too many requests at once: wait for one to end".to_owned();
            if let Some(line) = message.fails(Code::UNAVAILABLE, "too_many_in_flight", words) {
                self.say(line);
            }
            return;
        }
        if message.method == Method::Initialize {
            self.session.begins(&message);
            self.listening = None;
            self.opening.clone_from(&message.id);
        }
        if message.method == Method::ToolsCall
            && let Some(mirrored) = &mut message.mirrored
        {
            mirrored.extend(self.mirror.headers(&message.body));
        }
        self.session.remember(&message);
        self.send(message);
    }

    fn send(&mut self, message: Message) {
        let (id, number) = (message.id.clone(), self.session.number);
        let opened = self.session.opened.clone();
        let (door, tell) = (Arc::clone(&self.door), self.tell.clone());
        let by_closing = message.mirrored.is_some();
        let call = async move { Caller { door: &door, opened: &opened, tell: &tell }.call(message).await };
        let (call, handle) = abortable(call);
        if let Some(id) = &id {
            self.running.insert(id.clone(), (handle, by_closing));
        }
        self.calls.push(Box::pin(async move {
            let ended = call.await.map_err(|Aborted| ()).ok();
            Finished { id, number, ended }
        }));
    }

    fn finish(&mut self, finished: Finished) {
        if let Some(id) = &finished.id {
            self.running.remove(id);
            self.opening.take_if(|opening| opening == id);
        }
        if let Some(Ended::Lost(message)) = finished.ended {
            self.again(message, finished.number);
        }
    }

    /// A message whose session was gone when it arrived is sent once more, in the next one.
    fn again(&mut self, mut message: Message, number: u64) {
        message.again = true;
        if number < self.session.number {
            return self.send(message);
        }
        self.lost.push(message);
        self.reopen();
    }

    /// Opens the session again, by the client's own `initialize`.
    fn reopen(&mut self) {
        let Some((hello, settings)) = self.session.replay() else { return };
        // What holds the next line ends first; if it was lost as well, it comes here.
        if self.held.is_some() {
            return;
        }
        tracing::info!("the session is gone: opening it again");
        self.listening = None;
        let (door, tell) = (Arc::clone(&self.door), self.tell.clone());
        self.held = Some(Box::pin(async move { Held::Reopened(open(&door, &tell, hello, settings).await) }));
    }

    fn proceed(&mut self, held: Held) {
        match held {
            Held::Initialized(Ended::Done) => self.listen(),
            Held::Sent(Ended::Done) => {}
            // A response or notification of a session that is gone has nobody to go to.
            Held::Sent(Ended::Lost(_)) | Held::Initialized(Ended::Lost(_)) => return self.reopen(),
            Held::Reopened(Ok(opened)) => {
                self.session.is(opened);
                self.listen();
                for message in std::mem::take(&mut self.lost) {
                    self.send(message);
                }
            }
            Held::Reopened(Err(trouble)) => {
                tracing::warn!("the session cannot be opened again: {trouble}");
                for message in std::mem::take(&mut self.lost) {
                    if let Some(line) = trouble.tell(&message) {
                        self.say(line);
                    }
                }
            }
        }
        if !self.lost.is_empty() {
            self.reopen();
        }
    }

    fn listen(&mut self) {
        let opened = self.session.opened.clone();
        let (door, tell) = (Arc::clone(&self.door), self.tell.clone());
        self.listening =
            Some(Box::pin(async move { listen(Caller { door: &door, opened: &opened, tell: &tell }).await }));
    }

    /// The client is gone: so is its session.
    async fn end(self) {
        let Self { door, session, calls, listening, held, .. } = self;
        drop((calls, listening, held));
        if session.opened.id.is_some() {
            let farewell = door.send(Verb::DELETE, session.opened.headers(), Bytes::new());
            let _ = timeout(FAREWELL, farewell).await;
        }
    }
}

/// A new session, set as the old one was.
async fn open(
    door: &Door,
    tell: &mpsc::Sender<Said>,
    hello: Message,
    settings: Vec<Message>,
) -> Result<Opened, Trouble> {
    let none = Opened::default();
    let opened = Caller { door, opened: &none, tell }.call_quietly(&hello).await?.ok_or(Trouble::Content)?;
    let caller = Caller { door, opened: &opened, tell };
    if let Ok(initialized) = Message::read(&INITIALIZED) {
        caller.call_quietly(&initialized).await?;
    }
    for setting in settings {
        if let Err(trouble) = caller.call_quietly(&setting).await {
            tracing::warn!(method = setting.method.label(), "not set again in the new session: {trouble}");
        }
    }
    Ok(opened)
}
