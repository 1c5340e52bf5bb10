//! What a configuration is once it is checked: values that are right by construction.

mod cluster;
mod limits;
mod servers;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Method};
use ipnet::IpNet;

pub use self::cluster::{Cluster, Engine};
pub use self::limits::{Http2Limits, Limits, RateCounts, RateKey, RateLimit};
pub use self::servers::{Ejection, Health, Retries, RetryOn};
pub use self::tls::{ClientAuth, ListenerCertificate, ListenerTls, TlsVersion};
use crate::gate::{Constraint, Requirement};
use crate::keys::subject::Terms;
use crate::keys::{Publication, Schedule};
use crate::secret::Secret;
use crate::token::Algorithm;

/// A whole configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Worker threads, each with its own listener sockets, upstream connections and caches.
    pub workers: usize,
    /// Where traffic comes in; at least one.
    pub listeners: Vec<Listener>,
    /// The control plane, when there is one.
    pub admin: Option<Admin>,
    /// Issuers whose tokens are honoured, in file order.
    pub issuers: Vec<Issuer>,
    /// Where tokens are looked for, and how large they may be.
    pub token: TokenConfig,
    /// Upstream groups, in file order.
    pub upstreams: Vec<Upstream>,
    /// Routes; the first match wins.
    pub routes: Vec<Route>,
    /// Which claims go upstream in which headers, unless a route says otherwise.
    pub identity: Identity,
    /// Gateway sessions, when there are any.
    pub session: Option<Session>,
    /// Where revocations survive.
    pub revocation: RevocationConfig,
    /// Other nodes, when there are any.
    pub cluster: Option<Cluster>,
    /// Peers whose forwarding headers are believed; empty by default.
    pub trusted_proxies: Vec<IpNet>,
    /// Bounds on what clients may send and how long they may take.
    pub limits: Limits,
    /// Rules on how often, in file order; routes name them.
    pub rate_limits: Vec<RateLimit>,
    /// Indexes into these: how often the session endpoints may be asked.
    pub endpoint_rate_limits: Vec<usize>,
    /// When a changed configuration is taken up.
    pub reload: Reload,
    /// What happens on SIGTERM.
    pub shutdown: Shutdown,
    /// Where access-log lines go.
    pub access_log: LogTarget,
}

/// One traffic listener.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// How it protects its connections; `None`: in clear.
    pub tls: Option<ListenerTls>,
    /// In clear: whether clients may begin with HTTP/2 (RFC 9113 §3.3).
    pub h2c: bool,
}

/// Where the control plane listens.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Loopback, or any address when there are tokens.
    pub address: AdminAddress,
    /// Who may use it. A Unix socket with no tokens trusts whoever may open it.
    pub tokens: Vec<AdminToken>,
    /// Where audit lines go; appended to, one JSON object a line.
    pub audit_log: LogTarget,
}

/// An admin listener's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// `127.0.0.1:9901`.
    Tcp(SocketAddr),
    /// `unix:/run/portcullis/admin.sock`, made with mode 0600.
    Unix(PathBuf),
}

/// One admin credential.
#[derive(Clone, Debug)]
pub struct AdminToken {
    /// The name in audit lines.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The bearer secret, at least 32 bytes.
    pub secret: Secret,
}

/// What an admin credential may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads and changes.
    Operator,
}

/// One issuer whose tokens are honoured.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// The config name, used in routes, the API and metrics.
    pub name: String,
    /// The `iss` value, compared byte by byte.
    pub url: String,
    /// Audiences, one of which `aud` must name; at least one.
    pub audiences: Vec<String>,
    /// Algorithms allowed; never empty, never HMAC beside the others.
    pub algorithms: Vec<Algorithm>,
    /// `typ` values allowed, compared ignoring case and an `application/` prefix; absent `typ` is
    /// allowed iff the empty string is in the list.
    pub types: Vec<String>,
    /// Where its keys come from.
    pub keys: KeySource,
    /// Tolerance between its clock and ours.
    pub clock_skew: Duration,
    /// The longest `exp - iat` honoured; also how long a cutoff must be remembered.
    pub max_lifetime: Duration,
    /// Claims that must be there, beyond `exp` and `iat`, which always must.
    pub require: Vec<String>,
    /// Added to cutoffs that take the present as their moment, for an issuer whose clock runs ahead.
    pub cutoff_margin: Duration,
    /// The issuer states `auth_time`, and no token older than this since authentication is honoured.
    pub max_authentication_age: Option<Duration>,
    /// How all of its tokens must be bound to their holder.
    pub sender: Option<Constraint>,
    /// What its tokens hang on besides a signature: the current credentials of its subjects.
    pub credentials: Option<Terms>,
    /// Put before `sub` in sessions opened with its tokens.
    pub subject_prefix: String,
}

