//! Checks credentials: that each says what it allows, and that no two are the same.
//! Not here: issuers of tokens (`issuer`), whether a secret can be guessed (`secret`); how callers are recognised (`auth`).

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use time::format_description::well_known::{Iso8601, Rfc3339};
use time::{Date, OffsetDateTime};

use super::Checker;
use crate::conf::raw::{RawAuth, RawCertificate, RawKey, RawLimit};
use crate::conf::{
    ApiKey, Auth, Certificate, CertificateMatch, Grant, KeyMaterial, Secret, key as key_form, secret,
};
use crate::document::{At, Code, Span};

/// 128 bits, if each byte were random; written in hex it is half of that, and still out of reach over a network.
const KEY_BYTES_MIN: usize = 16;
/// A header has to hold it.
const KEY_BYTES_MAX: usize = 1024;

/// What a credential says of what it is good for.
pub(super) struct Granted<'a> {
    /// What mistakes call the credential, such as `a key`.
    pub(super) on: &'a str,
    pub(super) span: Span,
    pub(super) servers: Option<At<Vec<At<String>>>>,
    pub(super) scopes: Option<Vec<At<String>>>,
    pub(super) groups: Option<Vec<At<String>>>,
    pub(super) limit: Option<At<RawLimit>>,
    pub(super) limit_class: Option<At<String>>,
}

/// Names and secrets met so far, with their places.
#[derive(Default)]
struct Seen {
    names: HashMap<String, Span>,
    digests: HashMap<[u8; 32], Span>,
}

