//! Where the gateway touches the outside: listeners, admin, tokens on the wire, limits, logs, state.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use super::issuer::SKEW_MAX;
use super::{DAY, Lower, MILLISECOND, Place, SECOND};
use crate::config::model::{
    Admin, AdminAddress, AdminToken, Limits, Listener, LogTarget, Proofs, RevocationConfig, Role, Shutdown,
    StoreConfig, TokenConfig, TokenPlace,
};
use crate::config::preset::{folded, is_taken};
use crate::config::raw;
use crate::token::{Algorithm, Family};

/// The longest life of a proof of possession: it is made for one request, and remembered for so long.
const PROOF_AGE_MAX: Duration = Duration::from_secs(600);

/// The longest path of a Unix socket (`sun_path` with its final NUL is 108 bytes).
const UNIX_PATH_MAX: usize = 107;

/// How many workers: as said, or one for each CPU this process may use.
pub(super) fn workers(raw: Option<&raw::Workers>) -> usize {
    match raw {
        Some(raw::Workers::Count(count)) => usize::try_from(*count).unwrap_or(1),
        Some(raw::Workers::Auto) | None => std::thread::available_parallelism().map_or(1, usize::from),
    }
}

impl Lower<'_, '_> {
    pub(super) fn listeners(&mut self, raw: &[raw::Listener], place: &Place<'_>) -> Vec<Listener> {
        let mut listeners: Vec<Listener> = Vec::new();
        for (index, listener) in raw.iter().enumerate() {
            let tls = listener.tls.as_ref().and_then(|tls| self.listener_tls(tls, &place.item(index).key("tls")));
            let place = place.item(index).key("address");
            let Some(address) = listener.address.as_deref().and_then(|text| self.address(text, &place)) else {
                continue;
            };
            if address.port() != 0 && listeners.iter().any(|earlier| earlier.address == address) {
                self.error(&place, format!("`{address}` is listened on twice"), "");
            }
            listeners.push(Listener { address, tls });
        }
        listeners
    }

