//! Where the gateway touches the outside: listeners, state, proxies in front.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{DAY, Lower, Place, SECOND};
use crate::config::model::{Listener, RevocationConfig, StoreConfig};
use crate::config::raw;

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
            let h2c = listener.h2c == Some(true);
            if h2c && listener.tls.is_some() {
                let at = place.item(index).key("h2c").at_key();
                self.error(
                    &at,
                    format!("`{}` is for listeners in clear", at.path),
                    "with `tls`, clients choose HTTP/2",
                );
            }
            let place = place.item(index).key("address");
            let Some(address) = listener.address.as_deref().and_then(|text| self.address(text, &place)) else {
                continue;
            };
            if address.port() != 0 && listeners.iter().any(|earlier| earlier.address == address) {
                self.error(&place, format!("`{address}` is listened on twice"), "");
            }
            listeners.push(Listener { address, tls, h2c });
        }
        listeners
    }

    pub(super) fn address(&mut self, text: &str, place: &Place<'_>) -> Option<SocketAddr> {
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