impl Checker<'_> {
    pub(super) fn auth(&mut self, raw: RawAuth) -> Auth {
        let mut seen = Seen::default();
        let keys = raw.keys.unwrap_or_default().into_iter();
        let keys: Vec<_> = keys.filter_map(|raw| self.key(raw, &mut seen)).collect();
        let issuers = self.issuers(raw.jwt, raw.issuers.unwrap_or_default());
        let mut names = HashMap::new();
        let mut matches = HashMap::new();
        self.certificates = raw.certificates.iter().flatten().next().map(|first| first.span);
        let certificates = raw.certificates.unwrap_or_default().into_iter();
        let certificates =
            certificates.filter_map(|raw| self.certificate(raw, &mut names, &mut matches)).collect();
        let anonymous = raw.anonymous.map(|At { value: raw, span }| {
            self.grant(Granted {
                on: "anonymous",
                span,
                servers: raw.servers,
                scopes: raw.scopes,
                groups: raw.groups,
                limit: raw.limit,
                limit_class: raw.limit_class,
            })
        });
        let authorization_servers = self.authorization_servers(raw.authorization_servers, &issuers);
        let scopes = raw.scopes.unwrap_or_default();
        if authorization_servers.is_empty() && !scopes.is_empty() {
            let advice =
                "an issuer that is an `https` address, or `authorization_servers`, makes OAuth clients ask";
            self.report.warn_advise(scopes.span, Code::NoEffect, "nobody is told of these scopes", advice);
        }
        let scopes = self.scopes(Some(scopes.value));
        Auth { keys, issuers, certificates, anonymous, authorization_servers, scopes }
    }

    fn key(&mut self, raw: At<RawKey>, seen: &mut Seen) -> Option<ApiKey> {
        let At { value: raw, span } = raw;
        let material = self.material(&raw, span, seen);
        let grant = self.grant(Granted {
            on: "a key",
            span,
            servers: raw.servers,
            scopes: raw.scopes,
            groups: raw.groups,
            limit: raw.limit,
            limit_class: raw.limit_class,
        });
        let expires = raw.expires.and_then(|expires| self.expires(&expires));
        let Some(name) = raw.name else {
            self.missing(span, "a key needs a name");
            return None;
        };
        self.name(&name);
        let twice = "the same name twice: logs could not tell the two keys apart";
        self.unique(&mut seen.names, name.value.clone(), name.span, twice);
        Some(ApiKey { name: name.value, owner: raw.owner, key: material?, expires, grant })
    }

    /// The key itself, from the one of three places where it may stand.
    fn material(&mut self, raw: &RawKey, span: Span, seen: &mut Seen) -> Option<KeyMaterial> {
        let given = [("key", &raw.key), ("key_file", &raw.key_file), ("hash", &raw.hash)];
        self.exactly_one(span, "a key needs a key", &given)?;
        if let Some(hash) = &raw.hash {
            let digest = hash.strip_prefix("sha256:").and_then(secret::hex);
            let Some(digest) = digest else {
                let message = "expected `sha256:` and 64 hexadecimal digits";
                self.report.advise(hash.span, Code::InvalidValue, message, "`tollgate key new` prints it");
                return None;
            };
            self.unique(&mut seen.digests, digest, hash.span, "the same key twice");
            return Some(KeyMaterial::Sha256(digest));
        }
        let key = match &raw.key_file {
            Some(file) => self.secret_file(file)?,
            None => raw.key.clone()?,
        };
        self.unique(&mut seen.digests, key_form::digest_of(&key), key.span, "the same key twice");
        self.strong(&key, KEY_BYTES_MIN, "tollgate key new");
        if key_form::is_mistyped(&key) {
            let message = "a key that was mistyped or cut: its checksum is wrong";
            self.report.advise(key.span, Code::InvalidValue, message, "tollgate key new");
        } else if key.len() > KEY_BYTES_MAX || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = format!("expected at most {KEY_BYTES_MAX} visible ASCII characters without spaces");
            self.report.add(key.span, Code::InvalidValue, message);
        }
        Some(KeyMaterial::Plain(Secret::new(key.value)))
    }

    /// Reports when none, or more than one, of several keys is given. Tells the one.
    pub(super) fn exactly_one<'k>(
        &mut self,
        span: Span,
        missing: &str,
        given: &[(&'k str, &Option<At<String>>)],
    ) -> Option<&'k str> {
        let mut found = given.iter().filter_map(|(name, value)| Some((*name, value.as_ref()?.span)));
        let Some((first, _)) = found.next() else {
            if !self.report.is_incomplete(span) {
                let names: Vec<_> = given.iter().map(|(name, _)| format!("`{name}`")).collect();
                self.report.advise(span, Code::Missing, missing, format!("one of {}", names.join(", ")));
            }
            return None;
        };
        for (other, at) in found {
            let message = format!("`{first}` and `{other}` exclude each other: keep one of them");
            self.report.add(at, Code::Conflict, message);
        }
        Some(first)
    }

    fn expires(&mut self, raw: &At<String>) -> Option<SystemTime> {
        let date = || {
            // The format by itself also takes a time without an offset, and drops it.
            let is_date = raw.len() == "2027-01-31".len();
            let date = is_date.then(|| Date::parse(raw, &Iso8601::DATE).ok()).flatten();
            date.map(|date| date.midnight().assume_utc())
        };
        let Some(time) = OffsetDateTime::parse(raw, &Rfc3339).ok().or_else(date) else {
            let message =
                "expected a date or a time (RFC 3339), such as `2027-01-31` or `2027-01-31T12:00:00Z`";
            self.report.add(raw.span, Code::InvalidValue, message);
            return None;
        };
        let Some(time) = u64::try_from(time.unix_timestamp()).ok().map(Duration::from_secs) else {
            self.report.add(raw.span, Code::InvalidValue, "before there were computers");
            return None;
        };
        let time = SystemTime::UNIX_EPOCH + time;
        if time <= SystemTime::now() {
            self.report.warn(raw.span, Code::Expired, "a credential whose time is over: it lets nobody in");
        }
        Some(time)
    }

    fn certificate(
        &mut self,
        raw: At<RawCertificate>,
        names: &mut HashMap<String, Span>,
        matches: &mut HashMap<(String, String), Span>,
    ) -> Option<Certificate> {
        let At { value: raw, span } = raw;
        let grant = self.grant(Granted {
            on: "a certificate",
            span,
            servers: raw.servers,
            scopes: raw.scopes,
            groups: raw.groups,
            limit: raw.limit,
            limit_class: raw.limit_class,
        });
        let given = [("subject", &raw.subject), ("common_name", &raw.common_name), ("san", &raw.san)];
        let kind = self.exactly_one(span, "a certificate needs something to be known by", &given);
        let Some(name) = raw.name else {
            self.missing(span, "a certificate needs a name");
            return None;
        };
        self.name(&name);
        let twice = "the same name twice: logs could not tell the two apart";
        self.unique(names, name.value.clone(), name.span, twice);
        let wanted = [raw.subject, raw.common_name, raw.san].into_iter().flatten().next()?;
        if wanted.trim().is_empty() {
            self.report.add(wanted.span, Code::InvalidValue, "expected what the certificate says there");
        }
        self.unique(
            matches,
            (kind?.to_owned(), wanted.value.clone()),
            wanted.span,
            "the same certificate twice",
        );
        let matches = match kind? {
            "subject" => CertificateMatch::Subject(wanted.value),
            "common_name" => CertificateMatch::CommonName(wanted.value),
            _ => CertificateMatch::San(wanted.value),
        };
        Some(Certificate { name: name.value, matches, grant })
    }

    /// What a credential is good for.
    pub(super) fn grant(&mut self, raw: Granted<'_>) -> Grant {
        let servers = self.servers(raw.servers, raw.span, raw.on);
        let scopes = self.scopes(raw.scopes);
        let groups = raw.groups.unwrap_or_default();
        for group in groups.iter().filter(|group| group.trim().is_empty()) {
            self.report.add(group.span, Code::InvalidValue, "expected the name of a group");
        }
        let groups = groups.into_iter().map(|group| group.value).collect();
        let limit = self.own_limit(raw.limit.as_ref(), raw.limit_class.as_ref());
        Grant { servers, scopes, groups, limit }
    }

    /// Scopes are words of RFC 6749 section 3.3: they travel in lists with spaces between them.
    pub(super) fn scopes(&mut self, raw: Option<Vec<At<String>>>) -> Vec<String> {
        let raw = raw.unwrap_or_default();
        let is_scope = |scope: &str| {
            !scope.is_empty() && scope.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'))
        };
        for scope in raw.iter().filter(|scope| !is_scope(scope)) {
            let message = "expected a scope: visible ASCII characters without spaces, quotes and backslashes";
            self.report.add(scope.span, Code::InvalidValue, message);
        }
        raw.into_iter().map(|scope| scope.value).collect()
    }

    /// What a credential allows has to be said: a forgotten line must not open everything, nor nothing silently.
    fn servers(&mut self, raw: Option<At<Vec<At<String>>>>, span: Span, on: &str) -> Vec<String> {
        let Some(raw) = raw else {
            if !self.report.is_incomplete(span) {
                let message = format!("{on} needs `servers`: which ones may be used");
                self.report.advise(span, Code::Missing, message, "servers: [\"*\"] allows all");
            }
            return Vec::new();
        };
        let has_all = raw.iter().any(|id| id.value == "*");
        for id in raw.iter() {
            if id.is_empty() || (id.contains('*') && id.value != "*") {
                self.report.add(id.span, Code::InvalidValue, "expected the id of a server, or `*` for all");
            } else if has_all && id.value != "*" {
                self.report.add(id.span, Code::NoEffect, "beside `*`, which allows all, an id has no effect");
            }
        }
        raw.value.into_iter().map(|id| id.value).collect()
    }
}
