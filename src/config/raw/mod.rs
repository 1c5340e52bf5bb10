//! The file as it is written: what the JSON Schema is made from, and what YAML is read into.
//!
//! Nothing here has a meaning yet. Every field is optional, because a file with a problem is still
//! read to the end, so that all its problems are found at once. What is required (a field whose schema
//! is made `with` a type that is not optional) and what is the `default` is said in the schema, once,
//! and `check` sees to both.

mod value;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

pub(super) use value::{AlgorithmName, Count, Duration, Either, Limit, Size, Workers};

/// Configuration of the Portcullis gateway. Paths are relative to the folder of this file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Portcullis configuration")]
pub(super) struct Root {
    /// Worker threads, each with its own listener sockets, upstream connections and caches; `auto`: one a CPU.
    #[schemars(extend("default" = "auto"))]
    pub(super) workers: Option<Workers>,
    /// Where traffic comes in.
    #[schemars(with = "Vec<Listener>", length(min = 1))]
    pub(super) listeners: Option<Vec<Listener>>,
    /// The control plane: API, metrics, health. Absent: there is none.
    pub(super) admin: Option<Admin>,
    /// Issuers whose tokens are honoured, by a name used in routes, the API and metrics.
    #[schemars(extend("default" = {}))]
    pub(super) issuers: Option<BTreeMap<String, Issuer>>,
    /// Where tokens are looked for, and how large they may be.
    #[schemars(extend("default" = {}))]
    pub(super) token: Option<Token>,
    /// Groups of servers that do the same work, by name.
    #[schemars(with = "BTreeMap<String, Upstream>", extend("minProperties" = 1))]
    pub(super) upstreams: Option<BTreeMap<String, Upstream>>,
    /// Routes; the first match wins.
    #[schemars(with = "Vec<Route>", length(min = 1))]
    pub(super) routes: Option<Vec<Route>>,
    /// Which claims go upstream in which headers, for routes that do not say otherwise.
    #[schemars(extend("default" = {}))]
    pub(super) claims_to_headers: Option<Identity>,
    /// Gateway sessions. Absent: tokens of the issuers are checked and nothing is minted.
    pub(super) session: Option<Session>,
    /// Where revocations survive.
    #[schemars(extend("default" = {}))]
    pub(super) revocation: Option<Revocation>,
    /// Peers (addresses or networks) whose forwarding headers are believed.
    #[schemars(extend("default" = []))]
    pub(super) trusted_proxies: Option<Vec<String>>,
    /// Bounds on what clients may send and how long they may take.
    #[schemars(extend("default" = {}))]
    pub(super) limits: Option<Limits>,
    /// What happens on SIGTERM.
    #[schemars(extend("default" = {}))]
    pub(super) shutdown: Option<Shutdown>,
    /// Where access-log lines go.
    #[schemars(extend("default" = "stdout"))]
    pub(super) access_log: Option<Either<LogWord, LogFile>>,
}

/// One traffic listener.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    /// Address and port; port 0 takes a free one.
    #[schemars(with = "String", extend("examples" = ["0.0.0.0:8080", "[::]:8080"]))]
    pub(super) address: Option<String>,
    /// TLS 1.2 and 1.3. Absent: in clear.
    pub(super) tls: Option<ListenerTls>,
}

/// TLS on a listener. The files are read again at a reload.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListenerTls {
    /// The PEM certificate, followed by those between it and its authority.
    #[schemars(with = "String", length(min = 1))]
    pub(super) certificate: Option<String>,
    /// Its PEM private key, not encrypted.
    #[schemars(with = "String", length(min = 1))]
    pub(super) key: Option<String>,
    /// PEM authorities that vouch for clients. Absent: clients are asked for no certificate.
    #[schemars(length(min = 1))]
    pub(super) client_ca: Option<String>,
    /// With `client_ca`: whether a client must have a certificate. Absent: `optional`.
    pub(super) client_auth: Option<ClientAuth>,
}

/// Whether a client may come without a certificate. One that cannot be verified is always refused.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ClientAuth {
    Optional,
    Required,
}

