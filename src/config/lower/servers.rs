//! How the servers of an upstream are watched, chosen and tried again.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery};

use super::{DAY, Lower, MILLISECOND, Place, SECOND};
use crate::config::model::{Ejection, Health, Retries, RetryOn};
use crate::config::{raw, units};

impl Lower<'_, '_> {
    pub(super) fn health(&mut self, raw: &raw::Health, place: &Place<'_>) -> Health {
        let path = raw.path.clone().unwrap_or_default();
        let fits = path.starts_with('/') && path.parse::<PathAndQuery>().is_ok_and(|parsed| parsed.as_str() == path);
        if raw.path.is_some() && !fits {
            let at = place.key("path");
            self.error(&at, format!("`{}` is not a path", at.path), "such as `/healthz`");
        }
        let host = raw.host.as_ref().filter(|host| {
            let fits = host.parse::<Authority>().is_ok_and(|parsed| !parsed.as_str().contains('@'));
            if !fits {
                let at = place.key("host");
                self.error(&at, format!("`{}` is not a host", at.path), "such as `shop.internal`");
            }
            fits
        });
        Health {
            path,
            interval: self.duration(raw.interval.as_ref(), &place.key("interval"), Duration::from_millis(100)..=DAY),
            timeout: self.duration(raw.timeout.as_ref(), &place.key("timeout"), MILLISECOND..=DAY),
            unhealthy_after: raw.unhealthy_after.unwrap_or(1),
            healthy_after: raw.healthy_after.unwrap_or(1),
            expect: self.statuses(raw.expect.as_deref(), &place.key("expect")),
            host: host.cloned(),
        }
    }

    /// `200`, or `200-299`.
    fn statuses(&mut self, text: Option<&str>, place: &Place<'_>) -> RangeInclusive<u16> {
        let text = text.unwrap_or("200");
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let status = |text: &str| text.trim().parse::<u16>().ok().filter(|status| (200..=599).contains(status));
        match (status(first), status(last)) {
            (Some(first), Some(last)) if first <= last => first..=last,
            _ => {
                self.error(
                    place,
                    format!("`{}` is not a range of statuses", place.path),
                    "such as `200-299`, from 200 to 599",
                );
                200..=200
            }
        }
    }

    pub(super) fn ejection(&mut self, raw: Option<&raw::Ejection>, place: &Place<'_>) -> Ejection {
        let time = self.duration(raw.and_then(|raw| raw.time.as_ref()), &place.key("time"), SECOND..=DAY);
        let at = place.key("max_time");
        let max_time = self.duration(raw.and_then(|raw| raw.max_time.as_ref()), &at, SECOND..=DAY);
        if !max_time.is_zero() && max_time < time {
            self.error(&at, format!("`{}` is shorter than `time`", at.path), "");
        }
        Ejection {
            after: match raw.and_then(|raw| raw.after.as_ref()) {
                Some(raw::Limit::Of(count)) => Some(u32::try_from(*count).unwrap_or(u32::MAX)),
                Some(raw::Limit::None) | None => None,
            },
            time,
            max_time,
            max_ejected: self.share(raw.and_then(|raw| raw.max_ejected.as_deref()), &place.key("max_ejected")),
        }
    }

    pub(super) fn retries(&mut self, raw: Option<&raw::Retries>, place: &Place<'_>) -> Retries {
        let causes = raw.and_then(|raw| raw.on.as_deref()).unwrap_or_default();
        let at = place.key("per_try_timeout");
        Retries {
            attempts: raw.and_then(|raw| raw.attempts).unwrap_or(0),
            per_try_timeout: self.duration_or_none(
                raw.and_then(|raw| raw.per_try_timeout.as_ref()),
                &at,
                MILLISECOND..=DAY,
            ),
            on: RetryOn {
                connect_failure: causes.contains(&raw::RetryCause::ConnectFailure),
                reset_before_response: causes.contains(&raw::RetryCause::ResetBeforeResponse),
                timeout: causes.contains(&raw::RetryCause::Timeout),
                gateway_errors: causes.contains(&raw::RetryCause::GatewayErrors),
            },
            budget: self.share(raw.and_then(|raw| raw.budget.as_deref()), &place.key("budget")),
        }
    }

    /// A share in per mille.
    fn share(&mut self, text: Option<&str>, place: &Place<'_>) -> u32 {
        let Some(text) = text else { return 0 };
        units::permille(text).unwrap_or_else(|why| {
            self.error(place, format!("`{}` is not a share", place.path), why);
            0
        })
    }
}
