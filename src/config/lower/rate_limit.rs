//! Rules on how often something may be asked, and who names them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{DAY, Lower, Place, SECOND};
use crate::config::model::{RateCounts, RateKey, RateLimit};
use crate::config::problem::did_you_mean;
use crate::config::{raw, units};

impl Lower<'_, '_> {
    /// All rules in file order.
    pub(super) fn rate_limits(
        &mut self,
        raw: Option<&BTreeMap<String, raw::RateLimit>>,
        place: &Place<'_>,
    ) -> Vec<RateLimit> {
        let mut rules = Vec::new();
        for (name, place) in place.entries() {
            let Some(raw) = raw.and_then(|all| all.get(name)) else { continue };
            self.name(name, "a rate limit", &place.at_key());
            let key = match raw.key {
                Some(raw::RateKey::Address) | None => RateKey::Address,
                Some(raw::RateKey::Route) => RateKey::Route,
                Some(raw::RateKey::Subject) => RateKey::Subject,
            };
            let counts = match raw.counts {
                Some(raw::RateCounts::Denials) => RateCounts::Denials,
                Some(raw::RateCounts::Requests) | None => RateCounts::Requests,
            };
            if counts == RateCounts::Denials && key != RateKey::Address {
                let label = "who is refused is known by address alone: `key: address`";
                self.error(&place.key("counts"), format!("`{}.counts` does not go with its key", place.path), label);
            }
            let (count, period) = raw.rate.as_deref().map_or((1, SECOND), |text| {
                rate(text).unwrap_or_else(|why| {
                    let at = place.key("rate");
                    self.error(&at, format!("`{}` is not a rate", at.path), why);
                    (1, SECOND)
                })
            });
            let burst = raw.burst.map_or(count, |burst| u32::try_from(burst).unwrap_or(u32::MAX));
            let max_keys = usize::try_from(raw.max_keys.unwrap_or(1)).unwrap_or(usize::MAX);
            rules.push(RateLimit { name: name.to_owned(), key, count, period, burst, counts, max_keys });
        }
        rules
    }

    /// The rules that `names` name. `subjects` says why there is no verified subject here, if so.
    pub(super) fn rules_named(
        &mut self,
        names: Option<&[String]>,
        place: &Place<'_>,
        rules: &[RateLimit],
        no_subject: Option<&'static str>,
    ) -> Vec<usize> {
        let mut found = Vec::new();
        for (index, name) in names.into_iter().flatten().enumerate() {
            let at = place.item(index);
            let Some(rule) = rules.iter().position(|rule| rule.name == *name) else {
                let known = rules.iter().map(|rule| rule.name.as_str());
                let label = did_you_mean(name, known).unwrap_or_default();
                self.error(&at, format!("there is no rate limit `{}`", name.escape_debug()), label);
                continue;
            };
            if let (Some(why), RateKey::Subject) = (no_subject, rules[rule].key) {
                self.error(&at, format!("`{name}` counts by subject, and none is known here"), why);
            }
            if found.contains(&rule) {
                self.error(&at, format!("`{name}` is named twice"), "");
            } else {
                found.push(rule);
            }
        }
        found
    }
}

/// `10/s`, `300/m`, `1000/h`, `5/10s`: how many, and in what time.
fn rate(text: &str) -> Result<(u32, Duration), String> {
    const WRONG: &str = "write how many and in what time, such as `10/s`, `300/m` or `5/10s`";
    let (count, period) = text.split_once('/').ok_or(WRONG)?;
    let count: u32 = count.trim_end().parse().map_err(|_| WRONG)?;
    if !(1..=1_000_000).contains(&count) {
        return Err("from 1 to 1000000 in a period".to_owned());
    }
    let period = match period.trim_start() {
        unit @ ("s" | "m" | "h") => units::duration(&format!("1{unit}")),
        "d" => Ok(DAY),
        span => units::duration(span),
    }
    .map_err(|_| WRONG)?;
    if (SECOND..=DAY).contains(&period) { Ok((count, period)) } else { Err("a period from 1s to 24h".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_and_a_period() {
        let seconds = Duration::from_secs;
        for (text, wanted) in [
            ("10/s", Some((10, seconds(1)))),
            ("300/m", Some((300, seconds(60)))),
            ("1000/h", Some((1000, seconds(3600)))),
            ("5/d", Some((5, DAY))),
            ("5/10s", Some((5, seconds(10)))),
            ("5 / 1m 30s", Some((5, seconds(90)))),
            ("0/s", None),
            ("2000000/s", None),
            ("10", None),
            ("10/", None),
            ("/s", None),
            ("10/500ms", None),
            ("10/48h", None),
            ("-1/s", None),
            ("1.5/s", None),
            ("10/year", None),
        ] {
            assert_eq!(rate(text).ok(), wanted, "{text}");
        }
    }
}
