//! What the admin API asks of the running gateway. The composition root implements [`Gateway`].

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use http::{HeaderMap, Method};
use serde::Serialize;
use serde_json::Value;

use crate::cluster::ClusterStatus;
use crate::gate::Denial;
use crate::intake::Level;
use crate::keys::subject;
use crate::revocation::Target;
use crate::session::{Open, Wanted};
use crate::telemetry::ServerState;
use crate::time::Timestamp;

/// An answer that takes a while.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The running gateway, as far as its operators may ask about it and change it.
pub trait Gateway: Send + Sync + 'static {
    /// What the gateway would decide about a request, and why. Changes nothing and mints nothing.
    fn explain(&self, question: Question) -> Pending<'_, Explanation>;

    /// What runs, since when.
    fn status(&self) -> Status;

    /// How it stands in its cluster; `None`: it is alone.
    fn cluster(&self) -> Option<ClusterStatus>;

    /// How far this node's record `sequence` has come; `None` when there is no such record, or no cluster.
    fn reached(&self, sequence: u64) -> Option<Level>;

    /// Tells the other nodes that the credential of a subject has changed.
    fn credential_changed(&self, issuer_url: &str, subject: &str);

    /// The configuration in use, without secrets.
    fn config(&self) -> Value;

    /// Reads the configuration file again and takes all of it up, or nothing.
    fn reload(&self) -> Pending<'_, Result<Reloaded, ReloadError>>;

    /// Every key that verifies: the gateway's own, the one that signs first, then those of each issuer.
    fn keys(&self) -> Vec<KeyInfo>;

    /// Makes a new key that signs once it has been published for long enough, or now if `immediately`; the
    /// old ones verify until their tokens lapse.
    fn rotate_key(&self, immediately: bool) -> Pending<'_, Result<KeyInfo, RotateError>>;

    /// Publishes one of the gateway's own keys no more; where it signed, a new one does from now on. Whether
    /// there is such a key.
    fn withdraw_key<'a>(&'a self, thumbprint: &'a str) -> Pending<'a, Result<bool, RotateError>>;

    /// Brings the series up to date that tell how something stands, before they are read.
    fn observe(&self);

    /// The credentials that the tokens of the issuer with this URL hang on, if they do.
    fn subject_credentials(&self, issuer_url: &str) -> Option<Arc<subject::Credentials>>;

    /// The URL of the issuer with this config name or URL; `session` is the gateway's own.
    fn issuer_url(&self, name_or_url: &str) -> Option<String>;

    /// Open sessions that are honoured, by `sid`, after the one that `from` names: at most `limit`; and the
    /// `from` of the next page, if there is one. It may be there for a page without any.
    fn sessions(&self, wanted: Wanted<'_>, from: Option<&str>, limit: usize) -> (Vec<Arc<Open>>, Option<String>);

    /// The open session with this `sid`, if it is known and honoured.
    fn session(&self, session: &str) -> Option<Arc<Open>>;

    /// What a logout of a session revokes.
    fn logout_targets(&self, open: &Open) -> Vec<Target>;

    /// Takes a session that has ended out of the list.
    fn forget_session(&self, open: &Open);

    /// What revoking this token means: the token, or for one that the gateway minted its session. Its
    /// signature is verified, its times are not: an expired token may have living descendants.
    ///
    /// # Errors
    ///
    /// When it is not an authentic token of a configured issuer.
    fn identify<'a>(&'a self, token: &'a str) -> Pending<'a, Result<Target, Denial>>;

    /// Whether traffic should come here.
    ///
    /// # Errors
    ///
    /// Every reason why not: `draining`, `store_poisoned`, …
    fn readiness(&self) -> Result<(), Vec<String>>;
}

/// A request to be explained.
#[derive(Clone)]
pub struct Question {
    /// The request head's fields; a bare token stands in `Authorization`.
    pub headers: HeaderMap,
    /// The method; `GET` unless given.
    pub method: Method,
    /// The host; without one, routes with hosts do not match.
    pub host: Option<String>,
    /// The path, `/` unless given. It may carry a query, which is not looked at.
    pub path: String,
}

