//! Taking new limits, without bringing back what the old ones let be forgotten.

use std::sync::{Arc, PoisonError};

use super::{Inner, answer};
use crate::intake::{LedgerError, limits};
use crate::revocation::{Horizons, Reason, RecordId, Revocation, Source};

impl Inner {
    /// Compares with the limits that records were forgotten by, and takes the new ones.
    pub(super) fn change_limits(&self, horizons: Horizons) -> Result<(), LedgerError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let before = self.limits.load_full();
        let (limits, raises) = before.change(&horizons, now);
        for raise in raises {
            let revocation = Revocation {
                id: RecordId::generate(),
                forget_at: horizons.forget_at(&raise.issuer, raise.form, now),
                target: raise.issuer,
                form: raise.form,
                reason: Reason::Admin,
                source: Source::Gateway,
                actor: "gateway".to_owned(),
                note: Some("a limit was raised: what the old one let be forgotten stays refused".to_owned()),
                at: now,
            };
            let stored = {
                let mut sequence = wait(self.sequence.lock());
                self.enforce(&mut sequence, revocation)?
            };
            answer(wait(stored))?;
        }
        if limits != *before {
            let text = serde_json::to_string(&limits).map_err(LedgerError::Limits)?;
            self.store.set_setting(limits::SETTING, &text)?;
            self.limits.store(Arc::new(limits));
        }
        self.horizons.store(Arc::new(horizons));
        Ok(())
    }
}

/// Waits for something that others complete, without a runtime.
fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::park();
    }
}
