//! Instants and the clock that reads them.
//!
//! Domain code never asks what time it is: a [`Timestamp`] is an argument. The spine of the proxy
//! reads its [`Clock`] once per request.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An instant in milliseconds since the Unix epoch: the resolution of every cutoff.
///
/// A whole-second NumericDate (RFC 7519 §2) is the instant at its `.000`, so one comparison,
/// `at <= cutoff`, is the rule of both resolutions: a whole second is refused iff it is at or before
/// the cutoff's own second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest instant that can be said: nothing was issued before it.
    pub const MIN: Self = Self(0);
    /// The last instant that can be said, some 139 years after the epoch (42 bits of milliseconds).
    pub const MAX: Self = Self((1 << 42) - 1);

    /// The instant `millis` milliseconds after the epoch, held within [`Self::MIN`] and [`Self::MAX`].
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        if millis < 0 {
            return Self::MIN;
        }
        if millis > Self::MAX.0 {
            return Self::MAX;
        }
        Self(millis)
    }

    /// The instant `secs` seconds after the epoch, held within the range of the type.
    #[must_use]
    pub const fn from_secs(secs: i64) -> Self {
        Self::from_millis(secs.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub const fn secs(self) -> i64 {
        self.0 / 1000
    }

    /// This instant with its fraction of a second removed.
    #[must_use]
    pub const fn floor_to_second(self) -> Self {
        Self(self.0 / 1000 * 1000)
    }

    /// `self + span`, at most [`Self::MAX`].
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// `self - span`, at least [`Self::MIN`].
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self::from_millis(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

/// RFC 3339 in UTC, with milliseconds only when there are some.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(at) => write!(f, "{at}"),
            Err(_) => f.write_str("invalid time"),
        }
    }
}

/// Why a text is not an instant. Read as "failed to read the time: {self}".
#[derive(Debug, thiserror::Error)]
#[error("not an RFC 3339 time such as 2026-01-31T12:00:00Z")]
pub struct ParseTimestampError;

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let at: jiff::Timestamp = text.parse().map_err(|_| ParseTimestampError)?;
        let millis = at.as_millisecond();
        if !(Self::MIN.0..=Self::MAX.0).contains(&millis) {
            return Err(ParseTimestampError);
        }
        Ok(Self(millis))
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Where the time comes from. Clones of a manual clock share one hand.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The system's wall clock.
    #[default]
    System,
    /// A clock that tests set by hand.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that stands at `at` until it is moved.
    #[must_use]
    pub fn manual(at: Timestamp) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(at.0)))
    }

    /// What this clock shows.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            }
            Self::Manual(hand) => Timestamp(hand.load(Ordering::Acquire)),
        }
    }

    /// Moves a manual clock on by `span`; the system's clock goes its own way.
    pub fn advance(&self, span: Duration) {
        if let Self::Manual(hand) = self {
            hand.fetch_add(i64::try_from(span.as_millis()).unwrap_or(0), Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_second_is_refused_by_any_cutoff_within_it() {
        let cutoff = Timestamp::from_millis(100_500);
        for (at, refused) in [(99_000, true), (100_000, true), (100_500, true), (100_501, false), (101_000, false)] {
            assert_eq!(Timestamp::from_millis(at) <= cutoff, refused, "at {at} ms");
        }
    }

    #[test]
    fn times_survive_rfc_3339() {
        for text in ["2026-11-23T20:36:00Z", "2026-11-23T20:36:00.123Z", "1970-01-01T00:00:00Z"] {
            assert_eq!(text.parse::<Timestamp>().map(|at| at.to_string()).ok().as_deref(), Some(text));
        }
        for text in ["", "now", "2026-11-23", "1969-12-31T23:59:59Z", "1732394160"] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn arithmetic_stays_within_the_range() {
        assert_eq!(Timestamp::MAX.plus(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::MIN.minus(Duration::MAX), Timestamp::MIN);
        assert_eq!(Timestamp::MIN.since(Timestamp::MAX), Duration::ZERO);
    }
}