/// The control plane.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    /// Address and port, or `unix:` and a path.
    #[schemars(extend("default" = "127.0.0.1:9901", "examples" = ["unix:/run/portcullis/admin.sock"]))]
    pub(super) address: Option<String>,
    /// Who may use it. May be empty on a Unix socket only, which then trusts whoever may open it.
    #[schemars(extend("default" = []))]
    pub(super) tokens: Option<Vec<AdminToken>>,
    /// Where audit lines go.
    #[schemars(extend("default" = "stdout"))]
    pub(super) audit_log: Option<Either<LogWord, LogFile>>,
}

/// One admin credential.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AdminToken {
    /// The name in audit lines.
    #[schemars(with = "String", length(min = 1))]
    pub(super) name: Option<String>,
    /// What it may do.
    #[schemars(with = "Role")]
    pub(super) role: Option<Role>,
    /// The bearer secret.
    #[schemars(with = "Secret")]
    pub(super) secret: Option<Secret>,
}

/// What an admin credential may do: read, or read and change.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    Viewer,
    Operator,
}

/// Where a secret of at least 32 bytes (or a URL with a password) is: exactly one of the two. It is never
/// in this file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Secret {
    /// A file; one line end at its end does not count.
    pub(super) file: Option<String>,
    /// An environment variable.
    pub(super) env: Option<String>,
}

/// One issuer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Issuer {
    /// The `iss` of its tokens, compared byte by byte.
    #[schemars(with = "String", length(min = 1))]
    pub(super) issuer: Option<String>,
    /// Audiences, one of which `aud` must name.
    #[schemars(with = "Vec<String>", length(min = 1), inner(length(min = 1)))]
    pub(super) audiences: Option<Vec<String>>,
    /// Algorithms allowed. HS* cannot stand beside the others.
    #[schemars(with = "Vec<AlgorithmName>", length(min = 1))]
    pub(super) algorithms: Option<Vec<AlgorithmName>>,
    /// `typ` values allowed, ignoring case and `application/`; the empty text allows tokens without `typ`.
    #[schemars(length(min = 1), extend("default" = ["JWT", "at+jwt", ""]))]
    pub(super) types: Option<Vec<String>>,
    /// Where its keys come from.
    #[schemars(with = "Keys")]
    pub(super) keys: Option<Keys>,
    /// Tolerance between its clock and ours; at most 5m.
    #[schemars(extend("default" = "5s"))]
    pub(super) clock_skew: Option<Duration>,
    /// The longest `exp - iat` honoured; also how long a cutoff must be remembered.
    #[schemars(extend("default" = "24h"))]
    pub(super) max_lifetime: Option<Duration>,
    /// Claims that must be there; `exp` and `iat` always must.
    #[schemars(inner(length(min = 1)), extend("default" = ["exp", "iat", "sub"]))]
    pub(super) require: Option<Vec<String>>,
    /// Added to cutoffs that take the present as their moment, for an issuer whose clock runs ahead.
    #[schemars(extend("default" = "0s"))]
    pub(super) cutoff_margin: Option<Duration>,
    /// The issuer states `auth_time`, and no token older than this since authentication is honoured; or `none`.
    #[schemars(extend("default" = "none"))]
    pub(super) max_authentication_age: Option<Duration>,
    /// How all of its tokens must be bound to their holder, or `none`: those that are, are held to it anyway.
    #[schemars(extend("default" = "none"))]
    pub(super) sender_constrained: Option<Constraint>,
    /// Its tokens carry the fingerprint of their subject's credential, and are honoured while it is current.
    pub(super) credential: Option<Credential>,
}

