//! How often a client, a user or a route may be served.
//!
//! Rules that count by address or route are asked before a token is looked at, so that they protect the
//! checking of signatures, too; rules that count by subject after it was verified, for before nobody knows
//! whose it is. A request passes if every rule of its route lets it. What has no rules pays one comparison.

mod buckets;
mod rule;

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use self::rule::{Rule, Standing, ceil, key_of_address};
use super::answer::Refusal;
use crate::config::{Config, RateCounts, RateKey};
use crate::gate::{Denial, Verified};
use crate::telemetry::Metrics;

/// What is left (draft-ietf-httpapi-ratelimit-headers-10 §4).
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// What there is (§3 of it).
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The rules of a configuration, and where they hold.
#[derive(Debug, Default)]
pub struct RateLimits {
    rules: Vec<Arc<Rule>>,
    /// By route.
    routes: Vec<Option<RouteRules>>,
    /// Those of the gateway's own endpoints.
    endpoints: Option<RouteRules>,
}

/// The rules of one route.
#[derive(Debug)]
pub(super) struct RouteRules {
    /// Asked before a token is looked at, each with the key that the route is to it.
    early: Vec<(Arc<Rule>, Option<u128>)>,
    /// Asked for a verified subject.
    by_subject: Vec<Arc<Rule>>,
    /// Asked before a token is looked at, and used up by tokens that are refused.
    by_denial: Vec<Arc<Rule>>,
    /// All that count requests, as they are announced.
    policy: Option<HeaderValue>,
}

/// What a client is told of the rules that were asked for its request.
#[derive(Debug)]
pub(super) struct Told {
    policy: HeaderValue,
    left: String,
}

impl RateLimits {
    /// The rules of `config`. Those that are as they were `before` go on with what they remember.
    #[must_use]
    pub fn new(config: &Config, metrics: &Metrics, before: Option<&Self>) -> Self {
        let rules = config.rate_limits.iter().map(|wanted| {
            let kept = before.and_then(|before| before.rules.iter().find(|rule| rule.config() == wanted));
            kept.cloned().unwrap_or_else(|| {
                let (limited, full) = metrics.rate_limit(&wanted.name);
                Arc::new(Rule::new(wanted, limited, full))
            })
        });
        let rules: Vec<_> = rules.collect();
        let of = |named: &[usize], name: &str| RouteRules::new(named.iter().filter_map(|it| rules.get(*it)), name);
        Self {
            routes: config.routes.iter().map(|route| of(&route.rate_limits, &route.name)).collect(),
            endpoints: of(&config.endpoint_rate_limits, ""),
            rules,
        }
    }

    /// The rules of a route, if it has any.
    pub(super) fn of_route(&self, route: usize) -> Option<&RouteRules> {
        self.routes.get(route)?.as_ref()
    }

    /// Those of the gateway's own endpoints, if they have any.
    pub(super) const fn of_endpoints(&self) -> Option<&RouteRules> {
        self.endpoints.as_ref()
    }

    /// Forgets what no longer makes a difference. Not for a worker thread: it may take milliseconds.
    pub fn sweep(&self) {
        self.rules.iter().for_each(|rule| rule.sweep());
    }
}

impl RouteRules {
    fn new<'r>(rules: impl Iterator<Item = &'r Arc<Rule>>, route: &str) -> Option<Self> {
        let (mut early, mut by_subject, mut by_denial, mut policy) =
            (Vec::new(), Vec::new(), Vec::new(), String::new());
        for rule in rules {
            let rule = Arc::clone(rule);
            if rule.config().counts == RateCounts::Denials {
                by_denial.push(rule);
                continue;
            }
            let (quota, window) = rule.announced();
            let comma = if policy.is_empty() { "" } else { ", " };
            // Writing to a String does not fail.
            let _ = write!(policy, "{comma}\"{}\";q={quota};w={window}", rule.config().name);
            match rule.config().key {
                RateKey::Subject => by_subject.push(rule),
                RateKey::Address => early.push((rule, None)),
                RateKey::Route => {
                    let key = rule.key_of(&[route]);
                    early.push((rule, Some(key)));
                }
            }
        }
        let policy = if policy.is_empty() { None } else { HeaderValue::try_from(policy).ok() };
        let has_any = policy.is_some() || !by_denial.is_empty();
        has_any.then_some(Self { early, by_subject, by_denial, policy })
    }

    /// Asks the rules that need no token.
    ///
    /// # Errors
    ///
    /// The first rule that does not let the request pass.
    pub(super) fn ask_early(&self, client: IpAddr, told: &mut Option<Box<Told>>) -> Result<(), Refusal> {
        for rule in &self.by_denial {
            pass(rule, rule.look(key_of_address(client)))?;
        }
        for (rule, of_route) in &self.early {
            let standing = rule.take(of_route.unwrap_or_else(|| key_of_address(client)));
            self.tell(rule, standing, told);
            pass(rule, standing)?;
        }
        Ok(())
    }

    /// Asks the rules that count by subject.
    ///
    /// # Errors
    ///
    /// The first rule that does not let the request pass.
    pub(super) fn ask_for(&self, verified: &Verified, told: &mut Option<Box<Told>>) -> Result<(), Refusal> {
        if self.by_subject.is_empty() {
            return Ok(());
        }
        let claims = &verified.claims;
        // A token that names no subject is one of its own.
        let subject = claims.subject.as_deref().unwrap_or(&verified.name);
        for rule in &self.by_subject {
            let standing = rule.take(rule.key_of(&[&claims.issuer, subject]));
            self.tell(rule, standing, told);
            pass(rule, standing)?;
        }
        Ok(())
    }

    /// Counts a token that was refused.
    pub(super) fn denied(&self, denial: &Denial, client: IpAddr) {
        if is_suspicious(denial) {
            for rule in &self.by_denial {
                rule.take(key_of_address(client));
            }
        }
    }

    fn tell(&self, rule: &Rule, standing: Standing, told: &mut Option<Box<Told>>) {
        let Some(policy) = &self.policy else { return };
        let told = told.get_or_insert_with(|| Box::new(Told { policy: policy.clone(), left: String::new() }));
        let comma = if told.left.is_empty() { "" } else { ", " };
        let (name, remaining, wait) = (&rule.config().name, standing.remaining, ceil(standing.wait));
        // Writing to a String does not fail.
        let _ = write!(told.left, "{comma}\"{name}\";r={remaining};t={wait}");
    }
}

fn pass(rule: &Rule, standing: Standing) -> Result<(), Refusal> {
    if standing.admitted {
        return Ok(());
    }
    rule.count();
    Err(Refusal::RateLimited { seconds: ceil(standing.wait).max(1) })
}

/// Whether a refused token may be somebody's attempt at guessing or forging. Tokens expire by themselves, and
/// most who bring none are at the beginning; where keys cannot be had nobody has tried anything.
const fn is_suspicious(denial: &Denial) -> bool {
    !matches!(
        denial,
        Denial::MissingToken
            | Denial::Expired
            | Denial::KeysUnavailable
            | Denial::ProofsExhausted
            | Denial::StateStale
            | Denial::InsufficientScope(_)
            | Denial::ClaimMismatch
            | Denial::InsufficientUserAuthentication { .. }
            | Denial::CrossSite
    )
}

impl Told {
    /// Adds what is told to an answer. What an upstream says of limits of its own stays.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        headers.append(RATE_LIMIT_POLICY, self.policy);
        if let Ok(left) = HeaderValue::try_from(self.left) {
            headers.append(RATE_LIMIT, left);
        }
    }
}
