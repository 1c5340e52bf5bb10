//! For how long a revocation must be remembered.
//!
//! A revocation may be forgotten once nothing that it refuses can be alive. What can be alive follows
//! from limits that are enforced on every request: an issuer's longest token life, and the longest
//! session that can be opened from one of its tokens.

use std::time::Duration;

use super::{Form, Target, TargetKind};
use crate::time::Timestamp;

/// The config name of the gateway's own issuer.
pub const OWN_ISSUER: &str = "session";

/// The limits of one issuer, as far as forgetting depends on them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerHorizon {
    /// Its name in the config.
    pub name: String,
    /// Its `iss`.
    pub url: String,
    /// The longest life of a token that is honoured.
    pub max_lifetime: Duration,
    /// Tolerance between its clock and ours.
    pub skew: Duration,
    /// Whether its tokens can open gateway sessions.
    pub exchangeable: bool,
    /// Added to cutoffs that take the present as their moment.
    pub cutoff_margin: Duration,
    /// The issuer states `auth_time`, and no token older than this since authentication is honoured.
    pub max_authentication_age: Option<Duration>,
}

/// The limits of every issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Horizons {
    /// Configured issuers, in file order.
    pub issuers: Vec<IssuerHorizon>,
    /// The `iss` of the gateway's own tokens and the longest life of a session, when it has sessions.
    pub session_absolute: Option<(String, Duration)>,
}

/// No issuer has that config name or URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown issuer; give its config name or its URL")]
pub struct UnknownIssuer;

impl Horizons {
    /// The URL of the issuer with this config name or URL; `session` is the gateway's own.
    ///
    /// # Errors
    ///
    /// [`UnknownIssuer`] when there is none.
    pub fn resolve(&self, name_or_url: &str) -> Result<&str, UnknownIssuer> {
        if let Some(issuer) = self.issuers.iter().find(|it| it.name == name_or_url || it.url == name_or_url) {
            return Ok(&issuer.url);
        }
        match &self.session_absolute {
            Some((url, _)) if name_or_url == OWN_ISSUER || name_or_url == url => Ok(url),
            Some(_) | None => Err(UnknownIssuer),
        }
    }

    /// From when on nothing that this form refuses for this target can be alive, for a record made at
    /// `at`; `None`: not before it is lifted. An issuer that is no longer configured is remembered.
    #[must_use]
    pub fn forget_at(&self, target: &Target, form: Form, at: Timestamp) -> Option<Timestamp> {
        match form {
            // A token may say that it was issued up to the skew from now, and be shown until the
            // skew after its end: hence the skew once more.
            Form::Block if target.kind.is_single_use() => Some(at.plus(self.skew(target)).plus(self.horizon(target)?)),
            Form::Block => None,
            Form::Before { issued, authenticated } => {
                let issued = match issued {
                    Some(cutoff) => Some(cutoff.plus(self.horizon(target)?)),
                    None => None,
                };
                let authenticated = match authenticated {
                    Some(cutoff) => Some(cutoff.plus(self.authentication_horizon(target)?)),
                    None => None,
                };
                issued.max(authenticated)
            }
        }
    }

    /// How long after its origin anything of the target can be alive; `None` when it has no
    /// configured issuer.
    #[must_use]
    pub fn horizon(&self, target: &Target) -> Option<Duration> {
        self.longest(target, |issuer| Some(issuer.max_lifetime.max(self.session_from(issuer)) + issuer.skew))
    }

    /// How long after its authentication anything of the target can be alive; `None` when its issuer
    /// does not bound that.
    #[must_use]
    pub fn authentication_horizon(&self, target: &Target) -> Option<Duration> {
        // A session opened at the last moment copies the `auth_time` and lives on by its own limit.
        self.longest(target, |issuer| Some(issuer.max_authentication_age? + self.session_from(issuer) + issuer.skew))
    }

    /// Whether the default cutoffs of [`Reason::voids_authentication`](super::Reason) include one on
    /// `auth_time`: the target's issuer is configured to state it.
    #[must_use]
    pub fn states_authentication(&self, target: &Target) -> bool {
        self.issuers.iter().any(|issuer| issuer.url == target.issuer && issuer.max_authentication_age.is_some())
    }

    /// How far a cutoff may lie in the future: the tolerance for the clock that it was read from.
    #[must_use]
    pub fn skew(&self, target: &Target) -> Duration {
        self.longest(target, |issuer| Some(issuer.skew)).unwrap_or_default()
    }

    /// What a cutoff at the present is moved by, for an issuer whose clock runs ahead.
    #[must_use]
    pub fn cutoff_margin(&self, target: &Target) -> Duration {
        self.longest(target, |issuer| Some(issuer.cutoff_margin)).unwrap_or_default()
    }

    /// The longest session that a token of `issuer` can open.
    fn session_from(&self, issuer: &IssuerHorizon) -> Duration {
        match &self.session_absolute {
            Some((_, absolute)) if issuer.exchangeable => *absolute,
            Some(_) | None => Duration::ZERO,
        }
    }

    /// The largest `limit` among the issuers that `target` can belong to; `None` when there is none,
    /// or one of them has no such limit.
    fn longest(&self, target: &Target, limit: impl Fn(&IssuerHorizon) -> Option<Duration>) -> Option<Duration> {
        let everywhere = matches!(target.kind, TargetKind::Key | TargetKind::All);
        let own = self.own();
        let mut longest = None;
        for issuer in self.issuers.iter().chain(own.as_ref()) {
            if everywhere || issuer.url == target.issuer {
                longest = longest.max(Some(limit(issuer)?));
            }
        }
        longest
    }