/// Where an issuer's keys come from: exactly one of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// One HMAC key, for HS256 (32 bytes), HS384 (48) or HS512 (64).
    pub(super) secret: Option<Secret>,
    /// A PEM public key or certificate.
    #[schemars(length(min = 1))]
    pub(super) public_key_file: Option<String>,
    /// An RFC 7517 key set.
    #[schemars(length(min = 1))]
    pub(super) jwks_file: Option<String>,
    /// A key for each subject, out of what the user database says of it: HS256 alone.
    pub(super) per_subject: Option<PerSubject>,
    /// The URL of an RFC 7517 key set, fetched in the background.
    #[schemars(length(min = 1), extend("examples" = ["https://accounts.example.com/jwks.json"]))]
    pub(super) jwks_url: Option<String>,
    /// The URL of an issuer whose metadata says where its key set is (OpenID Connect Discovery 1.0, RFC 8414).
    #[schemars(length(min = 1), extend("examples" = ["https://accounts.example.com"]))]
    pub(super) discovery: Option<String>,
    /// For what is fetched: the PEM authorities to believe, instead of the system's.
    #[schemars(length(min = 1))]
    pub(super) ca_file: Option<String>,
    /// For what is fetched: whether it may come unprotected from another machine.
    #[schemars(extend("default" = false))]
    pub(super) allow_http: Option<bool>,
    /// For what is fetched: how often. A server that calls it fresh for less is asked sooner.
    #[schemars(extend("default" = "5m"))]
    pub(super) refresh: Option<Duration>,
    /// For what is fetched: the least time between two fetches, whatever kids tokens name.
    #[schemars(extend("default" = "30s"))]
    pub(super) cooldown: Option<Duration>,
    /// For what is fetched: how long one fetch may take.
    #[schemars(extend("default" = "5s"))]
    pub(super) timeout: Option<Duration>,
    /// For what is fetched: how old the last good set may be and still count, when its server is down.
    #[schemars(extend("default" = "24h"))]
    pub(super) max_stale: Option<Duration>,
}

/// The key of a subject: a secret and what the user database says of the subject. Its source is exactly one
/// of `postgres`, `http` and `pushed`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PerSubject {
    /// What no database holds; the login service has it too.
    #[schemars(with = "Secret")]
    pub(super) base_secret: Option<Secret>,
    /// How the key is made: `hkdf` of issuer, subject and columns, or `concat`, the secret and one column.
    #[schemars(extend("default" = "hkdf"))]
    pub(super) derive: Option<DeriveWord>,
    /// A query of the user database.
    pub(super) postgres: Option<Postgres>,
    /// A service that knows credentials.
    pub(super) http: Option<CredentialService>,
    /// `true`: told through the admin API, kept in memory alone.
    pub(super) pushed: Option<bool>,
    /// For how long a credential is believed; a notification drops it at once.
    #[schemars(extend("default" = "30s"))]
    pub(super) ttl: Option<Duration>,
    /// For how long it is believed that there is no such subject.
    #[schemars(extend("default" = "5s"))]
    pub(super) negative_ttl: Option<Duration>,
    /// Subjects remembered, each with its derived key; with `pushed`, taken at most.
    #[schemars(range(min = 100, max = 10_000_000), extend("default" = 50_000))]
    pub(super) max_entries: Option<u64>,
}

/// The credential fingerprint that tokens carry. Its source is exactly one of `postgres`, `http` and `pushed`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Credential {
    /// What no database holds; the login service has it too.
    #[schemars(with = "Secret")]
    pub(super) base_secret: Option<Secret>,
    /// The claim that carries the fingerprint.
    #[schemars(length(min = 1), extend("default" = "cfp"))]
    pub(super) claim: Option<String>,
    /// A query of the user database.
    pub(super) postgres: Option<Postgres>,
    /// A service that knows credentials.
    pub(super) http: Option<CredentialService>,
    /// `true`: told through the admin API, kept in memory alone.
    pub(super) pushed: Option<bool>,
    /// For how long a credential is believed; a notification drops it at once.
    #[schemars(extend("default" = "30s"))]
    pub(super) ttl: Option<Duration>,
    /// For how long it is believed that there is no such subject.
    #[schemars(extend("default" = "5s"))]
    pub(super) negative_ttl: Option<Duration>,
    /// Subjects remembered; with `pushed`, taken at most.
    #[schemars(range(min = 100, max = 10_000_000), extend("default" = 50_000))]
    pub(super) max_entries: Option<u64>,
}

/// How the key of a subject is made.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum DeriveWord {
    Hkdf,
    Concat,
}

