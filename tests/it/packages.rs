//! Where the pinned official clients, servers and the conformance suite are, and how to run them.
//! Not here: what installs them (`scripts/prerequisites test`).

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The folder of the interop tests' own programs.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop")
}

/// A file of the installed packages. Fails with the command that installs them.
#[track_caller]
fn installed(path: &str) -> PathBuf {
    let whole = folder().join(".packages").join(path);
    assert!(
        whole.exists(),
        "{} is missing: the pinned MCP clients and servers are not installed. Run this, then try again:\n    scripts/prerequisites test",
        whole.display()
    );
    whole
}

/// Node, of the pinned version.
#[track_caller]
pub(crate) fn node() -> PathBuf {
    installed("node")
}

/// Python with the pinned packages.
#[track_caller]
pub(crate) fn python() -> PathBuf {
    installed("venv/bin/python")
}

/// A file of an npm package.
#[track_caller]
pub(crate) fn npm(path: &str) -> PathBuf {
    installed(&format!("node_modules/{path}"))
}

/// The entry of `server-everything`.
#[track_caller]
pub(crate) fn everything() -> PathBuf {
    npm("@modelcontextprotocol/server-everything/dist/index.js")
}

/// The entry of `server-filesystem`.
#[track_caller]
pub(crate) fn filesystem() -> PathBuf {
    npm("@modelcontextprotocol/server-filesystem/dist/index.js")
}

/// What a program printed and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: std::process::ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a program to its end; kills it and fails after the deadline.
#[track_caller]
pub(crate) fn run(mut command: Command, within: Duration) -> Said {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let read = |mut from: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            from.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let stdout = read(Box::new(child.stdout.take().unwrap()));
    let stderr = read(Box::new(child.stderr.take().unwrap()));
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > within {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!(
                "{command:?} did not end within {within:?}: {}{}",
                stdout.join().unwrap(),
                stderr.join().unwrap()
            );
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    Said { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// A server that runs beside the gateway for one test.
pub(crate) struct Server {
    child: Child,
    /// Its endpoint.
    pub(crate) url: String,
}

impl Server {
    /// The conformance fixture: both eras on one endpoint.
    #[track_caller]
    pub(crate) fn fixture() -> Self {
        let mut command = Command::new(node());
        command.arg(folder().join("fixture/server.mjs"));
        Self::start(command, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            Some(line.get("url")?.as_str()?.to_owned())
        })
    }

    /// An OpenID provider; `url` is its issuer. With it, the id and the secret of a client that needs no person.
    #[track_caller]
    pub(crate) fn provider() -> (Self, String, String) {
        let mut command = Command::new(node());
        command.arg(folder().join("fixture/provider.mjs"));
        let mut said = Value::Null;
        let server = Self::start(command, |line| {
            said = serde_json::from_str(line).ok()?;
            Some(said.get("url")?.as_str()?.to_owned())
        });
        let text = |name: &str| said[name].as_str().unwrap().to_owned();
        (server, text("client_id"), text("client_secret"))
    }

    /// `server-everything` over Streamable HTTP. It takes its port from us, so another process may be faster: try again.
    #[track_caller]
    pub(crate) fn everything() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(node());
        command.arg(everything()).arg("streamableHttp").env("PORT", port.to_string());
        Self::start(command, |line| {
            line.contains("listening on port").then(|| format!("http://127.0.0.1:{port}/mcp"))
        })
    }

    /// `server-everything` over HTTP+SSE.
    #[track_caller]
    pub(crate) fn everything_sse() -> Self {
        let port = crate::gateway::free_port();
        let mut command = Command::new(node());
        command.arg(everything()).arg("sse").env("PORT", port.to_string());
        Self::start(command, |line| {
            (line.contains("running on port")).then(|| format!("http://127.0.0.1:{port}/sse"))
        })
    }

    /// `server-everything` behind supergateway, over that transport of its.
    #[track_caller]
    pub(crate) fn supergateway(transport: &str, path: &str) -> Self {
        let port = crate::gateway::free_port();
        let child = format!("{} {} stdio", node().display(), everything().display());
        let mut command = Command::new(node());
        command.arg(npm("supergateway/dist/index.js")).args(["--stdio", &child]);
        command.args(["--outputTransport", transport, "--stateful", "--port", &port.to_string()]);
        let url = format!("http://127.0.0.1:{port}{path}");
        Self::start(command, |line| line.contains("Listening on port").then(|| url.clone()))
    }

    /// `server-everything` behind mcp-proxy, which offers both transports.
    #[track_caller]
    pub(crate) fn mcp_proxy(path: &str) -> Self {
        let port = crate::gateway::free_port();
        let mut command = Command::new(node());
        command.arg(npm("mcp-proxy/dist/bin/mcp-proxy.mjs")).args([
            "--port",
            &port.to_string(),
            "--host",
            "127.0.0.1",
        ]);
        command.arg("--").arg(node()).arg(everything()).arg("stdio");
        let url = format!("http://127.0.0.1:{port}{path}");
        let server =
            Self::start(command, |line| line.contains("starting server on port").then(|| url.clone()));
        // It says so before it listens.
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "mcp-proxy does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    #[track_caller]
    fn start(mut command: Command, mut listening: impl FnMut(&str) -> Option<String>) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Bounded, and nobody waits for its reader: lines after the wanted one are dropped.
        let (send, lines) = sync_channel::<String>(64);
        let streams: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let send = send.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = send.try_send(line);
                }
            });
        }
        drop(send);
        let mut said = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if let Some(url) = listening(&line) {
                return Self { child, url };
            }
            said.push(line);
        }
        let _ = child.kill();
        let _ = child.wait();
        panic!("{command:?} does not listen. It wrote:\n{}", said.join("\n"));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
