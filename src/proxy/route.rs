//! Every route at the edge that is not the control plane's, and who may use it: for `tollgate routes` and its tests.
//! Not here: how a request finds its door (`door`); the control plane's own routes (`control`).

/// One route at the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Its method.
    pub verb: &'static str,
    /// Its path; `{id}` stands for a server's id, `{*rest}` for any rest.
    pub path: &'static str,
    /// Whether it takes a caller; otherwise anybody may use it.
    pub needs_caller: bool,
    /// The door that it leads to, as the access log names it.
    pub door: &'static str,
}

const fn keyed(verb: &'static str, path: &'static str, door: &'static str) -> Route {
    Route { verb, path, needs_caller: true, door }
}

const fn open(verb: &'static str, path: &'static str, door: &'static str) -> Route {
    Route { verb, path, needs_caller: false, door }
}

/// Every route at the edge. A test compares it with what a request finds.
pub const ROUTES: [Route; 15] = [
    keyed("POST", "/servers/{id}/mcp", "server"),
    keyed("GET", "/servers/{id}/mcp", "server"),
    keyed("DELETE", "/servers/{id}/mcp", "server"),
    keyed("GET", "/servers/{id}/sse", "sse"),
    keyed("POST", "/servers/{id}/message", "message"),
    keyed("POST", "/mcp", "mcp"),
    keyed("POST", "/rpc", "rpc"),
    keyed("GET", "/servers/{id}/raw/{*rest}", "raw"),
    keyed("POST", "/servers/{id}/raw/{*rest}", "raw"),
    open("GET", "/.well-known/oauth-protected-resource", "metadata"),
    open("GET", "/.well-known/oauth-protected-resource/mcp", "metadata"),
    open("GET", "/.well-known/oauth-protected-resource/rpc", "metadata"),
    open("GET", "/.well-known/oauth-protected-resource/servers/{id}/mcp", "metadata"),
    open("GET", "/.well-known/oauth-protected-resource/servers/{id}/sse", "metadata"),
    open("GET", "/.well-known/oauth-protected-resource/servers/{id}/raw", "metadata"),
];

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;

    use super::super::door::Door;
    use super::*;

    #[test]
    fn the_table_says_where_requests_come_out() {
        for route in ROUTES {
            let path = route.path.replace("{id}", "a").replace("{*rest}", "b/c");
            let request = RequestHeader::build(route.verb, path.as_bytes(), None).unwrap();
            assert_eq!(Door::find(&request).name(), route.door, "{} {path}", route.verb);
        }
    }

    #[test]
    fn every_door_has_a_route() {
        let doors = ["server", "sse", "message", "mcp", "rpc", "raw", "metadata"];
        for door in doors {
            assert!(ROUTES.iter().any(|route| route.door == door), "{door}");
        }
    }
}
