//! What callers are told.

use std::sync::Arc;

use super::{InvalidRequest, Reached, Unreachable, UnreadableReplacement};
use crate::revocation::{Form, Full, Lift, RecordId, Replacement, Revocation, Target};
use crate::store::StoreError;
use crate::time::Timestamp;

/// What was accepted, saying what was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The id of the record.
    pub id: RecordId,
    /// What it names; the issuer by URL.
    pub target: Target,
    /// What it does.
    pub form: Form,
    /// Until when it is remembered; `None`: until lifted.
    pub effective_until: Option<Timestamp>,
    /// Whether it is on disk. In force it is in any case.
    pub durable: bool,
    /// Whether an earlier request with this id had made it.
    pub existing: bool,
    /// How far it has come on its way to the other nodes.
    pub reached: Reached,
}

/// Why nothing was revoked, or not for good.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RevokeError {
    /// 503: too many requests are under way; nothing was done.
    #[error("too many revocations are under way")]
    Busy,
    /// 409: the id was used for something else.
    #[error("the id was used before, for another revocation")]
    Conflict,
    /// 503: no room for another target; nothing was done.
    #[error(transparent)]
    Full(#[from] Full),
    /// 400 or 422.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// 503 `store_not_durable`: in force on this node until it restarts.
    #[error("in force on this node until it restarts, but not stored")]
    NotDurable {
        /// What is in force.
        accepted: Box<Accepted>,
        /// Why it is not stored.
        source: StoreError,
    },
    /// 503: the store could not be asked whether the id was used; nothing was done.
    #[error("the store could not be asked")]
    Store(#[source] StoreError),
}

/// What a lift did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifted {
    /// The tombstone.
    pub lift: Lift,
    /// Whether the revocation had been lifted before.
    pub existing: bool,
    /// How far the tombstone has come on its way to the other nodes.
    pub reached: Reached,
}

/// Why nothing was lifted. What was in force still is.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LiftError {
    /// 400.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// 422: a lift cannot be lifted; revoke again.
    #[error("this is the id of a lift: to undo it, revoke again")]
    LiftOfLift,
    /// 503: the tombstone was not stored, or the store could not be read.
    #[error("the lift was not carried out")]
    Store(#[source] StoreError),
    /// 404.
    #[error("no revocation has this id")]
    Unknown,
}

/// Why a ledger was not opened, or new limits were not taken. Read as "failed to load the
/// revocations: {self}".
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// `revocation.max_entries` is below what is stored. Nothing is dropped, so nothing starts.
    #[error("more revocations are stored than `revocation.max_entries` allows")]
    Full(#[from] Full),
    /// The limits kept with the records are not readable.
    #[error("the limits kept in the store are not readable")]
    Limits(#[source] serde_json::Error),
    /// A replacement of a subject is not readable.
    #[error(transparent)]
    Replacement(#[from] UnreadableReplacement),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a document was not put where all nodes agree.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ExchangeError {
    /// It is not on disk here.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The place could not be asked.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
}

/// Why what another node said was not taken in. This node is then not up to date.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FollowError {
    /// `revocation.max_entries` is below what the cluster has.
    #[error("the cluster has more revocations than `revocation.max_entries` allows here")]
    Full(#[from] Full),
    /// It is not on disk here.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Something that came into force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A revocation.
    Revoked(Arc<Revocation>),
    /// A lift.
    Lifted(Arc<Lift>),
    /// A subject that was replaced; its new id was cut before.
    Replaced(Arc<Replacement>),
    /// A replacement that was undone; both ids were cut before.
    Undone(Arc<Replacement>),
}

/// What a sweep dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Targets out of the map.
    pub targets: usize,
    /// Entries out of the store.
    pub records: usize,
}
