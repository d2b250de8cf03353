//! Checks where the gateway listens, and that listeners and credentials fit together.
//! Not here: the files of TLS (`tls`), the sockets (`listener`).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::Uri;
use ipnet::IpNet;

use super::Checker;
use crate::conf::raw::{RawDoor, RawKind, RawListener};
use crate::conf::{Auth, Doors, Kinds, Listener};
use crate::document::{At, Code, Span};

/// The name of the only listener.
const MAIN: &str = "main";

impl Checker<'_> {
    /// The listeners: the one of the top level, or several that take from there what they do not say.
    pub(super) fn listeners(
        &mut self,
        single: RawListener,
        several: Option<At<Vec<At<RawListener>>>>,
        auth: &Auth,
    ) -> Vec<Listener> {
        let Some(several) = several else {
            let listener = self.listener(&single, &single);
            self.review(&single, std::slice::from_ref(&listener), auth);
            self.fits(&single, &listener, auth);
            self.audiences_are_known(std::slice::from_ref(&listener));
            return vec![listener];
        };
        if let Some(listen) = &single.listen {
            let message = "`listeners` says where to listen, too: keep one of them";
            self.report.add(listen.span, Code::Conflict, message);
        }
        if several.is_empty() && !self.report.is_incomplete(several.span) {
            self.report.add(several.span, Code::InvalidValue, "expected a listener at least");
        }
        let mut names: HashMap<String, Span> = HashMap::new();
        let mut listeners: Vec<Listener> = Vec::new();
        for At { value: raw, span } in several.value {
            match &raw.name {
                Some(name) => {
                    self.name(name);
                    self.unique(&mut names, name.value.clone(), name.span, "the same name twice");
                }
                None => self.missing(span, "a listener needs a name"),
            }
            match &raw.listen {
                Some(listen) => {
                    let address = self.address(Some(listen));
                    if let Some(other) = listeners.iter().find(|other| overlap(other.address, address)) {
                        let message = format!("the address of `{}`, too: only one can have it", other.name);
                        self.report.add(listen.span, Code::Conflict, message);
                    }
                }
                None => self.missing(span, "a listener needs `listen`: its address"),
            }
            let whole = inherited(&raw, &single);
            let listener = self.listener(&whole, &raw);
            self.fits(&whole, &listener, auth);
            listeners.push(listener);
        }
        self.review(&single, &listeners, auth);
        self.audiences_are_known(&listeners);
        listeners
    }

    /// A listener with everything that it says and inherits. `own` is what it says itself.
    fn listener(&mut self, raw: &RawListener, own: &RawListener) -> Listener {
        let mut hosts = self.words(
            raw.hosts.as_deref(),
            host,
            "a host such as `mcp.example.com` or `mcp.example.com:8443`",
        );
        let origins =
            self.words(raw.origins.as_deref(), origin, "an origin such as `https://app.example.com`");
        let public_url = raw.public_url.as_ref().and_then(|url| self.public_url(url));
        if let Some(authority) = public_url.as_ref().and_then(Uri::authority) {
            let name = authority.host().to_ascii_lowercase();
            if !hosts.contains(&name) {
                hosts.push(name);
            }
        }
        let trusted_proxies = self.networks(raw.trusted_proxies.as_deref().unwrap_or_default());
        for (raw, _) in raw
            .trusted_proxies
            .iter()
            .flatten()
            .zip(&trusted_proxies)
            .filter(|(_, network)| network.prefix_len() == 0)
        {
            let message =
                "everybody is trusted to tell the client's address: anybody can pretend to be anybody";
            self.report.warn(raw.span, Code::Exposed, message);
        }
        let proxy_protocol = raw.proxy_protocol.as_ref().is_some_and(|proxied| proxied.value);
        if let Some(proxied) =
            raw.proxy_protocol.as_ref().filter(|_| proxy_protocol && trusted_proxies.is_empty())
        {
            let message = "needs `trusted_proxies`: who sends the PROXY protocol header";
            self.report.add(proxied.span, Code::Missing, message);
        }
        let networks = raw.networks.as_ref().map(|networks| {
            if networks.is_empty() && !self.report.is_incomplete(networks.span) {
                self.report.warn(networks.span, Code::NoEffect, "an empty list: nobody may connect");
            }
            self.networks(networks)
        });
        let tls = raw.tls.as_ref().and_then(|tls| self.tls(tls));
        let h2c = raw.h2c.as_ref().is_some_and(|h2c| h2c.value);
        if let (Some(h2c), Some(_)) = (own.h2c.as_ref().filter(|h2c| h2c.value), &raw.tls) {
            self.report.add(
                h2c.span,
                Code::NoEffect,
                "with `tls` it has no effect: clients choose HTTP/2 there",
            );
        }
        let has_authority = raw.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let kinds_said = own.kinds.iter().flat_map(|kinds| kinds.iter());
        for kind in kinds_said.filter(|kind| kind.value == RawKind::Certificate && !has_authority) {
            self.report.add(kind.span, Code::NoEffect, "without `tls.client_ca` no certificate is asked for");
        }
        Listener {
            name: raw.name.as_ref().map_or_else(|| MAIN.to_owned(), |name| name.value.clone()),
            address: self.address(raw.listen.as_ref()),
            doors: self.doors(raw.doors.as_ref()),
            kinds: kinds(raw.kinds.as_ref()),
            networks,
            hosts,
            origins,
            public_url,
            trusted_proxies,
            proxy_protocol,
            tls,
            h2c,
        }
    }

    fn address(&mut self, raw: Option<&At<String>>) -> SocketAddr {
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let Some(raw) = raw else { return nowhere };
        let text = raw.replacen("localhost:", "127.0.0.1:", 1);
        text.parse().unwrap_or_else(|_| {
            let message = "expected an address and a port, such as `127.0.0.1:4444` or `[::]:4444`";
            match text.strip_prefix(':').map(str::parse::<u16>) {
                Some(Ok(port)) => {
                    let advice = format!("did you mean `0.0.0.0:{port}`?");
                    self.report.advise(raw.span, Code::InvalidValue, message, advice);
                }
                _ => self.report.add(raw.span, Code::InvalidValue, message),
            }
            nowhere
        })
    }

    fn words(&mut self, raw: Option<&[At<String>]>, is_valid: fn(&str) -> bool, wanted: &str) -> Vec<String> {
        let raw = raw.unwrap_or_default();
        for word in raw.iter().filter(|word| !is_valid(word)) {
            self.report.add(word.span, Code::InvalidValue, format!("expected {wanted}"));
        }
        raw.iter().map(|word| word.value.to_ascii_lowercase()).collect()
    }

    fn public_url(&mut self, raw: &At<String>) -> Option<Uri> {
        // Names are the same in either case, and so is an address with the port that goes without saying.
        let text = raw.to_ascii_lowercase();
        let text = text.strip_suffix('/').unwrap_or(&text);
        let port = if text.starts_with("https:") { ":443" } else { ":80" };
        let found = text.strip_suffix(port).unwrap_or(text).parse::<Uri>().ok().filter(|uri| {
            let is_host = uri.authority().is_some_and(|authority| host(authority.as_str()));
            matches!(uri.scheme_str(), Some("http" | "https"))
                && is_host
                && matches!(uri.path(), "" | "/")
                && !raw.contains(['?', '#'])
        });
        if found.is_none() {
            let message = "expected scheme and host alone, such as `https://mcp.example.com`";
            self.report.add(raw.span, Code::InvalidValue, message);
        }
        found
    }

    /// Networks, of which single addresses are the smallest.
    fn networks(&mut self, raw: &[At<String>]) -> Vec<IpNet> {
        let mut found = Vec::new();
        for raw in raw {
            let address = || raw.parse::<IpAddr>().ok().map(IpNet::from);
            match raw.parse::<IpNet>().ok().or_else(address) {
                Some(network) => found.push(network.trunc()),
                None => {
                    let message = "expected a network or an address, such as `10.0.0.0/8` or `192.0.2.7`";
                    self.report.add(raw.span, Code::InvalidValue, message);
                }
            }
        }
        found
    }

    fn doors(&mut self, raw: Option<&At<Vec<At<RawDoor>>>>) -> Doors {
        let Some(raw) = raw else { return Doors::ALL };
        if raw.is_empty() && !self.report.is_incomplete(raw.span) {
            self.report.warn(raw.span, Code::NoEffect, "an empty list: nothing can be reached there");
        }
        let has = |door| raw.iter().any(|listed| listed.value == door);
        Doors {
            mcp: has(RawDoor::Mcp),
            open_mcp: has(RawDoor::OpenMcp),
            raw: has(RawDoor::Raw),
            admin: has(RawDoor::Admin),
            metrics: has(RawDoor::Metrics),
            health: has(RawDoor::Health),
        }
    }

    /// What a listener promises to credentials, and they to it.
    fn fits(&mut self, raw: &RawListener, listener: &Listener, auth: &Auth) {
        let Listener { doors, kinds, .. } = listener;
        let has_secrets = kinds.api_key && !auth.keys.is_empty() || kinds.jwt && !auth.issuers.is_empty();
        let takes_secrets = has_secrets && (doors.mcp || doors.open_mcp || doors.raw || doors.admin);
        let is_clear = listener.tls.is_none() && raw.tls.is_none();
        if let Some(listen) = raw.listen.as_ref()
            && takes_secrets
            && is_clear
            && !listener.address.ip().is_loopback()
            && listener.trusted_proxies.is_empty()
        {
            let message = "credentials travel in the clear to an address that other machines reach";
            let advice = "set `tls`, or `trusted_proxies` where a proxy in front has it";
            self.report.warn_advise(listen.span, Code::Exposed, message, advice);
        }
        let configured = |kind| match kind {
            // A certificate is known by its authority, which is the listener's own affair.
            RawKind::Certificate => true,
            RawKind::Anonymous => auth.anonymous.is_some() || !auth.is_configured(),
            RawKind::ApiKey => !auth.keys.is_empty(),
            RawKind::Jwt => !auth.issuers.is_empty(),
        };
        let Some(kinds) = &raw.kinds else { return };
        if kinds.is_empty() && !self.report.is_incomplete(kinds.span) {
            self.report.warn(kinds.span, Code::NoEffect, "an empty list: nobody is let in");
        }
        for kind in kinds.iter().filter(|kind| !configured(kind.value)) {
            self.report.warn(kind.span, Code::Unused, "`auth` knows nobody of this kind");
        }
    }

    /// What of the top level nothing comes of, whatever the listeners say.
    fn review(&mut self, top: &RawListener, listeners: &[Listener], auth: &Auth) {
        let has_authority =
            |listener: &Listener| listener.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        // A broken `tls` was reported and may have had one.
        let is_known = !listeners.is_empty() && self.report.is_empty();
        if is_known && !listeners.iter().any(has_authority) {
            for kinds in top.kinds.iter() {
                for kind in kinds.iter().filter(|kind| kind.value == RawKind::Certificate) {
                    let message = "without `tls.client_ca` no certificate is asked for";
                    self.report.add(kind.span, Code::NoEffect, message);
                }
            }
            if !auth.certificates.is_empty() {
                let message =
                    "`auth.certificates` needs a listener with `tls.client_ca`: nobody is asked for one";
                let span = self.certificates.unwrap_or_default();
                self.report.warn(span, Code::NoEffect, message);
            }
        }
        let all_have_tls = !listeners.is_empty() && listeners.iter().all(|listener| listener.tls.is_some());
        if let Some(h2c) = top.h2c.as_ref().filter(|h2c| h2c.value && all_have_tls) {
            self.report.add(
                h2c.span,
                Code::NoEffect,
                "with `tls` it has no effect: clients choose HTTP/2 there",
            );
        }
    }

    /// A token without a fixed audience has to name the door that it is shown at, whose address nobody may guess from
    /// what the client says.
    fn audiences_are_known(&mut self, listeners: &[Listener]) {
        let needs =
            |listener: &&Listener| listener.doors.mcp && listener.kinds.jwt && listener.public_url.is_none();
        let unknown: Vec<_> =
            listeners.iter().filter(needs).map(|listener| format!("`{}`", listener.name)).collect();
        if unknown.is_empty() {
            return;
        }
        for span in std::mem::take(&mut self.without_audience) {
            let message =
                "an issuer needs `audience`, or the gateway a `public_url`: for whom its tokens are";
            let advice = format!("no `public_url` for the listener {}", unknown.join(", "));
            self.report.advise(span, Code::Missing, message, advice);
        }
    }
}

