//! What a caller asks for who wants one subject in the place of another, and what they are told.

use std::sync::Arc;

use super::request::{check_length, check_lift};
use super::{Accepted, InvalidRequest, RevokeError};
use crate::revocation::{Horizons, InvalidReplacement, InvalidUndo, Reason, RecordId, Replacement, Source, TargetKind};
use crate::store::StoreError;
use crate::time::Timestamp;

/// Longest subject: no token with a longer one is read.
const MAX_SUBJECT: usize = 1024;

/// A request to put one subject in the place of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplaceRequest {
    /// The issuer of both, by its URL or its config name.
    pub issuer: String,
    /// The `sub` that is given up.
    pub old: String,
    /// The `sub` in its place.
    pub new: String,
    /// Why.
    pub reason: Reason,
    /// Who asks, at most 1 KiB.
    pub actor: String,
    /// A remark, at most 4 KiB.
    pub note: Option<String>,
    /// The caller's `Idempotency-Key`.
    pub id: Option<RecordId>,
}

/// A request to take the replacement of a subject back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndoRequest {
    /// The issuer, by its URL or its config name.
    pub issuer: String,
    /// The `sub` that was given up.
    pub old: String,
    /// Why; without one, for the reason that it was replaced for.
    pub reason: Option<Reason>,
    /// Who asks, at most 1 KiB.
    pub actor: String,
    /// A remark, at most 4 KiB.
    pub note: Option<String>,
}

impl ReplaceRequest {
    /// The URL of the issuer, if all else is as it may be.
    pub(super) fn check(&self, horizons: &Horizons) -> Result<String, InvalidRequest> {
        check_lift(&self.actor, self.note.as_deref())?;
        check_subject("by", &self.new)?;
        resolve(&self.issuer, &self.old, horizons)
    }
}

impl UndoRequest {
    /// The URL of the issuer, if all else is as it may be.
    pub(super) fn check(&self, horizons: &Horizons) -> Result<String, InvalidRequest> {
        check_lift(&self.actor, self.note.as_deref())?;
        resolve(&self.issuer, &self.old, horizons)
    }
}

fn resolve(issuer: &str, subject: &str, horizons: &Horizons) -> Result<String, InvalidRequest> {
    check_subject("subject", subject)?;
    horizons.resolve(issuer).map(str::to_owned).map_err(|_| InvalidRequest::UnknownIssuer)
}

const fn check_subject(field: &'static str, subject: &str) -> Result<(), InvalidRequest> {
    if subject.is_empty() {
        return Err(InvalidRequest::MissingValue(TargetKind::Subject));
    }
    check_length(field, subject, MAX_SUBJECT)
}

/// A replacement in force, and the cutoff of the new id that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// What is in force.
    pub replacement: Arc<Replacement>,
    /// The first id of the chain.
    pub account: String,
    /// The cutoff of the new id; none when it was replaced before.
    pub cutoff: Option<Accepted>,
    /// Whether it is on disk. In force it is in any case.
    pub durable: bool,
    /// Whether an earlier request had made it.
    pub existing: bool,
}

/// A replacement that was taken back, and the cutoffs of both ids that belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undone {
    /// What was in force.
    pub replacement: Arc<Replacement>,
    /// The cutoffs of the old id and the new one; none when it had been undone before.
    pub cutoffs: Vec<Accepted>,
    /// When it was undone.
    pub at: Timestamp,
    /// Whether that is on disk, and survives a restart.
    pub durable: bool,
    /// Whether it had been undone before.
    pub existing: bool,
}

/// Why a subject was not replaced, or not for good.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReplaceError {
    /// 409: it does not fit the chains there are.
    #[error(transparent)]
    Chain(#[from] InvalidReplacement),
    /// 409: the id was used for something else, or what it was used for has been undone.
    #[error("the id was used before, for something else or for what has been undone since")]
    Conflict,
    /// 503: the cutoff of the new id found no room; nothing was done.
    #[error(transparent)]
    Cutoff(#[from] RevokeError),
    /// 400 or 422.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// 503 `store_not_durable`: in force on this node until it restarts.
    #[error("in force on this node until it restarts, but not stored")]
    NotDurable {
        /// What is in force.
        replaced: Box<Replaced>,
        /// Why it is not stored; `None`: another write came first.
        source: Option<StoreError>,
    },
    /// 503: the store could not be asked; nothing was done.
    #[error("the store could not be asked")]
    Store(#[source] StoreError),
}

/// Why a replacement was not taken back. It is still in force; the cutoffs may be as well.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UndoError {
    /// 404 or 409.
    #[error(transparent)]
    Chain(#[from] InvalidUndo),
    /// 503: a cutoff found no room.
    #[error(transparent)]
    Cutoff(#[from] RevokeError),
    /// 400 or 422.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// 503: it was not stored; `None`: another write came first.
    #[error("the replacement stays in force: undoing it was not stored")]
    Store(#[source] Option<StoreError>),
}

/// By which door replacements come: operators alone make them.
pub(super) const SOURCE: Source = Source::Admin;