    /// The gateway as an issuer, unless it is listed like any other: its tokens carry its own clock,
    /// but the skew of others may have gone into their times.
    fn own(&self) -> Option<IssuerHorizon> {
        let (url, absolute) = self.session_absolute.as_ref()?;
        if self.issuers.iter().any(|issuer| issuer.url == *url) {
            return None;
        }
        // A session has the `auth_time` of its parent, or of the log-in that opened it.
        let parents = self.issuers.iter().filter(|issuer| issuer.exchangeable);
        let oldest = parents
            .map(|issuer| issuer.max_authentication_age)
            .try_fold(Duration::ZERO, |oldest, age| Some(oldest.max(age?)));
        Some(IssuerHorizon {
            name: OWN_ISSUER.to_owned(),
            url: url.clone(),
            max_lifetime: *absolute,
            skew: self.issuers.iter().map(|issuer| issuer.skew).max().unwrap_or_default(),
            exchangeable: false,
            cutoff_margin: Duration::ZERO,
            max_authentication_age: oldest.map(|oldest| oldest + *absolute),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const SKEW: Duration = Duration::from_secs(5);

    fn issuer(name: &str, max_lifetime: Duration, exchangeable: bool) -> IssuerHorizon {
        IssuerHorizon {
            name: name.to_owned(),
            url: format!("https://{name}.example/"),
            max_lifetime,
            skew: SKEW,
            exchangeable,
            cutoff_margin: Duration::ZERO,
            max_authentication_age: None,
        }
    }

    fn horizons() -> Horizons {
        Horizons {
            issuers: vec![issuer("plain", HOUR, false), issuer("parent", HOUR, true), issuer("long", 24 * HOUR, true)],
            session_absolute: Some(("https://gate.example/".to_owned(), 12 * HOUR)),
        }
    }

    fn at() -> Timestamp {
        Timestamp::from_secs(1_800_000_000)
    }

    fn issued() -> Form {
        Form::Before { issued: Some(at()), authenticated: None }
    }

    #[test]
    fn a_cutoff_is_remembered_for_the_longest_life_it_can_refuse() {
        let horizons = horizons();
        for (name, longest) in [("plain", HOUR), ("parent", 12 * HOUR), ("long", 24 * HOUR), ("gate", 12 * HOUR)] {
            for kind in [TargetKind::Subject, TargetKind::Client, TargetKind::Issuer] {
                let target = Target::new(kind, format!("https://{name}.example/"), "42");
                let forget_at = horizons.forget_at(&target, issued(), at().minus(HOUR));
                assert_eq!(forget_at, Some(at().plus(longest + SKEW)), "{name} {kind}: counted from the cutoff");
            }
        }
        let all = Target::new(TargetKind::All, "", "");
        assert_eq!(horizons.forget_at(&all, issued(), at()), Some(at().plus(24 * HOUR + SKEW)));
    }

    #[test]
    fn only_blocks_of_tokens_and_sessions_lapse() {
        let horizons = horizons();
        for kind in TargetKind::ALL {
            let target = Target::new(kind, "https://parent.example/", "42");
            let expected = kind.is_single_use().then(|| at().plus(12 * HOUR + 2 * SKEW));
            assert_eq!(horizons.forget_at(&target, Form::Block, at()), expected, "{kind}");
        }
    }

    #[test]
    fn what_has_no_known_limit_is_remembered() {
        let horizons = horizons();
        let stranger = Target::new(TargetKind::Subject, "https://gone.example/", "42");
        assert_eq!(horizons.forget_at(&stranger, issued(), at()), None);
        let silent = Target::new(TargetKind::Subject, "https://plain.example/", "42");
        let authenticated = Form::Before { issued: Some(at()), authenticated: Some(at()) };
        assert_eq!(horizons.forget_at(&silent, authenticated, at()), None);
    }

    #[test]
    fn an_authentication_cutoff_outlives_the_sessions_opened_from_it() {
        let mut horizons = horizons();
        for issuer in &mut horizons.issuers {
            issuer.max_authentication_age = Some(100 * HOUR);
        }
        let cut = Form::Before { issued: None, authenticated: Some(at()) };
        for (name, longest) in [("plain", 100 * HOUR), ("parent", 112 * HOUR), ("gate", 112 * HOUR)] {
            let target = Target::new(TargetKind::Subject, format!("https://{name}.example/"), "42");
            assert_eq!(horizons.forget_at(&target, cut, at()), Some(at().plus(longest + SKEW)), "{name}");
            assert_eq!(horizons.states_authentication(&target), name != "gate", "{name}");
        }
    }

    #[test]
    fn an_issuer_goes_by_its_name_or_its_url() {
        let horizons = horizons();
        assert_eq!(horizons.resolve("plain"), Ok("https://plain.example/"));
        assert_eq!(horizons.resolve("https://plain.example/"), Ok("https://plain.example/"));
        assert_eq!(horizons.resolve("session"), Ok("https://gate.example/"));
        assert_eq!(horizons.resolve("https://gate.example/"), Ok("https://gate.example/"));
        for name in ["", "Plain", "https://plain.example", "gate"] {
            assert_eq!(horizons.resolve(name), Err(UnknownIssuer), "{name}");
        }
        assert_eq!(Horizons::default().resolve("session"), Err(UnknownIssuer));
    }
}