/// Where an issuer's keys come from; the text is read when the config is loaded.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// `per_subject`: each subject has a key of its own, out of [`Issuer::credentials`].
    PerSubject,
    /// `secret`: one HMAC key.
    Secret(Secret),
    /// `public_key_file`: a PEM public key or certificate.
    PublicKey {
        /// The file, for messages.
        path: PathBuf,
        /// Its text.
        pem: String,
    },
    /// `jwks_file`: an RFC 7517 key set.
    Jwks {
        /// The file, for messages.
        path: PathBuf,
        /// Its text.
        json: String,
    },
    /// `jwks_url`, `discovery`: what the issuer publishes, fetched while the gateway runs.
    Published {
        /// Where.
        publication: Publication,
        /// The PEM text of the authorities to believe; none: the system's.
        authority: Option<String>,
        /// Whether it may come unprotected from another machine.
        allow_http: bool,
        /// When it is fetched, and for how long it counts.
        schedule: Schedule,
    },
}

/// Where tokens are looked for.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// Places, in order; at most one may hold a token.
    pub from: Vec<TokenPlace>,
    /// The longest token looked at, in bytes.
    pub max_bytes: usize,
    /// The realm of challenges (RFC 6750 §3).
    pub realm: String,
    /// Bytes of verified tokens that each worker remembers.
    pub cache_bytes: u64,
    /// Proofs of possession for tokens that are bound to a key.
    pub proofs: Proofs,
}

/// What proofs of possession must be (RFC 9449).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proofs {
    /// Algorithms allowed; never empty, never HMAC.
    pub algorithms: Vec<Algorithm>,
    /// The same as challenges spell them, joined by spaces.
    pub spelled: String,
    /// For how long a proof is good.
    pub max_age: Duration,
    /// Tolerance between the clocks of clients and ours.
    pub clock_skew: Duration,
    /// Used proofs remembered at most.
    pub max: usize,
}

impl Proofs {
    /// How long after it was made a proof is honoured at most, by our clock.
    #[must_use]
    pub const fn life(&self) -> Duration {
        self.max_age.saturating_add(self.clock_skew)
    }
}

/// One place a token may be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenPlace {
    /// `Authorization: Bearer …`, or another header whose whole value is the token.
    Header(HeaderName),
    /// A cookie of this name.
    Cookie(String),
}

/// A group of servers that do the same work.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The config name.
    pub name: String,
    /// At least one `http://host:port` or `https://host:port`.
    pub servers: Vec<Server>,
    /// How `https` servers are verified, and what they are shown.
    pub tls: UpstreamTls,
    /// What is spoken to the servers.
    pub protocol: Protocol,
    /// How often an HTTP/2 connection is pinged; `None`: never.
    pub ping_interval: Option<Duration>,
    /// How long a connection is used at most; `None`: for as long as it lasts.
    pub max_age: Option<Duration>,
    /// Connections of a worker to each server at most; `usize::MAX`: any number.
    pub max_connections: usize,
    /// Requests of a worker that may wait for a connection.
    pub max_queued: usize,
    /// How long they may.
    pub queue_timeout: Duration,
    /// How often names are looked up again.
    pub resolve_interval: Duration,
    /// How long what was found is good for while it cannot be looked up again.
    pub resolve_keep: Duration,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// Requests in flight at it; each worker has its share of them.
    pub max_requests: usize,
    /// How long the response head may take once the request is sent, and how long a silence within
    /// the response body may be.
    pub response_timeout: Duration,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// Idle connections kept per worker and server.
    pub max_idle: usize,
    /// What its servers are asked now and then; `None`: nothing.
    pub health: Option<Health>,
    /// When a server that fails is taken out of use.
    pub ejection: Ejection,
    /// Over how long a server that came back takes up its share.
    pub slow_start: Option<Duration>,
    /// When a request is sent once more.
    pub retries: Retries,
}

/// What is spoken to the servers of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: by prior knowledge in clear, agreed on over TLS.
    Http2,
    /// Over TLS HTTP/2 where the server offers it, HTTP/1.1 elsewhere.
    Auto,
}

/// TLS to the servers of an upstream; the texts are read when the config is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// PEM authorities that vouch for the servers; `None`: those of the system.
    pub authorities: Option<String>,
    /// The gateway's own PEM certificate chain and its private key.
    pub client: Option<(String, Secret)>,
    /// The name that certificates must be for; `None`: the host of the server.
    pub server_name: Option<String>,
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Whether it is spoken to over TLS.
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Its share of the requests, beside the others'; at least 1.
    pub weight: u32,
}

