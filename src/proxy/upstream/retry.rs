//! When a request is sent once more, and what of it is kept for that.
//!
//! A request that a server may have seen is only repeated when its method is idempotent (RFC 9110 §9.2.2) and
//! it has no body, so that its head is all there is to keep; when somebody still waits for the answer, and the
//! token that let it in is still honoured; and within a budget, so that servers in trouble are not asked more
//! the more they fail. What no server has seen goes to the next one freely: each is tried once.
//!
//! A kept connection may be closed by its server in the moment it is used again. That is nobody's fault and
//! costs no budget, once for each request.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use tokio::time::Instant;

use super::lease::is_bad_gateway;
use super::{ForwardError, Terms};
use crate::config::Retries;
use crate::proxy::body::RequestBody;
use crate::telemetry::{RetryResult, UpstreamMetrics};

/// Retries that are saved up at most, from busier times; in thousandths, as all of them.
const SAVED_MOST: u64 = 100_000;
/// Retries that are always there at first, and are made up for by one a second.
const RESERVE: u64 = 10_000;
/// Copies kept for the next requests, and the longest of them.
const SPARES: usize = 64;
const SPARE_FIELDS: usize = 256;
/// How long the same server is left alone before it is asked again, about; up to eight times as long when it comes to
/// that more often.
const PAUSE: Duration = Duration::from_millis(25);

/// A worker's side of what a group allows.
#[derive(Debug)]
pub(super) struct Retrying {
    rules: Retries,
    budget: Budget,
    /// Room for copies, so that a request need not make its own.
    spares: RefCell<Vec<Fields>>,
    metrics: Arc<UpstreamMetrics>,
}

type Fields = Vec<(HeaderName, HeaderValue)>;

/// A head that can be sent again, without what the gateway says in it.
#[derive(Debug)]
pub(super) struct Copy<'r> {
    method: Method,
    uri: Uri,
    fields: Fields,
    home: &'r Retrying,
}

/// The tries of one request.
pub(super) struct Tries<'r> {
    home: &'r Retrying,
    copy: Option<Copy<'r>>,
    terms: Terms<'r>,
    /// Servers that were tried, and those of them that saw nothing of the request.
    tried: Vec<usize>,
    refused: Vec<usize>,
    /// How often it was sent again, at the cost of the budget.
    again: u32,
    /// Whether a kept connection has ended under it already.
    excused: bool,
    /// Whether the present try is a repetition.
    repeats: bool,
    /// How long to wait if the same server is asked again.
    pause: Option<Duration>,
}

/// What a try came to that may be followed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setback {
    /// No answer, over a connection that was new.
    NoAnswer(ForwardError),
    /// No answer, over a connection that had been kept.
    KeptEnded(ForwardError),
    /// An answer of this status.
    Answer(StatusCode),
}

impl Retrying {
    /// Nothing sent yet.
    pub(super) fn new(rules: Retries, metrics: &Arc<UpstreamMetrics>, now: Instant) -> Self {
        let budget = Budget::new(rules.budget, now);
        Self { rules, budget, spares: RefCell::default(), metrics: Arc::clone(metrics) }
    }

    /// The tries of `request`, of which none was made yet. Its head is kept as it is, and then completed.
    pub(super) fn begin<'r>(&'r self, request: &mut Request<RequestBody>, terms: Terms<'r>) -> Tries<'r> {
        let repeatable = self.rules.attempts > 0 && request.method().is_idempotent() && request.body().is_empty();
        if self.rules.attempts > 0 {
            self.budget.deposit();
        }
        let copy = repeatable.then(|| self.copy(request));
        (terms.complete)(request.headers_mut());
        let (tried, refused) = (Vec::new(), Vec::new());
        Tries { home: self, copy, terms, tried, refused, again: 0, excused: false, repeats: false, pause: None }
    }

    fn copy(&self, request: &Request<RequestBody>) -> Copy<'_> {
        let mut fields = self.spares.borrow_mut().pop().unwrap_or_default();
        fields.extend(request.headers().iter().map(|(name, value)| (name.clone(), value.clone())));
        Copy { method: request.method().clone(), uri: request.uri().clone(), fields, home: self }
    }
}

impl Copy<'_> {
    fn request(&self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::empty());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.reserve(self.fields.len());
        for (name, value) in &self.fields {
            headers.append(name.clone(), value.clone());
        }
        request
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        let mut spares = self.home.spares.borrow_mut();
        if spares.len() < SPARES && self.fields.capacity() <= SPARE_FIELDS {
            self.fields.clear();
            spares.push(std::mem::take(&mut self.fields));
        }
    }
}

