//! Gateway sessions: what opens them, how long they last, how their tokens travel.

use std::time::Duration;

use super::{DAY, DECADE, Lower, Place, SECOND};
use crate::config::model::{Delivery, Devices, Issuer, Refresh, Route, Session, TokenConfig, TokenPlace};
use crate::config::problem::did_you_mean;
use crate::config::{raw, units};
use crate::token::{Algorithm, Family};

/// Longest `refresh.reuse_grace`: a thief who is as fast goes unnoticed.
const REUSE_GRACE_MAX: Duration = Duration::from_secs(300);

/// Something that opens sessions, and how its subjects are told from others'.
struct Origin<'n> {
    name: String,
    prefix: String,
    place: Place<'n>,
}

impl Lower<'_, '_> {
    pub(super) fn session(
        &mut self,
        raw: &raw::Session,
        place: &Place<'_>,
        issuers: &mut [Issuer],
        routes: &[Route],
        token: &TokenConfig,
    ) -> Session {
        let issuer = raw.issuer.clone().unwrap_or_default();
        self.visible(&issuer, &place.key("issuer"));
        if let Some(other) = issuers.iter().find(|other| other.url == issuer && !issuer.is_empty()) {
            let label = format!("`issuers.{}` has it already", other.name);
            self.error(&place.key("issuer"), "the gateway cannot share its issuer name", label);
        }
        if let Some(other) = issuers.iter().find(|other| other.name == issuer) {
            let message = format!("`{}` is the name of another issuer", other.name);
            self.error(&place.key("issuer"), message, "the API takes an issuer by name or `iss`");
        }
        let audience = raw.audience.clone().unwrap_or_default();
        self.visible(&audience, &place.key("audience"));
        let (idle_timeout, absolute_timeout) = self.session_life(raw, place);
        let (reissue_after_permille, reissue_every) = self.reissue(raw.reissue.as_ref(), &place.key("reissue"));
        let reuse_grace = self.reuse_grace(raw.reissue.as_ref(), &place.key("reissue"));
        let (exchange, mut origins) = self.exchange(raw, place, issuers);
        let grants = raw.grants.as_ref().and_then(|grants| grants.subject_prefix.clone()).unwrap_or_default();
        if routes.iter().any(|route| route.login) {
            let at = place.key("grants").key("subject_prefix");
            origins.push(Origin { name: "login routes".to_owned(), prefix: grants.clone(), place: at });
        }
        self.origins(&origins, place);
        let (delivery, cookie) = self.delivery(raw, place, token);
        let refresh =
            raw.refresh.as_ref().map(|it| self.refresh(it, &place.key("refresh"), idle_timeout, token, &cookie));
        let keys = raw.keys.as_ref();
        Session {
            issuer,
            audience,
            keys_dir: self.files.path(keys.and_then(|keys| keys.dir.as_deref()).unwrap_or_default()),
            algorithm: self.session_algorithm(keys, &place.key("keys").key("algorithm")),
            publish_before: self.duration(
                keys.and_then(|keys| keys.publish_before.as_ref()),
                &place.key("keys").key("publish_before"),
                Duration::ZERO..=DAY,
            ),
            idle_timeout,
            absolute_timeout,
            reissue_after_permille,
            reissue_every,
            reuse_grace,
            exchange,
            grant_subject_prefix: grants,
            delivery,
            cookie,
            max_per_subject: match raw.max_per_subject {
                Some(raw::Limit::Of(count)) => Some(usize::try_from(count).unwrap_or(usize::MAX)),
                Some(raw::Limit::None) | None => None,
            },
            refresh,
            devices: devices(raw.devices.as_ref()),
        }
    }

    /// With `rotation: strict`, the time that a token has after its successor was first used.
    fn reuse_grace(&mut self, raw: Option<&raw::Reissue>, place: &Place<'_>) -> Option<Duration> {
        let raw = raw?;
        // At least a second: requests under way when the new token arrives are nobody's theft.
        let grace = self.duration(raw.reuse_grace.as_ref(), &place.key("reuse_grace"), SECOND..=DAY);
        match raw.rotation {
            Some(raw::Rotation::Strict) => Some(grace),
            Some(raw::Rotation::Relaxed) | None => None,
        }
    }

