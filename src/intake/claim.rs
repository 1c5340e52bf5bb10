//! One request at a time for each id that callers chose.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::revocation::RecordId;

/// The ids under way. Bounded by the number of requests under way.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<HashMap<RecordId, watch::Receiver<()>>>);

/// The right to carry out a request with this id; ends when dropped.
pub(super) struct Claim {
    claims: Arc<Claims>,
    id: RecordId,
    /// Dropping it wakes whoever waits.
    _done: watch::Sender<()>,
}

impl Claims {
    /// Waits until nobody else carries out a request with this id.
    pub(super) async fn take(self: &Arc<Self>, id: &RecordId) -> Claim {
        loop {
            let mut busy = {
                let mut claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(busy) = claims.get(id) else {
                    let (done, waiting) = watch::channel(());
                    claims.insert(id.clone(), waiting);
                    return Claim { claims: Arc::clone(self), id: id.clone(), _done: done };
                };
                busy.clone()
            };
            // Nothing is ever sent: this ends, with an error, when the claim is dropped.
            while busy.changed().await.is_ok() {}
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_for_each_id() {
        let claims = Arc::new(Claims::default());
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let id: RecordId = "one".parse().unwrap();
        let other = claims.take(&"other".parse().unwrap()).await;
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let (claims, inside, most, id) =
                    (Arc::clone(&claims), Arc::clone(&inside), Arc::clone(&most), id.clone());
                tokio::spawn(async move {
                    let claim = claims.take(&id).await;
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(claim);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), 1);
        drop(other);
        assert!(claims.0.lock().unwrap().is_empty());
    }
}
