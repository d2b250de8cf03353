//! Callers by client certificate.
//! Not here: whether the certificate is good, which TLS has checked before anything came through (`listener`).

use std::sync::Arc;
use std::time::SystemTime;

use super::table::{carry_on, end_unless_kept};
use super::{Caller, CallerKind};
use crate::conf::{self, CertificateMatch};

/// The names in a client certificate that the listener's authority has signed.
#[derive(Debug, Clone, Copy)]
pub struct CertificateNames<'c> {
    /// The subject, as RFC 4514 writes it.
    pub subject: &'c str,
    /// The subject's common name.
    pub common_name: Option<&'c str>,
    /// DNS names, URIs and e-mail addresses among the subject alternative names.
    pub sans: &'c [String],
    /// When it stops being good.
    pub expires: Option<SystemTime>,
}

/// The configured certificates, in the configuration's order: the first that matches counts.
#[derive(Debug)]
pub(super) struct Certificates(Vec<(CertificateMatch, Arc<Caller>)>);

impl Certificates {
    /// Callers whose certificate is configured as it was before go on with it.
    pub(super) fn new(certificates: &[conf::Certificate], before: Option<&Self>) -> Self {
        let callers = certificates.iter().map(|certificate| {
            let mut caller =
                Caller::new(CallerKind::Certificate, None, &certificate.name, &certificate.grant);
            carry_on(&mut caller, before.and_then(|before| before.by_match(&certificate.matches)));
            (certificate.matches.clone(), Arc::new(caller))
        });
        Self(callers.collect())
    }

    /// Whether certificates mean anything here. If none is configured they only guard the connection.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The caller that the certificate stands for, for as long as it is good.
    pub(super) fn find(&self, names: CertificateNames<'_>) -> Option<Arc<Caller>> {
        let fits = |matches: &CertificateMatch| match matches {
            CertificateMatch::Subject(subject) => names.subject == subject,
            CertificateMatch::CommonName(name) => names.common_name == Some(name),
            CertificateMatch::San(san) => names.sans.contains(san),
        };
        let (_, caller) = self.0.iter().find(|(matches, _)| fits(matches))?;
        Some(Arc::new(Caller { expires: names.expires, ..Caller::clone(caller) }))
    }

    /// Ends callers that `next` does not have in the same form.
    pub(super) fn end_those_missing_in(&self, next: &Self) {
        for (matches, caller) in &self.0 {
            end_unless_kept(caller, next.by_match(matches));
        }
    }

    fn by_match(&self, matches: &CertificateMatch) -> Option<&Arc<Caller>> {
        self.0.iter().find(|(known, _)| known == matches).map(|(_, caller)| caller)
    }
}
