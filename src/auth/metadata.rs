//! What OAuth clients are told: the protected resource's metadata (RFC 9728) and challenges (RFC 6750, MCP).
//! Not here: which request gets a challenge and how it is written (`proxy`, `control`).
//!
//! The gateway is a resource server and nothing else: it points at the issuers that it believes, and clients get their
//! tokens there. Every door is a resource with an address of its own. A token may name the door, or the gateway as a
//! whole, which is the resource at the root.

use std::fmt;

use http::{HeaderValue, Uri};
use serde_json::{Value, json};

use super::jwt::without_slash;
use crate::conf;

/// Where the metadata of a door is: this, and then the door's path (RFC 9728 section 3.1).
pub const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// A door as a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource<'r> {
    /// The gateway's public address: scheme and authority.
    pub public_url: &'r Uri,
    /// The door's path with its leading slash; empty for the gateway as a whole.
    pub path: &'r str,
}

impl Resource<'_> {
    /// Whether an audience means this door or the gateway as a whole. Scheme and authority may be in capitals, and one
    /// slash at the end is nothing: both are seen in clients.
    pub(super) fn is_named_by(&self, audience: &str) -> bool {
        let (Some(scheme), Some(authority)) = (self.public_url.scheme_str(), self.public_url.authority())
        else {
            return false;
        };
        let Some((named, rest)) = audience.split_once("://") else { return false };
        let Some((host, path)) = rest.split_at_checked(authority.as_str().len()) else { return false };
        let path = without_slash(path);
        named.eq_ignore_ascii_case(scheme)
            && host.eq_ignore_ascii_case(authority.as_str())
            && (path.is_empty() || path == without_slash(self.path))
    }

    /// The address of the metadata (RFC 9728 section 3.1): the well-known part goes between authority and path.
    fn metadata(&self) -> String {
        format!("{}{WELL_KNOWN}{}", self.origin(), self.path)
    }

    fn origin(&self) -> String {
        let scheme = self.public_url.scheme_str().unwrap_or_default();
        let authority = self.public_url.authority().map_or("", http::uri::Authority::as_str);
        format!("{scheme}://{authority}").to_ascii_lowercase()
    }
}

impl fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.path)
    }
}

/// Why a challenge is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge<'c> {
    /// No credential came: the client learns where to get one and which scopes to ask for.
    Missing,
    /// The one that came is no good; in a few words, why.
    Invalid(&'c str),
    /// It is good, but lacks scopes. All that the operation needs, those that the caller has as well.
    Scopes(&'c [Box<str>]),
}

/// What clients are told about where to get a token.
#[derive(Debug, Default)]
pub struct ResourceServer {
    servers: Vec<String>,
    scopes: Vec<String>,
}

impl ResourceServer {
    pub(super) fn new(auth: &conf::Auth) -> Self {
        let servers = auth.authorization_servers.clone();
        Self { servers, scopes: auth.scopes.clone() }
    }

    /// Whether there is an authorization server to point at. Without one there is no metadata (MCP demands at least
    /// one in it), and challenges name none.
    pub fn is_offered(&self) -> bool {
        !self.servers.is_empty()
    }

    /// The metadata of a door (RFC 9728 section 2). It says nothing about whether there is anything behind the door.
    pub fn document(&self, resource: Resource<'_>) -> Option<Value> {
        let mut document = json!({
            "resource": resource.to_string(),
            "authorization_servers": self.servers,
            "bearer_methods_supported": ["header"],
            "resource_name": "Tollgate",
        });
        if !self.scopes.is_empty() {
            document.as_object_mut()?.insert("scopes_supported".into(), self.scopes.clone().into());
        }
        self.is_offered().then_some(document)
    }

    /// The value of `WWW-Authenticate` (RFC 6750 section 3). `resource` is the door; without it no metadata is named.
    pub fn challenge(&self, resource: Option<Resource<'_>>, why: Challenge<'_>) -> HeaderValue {
        let mut text = String::from("Bearer realm=\"tollgate\"");
        let (error, words) = match why {
            Challenge::Missing => (None, ""),
            Challenge::Invalid(words) => (Some("invalid_token"), words),
            Challenge::Scopes(_) => (Some("insufficient_scope"), "more scopes are needed"),
        };
        if let Some(error) = error {
            add(&mut text, "error", error);
            add(&mut text, "error_description", words);
        }
        if let Some(resource) = resource.filter(|_| self.is_offered()) {
            add(&mut text, "resource_metadata", &resource.metadata());
        }
        match why {
            Challenge::Scopes(scopes) => add(&mut text, "scope", &scopes.join(" ")),
            Challenge::Missing | Challenge::Invalid(_) if self.is_offered() => {
                add(&mut text, "scope", &self.scopes.join(" "));
            }
            Challenge::Missing | Challenge::Invalid(_) => {}
        }
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("Bearer realm=\"tollgate\""))
    }
}

