//! Upstreams: where requests go.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use super::limits::bound;
use super::{DAY, Lower, MILLISECOND, Place, SECOND};
use crate::config::model::{Protocol, Server, Upstream, UpstreamTls};
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
            for (index, raw) in raw.servers.iter().flatten().enumerate() {
                let at = place.key("servers").item(index);
                let (text, weight, at) = match raw {
                    raw::Either::Short(text) => (text, 1, at),
                    raw::Either::Long(raw::WeightedServer { url: Some(text), weight }) => {
                        (text, weight.unwrap_or(1), at.key("url"))
                    }
                    raw::Either::Long(_) => continue,
                };
                let Some(server) = self.server(text, &at) else { continue };
                if servers.iter().any(|other| (&other.host, other.port) == (&server.host, server.port)) {
                    self.error(&at, format!("`{text}` is named twice"), "");
                }
                servers.push(Server { weight, ..server });
            }
            let tls = place.key("tls");
            let tls = raw.tls.as_ref().map(|raw| self.upstream_tls(raw, &servers, &tls)).unwrap_or_default();
            let wait = MILLISECOND..=DAY;
            let ping_interval =
                self.duration_or_none(raw.ping_interval.as_ref(), &place.key("ping_interval"), SECOND..=DAY);
            let max_age = self.duration_or_none(raw.max_age.as_ref(), &place.key("max_age"), SECOND..=DAY);
            let mut span = |raw, key| self.duration(raw, &place.key(key), wait.clone());
            upstreams.push(Upstream {
                name: name.to_owned(),
                servers,
                tls,
                protocol: match raw.protocol {
                    Some(raw::Protocol::Http2) => Protocol::Http2,
                    Some(raw::Protocol::Auto) => Protocol::Auto,
                    Some(raw::Protocol::Http1) | None => Protocol::Http1,
                },
                ping_interval,
                max_age,
                max_connections: match raw.max_connections {
                    Some(raw::Limit::Of(count)) => usize::try_from(count).unwrap_or(usize::MAX),
                    Some(raw::Limit::None) | None => usize::MAX,
                },
                max_queued: usize::try_from(raw.max_queued.unwrap_or(0)).unwrap_or(usize::MAX),
                queue_timeout: span(raw.queue_timeout.as_ref(), "queue_timeout"),
                resolve_interval: span(raw.resolve_interval.as_ref(), "resolve_interval"),
                resolve_keep: span(raw.resolve_keep.as_ref(), "resolve_keep"),
                connect_timeout: span(raw.connect_timeout.as_ref(), "connect_timeout"),
                max_requests: bound(raw.max_requests.as_ref()),
                response_timeout: span(raw.response_timeout.as_ref(), "response_timeout"),
                idle_timeout: span(raw.idle_timeout.as_ref(), "idle_timeout"),
                max_idle: usize::try_from(raw.max_idle.unwrap_or(0)).unwrap_or(usize::MAX),
                health: raw.health.as_ref().map(|raw| self.health(raw, &place.key("health"))),
                ejection: self.ejection(raw.ejection.as_ref(), &place.key("ejection")),
                slow_start: self.duration_or_none(raw.slow_start.as_ref(), &place.key("slow_start"), wait.clone()),
                retries: self.retries(raw.retries.as_ref(), &place.key("retries")),
            });
        }
        upstreams
    }

    fn upstream_tls(&mut self, raw: &raw::UpstreamTls, servers: &[Server], place: &Place<'_>) -> UpstreamTls {
        if !servers.is_empty() && !servers.iter().any(|server| server.tls) {
            let text = "no server is spoken to over TLS: write `https://`";
            self.error(&place.at_key(), format!("`{}` is for nobody", place.path), text);
        }
        let client = self.client_certificate(raw.certificate.as_deref(), raw.key.as_deref(), place);
        UpstreamTls {
            authorities: raw.ca_file.as_ref().and_then(|file| self.trusted(file, &place.key("ca_file"))),
            client,
            server_name: raw.server_name.clone(),
        }
    }

    /// `http://host:port` or `https://host:port`, and nothing else.
    fn server(&mut self, text: &str, place: &Place<'_>) -> Option<Server> {
        let wrong = format!("`{}` is not a server", place.path);
        let Some((scheme, rest)) = text.split_once("://") else {
            self.error(place, wrong, format!("write `http://{text}`"));
            return None;
        };
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => {
                self.error(place, wrong, "the scheme must be `http` or `https`");
                return None;
            }
        };
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
            None if !authority.ends_with(']') || host.parse::<Ipv6Addr>().is_ok() => {
                if tls {
                    443
                } else {
                    80
                }
            }
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
        Some(Server { tls, host: host.to_ascii_lowercase(), port, weight: 1 })
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