    fn session_life(&mut self, raw: &raw::Session, place: &Place<'_>) -> (Duration, Duration) {
        let at = place.key("idle_timeout");
        let idle = self.duration(raw.idle_timeout.as_ref(), &at, SECOND..=DECADE);
        let absolute = self.duration(raw.absolute_timeout.as_ref(), &place.key("absolute_timeout"), SECOND..=DECADE);
        if !absolute.is_zero() && idle > absolute {
            let label = "no token outlives its session: at most `absolute_timeout`";
            self.error(&at, format!("`{}` is longer than `absolute_timeout`", at.path), label);
        }
        (idle, absolute)
    }

    fn reissue(&mut self, raw: Option<&raw::Reissue>, place: &Place<'_>) -> (u32, Option<u32>) {
        let Some(raw) = raw else { return (0, None) };
        let at = place.key("after");
        let after = raw.after.as_deref().map_or(0, |text| {
            units::permille(text).unwrap_or_else(|why| {
                self.error(&at, format!("`{}` is not a share of a token's life", at.path), why);
                0
            })
        });
        let every = match raw.every {
            Some(raw::Count::Of(count)) => Some(u32::try_from(count).unwrap_or(u32::MAX)),
            Some(raw::Count::None) | None => None,
        };
        (after, every)
    }

