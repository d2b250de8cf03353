//! A client's certificate, read for whom it names.
//! Not here: whether it is good (`tls`), which caller it stands for (`auth`).

use std::time::{Duration, SystemTime};

use x509_parser::der_parser::asn1_rs::ToDer as _;
use x509_parser::prelude::{
    AttributeTypeAndValue, FromDer as _, GeneralName, ParsedExtension, RelativeDistinguishedName,
    X509Certificate, X509Name,
};

use super::connection::ClientCertificate;

/// What a certificate in DER says. `None` if it cannot be read.
pub(super) fn read(der: &[u8]) -> Option<ClientCertificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let mut names = subject.iter_common_name();
    // Two of them would let two callers be meant.
    let common_name = match (names.next(), names.next()) {
        (Some(name), None) => name.as_str().ok().map(str::to_owned),
        _ => None,
    };
    let extensions = certificate.extensions().iter();
    let sans = extensions
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(sans) => Some(&sans.general_names),
            _ => None,
        })
        .flatten()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
                Some((*name).to_owned())
            }
            _ => None,
        })
        .collect();
    // What ended before 1970 has ended.
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
    let expires = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    Some(ClientCertificate { subject: written(subject), common_name, sans, expires })
}

/// A name as RFC 4514 writes it: the last part first.
fn written(name: &X509Name<'_>) -> String {
    let parts: Vec<String> = name.iter().map(part).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(",")
}

fn part(part: &RelativeDistinguishedName<'_>) -> String {
    part.iter().map(attribute).collect::<Vec<_>>().join("+")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let kind = attribute.attr_type().to_id_string();
    // RFC 4514 section 3; any other type is written with its number and the value's bytes (section 2.4).
    let short = match kind.as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.6" => "C",
        "2.5.4.9" => "STREET",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        _ => return format!("{kind}=#{}", hex(attribute)),
    };
    match attribute.as_str() {
        Ok(value) => format!("{short}={}", escaped(value)),
        Err(_) => format!("{short}=#{}", hex(attribute)),
    }
}

/// The value's encoding.
fn hex(attribute: &AttributeTypeAndValue<'_>) -> String {
    // A value that was parsed can be written again.
    let value = attribute.attr_value().to_der_vec().unwrap_or_default();
    value.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 4514 section 2.4.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, char) in value.chars().enumerate() {
        match char {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => text.extend(['\\', char]),
            ' ' if at == 0 || at == last => text.push_str("\\ "),
            '#' if at == 0 => text.push_str("\\#"),
            char if char.is_control() => {
                let mut bytes = [0; 4];
                for byte in char.encode_utf8(&mut bytes).bytes() {
                    text.push_str(&format!("\\{byte:02X}"));
                }
            }
            char => text.push(char),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(names: &[(DnType, &str)], sans: Vec<SanType>) -> ClientCertificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.subject_alt_names = sans;
        params.not_after = rcgen::date_time_ymd(2031, 2, 3);
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        read(der.der()).unwrap()
    }

    #[test]
    fn a_subject_is_written_last_part_first_and_escaped() {
        let found = certificate(
            &[
                (DnType::CountryName, "DE"),
                (DnType::OrganizationName, "Example, Inc. \"x\""),
                (DnType::CommonName, " ci #1 "),
            ],
            Vec::new(),
        );
        assert_eq!(found.subject, "CN=\\ ci #1\\ ,O=Example\\, Inc. \\\"x\\\",C=DE");
        assert_eq!(found.common_name.as_deref(), Some(" ci #1 "));
        assert!(found.sans.is_empty());
        let expires = humantime::format_rfc3339(found.expires.unwrap()).to_string();
        assert_eq!(expires, "2031-02-03T00:00:00Z");
    }

    #[test]
    fn an_unknown_type_has_its_number_and_control_characters_cannot_forge_a_line() {
        let email = DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
        let found = certificate(&[(email, "a"), (DnType::CommonName, "a\nb")], Vec::new());
        assert_eq!(found.subject, "CN=a\\0Ab,1.2.840.113549.1.9.1=#0c0161");
    }

    #[test]
    fn alternative_names_are_those_that_callers_are_told_by() {
        let sans = vec![
            SanType::DnsName("ci.example.com".try_into().unwrap()),
            SanType::URI("spiffe://example.com/ci".try_into().unwrap()),
            SanType::Rfc822Name("ci@example.com".try_into().unwrap()),
            SanType::IpAddress([10, 0, 0, 1].into()),
        ];
        let found = certificate(&[], sans);
        assert_eq!(found.sans, ["ci.example.com", "spiffe://example.com/ci", "ci@example.com"]);
        assert_eq!((found.subject.as_str(), found.common_name), ("", None));
    }
}
