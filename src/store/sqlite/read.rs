//! The queries, which verify what they return.

use rusqlite::Connection;

use super::documents::{self, DOCUMENT};
use super::names::Names;
use super::open::Refused;
use super::others::{self, OTHER};
use super::rows::{self, LIFT, REVOCATION};
use crate::revocation::{Form, InForce, Lift, RecordId, Revocation, Target};
use crate::store::other::OtherRow;
use crate::store::record::{Record, Unreadable, time};
use crate::store::{Body, Cursor, Entry, Filter, Kept, Live, Page, Written, WrittenWhat};

/// Rows that one page looks at, so that a filter that fits nothing does not read everything.
const MAX_SCAN: usize = 20_000;

/// The tables of what nodes write.
const TABLES: [&str; 4] = ["revocations", "lifts", "others", "documents"];
/// Whether the revocation of the row is lifted.
const LIFTED: &str = "SELECT 1 FROM lifts INDEXED BY lifts_by_revocation WHERE lifts.revocation = revocations.id \
                      AND lifts.kind = revocations.kind AND lifts.issuer = revocations.issuer \
                      AND lifts.value = revocations.value";

/// What a record does, unless it was written by a later release: then nothing can be said.
pub(super) fn effect<'a>(record: &Record<'a>, left_by_lift: bool) -> Result<Option<Live<'a>>, rows::RowError> {
    let kind = record.target_kind()?;
    let (issuer, value) = (record.issuer, record.value);
    Ok(record.effect()?.map(|effect| Live { kind, issuer, value, effect, left_by_lift }))
}

/// What a record of a later release does to a target.
pub(super) fn restriction<'a>(target: &'a Target, other: &OtherRow<'_>) -> Live<'a> {
    let effect = InForce::new(Form::Block, time(other.forget_at));
    Live { kind: target.kind, issuer: &target.issuer, value: &target.value, effect, left_by_lift: false }
}