    /// The issuers whose tokens open sessions; their prefixes go to the issuers.
    fn exchange<'n>(
        &mut self,
        raw: &raw::Session,
        place: &Place<'n>,
        issuers: &mut [Issuer],
    ) -> (Vec<usize>, Vec<Origin<'n>>) {
        let (mut exchange, mut origins) = (Vec::new(), Vec::new());
        for (index, entry) in raw.exchange.iter().flatten().enumerate() {
            let at = place.key("exchange").item(index);
            let (name, prefix, at) = match entry {
                raw::Either::Short(name) => (name.as_str(), "", at),
                raw::Either::Long(raw::Exchange { issuer: Some(name), subject_prefix }) => {
                    (name.as_str(), subject_prefix.as_deref().unwrap_or_default(), at.key("issuer"))
                }
                raw::Either::Long(_) => continue,
            };
            let Some(found) = issuers.iter().position(|issuer| issuer.name == name) else {
                let label = did_you_mean(name, issuers.iter().map(|issuer| issuer.name.as_str()));
                self.error(&at, format!("there is no issuer `{}`", name.escape_debug()), label.unwrap_or_default());
                continue;
            };
            if exchange.contains(&found) {
                self.error(&at, format!("`{name}` is exchanged twice"), "");
                continue;
            }
            exchange.push(found);
            prefix.clone_into(&mut issuers[found].subject_prefix);
            origins.push(Origin { name: format!("`{name}`"), prefix: prefix.to_owned(), place: at });
        }
        (exchange, origins)
    }

    /// With several sources, no subject of one may become a subject of another: two users 42 are two.
    fn origins(&mut self, origins: &[Origin<'_>], place: &Place<'_>) {
        if origins.is_empty() {
            self.findings.warning(
                place.key.clone(),
                "nothing opens sessions",
                "name issuers in `exchange`, or write `login: true` on a route",
            );
        }
        for (index, origin) in origins.iter().enumerate() {
            self.visible(&origin.prefix, &origin.place);
            if origins.len() > 1 && origin.prefix.is_empty() {
                let label = format!("give {} a `subject_prefix`: sessions have several sources", origin.name);
                let message = format!("subjects of {} could be taken for others", origin.name);
                self.error(&origin.place, message, label);
                continue;
            }
            let clash = origins[..index].iter().find(|other| {
                !other.prefix.is_empty()
                    && (other.prefix.starts_with(&origin.prefix) || origin.prefix.starts_with(&other.prefix))
            });
            if let Some(other) = clash {
                let message = format!("subjects of {} could be taken for those of {}", origin.name, other.name);
                let label = format!("`{}` and `{}` begin alike", origin.prefix, other.prefix);
                self.error(&origin.place, message, label);
            }
        }
    }

    fn delivery(&mut self, raw: &raw::Session, place: &Place<'_>, token: &TokenConfig) -> (Delivery, String) {
        let name = raw.cookie.as_ref().and_then(|cookie| cookie.name.clone()).unwrap_or_default();
        let at = place.key("cookie").key("name");
        self.cookie_name(&name, &at);
        if !name.starts_with("__Host-") && !name.is_empty() {
            let message = "another host of the domain could set the session cookie";
            self.findings.warning(at.span, message, format!("write `__Host-{name}`"));
        }
        let delivery = match raw.delivery {
            Some(raw::Delivery::Cookie) => Delivery::Cookie,
            Some(raw::Delivery::Header) | None => Delivery::Header,
        };
        let read = token.from.iter().any(|from| matches!(from, TokenPlace::Cookie(cookie) if *cookie == name));
        if delivery == Delivery::Cookie && !read {
            self.findings
                .error(place.key("delivery").span, "nobody would read the session cookie", "")
                .help(format!("add `{{ cookie: {name} }}` to `token.from`"));
        }
        (delivery, name)
    }

    fn refresh(
        &mut self,
        raw: &raw::Refresh,
        place: &Place<'_>,
        access_life: Duration,
        token: &TokenConfig,
        session_cookie: &str,
    ) -> Refresh {
        let at = place.key("idle_timeout");
        let idle_timeout = self.duration(raw.idle_timeout.as_ref(), &at, SECOND..=DECADE);
        if !idle_timeout.is_zero() && idle_timeout <= access_life {
            let label = "longer than `session.idle_timeout`, the life of an access token";
            self.error(&at, format!("`{}` lets a refresh token end with its access token", at.path), label);
        }
        // At least a second: a client that asks again because an answer was lost is no thief.
        let reuse_grace = self.duration(raw.reuse_grace.as_ref(), &place.key("reuse_grace"), SECOND..=REUSE_GRACE_MAX);
        let name = raw.cookie.as_ref().and_then(|cookie| cookie.name.clone()).unwrap_or_default();
        let at = place.key("cookie").key("name");
        self.cookie_name(&name, &at);
        let read = token.from.iter().any(|from| matches!(from, TokenPlace::Cookie(cookie) if *cookie == name));
        if read || name == session_cookie {
            let label = "give the refresh cookie a name of its own";
            self.error(&at, format!("`{name}` is the cookie of access tokens"), label);
        } else if !name.starts_with("__Host-") && !name.is_empty() {
            let message = "another host of the domain could set the refresh cookie";
            self.findings.warning(at.span, message, format!("write `__Host-{name}`"));
        }
        let delivery = match raw.delivery {
            Some(raw::RefreshDelivery::Cookie) => Delivery::Cookie,
            Some(raw::RefreshDelivery::Header) | None => Delivery::Header,
        };
        Refresh { idle_timeout, reuse_grace, delivery, cookie: name }
    }

    fn session_algorithm(&mut self, raw: Option<&raw::SessionKeys>, place: &Place<'_>) -> Algorithm {
        let name = raw.and_then(|keys| keys.algorithm.as_ref()).map(|raw::AlgorithmName(name)| name.as_str());
        let algorithm = name.and_then(|name| name.parse::<Algorithm>().ok()).unwrap_or(Algorithm::ES256);
        if algorithm.family() == Family::Hmac {
            let label = "use ES256, ES384, EdDSA, or an RSA algorithm";
            self.error(place, "gateway keys are published, so they cannot be secrets", label);
        }
        algorithm
    }
}

fn devices(raw: Option<&raw::Devices>) -> Devices {
    let max = raw.and_then(|raw| raw.max).and_then(|max| usize::try_from(max).ok());
    Devices {
        max: max.unwrap_or(0),
        address: raw.and_then(|raw| raw.address).unwrap_or(true),
        user_agent: raw.and_then(|raw| raw.user_agent).unwrap_or(true),
    }
}
