//! `tollgate healthcheck`: for containers, which have no curl.
//! Not here: what ready means (`control/health`).

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use super::{Done, Files, check, tell};
use crate::conf::Listener;

/// A gateway that does not answer within this time is not ready.
const PATIENCE: Duration = Duration::from_secs(3);
/// The status line is all that is read.
const ANSWER_BYTES_MAX: u64 = 1024;

/// Asks the gateway that these settings describe.
pub(super) fn ask(files: Files) -> Done {
    let loaded = files.load().map_err(|mistakes| check::report(&mistakes))?;
    // It speaks plain HTTP and says nothing of whom it speaks for.
    let answers =
        |listener: &&Listener| listener.doors.health && listener.tls.is_none() && !listener.proxy_protocol;
    let listens = loaded.conf.listeners.iter().find(answers).map(|listener| listener.address);
    let address =
        reachable(listens.ok_or("no listener has the door `health` without TLS and PROXY protocol")?);
    match status(address) {
        Ok(200) => Ok(ExitCode::SUCCESS),
        Ok(status) => {
            tell(&format!("not ready: {address} answers {status}"));
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(format!("not ready: {address}: {error}")),
    }
}

/// An address that listens everywhere is asked on loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn status(address: SocketAddr) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(
        format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "no HTTP answer"))
}
