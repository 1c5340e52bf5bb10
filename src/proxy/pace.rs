//! How fast a client must bring the body of its request.
//!
//! Only the time in which the gateway waits for the client counts: while an upstream takes nothing, the client
//! cannot send, and is not to blame.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::body::BodyFailure;
use crate::alarm::Alarm;
use crate::config::Limits;

/// What is asked of a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How long a silence may be.
    silence: Duration,
    /// Bytes that each window of waiting must bring, and how long that is.
    least: Option<(u64, Duration)>,
    /// When the body has to be whole.
    until: Option<Instant>,
}

/// How a client has kept to it, from when it was first waited for.
#[derive(Debug)]
pub(super) struct Wait {
    pace: Pace,
    alarm: Alarm,
    /// Since when nothing has come; `None` while something does.
    since: Option<Instant>,
    /// When the present window is over, if nothing comes until then.
    window_ends: Instant,
    /// What is left of it while nothing is waited for.
    window_left: Duration,
    /// Bytes that had come when it began.
    from: u64,
}

impl Pace {
    /// What `limits` ask of the body of a request whose head was read at `started`.
    pub(super) fn new(limits: &Limits, started: std::time::Instant) -> Self {
        let window = limits.body_rate_window;
        let in_window = |rate: u64| rate.saturating_mul(window.as_millis().try_into().unwrap_or(u64::MAX)) / 1000;
        Self {
            silence: limits.body_timeout,
            least: limits.body_min_rate.map(|rate| (in_window(rate).max(1), window)),
            until: limits.request_timeout.map(|span| Instant::from_std(started) + span),
        }
    }

    /// A client is waited for, for the first time.
    pub(super) fn wait(self) -> Wait {
        let now = Instant::now();
        let window_left = self.least.map_or(Duration::ZERO, |(_, window)| window);
        Wait {
            pace: self,
            alarm: Alarm::new(self.silence.min(self.least.map_or(self.silence, |(_, window)| window))),
            since: None,
            window_ends: now,
            window_left,
            from: 0,
        }
    }
}

impl Wait {
    /// Something has come.
    pub(super) fn is_over(&mut self) {
        if self.since.take().is_some() && self.pace.least.is_some() {
            self.window_left = self.window_ends.saturating_duration_since(Instant::now());
        }
    }

    /// Nothing comes, and `received` bytes have come so far: whether that is too little, and in what way.
    pub(super) fn poll_failure(&mut self, cx: &mut Context<'_>, received: u64) -> Poll<BodyFailure> {
        let since = match self.since {
            Some(since) => since,
            None => {
                let now = Instant::now();
                self.window_ends = now + self.window_left;
                *self.since.insert(now)
            }
        };
        loop {
            let silent = since + self.pace.silence;
            let mut due = self.pace.until.map_or(silent, |until| until.min(silent));
            if self.pace.least.is_some() {
                due = due.min(self.window_ends);
            }
            self.alarm.set(Some(due));
            if self.alarm.poll_due(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if self.pace.until.is_some_and(|until| now >= until) {
                return Poll::Ready(BodyFailure::TooLate);
            }
            if now >= silent {
                return Poll::Ready(BodyFailure::Silent);
            }
            if let Some((least, window)) = self.pace.least
                && now >= self.window_ends
            {
                if received - self.from < least {
                    return Poll::Ready(BodyFailure::TooSlow);
                }
                self.from = received;
                self.window_ends = now + window;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace(silence: u64, least: Option<(u64, u64)>, until: Option<u64>) -> Pace {
        Pace {
            silence: Duration::from_secs(silence),
            least: least.map(|(bytes, window)| (bytes, Duration::from_secs(window))),
            until: until.map(|until| Instant::now() + Duration::from_secs(until)),
        }
    }

    /// What becomes of a client that brings `bytes` at the end of each `step`, and when, within two minutes.
    async fn brings(wait: &mut Wait, bytes: u64, step: Duration) -> Option<(BodyFailure, Duration)> {
        let began = Instant::now();
        let mut received = 0;
        while began.elapsed() < 120 * SECOND {
            let waiting = poll_fn(|cx| wait.poll_failure(cx, received));
            if let Ok(failure) = tokio::time::timeout(step, waiting).await {
                return Some((failure, began.elapsed()));
            }
            wait.is_over();
            received += bytes;
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn each_bound_ends_the_body_that_breaks_it() {
        for (name, pace, bytes, step, wanted) in [
            ("silence", pace(30, None, None), 1, 31 * SECOND, Some((BodyFailure::Silent, 30))),
            ("a byte now and then", pace(30, None, None), 1, 29 * SECOND, None),
            ("too little", pace(30, Some((1000, 5)), None), 1, SECOND, Some((BodyFailure::TooSlow, 5))),
            ("just enough", pace(30, Some((1000, 5)), None), 251, SECOND, None),
            ("silence under a rate", pace(3, Some((1000, 5)), None), 1, 9 * SECOND, Some((BodyFailure::Silent, 3))),
            ("too long in all", pace(30, Some((1000, 5)), Some(60)), 1000, SECOND, Some((BodyFailure::TooLate, 60))),
        ] {
            // From now on: each row before has taken its time.
            let mut wait = Pace { until: pace.until.map(|_| Instant::now() + 60 * SECOND), ..pace }.wait();
            let found = brings(&mut wait, bytes, step).await;
            assert_eq!(found, wanted.map(|(failure, at)| (failure, at * SECOND)), "{name}");
        }
    }

    /// Waiting for four of five seconds, in pieces, is no window yet.
    #[tokio::test(start_paused = true)]
    async fn time_in_which_nothing_is_waited_for_does_not_count() {
        let mut wait = pace(30, Some((1000, 5)), None).wait();
        for _ in 0..4 {
            let waiting = poll_fn(|cx| wait.poll_failure(cx, 0));
            assert!(tokio::time::timeout(SECOND, waiting).await.is_err());
            wait.is_over();
            // The upstream takes nothing meanwhile.
            tokio::time::sleep(60 * SECOND).await;
        }
        let began = Instant::now();
        let failure = poll_fn(|cx| wait.poll_failure(cx, 0)).await;
        assert_eq!((failure, began.elapsed()), (BodyFailure::TooSlow, SECOND));
    }
}
