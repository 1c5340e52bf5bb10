//! Where revocation state survives: an append-only set of immutable records, and beside them documents,
//! which change; behind one trait.
//!
//! A store never loosens anything by accident. What was acknowledged is there after a crash; what is
//! damaged, emptied, swapped or missing is an error that names the way out, never "nothing is
//! revoked"; after a failed write nothing is acknowledged any more.

mod document;
mod memory;
mod record;
mod sqlite;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use tokio::sync::oneshot;

pub use self::document::{
    Document, DocumentKind, DocumentWrite, MAX_DOCUMENT_BYTES, MAX_DOCUMENT_KEY_BYTES, MAX_DOCUMENTS,
    MAX_DOCUMENTS_PER_PUT, Put, UnfitDocument,
};
pub use self::memory::MemoryStore;
pub use self::sqlite::{AcceptLoss, Damage, OpenError, SqliteStore};
use crate::revocation::{InForce, Lift, RecordId, Revocation, Target, TargetKind};
use crate::time::Timestamp;

/// What one entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A revocation.
    Revocation(Revocation),
    /// A tombstone.
    Lift(Lift),
}

/// One record with its place in the history of the node that made it.
///
/// `(origin, origin_seq)` is contiguous per origin, so that a cluster log can notice gaps; the
/// version lets a later format be told apart without guessing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node that made it.
    pub origin: String,
    /// Its number among the entries of that node, from 1 on.
    pub origin_seq: u64,
    /// The version of the record's shape; [`Entry::VERSION`] is the one written here.
    pub version: u16,
    /// What it says.
    pub body: Body,
}

impl Entry {
    /// The version written by this release.
    pub const VERSION: u16 = 1;
}

/// What became of one appended entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Another record has this id: nothing was written.
    Conflict,
    /// The same record was there already.
    Known,
    /// It is there now.
    New,
}

/// One effect in force, as the replay hands it out.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    /// The kind of target.
    pub kind: TargetKind,
    /// The issuer of the target.
    pub issuer: &'a str,
    /// The value of the target.
    pub value: &'a str,
    /// What the record does.
    pub effect: InForce,
    /// Whether this is the cutoff that a lift left behind.
    pub left_by_lift: bool,
}

/// A revocation as it is kept, with the lift that undid it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The record.
    pub revocation: Revocation,
    /// Its tombstone; without one it is in force.
    pub lifted: Option<Lift>,
}

/// Which revocations a page shows; nothing set: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this kind.
    pub kind: Option<TargetKind>,
    /// Of this issuer, by URL.
    pub issuer: Option<String>,
    /// With this value.
    pub value: Option<String>,
}

impl Filter {
    fn admits(&self, kind: TargetKind, issuer: &str, value: &str) -> bool {
        self.kind.is_none_or(|it| it == kind)
            && self.issuer.as_deref().is_none_or(|it| it == issuer)
            && self.value.as_deref().is_none_or(|it| it == value)
    }
}

/// Where a page ended; opaque to callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(u64);

/// The text is not a cursor that a page gave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor")]
pub struct InvalidCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| InvalidCursor)
    }
}

/// Some revocations, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The revocations; possibly none although there are more, when few fit the filter.
    pub items: Vec<Kept>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<Cursor>,
}

/// What a store says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStatus {
    /// `sqlite` or `memory`.
    pub engine: &'static str,
    /// Whether what it keeps outlives the process.
    pub survives: bool,
    /// Which store it is.
    pub store_id: String,
    /// The number of the newest entry.
    pub sequence: u64,
    /// How many rows it keeps: revocations, tombstones, documents and settings.
    pub records: u64,
    /// Why it no longer acknowledges anything; `None` while all is well.
    pub failure: Option<String>,
}

impl StoreStatus {
    /// Whether it still acknowledges revocations. If not, the gateway is not ready.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.failure.is_none()
    }
}

