//! How many of something a worker has at once, which a reload may change.

use std::cell::Cell;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places that are taken and given back. Belongs to one worker.
#[derive(Debug)]
pub(super) struct Capacity {
    places: Arc<Semaphore>,
    max: Cell<usize>,
}

impl Capacity {
    pub(super) fn new(max: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(max)), max: Cell::new(max) }
    }

    /// Changes how many there are. Of those in use none is taken away: they are gone once they are given back,
    /// before anybody else gets one.
    pub(super) fn set(&self, max: usize) {
        let before = self.max.replace(max);
        if let Some(more) = max.checked_sub(before) {
            self.places.add_permits(more);
            return;
        }
        let places = Arc::clone(&self.places);
        let fewer = u32::try_from(before - max).unwrap_or(u32::MAX);
        tokio::task::spawn_local(async move {
            if let Ok(gone) = places.acquire_many(fewer).await {
                gone.forget();
            }
        });
    }

    /// One of them, when there is one. They are given in the order they are asked for.
    pub(super) async fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// One of them, if there is one.
    pub(super) fn try_take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_in_use_are_gone_when_they_are_given_back() {
        let checked = async {
            let capacity = Capacity::new(3);
            let mut taken: Vec<_> = (0..3).filter_map(|_| capacity.try_take()).collect();
            assert!(taken.len() == 3 && capacity.try_take().is_none());
            capacity.set(1);
            for left in (0..3).rev() {
                tokio::task::yield_now().await;
                assert!(capacity.try_take().is_none(), "{left} more are in use");
                taken.pop();
            }
            tokio::task::yield_now().await;
            let one = capacity.try_take();
            assert!(one.is_some() && capacity.try_take().is_none());
            capacity.set(2);
            assert!(capacity.take().await.is_some());
        };
        tokio::task::LocalSet::new().run_until(checked).await;
    }
}
