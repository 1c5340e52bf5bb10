//! Reading: the replay, which verifies everything, and the queries, which verify what they return.

use std::array;
use std::collections::HashSet;
use std::path::Path;
use std::thread;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row};

use super::documents::{self, DOCUMENT};
use super::open::{Damage, Refused, connect};
use super::rows::{self, LIFT, Names, REVOCATION};
use super::state::State;
use crate::revocation::{Lift, RecordId, Revocation, Target};
use crate::store::record::{Canonical, Record, Unreadable, checksum};
use crate::store::{Body, Cursor, Filter, Kept, Live, Page};

/// Threads that read at the same time, at most; the thread that checks the structure not counted.
const MAX_READERS: usize = 4;
/// Rows below which one reader is enough.
const ROWS_PER_READER: i64 = 50_000;
/// Rows that one page looks at, so that a filter that fits nothing does not read everything.
const MAX_SCAN: usize = 20_000;

/// Rows seen, the sum of their checksums, and what the indexes of the table should add up to.
#[derive(Clone, Copy, Default)]
struct Tally {
    rows: u64,
    digest: i64,
    indexes: [i64; 2],
}

impl Tally {
    const fn add(&mut self, sum: i64) {
        self.rows += 1;
        self.digest = self.digest.wrapping_add(sum);
    }

    fn join(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            digest: self.digest.wrapping_add(other.digest),
            indexes: array::from_fn(|n| self.indexes[n].wrapping_add(other.indexes[n])),
        }
    }
}

/// An index that questions are answered from: what is missing in it would be missing in the answer.
struct Index {
    name: &'static str,
    table: &'static str,
    columns: &'static str,
    /// The places of its columns, and of the row's number, in a whole row.
    places: &'static [usize],
}

const REVOCATION_INDEXES: [Index; 2] = [
    Index { name: "revocations_by_id", table: "revocations", columns: "id", places: &[4, 0] },
    Index {
        name: "revocations_by_target",
        table: "revocations",
        columns: "kind, issuer, value",
        places: &[5, 6, 7, 0],
    },
];
const LIFT_INDEXES: [Index; 2] = [
    Index { name: "lifts_by_revocation", table: "lifts", columns: "revocation", places: &[13, 0] },
    Index { name: "lifts_by_target", table: "lifts", columns: "kind, issuer, value", places: &[5, 6, 7, 0] },
];

const DOCUMENT_INDEXES: [Index; 1] =
    [Index { name: "documents_by_key", table: "documents", columns: "kind, key", places: &[3, 4, 0] }];

impl Index {
    /// What the whole index adds up to.
    fn sum(&self, path: &Path) -> Result<i64, Refused> {
        let Self { name, table, columns, places } = self;
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let sql = format!("SELECT {columns}, seq FROM {table} INDEXED BY {name} ORDER BY {columns}");
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        let (mut sum, mut scratch) = (0_i64, Vec::new());
        let all: Vec<usize> = (0..places.len()).collect();
        while let Some(row) = rows.next()? {
            sum = sum.wrapping_add(key_checksum(row, &all, &mut scratch)?);
        }
        Ok(sum)
    }

    /// Compares the index with what the rows of its table say.
    fn verify(&self, path: &Path, expected: i64) -> Result<(), Refused> {
        if self.sum(path)? == expected {
            return Ok(());
        }
        Err(Damage::Checksum { what: format!("index {}", self.name) }.into())
    }
}

/// The checksum of some columns of a row.
fn key_checksum(row: &Row<'_>, places: &[usize], scratch: &mut Vec<u8>) -> Result<i64, rows::RowError> {
    scratch.clear();
    let mut put = Canonical(scratch);
    for &place in places {
        match row.get_ref(place)? {
            ValueRef::Integer(number) => put.number(number),
            text => put.text(text.as_str()?),
        }
    }
    Ok(checksum(scratch))
}

