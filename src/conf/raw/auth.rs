//! The form of `auth`: credentials, and what each is good for.
//! Not here: what is accepted (`check/credentials.rs`, `check/issuer.rs`).

use schemars::JsonSchema;
use serde::Deserialize;

use super::RawLimit;
use crate::document::{At, Period, Words};

/// Who may call.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::conf) struct RawAuth {
    /// API keys, sent as `Authorization: Bearer …` or `X-API-Key: …`.
    #[schemars(extend("x-example" = [{"name": "alice", "key": "${ALICE_KEY}", "servers": ["*"]}]))]
    pub(in crate::conf) keys: Option<Vec<At<RawKey>>>,
    /// Issuers of JSON Web Tokens, each with its own keys and algorithms.
    #[schemars(extend("x-example" = [{
        "issuer": "https://login.example.com", "jwks_url": "https://login.example.com/jwks", "servers": ["*"]
    }]))]
    pub(in crate::conf) issuers: Option<Vec<At<RawIssuer>>>,
    /// JSON Web Tokens signed with a shared secret (HS256): one issuer in few words.
    #[schemars(extend("x-example" = {"secret": "${JWT_SECRET}", "issuer": "https://login.example.com", "servers": ["*"]}))]
    pub(in crate::conf) jwt: Option<At<RawJwt>>,
    /// Callers by client certificate. `tls.client_ca` says which certificates are good.
    #[schemars(extend("x-example" = [{"name": "ci", "common_name": "ci.example.com", "servers": ["*"]}]))]
    pub(in crate::conf) certificates: Option<Vec<At<RawCertificate>>>,
    /// What callers without a credential may do. Default: nothing, once there is any credential.
    #[schemars(extend("x-example" = {"servers": ["docs"]}))]
    pub(in crate::conf) anonymous: Option<At<RawAnonymous>>,
    /// Authorization servers that OAuth clients are told of (RFC 9728). Default: those `issuers` that are `https`
    /// addresses, or `http` ones on loopback.
    #[schemars(extend("x-example" = ["https://login.example.com"]))]
    pub(in crate::conf) authorization_servers: Option<Vec<At<String>>>,
    /// Scopes that OAuth clients are told to ask for. Default: none.
    #[schemars(extend("x-example" = ["tools:read"]))]
    pub(in crate::conf) scopes: Option<At<Vec<At<String>>>>,
}

/// An API key.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend(
    "required" = ["name", "servers"],
    "oneOf" = [{"required": ["key"]}, {"required": ["key_file"]}, {"required": ["hash"]}]
))]
pub(in crate::conf) struct RawKey {
    /// Who holds it, in logs. Unique.
    pub(in crate::conf) name: Option<At<String>>,
    /// The key: at least 16 bytes without spaces. `tollgate key new` makes a good one.
    #[schemars(extend("writeOnly" = true))]
    pub(in crate::conf) key: Option<At<String>>,
    /// A file with the key, relative to this one.
    pub(in crate::conf) key_file: Option<At<String>>,
    /// The key's digest instead of the key, `sha256:` and 64 hexadecimal digits, as `tollgate key new` prints it.
    pub(in crate::conf) hash: Option<At<String>>,
    /// Who answers for it, for people.
    pub(in crate::conf) owner: Option<String>,
    /// When it stops being good: a time such as `2027-01-31T12:00:00Z` (RFC 3339), or a date, which is its beginning in
    /// UTC. Default: never.
    pub(in crate::conf) expires: Option<At<String>>,
    /// Servers it may use: ids, or `*` for all. An empty list allows none.
    pub(in crate::conf) servers: Option<At<Vec<At<String>>>>,
    /// Scopes it has, for rules of the catalog. Default: none.
    pub(in crate::conf) scopes: Option<Vec<At<String>>>,
    /// Groups it is in, for rules of the catalog. Default: none.
    pub(in crate::conf) groups: Option<Vec<At<String>>>,
    /// Its own limit. Default: `limit` at the top level.
    pub(in crate::conf) limit: Option<At<RawLimit>>,
    /// The name of a limit in `limit_classes`, instead of `limit`.
    pub(in crate::conf) limit_class: Option<At<String>>,
}

