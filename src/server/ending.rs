//! When a connection has to end although its client would go on: the drain, and a head that does not come.
//!
//! Both are asked about at every turn of every connection, so asking is a comparison: no lock, and no
//! timer a request.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Whether a worker, or one of its listeners, has begun to end, as its connections hear of it.
#[derive(Debug, Default)]
pub(super) struct Ending {
    begun: Cell<bool>,
    news: Notify,
    over: Cell<bool>,
    last: Notify,
}

impl Ending {
    /// Tells every connection.
    pub(super) fn begin(&self) {
        self.begun.set(true);
        self.news.notify_waiters();
    }

    /// Ends every connection that is still there.
    pub(super) fn end(&self) {
        self.over.set(true);
        self.last.notify_waiters();
    }

    /// Runs `work`, but no longer than until [`Self::end`].
    pub(super) async fn bound(&self, work: impl Future<Output = ()>) {
        let (mut work, mut last) = (pin!(work), pin!(self.last.notified()));
        let mut asked = false;
        poll_fn(|cx| {
            if !std::mem::replace(&mut asked, true) {
                // Its answer is `over` itself, which is set before anybody is woken.
                let _ = last.as_mut().poll(cx);
            }
            if self.over.get() { Poll::Ready(()) } else { work.as_mut().poll(cx) }
        })
        .await;
    }

    /// A connection's ear for it.
    pub(super) fn listener(&self) -> Listener<'_> {
        Listener { ending: self, news: Box::pin(self.news.notified()), asked: false }
    }
}

/// Hears of an [`Ending`].
#[derive(Debug)]
pub(super) struct Listener<'a> {
    ending: &'a Ending,
    news: Pin<Box<Notified<'a>>>,
    asked: bool,
}

impl Listener<'_> {
    /// Whether the end has begun. The task that asks first is woken when it does.
    pub(super) fn hears(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.asked {
            self.asked = true;
            // Its answer is `begun` itself, which is set before anybody is woken.
            let _ = self.news.as_mut().poll(cx);
        }
        self.ending.begun.get()
    }
}

/// hyper's timer for request heads. It never fires: it writes down since when a head is awaited, for whoever
/// drives the connection to see to.
#[derive(Clone, Debug)]
pub(super) struct HeadTimer {
    /// What instants are counted from.
    zero: Instant,
    /// Nanoseconds after `zero`; [`NONE`] while no head is awaited.
    since: Arc<AtomicU64>,
}

const NONE: u64 = u64::MAX;

/// What hyper is told to allow a head. Any span will do: it is taken off again.
pub(super) const HEAD: Duration = Duration::from_secs(1);

impl HeadTimer {
    /// A timer for one connection.
    pub(super) fn new() -> Self {
        Self { zero: tokio::time::Instant::now().into(), since: Arc::new(AtomicU64::new(NONE)) }
    }

    /// Since when a head is awaited.
    pub(super) fn awaited(&self) -> Option<tokio::time::Instant> {
        match self.since.load(Ordering::Relaxed) {
            NONE => None,
            nanos => Some((self.zero + Duration::from_nanos(nanos)).into()),
        }
    }

    /// Writes down that a head which is due at `deadline` is awaited.
    fn set(&self, deadline: Instant) {
        let since = deadline.checked_sub(HEAD).unwrap_or(self.zero);
        let nanos = since.saturating_duration_since(self.zero).as_nanos();
        self.since.store(u64::try_from(nanos).unwrap_or(NONE), Ordering::Relaxed);
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.set(deadline);
        Box::pin(Awaited(Arc::clone(&self.since)))
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }

    fn reset(&self, _: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        self.set(deadline);
    }
}

/// Held by hyper while it waits for a head.
struct Awaited(Arc<AtomicU64>);

impl Future for Awaited {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Sleep for Awaited {}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.store(NONE, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_listens_is_woken_when_the_end_begins() {
        let ending = Ending::default();
        let mut listener = ending.listener();
        let mut turns = 0;
        let heard = poll_fn(|cx| {
            turns += 1;
            if listener.hears(cx) { Poll::Ready(turns) } else { Poll::Pending }
        });
        let (heard, ()) = tokio::join!(heard, async { ending.begin() });
        assert_eq!(heard, 2);
        let mut late = ending.listener();
        assert!(poll_fn(|cx| Poll::Ready(late.hears(cx))).await, "who comes later hears it at once");
    }

    #[tokio::test]
    async fn what_is_bound_ends_by_itself_or_with_everything() {
        let ending = Ending::default();
        ending.bound(async {}).await;
        tokio::join!(ending.bound(std::future::pending()), async {
            tokio::task::yield_now().await;
            ending.end();
        });
        ending.bound(std::future::pending()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_awaited_from_when_the_timer_is_set_until_it_is_let_go() {
        let timer = HeadTimer::new();
        assert_eq!(timer.awaited(), None);
        let now = timer.now() + Duration::from_secs(5);
        let mut awaited = timer.sleep_until(now + HEAD);
        assert_eq!(timer.awaited(), Some(now.into()));
        let later = now + Duration::from_secs(1);
        timer.reset(&mut awaited, later + HEAD);
        assert_eq!(timer.awaited(), Some(later.into()));
        drop(awaited);
        assert_eq!(timer.awaited(), None);
    }
}
