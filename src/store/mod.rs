//! Where revocation state survives: an append-only set of immutable records, and beside them documents,
//! which change; behind one trait.
//!
//! A store never loosens anything by accident. What was acknowledged is there after a crash; what is
//! damaged, emptied, swapped or missing is an error that names the way out, never "nothing is
//! revoked"; after a failed write nothing is acknowledged any more.
//!
//! A node keeps what it says itself and what it hears from others, side by side. Two nodes may use one id,
//! so an entry is told from others by its origin and its number there.

mod document;
mod exchange;
mod lines;
mod memory;
mod other;
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
pub use self::exchange::{AdoptAcknowledgement, Adopted, Adoption, MAX_ORIGIN_BYTES, UnfitEntry, Written, WrittenWhat};
pub use self::lines::{Header, LINES_VERSION, Line, LineError, MAX_LINE_BYTES};
pub use self::memory::MemoryStore;
pub use self::other::{MAX_OTHER_BYTES, MAX_OTHER_KIND_BYTES, MAX_OTHER_TARGETS, Other};
pub use self::sqlite::{AcceptLoss, Damage, OpenError, Rebuilt, Snapshot, SqliteStore, rebuild};
use crate::revocation::{InForce, Lift, RecordId, Revocation, Target, TargetKind};
use crate::time::Timestamp;

/// What one entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A revocation.
    Revocation(Revocation),
    /// A tombstone.
    Lift(Lift),
    /// What a later release says.
    Other(Other),
}

impl Body {
    /// The id of the record.
    #[must_use]
    pub const fn id(&self) -> &RecordId {
        match self {
            Self::Revocation(it) => &it.id,
            Self::Lift(it) => &it.id,
            Self::Other(it) => &it.id,
        }
    }

    /// When it was made.
    #[must_use]
    pub const fn at(&self) -> Timestamp {
        match self {
            Self::Revocation(it) => it.at,
            Self::Lift(it) => it.at,
            Self::Other(it) => it.at,
        }
    }

    /// From when on it may be forgotten; `None`: never.
    #[must_use]
    pub const fn forget_at(&self) -> Option<Timestamp> {
        match self {
            Self::Revocation(it) => it.forget_at,
            Self::Lift(it) => it.forget_at,
            Self::Other(it) => it.forget_at,
        }
    }
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
    /// Its tombstone, one of them if there are several; without one it is in force.
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
    /// How many rows it keeps: revocations, tombstones, records of later releases, documents and settings.
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
    /// What should be kept is no entry of a store. Nothing was written.
    #[error(transparent)]
    UnfitEntry(#[from] UnfitEntry),
}

/// The answer to an append: one outcome an entry, in order, once all of them are durable.
pub type Acknowledgement = oneshot::Receiver<Result<Vec<Appended>, StoreError>>;

/// The answer to a put, once it is durable.
pub type PutAcknowledgement = oneshot::Receiver<Result<Put, StoreError>>;

/// A place where entries and documents survive.
///
/// Entries of one `append` become durable together, and so do the documents of one `put` and all of one
/// `adopt`; these in the order in which they were made. All methods but `append`, `put`, `adopt` and
/// `status` block; call them where that is allowed.
///
/// A lift lifts every record with the id it names and with its own target, whoever made it and whichever
/// came first; never a record of another target, for two nodes may have used one id for two things.
pub trait Store: Send + Sync + fmt::Debug {
    /// Which store this is: a UUID drawn when it was made, and the origin of this node's entries.
    fn store_id(&self) -> &str;

    /// The highest `origin_seq` among this node's own entries, ever.
    fn own_sequence(&self) -> u64;

    /// Queues this node's own entries to be written and returns at once. An id that another record of the
    /// sort has is a conflict, and so is a second lift of what is lifted. An empty append is a barrier: it
    /// is answered when everything appended before is durable.
    fn append(&self, entries: Vec<Entry>) -> Acknowledgement;

    /// Queues what other nodes have said, and returns at once: all of it and the settings `progress` become
    /// durable together.
    ///
    /// An entry that is there already, by origin, number and id, is [`Appended::Known`]; another with the
    /// same id is no conflict: both are kept. A document takes the place of one with a lower revision, and
    /// of one with the same revision and a smaller body (byte by byte), so that all nodes end with the same
    /// one; beyond [`MAX_DOCUMENTS`] of its kind a new one is not taken. An entry of this node's own origin
    /// (a copy was put back) counts for [`own_sequence`](Self::own_sequence).
    ///
    /// Answered with [`StoreError::UnfitEntry`] or [`StoreError::Unfit`] when any of it is nothing a store
    /// keeps: then none of it was written.
    fn adopt(
        &self,
        entries: Vec<Entry>,
        documents: Vec<Adopted>,
        progress: Vec<(String, String)>,
    ) -> AdoptAcknowledgement;

    /// What this node wrote itself, entries and documents, with a number above `after`, in the order of
    /// their numbers, at most `limit`. A document is there with its last number only.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    fn written(&self, after: u64, limit: usize) -> Result<Vec<Written>, StoreError>;

    /// Hands out every entry, whoever made it, in no particular order.
    ///
    /// # Errors
    ///
    /// When the store cannot be read: then some were not handed out.
    fn entries(&self, each: &mut dyn FnMut(Entry)) -> Result<(), StoreError>;

    /// Hands out the effect of every record that is not lifted, and of every lift that left a cutoff,
    /// in no particular order and from several threads, and verifies every record on the way. What an
    /// [`Other`] restricts is a block. Belongs before the first append.
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

    /// The revocation with this id, lifted or not; of several, one that is not lifted. An [`Other`] is
    /// not found: what it says is for a later release.
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

    /// Whether a lift of a revocation with this id and of this target is kept, whether or not the
    /// revocation still is: no other record of the target can be in force under it.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    fn is_lifted(&self, id: &RecordId, target: &Target) -> Result<bool, StoreError>;

    /// The newest revocations of a target that are not lifted, at most `limit`.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    fn of_target(&self, target: &Target, limit: usize) -> Result<Vec<Revocation>, StoreError>;

    /// At most `limit` revocations that fit the filter, newest first, from the cursor on; none of
    /// [`Other`].
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

    /// Drops at most `limit` entries and documents whose `forget_at` is before `before`, whoever made
    /// them; returns how many. A tombstone goes after everything that could go with it.
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
