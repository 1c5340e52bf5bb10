//! The replay: everything in force is handed out, and everything there is verified on the way.

use std::array;
use std::collections::HashSet;
use std::path::Path;
use std::thread;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row};

use super::documents::{self, DOCUMENT};
use super::names::Names;
use super::open::{Damage, Refused, connect};
use super::others::{self, OTHER};
use super::read::{effect, restriction};
use super::rows::{self, LIFT, REVOCATION};
use super::state::State;
use crate::store::Live;
use crate::store::record::{Canonical, RecordBody, checksum};

/// Threads that read at the same time, at most; the thread that checks the structure not counted.
const MAX_READERS: usize = 4;
/// Rows below which one reader is enough.
const ROWS_PER_READER: i64 = 50_000;
/// Rows seen, the sum of their checksums, and what the indexes of the table should add up to.
#[derive(Clone, Copy, Default)]
struct Tally {
    rows: u64,
    digest: i64,
    indexes: [i64; 4],
}

impl Tally {
    const fn add(&mut self, sum: i64) {
        self.rows += 1;
        self.digest = self.digest.wrapping_add(sum);
    }

    /// Compares all there is with what should be.
    fn compare(self, state: &State) -> Result<(), Refused> {
        if self.rows != state.records {
            return Err(Damage::Missing { found: self.rows, expected: state.records }.into());
        }
        if self.digest != state.digest {
            return Err(Damage::Checksum { what: "whole".to_owned() }.into());
        }
        Ok(())
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

const REVOCATION_INDEXES: [Index; 3] = [
    Index { name: "revocations_by_id", table: "revocations", columns: "id", places: &[4, 0] },
    Index {
        name: "revocations_by_target",
        table: "revocations",
        columns: "kind, issuer, value",
        places: &[5, 6, 7, 0],
    },
    Index { name: "revocations_by_origin", table: "revocations", columns: "origin", places: &[1, 0] },
];
const LIFT_INDEXES: [Index; 4] = [
    Index { name: "lifts_by_id", table: "lifts", columns: "id", places: &[4, 0] },
    Index { name: "lifts_by_revocation", table: "lifts", columns: "revocation", places: &[13, 0] },
    Index { name: "lifts_by_target", table: "lifts", columns: "kind, issuer, value", places: &[5, 6, 7, 0] },
    Index { name: "lifts_by_origin", table: "lifts", columns: "origin", places: &[1, 0] },
];
const OTHER_INDEXES: [Index; 2] = [
    Index { name: "others_by_id", table: "others", columns: "id", places: &[4, 0] },
    Index { name: "others_by_origin", table: "others", columns: "origin", places: &[1, 0] },
];
const DOCUMENT_INDEXES: [Index; 2] = [
    Index { name: "documents_by_key", table: "documents", columns: "kind, key", places: &[3, 4, 0] },
    Index { name: "documents_by_origin", table: "documents", columns: "origin", places: &[1, 0] },
];

impl Index {
    /// What the whole index adds up to.
    fn sum(&self, connection: &Connection) -> Result<i64, Refused> {
        let Self { name, table, columns, places } = self;
        let sql = format!("SELECT {columns}, seq FROM {table} INDEXED BY {name} ORDER BY {columns}");
        sum_of(connection, &sql, places.len())
    }

    /// Compares the index with what the rows of its table say.
    fn verify(&self, connection: &Connection, expected: i64) -> Result<(), Refused> {
        self.compare(self.sum(connection)?, expected)
    }

    fn compare(&self, sum: i64, expected: i64) -> Result<(), Refused> {
        if sum == expected {
            return Ok(());
        }
        Err(Damage::Checksum { what: format!("index {}", self.name) }.into())
    }
}

/// What rows of so many columns add up to.
fn sum_of(connection: &Connection, sql: &str, columns: usize) -> Result<i64, Refused> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let (mut sum, mut scratch) = (0_i64, Vec::new());
    let all: Vec<usize> = (0..columns).collect();
    while let Some(row) = rows.next()? {
        sum = sum.wrapping_add(key_checksum(row, &all, &mut scratch)?);
    }
    Ok(sum)
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

/// Hands out everything in force, and compares all there is with what `state` says. Several connections read
/// at the same time, so nobody may write.
pub(super) fn replay(path: &Path, state: &State, each: &(dyn Fn(Live<'_>) + Sync)) -> Result<(), Refused> {
    let open = || connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let connection = open()?;
    let names = Names::read(&connection)?;
    let (lifted, rest) = but_revocations(&connection, &names, each)?;
    let revocations = thread::scope(|scope| {
        let structure = scope.spawn(|| structure(&open()?));
        let indexes = REVOCATION_INDEXES.each_ref().map(|index| (index, scope.spawn(move || index.sum(&open()?))));
        let readers: Vec<_> = ranges(&connection)?
            .into_iter()
            .map(|range| {
                let (names, lifted) = (&names, &lifted);
                scope.spawn(move || revocations(&open()?, range, names, lifted, each))
            })
            .collect();
        let mut tally = Tally::default();
        for reader in readers {
            tally = tally.join(finished(reader.join())??);
        }
        for ((index, sum), expected) in indexes.into_iter().zip(tally.indexes) {
            index.compare(finished(sum.join())??, expected)?;
        }
        finished(structure.join())??;
        Ok::<_, Refused>(tally)
    })?;
    revocations.join(rest).compare(state)
}

/// Verifies what [`replay`] does within one transaction, while others may write.
pub(super) fn verify(snapshot: &Connection, names: &Names, state: &State) -> Result<(), Refused> {
    structure(snapshot)?;
    let (lifted, rest) = but_revocations(snapshot, names, &|_| {})?;
    let revocations = revocations(snapshot, (i64::MIN, i64::MAX), names, &lifted, &|_| {})?;
    for (index, expected) in REVOCATION_INDEXES.iter().zip(revocations.indexes) {
        index.verify(snapshot, expected)?;
    }
    revocations.join(rest).compare(state)
}

/// Hands out and verifies all but the revocations; returns what of them is lifted.
fn but_revocations(
    connection: &Connection,
    names: &Names,
    each: &(dyn Fn(Live<'_>) + Sync),
) -> Result<(Lifted, Tally), Refused> {
    let (lifted, lifts) = lifts(connection, names, each)?;
    for (index, expected) in LIFT_INDEXES.iter().zip(lifts.indexes) {
        index.verify(connection, expected)?;
    }
    let others = others(connection, names, &lifted, each)?;
    for (index, expected) in OTHER_INDEXES.iter().zip(others.indexes) {
        index.verify(connection, expected)?;
    }
    let documents = all_documents(connection, names)?;
    for (index, expected) in DOCUMENT_INDEXES.iter().zip(documents.indexes) {
        index.verify(connection, expected)?;
    }
    Ok((lifted, lifts.join(others).join(documents).join(settings(connection)?)))
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
fn structure(connection: &Connection) -> Result<(), Refused> {
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

/// What is lifted: ids, each with the target that its lift is of.
#[derive(Default)]
struct Lifted(HashSet<Box<[u8]>>);

impl Lifted {
    fn key<'a>(id: &str, kind: i64, issuer: &str, value: &str, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        scratch.clear();
        let mut put = Canonical(scratch);
        put.number(kind);
        put.text(issuer);
        put.text(value);
        put.text(id);
        scratch
    }

    fn contains(&self, id: &str, kind: i64, issuer: &str, value: &str, scratch: &mut Vec<u8>) -> bool {
        !self.0.is_empty() && self.0.contains(Self::key(id, kind, issuer, value, scratch))
    }
}

/// Hands out what lifts leave behind; returns what they lift.
fn lifts(connection: &Connection, names: &Names, each: &(dyn Fn(Live<'_>) + Sync)) -> Result<(Lifted, Tally), Refused> {
    let (mut lifted, mut tally, mut scratch) = (Lifted::default(), Tally::default(), Vec::new());
    let mut statement = connection.prepare(&format!("SELECT {LIFT} FROM lifts NOT INDEXED"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (record, sum) = rows::lift(row, names, &mut scratch)?;
        tally.add(sum);
        add_keys(&mut tally, &LIFT_INDEXES, row, &mut scratch)?;
        if let Some(live) = effect(&record, true)? {
            each(live);
        }
        if let RecordBody::Lift { of, .. } = record.body {
            lifted.0.insert(Lifted::key(of, record.kind, record.issuer, record.value, &mut scratch).into());
        }
    }
    Ok((lifted, tally))
}

/// Hands out what records of later releases restrict, as far as it is not lifted.
fn others(
    connection: &Connection,
    names: &Names,
    lifted: &Lifted,
    each: &(dyn Fn(Live<'_>) + Sync),
) -> Result<Tally, Refused> {
    let (mut tally, mut restricted, mut scratch) = (Tally::default(), 0_i64, Vec::new());
    let mut statement = connection.prepare(&format!("SELECT {OTHER} FROM others NOT INDEXED"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (other, sum) = others::read(row, names, &mut scratch)?;
        tally.add(sum);
        add_keys(&mut tally, &OTHER_INDEXES, row, &mut scratch)?;
        for target in other.restricts().map_err(rows::RowError::from)? {
            scratch.clear();
            let mut put = Canonical(&mut scratch);
            put.number(target.kind as i64);
            put.text(&target.issuer);
            put.text(&target.value);
            put.number(other.seq);
            restricted = restricted.wrapping_add(checksum(&scratch));
            if !lifted.contains(other.id, target.kind as i64, &target.issuer, &target.value, &mut scratch) {
                each(restriction(&target, &other));
            }
        }
    }
    let sql = "SELECT kind, issuer, value, seq FROM restricted";
    if sum_of(connection, sql, 4)? != restricted {
        return Err(Damage::Checksum { what: "index restricted".to_owned() }.into());
    }
    Ok(tally)
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
    connection: &Connection,
    (first, last): (i64, i64),
    names: &Names,
    lifted: &Lifted,
    each: &(dyn Fn(Live<'_>) + Sync),
) -> Result<Tally, Refused> {
    let (mut tally, mut scratch) = (Tally::default(), Vec::new());
    let sql = format!("SELECT {REVOCATION} FROM revocations NOT INDEXED WHERE seq BETWEEN ?1 AND ?2");
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query((first, last))?;
    while let Some(row) = rows.next()? {
        let (record, sum) = rows::revocation(row, names, &mut scratch)?;
        tally.add(sum);
        add_keys(&mut tally, &REVOCATION_INDEXES, row, &mut scratch)?;
        if lifted.contains(record.id, record.kind, record.issuer, record.value, &mut scratch) {
            continue;
        }
        if let Some(live) = effect(&record, false)? {
            each(live);
        }
    }
    Ok(tally)
}