/// Adds `name="value"`, without characters that RFC 6750 section 3 leaves out of its values; nothing for an empty one.
fn add(text: &mut String, name: &str, value: &str) {
    let value: String =
        value.chars().filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\')).collect();
    if !value.is_empty() {
        text.push_str(&format!(", {name}=\"{value}\""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::Auth;

    const PATH: &str = "/servers/docs/mcp";

    #[test]
    fn audiences_that_mean_a_door() {
        let public_url = Uri::from_static("https://gw.example.com");
        let door = Resource { public_url: &public_url, path: PATH };
        for (audience, want) in [
            ("https://gw.example.com/servers/docs/mcp", true),
            ("https://gw.example.com/servers/docs/mcp/", true),
            ("HTTPS://GW.example.com/servers/docs/mcp", true),
            ("https://gw.example.com", true),
            ("https://gw.example.com/", true),
            ("https://gw.example.com/servers/docs/MCP", false),
            ("https://gw.example.com/servers/other/mcp", false),
            ("https://gw.example.com/servers/docs/mcp//", false),
            ("https://gw.example.com.evil.example/", false),
            ("https://gw.example.com:8443/servers/docs/mcp", false),
            ("http://gw.example.com/servers/docs/mcp", false),
            ("https://gw.example.com/servers/docs/mcp?x", false),
            ("gw.example.com", false),
            ("", false),
        ] {
            assert_eq!(door.is_named_by(audience), want, "{audience}");
        }
        let loud = "HTTPS://GW.Example.com:8443/".parse().unwrap();
        assert_eq!(Resource { public_url: &loud, path: "" }.to_string(), "https://gw.example.com:8443");
    }

    #[test]
    fn challenges_say_where_and_what() {
        let auth = Auth {
            authorization_servers: vec!["https://login.example.com".into()],
            scopes: vec!["read".into(), "write".into()],
            ..Auth::default()
        };
        let public_url = Uri::from_static("https://gw.example.com");
        let door = Resource { public_url: &public_url, path: PATH };
        let server = ResourceServer::new(&auth);
        let say = |why| server.challenge(Some(door), why).to_str().unwrap().to_owned();
        let place = "resource_metadata=\"https://gw.example.com/.well-known/oauth-protected-resource/servers/docs/mcp\"";
        assert_eq!(
            say(Challenge::Missing),
            format!("Bearer realm=\"tollgate\", {place}, scope=\"read write\"")
        );
        assert_eq!(
            say(Challenge::Invalid("it \"has\"\r\n expired\\")),
            format!(
                "Bearer realm=\"tollgate\", error=\"invalid_token\", error_description=\"it has expired\", {place}, scope=\"read write\""
            )
        );
        assert!(
            say(Challenge::Scopes(&["a".into(), "b".into()])).ends_with(&format!("{place}, scope=\"a b\""))
        );
        let document = server.document(door).unwrap();
        assert_eq!(document["resource"], "https://gw.example.com/servers/docs/mcp");
        assert_eq!(document["scopes_supported"], json!(["read", "write"]));
        let none = ResourceServer::new(&Auth::default());
        assert!(none.document(door).is_none());
        assert_eq!(none.challenge(Some(door), Challenge::Missing), "Bearer realm=\"tollgate\"");
    }
}