/// A PostgreSQL user database.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Postgres {
    /// `postgres://user:password@host:5432/database`.
    #[schemars(with = "Secret")]
    pub(super) url: Option<Secret>,
    /// Asks for the columns of the subject `$1`: text, one row.
    #[schemars(with = "String", length(min = 1), extend("examples" = ["SELECT password_hash, status FROM users WHERE id = $1"]))]
    pub(super) query: Option<String>,
    /// `verified`: TLS, and the server's certificate is checked; `off`: for a database on this machine.
    #[schemars(extend("default" = "verified"))]
    pub(super) tls: Option<TlsWord>,
    /// Certificates (PEM) of the authorities that may vouch for the server. Absent: those of the system.
    #[schemars(length(min = 1))]
    pub(super) ca_file: Option<String>,
    /// Connections at most, besides the one that listens.
    #[schemars(range(min = 1, max = 64), extend("default" = 4))]
    pub(super) connections: Option<u64>,
    /// What a look-up may take, waiting for a connection included.
    #[schemars(extend("default" = "2s"))]
    pub(super) timeout: Option<Duration>,
    /// The channel (`LISTEN`) on which the database names subjects that have changed.
    #[schemars(length(min = 1))]
    pub(super) notify: Option<String>,
}

/// A service that is asked for the credential of a subject.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CredentialService {
    /// Gets `{"issuer": "…", "subject": "…"}` as a `POST`, and answers 200 `{"columns": ["…", …]}`.
    #[schemars(with = "String", length(min = 1), extend("examples" = ["https://users.example.com/credential"]))]
    pub(super) url: Option<String>,
    /// Sent as a bearer token. Absent: none is sent.
    pub(super) token: Option<Secret>,
    /// Certificates (PEM) of the authorities that may vouch for the service. Absent: those of the system.
    #[schemars(length(min = 1))]
    pub(super) ca_file: Option<String>,
    /// Whether it may be asked unprotected when it is on another machine.
    #[schemars(extend("default" = false))]
    pub(super) allow_http: Option<bool>,
    /// Requests at the same time.
    #[schemars(range(min = 1, max = 64), extend("default" = 4))]
    pub(super) connections: Option<u64>,
    /// What a look-up may take, waiting included.
    #[schemars(extend("default" = "2s"))]
    pub(super) timeout: Option<Duration>,
}

/// Whether a connection is protected.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum TlsWord {
    Off,
    Verified,
}

/// Where tokens are looked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Token {
    /// Places, in order; a request may have a token in one of them only.
    #[schemars(length(min = 1), extend("default" = [{ "header": "Authorization" }]))]
    pub(super) from: Option<Vec<TokenPlace>>,
    /// The longest token looked at.
    #[schemars(extend("default" = "8KiB"))]
    pub(super) max_bytes: Option<Size>,
    /// The realm of challenges (RFC 6750 §3).
    #[schemars(extend("default" = "portcullis"))]
    pub(super) realm: Option<String>,
    /// What each worker spends on remembering verified tokens.
    #[schemars(extend("default" = "64MiB"))]
    pub(super) cache: Option<Size>,
    /// Proofs of possession for tokens that are bound to a key (DPoP, RFC 9449).
    #[schemars(extend("default" = {}))]
    pub(super) dpop: Option<Dpop>,
}

/// Proofs of possession for tokens that are bound to a key (DPoP, RFC 9449).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Dpop {
    /// Algorithms that proofs may be signed with; never HS*.
    #[schemars(length(min = 1), extend("default" = ["ES256", "ES384", "EdDSA", "PS256", "RS256"]))]
    pub(super) algorithms: Option<Vec<AlgorithmName>>,
    /// For how long a proof is good after its `iat`.
    #[schemars(extend("default" = "60s"))]
    pub(super) proof_max_age: Option<Duration>,
    /// Tolerance between the clocks of clients and ours; at most 5m.
    #[schemars(extend("default" = "5s"))]
    pub(super) clock_skew: Option<Duration>,
    /// Used proofs remembered at most, an eighth of them of one key; beyond it proofs are refused with 503.
    #[schemars(range(min = 1000, max = 100_000_000), extend("default" = 200_000))]
    pub(super) max_proofs: Option<u64>,
}

