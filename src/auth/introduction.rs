//! How the proxy tells the control plane on whose connection a request came, which the request itself cannot show.
//! Not here: the headers that say where the client is (`proxy/client`); what a certificate is worth (`certificate`).
//!
//! The control plane listens on a private socket and authenticates by itself. Only the gateway reaches that socket, and
//! it puts this header in place of whatever a client sends under its name.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::CertificateNames;

/// Where a request came in, and with which certificate.
#[derive(Debug, Serialize, Deserialize)]
pub struct Introduction {
    /// The listener's name.
    pub listener: String,
    certificate: Option<Names>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Names {
    subject: String,
    common_name: Option<String>,
    sans: Vec<String>,
    expires: Option<SystemTime>,
}

impl Introduction {
    /// Its header.
    pub const HEADER: HeaderName = HeaderName::from_static("x-tollgate-introduction");

    /// For a request that came in at `listener`.
    pub fn new(listener: &str, certificate: Option<CertificateNames<'_>>) -> Self {
        let names = |names: CertificateNames<'_>| Names {
            subject: names.subject.to_owned(),
            common_name: names.common_name.map(str::to_owned),
            sans: names.sans.to_vec(),
            expires: names.expires,
        };
        Self { listener: listener.to_owned(), certificate: certificate.map(names) }
    }

    /// As the header has it. JSON escapes what a header cannot hold.
    pub fn to_header(&self) -> Option<HeaderValue> {
        HeaderValue::from_bytes(&serde_json::to_vec(self).ok()?).ok()
    }

    /// The one in these headers.
    pub fn find(headers: &HeaderMap) -> Option<Self> {
        serde_json::from_slice(headers.get(Self::HEADER)?.as_bytes()).ok()
    }

    /// The names in the certificate.
    pub fn certificate(&self) -> Option<CertificateNames<'_>> {
        self.certificate.as_ref().map(|names| CertificateNames {
            subject: &names.subject,
            common_name: names.common_name.as_deref(),
            sans: &names.sans,
            expires: names.expires,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        let sans = ["spiffe://a".to_owned(), "ü\r\nx: y".to_owned()];
        let names = CertificateNames {
            subject: "CN=\"ä\"\n",
            common_name: Some("ä"),
            sans: &sans,
            expires: Some(SystemTime::now()),
        };
        let mut headers = HeaderMap::new();
        assert!(Introduction::find(&headers).is_none());
        for certificate in [None, Some(names)] {
            let said = Introduction::new("main", certificate).to_header().unwrap();
            headers.insert(Introduction::HEADER, said);
            let heard = Introduction::find(&headers).unwrap();
            assert_eq!(heard.listener, "main");
            assert_eq!(format!("{:?}", heard.certificate()), format!("{certificate:?}"));
        }
        // No name of a certificate has DEL in it; one that had would be nobody's.
        assert!(Introduction::new("\u{7f}", None).to_header().is_none());
    }
}
