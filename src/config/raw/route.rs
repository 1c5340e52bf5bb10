//! Which request goes where, and what it needs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Constraint, Duration, Either, OnStale, Size};

/// One route.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Route {
    /// The metric label and log name. Absent: made from the match.
    #[schemars(length(min = 1))]
    pub(in crate::config) name: Option<String>,
    /// Which requests it covers.
    #[schemars(with = "Match")]
    pub(in crate::config) r#match: Option<Match>,
    /// Where they go: the name of an upstream.
    #[schemars(with = "String")]
    pub(in crate::config) upstream: Option<String>,
    /// What it demands: `none` makes the route public, `required` is any honoured token.
    #[schemars(extend("default" = "required"))]
    pub(in crate::config) auth: Option<Either<AuthWord, Demand>>,
    /// Whether what `auth` decides is only logged and counted: the request goes on, with nobody's identity.
    #[schemars(extend("default" = false))]
    pub(in crate::config) report_only: Option<bool>,
    /// Whether a CORS preflight goes on without a token.
    #[schemars(extend("default" = false))]
    pub(in crate::config) pass_preflight: Option<bool>,
    /// Whether the upstream may open sessions with `X-Session-Grant`.
    #[schemars(extend("default" = false))]
    pub(in crate::config) login: Option<bool>,
    /// Whether a 2xx or a redirect of the upstream ends the presented session, and the token that opened it.
    #[schemars(extend("default" = false))]
    pub(in crate::config) logout: Option<bool>,
    /// Whether the token itself goes upstream.
    #[schemars(extend("default" = false))]
    pub(in crate::config) forward_token: Option<bool>,
    /// Which claims go upstream in which headers. Absent: as said at the top level.
    pub(in crate::config) claims_to_headers: Option<Identity>,
    /// Whether the client's own `Host` goes upstream, or the server's.
    #[schemars(extend("default" = true))]
    pub(in crate::config) preserve_host: Option<bool>,
    /// Protocols that a connection may change to, such as `websocket`. Empty: none.
    #[schemars(inner(length(min = 1)), extend("default" = []))]
    pub(in crate::config) upgrades: Option<Vec<String>>,
    /// The largest request body, or `none`. Absent: as `limits.max_body` says.
    pub(in crate::config) max_body: Option<Size>,
    /// From the request head to the end of the response, or `none`.
    #[schemars(extend("default" = "none"))]
    pub(in crate::config) timeout: Option<Duration>,
    /// What becomes of its requests while it is not known whether their tokens were revoked elsewhere. Absent: as
    /// `cluster.on_stale` says.
    pub(in crate::config) on_stale: Option<OnStale>,
    /// How often it may be asked: names of `rate_limits`, each of which must agree.
    #[schemars(extend("default" = []))]
    pub(in crate::config) rate_limits: Option<Vec<String>>,
}

/// Which requests a route covers; what is left out is not looked at.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Match {
    /// One host, without port; `*.example.com` covers one or more labels.
    #[schemars(length(min = 1))]
    pub(in crate::config) host: Option<String>,
    /// Several hosts.
    #[schemars(length(min = 1), inner(length(min = 1)))]
    pub(in crate::config) hosts: Option<Vec<String>>,
    /// A prefix of whole segments: `/admin/` covers `/admin` and everything below.
    #[schemars(length(min = 1))]
    pub(in crate::config) path: Option<String>,
    /// A whole path: `{name}` is one segment, a last `{*name}` the rest.
    #[schemars(length(min = 1))]
    pub(in crate::config) pattern: Option<String>,
    /// Methods. Absent: any.
    #[schemars(length(min = 1), inner(length(min = 1)))]
    pub(in crate::config) methods: Option<Vec<String>>,
}

/// `none`: the route is public. `required`: any honoured token.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum AuthWord {
    None,
    Required,
}

/// What a token must have beyond being honoured.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Demand {
    /// Issuers it must come from, one of these; `session` is the gateway itself. Empty: any.
    #[schemars(extend("default" = []))]
    pub(in crate::config) issuers: Option<Vec<String>>,
    /// Audiences, one of which it must be for. Empty: any that its issuer accepts.
    #[schemars(inner(length(min = 1)), extend("default" = []))]
    pub(in crate::config) audiences: Option<Vec<String>>,
    /// Scopes it must have.
    #[schemars(extend("default" = {}))]
    pub(in crate::config) scopes: Option<Scopes>,
    /// Claims it must have, by name or dotted path.
    #[schemars(extend("default" = {}))]
    pub(in crate::config) claims: Option<BTreeMap<String, ClaimTest>>,
    /// How long ago its holder may have authenticated (`auth_time`), or `none`: any time.
    #[schemars(extend("default" = "none"))]
    pub(in crate::config) max_age: Option<Duration>,
    /// Authentication contexts (`acr`), one of which it must have, the preferred one first. Empty: any.
    #[schemars(inner(length(min = 1)), extend("default" = []))]
    pub(in crate::config) acr: Option<Vec<String>>,
    /// How it must be bound to its holder, or `none`.
    #[schemars(extend("default" = "none"))]
    pub(in crate::config) sender_constrained: Option<Constraint>,
}

/// Scopes a token must have.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Scopes {
    /// All of these.
    #[schemars(inner(length(min = 1)), extend("default" = []))]
    pub(in crate::config) all: Option<Vec<String>>,
    /// At least one of these, unless there are none.
    #[schemars(inner(length(min = 1)), extend("default" = []))]
    pub(in crate::config) any: Option<Vec<String>>,
}

/// What a claim must be: exactly one of these. Types count: `1` is not `"1"`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ClaimTest {
    /// This value.
    pub(in crate::config) equals: Option<serde_json::Value>,
    /// One of these values.
    #[schemars(length(min = 1))]
    pub(in crate::config) r#in: Option<Vec<serde_json::Value>>,
    /// An array that has this value as a member.
    pub(in crate::config) contains: Option<serde_json::Value>,
    /// A text that matches this regular expression as a whole.
    pub(in crate::config) pattern: Option<String>,
}

/// Which claims go upstream in which headers. A claim that is missing means no header.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Identity {
    /// A set of headers that upstreams may know already.
    #[schemars(extend("default" = "default"))]
    pub(in crate::config) preset: Option<Preset>,
    /// More headers, each with the claim it shows; one that the preset has too replaces that.
    #[schemars(extend("default" = {}))]
    pub(in crate::config) headers: Option<BTreeMap<String, String>>,
    /// The header that names the account, or `none`: the first id that the subject had, when it has been
    /// replaced by others, else the subject. Absent: as the preset has it.
    pub(in crate::config) account: Option<String>,
}

/// A set of identity headers; `none` has no headers.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Preset {
    None,
    Default,
    Oauth2Proxy,
    Authelia,
    Kong,
    Envoy,
}
