//! Where a session was opened from, as far as its owner needs it to tell one device from another.
//!
//! Kept for people, so as little as will do: the network instead of the address, and the names of a
//! known browser and system instead of `User-Agent`. Both come from closed forms, so nothing that a
//! client sends is stored or shown as it came. Either can be switched off (`session.devices`).

use std::net::IpAddr;

use crate::config;

/// Longest description that is read back from the store; none that is made here is longer.
const AGENT_BYTES_MAX: usize = 64;
/// Longest network: an IPv6 prefix.
const NETWORK_BYTES_MAX: usize = 45 + 4;

/// Browsers by a word of their `User-Agent`, those first whose words also say another's name.
const BROWSERS: [(&str, &str); 12] = [
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Vivaldi/", "Vivaldi"),
    ("FxiOS/", "Firefox"),
    ("Firefox/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chromium/", "Chromium"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
    ("okhttp/", "an Android app"),
];

/// Systems likewise.
const SYSTEMS: [(&str, &str); 8] = [
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
    ("BSD", "BSD"),
];

/// Where a session was opened from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// The network: 24 bits of an IPv4 address, 48 of an IPv6 address.
    pub network: Option<Box<str>>,
    /// Browser and system: `Firefox on Linux`.
    pub agent: Option<Box<str>>,
}

impl Device {
    /// What may be kept of a client with this address and this `User-Agent`.
    #[must_use]
    pub fn of(keep: config::Devices, client: IpAddr, user_agent: Option<&[u8]>) -> Self {
        Self {
            network: keep.address.then(|| network(client)),
            agent: if keep.user_agent { user_agent.and_then(agent) } else { None },
        }
    }

    /// The same, read back: what is longer than anything made here is left out.
    pub(super) fn stored(network: Option<&str>, agent: Option<&str>) -> Self {
        let short = |text: Option<&str>, max| text.filter(|text| text.len() <= max).map(Box::from);
        Self { network: short(network, NETWORK_BYTES_MAX), agent: short(agent, AGENT_BYTES_MAX) }
    }
}

fn network(client: IpAddr) -> Box<str> {
    match client.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            format!("{a}.{b}.{c}.0/24").into()
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            format!("{}/48", std::net::Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)).into()
        }
    }
}

/// `None` for one that names neither a known browser nor a known system.
fn agent(user_agent: &[u8]) -> Option<Box<str>> {
    let known = |names: &[(&str, &'static str)]| {
        names.iter().find(|(word, _)| has(user_agent, word.as_bytes())).map(|(_, name)| *name)
    };
    match (known(&BROWSERS), known(&SYSTEMS)) {
        (Some(browser), Some(system)) => Some(format!("{browser} on {system}").into()),
        (Some(browser), None) => Some(browser.into()),
        (None, Some(system)) => Some(format!("a program on {system}").into()),
        (None, None) => None,
    }
}

/// Browsers say who they are within the first few hundred bytes.
fn has(text: &[u8], word: &[u8]) -> bool {
    text[..text.len().min(512)].windows(word.len()).any(|window| window == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: config::Devices = config::Devices { max: 1000, address: true, user_agent: true };

    fn device(client: &str, user_agent: &str) -> Device {
        Device::of(ALL, client.parse().unwrap(), Some(user_agent.as_bytes()))
    }

    #[test]
    fn an_address_is_kept_as_its_network() {
        for (client, network) in [
            ("203.0.113.77", "203.0.113.0/24"),
            ("::ffff:203.0.113.77", "203.0.113.0/24"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
            ("::1", "::/48"),
        ] {
            assert_eq!(device(client, "").network.as_deref(), Some(network), "{client}");
        }
        let longest = network("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap());
        assert!(longest.len() <= NETWORK_BYTES_MAX);
    }

    #[test]
    fn a_user_agent_is_kept_as_the_names_of_what_is_known() {
        for (user_agent, name) in [
            ("Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0", Some("Firefox on Linux")),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0 \
                 Safari/537.36 Edg/131.0",
                Some("Edge on Windows"),
            ),
            (
                "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0 Mobile \
                 Safari/537.36",
                Some("Chrome on Android"),
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                 Version/18.1 Mobile/15E148 Safari/604.1",
                Some("Safari on iPhone"),
            ),
            ("curl/8.5.0", Some("curl")),
            ("<script>alert(1)</script>", None),
            ("SomeBot/1.0 (Linux)", Some("a program on Linux")),
            ("", None),
        ] {
            assert_eq!(device("::1", user_agent).agent.as_deref(), name, "{user_agent}");
        }
        let late = format!("{}Firefox/1", "x".repeat(600));
        assert_eq!(device("::1", &late).agent, None, "only the beginning is read");
    }

    #[test]
    fn what_is_switched_off_is_not_kept() {
        let client = "203.0.113.77".parse().unwrap();
        let none = config::Devices { address: false, user_agent: false, ..ALL };
        assert_eq!(Device::of(none, client, Some(b"curl/8")), Device::default());
        assert_eq!(Device::of(ALL, client, None).agent, None);
    }

    #[test]
    fn what_no_release_wrote_is_not_shown() {
        let long = "x".repeat(65);
        assert_eq!(Device::stored(Some(&long), Some(&long)), Device::default());
        let made = device("203.0.113.77", "curl/8");
        assert_eq!(Device::stored(made.network.as_deref(), made.agent.as_deref()), made);
        for (browser, system) in BROWSERS.iter().flat_map(|(_, browser)| SYSTEMS.iter().map(move |it| (browser, it.1)))
        {
            assert!(format!("{browser} on {system}").len() <= AGENT_BYTES_MAX);
        }
    }
}
