//! Per-subject keys (T5): the credentials of one issuer's subjects, and where they come from.
//!
//! [`Credentials::find`] is for the gate and waits for nothing. What it does not know, the proxy has
//! looked up ([`Credentials::look_up`]): once for all who ask at the same time, bounded in number and in
//! time. A subject that does not exist is an answer; a source that cannot be asked is not.

mod derive;
mod http;
mod postgres;
mod pushed;
mod source;
mod wire;

use std::fmt;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::derive::{
    COLUMN_BYTES_MAX, COLUMNS_MAX, Columns, ColumnsError, Derivation, Derive, DeriveError, SUBJECT_BYTES_MAX,
};
use self::http::Http;
pub use self::http::HttpSource;
use self::postgres::{Listener, Postgres};
pub use self::postgres::{PostgresSource, PostgresTls};
use self::pushed::Pushed;
pub use self::source::OpenError;
use self::source::{AskError, Asked, Complaints};
use super::credential::{Boarding, Credential, CredentialCache, Known, Lifetimes};
use super::{KeySet, KeySetError};
use crate::secret::Secret;
use crate::time::Clock;
use crate::token::Algorithm;

/// How tokens hang on a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The key of the subject verifies them (HS256).
    Key(Derive),
    /// They carry the fingerprint in this claim, under the signature of the issuer's own key.
    Claim(String),
}

/// Where credentials come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A query of the user database.
    Postgres(PostgresSource),
    /// A service that is asked.
    Http(HttpSource),
    /// Whoever knows them tells us, through the admin API.
    Pushed,
}

/// What the credentials of an issuer's subjects are made of, and for how long they are believed.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// The base secret, in no database.
    pub base_secret: Secret,
    /// How tokens hang on them.
    pub binding: Binding,
    /// Where they come from.
    pub source: Source,
    /// For how long answers are believed.
    pub lifetimes: Lifetimes,
    /// How many subjects are remembered.
    pub max_entries: usize,
}

/// Why a credential cannot be had now. Read as "failed to look up a credential: {self}".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Too many look-ups are under way.
    #[error("too many look-ups are under way")]
    Busy,
    /// The source could not be asked, or its answer is none.
    #[error("the source of credentials did not answer")]
    Failed,
    /// Nothing was pushed for this subject since the start.
    #[error("nothing was pushed for this subject")]
    NotPushed,
}

