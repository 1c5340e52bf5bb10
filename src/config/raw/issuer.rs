//! Who is believed, and out of which keys.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{AlgorithmName, Duration, Secret};

/// One issuer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Issuer {
    /// The `iss` of its tokens, compared byte by byte.
    #[schemars(with = "String", length(min = 1))]
    pub(in crate::config) issuer: Option<String>,
    /// Audiences, one of which `aud` must name.
    #[schemars(with = "Vec<String>", length(min = 1), inner(length(min = 1)))]
    pub(in crate::config) audiences: Option<Vec<String>>,
    /// Algorithms allowed. HS* cannot stand beside the others.
    #[schemars(with = "Vec<AlgorithmName>", length(min = 1))]
    pub(in crate::config) algorithms: Option<Vec<AlgorithmName>>,
    /// `typ` values allowed, ignoring case and `application/`; the empty text allows tokens without `typ`.
    #[schemars(length(min = 1), extend("default" = ["JWT", "at+jwt", ""]))]
    pub(in crate::config) types: Option<Vec<String>>,
    /// Where its keys come from.
    #[schemars(with = "Keys")]
    pub(in crate::config) keys: Option<Keys>,
    /// Tolerance between its clock and ours; at most 5m.
    #[schemars(extend("default" = "5s"))]
    pub(in crate::config) clock_skew: Option<Duration>,
    /// The longest `exp - iat` honoured; also how long a cutoff must be remembered.
    #[schemars(extend("default" = "24h"))]
    pub(in crate::config) max_lifetime: Option<Duration>,
    /// Claims that must be there; `exp` and `iat` always must.
    #[schemars(inner(length(min = 1)), extend("default" = ["exp", "iat", "sub"]))]
    pub(in crate::config) require: Option<Vec<String>>,
    /// Added to cutoffs that take the present as their moment, for an issuer whose clock runs ahead.
    #[schemars(extend("default" = "0s"))]
    pub(in crate::config) cutoff_margin: Option<Duration>,
    /// The issuer states `auth_time`, and no token older than this since authentication is honoured; or `none`.
    #[schemars(extend("default" = "none"))]
    pub(in crate::config) max_authentication_age: Option<Duration>,
    /// How all of its tokens must be bound to their holder, or `none`: those that are, are held to it anyway.
    #[schemars(extend("default" = "none"))]
    pub(in crate::config) sender_constrained: Option<Constraint>,
    /// Its tokens carry the fingerprint of their subject's credential, and are honoured while it is current.
    pub(in crate::config) credential: Option<Credential>,
}

/// Where an issuer's keys come from: exactly one of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Keys {
    /// One HMAC key, for HS256 (32 bytes), HS384 (48) or HS512 (64).
    pub(in crate::config) secret: Option<Secret>,
    /// A PEM public key or certificate.
    #[schemars(length(min = 1))]
    pub(in crate::config) public_key_file: Option<String>,
    /// An RFC 7517 key set.
    #[schemars(length(min = 1))]
    pub(in crate::config) jwks_file: Option<String>,
    /// A key for each subject, out of what the user database says of it: HS256 alone.
    pub(in crate::config) per_subject: Option<PerSubject>,
    /// The URL of an RFC 7517 key set, fetched in the background.
    #[schemars(length(min = 1), extend("examples" = ["https://accounts.example.com/jwks.json"]))]
    pub(in crate::config) jwks_url: Option<String>,
    /// The URL of an issuer whose metadata says where its key set is (OpenID Connect Discovery 1.0, RFC 8414).
    #[schemars(length(min = 1), extend("examples" = ["https://accounts.example.com"]))]
    pub(in crate::config) discovery: Option<String>,
    /// For what is fetched: the PEM authorities to believe, instead of the system's.
    #[schemars(length(min = 1))]
    pub(in crate::config) ca_file: Option<String>,
    /// For what is fetched: whether it may come unprotected from another machine.
    #[schemars(extend("default" = false))]
    pub(in crate::config) allow_http: Option<bool>,
    /// For what is fetched: how often. A server that calls it fresh for less is asked sooner.
    #[schemars(extend("default" = "5m"))]
    pub(in crate::config) refresh: Option<Duration>,
    /// For what is fetched: the least time between two fetches, whatever kids tokens name.
    #[schemars(extend("default" = "30s"))]
    pub(in crate::config) cooldown: Option<Duration>,
    /// For what is fetched: how long one fetch may take.
    #[schemars(extend("default" = "5s"))]
    pub(in crate::config) timeout: Option<Duration>,
    /// For what is fetched: how old the last good set may be and still count, when its server is down.
    #[schemars(extend("default" = "24h"))]
    pub(in crate::config) max_stale: Option<Duration>,
}

