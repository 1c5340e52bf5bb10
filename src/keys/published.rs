//! Keys that an issuer publishes, kept current in the background.
//!
//! One task fetches, on a schedule and when somebody needs a key that is not there; whoever waits for it
//! shares the attempt under way, and within the cooldown gets the outcome of the last one. So ten thousand
//! tokens a second that name keys nobody has cost one fetch a cooldown. What fails changes nothing: the
//! last good set counts until it is [`Schedule::max_stale`] old, and then none does. What a new set has
//! not is gone at once.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::FutureExt;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::fetch::{Bounds, Client, FetchError, Trust};
use super::publication::{Fetched, Wanted, judge};
use super::{JSON_BYTES_MAX, KeySet, Publication, RefreshError};
use crate::time::{Clock, Timestamp};
use crate::token::Algorithm;

/// When keys are fetched, and for how long they count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// How often they are fetched. A server that calls them fresh for less is asked sooner.
    pub refresh: Duration,
    /// The least time between the beginnings of two fetches, whatever happens.
    pub cooldown: Duration,
    /// How long one fetch may take, metadata included.
    pub timeout: Duration,
    /// How old the last good set may be; older, it counts no more.
    pub max_stale: Duration,
}

/// Whose keys they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// The config name, for the log.
    pub name: String,
    /// The `iss`.
    pub url: String,
    /// Algorithms that its keys may be bound to.
    pub algorithms: Vec<Algorithm>,
    /// Where it publishes them.
    pub publication: Publication,
    /// Whether keys may come unprotected from another machine.
    pub allow_http: bool,
    /// When they are fetched.
    pub schedule: Schedule,
    /// The PEM text of the one authority to be believed; none: the system's.
    pub authority: Option<String>,
}

/// The last good set, as it was published: what is kept for a start without the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastGood {
    /// The text.
    pub text: String,
    /// When it was fetched.
    pub fetched: Timestamp,
}

/// Who hears what becomes of fetches. Called by the task that fetches.
pub trait Listener: Send + Sync + fmt::Debug {
    /// Other keys are in force than before: whatever was judged by them must be judged again.
    fn changed(&self);

    /// A fetch has ended.
    fn ended(&self, outcome: Result<(), &RefreshError>);

    /// Puts a good set away, for a start when its server cannot be reached. Returns whether it is safe.
    fn keep<'a>(&'a self, good: &'a LastGood) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>>;
}

/// What came of asking for newer keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// The keys in force are as they are published, as of a cooldown ago at most.
    Current,
    /// They cannot be fetched.
    Unavailable,
}

/// How it stands with the keys, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// When the set in force was fetched.
    pub fetched: Option<Timestamp>,
    /// Whether the last fetch was good; none: there was none.
    pub last_fetch_good: Option<bool>,
}

/// The published keys of one issuer. Ends its task when dropped.
#[derive(Debug)]
pub struct Published {
    inner: Arc<Inner>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Inner {
    issuer: Issuer,
    client: Client,
    keys: Arc<ArcSwap<KeySet>>,
    last_good: ArcSwapOption<LastGood>,
    /// When the set that was put away was fetched; none: it is not the one in force.
    kept: Mutex<Option<Timestamp>>,
    attempts: watch::Sender<Attempts>,
    asked: Notify,
    clock: Clock,
    listener: Arc<dyn Listener>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Attempts {
    ended: u64,
    running: bool,
    began: Option<Instant>,
    good: bool,
}

impl Published {
    /// Keys of `issuer`, none of them known yet. Fetches nothing before [`Self::start`].
    #[must_use]
    pub fn new(issuer: Issuer, trust: &Trust, clock: Clock, listener: Arc<dyn Listener>) -> Self {
        let bounds = Bounds {
            timeout: issuer.schedule.timeout,
            body_bytes: JSON_BYTES_MAX,
            // A connection of its own for each: names are looked up anew, and a fetch is rare.
            idle_connections: 0,
        };
        let inner = Inner {
            client: Client::new(trust, bounds),
            keys: Arc::new(ArcSwap::from_pointee(KeySet::unknown())),
            last_good: ArcSwapOption::empty(),
            kept: Mutex::new(None),
            attempts: watch::Sender::new(Attempts::default()),
            asked: Notify::new(),
            clock,
            listener,
            issuer,
        };
        Self { inner: Arc::new(inner), task: Mutex::new(None) }
    }

    /// Whose keys they are.
    #[must_use]
    pub fn issuer(&self) -> &Issuer {
        &self.inner.issuer
    }

    /// The keys in force, where the gate reads them.
    #[must_use]
    pub fn keys(&self) -> Arc<ArcSwap<KeySet>> {
        Arc::clone(&self.inner.keys)
    }

    /// The last good set, to be taken over by whoever comes after.
    #[must_use]
    pub fn last_good(&self) -> Option<LastGood> {
        self.inner.last_good.load_full().map(|good| LastGood::clone(&good))
    }

    /// How it stands with them.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let attempts = *self.inner.attempts.borrow();
        Standing {
            fetched: self.inner.last_good.load().as_ref().map(|good| good.fetched),
            last_fetch_good: (attempts.ended > 0).then_some(attempts.good),
        }
    }

    /// Whether it has been started.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.task.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Begins to fetch, at once and then on schedule; until then `kept` counts, if it is still good and
    /// not too old. Does nothing when started before. Needs a runtime, whose thread it then lives on.
    pub fn start(&self, kept: Option<LastGood>) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.is_some() {
            return;
        }
        if let Some(kept) = kept {
            self.inner.restore(kept);
        }
        *task = Some(tokio::spawn(Arc::clone(&self.inner).keep_current()));
    }

