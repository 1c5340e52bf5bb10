//! Upstreams: where requests go.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use super::{DAY, Lower, MILLISECOND, Place};
use crate::config::model::{Server, Upstream};
use crate::config::raw;

impl Lower<'_, '_> {
    /// All upstreams in file order.
    pub(super) fn upstreams(
        &mut self,
        raw: Option<&BTreeMap<String, raw::Upstream>>,
        place: &Place<'_>,
    ) -> Vec<Upstream> {
        let mut upstreams = Vec::new();
        for (name, place) in place.entries() {
            let Some(raw) = raw.and_then(|all| all.get(name)) else { continue };
            self.name(name, "an upstream", &place.at_key());
            let mut servers: Vec<Server> = Vec::new();
            for (index, text) in raw.servers.iter().flatten().enumerate() {
                let at = place.key("servers").item(index);
                let Some(server) = self.server(text, &at) else { continue };
                if servers.contains(&server) {
                    self.error(&at, format!("`{text}` is named twice"), "");
                }
                servers.push(server);
            }
            let wait = MILLISECOND..=DAY;
            let mut span = |raw, key| self.duration(raw, &place.key(key), wait.clone());
            upstreams.push(Upstream {
                name: name.to_owned(),
                servers,
                connect_timeout: span(raw.connect_timeout.as_ref(), "connect_timeout"),
                response_timeout: span(raw.response_timeout.as_ref(), "response_timeout"),
                idle_timeout: span(raw.idle_timeout.as_ref(), "idle_timeout"),
                max_idle: usize::try_from(raw.max_idle.unwrap_or(0)).unwrap_or(usize::MAX),
            });
        }
        upstreams
    }

    /// `http://host:port`, and nothing else.
    fn server(&mut self, text: &str, place: &Place<'_>) -> Option<Server> {
        let wrong = format!("`{}` is not a server", place.path);
        let Some((scheme, rest)) = text.split_once("://") else {
            self.error(place, wrong, format!("write `http://{text}`"));
            return None;
        };
        match scheme {
            "http" => {}
            "https" => {
                self.error(place, "`https` upstreams are not supported yet", "use `http` within a trusted network");
                return None;
            }
            _ => {
                self.error(place, wrong, "the scheme must be `http`");
                return None;
            }
        }
        let (authority, behind) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            self.findings.hide(place.span.clone());
            self.error(place, wrong, "a user and a password cannot be part of it");
            return None;
        }
        if !matches!(behind, "" | "/") {
            self.error(place, wrong, "the path comes from the request: leave it out");
            return None;
        }
        let (host, port) = match authority.strip_prefix('[').and_then(|inside| inside.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match port.map(str::parse::<u16>) {
            Some(Ok(port)) if port != 0 => port,
            None if !authority.ends_with(']') || host.parse::<Ipv6Addr>().is_ok() => 80,
            _ => {
                self.error(place, wrong, "the port must be a number from 1 to 65535");
                return None;
            }
        };
        let address = authority.starts_with('[');
        let good = if address { host.parse::<Ipv6Addr>().is_ok() } else { is_host(host) };
        if !good {
            self.error(place, wrong, "write `http://host:port`");
            return None;
        }
        Some(Server { host: host.to_ascii_lowercase(), port })
    }
}

/// A host name (RFC 1123 §2.1, and the underscore that service discovery uses) or an IPv4 address.
pub(super) fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}
