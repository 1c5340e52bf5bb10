//! Sessions of the gateway's own.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{AlgorithmName, Count, Duration, Either, Limit};

/// Gateway sessions: the gateway is an issuer of its own, named `session`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Session {
    /// The `iss` of minted tokens.
    #[schemars(with = "String", length(min = 1))]
    pub(in crate::config) issuer: Option<String>,
    /// The `aud` of minted tokens.
    #[schemars(with = "String", length(min = 1))]
    pub(in crate::config) audience: Option<String>,
    /// The signing keys.
    #[schemars(extend("default" = {}))]
    pub(in crate::config) keys: Option<SessionKeys>,
    /// How long a token lives, and so a session unused.
    #[schemars(extend("default" = "15m"))]
    pub(in crate::config) idle_timeout: Option<Duration>,
    /// How long a session lives at most.
    #[schemars(extend("default" = "12h"))]
    pub(in crate::config) absolute_timeout: Option<Duration>,
    /// When a request gets a new token.
    #[schemars(extend("default" = {}))]
    pub(in crate::config) reissue: Option<Reissue>,
    /// Issuers whose tokens open sessions.
    #[schemars(extend("default" = []))]
    pub(in crate::config) exchange: Option<Vec<Either<String, Exchange>>>,
    /// Sessions that an upstream opens, on routes with `login: true`.
    #[schemars(extend("default" = {}))]
    pub(in crate::config) grants: Option<Grants>,
    /// How a new session's token is handed out; a renewed one goes back the way the old one came.
    #[schemars(extend("default" = "header"))]
    pub(in crate::config) delivery: Option<Delivery>,
    /// The session cookie.
    #[schemars(extend("default" = {}))]
    pub(in crate::config) cookie: Option<Cookie>,
    /// Open sessions of one subject at most, the oldest ended first, or `none`; 1: the last login wins.
    #[schemars(extend("default" = "none"))]
    pub(in crate::config) max_per_subject: Option<Limit>,
    /// Refresh tokens. Absent: there are none.
    pub(in crate::config) refresh: Option<Refresh>,
    /// What is kept of open sessions, for their owners and for operators.
    #[schemars(extend("default" = {}))]
    pub(in crate::config) devices: Option<Devices>,
    /// How often the session endpoints may be asked, `/session/refresh` among them: names of `rate_limits` that
    /// count by address or route.
    #[schemars(extend("default" = []))]
    pub(in crate::config) rate_limits: Option<Vec<String>>,
}

/// Refresh tokens: each is good for one use, at `POST /session/refresh`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Refresh {
    /// How long one lives unused; at most until `absolute_timeout`.
    #[schemars(extend("default" = "8h"))]
    pub(in crate::config) idle_timeout: Option<Duration>,
    /// How long one that was used may come again, for an answer that was lost; afterwards the session ends.
    #[schemars(extend("default" = "10s"))]
    pub(in crate::config) reuse_grace: Option<Duration>,
    /// How the first one of a session is handed out; its successors go back the way it came.
    #[schemars(extend("default" = "header"))]
    pub(in crate::config) delivery: Option<RefreshDelivery>,
    /// The refresh cookie.
    #[schemars(extend("default" = {}))]
    pub(in crate::config) cookie: Option<RefreshCookie>,
}

/// `header`: `X-Session-Refresh` after a login, `refresh_token` in the answer of an exchange. `cookie`:
/// `Set-Cookie`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum RefreshDelivery {
    Header,
    Cookie,
}

/// The refresh cookie: always `HttpOnly; Secure; SameSite=Strict; Path=/`. It never reaches an upstream.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RefreshCookie {
    /// Its name; the prefix `__Host-` keeps other hosts of the domain from setting it.
    #[schemars(length(min = 1), extend("default" = "__Host-refresh"))]
    pub(in crate::config) name: Option<String>,
}

/// The gateway's own signing keys.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct SessionKeys {
    /// The folder they are in; made on first start.
    #[schemars(length(min = 1), extend("default" = "keys"))]
    pub(in crate::config) dir: Option<String>,
    /// What new keys sign with.
    #[schemars(extend("default" = "ES256"))]
    pub(in crate::config) algorithm: Option<AlgorithmName>,
    /// How long a new key is published before it signs, so that whoever verifies with the published set has
    /// it by then.
    #[schemars(extend("default" = "2m"))]
    pub(in crate::config) publish_before: Option<Duration>,
}

/// When a request gets a new token.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Reissue {
    /// Share of a token's life that must be gone, 1% to 99%.
    #[schemars(extend("default" = "50%", "examples" = ["50%", "33.3%"]))]
    pub(in crate::config) after: Option<String>,
    /// Requests after which it is renewed whatever its age, or `none`.
    #[schemars(extend("default" = "none"))]
    pub(in crate::config) every: Option<Count>,
    /// What a token that has a successor in use is worth: as much as before, or the end of the session.
    #[schemars(extend("default" = "relaxed"))]
    pub(in crate::config) rotation: Option<Rotation>,
    /// With `strict`: how long a token may still come after its successor was first used.
    #[schemars(extend("default" = "10s"))]
    pub(in crate::config) reuse_grace: Option<Duration>,
}

/// `relaxed`: a token lives until it expires. `strict`: one presented `reuse_grace` after its successor's
/// first use was stolen, or its successor was, and the session ends.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Rotation {
    Relaxed,
    Strict,
}

/// What is kept of open sessions, for their owners and for operators.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Devices {
    /// Sessions remembered at most; beyond it the one unused for longest is left out of lists, and lives on.
    #[schemars(range(min = 1000, max = 1_000_000), extend("default" = 100_000))]
    pub(in crate::config) max: Option<u64>,
    /// Whether the network a session was opened from is kept: the first 24 bits of an IPv4 address, 48 of IPv6.
    #[schemars(extend("default" = true))]
    pub(in crate::config) address: Option<bool>,
    /// Whether browser and system are kept, as far as `User-Agent` names known ones; never its text.
    #[schemars(extend("default" = true))]
    pub(in crate::config) user_agent: Option<bool>,
}

/// An issuer whose tokens open sessions.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Exchange {
    /// Its name in `issuers`.
    #[schemars(with = "String")]
    pub(in crate::config) issuer: Option<String>,
    /// Put before `sub`; needed, and different, when sessions have several sources.
    #[schemars(extend("default" = ""))]
    pub(in crate::config) subject_prefix: Option<String>,
}

/// Sessions that an upstream opens.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Grants {
    /// Put before `sub`; needed, and different, when sessions have several sources.
    #[schemars(extend("default" = ""))]
    pub(in crate::config) subject_prefix: Option<String>,
}

/// `header`: `X-Session-Token` and `X-Session-Expires`. `cookie`: `Set-Cookie`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Delivery {
    Header,
    Cookie,
}

/// The session cookie: always `HttpOnly; Secure; SameSite=Lax; Path=/`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Cookie {
    /// Its name; the prefix `__Host-` keeps other hosts of the domain from setting it.
    #[schemars(length(min = 1), extend("default" = "__Host-session"))]
    pub(in crate::config) name: Option<String>,
}