impl Tries<'_> {
    /// How long the answer to the next try may take, where the last one has `whole`.
    pub(super) fn patience(&self, whole: Duration, now: Instant) -> Duration {
        let Retries { attempts, per_try_timeout: Some(span), on, .. } = &self.home.rules else { return whole };
        let another = self.copy.is_some() && on.timeout && self.again < *attempts && self.home.budget.is_left(now);
        if another { whole.min(*span) } else { whole }
    }

    /// Servers that were tried.
    pub(super) fn tried(&self) -> &[usize] {
        &self.tried
    }

    /// With all servers tried, one may be asked a second time, if there was an answer to wait for: after which
    /// pause, and which ones not.
    pub(super) fn second_round(&mut self) -> Option<(Option<Duration>, &[usize])> {
        (self.tried.len() > self.refused.len()).then(|| (self.pause.take(), self.refused.as_slice()))
    }

    /// The server at `index` has seen nothing of the request. Whether it may go to another.
    pub(super) fn pass_over(&mut self, index: usize) -> bool {
        self.tried.push(index);
        self.refused.push(index);
        self.home.rules.on.connect_failure
    }

    /// The request once more after `setback` at the server at `index`, if it may be sent again.
    pub(super) fn again(&mut self, index: usize, setback: Setback, now: Instant) -> Option<Box<Request<RequestBody>>> {
        self.pause = None;
        let copy = self.copy.as_ref()?;
        let on = self.home.rules.on;
        let free = match setback {
            Setback::KeptEnded(ForwardError::Broken) if !self.excused => true,
            Setback::NoAnswer(ForwardError::Broken) | Setback::KeptEnded(ForwardError::Broken)
                if on.reset_before_response =>
            {
                false
            }
            Setback::NoAnswer(ForwardError::TimedOut) | Setback::KeptEnded(ForwardError::TimedOut) if on.timeout => {
                false
            }
            Setback::Answer(status) if on.gateway_errors && is_bad_gateway(status) && !self.terms.upgrades => false,
            Setback::NoAnswer(_) | Setback::KeptEnded(_) | Setback::Answer(_) => return None,
        };
        if free {
            self.excused = true;
        } else if self.again >= self.home.rules.attempts {
            return None;
        }
        if !(self.terms.still)() {
            return None;
        }
        if !free {
            if !self.home.budget.withdraw(now) {
                self.home.metrics.servers.retried(RetryResult::OverBudget);
                return None;
            }
            let pause = PAUSE * (1 << self.again.min(3));
            self.pause = Some(pause.mul_f64(0.5 + rand::random::<f64>()));
            self.again += 1;
        }
        let mut request = copy.request();
        (self.terms.complete)(request.headers_mut());
        self.tried.push(index);
        if std::mem::replace(&mut self.repeats, true) {
            self.home.metrics.servers.retried(RetryResult::Failed);
        }
        Some(Box::new(request))
    }

    /// The answer is the one to hand on.
    pub(super) fn answered(&self) {
        if self.repeats {
            self.home.metrics.servers.retried(RetryResult::Answered);
        }
    }

    /// The last try failed, and there is no other.
    pub(super) fn gave_up(&self) {
        if self.repeats {
            self.home.metrics.servers.retried(RetryResult::Failed);
        }
    }
}

/// How many retries are left: a share of the requests, and a few that are always there.
#[derive(Debug)]
struct Budget {
    /// What each request adds, in thousandths of a retry.
    share: u64,
    saved: Cell<u64>,
    reserve: Cell<u64>,
    /// When the reserve was last made up for.
    since: Cell<Instant>,
}

impl Budget {
    const fn new(share: u32, now: Instant) -> Self {
        Self { share: share as u64, saved: Cell::new(0), reserve: Cell::new(RESERVE), since: Cell::new(now) }
    }

    /// A request was sent for the first time.
    fn deposit(&self) {
        self.saved.set((self.saved.get() + self.share).min(SAVED_MOST));
    }

    fn is_left(&self, now: Instant) -> bool {
        let made_up = now.saturating_duration_since(self.since.get()).as_millis();
        let made_up = u64::try_from(made_up).unwrap_or(u64::MAX);
        if made_up > 0 {
            // A millisecond makes up for a thousandth.
            self.reserve.set(self.reserve.get().saturating_add(made_up).min(RESERVE));
            self.since.set(now);
        }
        self.saved.get() >= 1000 || self.reserve.get() >= 1000
    }

    /// Takes one retry, if one is left.
    fn withdraw(&self, now: Instant) -> bool {
        if !self.is_left(now) {
            return false;
        }
        let from = if self.saved.get() >= 1000 { &self.saved } else { &self.reserve };
        from.set(from.get() - 1000);
        true
    }
}

#[cfg(test)]
mod tests;
