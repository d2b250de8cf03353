//! Headers that mirror the body in the modern era, and how they tell the era.
//! Not here: which headers travel on (`proxy/headers`).
//!
//! Rules: 2026-07-28/basic/transports/streamable-http. The body decides; a header is only ever checked against it.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderName};

use super::message::{Kind, Message, text};
use super::revision::{Era, Revision};

/// The headers of a request that mirror its body.
#[derive(Debug)]
pub struct MirroredHeaders;

impl MirroredHeaders {
    /// The revision a request speaks.
    pub const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
    /// The body's `method`.
    pub const METHOD: HeaderName = HeaderName::from_static("mcp-method");
    /// The body's name, URI or task.
    pub const NAME: HeaderName = HeaderName::from_static("mcp-name");
    /// Prefix of headers that mirror arguments.
    pub const PARAM_PREFIX: &'static str = "mcp-param-";

    /// Whether a header says again what the body says of its call. The version is no such header: it tells the era.
    pub fn mirror(name: &HeaderName) -> bool {
        *name == Self::METHOD || *name == Self::NAME || name.as_str().starts_with(Self::PARAM_PREFIX)
    }
}

/// A modern request whose headers and body do not agree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// HTTP 400 and -32020.
    #[error("header `{0}` is missing, stands twice or differs from the body")]
    Mismatch(&'static str),
    /// HTTP 400 and -32602.
    #[error("`params._meta` lacks `{0}`, which every request of 2026-07-28 carries")]
    MissingMeta(&'static str),
}

/// Tells the era of a POST and, in the modern one, checks headers against body.
///
/// A request is modern when its `_meta` names a revision or its header names a modern one. A revision that is in
/// no list passes: the server behind it answers which ones it speaks.
pub fn check_mirrored(headers: &HeaderMap, message: &Message<'_>) -> Result<Era, HeaderFault> {
    let version = single(headers, &MirroredHeaders::VERSION);
    let meta_version = message.params.meta.protocol_version();
    let named = version.as_ref().ok().and_then(|value| Revision::parse(value.as_deref()?));
    if meta_version.is_none() && named.is_none_or(|revision| revision.era() == Era::Legacy) {
        return Ok(Era::Legacy);
    }
    let version = required(version, "MCP-Protocol-Version")?;
    if message.kind == Kind::Request {
        let meta_version =
            meta_version.ok_or(HeaderFault::MissingMeta("io.modelcontextprotocol/protocolVersion"))?;
        if message.params.meta.client_capabilities().is_none() {
            return Err(HeaderFault::MissingMeta("io.modelcontextprotocol/clientCapabilities"));
        }
        if text(meta_version).as_deref() != Some(version.as_ref()) {
            return Err(HeaderFault::Mismatch("MCP-Protocol-Version"));
        }
    }
    if message.kind != Kind::Response {
        let method = required(single(headers, &MirroredHeaders::METHOD), "Mcp-Method")?;
        if method != message.method_name {
            return Err(HeaderFault::Mismatch("Mcp-Method"));
        }
    }
    check_name(headers, message)?;
    Ok(Era::Modern)
}

fn check_name(headers: &HeaderMap, message: &Message<'_>) -> Result<(), HeaderFault> {
    let Some(param) = message.method.mirrored_param() else { return Ok(()) };
    let fault = HeaderFault::Mismatch("Mcp-Name");
    let header = single(headers, &MirroredHeaders::NAME).map_err(|_| fault.clone())?;
    let header = match header {
        Some(value) => Some(decode_sentinel(&value).ok_or(fault.clone())?.into_owned()),
        None => None,
    };
    // A body without the parameter is the server's to refuse; a header without it is ours.
    match (message.params.text(param), header) {
        (Some(body), Some(header)) if body == header => Ok(()),
        (None, None) => Ok(()),
        _ => Err(fault),
    }
}

/// The one value of a header, trimmed; `Err` if it stands twice or is not visible ASCII.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<Cow<'h, str>>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(|text| Some(Cow::Borrowed(text.trim()))).map_err(|_| ()),
        _ => Err(()),
    }
}

fn required<'h>(
    value: Result<Option<Cow<'h, str>>, ()>,
    name: &'static str,
) -> Result<Cow<'h, str>, HeaderFault> {
    value.ok().flatten().ok_or(HeaderFault::Mismatch(name))
}

/// Undoes `=?base64?…?=`, the form in which unsafe values travel; `None` if what is inside is not base64 of UTF-8.
pub fn decode_sentinel(value: &str) -> Option<Cow<'_, str>> {
    let Some(inner) = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) else {
        return Some(Cow::Borrowed(value));
    };
    let bytes = BASE64.decode(inner).ok()?;
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// A text in the form in which it travels: as it is, or as base64 where a header could not carry it.
pub fn encode_sentinel(value: &str) -> Cow<'_, str> {
    let plain = value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) && value.trim() == value;
    let looks_encoded = value.starts_with("=?base64?") && value.ends_with("?=");
    if plain && !looks_encoded {
        return Cow::Borrowed(value);
    }
    Cow::Owned(format!("=?base64?{}?=", BASE64.encode(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::{ParseLimits, parse};

    const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

    #[track_caller]
    fn check(headers: &[(&'static str, &str)], params: &str, want: &Result<Era, HeaderFault>) {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{params}}}}}"#);
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let message = parse(body.as_bytes(), ParseLimits { depth_max: 64 }).unwrap();
        assert_eq!(&check_mirrored(&map, &message), want);
    }

    #[test]
    fn what_a_header_cannot_carry_travels_as_base64() {
        for plain in ["echo", "a b", "=?base64?x"] {
            assert_eq!(encode_sentinel(plain), plain);
        }
        for value in ["é", " a", "a\tb", "=?base64?eA==?=", "a\n"] {
            let encoded = encode_sentinel(value);
            assert_ne!(encoded, value);
            assert_eq!(decode_sentinel(&encoded).as_deref(), Some(value));
        }
    }

    #[test]
    fn tells_the_era_and_checks_the_modern_one() {
        let version = ("mcp-protocol-version", "2026-07-28");
        let method = ("mcp-method", "tools/call");
        let name = format!(r#""name":"é",{META}"#);
        let mismatch = |header| Err(HeaderFault::Mismatch(header));
        check(&[], r#""name":"x""#, &Ok(Era::Legacy));
        check(
            &[("mcp-protocol-version", "2025-11-25"), ("mcp-method", "lies")],
            r#""name":"x""#,
            &Ok(Era::Legacy),
        );
        check(&[version, method, ("mcp-name", "=?base64?w6k=?=")], &name, &Ok(Era::Modern));
        check(&[version, method, ("mcp-name", "=?base64?!?=")], &name, &mismatch("Mcp-Name"));
        check(&[version, method, ("mcp-name", "e")], &name, &mismatch("Mcp-Name"));
        check(&[version, method], &name, &mismatch("Mcp-Name"));
        check(&[version, method, ("mcp-name", "e"), ("mcp-name", "e")], &name, &mismatch("Mcp-Name"));
        check(&[version, ("mcp-method", "tools/list")], &name, &mismatch("Mcp-Method"));
        check(&[version], &name, &mismatch("Mcp-Method"));
        check(&[method], &name, &mismatch("MCP-Protocol-Version"));
        check(&[("mcp-protocol-version", "2025-11-25"), method], &name, &mismatch("MCP-Protocol-Version"));
        check(
            &[version, method],
            r#""name":"x""#,
            &Err(HeaderFault::MissingMeta("io.modelcontextprotocol/protocolVersion")),
        );
    }
}