/// An issuer of JSON Web Tokens.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["issuer", "servers"]))]
pub(in crate::conf) struct RawIssuer {
    /// The `iss` of its tokens, letter by letter.
    pub(in crate::conf) issuer: Option<At<String>>,
    /// Accepted values of `aud`, a text or a list. Default: the address of the door that is called, below `public_url`.
    pub(in crate::conf) audience: Option<At<Words>>,
    /// Algorithms that its tokens may be signed with. Default: `[HS256]` with a secret, else `[RS256]`, which OpenID
    /// providers have to offer.
    pub(in crate::conf) algorithms: Option<At<Vec<At<RawAlgorithm>>>>,
    /// A secret shared with the issuer, for HS256, HS384 and HS512: at least 32, 48 or 64 bytes.
    #[schemars(extend("writeOnly" = true))]
    pub(in crate::conf) secret: Option<At<String>>,
    /// A file with that secret, relative to this one.
    pub(in crate::conf) secret_file: Option<At<String>>,
    /// A file with public keys or certificates in PEM.
    pub(in crate::conf) pem_file: Option<At<String>>,
    /// A file with a JSON Web Key Set; it is read again when it changes.
    pub(in crate::conf) jwks_file: Option<At<String>>,
    /// Where its JSON Web Key Set is published, with `https`.
    pub(in crate::conf) jwks_url: Option<At<String>>,
    /// Where in a token is what. A name with dots leads into objects.
    pub(in crate::conf) claims: Option<RawClaims>,
    /// Servers its tokens may use: ids, or `*` for all. An empty list allows none. Claims narrow it, and add nothing.
    pub(in crate::conf) servers: Option<At<Vec<At<String>>>>,
    /// Scopes of a token whose claims name none, for rules of the catalog. Default: none.
    pub(in crate::conf) scopes: Option<Vec<At<String>>>,
    /// Groups of a token whose claims name none, for rules of the catalog. Default: none.
    pub(in crate::conf) groups: Option<Vec<At<String>>>,
    /// The limit of each of its callers. Default: `limit` at the top level.
    pub(in crate::conf) limit: Option<At<RawLimit>>,
    /// The name of a limit in `limit_classes`, instead of `limit`.
    pub(in crate::conf) limit_class: Option<At<String>>,
    /// How far its clock and ours may differ. Default: 30s; clocks that are kept are within a second.
    pub(in crate::conf) leeway: Option<At<Period>>,
}

/// Names of claims.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::conf) struct RawClaims {
    /// Who calls. Default: `sub`.
    pub(in crate::conf) subject: Option<At<String>>,
    /// Scopes, as a list or as words; several names are tried in turn. Default: `scope`, `scp`.
    pub(in crate::conf) scopes: Option<At<Words>>,
    /// Groups, as a list or as words. Default: `groups`.
    pub(in crate::conf) groups: Option<At<String>>,
    /// Servers, as a list or as words. Default: `servers`.
    pub(in crate::conf) servers: Option<At<String>>,
    /// The name of a limit class. Default: no claim says that.
    pub(in crate::conf) limit_class: Option<At<String>>,
}

/// Algorithms of signatures. `none` is no signature and not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(in crate::conf) enum RawAlgorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// Tokens signed with a shared secret.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["secret", "servers"]))]
pub(in crate::conf) struct RawJwt {
    /// The shared secret: at least 32 bytes, as HS256 demands.
    #[schemars(extend("writeOnly" = true))]
    pub(in crate::conf) secret: Option<At<String>>,
    /// The `iss` that a token must carry. Default: any.
    pub(in crate::conf) issuer: Option<At<String>>,
    /// The `aud` that a token must carry. Default: any.
    pub(in crate::conf) audience: Option<String>,
    /// Servers a token may use: ids, or `*` for all. A claim `servers` of its own narrows it, and adds nothing.
    pub(in crate::conf) servers: Option<At<Vec<At<String>>>>,
}

/// A caller by client certificate.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend(
    "required" = ["name", "servers"],
    "oneOf" = [{"required": ["subject"]}, {"required": ["common_name"]}, {"required": ["san"]}]
))]
pub(in crate::conf) struct RawCertificate {
    /// Who holds it, in logs. Unique.
    pub(in crate::conf) name: Option<At<String>>,
    /// The certificate's subject as RFC 4514 writes it, such as `CN=ci,O=Example`.
    pub(in crate::conf) subject: Option<At<String>>,
    /// The common name of its subject alone.
    pub(in crate::conf) common_name: Option<At<String>>,
    /// One of its alternative names: a DNS name, URI or e-mail address.
    pub(in crate::conf) san: Option<At<String>>,
    /// Servers it may use: ids, or `*` for all. An empty list allows none.
    pub(in crate::conf) servers: Option<At<Vec<At<String>>>>,
    /// Scopes it has, for rules of the catalog. Default: none.
    pub(in crate::conf) scopes: Option<Vec<At<String>>>,
    /// Groups it is in, for rules of the catalog. Default: none.
    pub(in crate::conf) groups: Option<Vec<At<String>>>,
    /// Its own limit. Default: `limit` at the top level.
    pub(in crate::conf) limit: Option<At<RawLimit>>,
    /// The name of a limit in `limit_classes`, instead of `limit`.
    pub(in crate::conf) limit_class: Option<At<String>>,
}

/// What callers without a credential may do.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["servers"]))]
pub(in crate::conf) struct RawAnonymous {
    /// Servers they may use: ids, or `*` for all. An empty list allows none.
    pub(in crate::conf) servers: Option<At<Vec<At<String>>>>,
    /// Scopes they have, for rules of the catalog. Default: none.
    pub(in crate::conf) scopes: Option<Vec<At<String>>>,
    /// Groups they are in, for rules of the catalog. Default: none.
    pub(in crate::conf) groups: Option<Vec<At<String>>>,
    /// Their limit, all of them together. Default: `limit` at the top level.
    pub(in crate::conf) limit: Option<At<RawLimit>>,
    /// The name of a limit in `limit_classes`, instead of `limit`.
    pub(in crate::conf) limit_class: Option<At<String>>,
}