/// How a token must be bound to its holder: `dpop`, to a key (RFC 9449); `mtls`, to a certificate (RFC 8705);
/// `any`, to either; `none`, not at all.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Constraint {
    None,
    Dpop,
    Mtls,
    Any,
}

/// One place a token may be in: exactly one of the two.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenPlace {
    /// A header: `Authorization: Bearer …`, or another one whose whole value is the token.
    #[schemars(length(min = 1))]
    pub(super) header: Option<String>,
    /// A cookie.
    #[schemars(length(min = 1))]
    pub(super) cookie: Option<String>,
}

/// A group of servers that do the same work.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Upstream {
    /// `http://host:port` of each; the one with the fewest running requests is chosen.
    #[schemars(with = "Vec<String>", length(min = 1), inner(length(min = 1)))]
    pub(super) servers: Option<Vec<String>>,
    /// How long a connection may take to be made.
    #[schemars(extend("default" = "5s"))]
    pub(super) connect_timeout: Option<Duration>,
    /// How long the response head may take, and how long a silence within the response body may be.
    #[schemars(extend("default" = "60s"))]
    pub(super) response_timeout: Option<Duration>,
    /// How long an idle connection is kept.
    #[schemars(extend("default" = "30s"))]
    pub(super) idle_timeout: Option<Duration>,
    /// Idle connections kept per worker and server.
    #[schemars(range(max = 65535), extend("default" = 64))]
    pub(super) max_idle: Option<u64>,
}

/// One route.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    /// The metric label and log name. Absent: made from the match.
    #[schemars(length(min = 1))]
    pub(super) name: Option<String>,
    /// Which requests it covers.
    #[schemars(with = "Match")]
    pub(super) r#match: Option<Match>,
    /// Where they go: the name of an upstream.
    #[schemars(with = "String")]
    pub(super) upstream: Option<String>,
    /// What it demands: `none` makes the route public, `required` is any honoured token.
    #[schemars(extend("default" = "required"))]
    pub(super) auth: Option<Either<AuthWord, Demand>>,
    /// Whether what `auth` decides is only logged and counted: the request goes on, with nobody's identity.
    #[schemars(extend("default" = false))]
    pub(super) report_only: Option<bool>,
    /// Whether the upstream may open sessions with `X-Session-Grant`.
    #[schemars(extend("default" = false))]
    pub(super) login: Option<bool>,
    /// Whether a 2xx or a redirect of the upstream ends the presented session, and the token that opened it.
    #[schemars(extend("default" = false))]
    pub(super) logout: Option<bool>,
    /// Whether the token itself goes upstream.
    #[schemars(extend("default" = false))]
    pub(super) forward_token: Option<bool>,
    /// Which claims go upstream in which headers. Absent: as said at the top level.
    pub(super) claims_to_headers: Option<Identity>,
    /// Whether the client's own `Host` goes upstream, or the server's.
    #[schemars(extend("default" = true))]
    pub(super) preserve_host: Option<bool>,
    /// Protocols that a connection may change to, such as `websocket`. Empty: none.
    #[schemars(inner(length(min = 1)), extend("default" = []))]
    pub(super) upgrades: Option<Vec<String>>,
    /// The largest request body, or `none`.
    #[schemars(extend("default" = "none"))]
    pub(super) max_body: Option<Size>,
    /// From the request head to the end of the response, or `none`.
    #[schemars(extend("default" = "none"))]
    pub(super) timeout: Option<Duration>,
}

/// Which requests a route covers; what is left out is not looked at.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Match {
    /// One host, without port; `*.example.com` covers one or more labels.
    #[schemars(length(min = 1))]
    pub(super) host: Option<String>,
    /// Several hosts.
    #[schemars(length(min = 1), inner(length(min = 1)))]
    pub(super) hosts: Option<Vec<String>>,
    /// A prefix of whole segments: `/admin/` covers `/admin` and everything below.
    #[schemars(length(min = 1))]
    pub(super) path: Option<String>,
    /// A whole path: `{name}` is one segment, a last `{*name}` the rest.
    #[schemars(length(min = 1))]
    pub(super) pattern: Option<String>,
    /// Methods. Absent: any.
    #[schemars(length(min = 1), inner(length(min = 1)))]
    pub(super) methods: Option<Vec<String>>,
}

