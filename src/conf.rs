//! The gateway's own settings, checked: what `tollgate.yaml`, `TOLLGATE_*` and flags come to.
//! Not here: what is behind the gateway (`catalog`), or how a file becomes values with positions (`document`).
//!
//! Invariant: the environment is read here and nowhere else, so that every setting shows in `config show`.

mod access;
mod address;
mod bounds;
mod check;
mod effective;
mod key;
mod layer;
mod listener;
mod load;
mod model;
mod raw;
#[cfg(test)]
mod reference;
mod secret;

pub use access::{
    Access, Algorithm, ApiKey, Auth, Certificate, CertificateMatch, Claims, Grant, Issuer, IssuerKeys,
    KeyMaterial, Limit, Rate,
};
pub use address::{SERVER_URL_WANTED, is_loopback, is_private, server_url};
pub use bounds::Bounds;
pub use effective::{Effective, EffectiveValue};
pub use key::{NewKey, new_key};
pub use listener::{Doors, Kinds, Listener, Tls};
pub use load::{Flags, Loaded, Sources, load};
pub use model::{AuditSink, Conf, Limits, LogConf, LogFormat, Resume, Secret, SessionConf};
pub use secret::{is_exposed, read_file as read_secret, session_key};

/// The environment of this process. Variables that are not UTF-8 are left out: no setting can be.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn environment() -> Vec<(String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

/// The JSON Schema (draft-07) of `tollgate.yaml`, for editors.
pub fn schema() -> serde_json::Value {
    crate::document::schema_of::<raw::RawConf>()
}

#[cfg(test)]
mod tests;