/// Headers hold tokens, so they are not shown.
impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { headers, method, host, path: _ } = self;
        write!(f, "Question({method} for {host:?}, {} header fields)", headers.len())
    }
}

/// What the gateway would do.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// When this was so.
    pub at: Timestamp,
    /// Whether the request may pass.
    pub admitted: bool,
    /// The route only reports: whatever is decided, the request goes on without identity.
    pub report_only: bool,
    /// The status that would be answered; none when the upstream would answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it is refused: [`Denial::reason`], or `no_route` and the like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The route that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The upstream it leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// The config name of the token's issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The steps of the decision, in order, up to the one that decided.
    pub steps: Vec<Step>,
    /// The JOSE header. Believed only if `verified`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<Value>,
    /// The claims. Believed only if `verified`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<Value>,
    /// Whether the signature was verified.
    pub verified: bool,
    /// The account that its subject goes by: the first id of its chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Everything a revocation of this token could name. The API adds the records in force, and the chains of
    /// its subjects.
    #[serde(skip)]
    pub targets: Vec<Target>,
}

/// One step of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// `route`, `present`, `parse`, `issuer`, `key`, `signature`, `claims`, `times`, `standing`, `sender` (of
    /// tokens that are bound to their holder), `requirement`.
    pub name: &'static str,
    /// Whether it was passed.
    pub passed: bool,
    /// What was found, in words. Never a token or a key.
    pub detail: String,
}

/// What runs.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// When the process started.
    pub started_at: Timestamp,
    /// The present, by the gateway's clock.
    pub now: Timestamp,
    /// Worker threads.
    pub workers: usize,
    /// Addresses that traffic comes in on.
    pub listeners: Vec<String>,
    /// Which configuration is in use.
    pub config_digest: String,
    /// Since when.
    pub config_loaded_at: Timestamp,
    /// Whether the gateway is shutting down.
    pub draining: bool,
    /// By the name of the upstream and of the server: how it stands.
    pub upstreams: BTreeMap<String, BTreeMap<String, ServerInfo>>,
}

/// How a server stands.
#[derive(Clone, Debug, Serialize)]
pub struct ServerInfo {
    /// Whether requests go to it.
    pub state: ServerState,
    /// Its share of the requests, beside the others'.
    pub weight: u64,
    /// Since when, if it has ever stood otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A reload that was taken up.
#[derive(Clone, Debug, Serialize)]
pub struct Reloaded {
    /// The digest of the configuration now in use.
    pub config_digest: String,
    /// Whether it differs from the one before.
    pub changed: bool,
    /// What of it is not in force before a restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Why a reload was not taken up; the old configuration stays in force. Read as "failed to reload: {self}".
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file has problems, or cannot be read.
    #[error("{0}")]
    Invalid(String),
    /// The file asks for a change that needs a restart.
    #[error("{0}")]
    NeedsRestart(String),
    /// The new configuration could not be put into force.
    #[error("{0}")]
    Failed(String),
}

/// A key that verifies.
#[derive(Clone, Debug, Serialize)]
pub struct KeyInfo {
    /// The config name of its issuer; `session` for the gateway's own.
    pub issuer: String,
    /// Its `kid`, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// Its RFC 7638 thumbprint, for a secret a keyed digest: the value of a `key` target.
    pub thumbprint: String,
    /// What it verifies, and signs with.
    pub algorithm: String,
    /// What it does now.
    pub state: KeyState,
    /// When it was made, as far as known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// When it begins to sign, while it is staged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signs_from: Option<Timestamp>,
    /// Until when it verifies, once another one signs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verifies_until: Option<Timestamp>,
    /// When the set that it is in was fetched, for one that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fetched_at: Option<Timestamp>,
}

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Published, and about to sign.
    Staged,
    /// Signs, and verifies.
    Signing,
    /// Verifies.
    Verifying,
    /// Nothing of it is honoured.
    Retired,
}

/// Why there is no new key. Read as "failed to rotate the key: {self}".
#[derive(Clone, Debug, thiserror::Error)]
pub enum RotateError {
    /// The configuration has no `session` section.
    #[error("there are no gateway sessions")]
    NoSessions,
    /// The key could not be made or stored.
    #[error("{0}")]
    Failed(String),
}
