//! Documents to rows and back.

use rusqlite::{Connection, Row};

use super::names::Names;
use super::open::Refused;
use super::rows::RowError;
use crate::store::Adopted;
use crate::store::document::{Document, DocumentKind, DocumentRow};

/// The columns, in the order in which [`read`] reads them.
pub(super) const DOCUMENT: &str = "seq, origin, version, kind, key, revision, body, forget_at, checksum";

/// Documents of each kind.
pub(super) type Counts = [u64; DocumentKind::ALL.len()];

/// The document in a row, its checksum verified, and the checksum.
pub(super) fn read<'a>(
    row: &'a Row<'_>,
    names: &'a Names,
    scratch: &mut Vec<u8>,
) -> Result<(DocumentRow<'a>, i64), RowError> {
    let document = DocumentRow {
        seq: row.get_ref(0)?.as_i64()?,
        origin: names.name(row.get_ref(1)?.as_i64()?),
        version: row.get_ref(2)?.as_i64()?,
        kind: row.get_ref(3)?.as_i64()?,
        key: row.get_ref(4)?.as_str()?,
        revision: row.get_ref(5)?.as_i64()?,
        body: row.get_ref(6)?.as_str()?,
        forget_at: row.get_ref(7)?.as_i64_or_null()?,
    };
    let sum = row.get_ref(8)?.as_i64()?;
    if document.checksum(scratch) != sum {
        return Err(RowError::Checksum { seq: document.seq });
    }
    Ok((document, sum))
}

/// A document as it stands in its row.
pub(super) struct Stored {
    pub(super) seq: i64,
    pub(super) checksum: i64,
    pub(super) document: Document,
}

/// The document of this kind with this key.
pub(super) fn find(
    connection: &Connection,
    names: &Names,
    kind: DocumentKind,
    key: &str,
) -> Result<Option<Stored>, RowError> {
    let sql = format!("SELECT {DOCUMENT} FROM documents WHERE kind = ?1 AND key = ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query((kind as i64, key))?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (found, checksum) = read(row, names, &mut Vec::new())?;
    Ok(Some(Stored { seq: found.seq, checksum, document: found.read()? }))
}

/// Hands out every document of a kind, in the order of their keys.
pub(super) fn each(
    connection: &Connection,
    names: &Names,
    kind: DocumentKind,
    each: &mut dyn FnMut(Document),
) -> Result<(), Refused> {
    let sql = format!("SELECT {DOCUMENT} FROM documents WHERE kind = ?1 ORDER BY key");
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([kind as i64])?;
    let mut scratch = Vec::new();
    while let Some(row) = rows.next()? {
        each(read(row, names, &mut scratch)?.0.read().map_err(RowError::from)?);
    }
    Ok(())
}

/// Hands out every document and who wrote it.
pub(super) fn adopted(connection: &Connection, names: &Names, each: &mut dyn FnMut(Adopted)) -> Result<(), Refused> {
    let mut statement = connection.prepare(&format!("SELECT {DOCUMENT} FROM documents"))?;
    let mut rows = statement.query([])?;
    let mut scratch = Vec::new();
    while let Some(row) = rows.next()? {
        let (row, _) = read(row, names, &mut scratch)?;
        each(Adopted { origin: row.origin.to_owned(), document: row.read().map_err(RowError::from)? });
    }
    Ok(())
}

/// Writes a document in the place of `replaced`; returns its checksum.
pub(super) fn write(
    connection: &Connection,
    names: &mut Names,
    row: &DocumentRow<'_>,
    replaced: Option<&Stored>,
    scratch: &mut Vec<u8>,
) -> rusqlite::Result<i64> {
    if let Some(replaced) = replaced {
        connection.prepare_cached("DELETE FROM documents WHERE seq = ?1")?.execute([replaced.seq])?;
    }
    let origin = names.intern(connection, row.origin)?;
    let sum = row.checksum(scratch);
    let sql = "INSERT INTO documents VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    connection.prepare_cached(sql)?.execute(rusqlite::params![
        row.seq,
        origin,
        row.version,
        row.kind,
        row.key,
        row.revision,
        row.body,
        row.forget_at,
        sum
    ])?;
    Ok(sum)
}

/// How many documents of each kind there are.
pub(super) fn counts(connection: &Connection) -> rusqlite::Result<Counts> {
    let mut counts = Counts::default();
    for kind in DocumentKind::ALL {
        let count: i64 =
            connection.query_row("SELECT count(*) FROM documents WHERE kind = ?1", [kind as i64], |row| row.get(0))?;
        counts[kind.place()] = count.cast_unsigned();
    }
    Ok(counts)
}
