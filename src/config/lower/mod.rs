//! From the shape of the file to its meaning.
//!
//! Every part is lowered whatever is wrong with the others: what cannot be understood is reported and
//! stands as an empty value, which nobody sees, because a file with an error has no [`Config`].

mod admin;
mod broker;
mod cluster;
mod credential;
mod edge;
mod identity;
mod issuer;
mod limits;
mod place;
mod rate_limit;
mod route;
mod secret;
mod servers;
mod session;
mod tls;
mod token;
mod upstream;

use std::ops::RangeInclusive;
use std::time::Duration;

use place::Place;

use super::files::Files;
use super::model::{Config, Protocol};
use super::problem::Findings;
use super::tree::Node;
use super::{raw, units};

/// The longest life of anything: ten years. Cutoffs are remembered for as long as what they refuse may
/// live, in 42 bits of milliseconds.
const DECADE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Turns the file into a configuration, which is only good if no error was found.
pub(super) fn lower(raw: &raw::Root, root: &Node, findings: &mut Findings, files: &mut Files<'_>) -> Config {
    let mut lower = Lower { findings, files };
    let top = Place::root(root);
    let listeners = lower.listeners(raw.listeners.as_deref().unwrap_or_default(), &top.key("listeners"));
    let admin = raw.admin.as_ref().map(|admin| lower.admin(admin, &top.key("admin"), &listeners));
    let limits = lower.limits(raw.limits.as_ref(), &top.key("limits"));
    let max_body = raw.limits.as_ref().and_then(|limits| limits.max_body.as_ref());
    let max_body = lower.size_or_none(max_body, &top.key("limits").key("max_body"), 0..=u64::MAX);
    let token = lower.token(raw.token.as_ref(), &top.key("token"), &limits);
    let identity = lower.identity(raw.claims_to_headers.as_ref(), &top.key("claims_to_headers"), &token);
    let upstreams = lower.upstreams(raw.upstreams.as_ref(), &top.key("upstreams"));
    let rate_limits = lower.rate_limits(raw.rate_limits.as_ref(), &top.key("rate_limits"));
    let mut issuers = lower.issuers(raw.issuers.as_ref(), &top.key("issuers"));
    let names = route::Names {
        upstreams: upstreams.iter().map(|upstream| upstream.name.as_str()).collect(),
        http2_only: upstreams.iter().map(|upstream| upstream.protocol == Protocol::Http2).collect(),
        issuers: issuers.iter().map(|issuer| issuer.name.as_str()).collect(),
        session: raw.session.is_some(),
        rate_limits: &rate_limits,
    };
    let routes = lower.routes(
        raw.routes.as_deref().unwrap_or_default(),
        &top.key("routes"),
        &names,
        &route::Defaults {
            identity: &identity,
            token: &token,
            max_body,
            on_stale: raw.cluster.as_ref().map(|it| it.on_stale.map_or_else(Default::default, Into::into)),
        },
    );
    let session =
        raw.session.as_ref().map(|session| lower.session(session, &top.key("session"), &mut issuers, &routes, &token));
    let endpoint_rate_limits = lower.rules_named(
        raw.session.as_ref().and_then(|session| session.rate_limits.as_deref()),
        &top.key("session").key("rate_limits"),
        &rate_limits,
        Some("the endpoints are asked before it is: count by `address` or `route`"),
    );
    let revocation = lower.revocation(raw.revocation.as_ref(), &top.key("revocation"));
    let cluster =
        raw.cluster.as_ref().and_then(|cluster| lower.cluster(cluster, &top.key("cluster"), &revocation.store));
    let trusted_proxies = lower.trusted_proxies(raw.trusted_proxies.as_deref(), &top.key("trusted_proxies"));
    let reload = lower.reload(raw.reload.as_ref(), &top.key("reload"));
    let shutdown = lower.shutdown(raw.shutdown.as_ref(), &top.key("shutdown"));
    let access_log = lower.log_target(raw.access_log.as_ref());
    Config {
        workers: edge::workers(raw.workers.as_ref()),
        listeners,
        admin,
        issuers,
        token,
        upstreams,
        routes,
        identity,
        session,
        revocation,
        cluster,
        trusted_proxies,
        limits,
        rate_limits,
        endpoint_rate_limits,
        reload,
        shutdown,
        access_log,
    }
}

