//! Where a server's door is, from what people write: a gateway, a server on it, or the door itself.
//! Not here: what goes through it (`door`).

use http::Uri;

use crate::catalog::ServerId;

const DEFAULT: &str = "http://127.0.0.1:4444";

/// The place of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The URL of its door.
    pub(super) url: Uri,
}

impl Place {
    /// The door of `server` at `given`, which may name the server itself.
    pub(super) fn of(given: Option<&str>, server: Option<&str>) -> Result<Self, String> {
        let given = given.unwrap_or(DEFAULT).trim();
        if given.contains(',') {
            return Err("several URLs: name the one of the server's gateway with --url".to_owned());
        }
        let wrong = || format!("{given}: expected a URL such as {DEFAULT}");
        let uri: Uri = given.parse().map_err(|_| wrong())?;
        let (Some("http" | "https"), Some(authority), None) =
            (uri.scheme_str(), uri.authority(), uri.query())
        else {
            return Err(wrong());
        };
        if authority.as_str().contains('@') {
            return Err("the URL holds a credential: use --key-file or TOLLGATE_TOKEN".to_owned());
        }
        let path = uri.path().trim_end_matches('/');
        let base = format!("{}://{authority}{path}", uri.scheme_str().unwrap_or("http"));
        let named = path.rsplit_once("/servers/").map(|(_, rest)| rest);
        let url = match (named, server) {
            (Some(named), server) => {
                let id = named.strip_suffix("/mcp").unwrap_or(named);
                if server.is_some_and(|server| server != id) {
                    return Err(format!("--url names the server `{id}`, --server another: keep one of them"));
                }
                check(id)?;
                if named == id { format!("{base}/mcp") } else { base }
            }
            (None, Some(server)) => {
                check(server)?;
                format!("{base}/servers/{server}/mcp")
            }
            (None, None) => return Err("which server? Name it with --server ID".to_owned()),
        };
        url.parse().map(|url| Self { url }).map_err(|_| wrong())
    }
}

fn check(id: &str) -> Result<(), String> {
    ServerId::new(id).map(drop).ok_or_else(|| format!("`{id}` cannot be a server's id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(given: Option<&str>, server: Option<&str>, want: Result<&str, &str>) {
        match (Place::of(given, server), want) {
            (Ok(place), Ok(want)) => assert_eq!(place.url.to_string(), want),
            (Err(error), Err(want)) => assert!(error.contains(want), "{error}"),
            (place, want) => panic!("{place:?} instead of {want:?}"),
        }
    }

    #[test]
    fn people_write_it_in_several_ways() {
        check(None, Some("a"), Ok("http://127.0.0.1:4444/servers/a/mcp"));
        check(Some("https://x.example/"), Some("a"), Ok("https://x.example/servers/a/mcp"));
        check(Some("https://x.example/base"), Some("a"), Ok("https://x.example/base/servers/a/mcp"));
        check(Some("http://h:4444/servers/1"), None, Ok("http://h:4444/servers/1/mcp"));
        check(Some("http://h:4444/servers/1/mcp"), Some("1"), Ok("http://h:4444/servers/1/mcp"));
        check(Some("http://h:4444/servers/1/mcp"), Some("2"), Err("keep one of them"));
        check(Some("http://h:4444"), None, Err("--server"));
        check(Some("http://h:4444,http://i"), Some("a"), Err("several"));
        check(Some("http://me:secret@h"), Some("a"), Err("--key-file"));
        check(Some("h:4444"), Some("a"), Err("expected a URL"));
        check(Some("ftp://h"), Some("a"), Err("expected a URL"));
        check(None, Some("a/b"), Err("cannot be"));
        check(None, Some("../x"), Err("cannot be"));
    }
}
