//! What a route demands of a request.

use std::fmt;
use std::time::Duration;

use regex::{Regex, RegexBuilder};
use serde_json::{Number, Value};

use super::Denial;
use crate::time::Timestamp;
use crate::token::{Claims, Confirmation, Lineage};

/// The longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 1024;

/// What a pattern may take once it is compiled, in bytes, and as much again for its working memory.
const PATTERN_COMPILED_MAX: usize = 1 << 20;

/// Whether a route is open, or what a token must have to pass. Deny is the default: an open route is
/// written out as `auth: none`.
#[derive(Clone, Debug, PartialEq)]
pub enum Requirement {
    /// `auth: none`: no token is looked for, and none is forwarded as identity.
    Public,
    /// A token is needed.
    Token(Demand),
    /// It is decided what [`Self::Token`] would decide, and said; the request goes on as on a public
    /// route, with nobody's identity.
    Reported(Demand),
}

/// What a request passes with on a route that only reports: a way to the upstream and nobody's
/// identity. Not a [`Permit`](super::Permit), and nothing makes one of it.
#[must_use]
#[derive(Debug)]
pub struct Unenforced(());

impl Requirement {
    /// The way past a decision that is only reported; `None` where decisions count.
    pub const fn unenforced(&self) -> Option<Unenforced> {
        match self {
            Self::Public | Self::Token(_) => None,
            Self::Reported(_) => Some(Unenforced(())),
        }
    }
}

/// What a token must have, beyond being honoured at all. `auth: required` is the empty demand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demand {
    /// Issuers by config name, one of which it must come from, itself or through the token that
    /// opened its session; `session` names the gateway itself. Empty: any.
    pub issuers: Vec<String>,
    /// Audiences, one of which its `aud` must name (its parent's `aud`, for a session). Empty: any
    /// that its issuer accepts.
    pub audiences: Vec<String>,
    /// Scopes it must have, all of them.
    pub scopes_all: Vec<String>,
    /// Scopes of which it must have at least one. Empty: none needed.
    pub scopes_any: Vec<String>,
    /// Claims it must have, each with the wanted value.
    pub claims: Vec<ClaimRule>,
    /// How long ago its holder may have authenticated (`auth_time`); without that claim it does not
    /// meet the demand.
    pub max_age: Option<Duration>,
    /// Authentication contexts (`acr`), one of which it must have. Empty: any.
    pub acr: Vec<String>,
    /// How it must be bound to its holder.
    pub sender: Option<Constraint>,
    /// What becomes of it while it is not known what was revoked elsewhere.
    pub on_stale: OnStale,
}

/// What becomes of requests while what is known of revocations elsewhere is older than it may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStale {
    /// All are refused.
    #[default]
    Reject,
    /// Those are refused that may change something: whose methods are not safe (RFC 9110 §9.2.1).
    RejectUnsafeMethods,
    /// All are served by what is known.
    Allow,
}

/// How a token must be bound to its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// In any way that is checked.
    Any,
    /// To a key that signs a proof for each request (RFC 9449).
    Dpop,
    /// To a certificate that its holder connects with (RFC 8705).
    Mtls,
}

impl Constraint {
    /// Whether a token that is bound like this meets it.
    #[must_use]
    pub fn is_met_by(self, confirmation: Option<&Confirmation>) -> bool {
        confirmation.is_some_and(|it| match self {
            Self::Any => it.key.is_some() || it.certificate.is_some(),
            Self::Dpop => it.key.is_some(),
            Self::Mtls => it.certificate.is_some(),
        })
    }
}

/// What one claim must be. A claim that is absent never satisfies a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimRule {
    /// The claim's name or dotted path, looked up as [`Claims::find`] does.
    pub claim: String,
    /// What it must be.
    pub test: Test,
}

/// How a claim is compared. Types count: `1` is not `"1"`. Numbers are what they amount to, however
/// they are written: `1` is `1.0` (RFC 8259 §6 has one kind of number).
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// It is this value.
    Equals(Value),
    /// It is one of these values.
    In(Vec<Value>),
    /// It is an array that has this value as a member.
    Contains(Value),
    /// It is a text that matches, as a whole. An array does not, whatever its members are.
    Pattern(Pattern),
}

/// A regular expression that a whole text must match. Matching takes time linear in the text.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    whole: Regex,
}

/// Why a text is not a [`Pattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Longer than is read.
    #[error("it is longer than {PATTERN_BYTES_MAX} bytes")]
    TooLong,
    /// It compiles to more than it may take.
    #[error("it takes more than {PATTERN_COMPILED_MAX} bytes when compiled")]
    TooLarge,
    /// Not a regular expression.
    #[error("{0}")]
    Syntax(String),
}

impl Pattern {
    /// Compiles `text`.
    ///
    /// # Errors
    ///
    /// See [`PatternError`].
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong);
        }
        // Alone first: in `a)|(b` the parentheses would pair with the ones put around it, and leave
        // each half anchored at one end only.
        compile(text)?;
        let whole = compile(&format!(r"\A(?:{text})\z"))?;
        Ok(Self { text: text.to_owned(), whole })
    }

    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.whole.is_match(text)
    }
}

