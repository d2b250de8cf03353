//! `tollgate healthcheck`: for containers, which have no curl.
//! Not here: what ready means (`control/health`).

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme,
    StreamOwned,
};

use super::{Done, Files, check, tell};
use crate::conf::{Listener, Tls};

/// A gateway that does not answer within this time is not ready.
const PATIENCE: Duration = Duration::from_secs(3);
/// The status line is all that is read.
const ANSWER_BYTES_MAX: u64 = 1024;

/// Asks the gateway that these settings describe.
pub(super) fn ask(files: Files) -> Done {
    let loaded = files.load().map_err(|mistakes| check::report(&mistakes))?;
    let Some(listener) = loaded.conf.listeners.iter().find(|listener| answers(listener)) else {
        return Err(
            "no listener answers: one with the door `health`, without PROXY protocol and required client \
                    certificates, is needed"
                .to_owned(),
        );
    };
    let address = reachable(listener.address);
    match status(address, listener.tls.as_ref()) {
        Ok(200) => Ok(ExitCode::SUCCESS),
        Ok(status) => {
            tell(&format!("not ready: {address} answers {status}"));
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(format!("not ready: {address}: {error}")),
    }
}

/// Whether a listener answers somebody who says nothing of whom he speaks for, and shows no certificate.
fn answers(listener: &Listener) -> bool {
    let is_closed = listener.tls.as_ref().is_some_and(|tls| tls.client_required);
    listener.doors.health && !listener.proxy_protocol && !is_closed
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

fn status(address: SocketAddr, tls: Option<&Tls>) -> io::Result<u16> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    match tls {
        None => exchange(stream, address),
        Some(tls) => {
            let name = ServerName::IpAddress(address.ip().into());
            let connection = ClientConnection::new(Arc::new(pinned(&tls.certificate)?), name);
            exchange(StreamOwned::new(connection.map_err(io::Error::other)?, stream), address)
        }
    }
}

fn exchange(mut stream: impl Read + Write, address: SocketAddr) -> io::Result<u16> {
    stream.write_all(
        format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    let read = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    match text.split(' ').nth(1).and_then(|status| status.parse().ok()) {
        // A close without a farewell comes after the answer, and says nothing about it.
        Some(status) => Ok(status),
        None => {
            read?;
            Err(io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer"))
        }
    }
}

/// TLS with exactly the certificate in our own file: it is asked for under an address, which is no name in it.
fn pinned(certificate: &Path) -> io::Result<ClientConfig> {
    let own = CertificateDer::from_pem_file(certificate).map_err(io::Error::other)?;
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let verifier = Arc::new(Pinned { own, provider });
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

#[derive(Debug)]
struct Pinned {
    own: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *shown == self.own {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection};

    use super::*;

    /// A server that answers one request with TLS.
    fn serve(
        certificate: CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
    ) -> (SocketAddr, thread::JoinHandle<()>) {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![certificate], key).unwrap());
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        #[expect(clippy::disallowed_methods, reason = "joined by the test")]
        let server = thread::spawn(move || {
            let (stream, _) = socket.accept().unwrap();
            let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
            let mut request = [0; 1024];
            // A client that does not like the certificate goes.
            if stream.read(&mut request).is_ok_and(|count| request[..count].starts_with(b"GET /readyz ")) {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            }
        });
        (address, server)
    }

    #[test]
    fn a_listener_with_tls_is_asked_by_its_own_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let [ours, other] =
            [0, 1].map(|_| rcgen::generate_simple_self_signed(["mcp.example.com".to_owned()]).unwrap());
        for (shown, wanted) in [(&ours, Some(200)), (&other, None)] {
            let path = dir.path().join("cert.pem");
            std::fs::write(&path, ours.cert.pem()).unwrap();
            let key = PrivateKeyDer::try_from(shown.signing_key.serialize_der()).unwrap();
            let (address, server) = serve(shown.cert.der().clone(), key);
            let tls = Tls {
                certificate: path,
                key: "".into(),
                client_ca: None,
                client_required: false,
                only_13: true,
            };
            assert_eq!(status(address, Some(&tls)).ok(), wanted);
            server.join().unwrap();
        }
    }
}
