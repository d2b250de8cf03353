//! TLS at a listener: versions, HTTP/2, files that change, certificates of clients.
//! Not here: which caller a certificate stands for (tests of `auth`).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::gateway::Gateway;
use crate::wire::PATIENCE;

const CATALOG: &str = "servers: []\n";

/// An authority that signs what a test needs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, in PEM and as rustls wants it.
struct Pair {
    certificate: String,
    key: String,
    der: CertificateDer<'static>,
    key_der: PrivateKeyDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn sign(&self, name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let signed = params.signed_by(&key, &self.0).unwrap();
        Pair {
            certificate: signed.pem(),
            key: key.serialize_pem(),
            der: signed.der().clone(),
            key_der: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }
}

fn write(home: &Path, pair: &Pair) {
    std::fs::write(home.join("cert.pem"), &pair.certificate).unwrap();
    std::fs::write(home.join("key.pem"), &pair.key).unwrap();
}

/// A gateway with TLS, whose files are in its folder.
fn gateway(authority: &Authority, first: &Pair, more: &str) -> Gateway {
    let home = tempfile::TempDir::with_prefix("tollgate-it-").unwrap();
    write(home.path(), first);
    std::fs::write(home.path().join("ca.pem"), authority.0.pem()).unwrap();
    let conf = format!("drain: 5s\ntls: {{certificate: cert.pem, key: key.pem{more}}}\n");
    Gateway::with(CATALOG).conf(&conf).home(home).start()
}

/// How a test connects.
#[derive(Default)]
struct Client<'a> {
    shows: Option<&'a Pair>,
    protocols: Vec<Vec<u8>>,
    only_12: bool,
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

impl Client<'_> {
    fn connect(&self, authority: &Authority, address: SocketAddr) -> std::io::Result<Tls> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.0.der().clone()).unwrap();
        let versions = if self.only_12 { &[&rustls::version::TLS12][..] } else { rustls::ALL_VERSIONS };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match self.shows {
            Some(pair) => {
                builder.with_client_auth_cert(vec![pair.der.clone()], pair.key_der.clone_key()).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.protocols);
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    /// The status of `GET /livez`, or why there is none.
    fn live(&self, authority: &Authority, address: SocketAddr) -> std::io::Result<String> {
        let mut stream = self.connect(authority, address)?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        match answer.lines().next() {
            Some(status) => Ok(status.to_owned()),
            None => Err(read.err().unwrap_or_else(|| std::io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

#[test]
fn both_versions_of_http_and_tls_are_spoken_and_an_old_one_can_be_refused() {
    let authority = Authority::new();
    let pair = authority.sign("localhost");
    let any = gateway(&authority, &pair, "");
    let old = Client { only_12: true, ..Client::default() };
    for client in [&Client::default(), &old] {
        assert_eq!(client.live(&authority, any.address()).unwrap(), "HTTP/1.1 200 OK");
    }
    let both = Client { protocols: vec![b"h2".to_vec(), b"http/1.1".to_vec()], ..Client::default() };
    let mut stream = both.connect(&authority, any.address()).unwrap();
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]));
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[3], 4, "the first frame is SETTINGS: {head:?}");
    let new = gateway(&authority, &pair, ", min_version: \"1.3\"");
    assert_eq!(Client::default().live(&authority, new.address()).unwrap(), "HTTP/1.1 200 OK");
    old.live(&authority, new.address()).unwrap_err();
}

#[test]
fn a_handshake_has_the_deadline_of_a_head() {
    let authority = Authority::new();
    let pair = authority.sign("localhost");
    let home = tempfile::TempDir::with_prefix("tollgate-it-").unwrap();
    write(home.path(), &pair);
    let conf = "drain: 5s\nlimits: {header_timeout: 1s}\ntls: {certificate: cert.pem, key: key.pem}\n";
    let gateway = Gateway::with(CATALOG).conf(conf).home(home).start();
    let mut socket = TcpStream::connect(gateway.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // The beginning of a record that never ends.
    socket.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
    let begun = Instant::now();
    assert_eq!(socket.read(&mut [0; 64]).unwrap_or(0), 0);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // Plain text is no handshake.
    let mut socket = TcpStream::connect(gateway.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[test]
fn changed_files_are_in_force_for_new_connections_and_broken_ones_change_nothing() {
    let authority = Authority::new();
    let (first, second) = (authority.sign("localhost"), authority.sign("localhost"));
    let gateway = gateway(&authority, &first, "");
    let shown = || {
        let stream = Client::default().connect(&authority, gateway.address()).unwrap();
        stream.conn.peer_certificates().unwrap()[0].clone()
    };
    assert!(shown() == first.der);
    let mut old = Client::default().connect(&authority, gateway.address()).unwrap();
    // A certificate whose key is another one's: half of a change.
    std::fs::write(gateway.home().join("cert.pem"), &second.certificate).unwrap();
    gateway.wait_for_log("files that are no good", PATIENCE, |line| {
        line["message"].as_str()?.contains("no good").then_some(())
    });
    assert!(shown() == first.der);
    std::fs::write(gateway.home().join("key.pem"), &second.key).unwrap();
    gateway.wait_for_log("files in force", PATIENCE, |line| {
        line["message"].as_str()?.contains("in force").then_some(()).filter(|()| line["level"] == "INFO")
    });
    assert!(shown() == second.der);
    // Whoever was connected goes on.
    old.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut status = [0; 12];
    old.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    assert!(!gateway.log().contains("PRIVATE KEY"));
}

#[test]
fn a_client_certificate_is_asked_for_and_checked() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let pair = authority.sign("localhost");
    let (known, unknown) = (authority.sign("ci.example.com"), stranger.sign("ci.example.com"));
    let required = gateway(&authority, &pair, ", client_ca: ca.pem, client_certificates: required");
    let optional = gateway(&authority, &pair, ", client_ca: ca.pem");
    let live = |gateway: &Gateway, shows: Option<&Pair>| {
        Client { shows, ..Client::default() }.live(&authority, gateway.address())
    };
    assert_eq!(live(&required, Some(&known)).unwrap(), "HTTP/1.1 200 OK");
    live(&required, None).unwrap_err();
    live(&required, Some(&unknown)).unwrap_err();
    assert_eq!(live(&optional, None).unwrap(), "HTTP/1.1 200 OK");
    assert_eq!(live(&optional, Some(&known)).unwrap(), "HTTP/1.1 200 OK");
    // A certificate that is shown and no good is final.
    live(&optional, Some(&unknown)).unwrap_err();
}
