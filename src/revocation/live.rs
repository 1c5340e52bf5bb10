//! What stays open beyond the decision that let it in: tunnels, and answers that go on and on.
//!
//! A decision is about one moment. Whoever lets something last holds a [`Handle`] on the targets of the
//! token that admitted it, and is told to ask again once anything about one of them has changed. The
//! index answers one question for a writer: who is concerned? It costs what those who are concerned
//! cost, however many others are open.
//!
//! A handle never says that something has to end: only the map and the gate say so, and a handle that
//! is lost, or an index that is gone, ends nothing.
//!
//! Nothing slips through: who holds registers first and asks the map afterwards; who writes changes the
//! map first and looks here afterwards. Both take the lock of the same shard in between, so that either
//! the one sees the write or the other sees the handle.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures_util::task::AtomicWaker;

use super::TargetRef;

/// Each with a lock of its own. A target is wholly in one of them.
const SHARDS: usize = 64;

/// Everything that is held open, by target. Bounded by the connections there may be, and each by the
/// targets that a token may have.
pub struct Live {
    shards: Box<[Mutex<Shard>]>,
    next: AtomicU64,
    open: AtomicUsize,
}

/// In order, so that those of one target are one range.
type Shard = BTreeMap<(TargetRef, u64), Arc<Doubt>>;

/// Whether a holder must ask again, and how it is woken.
#[derive(Debug, Default)]
struct Doubt {
    raised: AtomicBool,
    waker: AtomicWaker,
}

/// A hold on the targets of one token; given up when dropped.
pub struct Handle {
    live: Arc<Live>,
    targets: Box<[TargetRef]>,
    id: u64,
    doubt: Arc<Doubt>,
}

impl Live {
    pub(super) fn new() -> Self {
        Self {
            shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
            next: AtomicU64::new(0),
            open: AtomicUsize::new(0),
        }
    }

    /// Holds on to `targets`. The caller asks about the standing once it has the handle.
    #[must_use]
    pub fn hold(self: &Arc<Self>, targets: Box<[TargetRef]>) -> Handle {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let doubt = Arc::new(Doubt::default());
        for target in &targets {
            self.shard(*target).insert((*target, id), Arc::clone(&doubt));
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        Handle { live: Arc::clone(self), targets, id, doubt }
    }

    /// Tells all who hold on to `target` to ask again. What has changed is in force by now.
    pub(super) fn raise(&self, target: TargetRef) {
        // Woken without the lock: the first one awake may want it.
        let concerned: Vec<_> = {
            let shard = self.shard(target);
            let range = shard.range((target, 0)..=(target, u64::MAX));
            range.map(|(_, doubt)| Arc::clone(doubt)).collect()
        };
        for doubt in concerned {
            doubt.raised.store(true, Ordering::Release);
            doubt.waker.wake();
        }
    }

    /// How many handles there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many places in the index they take.
    #[cfg(test)]
    fn places(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap().len()).sum()
    }

    fn shard(&self, target: TargetRef) -> MutexGuard<'_, Shard> {
        self.shards[target.spread(SHARDS)].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    /// Ends once something about one of the targets has changed since this was last asked. For one task.
    pub async fn doubted(&self) {
        poll_fn(|cx| {
            self.doubt.waker.register(cx.waker());
            if self.doubt.raised.swap(false, Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        for target in &self.targets {
            self.live.shard(*target).remove(&(*target, self.id));
        }
        self.live.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("open", &self.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("id", &self.id).field("targets", &self.targets.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
