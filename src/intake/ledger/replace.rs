//! One subject in the place of another, and back.
//!
//! Both ways, whoever becomes live is cut first: what was issued under an id before does not inherit the
//! account. The order is the same as for revocations, in force, then durable, then answered, but undoing
//! loosens, and is therefore in force last of all. What is queued together becomes durable in this order
//! and at a crash breaks off in this order: the cutoff without the replacement refuses too much, never too
//! little.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::{Inner, answer};
use crate::intake::replace::{ReplaceRequest, Replaced, SOURCE, UndoRequest, Undone};
use crate::intake::{Accepted, Event, LedgerError, Reached, ReplaceError, Request, RevokeError, UndoError};
use crate::revocation::{Form, Horizons, Reason, RecordId, Replacement, Revocation, Target, TargetKind};
use crate::store::{Acknowledgement, Document, DocumentKind, DocumentWrite, Put, PutAcknowledgement, StoreError};
use crate::time::Timestamp;

/// A replacement as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    id: String,
    issuer: String,
    old: String,
    new: String,
    reason: String,
    actor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    undone: Option<StoredUndo>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredUndo {
    actor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    at: Timestamp,
}

/// Why a stored replacement is not understood: it was written by a later release.
#[derive(Debug, thiserror::Error)]
#[error("a stored replacement of a subject is not readable")]
pub struct UnreadableReplacement;

impl Stored {
    fn of(link: &Replacement, undone: Option<StoredUndo>) -> Self {
        Self {
            id: link.id.to_string(),
            issuer: link.issuer.clone(),
            old: link.old.clone(),
            new: link.new.clone(),
            reason: link.reason.name().to_owned(),
            actor: link.actor.clone(),
            note: link.note.clone(),
            at: link.at,
            undone,
        }
    }

    fn read(document: &Document) -> Result<(Replacement, Option<StoredUndo>), UnreadableReplacement> {
        let stored: Self = serde_json::from_str(&document.body).map_err(|_| UnreadableReplacement)?;
        let link = Replacement {
            id: stored.id.parse().map_err(|_| UnreadableReplacement)?,
            issuer: stored.issuer,
            old: stored.old,
            new: stored.new,
            reason: stored.reason.parse().map_err(|_| UnreadableReplacement)?,
            actor: stored.actor,
            note: stored.note,
            at: stored.at,
        };
        Ok((link, stored.undone))
    }
}

/// What another node says of the replacement of a subject.
pub(super) struct Said {
    link: Replacement,
    undone: bool,
}

impl Said {
    pub(super) fn read(document: &Document) -> Result<Self, UnreadableReplacement> {
        Stored::read(document).map(|(link, undone)| Self { link, undone: undone.is_some() })
    }

    /// Whether it takes a replacement back.
    pub(super) const fn undoes(&self) -> bool {
        self.undone
    }
}

/// What the store has under one key.
struct Found {
    revision: u64,
    said: Option<(Replacement, Option<StoredUndo>)>,
}

/// A name for a subject that has the same length for all.
fn key(issuer: &str, subject: &str) -> String {
    let mut text = (issuer.len() as u64).to_be_bytes().to_vec();
    text.extend_from_slice(issuer.as_bytes());
    text.extend_from_slice(subject.as_bytes());
    URL_SAFE_NO_PAD.encode(digest(&SHA256, &text))
}

/// A revocation that is in force and queued.
struct Cut {
    accepted: Accepted,
    stored: Acknowledgement,
}

