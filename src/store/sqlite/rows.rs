//! Rows to records and back.

use std::collections::HashMap;

use rusqlite::types::{FromSqlError, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row};

use super::open::{Damage, Refused};
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

/// Issuers and nodes, by their number and by their name.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    by_number: HashMap<i64, Box<str>>,
    by_name: HashMap<Box<str>, i64>,
}

impl Names {
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut names = Self::default();
        let mut statement = connection.prepare("SELECT id, name FROM names")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            names.insert(row.get(0)?, row.get_ref(1)?.as_str()?);
        }
        Ok(names)
    }

    fn insert(&mut self, number: i64, name: &str) {
        self.by_number.insert(number, name.into());
        self.by_name.insert(name.into(), number);
    }

    /// The number of a name that some row has.
    pub(super) fn number(&self, name: &str) -> Option<i64> {
        self.by_name.get(name).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    /// The number of a name, given now if need be.
    pub(super) fn intern(&mut self, connection: &Connection, name: &str) -> rusqlite::Result<i64> {
        if let Some(number) = self.number(name) {
            return Ok(number);
        }
        let mut statement = connection.prepare_cached("INSERT INTO names (name) VALUES (?1) RETURNING id")?;
        let number = statement.query_row([name], |row| row.get(0))?;
        self.insert(number, name);
        Ok(number)
    }

    /// A number that no name has reads as no name: the checksum of the row will not fit.
    pub(super) fn name(&self, number: i64) -> &str {
        self.by_number.get(&number).map_or("", |name| name)
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

/// Writes an entry under the number `seq`. Also returns its checksum when it is new.
pub(super) fn insert(
    connection: &Connection,
    names: &mut Names,
    seq: i64,
    entry: &Entry,
    scratch: &mut Vec<u8>,
) -> Result<(Appended, Option<i64>), RowError> {
    let row = Record::of(seq, entry);
    let sum = row.checksum(scratch);
    let origin = names.intern(connection, row.origin)?;
    let issuer = names.intern(connection, row.issuer)?;
    let added = match row.body {
        RecordBody::Revocation { issued, authenticated, reason, source } => {
            let sql = "INSERT INTO revocations VALUES \
                       (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17) \
                       ON CONFLICT (id) DO NOTHING";
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
            let sql = "INSERT INTO lifts VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) \
                       ON CONFLICT DO NOTHING";
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
    if added == 1 {
        return Ok((Appended::New, Some(sum)));
    }
    let same = find(connection, names, row.id, &entry.body)?.is_some_and(|body| body == entry.body);
    Ok((if same { Appended::Known } else { Appended::Conflict }, None))
}

/// The record of the same sort as `like` with this id.
fn find(connection: &Connection, names: &Names, id: &str, like: &Body) -> Result<Option<Body>, RowError> {
    let mut scratch = Vec::new();
    let sql = match like {
        Body::Revocation(_) => format!("SELECT {REVOCATION} FROM revocations WHERE id = ?1"),
        Body::Lift(_) => format!("SELECT {LIFT} FROM lifts WHERE id = ?1"),
    };
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([id])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (record, _) = match like {
        Body::Revocation(_) => revocation(row, names, &mut scratch)?,
        Body::Lift(_) => lift(row, names, &mut scratch)?,
    };
    Ok(Some(record.read()?))
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
