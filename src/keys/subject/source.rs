//! Whom credentials are asked of.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::derive::Columns;
use super::http::{Http, HttpError};
use super::postgres::{Postgres, PostgresError};
use crate::keys::fetch::TrustError;

/// Trouble with a source is logged once in this time: every request of every subject meets it.
const COMPLAINT_EVERY: Duration = Duration::from_secs(10);

/// Why a source of credentials cannot be used at all. Read as "failed to open it: {self}".
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The user database.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// Nobody could vouch for the service.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// Why a source did not say. Read as "failed to look up a credential: {self}".
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    #[error(transparent)]
    Http(#[from] HttpError),
    /// No key comes out of what it said.
    #[error("the answer is no credential: {0}")]
    Unusable(String),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Slow(Duration),
}

/// A source that is asked for each subject.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Postgres(Arc<Postgres>),
    Http(Arc<Http>),
}

impl Asked {
    /// What it says of a subject; `None` when there is nobody of that name. The caller bounds the time.
    pub(super) async fn ask(&self, issuer: &str, subject: &str) -> Result<Option<Columns>, AskError> {
        match self {
            Self::Postgres(postgres) => Ok(postgres.ask(subject).await?),
            Self::Http(http) => Ok(http.ask(issuer, subject).await?),
        }
    }

    /// What a look-up may take.
    pub(super) fn timeout(&self) -> Duration {
        match self {
            Self::Postgres(postgres) => postgres.timeout(),
            Self::Http(http) => http.timeout,
        }
    }
}

/// Tells the operator of trouble, now and then.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<Option<Instant>>);

impl Complaints {
    pub(super) fn complain(&self, issuer: &str, error: &AskError) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= COMPLAINT_EVERY) {
            *last = Some(Instant::now());
            tracing::error!(issuer, %error, cause = cause(error), "failed to look up a credential");
        }
    }
}

/// Why a server could not be reached: "cannot be reached" alone helps nobody. What a database says is not
/// looked into, for it repeats values.
fn cause(error: &AskError) -> Option<String> {
    let AskError::Http(HttpError::Fetch(fetch)) = error else { return None };
    let mut innermost = std::error::Error::source(fetch)?;
    while let Some(deeper) = innermost.source() {
        innermost = deeper;
    }
    Some(innermost.to_string())
}