impl Server {
    /// Host and port, as in `Host`.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.host.parse::<std::net::IpAddr>() {
            Ok(address) => SocketAddr::new(address, self.port).to_string(),
            Err(_) => format!("{}:{}", self.host, self.port),
        }
    }
}

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// The metric label and log name.
    pub name: String,
    /// Hosts it answers for, lower case, without port; `*.example.com` covers one or more labels.
    /// Empty: any.
    pub hosts: Vec<String>,
    /// Which paths it covers.
    pub path: PathMatch,
    /// Which methods; empty: any.
    pub methods: Vec<Method>,
    /// Index into [`Config::upstreams`].
    pub upstream: usize,
    /// What it demands.
    pub auth: Requirement,
    /// Whether a CORS preflight goes on without a token.
    pub pass_preflight: bool,
    /// Whether the upstream may open sessions with `X-Session-Grant`.
    pub login: bool,
    /// Whether the upstream ends the presented session when it answers well.
    pub logout: bool,
    /// Whether the token itself goes upstream.
    pub forward_token: bool,
    /// Which claims go upstream in which headers.
    pub identity: Identity,
    /// Whether the client's own `Host` goes upstream (the default), or the server's.
    pub preserve_host: bool,
    /// Protocols that a connection may change to, in lower case.
    pub upgrades: Vec<String>,
    /// The largest request body, in bytes; `None`: unbounded.
    pub max_body: Option<u64>,
    /// From the request head to the end of the response; `None`: unbounded.
    pub timeout: Option<Duration>,
    /// Indexes into [`Config::rate_limits`]: how often it may be asked.
    pub rate_limits: Vec<usize>,
}

/// Which paths a route covers, judged on the normalised path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// `path`: whole segments; `/admin/` covers `/admin` and everything below.
    Prefix(String),
    /// `pattern`: `{name}` is one segment, a last `{*name}` the rest.
    Pattern(String),
}

/// Which claims go upstream in which headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Pairs of header and claim, in order. Claim names may be dotted to reach into objects only when
    /// no top-level claim has the whole name.
    pub headers: Vec<(HeaderName, String)>,
    /// The header that names the account: the first id of the chain of a subject that has been replaced,
    /// else the subject itself.
    pub account: Option<HeaderName>,
}

/// Gateway sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The `iss` of minted tokens.
    pub issuer: String,
    /// The `aud` of minted tokens.
    pub audience: String,
    /// Where the signing keys are; made on first start.
    pub keys_dir: PathBuf,
    /// What new keys sign with.
    pub algorithm: Algorithm,
    /// How long a new key is published before it signs.
    pub publish_before: Duration,
    /// How long a token lives, and so a session unused.
    pub idle_timeout: Duration,
    /// How long a session lives at most.
    pub absolute_timeout: Duration,
    /// Share of a token's life, in per mille, after which a request gets a new one.
    pub reissue_after_permille: u32,
    /// Requests after which a token is renewed, whatever its age.
    pub reissue_every: Option<u32>,
    /// How long a token may still come after its successor was first used; `None`: until it expires.
    pub reuse_grace: Option<Duration>,
    /// Indexes into [`Config::issuers`] whose tokens open sessions.
    pub exchange: Vec<usize>,
    /// Put before `sub` of a grant.
    pub grant_subject_prefix: String,
    /// How a new session's token is handed out.
    pub delivery: Delivery,
    /// The cookie's name, `__Host-` included.
    pub cookie: String,
    /// Open sessions of one subject at most.
    pub max_per_subject: Option<usize>,
    /// Refresh tokens, when there are any.
    pub refresh: Option<Refresh>,
    /// What is kept of open sessions.
    pub devices: Devices,
}

/// Refresh tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// How long one lives unused.
    pub idle_timeout: Duration,
    /// How long one that was used may come again.
    pub reuse_grace: Duration,
    /// How the first of a session is handed out; its successors go back the way it came.
    pub delivery: Delivery,
    /// The cookie's name, `__Host-` included.
    pub cookie: String,
}

/// What is kept of open sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Devices {
    /// Sessions remembered at most.
    pub max: usize,
    /// Whether the network they were opened from is.
    pub address: bool,
    /// Whether browser and system are.
    pub user_agent: bool,
}

/// How a new session's token is handed out; a slid one goes back the way the old one came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// `X-Session-Token` and `X-Session-Expires`.
    Header,
    /// `Set-Cookie`.
    Cookie,
}

/// Where revocations survive.
#[derive(Clone, Debug)]
pub struct RevocationConfig {
    /// The store.
    pub store: StoreConfig,
    /// How often forgotten entries are swept out.
    pub sweep_interval: Duration,
    /// Entries the map may hold; at the bound new ones are refused with 503, never dropped.
    pub max_entries: usize,
}

/// Which store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// SQLite, one file under this folder.
    Sqlite(PathBuf),
    /// Nothing survives; the log says so at start.
    Memory,
}

/// When a changed configuration is taken up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// Whether by itself: the file and all that it names are watched.
    pub watch: bool,
    /// How long they must have been left alone by then.
    pub debounce: Duration,
}

/// What happens on SIGTERM.
#[derive(Clone, Copy, Debug)]
pub struct Shutdown {
    /// How long `/readyz` says 503 before the listeners close.
    pub drain_delay: Duration,
    /// How long running requests may take after that.
    pub drain_timeout: Duration,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}
