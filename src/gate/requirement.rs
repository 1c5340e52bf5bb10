//! What a route demands of a request.

use serde_json::Value;

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
