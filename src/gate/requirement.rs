//! What a route demands of a request.

use serde_json::Value;

use super::Denial;
use crate::token::{Claims, Lineage};

/// Whether a route is open, or what a token must have to pass. Deny is the default: an open route is
/// written out as `auth: none`.
#[derive(Clone, Debug, PartialEq)]
pub enum Requirement {
    /// `auth: none`: no token is looked for, and none is forwarded as identity.
    Public,
    /// A token is needed.
    Token(Demand),
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
}

/// What one claim must be. A claim that is absent never satisfies a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimRule {
    /// The claim's name, at the top level of the payload.
    pub claim: String,
    /// What it must be.
    pub test: Test,
}

/// How a claim is compared. Types count: `1` is not `"1"`.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// It is this value.
    Equals(Value),
    /// It is one of these values.
    In(Vec<Value>),
    /// It is an array that has this value as a member.
    Contains(Value),
}

impl Demand {
    /// Whether these claims meet the demand. `comes_from` says whether the token comes from the issuer
    /// of a config name, itself or through the token that opened its session.
    ///
    /// # Errors
    ///
    /// [`Denial::ClaimMismatch`] or [`Denial::InsufficientScope`], with the scopes that would do.
    pub(super) fn check(
        &self,
        claims: &Claims,
        lineage: Option<&Lineage>,
        comes_from: &dyn Fn(&str) -> bool,
    ) -> Result<(), Denial> {
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
        if self.claims.iter().all(|rule| rule.holds(claims)) { Ok(()) } else { Err(Denial::ClaimMismatch) }
    }
}

impl ClaimRule {
    fn holds(&self, claims: &Claims) -> bool {
        let Some(value) = claims.all.get(&self.claim) else { return false };
        match &self.test {
            Test::Equals(wanted) => value == wanted,
            Test::In(wanted) => wanted.contains(value),
            Test::Contains(wanted) => value.as_array().is_some_and(|members| members.contains(wanted)),
        }
    }
}