    fn address(&mut self, text: &str, place: &Place<'_>) -> Option<SocketAddr> {
        if let Ok(address) = text.parse() {
            return Some(address);
        }
        let label = if text.parse::<std::net::Ipv4Addr>().is_ok() {
            format!("the port is missing: write `{text}:8080`")
        } else if let Ok(address) = text.trim_matches(['[', ']']).parse::<std::net::Ipv6Addr>() {
            format!("the port is missing: write `[{address}]:8080`")
        } else if let Some(port) = text.strip_prefix("localhost:") {
            format!("an address is wanted, not a name: write `127.0.0.1:{port}`")
        } else if let Some(port) = text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
            format!("write `0.0.0.0:{port}` for every IPv4 address, `[::]:{port}` for IPv6 as well")
        } else {
            "write an address and a port, such as `127.0.0.1:8080` or `[::1]:8080`".to_owned()
        };
        self.error(place, format!("`{}` is not an address", place.path), label);
        None
    }

    pub(super) fn admin(&mut self, raw: &raw::Admin, place: &Place<'_>, listeners: &[Listener]) -> Admin {
        let at = place.key("address");
        let address = self.admin_address(raw.address.as_deref(), &at);
        let raw_tokens = raw.tokens.as_deref().unwrap_or_default();
        let tokens = self.admin_tokens(raw_tokens, &place.key("tokens"));
        if let Some(AdminAddress::Tcp(address)) = &address {
            if raw_tokens.is_empty() && !place.is_damaged() && !place.key("tokens").is_damaged() {
                let label = if address.ip().is_loopback() {
                    "every user and every page in a browser on this machine could use it"
                } else {
                    "whoever can reach it could use it"
                };
                self.findings.error(at.span.clone(), "the control plane has no tokens", label).help(
                    "add `tokens: [{ name: ops, role: operator, secret: { file: PATH } }]`, or listen on `unix:PATH`",
                );
            }
            if listeners.iter().any(|listener| listener.address == *address && address.port() != 0) {
                self.error(&at, "the control plane has the address of a traffic listener", "it needs one of its own");
            }
        }
        Admin {
            address: address.unwrap_or_else(|| AdminAddress::Unix(PathBuf::new())),
            tokens,
            audit_log: self.log_target(raw.audit_log.as_ref()),
        }
    }

    fn admin_address(&mut self, raw: Option<&str>, place: &Place<'_>) -> Option<AdminAddress> {
        let text = raw?;
        let Some(path) = text.strip_prefix("unix:") else {
            return self.address(text, place).map(AdminAddress::Tcp);
        };
        let path = self.files.path(path);
        if text == "unix:" || path.as_os_str().len() > UNIX_PATH_MAX {
            let label = format!("a path of 1 to {UNIX_PATH_MAX} bytes");
            self.error(place, format!("`{}` is not the address of a Unix socket", place.path), label);
        }
        Some(AdminAddress::Unix(path))
    }

    fn admin_tokens(&mut self, raw: &[raw::AdminToken], place: &Place<'_>) -> Vec<AdminToken> {
        let mut tokens: Vec<AdminToken> = Vec::new();
        for (index, token) in raw.iter().enumerate() {
            let place = place.item(index);
            let name = token.name.as_deref().unwrap_or_default();
            if !name.is_empty() {
                self.name(name, "an admin token", &place.key("name"));
                if tokens.iter().any(|earlier| earlier.name == name) {
                    self.error(
                        &place.key("name"),
                        format!("two admin tokens are named `{name}`"),
                        "names stand in audit lines",
                    );
                }
            }
            let Some(secret) = token.secret.as_ref().and_then(|secret| self.secret(secret, 32, &place.key("secret")))
            else {
                continue;
            };
            if let Some(earlier) = tokens.iter().find(|earlier| earlier.secret.matches(secret.expose())) {
                let label = format!("the same as the one of `{}`", earlier.name);
                self.error(&place.key("secret"), "two admin tokens have one secret", label);
            }
            let role = match token.role {
                Some(raw::Role::Operator) => Role::Operator,
                Some(raw::Role::Viewer) | None => Role::Viewer,
            };
            tokens.push(AdminToken { name: name.to_owned(), role, secret });
        }
        tokens
    }

    pub(super) fn log_target(&mut self, raw: Option<&raw::Either<raw::LogWord, raw::LogFile>>) -> LogTarget {
        match raw {
            Some(raw::Either::Long(raw::LogFile { file: Some(file) })) => LogTarget::File(self.files.path(file)),
            Some(raw::Either::Short(raw::LogWord::Off)) => LogTarget::Off,
            Some(raw::Either::Short(raw::LogWord::Stdout) | raw::Either::Long(_)) | None => LogTarget::Stdout,
        }
    }

    pub(super) fn token(&mut self, raw: Option<&raw::Token>, place: &Place<'_>, limits: &Limits) -> TokenConfig {
        let mut from: Vec<TokenPlace> = Vec::new();
        let mut realm = String::new();
        let (mut max_bytes, mut cache_bytes) = (0, 0);
        if let Some(raw) = raw {
            for (index, source) in raw.from.iter().flatten().enumerate() {
                let at = place.key("from").item(index);
                let Some(source) = self.token_place(source, &at) else { continue };
                if from.contains(&source) {
                    self.error(&at, format!("`{}` repeats an earlier place", at.path), "");
                }
                from.push(source);
            }
            let at = place.key("max_bytes");
            max_bytes = self.size(raw.max_bytes.as_ref(), &at, 256..=64 * 1024);
            if limits.header_bytes > 0 && max_bytes >= limits.header_bytes as u64 {
                self.error(&at, "no request head could hold such a token", "must be less than `limits.header_bytes`");
            }
            cache_bytes = self.size(raw.cache.as_ref(), &place.key("cache"), 0..=64 << 30);
            realm = raw.realm.clone().unwrap_or_default();
            // RFC 9110 §5.6.4: what can stand in a quoted string without escapes.
            if realm.len() > 128 || !realm.bytes().all(|byte| matches!(byte, b' '..=b'~') && !b"\"\\".contains(&byte)) {
                self.error(
                    &place.key("realm"),
                    "the realm cannot stand in a challenge",
                    "at most 128 printable ASCII characters, without `\"` and `\\`",
                );
            }
        }
        TokenConfig {
            from,
            max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX),
            realm,
            cache_bytes,
            proofs: self.proofs(raw.and_then(|raw| raw.dpop.as_ref()), &place.key("dpop")),
        }
    }

    fn proofs(&mut self, raw: Option<&raw::Dpop>, place: &Place<'_>) -> Proofs {
        let mut algorithms: Vec<Algorithm> = Vec::new();
        for (index, raw::AlgorithmName(name)) in
            raw.and_then(|raw| raw.algorithms.as_ref()).into_iter().flatten().enumerate()
        {
            let Ok(algorithm) = name.parse::<Algorithm>() else { continue };
            if algorithm.family() == Family::Hmac {
                let at = place.key("algorithms").item(index);
                let label = "a proof carries the key that verifies it, so it cannot be a secret";
                self.error(&at, format!("`{algorithm}` proves nothing"), label);
            }
            if !algorithms.contains(&algorithm) {
                algorithms.push(algorithm);
            }
        }
        let max_age = raw.and_then(|raw| raw.proof_max_age.as_ref());
        let skew = raw.and_then(|raw| raw.clock_skew.as_ref());
        Proofs {
            spelled: algorithms.iter().map(|it| it.name()).collect::<Vec<_>>().join(" "),
            algorithms,
            max_age: self.duration(max_age, &place.key("proof_max_age"), SECOND..=PROOF_AGE_MAX),
            clock_skew: self.duration(skew, &place.key("clock_skew"), Duration::ZERO..=SKEW_MAX),
            max: usize::try_from(raw.and_then(|raw| raw.max_proofs).unwrap_or(0)).unwrap_or(usize::MAX),
        }
    }

    fn token_place(&mut self, raw: &raw::TokenPlace, place: &Place<'_>) -> Option<TokenPlace> {
        match (&raw.header, &raw.cookie) {
            (Some(header), None) => {
                let at = place.key("header");
                let Ok(name) = HeaderName::from_bytes(header.as_bytes()) else {
                    self.error(&at, format!("`{}` is not a header name", at.path), "letters, digits and `-`");
                    return None;
                };
                let own = matches!(folded(name.as_str()).as_str(), "authorization" | "x-session-token");
                if is_taken(name.as_str()) && !own {
                    self.error(&at, format!("`{name}` cannot hold a token"), "it means something else");
                }
                Some(TokenPlace::Header(name))
            }
            (None, Some(cookie)) => {
                self.cookie_name(cookie, &place.key("cookie"));
                Some(TokenPlace::Cookie(cookie.clone()))
            }
            _ if place.is_damaged() => None,
            _ => {
                self.error(place, format!("`{}` must be one place", place.path), "exactly one of `header`, `cookie`");
                None
            }
        }
    }

    /// RFC 6265 §4.1.1: a cookie name is a token.
    pub(super) fn cookie_name(&mut self, name: &str, place: &Place<'_>) {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.len() > 128 || !name.bytes().all(token) {
            self.error(place, format!("`{}` is not a cookie name", place.path), "letters, digits, `-` and `_`");
        }
    }

    pub(super) fn limits(&mut self, raw: Option<&raw::Limits>, place: &Place<'_>) -> Limits {
        let raw = raw.unwrap_or(&raw::Limits {
            header_bytes: None,
            header_count: None,
            uri_bytes: None,
            header_timeout: None,
            body_timeout: None,
            write_timeout: None,
            handshake_timeout: None,
            handshakes_per_worker: None,
            tunnel_idle_timeout: None,
            connections_per_worker: None,
        });
        let count = |number: Option<u64>| usize::try_from(number.unwrap_or(0)).unwrap_or(usize::MAX);
        // Below 8 KiB the HTTP parser's own buffer is the bound.
        let header_bytes = self.size(raw.header_bytes.as_ref(), &place.key("header_bytes"), 8 << 10..=1 << 20);
        let at = place.key("uri_bytes");
        let uri_bytes = self.size(raw.uri_bytes.as_ref(), &at, 256..=1 << 20);
        if header_bytes > 0 && uri_bytes > header_bytes {
            self.error(&at, "no request head could hold such a target", "at most `limits.header_bytes`");
        }
        let wait = MILLISECOND..=DAY;
        Limits {
            header_bytes: usize::try_from(header_bytes).unwrap_or(usize::MAX),
            header_count: count(raw.header_count),
            uri_bytes: usize::try_from(uri_bytes).unwrap_or(usize::MAX),
            header_timeout: self.duration(raw.header_timeout.as_ref(), &place.key("header_timeout"), wait.clone()),
            body_timeout: self.duration(raw.body_timeout.as_ref(), &place.key("body_timeout"), wait.clone()),
            write_timeout: self.duration(raw.write_timeout.as_ref(), &place.key("write_timeout"), wait.clone()),
            handshake_timeout: self.duration(
                raw.handshake_timeout.as_ref(),
                &place.key("handshake_timeout"),
                wait.clone(),
            ),
            handshakes_per_worker: count(raw.handshakes_per_worker),
            tunnel_idle_timeout: self.duration(
                raw.tunnel_idle_timeout.as_ref(),
                &place.key("tunnel_idle_timeout"),
                wait,
            ),
            connections_per_worker: count(raw.connections_per_worker),
        }
    }

    pub(super) fn shutdown(&mut self, raw: Option<&raw::Shutdown>, place: &Place<'_>) -> Shutdown {
        let drain_delay = raw.and_then(|raw| raw.drain_delay.as_ref());
        let drain_timeout = raw.and_then(|raw| raw.drain_timeout.as_ref());
        Shutdown {
            drain_delay: self.duration(drain_delay, &place.key("drain_delay"), Duration::ZERO..=DAY),
            drain_timeout: self.duration(drain_timeout, &place.key("drain_timeout"), Duration::ZERO..=DAY),
        }
    }

    pub(super) fn revocation(&mut self, raw: Option<&raw::Revocation>, place: &Place<'_>) -> RevocationConfig {
        let store = raw.and_then(|raw| raw.store.as_ref());
        let at = place.key("store");
        let store = match store.map(|store| (&store.path, store.memory)) {
            Some((Some(path), None)) => StoreConfig::Sqlite(self.files.path(path)),
            Some((None, Some(true))) => StoreConfig::Memory,
            None => StoreConfig::Memory,
            Some((None, Some(false))) => {
                self.error(&at.key("memory"), "there is no store", "write `path: FOLDER` instead");
                StoreConfig::Memory
            }
            Some(_) if at.is_damaged() => StoreConfig::Memory,
            Some(_) => {
                self.error(&at, format!("`{}` must be one store", at.path), "exactly one of `path`, `memory: true`");
                StoreConfig::Memory
            }
        };
        let sweep = raw.and_then(|raw| raw.sweep_interval.as_ref());
        RevocationConfig {
            store,
            sweep_interval: self.duration(sweep, &place.key("sweep_interval"), SECOND..=DAY),
            max_entries: usize::try_from(raw.and_then(|raw| raw.max_entries).unwrap_or(0)).unwrap_or(usize::MAX),
        }
    }

    pub(super) fn trusted_proxies(&mut self, raw: Option<&[String]>, place: &Place<'_>) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for (index, text) in raw.unwrap_or_default().iter().enumerate() {
            let place = place.item(index);
            let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            match network {
                Err(_) => self.error(
                    &place,
                    format!("`{}` is not an address or network", place.path),
                    "such as `10.0.0.7`, `10.0.0.0/8` or `fd00::/8`",
                ),
                Ok(network) if network.prefix_len() == 0 => self.error(
                    &place,
                    "everybody would be a trusted proxy",
                    "anyone could then claim to be any client; name the networks of your proxies",
                ),
                Ok(network) if network.trunc() != network => self.error(
                    &place,
                    format!("`{network}` is an address within a network"),
                    format!("write `{}` or `{}`", network.trunc(), network.addr()),
                ),
                Ok(network) => networks.push(network),
            }
        }
        networks
    }
}