/// `none`: the route is public. `required`: any honoured token.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum AuthWord {
    None,
    Required,
}

/// What a token must have beyond being honoured.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Demand {
    /// Issuers it must come from, one of these; `session` is the gateway itself. Empty: any.
    #[schemars(extend("default" = []))]
    pub(super) issuers: Option<Vec<String>>,
    /// Audiences, one of which it must be for. Empty: any that its issuer accepts.
    #[schemars(inner(length(min = 1)), extend("default" = []))]
    pub(super) audiences: Option<Vec<String>>,
    /// Scopes it must have.
    #[schemars(extend("default" = {}))]
    pub(super) scopes: Option<Scopes>,
    /// Claims it must have, by name or dotted path.
    #[schemars(extend("default" = {}))]
    pub(super) claims: Option<BTreeMap<String, ClaimTest>>,
    /// How long ago its holder may have authenticated (`auth_time`), or `none`: any time.
    #[schemars(extend("default" = "none"))]
    pub(super) max_age: Option<Duration>,
    /// Authentication contexts (`acr`), one of which it must have, the preferred one first. Empty: any.
    #[schemars(inner(length(min = 1)), extend("default" = []))]
    pub(super) acr: Option<Vec<String>>,
    /// How it must be bound to its holder, or `none`.
    #[schemars(extend("default" = "none"))]
    pub(super) sender_constrained: Option<Constraint>,
}

/// Scopes a token must have.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Scopes {
    /// All of these.
    #[schemars(inner(length(min = 1)), extend("default" = []))]
    pub(super) all: Option<Vec<String>>,
    /// At least one of these, unless there are none.
    #[schemars(inner(length(min = 1)), extend("default" = []))]
    pub(super) any: Option<Vec<String>>,
}

/// What a claim must be: exactly one of these. Types count: `1` is not `"1"`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ClaimTest {
    /// This value.
    pub(super) equals: Option<serde_json::Value>,
    /// One of these values.
    #[schemars(length(min = 1))]
    pub(super) r#in: Option<Vec<serde_json::Value>>,
    /// An array that has this value as a member.
    pub(super) contains: Option<serde_json::Value>,
    /// A text that matches this regular expression as a whole.
    pub(super) pattern: Option<String>,
}

/// Which claims go upstream in which headers. A claim that is missing means no header.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    /// A set of headers that upstreams may know already.
    #[schemars(extend("default" = "default"))]
    pub(super) preset: Option<Preset>,
    /// More headers, each with the claim it shows; one that the preset has too replaces that.
    #[schemars(extend("default" = {}))]
    pub(super) headers: Option<BTreeMap<String, String>>,
    /// The header that names the account, or `none`: the first id that the subject had, when it has been
    /// replaced by others, else the subject. Absent: as the preset has it.
    pub(super) account: Option<String>,
}

/// A set of identity headers; `none` has no headers.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Preset {
    None,
    Default,
    Oauth2Proxy,
    Authelia,
    Kong,
    Envoy,
}

/// Gateway sessions: the gateway is an issuer of its own, named `session`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Session {
    /// The `iss` of minted tokens.
    #[schemars(with = "String", length(min = 1))]
    pub(super) issuer: Option<String>,
    /// The `aud` of minted tokens.
    #[schemars(with = "String", length(min = 1))]
    pub(super) audience: Option<String>,
    /// The signing keys.
    #[schemars(extend("default" = {}))]
    pub(super) keys: Option<SessionKeys>,
    /// How long a token lives, and so a session unused.
    #[schemars(extend("default" = "15m"))]
    pub(super) idle_timeout: Option<Duration>,
    /// How long a session lives at most.
    #[schemars(extend("default" = "12h"))]
    pub(super) absolute_timeout: Option<Duration>,
    /// When a request gets a new token.
    #[schemars(extend("default" = {}))]
    pub(super) reissue: Option<Reissue>,
    /// Issuers whose tokens open sessions.
    #[schemars(extend("default" = []))]
    pub(super) exchange: Option<Vec<Either<String, Exchange>>>,
    /// Sessions that an upstream opens, on routes with `login: true`.
    #[schemars(extend("default" = {}))]
    pub(super) grants: Option<Grants>,
    /// How a new session's token is handed out; a renewed one goes back the way the old one came.
    #[schemars(extend("default" = "header"))]
    pub(super) delivery: Option<Delivery>,
    /// The session cookie.
    #[schemars(extend("default" = {}))]
    pub(super) cookie: Option<Cookie>,
    /// Open sessions of one subject at most, the oldest ended first, or `none`; 1: the last login wins.
    #[schemars(extend("default" = "none"))]
    pub(super) max_per_subject: Option<Limit>,
    /// Refresh tokens. Absent: there are none.
    pub(super) refresh: Option<Refresh>,
    /// What is kept of open sessions, for their owners and for operators.
    #[schemars(extend("default" = {}))]
    pub(super) devices: Option<Devices>,
}