/// A listener with what it does not say taken from the top level.
fn inherited(own: &RawListener, top: &RawListener) -> RawListener {
    fn or<T: Clone>(own: &Option<T>, top: &Option<T>) -> Option<T> {
        own.as_ref().or(top.as_ref()).cloned()
    }
    RawListener {
        name: own.name.clone(),
        listen: own.listen.clone(),
        doors: or(&own.doors, &top.doors),
        kinds: or(&own.kinds, &top.kinds),
        networks: or(&own.networks, &top.networks),
        hosts: or(&own.hosts, &top.hosts),
        origins: or(&own.origins, &top.origins),
        public_url: or(&own.public_url, &top.public_url),
        trusted_proxies: or(&own.trusted_proxies, &top.trusted_proxies),
        proxy_protocol: or(&own.proxy_protocol, &top.proxy_protocol),
        tls: or(&own.tls, &top.tls),
        h2c: or(&own.h2c, &top.h2c),
    }
}

/// Whether the second address could not be bound beside the first. Port 0 takes a free one each time.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |wide: IpAddr, narrow: IpAddr| match wide {
        IpAddr::V4(address) => address.is_unspecified() && narrow.is_ipv4(),
        // On Linux it takes IPv4 as well.
        IpAddr::V6(address) => address.is_unspecified(),
    };
    let (a, b) = (one.ip(), other.ip());
    one.port() != 0 && one.port() == other.port() && (a == b || covers(a, b) || covers(b, a))
}

fn kinds(raw: Option<&At<Vec<At<RawKind>>>>) -> Kinds {
    let Some(raw) = raw else { return Kinds::ALL };
    let has = |kind| raw.iter().any(|listed| listed.value == kind);
    Kinds {
        anonymous: has(RawKind::Anonymous),
        api_key: has(RawKind::ApiKey),
        jwt: has(RawKind::Jwt),
        certificate: has(RawKind::Certificate),
    }
}

fn host(text: &str) -> bool {
    let authority = text.parse::<http::uri::Authority>();
    authority.is_ok_and(|authority| !authority.host().is_empty() && !text.contains(['@', '*']))
}

fn origin(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, rest)| {
        scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
            && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && host(rest)
    })
}
