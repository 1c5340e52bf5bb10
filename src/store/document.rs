//! Documents: small values that change, beside the records that never do.
//!
//! A record says what somebody decided and stays as it is; a document says how something stands, and
//! each write replaces the one before. What a write expects of it is asked where it is written, inside
//! the transaction, so of two that expect the same only one comes through.

use std::collections::HashSet;

use super::StoreError;
use super::record::{Canonical, Unreadable, checksum};
use crate::time::Timestamp;

/// Longest body. A longer one is refused: a document is one row, read and written whole.
pub const MAX_DOCUMENT_BYTES: usize = 64 * 1024;
/// Longest key. A longer one is refused.
pub const MAX_DOCUMENT_KEY_BYTES: usize = 512;
/// Documents of one kind. Beyond it a new one is refused until others were forgotten; those that are
/// there can still be replaced.
pub const MAX_DOCUMENTS: u64 = 1_000_000;
/// Documents in one put, which is never cut in two. More are refused.
pub const MAX_DOCUMENTS_PER_PUT: usize = 1_000;

/// What a document is about. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DocumentKind {
    /// The refresh tokens of a session, by session id.
    Family = 1,
    /// An open session.
    Session = 2,
    /// The subject that took the place of another.
    Replacement = 3,
    /// What is known of a key.
    Key = 4,
}

impl DocumentKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Family, Self::Session, Self::Replacement, Self::Key];

    /// The name in exported lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Family => "family",
            Self::Session => "session",
            Self::Replacement => "replacement",
            Self::Key => "key",
        }
    }

    /// Its place in [`ALL`](Self::ALL).
    pub(super) const fn place(self) -> usize {
        self as usize - 1
    }

    pub(super) fn numbered(number: i64) -> Result<Self, Unreadable> {
        Self::ALL.into_iter().find(|kind| *kind as i64 == number).ok_or(Unreadable)
    }
}

/// A small value that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What it is about.
    pub kind: DocumentKind,
    /// Which one of its kind.
    pub key: String,
    /// Grows with every write, from 1 on.
    pub revision: u64,
    /// What it says, as JSON.
    pub body: String,
    /// From when on it means nothing and may be dropped, some time later: whoever reads it asks
    /// whether that has passed. `None`: never. A document is deleted by a write that sets it.
    pub forget_at: Option<Timestamp>,
}

impl Document {
    /// The version written by this release.
    pub(super) const VERSION: i64 = 1;

    /// Whether it means something at `now`.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.forget_at.is_none_or(|at| now < at)
    }
}

/// A document that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentWrite {
    /// The document; its revision is the new one.
    pub document: Document,
    /// The revision that the one to be replaced must have; `Some(0)`: there must be none. `None`:
    /// whatever is there, as long as its revision is lower.
    pub expects: Option<u64>,
}

impl DocumentWrite {
    /// Whether the document may take the place of one with this revision; 0: of none.
    pub(super) fn may_replace(&self, revision: u64) -> bool {
        self.expects.is_none_or(|expected| expected == revision) && revision < self.document.revision
    }
}

/// What became of a put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// All its documents are there, durably.
    Written,
    /// One of them met another than it expected, this one, or none. Nothing was written.
    Conflict(Option<Document>),
}

/// Why a put was refused, whatever the store holds. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum UnfitDocument {
    #[error("a document is longer than {MAX_DOCUMENT_BYTES} bytes")]
    TooLong,
    #[error("the key of a document is longer than {MAX_DOCUMENT_KEY_BYTES} bytes")]
    KeyTooLong,
    #[error("the revision of a document is not one that can be stored")]
    Revision,
    #[error("a document is written twice in one go")]
    Twice,
    #[error("more than {MAX_DOCUMENTS_PER_PUT} documents are written in one go")]
    TooMany,
}

/// Refuses what no store takes.
pub(super) fn check(writes: &[DocumentWrite]) -> Result<(), StoreError> {
    if writes.len() > MAX_DOCUMENTS_PER_PUT {
        return Err(UnfitDocument::TooMany.into());
    }
    let mut seen = HashSet::with_capacity(writes.len());
    for DocumentWrite { document, .. } in writes {
        check_one(document)?;
        if !seen.insert((document.kind, document.key.as_str())) {
            return Err(UnfitDocument::Twice.into());
        }
    }
    Ok(())
}

/// Refuses a document that no store takes.
pub(super) fn check_one(document: &Document) -> Result<(), UnfitDocument> {
    if document.body.len() > MAX_DOCUMENT_BYTES {
        return Err(UnfitDocument::TooLong);
    }
    if document.key.len() > MAX_DOCUMENT_KEY_BYTES {
        return Err(UnfitDocument::KeyTooLong);
    }
    if document.revision == 0 || i64::try_from(document.revision).is_err() {
        return Err(UnfitDocument::Revision);
    }
    Ok(())
}

