//! Waiting for a condition, never for a time.

use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for what should have happened within two seconds.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Looks again and again until `look` finds something; panics at the deadline, naming what was awaited.
pub(crate) fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(DEADLINE, what, look)
}

/// [`until`] with a deadline of its own.
pub(crate) fn within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        thread::park_timeout(Duration::from_millis(4));
    }
}

/// A door that is opened once; whoever stands before it waits.
#[derive(Default)]
pub(crate) struct Latch {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Latch {
    pub(crate) fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    pub(crate) fn wait(&self) {
        let open = self.open.lock().unwrap();
        let (open, _) = self.opened.wait_timeout_while(open, DEADLINE, |open| !*open).unwrap();
        assert!(*open, "nobody opened the latch");
    }
}