/// Refresh tokens: each is good for one use, at `POST /session/refresh`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Refresh {
    /// How long one lives unused; at most until `absolute_timeout`.
    #[schemars(extend("default" = "8h"))]
    pub(super) idle_timeout: Option<Duration>,
    /// How long one that was used may come again, for an answer that was lost; afterwards the session ends.
    #[schemars(extend("default" = "10s"))]
    pub(super) reuse_grace: Option<Duration>,
    /// How the first one of a session is handed out; its successors go back the way it came.
    #[schemars(extend("default" = "header"))]
    pub(super) delivery: Option<RefreshDelivery>,
    /// The refresh cookie.
    #[schemars(extend("default" = {}))]
    pub(super) cookie: Option<RefreshCookie>,
}

/// `header`: `X-Session-Refresh` after a login, `refresh_token` in the answer of an exchange. `cookie`:
/// `Set-Cookie`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RefreshDelivery {
    Header,
    Cookie,
}

/// The refresh cookie: always `HttpOnly; Secure; SameSite=Strict; Path=/`. It never reaches an upstream.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RefreshCookie {
    /// Its name; the prefix `__Host-` keeps other hosts of the domain from setting it.
    #[schemars(length(min = 1), extend("default" = "__Host-refresh"))]
    pub(super) name: Option<String>,
}

/// The gateway's own signing keys.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionKeys {
    /// The folder they are in; made on first start.
    #[schemars(length(min = 1), extend("default" = "keys"))]
    pub(super) dir: Option<String>,
    /// What new keys sign with.
    #[schemars(extend("default" = "ES256"))]
    pub(super) algorithm: Option<AlgorithmName>,
    /// How long a new key is published before it signs, so that whoever verifies with the published set has
    /// it by then.
    #[schemars(extend("default" = "2m"))]
    pub(super) publish_before: Option<Duration>,
}

/// When a request gets a new token.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reissue {
    /// Share of a token's life that must be gone, 1% to 99%.
    #[schemars(extend("default" = "50%", "examples" = ["50%", "33.3%"]))]
    pub(super) after: Option<String>,
    /// Requests after which it is renewed whatever its age, or `none`.
    #[schemars(extend("default" = "none"))]
    pub(super) every: Option<Count>,
    /// What a token that has a successor in use is worth: as much as before, or the end of the session.
    #[schemars(extend("default" = "relaxed"))]
    pub(super) rotation: Option<Rotation>,
    /// With `strict`: how long a token may still come after its successor was first used.
    #[schemars(extend("default" = "10s"))]
    pub(super) reuse_grace: Option<Duration>,
}

/// `relaxed`: a token lives until it expires. `strict`: one presented `reuse_grace` after its successor's
/// first use was stolen, or its successor was, and the session ends.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Rotation {
    Relaxed,
    Strict,
}

/// What is kept of open sessions, for their owners and for operators.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Devices {
    /// Sessions remembered at most; beyond it the one unused for longest is left out of lists, and lives on.
    #[schemars(range(min = 1000, max = 1_000_000), extend("default" = 100_000))]
    pub(super) max: Option<u64>,
    /// Whether the network a session was opened from is kept: the first 24 bits of an IPv4 address, 48 of IPv6.
    #[schemars(extend("default" = true))]
    pub(super) address: Option<bool>,
    /// Whether browser and system are kept, as far as `User-Agent` names known ones; never its text.
    #[schemars(extend("default" = true))]
    pub(super) user_agent: Option<bool>,
}