/// One stored document, borrowed from wherever it stands; numbers as they are stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct DocumentRow<'a> {
    pub(super) seq: i64,
    pub(super) origin: &'a str,
    pub(super) version: i64,
    pub(super) kind: i64,
    pub(super) key: &'a str,
    pub(super) revision: i64,
    pub(super) body: &'a str,
    pub(super) forget_at: Option<i64>,
}

impl<'a> DocumentRow<'a> {
    /// `document` as the node `origin` stores it under the number `seq`.
    pub(super) fn of(seq: i64, origin: &'a str, document: &'a Document) -> Self {
        Self {
            seq,
            origin,
            version: Document::VERSION,
            kind: document.kind as i64,
            key: &document.key,
            revision: document.revision.cast_signed(),
            body: &document.body,
            forget_at: document.forget_at.map(Timestamp::millis),
        }
    }

    /// The checksum over every field, its number included.
    pub(super) fn checksum(&self, scratch: &mut Vec<u8>) -> i64 {
        scratch.clear();
        let mut put = Canonical(scratch);
        put.text("document");
        put.number(self.seq);
        put.text(self.origin);
        put.number(self.version);
        put.number(self.kind);
        put.text(self.key);
        put.number(self.revision);
        put.text(self.body);
        put.optional(self.forget_at);
        checksum(scratch)
    }

    /// The document in the words of the domain.
    pub(super) fn read(&self) -> Result<Document, Unreadable> {
        if self.version > Document::VERSION {
            return Err(Unreadable);
        }
        Ok(Document {
            kind: DocumentKind::numbered(self.kind)?,
            key: self.key.to_owned(),
            revision: self.revision.cast_unsigned(),
            body: self.body.to_owned(),
            forget_at: self.forget_at.map(Timestamp::from_millis),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Document {
        Document {
            kind: DocumentKind::Session,
            key: "key".to_owned(),
            revision: 7,
            body: "{}".to_owned(),
            forget_at: Some(Timestamp::from_secs(9)),
        }
    }

    #[test]
    fn every_field_counts() {
        let document = document();
        let row = DocumentRow::of(3, "node", &document);
        assert_eq!(row.read(), Ok(document.clone()));
        let mut seen = vec![row.checksum(&mut Vec::new())];
        let changed = [
            DocumentRow { seq: 4, ..row },
            DocumentRow { origin: "edon", ..row },
            DocumentRow { version: 2, ..row },
            DocumentRow { kind: 1, ..row },
            DocumentRow { key: "ke", ..row },
            DocumentRow { revision: 8, ..row },
            DocumentRow { body: "[]", ..row },
            DocumentRow { forget_at: None, ..row },
            DocumentRow { forget_at: Some(9_001), ..row },
        ];
        for row in changed {
            let sum = row.checksum(&mut Vec::new());
            assert!(!seen.contains(&sum), "{row:?}");
            seen.push(sum);
        }
    }

    #[test]
    fn a_later_format_is_not_guessed_at() {
        let document = document();
        let row = DocumentRow::of(3, "node", &document);
        assert_eq!(DocumentRow { version: 2, ..row }.read(), Err(Unreadable));
        assert_eq!(DocumentRow { kind: 5, ..row }.read(), Err(Unreadable));
        assert_eq!(DocumentRow { kind: 0, ..row }.read(), Err(Unreadable));
    }

    #[test]
    fn what_a_write_expects_decides_what_it_may_replace() {
        let write = |revision, expects| DocumentWrite { document: Document { revision, ..document() }, expects };
        for (revision, expects, there, may) in [
            (1, Some(0), 0, true),
            (1, Some(0), 1, false),
            (2, Some(0), 1, false),
            (2, Some(1), 1, true),
            (2, Some(1), 0, false),
            (2, Some(1), 2, false),
            (1, Some(1), 1, false),
            (7, None, 0, true),
            (7, None, 6, true),
            (7, None, 7, false),
            (7, None, 8, false),
        ] {
            assert_eq!(write(revision, expects).may_replace(there), may, "{revision} {expects:?} {there}");
        }
    }

    #[test]
    fn what_has_lapsed_means_nothing() {
        let document = document();
        assert!(document.is_live(Timestamp::from_millis(8_999)));
        assert!(!document.is_live(Timestamp::from_secs(9)));
        assert!(Document { forget_at: None, ..document }.is_live(Timestamp::MAX));
    }
}
