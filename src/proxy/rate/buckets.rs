//! How far each key has used its quota up: governor's state, shared by all workers, bounded.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
use prometheus::IntCounter;

/// What is remembered of the keys of one rule.
///
/// At the bound a key that is not known yet shares one quota with all others that are not: neither does
/// memory grow, nor does a crowd of made-up keys get past the rule. Those that are known keep theirs.
#[derive(Debug)]
pub(super) struct Table {
    known: DashMap<u128, Nanos, foldhash::fast::RandomState>,
    /// How many are known. Counted here, for the map would have to be locked as a whole to tell.
    count: AtomicUsize,
    max: usize,
    /// The quota of newcomers at the bound.
    shared: Mutex<Option<Nanos>>,
    /// Counts newcomers at the bound.
    full: IntCounter,
}

impl Table {
    pub(super) fn new(max: usize, full: IntCounter) -> Self {
        Self { known: DashMap::default(), count: AtomicUsize::new(0), max, shared: Mutex::new(None), full }
    }

    fn shared(&self) -> std::sync::MutexGuard<'_, Option<Nanos>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The table, used up by whoever asks.
#[derive(Clone, Debug)]
pub(super) struct Buckets(pub(super) Arc<Table>);

/// The table, looked at only: what the answer would be.
#[derive(Clone, Debug)]
pub(super) struct Glance(pub(super) Arc<Table>);

impl StateStore for Buckets {
    type Key = u128;

    fn measure_and_replace<T, F, E>(&self, key: &u128, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let table = &*self.0;
        match table.known.entry(*key) {
            Entry::Occupied(mut known) => {
                let (outcome, next) = measure(Some(*known.get()))?;
                known.insert(next);
                Ok(outcome)
            }
            // Several that come at once may pass the bound by one each.
            Entry::Vacant(vacant) if table.count.load(Ordering::Relaxed) < table.max => {
                let (outcome, next) = measure(None)?;
                vacant.insert(next);
                table.count.fetch_add(1, Ordering::Relaxed);
                Ok(outcome)
            }
            Entry::Vacant(_) => {
                table.full.inc();
                let mut shared = table.shared();
                let (outcome, next) = measure(*shared)?;
                *shared = Some(next);
                Ok(outcome)
            }
        }
    }
}

impl ShrinkableKeyedStateStore<u128> for Buckets {
    fn retain_recent(&self, drop_below: Nanos) {
        let mut gone = 0;
        self.0.known.retain(|_, next| {
            let stays = *next > drop_below;
            gone += usize::from(!stays);
            stays
        });
        self.0.count.fetch_sub(gone, Ordering::Relaxed);
    }

    fn shrink_to_fit(&self) {
        self.0.known.shrink_to_fit();
    }

    fn len(&self) -> usize {
        self.0.count.load(Ordering::Relaxed)
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl StateStore for Glance {
    type Key = u128;

    fn measure_and_replace<T, F, E>(&self, key: &u128, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let table = &*self.0;
        let state = match table.known.get(key) {
            Some(known) => Some(*known),
            None if table.count.load(Ordering::Relaxed) < table.max => None,
            None => *table.shared(),
        };
        measure(state).map(|(outcome, _)| outcome)
    }
}