impl Inner {
    pub(super) async fn replace(&self, request: ReplaceRequest) -> Result<Replaced, ReplaceError> {
        let horizons = self.horizons.load_full();
        let issuer = request.check(&horizons)?;
        let _turn = self.replacing.lock().await;
        let now = self.time();
        let found = self.stored_replacement(&issuer, &request.old).await.map_err(ReplaceError::Store)?;
        if let Some(id) = &request.id {
            self.check_id(id, &issuer, &request, &found).await?;
        }
        let in_force = self.map.replacements().of(&issuer, &request.old).filter(|link| link.new == request.new);
        match (&in_force, &found.said) {
            (Some(link), Some((said, None))) if **link == *said => {
                let account = self.account(&issuer, &request.old);
                let replacement = Arc::clone(link);
                return Ok(Replaced { replacement, account, cutoff: None, durable: self.survives, existing: true });
            }
            // In force and not stored: an earlier request got no further, and is made good for now.
            (Some(_), _) => {}
            (None, _) => self.map.replacements().check(&issuer, &request.old, &request.new)?,
        }
        let cutoff = self.cut(&horizons, &issuer, &request.new, request.reason, &request.actor, &request.note, now);
        let Cut { accepted, stored } = cutoff.await?;
        let link = match in_force {
            Some(link) => link,
            None => self.map.replace_subject(Replacement {
                id: request.id.unwrap_or_else(RecordId::generate),
                issuer,
                old: request.old,
                new: request.new,
                reason: request.reason,
                actor: request.actor,
                note: request.note,
                at: now,
            })?,
        };
        let written = self.put_replacement(Stored::of(&link, None), found.revision, None);
        self.tell(Event::Replaced(Arc::clone(&link)));
        let account = self.account(&link.issuer, &link.old);
        let mut replaced =
            Replaced { replacement: link, account, cutoff: Some(accepted), durable: self.survives, existing: false };
        let failed = match answer(stored.await) {
            Ok(_) => match put_answer(written.await) {
                Ok(Put::Written) => {
                    self.announce();
                    return Ok(replaced);
                }
                Ok(Put::Conflict(_)) => None,
                Err(error) => Some(error),
            },
            Err(error) => Some(error),
        };
        replaced.durable = false;
        Err(ReplaceError::NotDurable { replaced: Box::new(replaced), source: failed })
    }

    pub(super) async fn undo_replacement(&self, request: UndoRequest) -> Result<Undone, UndoError> {
        let horizons = self.horizons.load_full();
        let issuer = request.check(&horizons)?;
        let _turn = self.replacing.lock().await;
        let now = self.time();
        let unread = |error| UndoError::Store(Some(error));
        let found = self.stored_replacement(&issuer, &request.old).await.map_err(unread)?;
        let link = match (self.map.replacements().check_undo(&issuer, &request.old), found.said) {
            (Ok(link), _) => link,
            (Err(_), Some((link, Some(undone)))) => {
                let (replacement, at) = (Arc::new(link), undone.at);
                return Ok(Undone { replacement, cutoffs: Vec::new(), at, durable: self.survives, existing: true });
            }
            (Err(error), _) => return Err(error.into()),
        };
        let reason = request.reason.unwrap_or(link.reason);
        let mut cuts = Vec::with_capacity(2);
        for subject in [&link.new, &link.old] {
            let cut = self.cut(&horizons, &issuer, subject, reason, &request.actor, &request.note, now);
            cuts.push(cut.await?);
        }
        let subject = Target::new(TargetKind::Subject, issuer.as_str(), link.old.as_str());
        let cutoff = Form::Before { issued: Some(now), authenticated: None };
        let undone = StoredUndo { actor: request.actor, note: request.note, at: now };
        // Kept for as long as a copy of what it undoes could turn up.
        let forget_at = horizons.forget_at(&subject, cutoff, now).unwrap_or(now);
        let written = self.put_replacement(Stored::of(&link, Some(undone)), found.revision, Some(forget_at));
        let mut cutoffs = Vec::with_capacity(cuts.len());
        for Cut { accepted, stored } in cuts {
            answer(stored.await).map_err(unread)?;
            cutoffs.push(accepted);
        }
        match put_answer(written.await).map_err(unread)? {
            Put::Written => {}
            Put::Conflict(_) => return Err(UndoError::Store(None)),
        }
        self.announce();
        let link = self.map.undo_replacement(&issuer, &link.old)?;
        self.tell(Event::Undone(Arc::clone(&link)));
        Ok(Undone { replacement: link, cutoffs, at: now, durable: self.survives, existing: false })
    }

    /// Puts in force what another node says, if it restricts.
    pub(super) fn follow_replacement(&self, said: &Said) {
        let Said { link, undone: false } = said else { return };
        let here = self.map.replacements().of(&link.issuer, &link.old);
        if here.is_some_and(|here| *here == *link) {
            return;
        }
        if !self.map.restore_replacement(link.clone()) {
            tracing::error!(id = %link.id, "two nodes replaced subjects in ways that contradict: both are refused");
        }
        self.tell(Event::Replaced(Arc::new(link.clone())));
    }

