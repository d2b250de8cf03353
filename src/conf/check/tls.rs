//! Checks the files of TLS: that they are there, say what they should, and belong together.
//! Not here: the handshake, and reading the files again (`listener`).

use std::io::Read as _;
use std::path::PathBuf;

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_parser::time::ASN1Time;

use super::Checker;
use crate::conf::raw::{RawClientCertificates, RawTls, RawTlsVersion};
use crate::conf::{Tls, secret};
use crate::document::{At, Code};

/// A file with keys or certificates, in bytes; all public authorities together are a fifth of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl Checker<'_> {
    pub(super) fn tls(&mut self, raw: &At<RawTls>) -> Option<Tls> {
        if raw.certificate.is_none() {
            self.missing(raw.span, "tls needs a certificate: a file in PEM");
        }
        if raw.key.is_none() {
            self.missing(raw.span, "tls needs a key: a file in PEM");
        }
        let client_required = raw.client_certificates.as_ref().is_some_and(|client| {
            if raw.client_ca.is_none() {
                let message = "needs `client_ca`: the authorities of these certificates";
                self.report.add(client.span, Code::Missing, message);
            }
            client.value == RawClientCertificates::Required
        });
        let client_ca = raw.client_ca.as_ref().and_then(|file| self.authorities(file));
        let (certificate, key) = (raw.certificate.as_ref()?, raw.key.as_ref()?);
        self.pair(certificate, key);
        Some(Tls {
            certificate: self.path(certificate),
            key: self.path(key),
            client_ca,
            client_required,
            only_13: raw.min_version.as_ref().is_some_and(|version| version.value == RawTlsVersion::V13),
        })
    }

    /// A certificate and its key.
    fn pair(&mut self, certificate: &At<String>, key: &At<String>) {
        let chain = self.file(certificate).and_then(|text| self.chain(certificate, &text));
        let Some(text) = self.file(key) else { return };
        if secret::is_exposed(&self.dir.join(self.path(key))) {
            self.exposed_file(key);
        }
        let Ok(private) = PrivateKeyDer::from_pem_slice(&text) else {
            let message = "expected a private key in PEM, not protected by a passphrase";
            self.report.add(key.span, Code::InvalidValue, message);
            return;
        };
        let Some(chain) = chain else { return };
        let is_over = |certificate: &CertificateDer<'_>| {
            let parsed = x509_parser::parse_x509_certificate(certificate).ok();
            parsed.is_some_and(|(_, parsed)| parsed.validity().not_after < ASN1Time::now())
        };
        if chain.first().is_some_and(is_over) {
            let message = "a certificate whose time is over: clients refuse it";
            self.report.warn(certificate.span, Code::Expired, message);
        }
        match CertifiedKey::from_der(chain, private, &ring::default_provider()) {
            Ok(_) => {}
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                self.report.add(key.span, Code::Conflict, "the key does not belong to the certificate");
            }
            Err(Error::InvalidCertificate(_)) => {
                self.report.add(
                    certificate.span,
                    Code::InvalidValue,
                    "not a certificate of the form X.509 v3",
                );
            }
            Err(error) => {
                self.report.add(key.span, Code::InvalidValue, format!("not a usable key: {error}"));
            }
        }
    }

    fn authorities(&mut self, raw: &At<String>) -> Option<PathBuf> {
        let text = self.file(raw)?;
        let mut store = RootCertStore::empty();
        let wrong = self.chain(raw, &text)?.into_iter().find_map(|authority| store.add(authority).err());
        if let Some(error) = wrong {
            self.report.add(raw.span, Code::InvalidValue, format!("not a usable authority: {error}"));
        }
        Some(self.path(raw))
    }

    fn chain(&mut self, raw: &At<String>, text: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
        let chain: Option<Vec<_>> =
            CertificateDer::pem_slice_iter(text).map(|certificate| certificate.ok()).collect();
        let chain = chain.filter(|chain| !chain.is_empty());
        if chain.is_none() {
            self.report.add(raw.span, Code::InvalidValue, "expected certificates in PEM");
        }
        chain
    }

    /// The path of a file whose content has to be of a form.
    pub(super) fn key_file(
        &mut self,
        raw: &At<String>,
        is_valid: impl Fn(&[u8]) -> bool,
        wanted: &str,
    ) -> Option<PathBuf> {
        let text = self.file(raw)?;
        if !is_valid(&text) {
            self.report.add(raw.span, Code::InvalidValue, wanted);
        }
        Some(self.path(raw))
    }

    fn file(&mut self, raw: &At<String>) -> Option<Vec<u8>> {
        let path = self.dir.join(self.path(raw));
        let mut text = Vec::new();
        let done = match std::fs::metadata(&path) {
            // Asked first, because opening a pipe waits for a writer.
            Ok(found) if !found.is_file() => Err("not a regular file".to_owned()),
            Ok(_) => std::fs::File::open(&path)
                .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text))
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(why) = done {
            self.report.add(raw.span, Code::Unreadable, format!("cannot read the file: {why}"));
            return None;
        }
        Some(text)
    }
}
