//! The new process in an upgrade: what it takes over from the old one, and the word that it is ready, or why not.
//! Not here: the old process (`upgrade`).
//!
//! The sockets come as systemd's protocol has it (`LISTEN_FDS`, from descriptor 3 on), the last of them being our line to
//! the old process. They are taken only from a parent that says so: whoever started us for another reason may have left
//! such variables in the environment.

use std::os::unix::net::UnixDatagram;

use listenfd::ListenFd;

use crate::listener::Inherited;

/// Names the parent that hands its sockets over, by its process id.
pub(super) const PREDECESSOR: &str = "TOLLGATE_PREDECESSOR";
/// Names the sockets, separated by colons, as sd_listen_fds_with_names(3) has it.
pub(super) const NAMES: &str = "LISTEN_FDNAMES";
/// The name of the line to the old process, which no listener can have.
pub(super) const LINE: &str = "/tollgate";
/// What is said on it when we accept connections; everything else is why we do not.
pub(super) const READY: &[u8] = b"ready";

/// A listener's name may have colons in it.
pub(super) fn encode(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// What was inherited; nothing, unless this process was started to take over from another.
#[derive(Debug, Default)]
pub struct Inheritance {
    pub(super) sockets: Vec<Inherited>,
    line: Option<UnixDatagram>,
}

impl Inheritance {
    /// Takes what the environment says. To be called before anything else is opened or started, and only once.
    pub fn take(env: &[(String, String)]) -> Self {
        let find = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let parent = nix::unistd::getppid().to_string();
        let Some(names) = find(NAMES).filter(|_| find(PREDECESSOR) == Some(parent.as_str())) else {
            return Self::default();
        };
        let mut handed = ListenFd::from_env();
        let mut taken = Self::default();
        for (at, name) in names.split(':').enumerate() {
            if name == LINE {
                taken.line = handed.take_unix_datagram(at).ok().flatten();
            } else if let Ok(Some(socket)) = handed.take_tcp_listener(at) {
                let listener = percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned();
                taken.sockets.push(Inherited { listener, socket });
            }
        }
        taken
    }

    /// Whether this process takes over from another.
    pub(super) fn is_any(&self) -> bool {
        self.line.is_some()
    }

    /// Tells the old process that connections are accepted here from now on.
    pub(super) fn ready(&self) {
        self.say(READY);
    }

    /// Tells the old process why it has to go on.
    pub fn failed(&self, why: &str) {
        self.say(why.as_bytes());
    }

    fn say(&self, word: &[u8]) {
        if let Some(line) = &self.line
            && let Err(error) = line.send(word)
        {
            tracing::warn!(%error, "the process that is taken over from cannot be told");
        }
    }
}
