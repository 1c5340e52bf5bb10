//! Rows to records and back.

use rusqlite::types::{FromSqlError, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row};

use super::names::Names;
use super::open::{Damage, Refused};
use super::others;
use crate::revocation::Target;
use crate::store::record::{Record, RecordBody, Unreadable, checksum};
use crate::store::{Appended, Body, Entry};

/// The columns of a revocation, in the order in which [`revocation`] reads them.
pub(super) const REVOCATION: &str = "seq, origin, origin_seq, version, id, kind, issuer, value, actor, note, at, \
                                     forget_at, checksum, issued, authenticated, reason, source";
/// The columns of a lift, in the order in which [`lift`] reads them.
pub(super) const LIFT: &str = "seq, origin, origin_seq, version, id, kind, issuer, value, actor, note, at, forget_at, \
                               checksum, revocation, leaves";

/// Why a row is not a record.
#[derive(Debug, thiserror::Error)]
pub(super) enum RowError {
    #[error("the checksum of entry {seq} is wrong")]
    Checksum { seq: i64 },
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

impl From<FromSqlError> for RowError {
    fn from(error: FromSqlError) -> Self {
        Self::Sqlite(error.into())
    }
}

impl From<RowError> for Refused {
    fn from(error: RowError) -> Self {
        match error {
            RowError::Checksum { seq } => Damage::Checksum { what: format!("entry {seq}") }.into(),
            RowError::Sqlite(error) => error.into(),
            RowError::Unreadable(error) => Damage::Malformed(error.to_string()).into(),
        }
    }
}

/// The revocation in a row, its checksum verified, and the checksum.
pub(super) fn revocation<'a>(
    row: &'a Row<'_>,
    names: &'a Names,
    scratch: &mut Vec<u8>,
) -> Result<(Record<'a>, i64), RowError> {
    let body = RecordBody::Revocation {
        issued: row.get_ref(13)?.as_i64_or_null()?,
        authenticated: row.get_ref(14)?.as_i64_or_null()?,
        reason: row.get_ref(15)?.as_i64()?,
        source: row.get_ref(16)?.as_i64()?,
    };
    record(row, names, body, scratch)
}

/// The lift in a row, its checksum verified, and the checksum.
pub(super) fn lift<'a>(
    row: &'a Row<'_>,
    names: &'a Names,
    scratch: &mut Vec<u8>,
) -> Result<(Record<'a>, i64), RowError> {
    let body = RecordBody::Lift { of: row.get_ref(13)?.as_str()?, leaves: row.get_ref(14)?.as_i64_or_null()? };
    record(row, names, body, scratch)
}

fn record<'a>(
    row: &'a Row<'_>,
    names: &'a Names,
    body: RecordBody<'a>,
    scratch: &mut Vec<u8>,
) -> Result<(Record<'a>, i64), RowError> {
    let record = Record {
        seq: row.get_ref(0)?.as_i64()?,
        origin: names.name(row.get_ref(1)?.as_i64()?),
        origin_seq: row.get_ref(2)?.as_i64()?,
        version: row.get_ref(3)?.as_i64()?,
        id: row.get_ref(4)?.as_str()?,
        kind: row.get_ref(5)?.as_i64()?,
        issuer: names.name(row.get_ref(6)?.as_i64()?),
        value: row.get_ref(7)?.as_str()?,
        body,
        actor: row.get_ref(8)?.as_str()?,
        note: match row.get_ref(9)? {
            ValueRef::Null => None,
            text => Some(text.as_str()?),
        },
        at: row.get_ref(10)?.as_i64()?,
        forget_at: row.get_ref(11)?.as_i64_or_null()?,
    };
    let sum = row.get_ref(12)?.as_i64()?;
    if record.checksum(scratch) != sum {
        return Err(RowError::Checksum { seq: record.seq });
    }
    Ok((record, sum))
}