/// Hands out everything in force for one target.
pub(super) fn live(
    connection: &Connection,
    names: &Names,
    target: &Target,
    each: &mut dyn FnMut(Live<'_>),
) -> Result<(), Refused> {
    let snapshot = connection.unchecked_transaction()?;
    live_others(&snapshot, names, target, each)?;
    let Some(issuer) = names.number(&target.issuer) else { return Ok(()) };
    let mut scratch = Vec::new();
    let sql = format!(
        "SELECT {REVOCATION} FROM revocations WHERE kind = ?1 AND issuer = ?2 AND value = ?3 \
         AND NOT EXISTS ({LIFTED})"
    );
    let mut statement = snapshot.prepare_cached(&sql)?;
    let mut rows = statement.query((target.kind as i64, issuer, &target.value))?;
    while let Some(row) = rows.next()? {
        if let Some(live) = effect(&rows::revocation(row, names, &mut scratch)?.0, false)? {
            each(live);
        }
    }
    let sql = format!("SELECT {LIFT} FROM lifts WHERE kind = ?1 AND issuer = ?2 AND value = ?3 AND leaves IS NOT NULL");
    let mut statement = snapshot.prepare_cached(&sql)?;
    let mut rows = statement.query((target.kind as i64, issuer, &target.value))?;
    while let Some(row) = rows.next()? {
        if let Some(live) = effect(&rows::lift(row, names, &mut scratch)?.0, true)? {
            each(live);
        }
    }
    Ok(())
}

/// Hands out a block for every record of a later release that restricts the target.
fn live_others(
    connection: &Connection,
    names: &Names,
    target: &Target,
    each: &mut dyn FnMut(Live<'_>),
) -> Result<(), rows::RowError> {
    others::of_target(connection, names, target, &mut |other| {
        if !rows::is_lifted(connection, names, other.id, target)? {
            each(restriction(target, other));
        }
        Ok(())
    })
}

/// A revocation and its lift, by the revocation's id: one that is not lifted, if there is one.
pub(super) fn find(connection: &Connection, names: &Names, id: &RecordId) -> Result<Option<Kept>, Refused> {
    let snapshot = connection.unchecked_transaction()?;
    let mut scratch = Vec::new();
    let mut statement = snapshot.prepare_cached(&format!("SELECT {REVOCATION} FROM revocations WHERE id = ?1"))?;
    let mut rows = statement.query([id.as_str()])?;
    let mut found = None;
    while let Some(row) = rows.next()? {
        let kept = kept(&snapshot, names, &rows::revocation(row, names, &mut scratch)?.0)?;
        if kept.lifted.is_none() {
            return Ok(Some(kept));
        }
        found = found.or(Some(kept));
    }
    Ok(found)
}

/// `record` with a lift that undid it.
fn kept(connection: &Connection, names: &Names, record: &Record<'_>) -> Result<Kept, Refused> {
    let revocation = as_revocation(record)?;
    let Some(issuer) = names.number(record.issuer) else { return Ok(Kept { revocation, lifted: None }) };
    let sql = format!(
        "SELECT {LIFT} FROM lifts INDEXED BY lifts_by_revocation \
         WHERE revocation = ?1 AND kind = ?2 AND issuer = ?3 AND value = ?4"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query((record.id, record.kind, issuer, record.value))?;
    let lifted = match rows.next()? {
        Some(row) => Some(as_lift(&rows::lift(row, names, &mut Vec::new())?.0)?),
        None => None,
    };
    Ok(Kept { revocation, lifted })
}

fn as_revocation(record: &Record<'_>) -> Result<Revocation, rows::RowError> {
    match record.read()? {
        Body::Revocation(revocation) => Ok(revocation),
        Body::Lift(_) | Body::Other(_) => Err(Unreadable.into()),
    }
}

fn as_lift(record: &Record<'_>) -> Result<Lift, rows::RowError> {
    match record.read()? {
        Body::Lift(lift) => Ok(lift),
        Body::Revocation(_) | Body::Other(_) => Err(Unreadable.into()),
    }
}

/// Whether a lift has this id.
pub(super) fn is_lift(connection: &Connection, id: &RecordId) -> Result<bool, Refused> {
    Ok(connection.prepare_cached("SELECT 1 FROM lifts WHERE id = ?1")?.exists([id.as_str()])?)
}

/// The newest revocations of a target that are not lifted.
pub(super) fn of_target(
    connection: &Connection,
    names: &Names,
    target: &Target,
    limit: usize,
) -> Result<Vec<Revocation>, Refused> {
    let Some(issuer) = names.number(&target.issuer) else { return Ok(Vec::new()) };
    let sql = format!(
        "SELECT {REVOCATION} FROM revocations WHERE kind = ?1 AND issuer = ?2 AND value = ?3 \
         AND NOT EXISTS ({LIFTED}) ORDER BY seq DESC LIMIT ?4"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query((target.kind as i64, issuer, &target.value, limit))?;
    let (mut found, mut scratch) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        found.push(as_revocation(&rows::revocation(row, names, &mut scratch)?.0)?);
    }
    Ok(found)
}

/// One page, newest first.
pub(super) fn page(
    connection: &Connection,
    names: &Names,
    filter: &Filter,
    from: Option<Cursor>,
    limit: usize,
) -> Result<Page, Refused> {
    let before = from.map_or(i64::MAX, |Cursor(seq)| i64::try_from(seq).unwrap_or(i64::MAX));
    let snapshot = connection.unchecked_transaction()?;
    // A whole target has an index; anything less is looked for among the newest.
    let (narrow, kind, issuer, value) = match (filter.kind, &filter.issuer, &filter.value) {
        (Some(kind), Some(issuer), Some(value)) => {
            let target = Target::new(kind, issuer.as_str(), value.as_str());
            let Some(issuer) = names.number(&target.issuer) else { return Ok(Page::default()) };
            ("AND kind = ?2 AND issuer = ?3 AND value = ?4", kind as i64, issuer, target.value)
        }
        _ => ("AND ?2 >= 0 AND ?3 >= 0 AND ?4 = ''", 0, 0, String::new()),
    };
    let sql = format!("SELECT {REVOCATION} FROM revocations WHERE seq < ?1 {narrow} ORDER BY seq DESC");
    let mut statement = snapshot.prepare_cached(&sql)?;
    let mut rows = statement.query((before, kind, issuer, value))?;
    let mut page = Page::default();
    let mut scratch = Vec::new();
    let mut looked_at = 0;
    while let Some(row) = rows.next()? {
        let (record, _) = rows::revocation(row, names, &mut scratch)?;
        if filter.admits(record.target_kind().map_err(rows::RowError::from)?, record.issuer, record.value) {
            page.items.push(kept(&snapshot, names, &record)?);
        }
        looked_at += 1;
        if page.items.len() >= limit || looked_at >= MAX_SCAN {
            page.next = Some(Cursor(record.seq.cast_unsigned()));
            break;
        }
    }
    Ok(page)
}

/// Hands out every entry, whoever made it.
pub(super) fn entries(connection: &Connection, names: &Names, each: &mut dyn FnMut(Entry)) -> Result<(), Refused> {
    let mut scratch = Vec::new();
    let mut statement = connection.prepare(&format!("SELECT {REVOCATION} FROM revocations"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        each(rows::revocation(row, names, &mut scratch)?.0.entry().map_err(rows::RowError::from)?);
    }
    let mut statement = connection.prepare(&format!("SELECT {LIFT} FROM lifts"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        each(rows::lift(row, names, &mut scratch)?.0.entry().map_err(rows::RowError::from)?);
    }
    let mut statement = connection.prepare(&format!("SELECT {OTHER} FROM others"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        each(others::read(row, names, &mut scratch)?.0.read().map_err(rows::RowError::from)?);
    }
    Ok(())
}

/// What one origin wrote with a number above `after`, in the order of numbers, at most `limit`.
pub(super) fn written(
    connection: &Connection,
    names: &Names,
    origin: &str,
    after: u64,
    limit: usize,
) -> Result<Vec<Written>, Refused> {
    let Some(origin) = names.number(origin) else { return Ok(Vec::new()) };
    let snapshot = connection.unchecked_transaction()?;
    // The indexes have the numbers of an origin in order, so this looks at no more rows than it returns.
    let part = |table: &str| {
        format!("SELECT seq, '{table}' FROM {table} INDEXED BY {table}_by_origin WHERE origin = ?1 AND seq > ?2")
    };
    let sql = format!("{} ORDER BY seq LIMIT ?3", TABLES.map(part).join(" UNION ALL "));
    let mut statement = snapshot.prepare_cached(&sql)?;
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let mut rows = statement.query((origin, after, i64::try_from(limit).unwrap_or(i64::MAX)))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(0)?;
        let what = numbered(&snapshot, names, row.get_ref(1)?.as_str().map_err(rows::RowError::from)?, seq)?;
        found.push(Written { seq: seq.cast_unsigned(), what });
    }
    Ok(found)
}

/// The row of a table with this number.
fn numbered(connection: &Connection, names: &Names, table: &str, seq: i64) -> Result<WrittenWhat, rows::RowError> {
    let columns = match table {
        "revocations" => REVOCATION,
        "lifts" => LIFT,
        "others" => OTHER,
        _ => DOCUMENT,
    };
    let mut statement = connection.prepare_cached(&format!("SELECT {columns} FROM {table} WHERE seq = ?1"))?;
    let mut rows = statement.query([seq])?;
    // An index that names a row which is not there.
    let Some(row) = rows.next()? else { return Err(rows::RowError::Checksum { seq }) };
    let mut scratch = Vec::new();
    Ok(match table {
        "revocations" => WrittenWhat::Entry(rows::revocation(row, names, &mut scratch)?.0.entry()?),
        "lifts" => WrittenWhat::Entry(rows::lift(row, names, &mut scratch)?.0.entry()?),
        "others" => WrittenWhat::Entry(others::read(row, names, &mut scratch)?.0.read()?),
        _ => WrittenWhat::Document(documents::read(row, names, &mut scratch)?.0.read()?),
    })
}