/// What lowering reports to and reads from.
struct Lower<'a, 'f> {
    findings: &'a mut Findings,
    files: &'a mut Files<'f>,
}

impl Lower<'_, '_> {
    /// Reports an error at a place.
    fn error(&mut self, place: &Place<'_>, message: impl Into<String>, label: impl Into<String>) {
        self.findings.error(place.span.clone(), message, label);
    }

    /// A time span within bounds.
    fn duration(
        &mut self,
        raw: Option<&raw::Duration>,
        place: &Place<'_>,
        bounds: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(raw::Duration(text)) = raw else { return Duration::ZERO };
        match units::duration(text) {
            Err(why) => self.error(place, format!("`{}` is not a time span", place.path), why),
            Ok(span) if span < *bounds.start() => {
                let label = format!("at least {}", human(*bounds.start()));
                self.error(place, format!("`{}` is too short", place.path), label);
            }
            Ok(span) if span > *bounds.end() => {
                let label = format!("at most {}", human(*bounds.end()));
                self.error(place, format!("`{}` is too long", place.path), label);
            }
            Ok(span) => return span,
        }
        Duration::ZERO
    }

    /// A time span within bounds, or `none`.
    fn duration_or_none(
        &mut self,
        raw: Option<&raw::Duration>,
        place: &Place<'_>,
        bounds: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        match raw {
            Some(raw::Duration(text)) if text == "none" => None,
            raw => Some(self.duration(raw, place, bounds)),
        }
    }

    /// A size within bounds, in bytes.
    fn size(&mut self, raw: Option<&raw::Size>, place: &Place<'_>, bounds: RangeInclusive<u64>) -> u64 {
        let size = match raw {
            None => return 0,
            Some(raw::Size::Bytes(bytes)) => Ok(*bytes),
            Some(raw::Size::Text(text)) => units::size(text),
        };
        match size {
            Err(why) => self.error(place, format!("`{}` is not a size", place.path), why),
            Ok(size) if size < *bounds.start() => {
                self.error(
                    place,
                    format!("`{}` is too small", place.path),
                    format!("at least {} bytes", bounds.start()),
                );
            }
            Ok(size) if size > *bounds.end() => {
                self.error(place, format!("`{}` is too large", place.path), format!("at most {} bytes", bounds.end()));
            }
            Ok(size) => return size,
        }
        0
    }

    /// A size within bounds, in bytes, or `none`.
    fn size_or_none(&mut self, raw: Option<&raw::Size>, place: &Place<'_>, bounds: RangeInclusive<u64>) -> Option<u64> {
        match raw {
            Some(raw::Size::Text(text)) if text == "none" => None,
            size => Some(self.size(size, place, bounds)),
        }
    }

    /// The text, if it can be a name that stands in metrics, in paths of the API and in logs.
    fn name(&mut self, text: &str, what: &str, place: &Place<'_>) -> String {
        if !is_name(text) {
            self.error(
                place,
                format!("`{}` cannot be the name of {what}", text.escape_debug()),
                "1 to 64 letters, digits, `-`, `_` and `.`, a letter or digit first",
            );
        }
        text.to_owned()
    }
}

/// Whether a text can be a name that stands in metrics, in paths of the API and in logs.
fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// A time span as one would write it.
fn human(span: Duration) -> String {
    let seconds = span.as_secs();
    match (span.subsec_millis(), seconds) {
        (0, seconds) if seconds > 0 && seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        (0, seconds) if seconds > 0 && seconds % 60 == 0 => format!("{}m", seconds / 60),
        (0, seconds) => format!("{seconds}s"),
        _ => format!("{}ms", span.as_millis()),
    }
}