/// The key of a subject: a secret and what the user database says of the subject. Its source is exactly one
/// of `postgres`, `http` and `pushed`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct PerSubject {
    /// What no database holds; the login service has it too.
    #[schemars(with = "Secret")]
    pub(in crate::config) base_secret: Option<Secret>,
    /// How the key is made: `hkdf` of issuer, subject and columns, or `concat`, the secret and one column.
    #[schemars(extend("default" = "hkdf"))]
    pub(in crate::config) derive: Option<DeriveWord>,
    /// A query of the user database.
    pub(in crate::config) postgres: Option<Postgres>,
    /// A service that knows credentials.
    pub(in crate::config) http: Option<CredentialService>,
    /// `true`: told through the admin API, kept in memory alone.
    pub(in crate::config) pushed: Option<bool>,
    /// For how long a credential is believed; a notification drops it at once.
    #[schemars(extend("default" = "30s"))]
    pub(in crate::config) ttl: Option<Duration>,
    /// For how long it is believed that there is no such subject.
    #[schemars(extend("default" = "5s"))]
    pub(in crate::config) negative_ttl: Option<Duration>,
    /// Subjects remembered, each with its derived key; with `pushed`, taken at most.
    #[schemars(range(min = 100, max = 10_000_000), extend("default" = 50_000))]
    pub(in crate::config) max_entries: Option<u64>,
}

/// The credential fingerprint that tokens carry. Its source is exactly one of `postgres`, `http` and `pushed`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Credential {
    /// What no database holds; the login service has it too.
    #[schemars(with = "Secret")]
    pub(in crate::config) base_secret: Option<Secret>,
    /// The claim that carries the fingerprint.
    #[schemars(length(min = 1), extend("default" = "cfp"))]
    pub(in crate::config) claim: Option<String>,
    /// A query of the user database.
    pub(in crate::config) postgres: Option<Postgres>,
    /// A service that knows credentials.
    pub(in crate::config) http: Option<CredentialService>,
    /// `true`: told through the admin API, kept in memory alone.
    pub(in crate::config) pushed: Option<bool>,
    /// For how long a credential is believed; a notification drops it at once.
    #[schemars(extend("default" = "30s"))]
    pub(in crate::config) ttl: Option<Duration>,
    /// For how long it is believed that there is no such subject.
    #[schemars(extend("default" = "5s"))]
    pub(in crate::config) negative_ttl: Option<Duration>,
    /// Subjects remembered; with `pushed`, taken at most.
    #[schemars(range(min = 100, max = 10_000_000), extend("default" = 50_000))]
    pub(in crate::config) max_entries: Option<u64>,
}

/// How the key of a subject is made.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum DeriveWord {
    Hkdf,
    Concat,
}

/// A PostgreSQL user database.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Postgres {
    /// `postgres://user:password@host:5432/database`.
    #[schemars(with = "Secret")]
    pub(in crate::config) url: Option<Secret>,
    /// Asks for the columns of the subject `$1`: text, one row.
    #[schemars(with = "String", length(min = 1), extend("examples" = ["SELECT password_hash, status FROM users WHERE id = $1"]))]
    pub(in crate::config) query: Option<String>,
    /// `verified`: TLS, and the server's certificate is checked; `off`: for a database on this machine.
    #[schemars(extend("default" = "verified"))]
    pub(in crate::config) tls: Option<TlsWord>,
    /// Certificates (PEM) of the authorities that may vouch for the server. Absent: those of the system.
    #[schemars(length(min = 1))]
    pub(in crate::config) ca_file: Option<String>,
    /// Connections at most, besides the one that listens.
    #[schemars(range(min = 1, max = 64), extend("default" = 4))]
    pub(in crate::config) connections: Option<u64>,
    /// What a look-up may take, waiting for a connection included.
    #[schemars(extend("default" = "2s"))]
    pub(in crate::config) timeout: Option<Duration>,
    /// The channel (`LISTEN`) on which the database names subjects that have changed.
    #[schemars(length(min = 1))]
    pub(in crate::config) notify: Option<String>,
}

/// A service that is asked for the credential of a subject.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct CredentialService {
    /// Gets `{"issuer": "…", "subject": "…"}` as a `POST`, and answers 200 `{"columns": ["…", …]}`.
    #[schemars(with = "String", length(min = 1), extend("examples" = ["https://users.example.com/credential"]))]
    pub(in crate::config) url: Option<String>,
    /// Sent as a bearer token. Absent: none is sent.
    pub(in crate::config) token: Option<Secret>,
    /// Certificates (PEM) of the authorities that may vouch for the service. Absent: those of the system.
    #[schemars(length(min = 1))]
    pub(in crate::config) ca_file: Option<String>,
    /// Whether it may be asked unprotected when it is on another machine.
    #[schemars(extend("default" = false))]
    pub(in crate::config) allow_http: Option<bool>,
    /// Requests at the same time.
    #[schemars(range(min = 1, max = 64), extend("default" = 4))]
    pub(in crate::config) connections: Option<u64>,
    /// What a look-up may take, waiting included.
    #[schemars(extend("default" = "2s"))]
    pub(in crate::config) timeout: Option<Duration>,
}

/// Whether a connection is protected.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum TlsWord {
    Off,
    Verified,
}

/// How a token must be bound to its holder: `dpop`, to a key (RFC 9449); `mtls`, to a certificate (RFC 8705);
/// `any`, to either; `none`, not at all.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Constraint {
    None,
    Dpop,
    Mtls,
    Any,
}
