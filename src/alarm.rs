//! A deadline that moves all the time and is hardly ever reached.
//!
//! Most waits of a proxy end long before their limit. Setting a timer of the runtime for each of them, and
//! taking it back, would cost more than what is waited for. Here the timer is set once and left alone while
//! the deadline moves on; when it fires too early, it is set again to where the deadline then is.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep};

/// A deadline that costs a comparison to move, and a timer only once in the time it allows.
#[derive(Debug)]
pub(crate) struct Alarm {
    /// The deadline; `None` while nothing is waited for.
    due: Option<Instant>,
    /// Fires at the deadline or before it.
    timer: Pin<Box<Sleep>>,
    /// Who will be woken when the timer fires.
    asked: Option<Waker>,
}

impl Alarm {
    /// An alarm that is not set. Its timer first fires after `span`, the time usually allowed.
    pub(crate) fn new(span: Duration) -> Self {
        Self { due: None, timer: Box::pin(sleep(span)), asked: None }
    }

    /// Sets or moves the deadline; `None` takes it back.
    pub(crate) fn set(&mut self, due: Option<Instant>) {
        self.due = due;
    }

    /// Ready once the deadline has passed. While none is set, nobody is woken for one.
    pub(crate) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due else { return Poll::Pending };
        if due < self.timer.deadline() {
            self.reset(due);
        }
        loop {
            let known = self.asked.as_ref().is_some_and(|asked| asked.will_wake(cx.waker()));
            if known && !self.timer.is_elapsed() {
                return Poll::Pending;
            }
            // A task that has used up its turn is not heard: it is woken at once, and asks again.
            let heard = coop::has_budget_remaining();
            if self.timer.as_mut().poll(cx).is_pending() {
                self.asked = heard.then(|| cx.waker().clone());
                return Poll::Pending;
            }
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            self.reset(due);
        }
    }

    fn reset(&mut self, due: Instant) {
        self.timer.as_mut().reset(due);
        self.asked = None;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn rings(alarm: &mut Alarm) -> Duration {
        let began = Instant::now();
        poll_fn(|cx| alarm.poll_due(cx)).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn it_rings_at_its_deadline_wherever_the_timer_stood() {
        for (span, due) in [(SECOND, SECOND), (SECOND, 3 * SECOND), (5 * SECOND, SECOND)] {
            let mut alarm = Alarm::new(span);
            alarm.set(Some(Instant::now() + due));
            assert_eq!(rings(&mut alarm).await, due, "a timer at {span:?}");
            // And again, now that the timer has fired.
            alarm.set(Some(Instant::now() + due));
            assert_eq!(rings(&mut alarm).await, due, "the second time");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_on_is_not_rung_for() {
        let mut alarm = Alarm::new(SECOND);
        let began = Instant::now();
        for _ in 0..10 {
            alarm.set(Some(Instant::now() + SECOND));
            tokio::select! {
                () = poll_fn(|cx| alarm.poll_due(cx)) => panic!("it rang at {:?}", began.elapsed()),
                () = sleep(SECOND / 2) => {}
            }
        }
        alarm.set(None);
        let rung = tokio::time::timeout(10 * SECOND, poll_fn(|cx| alarm.poll_due(cx))).await;
        assert!(rung.is_err(), "taken back");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_last_is_woken() {
        let mut alarm = Alarm::new(SECOND);
        alarm.set(Some(Instant::now() + SECOND));
        // Another task asks first and goes away.
        let mut alarm = tokio::spawn(async move {
            poll_fn(|cx| {
                assert!(alarm.poll_due(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            alarm
        })
        .await
        .unwrap();
        assert_eq!(rings(&mut alarm).await, SECOND);
    }
}
