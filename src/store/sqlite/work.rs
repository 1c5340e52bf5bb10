//! What is written in one transaction, and how the state of the store follows it.

use std::io;

use rusqlite::Connection;

use super::documents::{self, Counts};
use super::names::Names;
use super::open::{Damage, Refused};
use super::others;
use super::rows::{self, RowError};
use super::state::State;
use super::writer::Adopting;
use crate::store::document::{Document, DocumentKind, DocumentRow};
use crate::store::{Adopted, Adoption, Appended, DocumentWrite, Entry, Put, StoreError};
use crate::time::Timestamp;

/// Why something did not reach the disk. Read as "failed to write: {self}".
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error(transparent)]
    Damaged(Damage),
    #[error(transparent)]
    Files(#[from] io::Error),
    #[error(transparent)]
    Row(#[from] RowError),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

impl From<Refused> for WriteError {
    fn from(why: Refused) -> Self {
        match why {
            Refused::Damaged(damage) => Self::Damaged(damage),
            Refused::Database(error) => Self::Sqlite(error),
            Refused::Files(_, error) => Self::Files(error),
        }
    }
}

/// The transaction under way.
pub(super) struct Work<'a> {
    pub(super) connection: &'a Connection,
    pub(super) state: &'a mut State,
    pub(super) names: &'a mut Names,
    pub(super) documents: &'a mut Counts,
    pub(super) max_documents: u64,
    pub(super) scratch: &'a mut Vec<u8>,
}

impl Work<'_> {
    pub(super) fn append(&mut self, entries: &[Entry]) -> Result<Vec<Appended>, WriteError> {
        let mut outcomes = Vec::with_capacity(entries.len());
        for entry in entries {
            let outcome = match rows::in_the_way(self.connection, self.names, entry)? {
                Some(outcome) => outcome,
                None => self.write(entry)?,
            };
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    fn write(&mut self, entry: &Entry) -> Result<Appended, WriteError> {
        self.state.sequence += 1;
        let seq = self.state.sequence.cast_signed();
        let sum = rows::write(self.connection, self.names, seq, entry, self.scratch)?;
        self.state.add(sum);
        if entry.origin == self.state.store_id {
            self.state.own_sequence = self.state.own_sequence.max(entry.origin_seq);
        }
        Ok(Appended::New)
    }

    /// Takes in what other nodes have said, and takes note of how far this one has heard of it.
    pub(super) fn adopt(&mut self, what: &Adopting) -> Result<Adoption, WriteError> {
        let mut adoption = Adoption::default();
        for entry in &what.entries {
            let known = rows::is_known(self.connection, self.names, entry)?;
            adoption.entries.push(if known { Appended::Known } else { self.write(entry)? });
        }
        for adopted in &what.documents {
            adoption.documents.push(self.adopt_document(adopted)?);
        }
        for (name, value) in &what.progress {
            self.set(name, value)?;
        }
        Ok(adoption)
    }

    fn adopt_document(&mut self, adopted: &Adopted) -> Result<bool, WriteError> {
        let kind = adopted.document.kind;
        let there = documents::find(self.connection, self.names, kind, &adopted.document.key)?;
        match &there {
            Some(there) if !adopted.replaces(&there.document) => return Ok(false),
            Some(_) => {}
            None if self.documents[kind.place()] >= self.max_documents => return Ok(false),
            None => self.documents[kind.place()] += 1,
        }
        self.write_document(&adopted.origin, &adopted.document, there)?;
        Ok(true)
    }

    fn write_document(
        &mut self,
        origin: &str,
        document: &Document,
        replaced: Option<documents::Stored>,
    ) -> Result<(), WriteError> {
        self.state.sequence += 1;
        let row = DocumentRow::of(self.state.sequence.cast_signed(), origin, document);
        let sum = documents::write(self.connection, self.names, &row, replaced.as_ref(), self.scratch)?;
        if let Some(replaced) = replaced {
            self.state.remove(replaced.checksum);
        }
        self.state.add(sum);
        Ok(())
    }

    /// Lifts go only when nothing is left to go that they may lift: a tombstone outlives what it lifts.
    pub(super) fn forget(&mut self, before: Timestamp, limit: usize) -> Result<usize, WriteError> {
        let steps = [
            |work: &mut Self, before, room| work.forget_rows("revocations", before, room),
            Self::forget_others,
            |work: &mut Self, before, room| work.forget_rows("lifts", before, room),
            Self::forget_documents,
        ];
        let mut forgotten = 0;
        for step in steps {
            forgotten += step(self, before, limit - forgotten)?;
            if forgotten >= limit {
                break;
            }
        }
        Ok(forgotten)
    }

    fn forget_rows(&mut self, table: &str, before: Timestamp, limit: usize) -> Result<usize, WriteError> {
        let sql = format!(
            "DELETE FROM {table} WHERE seq IN (SELECT seq FROM {table} WHERE forget_at < ?1 LIMIT ?2) \
             AND forget_at < ?1 RETURNING checksum"
        );
        let mut forgotten = 0;
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query((before.millis(), i64::try_from(limit).unwrap_or(i64::MAX)))?;
        while let Some(row) = rows.next()? {
            self.state.remove(row.get(0)?);
            forgotten += 1;
        }
        Ok(forgotten)
    }

    fn forget_others(&mut self, before: Timestamp, limit: usize) -> Result<usize, WriteError> {
        let over = others::over(self.connection, before, limit)?;
        for seq in &over {
            self.state.remove(others::delete(self.connection, self.names, *seq, self.scratch)?);
        }
        Ok(over.len())
    }

    fn forget_documents(&mut self, before: Timestamp, limit: usize) -> Result<usize, WriteError> {
        let sql = "DELETE FROM documents WHERE seq IN (SELECT seq FROM documents WHERE forget_at < ?1 LIMIT ?2) \
                   AND forget_at < ?1 RETURNING checksum, kind";
        let mut forgotten = 0;
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query((before.millis(), i64::try_from(limit).unwrap_or(i64::MAX)))?;
        while let Some(row) = rows.next()? {
            self.state.remove(row.get(0)?);
            let kind = DocumentKind::numbered(row.get(1)?).map_err(RowError::from)?;
            let count = &mut self.documents[kind.place()];
            *count = count.saturating_sub(1);
            forgotten += 1;
        }
        Ok(forgotten)
    }

    /// Looks at what is there first, and writes only when all of it is what the writes expect. They are
    /// of different documents, so none of them changes what another looks at.
    pub(super) fn put(&mut self, writes: &[DocumentWrite]) -> Result<Result<Put, StoreError>, WriteError> {
        let mut replaced = Vec::with_capacity(writes.len());
        let mut documents = *self.documents;
        for write in writes {
            let kind = write.document.kind;
            let there = documents::find(self.connection, self.names, kind, &write.document.key)?;
            if !write.may_replace(there.as_ref().map_or(0, |it| it.document.revision)) {
                return Ok(Ok(Put::Conflict(there.map(|it| it.document))));
            }
            if there.is_none() {
                documents[kind.place()] += 1;
                if documents[kind.place()] > self.max_documents {
                    return Ok(Err(StoreError::Full(kind)));
                }
            }
            replaced.push(there);
        }
        let origin = self.state.store_id.clone();
        for (write, replaced) in writes.iter().zip(replaced) {
            self.write_document(&origin, &write.document, replaced)?;
        }
        *self.documents = documents;
        Ok(Ok(Put::Written))
    }

    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), WriteError> {
        if let Some((_, sum)) = rows::setting(self.connection, name)? {
            self.state.remove(sum);
        }
        let sum = rows::setting_checksum(name, value);
        let sql = "INSERT OR REPLACE INTO settings (name, value, checksum) VALUES (?1, ?2, ?3)";
        self.connection.prepare_cached(sql)?.execute((name, value, sum))?;
        self.state.add(sum);
        Ok(())
    }
}