/// An issuer whose tokens open sessions.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Exchange {
    /// Its name in `issuers`.
    #[schemars(with = "String")]
    pub(super) issuer: Option<String>,
    /// Put before `sub`; needed, and different, when sessions have several sources.
    #[schemars(extend("default" = ""))]
    pub(super) subject_prefix: Option<String>,
}

/// Sessions that an upstream opens.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Grants {
    /// Put before `sub`; needed, and different, when sessions have several sources.
    #[schemars(extend("default" = ""))]
    pub(super) subject_prefix: Option<String>,
}

/// `header`: `X-Session-Token` and `X-Session-Expires`. `cookie`: `Set-Cookie`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Delivery {
    Header,
    Cookie,
}

/// The session cookie: always `HttpOnly; Secure; SameSite=Lax; Path=/`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Cookie {
    /// Its name; the prefix `__Host-` keeps other hosts of the domain from setting it.
    #[schemars(length(min = 1), extend("default" = "__Host-session"))]
    pub(super) name: Option<String>,
}

/// Where revocations survive.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Revocation {
    /// The store.
    #[schemars(extend("default" = { "path": "data" }))]
    pub(super) store: Option<Store>,
    /// How often what has lapsed is swept out.
    #[schemars(extend("default" = "60s"))]
    pub(super) sweep_interval: Option<Duration>,
    /// Revocations held at most; beyond it new ones are refused, never old ones dropped.
    #[schemars(range(min = 1), extend("default" = 20_000_000))]
    pub(super) max_entries: Option<u64>,
}

/// The store: exactly one of the two.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Store {
    /// A folder for the database; made on first start.
    #[schemars(length(min = 1))]
    pub(super) path: Option<String>,
    /// `true`: nothing survives the process.
    pub(super) memory: Option<bool>,
}

/// Bounds on what clients may send and how long they may take.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    /// A request head.
    #[schemars(extend("default" = "32KiB"))]
    pub(super) header_bytes: Option<Size>,
    /// Fields of a request head.
    #[schemars(range(min = 8, max = 1000), extend("default" = 100))]
    pub(super) header_count: Option<u64>,
    /// A request target.
    #[schemars(extend("default" = "8KiB"))]
    pub(super) uri_bytes: Option<Size>,
    /// How long a request head may take, and a connection may stay idle between requests.
    #[schemars(extend("default" = "10s"))]
    pub(super) header_timeout: Option<Duration>,
    /// How long a silence within a request body may be.
    #[schemars(extend("default" = "30s"))]
    pub(super) body_timeout: Option<Duration>,
    /// How long a client may take to read any part of an answer.
    #[schemars(extend("default" = "30s"))]
    pub(super) write_timeout: Option<Duration>,
    /// How long a TLS handshake may take, waiting for its turn included.
    #[schemars(extend("default" = "10s"))]
    pub(super) handshake_timeout: Option<Duration>,
    /// TLS handshakes of each worker at once; others wait for their turn.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 1000))]
    pub(super) handshakes_per_worker: Option<u64>,
    /// How long a tunnel may be silent: a WebSocket connection, or another upgrade.
    #[schemars(extend("default" = "10m"))]
    pub(super) tunnel_idle_timeout: Option<Duration>,
    /// Open client connections of each worker.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 10_000))]
    pub(super) connections_per_worker: Option<u64>,
}

/// What happens on SIGTERM.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Shutdown {
    /// How long `/readyz` says 503 before the listeners close.
    #[schemars(extend("default" = "0s"))]
    pub(super) drain_delay: Option<Duration>,
    /// How long running requests may take after that.
    #[schemars(extend("default" = "30s"))]
    pub(super) drain_timeout: Option<Duration>,
}

/// `stdout`, or `off`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum LogWord {
    Stdout,
    Off,
}

/// A file that lines are appended to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LogFile {
    /// The file; its folder must be there.
    #[schemars(with = "String", length(min = 1))]
    pub(super) file: Option<String>,
}
