//! Records of later releases, to rows and back.

use rusqlite::{Connection, Row};

use super::names::Names;
use super::rows::RowError;
use crate::revocation::Target;
use crate::store::other::{Other, OtherRow, spell};
use crate::store::{Body, Entry};
use crate::time::Timestamp;

/// The columns, in the order in which [`read`] reads them.
pub(super) const OTHER: &str = "seq, origin, origin_seq, version, id, name, says, restricts, at, forget_at, checksum";

/// The record in a row, its checksum verified, and the checksum.
pub(super) fn read<'a>(
    row: &'a Row<'_>,
    names: &'a Names,
    scratch: &mut Vec<u8>,
) -> Result<(OtherRow<'a>, i64), RowError> {
    let other = OtherRow {
        seq: row.get_ref(0)?.as_i64()?,
        origin: names.name(row.get_ref(1)?.as_i64()?),
        origin_seq: row.get_ref(2)?.as_i64()?,
        version: row.get_ref(3)?.as_i64()?,
        id: row.get_ref(4)?.as_str()?,
        name: row.get_ref(5)?.as_str()?,
        says: row.get_ref(6)?.as_str()?,
        restricts: row.get_ref(7)?.as_str()?,
        at: row.get_ref(8)?.as_i64()?,
        forget_at: row.get_ref(9)?.as_i64_or_null()?,
    };
    let sum = row.get_ref(10)?.as_i64()?;
    if other.checksum(scratch) != sum {
        return Err(RowError::Checksum { seq: other.seq });
    }
    Ok((other, sum))
}

/// Writes a record and the index of what it restricts; returns its checksum.
pub(super) fn write(
    connection: &Connection,
    names: &mut Names,
    seq: i64,
    entry: &Entry,
    other: &Other,
    scratch: &mut Vec<u8>,
) -> Result<i64, RowError> {
    let restricts = spell(&other.restricts);
    let row = OtherRow::of(seq, entry, other, &restricts);
    let sum = row.checksum(scratch);
    let origin = names.intern(connection, row.origin)?;
    let sql = "INSERT INTO others VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    connection.prepare_cached(sql)?.execute(rusqlite::params![
        row.seq,
        origin,
        row.origin_seq,
        row.version,
        row.id,
        row.name,
        row.says,
        row.restricts,
        row.at,
        row.forget_at,
        sum
    ])?;
    index(connection, &row)?;
    Ok(sum)
}

/// Writes the index of what a record restricts.
pub(super) fn index(connection: &Connection, row: &OtherRow<'_>) -> Result<(), RowError> {
    for target in row.restricts()? {
        let sql = "INSERT INTO restricted VALUES (?1, ?2, ?3, ?4)";
        connection.prepare_cached(sql)?.execute((target.kind as i64, &target.issuer, &target.value, row.seq))?;
    }
    Ok(())
}

/// The numbers of at most `limit` records that may be forgotten.
pub(super) fn over(connection: &Connection, before: Timestamp, limit: usize) -> Result<Vec<i64>, rusqlite::Error> {
    let mut statement = connection.prepare_cached("SELECT seq FROM others WHERE forget_at < ?1 LIMIT ?2")?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    statement.query_map((before.millis(), limit), |row| row.get(0))?.collect()
}

/// Deletes a record and the index of what it restricts; returns its checksum.
pub(super) fn delete(connection: &Connection, names: &Names, seq: i64, scratch: &mut Vec<u8>) -> Result<i64, RowError> {
    let mut statement = connection.prepare_cached(&format!("SELECT {OTHER} FROM others WHERE seq = ?1"))?;
    let (targets, sum) = {
        let mut rows = statement.query([seq])?;
        let Some(row) = rows.next()? else { return Err(RowError::Checksum { seq }) };
        let (other, sum) = read(row, names, scratch)?;
        (other.restricts()?, sum)
    };
    for target in targets {
        let sql = "DELETE FROM restricted WHERE kind = ?1 AND issuer = ?2 AND value = ?3 AND seq = ?4";
        connection.prepare_cached(sql)?.execute((target.kind as i64, &target.issuer, &target.value, seq))?;
    }
    connection.prepare_cached("DELETE FROM others WHERE seq = ?1")?.execute([seq])?;
    Ok(sum)
}

/// Hands out the records with this id.
pub(super) fn with_id(
    connection: &Connection,
    names: &Names,
    id: &str,
    each: &mut dyn FnMut(&Body),
) -> Result<(), RowError> {
    let mut statement = connection.prepare_cached(&format!("SELECT {OTHER} FROM others WHERE id = ?1"))?;
    let mut rows = statement.query([id])?;
    let mut scratch = Vec::new();
    while let Some(row) = rows.next()? {
        each(&read(row, names, &mut scratch)?.0.read()?.body);
    }
    Ok(())
}

/// Hands out the records that restrict a target.
pub(super) fn of_target(
    connection: &Connection,
    names: &Names,
    target: &Target,
    each: &mut dyn FnMut(&OtherRow<'_>) -> Result<(), RowError>,
) -> Result<(), RowError> {
    let sql = format!(
        "SELECT {OTHER} FROM others WHERE seq IN \
         (SELECT seq FROM restricted WHERE kind = ?1 AND issuer = ?2 AND value = ?3)"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query((target.kind as i64, &target.issuer, &target.value))?;
    let mut scratch = Vec::new();
    while let Some(row) = rows.next()? {
        each(&read(row, names, &mut scratch)?.0)?;
    }
    Ok(())
}