    /// Has newer keys fetched, unless that has just been done.
    pub async fn renew(&self) -> Renewed {
        let mut attempts = self.inner.attempts.subscribe();
        let seen = *attempts.borrow_and_update();
        if !seen.running {
            if seen.began.is_some_and(|began| began.elapsed() < self.inner.issuer.schedule.cooldown) {
                return seen.verdict();
            }
            self.inner.asked.notify_one();
        }
        match attempts.wait_for(|now| now.ended > seen.ended).await {
            Ok(now) => now.verdict(),
            // Does not happen: the sender lives as long as this.
            Err(_) => Renewed::Unavailable,
        }
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task {
            task.abort();
        }
    }
}

impl Attempts {
    const fn verdict(&self) -> Renewed {
        if self.good { Renewed::Current } else { Renewed::Unavailable }
    }
}

impl Inner {
    /// Fetches for ever.
    async fn keep_current(self: Arc<Self>) {
        let Schedule { cooldown, .. } = self.issuer.schedule;
        let mut failures = 0;
        loop {
            // Whoever asked until now is answered by this attempt.
            let _ = self.asked.notified().now_or_never();
            let began = Instant::now();
            self.attempts.send_modify(|attempts| {
                attempts.running = true;
                attempts.began = Some(began);
            });
            let outcome = self.attempt().await;
            failures = if outcome.is_ok() { 0 } else { failures + 1_u32 };
            self.listener.ended(outcome.as_ref().map(drop));
            self.attempts.send_modify(|attempts| {
                attempts.running = false;
                attempts.ended += 1;
                attempts.good = outcome.is_ok();
            });
            let pause = match outcome {
                Ok(max_age) => {
                    self.put_away().await;
                    self.issuer.schedule.pause(max_age)
                }
                Err(error) => {
                    self.complain(&error);
                    self.issuer.schedule.pause_after(failures)
                }
            };
            sleep_until(began + cooldown).await;
            tokio::select! {
                () = sleep_until(began + jitter(pause)) => {}
                () = self.asked.notified() => {}
            }
        }
    }

    /// Fetches once, and puts what came in force.
    async fn attempt(&self) -> Result<Option<Duration>, RefreshError> {
        let issuer = &self.issuer;
        let wanted = Wanted { issuer: &issuer.url, algorithms: &issuer.algorithms, allow_http: issuer.allow_http };
        let limit = issuer.schedule.timeout;
        let reading = tokio::time::timeout(limit, issuer.publication.read(&self.client, wanted));
        let fetched = reading.await.unwrap_or(Err(RefreshError::Fetch(FetchError::Timeout(limit))))?;
        let Fetched { keys, text, max_age } = fetched;
        let now = self.clock.now();
        if self.put_in_force(keys, now) {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        self.last_good.store(Some(Arc::new(LastGood { text, fetched: now })));
        Ok(max_age)
    }

    /// Keeps the set in force, if it is another than was kept, or that one's age has become misleading:
    /// it is told to within an eighth of what it may be, which spares a write for each fetch.
    async fn put_away(&self) {
        let Some(good) = self.last_good.load_full() else { return };
        let kept = *self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_some_and(|kept| good.fetched.since(kept) <= self.issuer.schedule.max_stale / 8) {
            return;
        }
        if self.listener.keep(&good).await {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(good.fetched);
        }
    }

    /// Returns whether the keys are others than before.
    fn put_in_force(&self, keys: KeySet, fetched: Timestamp) -> bool {
        let keys = keys.counting_until(fetched.plus(self.issuer.schedule.max_stale));
        let changed = !self.keys.load().has_same_keys(&keys);
        if changed {
            for refused in keys.refused() {
                let key_id = refused.key_id.as_deref().unwrap_or("none");
                tracing::warn!(issuer = self.issuer.name, key_id, why = %refused.why, "a key is not used");
            }
        }
        self.keys.store(Arc::new(keys));
        if changed {
            // After the swap: what is judged from now on is judged by the new keys.
            self.listener.changed();
            tracing::info!(issuer = self.issuer.name, "other keys are in force");
        }
        changed
    }

    fn restore(&self, kept: LastGood) {
        match judge(&kept.text, &self.issuer.algorithms) {
            Ok(keys) => {
                // A clock that was set back must not make old keys young.
                let fetched = kept.fetched.min(self.clock.now());
                self.put_in_force(keys, fetched);
                *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(fetched);
                self.last_good.store(Some(Arc::new(LastGood { fetched, ..kept })));
            }
            Err(error) => {
                tracing::warn!(issuer = self.issuer.name, %error, "the keys that were kept are not used");
            }
        }
    }

    fn complain(&self, error: &RefreshError) {
        let cause = std::error::Error::source(error);
        let causes = std::iter::successors(cause, |cause| cause.source()).map(|cause| format!(": {cause}"));
        let source = self.issuer.publication.endpoint();
        let why = std::iter::once(error.to_string()).chain(causes).collect::<String>();
        let until = self.keys.load().until();
        tracing::error!(issuer = self.issuer.name, %source, why, %until, "failed to refresh the keys");
    }
}

impl Schedule {
    /// Until when the next fetch waits after a good one.
    fn pause(&self, max_age: Option<Duration>) -> Duration {
        max_age.unwrap_or(self.refresh).clamp(self.cooldown.min(self.refresh), self.refresh)
    }

    /// Until when it waits after this many failures in a row: longer each time, never past `refresh`.
    fn pause_after(&self, failures: u32) -> Duration {
        let factor = 1_u32 << failures.saturating_sub(1).min(16);
        self.cooldown.saturating_mul(factor).min(self.refresh)
    }
}

/// `pause` less up to a tenth: gateways started together do not ask together for ever.
fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(1.0 - rand::random::<f64>() / 10.0)
}

#[cfg(test)]
mod tests;
