//! The control plane: revocations, questions about decisions, status, keys and reload, on a listener of
//! its own.
//!
//! `/metrics`, `/healthz` and `/readyz` are open to whoever reaches the listener. Everything else, also
//! what does not exist, needs an admin token; or none on a Unix socket without tokens, where the file's
//! mode says who may. Every change, and every change refused, is one audit line.

mod auth;
mod body;
mod credentials;
mod gateway;
mod health;
mod keys;
mod listener;
mod operations;
mod patience;
mod problem;
mod records;
mod revoke;
mod sessions;
mod subjects;
mod view;
mod watch;

use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use axum::Router;
use axum::routing::{delete, get, post, put};
use http::StatusCode;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::AdminToken;
use crate::intake::Ledger;
use crate::revocation::RevocationMap;
use crate::telemetry::{Audit, AuditEvent, Metrics};
use crate::time::{Clock, Timestamp};

pub use gateway::{
    Explanation, Gateway, KeyInfo, KeyState, Pending, Question, ReloadError, Reloaded, RotateError, ServerInfo, Status,
    Step,
};
pub use listener::{Listener, serve};

/// Subscribers of `/v1/revocations:watch` at once.
const WATCHERS: usize = 32;

/// What the admin API works on.
pub struct Parts {
    /// The running gateway.
    pub gateway: Arc<dyn Gateway>,
    /// Revocations come in here.
    pub ledger: Ledger,
    /// What is in force, for the metrics.
    pub map: Arc<RevocationMap>,
    /// Rendered at `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Where changes are written down.
    pub audit: Arc<Audit>,
    /// Who may do what.
    pub tokens: Vec<AdminToken>,
    /// The time.
    pub clock: Clock,
}

/// The admin API. Clones share everything.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

/// Changes who may use an [`Api`]. The API holds the gateway; were it held by the gateway in turn, neither
/// would ever end, and the store would not be closed.
#[derive(Clone, Debug)]
pub struct Credentials(Weak<Shared>);

impl Credentials {
    /// Takes up the credentials of a reloaded configuration, if the API still runs.
    pub fn set(&self, tokens: Vec<AdminToken>) {
        if let Some(api) = self.0.upgrade() {
            api.tokens.store(Arc::new(tokens));
        }
    }
}

struct Shared {
    gateway: Arc<dyn Gateway>,
    ledger: Ledger,
    map: Arc<RevocationMap>,
    metrics: Arc<Metrics>,
    audit: Arc<Audit>,
    tokens: ArcSwap<Vec<AdminToken>>,
    clock: Clock,
    watchers: Arc<Semaphore>,
    closing: CancellationToken,
    unknown_callers: auth::Unknown,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Api {
    /// The API over a gateway.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { gateway, ledger, map, metrics, audit, tokens, clock } = parts;
        Self(Arc::new(Shared {
            gateway,
            ledger,
            map,
            metrics,
            audit,
            tokens: ArcSwap::from_pointee(tokens),
            clock,
            watchers: Arc::new(Semaphore::new(WATCHERS)),
            closing: CancellationToken::new(),
            unknown_callers: auth::Unknown::default(),
        }))
    }

    /// A handle that changes who may use the API, and does not keep it alive.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        Credentials(Arc::downgrade(&self.0))
    }

    /// The routes, without a listener.
    fn router(&self) -> Router {
        let open = Router::new()
            .route("/metrics", get(health::metrics))
            .route("/healthz", get(health::healthz))
            .route("/readyz", get(health::readyz));
        let guarded = Router::new()
            .route("/v1/revocations", get(records::list).post(revoke::one))
            .route("/v1/revocations:batch", post(revoke::batch))
            .route("/v1/revocations:watch", get(watch::watch))
            .route("/v1/revocations/{id}", get(records::find).delete(records::lift))
            .route("/v1/sessions", get(sessions::list).delete(sessions::end_all))
            .route("/v1/sessions/{sid}", delete(sessions::end_one))
            .route("/v1/subjects/{issuer}/{subject}", get(subjects::show))
            .route("/v1/subjects/{issuer}/{subject}/replace", post(subjects::replace).delete(subjects::undo))
            .route("/v1/subjects/{issuer}/{subject}/credential", put(credentials::put).delete(credentials::delete))
            .route("/v1/explain", post(operations::explain))
            .route("/v1/status", get(operations::status))
            .route("/v1/replication/{sequence}", get(operations::replication))
            .route("/v1/config", get(operations::config))
            .route("/v1/reload", post(operations::reload))
            .route("/v1/keys", get(keys::list))
            .route("/v1/keys:rotate", post(keys::rotate))
            .route("/v1/keys/{issuer}/{order}", post(keys::retire))
            .fallback(not_found)
            .method_not_allowed_fallback(method_not_allowed)
            .layer(axum::middleware::from_fn_with_state(self.clone(), auth::guard));
        open.method_not_allowed_fallback(method_not_allowed).merge(guarded).with_state(self.clone())
    }

    /// Ends the event streams: they would not end by themselves.
    fn close(&self) {
        self.0.closing.cancel();
    }

    fn tokens(&self) -> Arc<Vec<AdminToken>> {
        self.0.tokens.load_full()
    }

    fn unknown_callers(&self) -> &auth::Unknown {
        &self.0.unknown_callers
    }

    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// A change that is done is not undone because it cannot be written down: a revocation stays in force.
    async fn write_audit(&self, events: Vec<AuditEvent>) {
        if let Err(error) = self.0.audit.record_all(events).await {
            self.0.metrics.audit_errors.inc();
            tracing::error!(error = &error as &dyn std::error::Error, "a change has no audit line");
        }
    }
}

async fn not_found() -> problem::Problem {
    problem::Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")
}

async fn method_not_allowed() -> problem::Problem {
    problem::Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path has other methods")
}

#[cfg(test)]
pub(crate) mod tests;
