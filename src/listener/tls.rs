//! TLS of a listener, from files that are read again when they change.
//! Not here: who a client's certificate is (`certificate`, `auth`).
//!
//! rustls on ring: TLS 1.2 and 1.3 with forward secrecy only, no renegotiation, no early data. A changed file makes a
//! whole new configuration, so that nothing that was agreed on under old authorities is resumed under new ones. Files
//! are compared by content: a link that moves is a change, a touched file is none.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ring::digest::{Context, SHA256};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;

use super::ListenError;
use crate::conf::Tls;
use crate::telemetry::ListenerMeters;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// More than any chain of certificates.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The TLS of one listener.
pub(super) struct Secured {
    listener: String,
    files: Tls,
    /// What is in force, and the digest of the files that it was made from.
    current: ArcSwap<(Arc<ServerConfig>, Digest)>,
}

type Digest = [u8; 32];

/// What is wrong with a file.
struct Fault {
    path: PathBuf,
    words: String,
}

impl Fault {
    fn new(path: &Path, words: impl std::fmt::Display) -> Self {
        Self { path: path.to_owned(), words: words.to_string() }
    }
}

/// The contents of the files.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Secured {
    /// Reads the files of a listener. What is wrong with them is an error with the file's name.
    pub(super) fn load(listener: &str, files: &Tls) -> Result<Self, ListenError> {
        let loaded = Contents::read(files).and_then(|contents| {
            let config = contents.build(files)?;
            Ok((Arc::new(config), contents.digest()))
        });
        let loaded = loaded.map_err(|fault| ListenError::Tls {
            listener: listener.to_owned(),
            path: fault.path,
            fault: fault.words,
        })?;
        let current = ArcSwap::from_pointee(loaded);
        Ok(Self { listener: listener.to_owned(), files: files.clone(), current })
    }

    /// Accepts with what is in force now.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.load().0))
    }

    /// Takes over changed files for ever. Files that are no good change nothing, and are told of once.
    pub(super) async fn watch(&self, meters: &ListenerMeters) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told: Option<Digest> = None;
        loop {
            looks.tick().await;
            let (reading, files) = (Contents::read_later(&self.files).await, &self.files);
            // A file that is away for a moment is being replaced.
            let Ok(contents) = reading else { continue };
            let digest = contents.digest();
            if digest == self.current.load().1 || told == Some(digest) {
                continue;
            }
            match contents.build(files) {
                Ok(config) => {
                    self.current.store(Arc::new((Arc::new(config), digest)));
                    told = None;
                    meters.certificate_reloaded(true);
                    tracing::info!(listener = self.listener, "changed TLS files are in force");
                }
                Err(Fault { path, words }) => {
                    told = Some(digest);
                    meters.certificate_reloaded(false);
                    tracing::error!(
                        listener = self.listener,
                        file = %path.display(),
                        error = words,
                        "changed TLS files are no good: the old ones stay in force"
                    );
                }
            }
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

async fn read_later(path: &Path) -> io::Result<Vec<u8>> {
    use tokio::io::AsyncReadExt as _;
    let mut bytes = Vec::new();
    tokio::fs::File::open(path).await?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

impl Contents {
    fn read(files: &Tls) -> Result<Self, Fault> {
        let read = |path: &Path| read(path).map_err(|error| Fault::new(path, error));
        Ok(Self {
            certificate: read(&files.certificate)?,
            key: read(&files.key)?,
            client_ca: files.client_ca.as_deref().map(read).transpose()?,
        })
    }

    /// The same, without holding up whoever else works on this thread.
    async fn read_later(files: &Tls) -> io::Result<Self> {
        Ok(Self {
            certificate: read_later(&files.certificate).await?,
            key: read_later(&files.key).await?,
            client_ca: match &files.client_ca {
                Some(path) => Some(read_later(path).await?),
                None => None,
            },
        })
    }

    fn digest(&self) -> Digest {
        let mut context = Context::new(&SHA256);
        for part in [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten()
        {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut digest = Digest::default();
        digest.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        digest
    }

    fn build(&self, files: &Tls) -> Result<ServerConfig, Fault> {
        let chain = certificates(&files.certificate, &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| Fault::new(&files.key, "there is no private key in PEM in it"))?;
        let provider = Arc::new(default_provider());
        let versions = if files.only_13 { &[&TLS13][..] } else { &[&TLS13, &TLS12] };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| Fault::new(&files.certificate, error))?;
        let builder = match (&files.client_ca, &self.client_ca) {
            (Some(path), Some(authorities)) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(path, authorities)? {
                    roots.add(authority).map_err(|error| Fault::new(path, error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier =
                    if files.client_required { verifier } else { verifier.allow_unauthenticated() };
                builder.with_client_cert_verifier(verifier.build().map_err(|error| Fault::new(path, error))?)
            }
            _ => builder.with_no_client_auth(),
        };
        // This also finds a key that does not belong to the certificate.
        let mut config =
            builder.with_single_cert(chain, key).map_err(|error| Fault::new(&files.certificate, error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(Fault::new(path, "there is no certificate in PEM in it")),
        Err(error) => Err(Fault::new(path, error)),
    }
}
