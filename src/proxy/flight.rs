//! How many requests are in flight, and how many may be.
//!
//! Each worker counts its own against its share of a bound: no request writes what another worker reads. The
//! kernel spreads connections and not requests, so one worker may turn requests away a little before all
//! together have as many as are allowed; never after.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// The requests of one worker, in all or at one upstream. Clones count together.
#[derive(Clone, Debug, Default)]
pub(super) struct Flight {
    now: Rc<Cell<usize>>,
    max: usize,
}

impl Flight {
    /// The same requests, of which the worker may have its share of `max`: one of `workers`, and at least one.
    pub(super) fn bounded(&self, max: usize, workers: usize) -> Self {
        Self { now: Rc::clone(&self.now), max: (max / workers.max(1)).max(1) }
    }

    /// One more.
    pub(super) fn begin(&self) {
        self.now.set(self.now.get() + 1);
    }

    /// One less.
    pub(super) fn end(&self) {
        self.now.set(self.now.get().saturating_sub(1));
    }

    /// Whether there are more than there may be.
    pub(super) fn is_full(&self) -> bool {
        self.now.get() > self.max
    }
}

/// The requests that a worker has in flight, whatever generation of configuration they began under.
#[derive(Debug, Default)]
pub(super) struct Flights {
    all: Flight,
    /// By name of the upstream; as many as there ever were.
    at: RefCell<HashMap<String, Flight>>,
}

impl Flights {
    /// All of them.
    pub(super) const fn all(&self) -> &Flight {
        &self.all
    }

    /// Those at `upstream`.
    pub(super) fn at(&self, upstream: &str) -> Flight {
        self.at.borrow_mut().entry(upstream.to_owned()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_has_its_share_and_a_reload_forgets_none() {
        let all = Flight::default();
        let before = all.bounded(5, 2);
        before.begin();
        before.begin();
        assert!(!before.is_full());
        before.begin();
        assert!(before.is_full());
        let after = all.bounded(6, 2);
        assert!(!after.is_full(), "three of three");
        before.end();
        after.begin();
        after.begin();
        assert!(after.is_full());
        assert_eq!(all.bounded(1, 8).max, 1, "a worker without a share would serve nobody");
    }
}