/// Why a store could not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// As many writes are under way as may be.
    #[error("too many writes are under way")]
    Busy,
    /// What it keeps is not what was written.
    #[error(transparent)]
    Damaged(Arc<OpenError>),
    /// It holds as many documents of this kind as may be. Nothing was written.
    #[error("the store holds as many documents of the kind {0:?} as may be")]
    Full(DocumentKind),
    /// A write failed, now or earlier. What reached the disk is not known, so nothing is acknowledged
    /// until the store is opened again.
    #[error("a write failed, so the store acknowledges nothing until restart")]
    NotDurable(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// It could not be read.
    #[error("the store could not be read")]
    Read(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// Its writer is gone.
    #[error("the store has stopped")]
    Stopped,
    /// What should be put is no document of a store. Nothing was written.
    #[error(transparent)]
    Unfit(#[from] UnfitDocument),
}

/// The answer to an append: one outcome an entry, in order, once all of them are durable.
pub type Acknowledgement = oneshot::Receiver<Result<Vec<Appended>, StoreError>>;

/// The answer to a put, once it is durable.
pub type PutAcknowledgement = oneshot::Receiver<Result<Put, StoreError>>;

/// A place where entries and documents survive.
///
/// Entries of one `append` become durable together, and so do the documents of one `put`; appends and
/// puts in the order in which they were made. All methods but `append`, `put` and `status` block; call
/// them where that is allowed.
pub trait Store: Send + Sync + fmt::Debug {
    /// Which store this is: a UUID drawn when it was made, and the origin of this node's entries.
    fn store_id(&self) -> &str;

    /// The highest `origin_seq` among this node's own entries, ever.
    fn own_sequence(&self) -> u64;

    /// Queues entries to be written and returns at once. An empty append is a barrier: it is answered
    /// when everything appended before is durable.
    fn append(&self, entries: Vec<Entry>) -> Acknowledgement;

    /// Hands out the effect of every record that is not lifted, and of every lift that left a cutoff,
    /// in no particular order and from several threads, and verifies every record on the way.
    /// Belongs before the first append.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] when anything is not as it was written: then what was handed out must
    /// not be relied on.
    fn replay(&self, each: &(dyn Fn(Live<'_>) + Sync)) -> Result<(), StoreError>;

    /// Hands out what [`replay`](Self::replay) would for one target.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    fn live(&self, target: &Target, each: &mut dyn FnMut(Live<'_>)) -> Result<(), StoreError>;

    /// The revocation with this id, lifted or not.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    fn find(&self, id: &RecordId) -> Result<Option<Kept>, StoreError>;

    /// Whether this is the id of a lift.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    fn is_lift(&self, id: &RecordId) -> Result<bool, StoreError>;

    /// Whether a lift of this id is kept, whether or not the revocation still is: no other record
    /// can be in force under it.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    fn is_lifted(&self, id: &RecordId) -> Result<bool, StoreError>;

    /// The newest revocations of a target that are not lifted, at most `limit`.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    fn of_target(&self, target: &Target, limit: usize) -> Result<Vec<Revocation>, StoreError>;

    /// At most `limit` revocations that fit the filter, newest first, from the cursor on.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    fn page(&self, filter: &Filter, from: Option<Cursor>, limit: usize) -> Result<Page, StoreError>;

    /// Queues documents to be written, all of them or none, and returns at once. What each expects is
    /// compared where it is written: of two puts that expect the same, one is told of the other.
    fn put(&self, writes: Vec<DocumentWrite>) -> PutAcknowledgement;

    /// The document of this kind with this key, forgotten or not as long as it is there.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    fn document(&self, kind: DocumentKind, key: &str) -> Result<Option<Document>, StoreError>;

    /// Hands out every document of a kind, in the order of their keys.
    ///
    /// # Errors
    ///
    /// When the store cannot be read: then some were not handed out.
    fn documents(&self, kind: DocumentKind, each: &mut dyn FnMut(Document)) -> Result<(), StoreError>;

    /// Drops at most `limit` entries and documents whose `forget_at` is before `before`; returns how
    /// many. A tombstone goes after everything that could go with it.
    ///
    /// # Errors
    ///
    /// When a write fails.
    fn forget(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError>;

    /// A named text that survives with the entries.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    fn setting(&self, name: &str) -> Result<Option<String>, StoreError>;

    /// Keeps a named text, durably.
    ///
    /// # Errors
    ///
    /// When a write fails.
    fn set_setting(&self, name: &str, value: &str) -> Result<(), StoreError>;

    /// What the store says about itself.
    fn status(&self) -> StoreStatus;
}

#[cfg(test)]
mod tests;
