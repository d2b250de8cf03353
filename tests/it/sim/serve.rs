//! Connections of the server: taken or not, served, reset, or left half-open.
//! Not here: bytes of requests and answers (`bytes`), what is said (`speak`).

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::bytes::{Ended, Line, Read};
use super::{Door, End, Manner, Shared, speak};

/// Serves until `stopped`; a panic of a connection is passed on.
pub(super) async fn run(
    listener: std::net::TcpListener,
    shared: Arc<Shared>,
    mut stopped: oneshot::Receiver<()>,
) {
    let address = listener.local_addr().unwrap();
    let mut listener = Some(TcpListener::from_std(listener).unwrap());
    let mut door = shared.door.subscribe();
    // The test may have been quicker than this thread.
    door.mark_changed();
    let mut connections = JoinSet::new();
    let mut count = 0;
    loop {
        tokio::select! {
            accepted = accept(listener.as_ref()) => {
                connections.spawn(connection(accepted, count, Arc::clone(&shared)));
                count += 1;
            }
            Some(ended) = connections.join_next(), if !connections.is_empty() => ended.unwrap(),
            changed = door.changed() => {
                changed.unwrap();
                let now = *door.borrow_and_update();
                if now == Door::Shut {
                    listener = None;
                } else {
                    listener.get_or_insert_with(|| listen_again(address));
                }
                *shared.at_door.lock().unwrap() = now;
                shared.door_done.notify_all();
            }
            _ = &mut stopped => break,
        }
    }
    connections.abort_all();
    while let Some(ended) = connections.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

fn listen_again(address: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    // Connections of before may linger.
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(1024).unwrap()
}

async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    match listener {
        Some(listener) => listener.accept().await.unwrap().0,
        None => std::future::pending().await,
    }
}

/// Counts a connection as open.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.note(|facts| facts.open -= 1);
    }
}

async fn connection(stream: TcpStream, number: usize, shared: Arc<Shared>) {
    shared.note(|facts| {
        facts.connections += 1;
        facts.open += 1;
    });
    let _open = Open(Arc::clone(&shared));
    stream.set_nodelay(true).unwrap();
    let door = *shared.door.borrow();
    match door {
        Door::Open => {}
        Door::Reset => return stream.set_zero_linger().unwrap(),
        Door::Blackhole | Door::Shut => {
            // Taken, and that was all, until the door changes or the fate of connections does.
            let (mut now, mut fate) = (shared.door.subscribe(), shared.fate.subscribe());
            tokio::select! {
                _ = now.wait_for(|now| *now != door) => {}
                _ = fate.changed() => {}
            }
            return stream.set_zero_linger().unwrap();
        }
    }
    let mut fate = shared.fate.subscribe();
    let Some(mut line) = Line::open(stream, shared.tls.as_ref()).await else { return };
    tokio::select! {
        biased;
        // First: what was asked after the test said so is not answered.
        changed = fate.changed() => {
            changed.unwrap();
            if fate.borrow().reset {
                line.reset();
            } else {
                // Half-open: neither read nor closed, as long as the server runs or until it crashes.
                let _ = fate.wait_for(|fate| fate.reset).await;
                line.reset();
            }
        }
        () = converse(&mut line, number, &shared) => {}
    }
}

async fn converse(line: &mut Line, number: usize, shared: &Arc<Shared>) {
    loop {
        let asked = match line.read_request(number, shared).await {
            Read::Request(asked) => asked,
            Read::Cut(end) => return line.end(end).await,
            Read::Gone => return,
        };
        let manner = manner_for(&asked, shared);
        let call = asked.n().map(str::to_owned);
        let ended = match manner {
            Manner::Honest => line.say(&speak::honest(&asked, shared), &asked, shared).await,
            other => misbehave(line, other, &asked, shared).await,
        };
        match ended {
            Ended::Whole => {
                if let Some(call) = call {
                    shared.note(|facts| facts.answered.insert(call));
                }
            }
            Ended::Gone => {
                let now = std::time::Instant::now();
                if let Some(call) = call {
                    shared.note(|facts| facts.abandoned.insert(call, now));
                }
                return;
            }
            Ended::Broken => return,
        }
    }
}

fn manner_for(asked: &super::Asked, shared: &Shared) -> Manner {
    let manner = {
        let mut behaviour = shared.behaviour.lock().unwrap();
        let once = behaviour.once.iter().position(|(method, _)| method == asked.method());
        match once {
            Some(at) => behaviour.once.remove(at).1,
            None => behaviour.at.get(asked.method()).unwrap_or(&behaviour.all).clone(),
        }
    };
    let mut manner = manner;
    while let Manner::By(choice) = manner {
        manner = choice(asked);
    }
    manner
}

async fn misbehave(line: &mut Line, manner: Manner, asked: &super::Asked, shared: &Shared) -> Ended {
    match manner {
        Manner::Honest | Manner::By(_) => unreachable!("decided by the caller"),
        Manner::Silent => line.wait_for_the_end().await,
        Manner::Late(time) => {
            if line.pause(time).await {
                line.say(&speak::honest(asked, shared), asked, shared).await
            } else {
                Ended::Gone
            }
        }
        Manner::Cut(bytes, end) => {
            let whole = speak::honest(asked, shared).bytes();
            if bytes < whole.len() {
                return line.write_and_end(&whole[..bytes], end).await;
            }
            // Nothing is missing, so the other side may send more: nobody reads it.
            if line.write(&whole).await {
                line.end(end).await;
            }
            Ended::Broken
        }
        Manner::Drip(bytes, every) => {
            let whole = speak::honest(asked, shared).bytes();
            for (at, piece) in whole.chunks(bytes.max(1)).enumerate() {
                let paused = at == 0 || every.is_zero() || line.pause(every).await;
                if !paused || !line.write(piece).await {
                    return Ended::Gone;
                }
            }
            Ended::Whole
        }
        Manner::Status(status) => {
            let page = format!("<html>{status} of the server's framework</html>");
            let head = format!(
                "HTTP/1.1 {status} Scripted\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n{page}",
                page.len()
            );
            if line.write(head.as_bytes()).await { Ended::Whole } else { Ended::Gone }
        }
        Manner::Raw(bytes, end) => line.write_and_end(&bytes, end).await,
        Manner::Made(make, end) => line.write_and_end(&make(asked), end).await,
        Manner::Endless(head, piece) => {
            let mut open = line.write(&head).await;
            while open {
                open = line.write(&piece).await;
                // Nothing else in this thread may starve.
                tokio::task::yield_now().await;
            }
            Ended::Gone
        }
    }
}

impl Line {
    async fn write_and_end(&mut self, bytes: &[u8], end: End) -> Ended {
        if !self.write(bytes).await {
            return Ended::Gone;
        }
        if end == End::Stall {
            return self.wait_for_the_end().await;
        }
        self.end(end).await;
        Ended::Broken
    }
}
