//! Undoing one revocation: the only place where anything is loosened.

use std::sync::Arc;

use super::{Inner, answer, effect};
use crate::intake::request::check_lift;
use crate::intake::{Event, LiftError, Lifted, Reached};
use crate::revocation::{Form, InForce, Lift, RecordId, Revocation, Target};
use crate::store::{Appended, Body, Kept, StoreError};
use crate::time::Timestamp;

impl Inner {
    pub(super) async fn lift(
        &self,
        id: RecordId,
        restore: bool,
        actor: String,
        note: Option<String>,
    ) -> Result<Lifted, LiftError> {
        check_lift(&actor, note.as_deref())?;
        let now = self.time();
        // Held to the end: whatever is in force and not yet on disk is queued before the tombstone, so
        // once that is on disk, the store knows all that may be in force.
        let mut sequence = self.sequence.lock().await;
        let asked = id.clone();
        let (kept, is_lift) =
            self.ask(move |store| Ok((store.find(&asked)?, store.is_lift(&asked)?))).await.map_err(LiftError::Store)?;
        let (lift, number) = match kept {
            None if is_lift => return Err(LiftError::LiftOfLift),
            None => return Err(LiftError::Unknown),
            Some(Kept { lifted: Some(lift), .. }) => {
                // The barrier: the same as for a new tombstone.
                answer(self.store.append(Vec::new()).await).map_err(LiftError::Store)?;
                (lift, None)
            }
            Some(Kept { revocation, lifted: None }) => {
                let lift = self.tombstone(revocation, now, restore, actor, note);
                let stored = self.append(&mut sequence, Body::Lift(lift.clone()));
                let outcomes = answer(stored.await).map_err(LiftError::Store)?;
                if outcomes.first() == Some(&Appended::Conflict) {
                    // Another node's came in between.
                    let kept = self.ask(move |store| store.find(&id)).await.map_err(LiftError::Store)?;
                    (kept.and_then(|it| it.lifted).ok_or(LiftError::Unknown)?, None)
                } else {
                    (lift, Some(*sequence))
                }
            }
        };
        self.loosen(lift.target.clone()).await.map_err(LiftError::Store)?;
        drop(sequence);
        let reached = match number {
            None => Reached::ALONE,
            Some(number) => {
                self.tell(Event::Lifted(Arc::new(lift.clone())));
                self.reached(number, None).await
            }
        };
        Ok(Lifted { lift, existing: number.is_none(), reached })
    }

    fn tombstone(
        &self,
        revocation: Revocation,
        now: Timestamp,
        restore: bool,
        actor: String,
        note: Option<String>,
    ) -> Lift {
        let horizons = self.horizons.load();
        let target = revocation.target;
        let leaves = (revocation.form == Form::Block && !restore).then(|| now.plus(horizons.cutoff_margin(&target)));
        // Kept until neither the revocation could come back nor the cutoff be needed.
        let cutoff = Form::Before { issued: leaves.or(Some(now)), authenticated: None };
        let forget_at = match (revocation.forget_at, horizons.forget_at(&target, cutoff, now)) {
            (Some(revocation), Some(cutoff)) => Some(revocation.max(cutoff)),
            (None, _) | (_, None) => None,
        };
        Lift { id: RecordId::generate(), of: revocation.id, target, leaves, actor, note, at: now, forget_at }
    }

    /// Makes the records of a target that are not lifted all that is in force for it.
    pub(super) async fn loosen(&self, target: Target) -> Result<(), StoreError> {
        let reference = self.map.reference(target.kind, &target.issuer, &target.value);
        let horizons = self.horizons.load_full();
        let left = self
            .ask(move |store| {
                let mut left: Option<InForce> = None;
                store.live(&target, &mut |live| {
                    let effect = effect(&live, &horizons);
                    left = Some(left.map_or(effect, |left| left.join(effect)));
                })?;
                Ok(left)
            })
            .await?;
        // A full map has no room for a target that it does not hold: then nothing was in force for it.
        let _ = self.map.replace(reference, left);
        Ok(())
    }
}