/// Why a credential was not taken. Read as "failed to take the credential: {self}".
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The issuer's credentials are looked up.
    #[error("the credentials of this issuer are looked up, not pushed")]
    NotPushed,
    /// The memory that was set aside is used up.
    #[error("there are as many credentials as `max_entries` allows")]
    Full,
    /// The subject is too long to be one.
    #[error("the subject is longer than {SUBJECT_BYTES_MAX} bytes")]
    SubjectTooLong,
    /// No key comes out of it.
    #[error(transparent)]
    Derive(#[from] DeriveError),
    /// The key is no good.
    #[error("the key cannot be used: {0}")]
    Key(#[from] KeySetError),
}

/// The credentials of one issuer's subjects. Shared by all threads.
pub struct Credentials {
    /// The `iss` they are derived for.
    issuer: String,
    terms: Terms,
    derivation: Derivation,
    /// A key that nothing was signed with: what a token of nobody is verified with, so that it takes as
    /// long as one of somebody.
    nobody: Arc<Credential>,
    cache: CredentialCache,
    supply: Supply,
    complaints: Arc<Complaints>,
    clock: Clock,
    /// Told after anything was dropped.
    dropped: Dropped,
    /// Ends the listening when these credentials are no longer used.
    _listening: Option<DropGuard>,
}

/// Told of the subject that something was dropped of, or `None` when it may have been anybody's.
pub type Dropped = Box<dyn Fn(Option<&str>) + Send + Sync>;

enum Supply {
    Asked { source: Asked, runtime: Handle },
    Pushed(Pushed),
}

impl Credentials {
    /// Prepares the credentials of the issuer whose `iss` is `issuer`. Connects to nothing yet, except
    /// that a channel is listened to from now on. `dropped` is called after something was dropped.
    ///
    /// To be called on the runtime that is to ask the source.
    ///
    /// # Errors
    /// When the source's URL or its certificates cannot be used.
    pub fn open(issuer: &str, terms: &Terms, clock: Clock, dropped: Dropped) -> Result<Arc<Self>, OpenError> {
        let how = match terms.binding {
            Binding::Key(how) => how,
            Binding::Claim(_) => Derive::Hkdf,
        };
        let asked = match &terms.source {
            Source::Postgres(source) => Some(Asked::Postgres(Arc::new(Postgres::new(source)?))),
            Source::Http(source) => Some(Asked::Http(Arc::new(Http::new(source)?))),
            Source::Pushed => None,
        };
        let supply = match asked {
            Some(source) => Supply::Asked { source, runtime: Handle::current() },
            None => Supply::Pushed(Pushed::new(terms.max_entries)),
        };
        let channel = match &terms.source {
            Source::Postgres(source) => source.notify.clone(),
            Source::Http(_) | Source::Pushed => None,
        };
        let complaints = Arc::<Complaints>::default();
        let stop = CancellationToken::new();
        let credentials = Arc::new(Self {
            issuer: issuer.to_owned(),
            derivation: Derivation::new(&terms.base_secret, how, issuer),
            nobody: Arc::new(nobody()),
            cache: CredentialCache::new(terms.max_entries, terms.lifetimes, channel.is_some()),
            terms: terms.clone(),
            supply,
            complaints: Arc::clone(&complaints),
            clock,
            dropped,
            _listening: channel.is_some().then(|| stop.clone().drop_guard()),
        });
        if let (Some(channel), Supply::Asked { source: Asked::Postgres(postgres), runtime }) =
            (channel, &credentials.supply)
        {
            let listener = Listener {
                postgres: Arc::clone(postgres),
                channel,
                credentials: Arc::downgrade(&credentials),
                complaints,
            };
            runtime.spawn(async move {
                tokio::select! {
                    () = listener.run() => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        Ok(credentials)
    }

    /// Whether they were opened for this issuer on these terms.
    #[must_use]
    pub fn is_for(&self, issuer: &str, terms: &Terms) -> bool {
        self.issuer == issuer && self.terms == *terms
    }

    /// How tokens hang on them.
    #[must_use]
    pub const fn binding(&self) -> &Binding {
        &self.terms.binding
    }

    /// The credential of nobody, whose key verifies nothing.
    #[must_use]
    pub const fn nobody(&self) -> &Arc<Credential> {
        &self.nobody
    }

    /// What is known of `subject` at `now`.
    #[must_use]
    pub fn find(&self, subject: &str, now: crate::time::Timestamp) -> Known {
        if subject.len() > SUBJECT_BYTES_MAX {
            return Known::Unknown;
        }
        match &self.supply {
            Supply::Pushed(pushed) => pushed.find(subject),
            Supply::Asked { .. } => self.cache.find(subject, now),
        }
    }

    /// Has `subject` looked up; afterwards it can be found, whether it exists or not.
    ///
    /// # Errors
    /// When the source cannot be asked. Nothing is then known of the subject.
    pub async fn look_up(self: &Arc<Self>, subject: &str) -> Result<(), Unavailable> {
        let Supply::Asked { source, runtime } = &self.supply else { return Err(Unavailable::NotPushed) };
        let mut landed = match self.cache.board(subject) {
            Boarding::Full => return Err(Unavailable::Busy),
            Boarding::Joined(landed) => landed,
            Boarding::Begun(announce, landed) => {
                let flight = Flight { credentials: Arc::clone(self), subject: subject.to_owned() };
                let source = source.clone();
                runtime.spawn(async move {
                    let found = flight.run(&source).await;
                    // Off the list first: who comes now begins anew and is not told of the past.
                    drop(flight);
                    announce.send_replace(Some(found));
                });
                landed
            }
        };
        match landed.wait_for(Option::is_some).await.map(|it| *it) {
            Ok(Some(true)) => Ok(()),
            Ok(_) | Err(_) => Err(Unavailable::Failed),
        }
    }

    /// Takes a credential that was pushed, and returns its fingerprint.
    ///
    /// # Errors
    /// See [`PushError`].
    pub fn push(&self, subject: &str, columns: &Columns) -> Result<Box<str>, PushError> {
        let Supply::Pushed(pushed) = &self.supply else { return Err(PushError::NotPushed) };
        if subject.len() > SUBJECT_BYTES_MAX {
            return Err(PushError::SubjectTooLong);
        }
        let credential = self.derive(subject, columns)?;
        let fingerprint = credential.fingerprint.clone();
        pushed.put(subject, Some(credential)).map_err(|_| PushError::Full)?;
        (self.dropped)(Some(subject));
        Ok(fingerprint)
    }

    /// Drops what is known of `subject`. One that is looked up is looked up anew; one that was pushed is
    /// no longer anybody.
    ///
    /// # Errors
    /// [`PushError::Full`] when there is no room to remember that it is nobody.
    pub fn forget(&self, subject: &str) -> Result<(), PushError> {
        match &self.supply {
            Supply::Pushed(pushed) => pushed.put(subject, None).map_err(|_| PushError::Full)?,
            Supply::Asked { .. } => self.cache.forget(subject),
        }
        (self.dropped)(Some(subject));
        Ok(())
    }

    /// Drops everything that was looked up: anybody may have changed.
    pub fn forget_known(&self) {
        self.heard("");
    }

    /// Drops everything that was looked up. `deaf`: whether nobody will tell us of changes.
    fn forget_all(&self, deaf: bool) {
        self.cache.forget_all(deaf);
        (self.dropped)(None);
    }

    /// What the channel said: a subject, or with an empty text that anybody may have changed.
    fn heard(&self, payload: &str) {
        if payload.is_empty() {
            self.cache.forget_known();
        } else {
            self.cache.forget(payload);
        }
        (self.dropped)(Some(payload).filter(|subject| !subject.is_empty()));
    }

    fn derive(&self, subject: &str, columns: &Columns) -> Result<Credential, PushError> {
        let key = match self.terms.binding {
            Binding::Claim(_) => None,
            Binding::Key(_) => {
                let keys = KeySet::from_secret(&self.derivation.key(subject, columns)?, &[Algorithm::HS256])?;
                keys.keys().first().cloned()
            }
        };
        Ok(Credential { key, fingerprint: self.derivation.fingerprint(subject, columns)? })
    }
}

/// The credential of nobody.
fn nobody() -> Credential {
    let secret: [u8; 32] = rand::random();
    let keys = KeySet::from_secret(&Secret::new(secret.to_vec()), &[Algorithm::HS256]);
    let key = keys.ok().and_then(|keys| keys.keys().first().cloned());
    Credential { key, fingerprint: "".into() }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("issuer", &self.issuer).field("cache", &self.cache).finish_non_exhaustive()
    }
}

/// One look-up under way. However it ends, it is off the list of those.
struct Flight {
    credentials: Arc<Credentials>,
    subject: String,
}

impl Flight {
    /// Asks until an answer was not overtaken by a change, and says whether there is one.
    async fn run(&self, source: &Asked) -> bool {
        let asking = async {
            loop {
                let asked_at = self.credentials.clock.now();
                let answer = source.ask(&self.credentials.issuer, &self.subject).await?;
                let credential = match answer.as_ref().map(|columns| self.credentials.derive(&self.subject, columns)) {
                    None | Some(Err(PushError::Derive(DeriveError::NoPasswordHash))) => None,
                    Some(Ok(credential)) => Some(credential),
                    Some(Err(error)) => return Err(AskError::Unusable(error.to_string())),
                };
                let now = self.credentials.clock.now();
                if self.credentials.cache.land(&self.subject, credential, (asked_at, now)) {
                    return Ok(());
                }
            }
        };
        let outcome = timeout(source.timeout(), asking).await.unwrap_or(Err(AskError::Slow(source.timeout())));
        match outcome {
            Ok(()) => true,
            Err(error) => {
                self.credentials.complaints.complain(&self.credentials.issuer, &error);
                false
            }
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.credentials.cache.leave(&self.subject);
    }
}
