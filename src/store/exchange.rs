//! What nodes tell each other: the entries and documents of others, taken in as they came.
//!
//! All of it is a set that only grows, but for what has lapsed: entries are never changed, and of two
//! documents one takes the place of the other whichever came first. So it does not matter in which order,
//! or how often, a node hears of something, and nodes that heard of the same hold the same.

use tokio::sync::oneshot;

use super::other::{MAX_OTHER_BYTES, MAX_OTHER_KIND_BYTES, MAX_OTHER_TARGETS, Other};
use super::{Appended, Body, Document, Entry, StoreError, document};
use crate::time::Timestamp;

/// Longest name of an origin, in bytes. A longer one is refused.
pub const MAX_ORIGIN_BYTES: usize = 128;

/// A document as another node wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// The node that wrote it.
    pub origin: String,
    /// What it wrote.
    pub document: Document,
}

impl Adopted {
    /// Whether this takes the place of what is there: by an order of all that a document says, so that
    /// nodes that heard of the same hold the same, whichever came first.
    pub(super) fn replaces(&self, there: &Document) -> bool {
        rank(&self.document) > rank(there)
    }
}

/// The revision, what it says, and how long it is kept; what stays for ever is kept longest.
fn rank(it: &Document) -> (u64, &[u8], i64) {
    (it.revision, it.body.as_bytes(), it.forget_at.map_or(i64::MAX, Timestamp::millis))
}

/// What became of what was adopted, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Of each entry: new, or known.
    pub entries: Vec<Appended>,
    /// Of each document: whether it took its place.
    pub documents: Vec<bool>,
}

/// The answer to an adoption, once all of it is durable.
pub type AdoptAcknowledgement = oneshot::Receiver<Result<Adoption, StoreError>>;

/// Something that this node wrote itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its number in this store.
    pub seq: u64,
    /// What it wrote.
    pub what: WrittenWhat,
}

/// What a node wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum WrittenWhat {
    Entry(Entry),
    Document(Document),
}

/// Why what should be kept is no entry of a store, whatever it holds. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum UnfitEntry {
    #[error("the number of an entry is not one that can be stored")]
    Number,
    #[error("the origin has not 1 to {MAX_ORIGIN_BYTES} bytes")]
    Origin,
    #[error("the kind of a record has not 1 to {MAX_OTHER_KIND_BYTES} bytes")]
    Kind,
    #[error("a record is longer than {MAX_OTHER_BYTES} bytes")]
    TooLong,
    #[error("a record restricts more than {MAX_OTHER_TARGETS} targets")]
    TooManyTargets,
    #[error("the version of an entry is later than this release knows")]
    Version,
}

/// Refuses entries that no store takes.
pub(super) fn check_entries(entries: &[Entry]) -> Result<(), UnfitEntry> {
    entries.iter().try_for_each(check_entry)
}

/// Refuses an entry that no store takes.
pub(super) fn check_entry(entry: &Entry) -> Result<(), UnfitEntry> {
    check_origin(&entry.origin)?;
    if entry.origin_seq == 0 || i64::try_from(entry.origin_seq).is_err() {
        return Err(UnfitEntry::Number);
    }
    match &entry.body {
        Body::Other(other) => check_other(other),
        // It would be read as what it is not, or not at all.
        Body::Revocation(_) | Body::Lift(_) if entry.version > Entry::VERSION => Err(UnfitEntry::Version),
        Body::Revocation(_) | Body::Lift(_) => Ok(()),
    }
}

fn check_origin(origin: &str) -> Result<(), UnfitEntry> {
    if (1..=MAX_ORIGIN_BYTES).contains(&origin.len()) { Ok(()) } else { Err(UnfitEntry::Origin) }
}

fn check_other(other: &Other) -> Result<(), UnfitEntry> {
    if !(1..=MAX_OTHER_KIND_BYTES).contains(&other.kind.len()) {
        return Err(UnfitEntry::Kind);
    }
    if other.says.len() > MAX_OTHER_BYTES {
        return Err(UnfitEntry::TooLong);
    }
    if other.restricts.len() > MAX_OTHER_TARGETS {
        return Err(UnfitEntry::TooManyTargets);
    }
    Ok(())
}

/// Refuses a document that no store adopts.
pub(super) fn check_document(adopted: &Adopted) -> Result<(), StoreError> {
    check_origin(&adopted.origin)?;
    Ok(document::check_one(&adopted.document)?)
}

/// Refuses what no store adopts.
pub(super) fn check(entries: &[Entry], documents: &[Adopted]) -> Result<(), StoreError> {
    check_entries(entries)?;
    documents.iter().try_for_each(check_document)
}
