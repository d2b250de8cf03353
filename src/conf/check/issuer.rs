//! Checks issuers of tokens: whose tokens, signed how, with which keys, saying what.
//! Not here: how tokens are verified (`auth`).

use std::collections::HashMap;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};

use super::Checker;
use super::credentials::Granted;
use crate::conf::raw::{RawAlgorithm, RawClaims, RawIssuer, RawJwt};
use crate::conf::{Algorithm, Claims, Issuer, IssuerKeys, Secret, is_private};
use crate::document::{At, Code, Period, Span, Words};

/// Clocks that are kept at all differ by less than a second; a token lives longer by this.
const LEEWAY: Duration = Duration::from_secs(30);
const LEEWAY_MAX: Duration = Duration::from_secs(300);

impl Checker<'_> {
    /// The old form first: it may be without an issuer.
    pub(super) fn issuers(&mut self, jwt: Option<At<RawJwt>>, raw: Vec<At<RawIssuer>>) -> Vec<Issuer> {
        let mut seen: HashMap<String, Span> = HashMap::new();
        if let Some(issuer) = jwt.as_ref().and_then(|jwt| jwt.issuer.as_ref()) {
            seen.insert(issuer.value.clone(), issuer.span);
        }
        let mut issuers: Vec<_> = jwt.and_then(|jwt| self.jwt(jwt)).into_iter().collect();
        for raw in raw {
            if let Some(issuer) = &raw.issuer {
                let twice = "the same issuer twice: the keys of one would decide about tokens of the other";
                self.unique(&mut seen, issuer.value.clone(), issuer.span, twice);
            }
            issuers.extend(self.issuer(raw));
        }
        issuers
    }

    fn jwt(&mut self, raw: At<RawJwt>) -> Option<Issuer> {
        let At { value: raw, span } = raw;
        let (scopes, groups, limit, limit_class) = (None, None, None, None);
        let servers = raw.servers;
        let grant = self.grant(Granted { on: "jwt", span, servers, scopes, groups, limit, limit_class });
        let Some(secret) = raw.secret else {
            self.missing(span, "jwt needs a secret");
            return None;
        };
        self.strong(&secret, secret_bytes_min(&[Algorithm::Hs256]), "openssl rand -base64 48");
        Some(Issuer {
            issuer: raw.issuer.map(|issuer| issuer.value),
            audience_required: raw.audience.is_some(),
            audiences: raw.audience.into_iter().collect(),
            algorithms: vec![Algorithm::Hs256],
            keys: IssuerKeys::Secret(Secret::new(secret.value)),
            claims: Claims::default(),
            grant,
            leeway: LEEWAY,
        })
    }

    fn issuer(&mut self, raw: At<RawIssuer>) -> Option<Issuer> {
        let At { value: mut raw, span } = raw;
        let grant = self.grant(Granted {
            on: "an issuer",
            span,
            servers: raw.servers.take(),
            scopes: raw.scopes.take(),
            groups: raw.groups.take(),
            limit: raw.limit.take(),
            limit_class: raw.limit_class.take(),
        });
        let audiences = self.audiences(raw.audience.as_ref());
        if raw.audience.is_none() && !self.report.is_incomplete(span) {
            self.without_audience.push(raw.issuer.as_ref().map_or(span, |issuer| issuer.span));
        }
        let keys = self.issuer_keys(&raw, span);
        let claims = self.claims(raw.claims.take().unwrap_or_default());
        let leeway = self.leeway(raw.leeway.as_ref());
        let Some(issuer) = raw.issuer else {
            self.missing(span, "an issuer needs `issuer`: the `iss` of its tokens");
            return None;
        };
        if issuer.trim().is_empty() {
            self.report.add(issuer.span, Code::InvalidValue, "expected the `iss` of its tokens");
        }
        let (keys, algorithms) = keys?;
        let issuer = Some(issuer.value);
        Some(Issuer { issuer, audiences, audience_required: true, algorithms, keys, claims, grant, leeway })
    }

    fn audiences(&mut self, raw: Option<&At<Words>>) -> Vec<String> {
        let Some(raw) = raw else { return Vec::new() };
        if raw.0.is_empty() || raw.0.iter().any(|audience| audience.trim().is_empty()) {
            let message = "expected an audience: without one, tokens for anybody would be taken";
            self.report.add(raw.span, Code::InvalidValue, message);
        }
        raw.0.clone()
    }

    /// The keys, and the algorithms that fit them.
    fn issuer_keys(&mut self, raw: &RawIssuer, span: Span) -> Option<(IssuerKeys, Vec<Algorithm>)> {
        let given = [
            ("secret", &raw.secret),
            ("secret_file", &raw.secret_file),
            ("pem_file", &raw.pem_file),
            ("jwks_file", &raw.jwks_file),
            ("jwks_url", &raw.jwks_url),
        ];
        let source = self.exactly_one(span, "an issuer needs its keys", &given)?;
        let is_shared = source.starts_with("secret");
        let algorithms = self.algorithms(raw, source, is_shared);
        let secret = match &raw.secret_file {
            Some(file) if source == "secret_file" => Some(self.secret_file(file)?),
            _ => raw.secret.clone(),
        };
        let keys = if let Some(secret) = secret.filter(|_| is_shared) {
            self.strong(&secret, secret_bytes_min(&algorithms), "openssl rand -base64 48");
            IssuerKeys::Secret(Secret::new(secret.value))
        } else if let Some(file) = &raw.pem_file {
            let is_pem = |text: &[u8]| {
                SubjectPublicKeyInfoDer::from_pem_slice(text).is_ok()
                    || CertificateDer::from_pem_slice(text).is_ok()
            };
            let path = self.key_file(file, is_pem, "expected public keys or certificates in PEM")?;
            IssuerKeys::Pem(path)
        } else if let Some(file) = &raw.jwks_file {
            IssuerKeys::JwksFile(self.key_file(
                file,
                is_key_set,
                "expected a JSON Web Key Set: `{\"keys\": […]}`",
            )?)
        } else {
            IssuerKeys::JwksUrl(self.server_url(raw.jwks_url.as_ref()?)?)
        };
        Some((keys, algorithms))
    }

    /// Pinned algorithms. A secret and a public key must not be mistaken for each other (RFC 8725 section 2.1).
    fn algorithms(&mut self, raw: &RawIssuer, source: &str, is_shared: bool) -> Vec<Algorithm> {
        let Some(given) = &raw.algorithms else {
            return vec![if is_shared { Algorithm::Hs256 } else { Algorithm::Rs256 }];
        };
        if given.is_empty() && !self.report.is_incomplete(given.span) {
            let message = "expected an algorithm: with none, no token would be good";
            self.report.add(given.span, Code::InvalidValue, message);
        }
        let mut algorithms = Vec::new();
        for raw in given.iter() {
            let algorithm = algorithm(raw.value);
            if algorithms.contains(&algorithm) {
                self.report.add(raw.span, Code::Conflict, "the same algorithm twice");
            } else if is_hmac(algorithm) != is_shared {
                let wanted = if is_shared {
                    "HS256, HS384 or HS512"
                } else {
                    "one with public keys, such as RS256, ES256 or EdDSA"
                };
                let message = format!("with `{source}` the algorithm has to be {wanted}");
                self.report.add(raw.span, Code::Conflict, message);
            }
            algorithms.push(algorithm);
        }
        algorithms
    }

    fn claims(&mut self, raw: RawClaims) -> Claims {
        let names = [&raw.subject, &raw.groups, &raw.servers, &raw.limit_class].into_iter().flatten();
        for name in names.filter(|name| name.split('.').any(str::is_empty)) {
            self.report.add(name.span, Code::InvalidValue, "expected the name of a claim");
        }
        if let Some(scopes) = &raw.scopes
            && (scopes.0.is_empty() || scopes.0.iter().any(|name| name.split('.').any(str::is_empty)))
        {
            self.report.add(scopes.span, Code::InvalidValue, "expected the name of a claim");
        }
        let default = Claims::default();
        let or = |given: Option<At<String>>, default: String| given.map_or(default, |name| name.value);
        Claims {
            subject: or(raw.subject, default.subject),
            scopes: raw.scopes.map_or(default.scopes, |names| names.value.0),
            groups: or(raw.groups, default.groups),
            servers: or(raw.servers, default.servers),
            limit_class: raw.limit_class.map(|name| name.value),
        }
    }

    fn leeway(&mut self, raw: Option<&At<Period>>) -> Duration {
        let Some(leeway) = raw else { return LEEWAY };
        if leeway.0 > LEEWAY_MAX {
            self.report.add(
                leeway.span,
                Code::InvalidValue,
                "must be at most 5m: expired tokens would live on",
            );
        }
        leeway.0
    }

    /// Issuers that OAuth clients can go to. Their names are compared letter by letter, so they stay as they are.
    pub(super) fn authorization_servers(
        &mut self,
        raw: Option<Vec<At<String>>>,
        issuers: &[Issuer],
    ) -> Vec<String> {
        let Some(raw) = raw else {
            let names = issuers.iter().filter_map(|issuer| issuer.issuer.clone());
            return names.filter(|name| is_server(name)).collect();
        };
        for url in &raw {
            self.server_url(url);
        }
        raw.into_iter().map(|url| url.value).collect()
    }
}