/// Hands out everything in force, and compares all there is with what `state` says.
pub(super) fn replay(path: &Path, state: &State, each: &(dyn Fn(Live<'_>) + Sync)) -> Result<(), Refused> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let names = Names::read(&connection)?;
    let (lifted, lifts) = lifts(&connection, &names, each)?;
    for (index, expected) in LIFT_INDEXES.iter().zip(lifts.indexes) {
        index.verify(path, expected)?;
    }
    let documents = all_documents(&connection, &names)?;
    for (index, expected) in DOCUMENT_INDEXES.iter().zip(documents.indexes) {
        index.verify(path, expected)?;
    }
    let revocations = thread::scope(|scope| {
        let structure = scope.spawn(|| structure(path));
        let indexes = REVOCATION_INDEXES.each_ref().map(|index| (index, scope.spawn(|| index.sum(path))));
        let readers: Vec<_> = ranges(&connection)?
            .into_iter()
            .map(|(first, last)| {
                let (names, lifted) = (&names, &lifted);
                scope.spawn(move || revocations(path, first, last, names, lifted, each))
            })
            .collect();
        let mut tally = Tally::default();
        for reader in readers {
            tally = tally.join(finished(reader.join())??);
        }
        for ((index, sum), expected) in indexes.into_iter().zip(tally.indexes) {
            if finished(sum.join())?? != expected {
                return Err(Damage::Checksum { what: format!("index {}", index.name) }.into());
            }
        }
        finished(structure.join())??;
        Ok::<_, Refused>(tally)
    })?;
    let found = revocations.join(lifts).join(documents).join(settings(&connection)?);
    if found.rows != state.records {
        return Err(Damage::Missing { found: found.rows, expected: state.records }.into());
    }
    if found.digest != state.digest {
        return Err(Damage::Checksum { what: "whole".to_owned() }.into());
    }
    Ok(())
}

/// Takes note of a row in the sums of what its indexes should be.
fn add_keys(tally: &mut Tally, indexes: &[Index], row: &Row<'_>, scratch: &mut Vec<u8>) -> Result<(), rows::RowError> {
    for (sum, index) in tally.indexes.iter_mut().zip(indexes) {
        *sum = sum.wrapping_add(key_checksum(row, index.places, scratch)?);
    }
    Ok(())
}

fn finished<T>(joined: thread::Result<T>) -> Result<T, Refused> {
    joined.map_err(|_| Damage::Malformed("reading it failed".to_owned()).into())
}

/// SQLite's own look at its pages, which the checksums of rows say nothing about.
fn structure(path: &Path) -> Result<(), Refused> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let said: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if said == "ok" { Ok(()) } else { Err(Damage::Malformed(said).into()) }
}

/// The numbers of all revocations, cut into as many ranges as there should be readers.
fn ranges(connection: &Connection) -> Result<Vec<(i64, i64)>, Refused> {
    let sql = "SELECT coalesce(min(seq), 1), coalesce(max(seq), 0) FROM revocations";
    let (first, last): (i64, i64) = connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if last < first {
        return Ok(Vec::new());
    }
    let readers = thread::available_parallelism().map_or(1, usize::from).min(MAX_READERS);
    let step = ((last - first) / i64::try_from(readers).unwrap_or(1)).max(ROWS_PER_READER);
    let mut ranges = Vec::new();
    let mut from = first;
    while last - from > step {
        ranges.push((from, from + step));
        from += step + 1;
    }
    ranges.push((from, last));
    Ok(ranges)
}

/// Hands out what lifts leave behind; returns the ids they lift.
fn lifts(
    connection: &Connection,
    names: &Names,
    each: &(dyn Fn(Live<'_>) + Sync),
) -> Result<(HashSet<Box<str>>, Tally), Refused> {
    let (mut lifted, mut tally, mut scratch) = (HashSet::new(), Tally::default(), Vec::new());
    let mut statement = connection.prepare(&format!("SELECT {LIFT} FROM lifts NOT INDEXED"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (record, sum) = rows::lift(row, names, &mut scratch)?;
        tally.add(sum);
        add_keys(&mut tally, &LIFT_INDEXES, row, &mut scratch)?;
        if let Some(live) = effect(&record, true)? {
            each(live);
        }
        lifted.insert(row.get_ref(13)?.as_str().unwrap_or_default().into());
    }
    Ok((lifted, tally))
}

/// Verifies every document. What they say is asked for by whoever keeps them.
fn all_documents(connection: &Connection, names: &Names) -> Result<Tally, Refused> {
    let (mut tally, mut scratch) = (Tally::default(), Vec::new());
    let mut statement = connection.prepare(&format!("SELECT {DOCUMENT} FROM documents NOT INDEXED"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (document, sum) = documents::read(row, names, &mut scratch)?;
        document.read().map_err(rows::RowError::from)?;
        tally.add(sum);
        add_keys(&mut tally, &DOCUMENT_INDEXES, row, &mut scratch)?;
    }
    Ok(tally)
}

fn settings(connection: &Connection) -> Result<Tally, Refused> {
    let mut tally = Tally::default();
    let mut statement = connection.prepare("SELECT name FROM settings NOT INDEXED")?;
    let names: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for name in names {
        if let Some((_, sum)) = rows::setting(connection, &name)? {
            tally.add(sum);
        }
    }
    Ok(tally)
}

/// Hands out the revocations of a range that are not lifted.
fn revocations(
    path: &Path,
    first: i64,
    last: i64,
    names: &Names,
    lifted: &HashSet<Box<str>>,
    each: &(dyn Fn(Live<'_>) + Sync),
) -> Result<Tally, Refused> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let (mut tally, mut scratch) = (Tally::default(), Vec::new());
    let sql = format!("SELECT {REVOCATION} FROM revocations NOT INDEXED WHERE seq BETWEEN ?1 AND ?2");
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query((first, last))?;
    while let Some(row) = rows.next()? {
        let (record, sum) = rows::revocation(row, names, &mut scratch)?;
        tally.add(sum);
        add_keys(&mut tally, &REVOCATION_INDEXES, row, &mut scratch)?;
        if !lifted.is_empty() && lifted.contains(record.id) {
            continue;
        }
        if let Some(live) = effect(&record, false)? {
            each(live);
        }
    }
    Ok(tally)
}

/// What a record does, unless it was written by a later release: then nothing can be said.
fn effect<'a>(record: &Record<'a>, left_by_lift: bool) -> Result<Option<Live<'a>>, rows::RowError> {
    let kind = record.target_kind()?;
    let (issuer, value) = (record.issuer, record.value);
    Ok(record.effect()?.map(|effect| Live { kind, issuer, value, effect, left_by_lift }))
}

/// Hands out everything in force for one target.
pub(super) fn live(
    connection: &Connection,
    names: &Names,
    target: &Target,
    each: &mut dyn FnMut(Live<'_>),
) -> Result<(), Refused> {
    let Some(issuer) = names.number(&target.issuer) else { return Ok(()) };
    let snapshot = connection.unchecked_transaction()?;
    let mut scratch = Vec::new();
    let sql = format!(
        "SELECT {REVOCATION} FROM revocations WHERE kind = ?1 AND issuer = ?2 AND value = ?3 \
         AND NOT EXISTS (SELECT 1 FROM lifts WHERE lifts.revocation = revocations.id)"
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

/// A revocation and its lift, by the revocation's id.
pub(super) fn find(connection: &Connection, names: &Names, id: &RecordId) -> Result<Option<Kept>, Refused> {
    let snapshot = connection.unchecked_transaction()?;
    let mut scratch = Vec::new();
    let mut statement = snapshot.prepare_cached(&format!("SELECT {REVOCATION} FROM revocations WHERE id = ?1"))?;
    let mut rows = statement.query([id.as_str()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    kept(&snapshot, names, &rows::revocation(row, names, &mut scratch)?.0).map(Some)
}

/// `record` with the lift that undid it.
fn kept(connection: &Connection, names: &Names, record: &Record<'_>) -> Result<Kept, Refused> {
    let revocation = as_revocation(record)?;
    let mut statement = connection.prepare_cached(&format!("SELECT {LIFT} FROM lifts WHERE revocation = ?1"))?;
    let mut rows = statement.query([record.id])?;
    let lifted = match rows.next()? {
        Some(row) => Some(as_lift(&rows::lift(row, names, &mut Vec::new())?.0)?),
        None => None,
    };
    Ok(Kept { revocation, lifted })
}

fn as_revocation(record: &Record<'_>) -> Result<Revocation, rows::RowError> {
    match record.read()? {
        Body::Revocation(revocation) => Ok(revocation),
        Body::Lift(_) => Err(Unreadable.into()),
    }
}

fn as_lift(record: &Record<'_>) -> Result<Lift, rows::RowError> {
    match record.read()? {
        Body::Lift(lift) => Ok(lift),
        Body::Revocation(_) => Err(Unreadable.into()),
    }
}

/// Whether a lift has this id.
pub(super) fn is_lift(connection: &Connection, id: &RecordId) -> Result<bool, Refused> {
    Ok(connection.prepare_cached("SELECT 1 FROM lifts WHERE id = ?1")?.exists([id.as_str()])?)
}

/// Whether a lift is of this id.
pub(super) fn is_lifted(connection: &Connection, id: &RecordId) -> Result<bool, Refused> {
    Ok(connection.prepare_cached("SELECT 1 FROM lifts WHERE revocation = ?1")?.exists([id.as_str()])?)
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
         AND NOT EXISTS (SELECT 1 FROM lifts WHERE lifts.revocation = revocations.id) ORDER BY seq DESC LIMIT ?4"
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
