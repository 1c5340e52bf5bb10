//! Limits change, and what was forgotten under the old ones must not come back to life.
//!
//! The horizons that records were forgotten by are kept with the records. When one is raised, two
//! things happen before it holds: an issuer cutoff at *now − old horizon* refuses what older,
//! forgotten records refused; and records still kept are kept for longer by the difference, for as
//! long as there can be one from before.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::revocation::{Form, Horizons, Target, TargetKind};
use crate::time::Timestamp;

/// The name of the setting.
pub(super) const SETTING: &str = "horizons";

/// The horizons in use, as they are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    /// By issuer URL; the empty one stands for everything. Issuers that were removed stay: they may
    /// come back.
    issuers: BTreeMap<String, Limit>,
    /// How much longer than they say records are kept, in milliseconds.
    slack: u64,
    /// Until when there can be a record that needs the slack, in milliseconds since the epoch.
    slack_until: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    /// The horizon of cutoffs on the origin, in milliseconds.
    issued: u64,
    /// The horizon of cutoffs on `auth_time`.
    authenticated: Option<u64>,
}

/// What must be in force before new limits are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Raise {
    pub(super) issuer: Target,
    pub(super) form: Form,
}

impl Limits {
    /// The limits that `horizons` set, with nothing before them.
    fn of(horizons: &Horizons) -> BTreeMap<String, Limit> {
        let own = horizons.session_absolute.as_ref().map(|(url, _)| url);
        let urls = horizons.issuers.iter().map(|issuer| &issuer.url).chain(own);
        let issuers = urls.map(|url| Target::new(TargetKind::Issuer, url.as_str(), ""));
        let targets = issuers.chain([Target::new(TargetKind::All, "", "")]);
        targets
            .filter_map(|target| {
                let limit = Limit {
                    issued: millis(horizons.horizon(&target)?),
                    authenticated: horizons.authentication_horizon(&target).map(millis),
                };
                Some((target.issuer, limit))
            })
            .collect()
    }

    /// The limits after a change to `horizons` at `now`, and the cutoffs to be made before.
    pub(super) fn change(&self, horizons: &Horizons, now: Timestamp) -> (Self, Vec<Raise>) {
        let new = Self::of(horizons);
        let mut raises = Vec::new();
        let (mut widest, mut longest) = (0, 0);
        for (url, limit) in &new {
            let Some(old) = self.issuers.get(url) else { continue };
            let issued = limit.issued.checked_sub(old.issued).filter(|by| *by > 0);
            let authenticated = match (limit.authenticated, old.authenticated) {
                (Some(limit), Some(old)) => limit.checked_sub(old).filter(|by| *by > 0).map(|by| (by, old)),
                (_, _) => None,
            };
            widest = widest.max(issued.unwrap_or(0)).max(authenticated.map_or(0, |(by, _)| by));
            longest = longest.max(old.issued).max(old.authenticated.unwrap_or(0));
            let before = |old: u64| now.minus(Duration::from_millis(old));
            if !url.is_empty() && (issued.is_some() || authenticated.is_some()) {
                raises.push(Raise {
                    issuer: Target::new(TargetKind::Issuer, url.as_str(), ""),
                    form: Form::Before {
                        issued: issued.map(|_| before(old.issued)),
                        authenticated: authenticated.map(|(_, old)| before(old)),
                    },
                });
            }
        }
        let mut changed = Self { issuers: self.issuers.clone(), ..self.clone() };
        changed.issuers.extend(new);
        let held = millis(self.slack(now));
        (changed.slack, changed.slack_until) = (held, if held == 0 { 0 } else { self.slack_until });
        if widest > 0 {
            changed.slack = held.saturating_add(widest);
            // A cutoff may lie ahead by a skew, which a horizon includes: hence twice the longest.
            let end = now.plus(Duration::from_millis(longest.saturating_mul(2).saturating_add(changed.slack)));
            changed.slack_until = changed.slack_until.max(end.millis());
        }
        (changed, raises)
    }

    /// How much longer than they say records are to be kept at `now`.
    pub(super) fn slack(&self, now: Timestamp) -> Duration {
        if now.millis() <= self.slack_until { Duration::from_millis(self.slack) } else { Duration::ZERO }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revocation::IssuerHorizon;

    const HOUR: Duration = Duration::from_secs(3600);

    fn horizons(max_lifetime: Duration, max_authentication_age: Option<Duration>) -> Horizons {
        Horizons {
            issuers: vec![IssuerHorizon {
                name: "a".to_owned(),
                url: "https://a.example/".to_owned(),
                max_lifetime,
                skew: Duration::ZERO,
                exchangeable: false,
                cutoff_margin: Duration::ZERO,
                max_authentication_age,
            }],
            session_absolute: None,
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_secs(1_800_000_000)
    }

    fn issuer() -> Target {
        Target::new(TargetKind::Issuer, "https://a.example/", "")
    }

    #[test]
    fn the_first_limits_and_lower_ones_raise_nothing() {
        let (first, raises) = Limits::default().change(&horizons(2 * HOUR, None), now());
        assert_eq!((raises, first.slack(now())), (vec![], Duration::ZERO));
        let (lower, raises) = first.change(&horizons(HOUR, Some(HOUR)), now());
        assert_eq!((raises, lower.slack(now())), (vec![], Duration::ZERO));
        let (same, raises) = lower.change(&horizons(HOUR, Some(HOUR)), now());
        assert_eq!((same, raises), (lower, vec![]));
    }

    #[test]
    fn a_raised_limit_cuts_what_was_forgotten_and_keeps_what_was_not() {
        let (first, _) = Limits::default().change(&horizons(HOUR, Some(3 * HOUR)), now());
        let (second, raises) = first.change(&horizons(4 * HOUR, Some(5 * HOUR)), now());
        let form = Form::Before { issued: Some(now().minus(HOUR)), authenticated: Some(now().minus(3 * HOUR)) };
        assert_eq!(raises, [Raise { issuer: issuer(), form }]);
        assert_eq!(second.slack(now()), 3 * HOUR);
        // The last record from before was made now; unraised, it was to go by its old horizon.
        assert_eq!(second.slack(now().plus(3 * HOUR)), 3 * HOUR);
        assert_eq!(second.slack(now().plus(100 * HOUR)), Duration::ZERO);
        let (third, raises) = second.change(&horizons(5 * HOUR, Some(5 * HOUR)), now().plus(HOUR));
        assert_eq!(raises.len(), 1);
        assert_eq!(third.slack(now().plus(HOUR)), 4 * HOUR, "a second raise comes on top");
    }

    #[test]
    fn an_issuer_that_comes_back_is_compared_with_what_it_was() {
        let (first, _) = Limits::default().change(&horizons(HOUR, None), now());
        let (gone, _) = first.change(&Horizons::default(), now());
        let (_, raises) = gone.change(&horizons(2 * HOUR, None), now());
        let form = Form::Before { issued: Some(now().minus(HOUR)), authenticated: None };
        assert_eq!(raises, [Raise { issuer: issuer(), form }]);
    }

    #[test]
    fn limits_survive_being_written() {
        let (limits, _) = Limits::default().change(&horizons(HOUR, Some(HOUR)), now());
        let (limits, _) = limits.change(&horizons(2 * HOUR, Some(HOUR)), now());
        let text = serde_json::to_string(&limits).unwrap();
        assert_eq!(serde_json::from_str::<Limits>(&text).unwrap(), limits);
    }
}