fn compile(text: &str) -> Result<Regex, PatternError> {
    let mut builder = RegexBuilder::new(text);
    builder.size_limit(PATTERN_COMPILED_MAX).dfa_size_limit(PATTERN_COMPILED_MAX);
    builder.build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => PatternError::TooLarge,
        other => {
            // The last line says what is wrong; the ones before draw it.
            let text = other.to_string();
            let last = text.lines().last().unwrap_or_default();
            PatternError::Syntax(last.strip_prefix("error: ").unwrap_or(last).to_owned())
        }
    })
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// What a demand is held against.
pub(super) struct Facts<'a> {
    /// What the token says.
    pub(super) claims: &'a Claims,
    /// Where its session comes from.
    pub(super) lineage: Option<&'a Lineage>,
    /// Whom it is bound to.
    pub(super) confirmation: Option<&'a Confirmation>,
    /// When its holder authenticated, if that is known.
    pub(super) authenticated: Option<Timestamp>,
    /// The tolerance between our clock and that of whoever states `auth_time`.
    pub(super) skew: Duration,
    /// Whether it comes from the issuer of a config name, itself or through the token that opened its
    /// session.
    pub(super) comes_from: &'a dyn Fn(&str) -> bool,
}

impl Demand {
    /// Whether a token meets the demand at `now`.
    ///
    /// What a client cannot mend comes first: whoever lacks a scope is not sent to log in again.
    ///
    /// # Errors
    ///
    /// [`Denial::TokenNotBound`], [`Denial::ClaimMismatch`], [`Denial::AudienceNotAllowed`], [`Denial::InsufficientScope`] with the
    /// scopes that would do, or [`Denial::InsufficientUserAuthentication`] with the authentication that
    /// would.
    pub(super) fn check(&self, facts: &Facts<'_>, now: Timestamp) -> Result<(), Denial> {
        let Facts { claims, lineage, comes_from, .. } = *facts;
        if self.sender.is_some_and(|wanted| !wanted.is_met_by(facts.confirmation)) {
            return Err(Denial::TokenNotBound);
        }
        if !self.issuers.is_empty() && !self.issuers.iter().any(|name| comes_from(name)) {
            return Err(Denial::ClaimMismatch);
        }
        if !self.audiences.is_empty() {
            let origin = lineage.and_then(|lineage| lineage.origin.as_ref());
            let held = origin.map_or(&claims.audiences, |origin| &origin.audiences);
            if !self.audiences.iter().any(|wanted| held.contains(wanted)) {
                return Err(Denial::AudienceNotAllowed);
            }
        }
        if !(self.scopes_all.is_empty() && self.scopes_any.is_empty()) {
            let holds = |wanted: &String| claims.scopes().any(|held| held == wanted);
            let any = self.scopes_any.is_empty() || self.scopes_any.iter().any(holds);
            if !any || !self.scopes_all.iter().all(holds) {
                let named = if any { &self.scopes_all } else { &self.scopes_any };
                let mut scopes = self.scopes_all.clone();
                scopes.extend(named.iter().filter(|scope| !self.scopes_all.contains(scope)).cloned());
                return Err(Denial::InsufficientScope(scopes.join(" ")));
            }
        }
        if !self.claims.iter().all(|rule| rule.holds(claims)) {
            return Err(Denial::ClaimMismatch);
        }
        self.check_authentication(facts, now)
    }

    /// Step-up (RFC 9470). The refusal names all that is demanded, so that one login is enough.
    fn check_authentication(&self, facts: &Facts<'_>, now: Timestamp) -> Result<(), Denial> {
        // An `auth_time` that has not come says nothing about how fresh it is.
        let recent = |max_age: Duration| {
            facts.authenticated.is_some_and(|at| at <= now.plus(facts.skew) && now < at.plus(max_age).plus(facts.skew))
        };
        let held = || facts.claims.all.get("acr").and_then(Value::as_str);
        let strong = self.acr.is_empty() || held().is_some_and(|held| self.acr.iter().any(|wanted| wanted == held));
        if strong && self.max_age.is_none_or(recent) {
            return Ok(());
        }
        Err(Denial::InsufficientUserAuthentication {
            max_age: self.max_age.map(|age| age.as_secs()),
            acr_values: self.acr.join(" "),
        })
    }
}

impl ClaimRule {
    fn holds(&self, claims: &Claims) -> bool {
        let Some(value) = claims.find(&self.claim) else { return false };
        match &self.test {
            Test::Equals(wanted) => same(value, wanted),
            Test::In(wanted) => wanted.iter().any(|wanted| same(value, wanted)),
            Test::Contains(wanted) => {
                value.as_array().is_some_and(|members| members.iter().any(|member| same(member, wanted)))
            }
            Test::Pattern(pattern) => value.as_str().is_some_and(|text| pattern.matches(text)),
        }
    }
}

/// Whether two values are the same, numbers by what they amount to.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || same_number(one, other),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, value)| other.get(name).is_some_and(|other| same(value, other)))
        }
        _ => one == other,
    }
}

/// Compares an integer with a double that has no fraction, exactly: a double near 2^53 stands for many.
fn same_number(one: &Number, other: &Number) -> bool {
    let integer = |number: &Number| match (number.as_i64(), number.as_u64(), number.as_f64()) {
        (Some(value), _, _) => Some(i128::from(value)),
        (None, Some(value), _) => Some(i128::from(value)),
        // Within i128 every double without a fraction is exact.
        (None, None, Some(value)) if value.fract() == 0.0 && value.abs() < 1e30 => Some(value as i128),
        _ => None,
    };
    integer(one).zip(integer(other)).is_some_and(|(one, other)| one == other)
}

#[cfg(test)]
mod tests;