/// Whether the name of an issuer is an address that a client can go to.
fn is_server(name: &str) -> bool {
    name.parse().is_ok_and(|uri| is_private(&uri))
}

/// RFC 7518 section 3.2: a key of the size of the hash output or larger.
fn secret_bytes_min(algorithms: &[Algorithm]) -> usize {
    let bytes = |algorithm: &Algorithm| match algorithm {
        Algorithm::Hs512 => 64,
        Algorithm::Hs384 => 48,
        _ => 32,
    };
    algorithms.iter().map(bytes).max().unwrap_or(32)
}

fn is_hmac(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512)
}

fn is_key_set(text: &[u8]) -> bool {
    let set = serde_json::from_slice::<serde_json::Value>(text).ok();
    set.is_some_and(|set| {
        set.get("keys").and_then(serde_json::Value::as_array).is_some_and(|keys| !keys.is_empty())
    })
}

fn algorithm(raw: RawAlgorithm) -> Algorithm {
    match raw {
        RawAlgorithm::Hs256 => Algorithm::Hs256,
        RawAlgorithm::Hs384 => Algorithm::Hs384,
        RawAlgorithm::Hs512 => Algorithm::Hs512,
        RawAlgorithm::Rs256 => Algorithm::Rs256,
        RawAlgorithm::Rs384 => Algorithm::Rs384,
        RawAlgorithm::Rs512 => Algorithm::Rs512,
        RawAlgorithm::Ps256 => Algorithm::Ps256,
        RawAlgorithm::Ps384 => Algorithm::Ps384,
        RawAlgorithm::Ps512 => Algorithm::Ps512,
        RawAlgorithm::Es256 => Algorithm::Es256,
        RawAlgorithm::Es384 => Algorithm::Es384,
        RawAlgorithm::EdDsa => Algorithm::EdDsa,
    }
}