    /// Takes a replacement back that another node took back, once that is on disk.
    pub(super) fn follow_undo(&self, said: &Said) {
        let Said { link, undone: true } = said else { return };
        // What is not in force here need not be taken back.
        if let Ok(link) = self.map.undo_replacement(&link.issuer, &link.old) {
            self.tell(Event::Undone(link));
        }
    }

    /// Puts everything in force that is stored. Nothing else is under way yet.
    pub(super) fn restore_replacements(&self) -> Result<(), LedgerError> {
        let mut unreadable = None;
        self.store.documents(DocumentKind::Replacement, &mut |document| match Stored::read(&document) {
            Ok((_, Some(_))) => {}
            Ok((link, None)) => {
                let id = link.id.clone();
                if !self.map.restore_replacement(link) {
                    tracing::error!(%id, "a replacement contradicts another one: both of its subjects are refused");
                }
            }
            Err(error) => unreadable = Some(error),
        })?;
        unreadable.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Cuts a subject now: in force when this returns, and queued.
    #[expect(clippy::too_many_arguments, reason = "a request, in the words of its two callers")]
    async fn cut(
        &self,
        horizons: &Horizons,
        issuer: &str,
        subject: &str,
        reason: Reason,
        actor: &str,
        note: &Option<String>,
        now: Timestamp,
    ) -> Result<Cut, RevokeError> {
        let target = Target::new(TargetKind::Subject, issuer, subject);
        let mut request = Request::new(target, reason, actor, SOURCE);
        // Whatever the reason: a blocked id would be of no use to its holder.
        request.block = Some(false);
        request.note.clone_from(note);
        let meaning = request.meaning(horizons, now)?;
        let revocation = Revocation {
            id: RecordId::generate(),
            target: meaning.target,
            form: meaning.form,
            reason,
            source: SOURCE,
            actor: actor.to_owned(),
            note: note.clone(),
            at: now,
            forget_at: meaning.forget_at,
        };
        let accepted = Accepted {
            id: revocation.id.clone(),
            target: revocation.target.clone(),
            form: revocation.form,
            effective_until: revocation.forget_at,
            durable: self.survives,
            existing: false,
            reached: Reached::ALONE,
        };
        let mut sequence = self.sequence.lock().await;
        let stored = self.enforce(&mut sequence, revocation)?;
        Ok(Cut { accepted, stored })
    }

    /// Whether a caller's id is free for this request.
    async fn check_id(
        &self,
        id: &RecordId,
        issuer: &str,
        request: &ReplaceRequest,
        found: &Found,
    ) -> Result<(), ReplaceError> {
        let of_another = self
            .map
            .replacements()
            .with_id(id)
            .is_some_and(|link| link.issuer != issuer || link.old != request.old || link.new != request.new);
        let undone = found.said.as_ref().is_some_and(|(link, undone)| undone.is_some() && link.id == *id);
        let asked = id.clone();
        let known = self.ask(move |store| Ok(store.find(&asked)?.is_some() || store.is_lift(&asked)?));
        if of_another || undone || known.await.map_err(ReplaceError::Store)? {
            return Err(ReplaceError::Conflict);
        }
        Ok(())
    }

    async fn stored_replacement(&self, issuer: &str, old: &str) -> Result<Found, StoreError> {
        let key = key(issuer, old);
        let document = self.ask(move |store| store.document(DocumentKind::Replacement, &key)).await?;
        let revision = document.as_ref().map_or(0, |document| document.revision);
        Ok(Found { revision, said: document.and_then(|document| Stored::read(&document).ok()) })
    }

    fn put_replacement(&self, stored: Stored, revision: u64, forget_at: Option<Timestamp>) -> PutAcknowledgement {
        let document = Document {
            kind: DocumentKind::Replacement,
            key: key(&stored.issuer, &stored.old),
            revision: revision + 1,
            // Texts and a time: nothing that JSON could not say.
            body: serde_json::to_string(&stored).unwrap_or_default(),
            forget_at,
        };
        self.store.put(vec![DocumentWrite { document, expects: Some(revision) }])
    }

    fn account(&self, issuer: &str, subject: &str) -> String {
        self.map.replacements().account(issuer, subject).map_or_else(|| subject.to_owned(), |id| id.to_string())
    }
}

/// What the store answered; a store that went away did not store.
fn put_answer<E>(answer: Result<Result<Put, StoreError>, E>) -> Result<Put, StoreError> {
    answer.unwrap_or(Err(StoreError::Stopped))
}

#[cfg(test)]
mod tests;