/// Writes an entry under the number `seq`; returns its checksum.
pub(super) fn write(
    connection: &Connection,
    names: &mut Names,
    seq: i64,
    entry: &Entry,
    scratch: &mut Vec<u8>,
) -> Result<i64, RowError> {
    let row = match &entry.body {
        Body::Revocation(it) => Record::revocation(seq, entry, it),
        Body::Lift(it) => Record::lift(seq, entry, it),
        Body::Other(it) => return others::write(connection, names, seq, entry, it, scratch),
    };
    let sum = row.checksum(scratch);
    let origin = names.intern(connection, row.origin)?;
    let issuer = names.intern(connection, row.issuer)?;
    match row.body {
        RecordBody::Revocation { issued, authenticated, reason, source } => {
            let sql = "INSERT INTO revocations VALUES \
                       (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";
            connection.prepare_cached(sql)?.execute(rusqlite::params![
                row.seq,
                origin,
                row.origin_seq,
                row.version,
                row.id,
                row.kind,
                issuer,
                row.value,
                issued,
                authenticated,
                reason,
                source,
                row.actor,
                row.note,
                row.at,
                row.forget_at,
                sum
            ])?
        }
        RecordBody::Lift { of, leaves } => {
            let sql = "INSERT INTO lifts VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";
            connection.prepare_cached(sql)?.execute(rusqlite::params![
                row.seq,
                origin,
                row.origin_seq,
                row.version,
                row.id,
                row.kind,
                issuer,
                row.value,
                of,
                leaves,
                row.actor,
                row.note,
                row.at,
                row.forget_at,
                sum
            ])?
        }
    };
    Ok(sum)
}

/// Whether this very entry is there: the same number of the same origin. The id counts as well, so that
/// two nodes that began as copies of one another, and give out the same numbers, lose nothing.
pub(super) fn is_known(connection: &Connection, names: &Names, entry: &Entry) -> Result<bool, RowError> {
    let Some(origin) = names.number(&entry.origin) else { return Ok(false) };
    let sql = "SELECT 1 FROM revocations WHERE id = ?1 AND +origin = ?2 AND origin_seq = ?3 \
               UNION ALL SELECT 1 FROM lifts WHERE id = ?1 AND +origin = ?2 AND origin_seq = ?3 \
               UNION ALL SELECT 1 FROM others WHERE id = ?1 AND +origin = ?2 AND origin_seq = ?3";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.exists((entry.body.id().as_str(), origin, entry.origin_seq.cast_signed()))?)
}

/// What stands in the way of an entry of this node's own: the same is there, or another of its sort with
/// its id, or another lift of what it lifts.
pub(super) fn in_the_way(connection: &Connection, names: &Names, entry: &Entry) -> Result<Option<Appended>, RowError> {
    let (mut found, mut scratch) = (None, Vec::new());
    let mut compare = |other: &Body| match found {
        Some(Appended::Known) => {}
        _ if *other == entry.body => found = Some(Appended::Known),
        _ => found = Some(Appended::Conflict),
    };
    let id = entry.body.id().as_str();
    match &entry.body {
        Body::Revocation(_) => {
            let sql = format!("SELECT {REVOCATION} FROM revocations WHERE id = ?1");
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query([id])?;
            while let Some(row) = rows.next()? {
                compare(&revocation(row, names, &mut scratch)?.0.read()?);
            }
        }
        Body::Lift(_) => {
            let sql = format!("SELECT {LIFT} FROM lifts WHERE id = ?1");
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query([id])?;
            while let Some(row) = rows.next()? {
                compare(&lift(row, names, &mut scratch)?.0.read()?);
            }
        }
        Body::Other(_) => others::with_id(connection, names, id, &mut compare)?,
    }
    match &entry.body {
        Body::Lift(it) if found.is_none() && is_lifted(connection, names, it.of.as_str(), &it.target)? => {
            Ok(Some(Appended::Conflict))
        }
        _ => Ok(found),
    }
}

/// Whether a lift is of this id and target.
pub(super) fn is_lifted(
    connection: &Connection,
    names: &Names,
    of: &str,
    target: &Target,
) -> Result<bool, rusqlite::Error> {
    let Some(issuer) = names.number(&target.issuer) else { return Ok(false) };
    let sql = "SELECT 1 FROM lifts INDEXED BY lifts_by_revocation \
               WHERE revocation = ?1 AND kind = ?2 AND issuer = ?3 AND value = ?4";
    connection.prepare_cached(sql)?.exists((of, target.kind as i64, issuer, &target.value))
}

/// The checksum of a setting.
pub(super) fn setting_checksum(name: &str, value: &str) -> i64 {
    let mut bytes = Vec::new();
    let mut put = crate::store::record::Canonical(&mut bytes);
    put.text(name);
    put.text(value);
    checksum(&bytes)
}

/// A setting, its checksum verified, and the checksum.
pub(super) fn setting(connection: &Connection, name: &str) -> Result<Option<(String, i64)>, Refused> {
    let mut statement = connection.prepare_cached("SELECT value, checksum FROM settings WHERE name = ?1")?;
    let found = statement.query_row([name], |row| Ok((row.get::<_, String>(0)?, row.get(1)?))).optional()?;
    match found {
        Some((value, sum)) if setting_checksum(name, &value) != sum => {
            Err(Damage::Checksum { what: format!("setting `{name}`") }.into())
        }
        found => Ok(found),
    }
}
