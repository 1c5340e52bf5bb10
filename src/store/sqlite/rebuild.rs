//! A new store out of a damaged one: whatever row of it can be read and is what was written.
//!
//! Where a part of the file cannot be read, what lies around it still can, so a table is read from both
//! ends, and what is left in between is halved until nothing but the damage remains.

use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, Row, params_from_iter};

use super::documents::{self, DOCUMENT};
use super::mark::{Mark, MarkFile};
use super::names::Names;
use super::open::{Damage, Files, OpenError, Refused, connect};
use super::others::{self, OTHER};
use super::rows::{self, LIFT, REVOCATION, RowError};
use super::state::State;
use super::{SqliteStore, replay};

/// Reads that may meet damage, of each table, so that a file full of it comes to an end.
const MAX_DAMAGE: u32 = 20_000;
/// The same, of tables of few rows whose numbers nobody knows.
const MAX_DAMAGE_OF_FEW: u32 = 500;
/// How far the mark may lag behind the numbers that were given: more than can be written meanwhile.
const MARK_LAG: u64 = 1_000_000;

/// What became of a store that was rebuilt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// The rows that are kept.
    pub kept: u64,
    /// Those that are lost; `None` when what there was can no longer be told.
    pub lost: Option<u64>,
    /// Where the damaged database is now; `None`: nothing was damaged, and nothing was changed.
    pub aside: Option<PathBuf>,
}

/// Sets the damaged store in `folder` aside, and makes a new one out of every row that is whole. It goes on as
/// the same store: with its id, and with numbers that it never gave.
///
/// # Errors
///
/// When the folder is in use, there is no store, it is of a later release, or nothing of it can be read: then
/// nothing was changed.
pub fn rebuild(folder: &Path) -> Result<Rebuilt, OpenError> {
    let files = Files::within(folder);
    if !files.is_there().map_err(|why| files.refused(why))? {
        return Err(OpenError::Files { path: files.database(), source: std::io::ErrorKind::NotFound.into() });
    }
    let (files, _lock) = Files::claim(folder)?;
    match SqliteStore::verify(&files) {
        Ok(state) => Ok(Rebuilt { kept: state.records, lost: Some(0), aside: None }),
        Err(Refused::Damaged(damage @ Damage::LaterFormat(_))) => Err(files.refused(damage.into())),
        Err(Refused::Damaged(damage)) => {
            let gathered = gather(&files).map_err(|why| files.refused(why))?;
            if gathered.state.records == 0 {
                files.drop_new();
                return Err(OpenError::Hopeless { path: files.database(), damage });
            }
            gathered.take_place(&files)
        }
        Err(why) => Err(files.refused(why)),
    }
}

/// A new database, closed and beside its place.
struct Gathered {
    state: State,
    lost: Option<u64>,
}

impl Gathered {
    fn take_place(self, files: &Files) -> Result<Rebuilt, OpenError> {
        let aside = files.set_database_aside()?;
        files.take_new().map_err(|why| files.refused(why))?;
        let mark = Mark { store_id: self.state.store_id.clone(), sequence: self.state.sequence };
        MarkFile::create(&files.mark(), &mark).map_err(|source| OpenError::Files { path: files.mark(), source })?;
        Ok(Rebuilt { kept: self.state.records, lost: self.lost, aside: Some(aside) })
    }
}

/// Reads what there is into a new database.
fn gather(files: &Files) -> Result<Gathered, Refused> {
    let old = connect(&files.database(), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let said = State::read(&old).ok();
    let mark = Mark::read(&files.mark()).ok().flatten();
    let mut new = files.begin_new()?;
    let transaction = new.transaction()?;
    let names = names(&old, &transaction)?;
    let mut state = beginning(&transaction, said.as_ref(), mark.as_ref())?;
    // Nothing has a number beyond.
    let last = match (&said, &mark) {
        (Some(said), _) => said.sequence.cast_signed(),
        (None, Some(mark)) => mark.sequence.saturating_add(MARK_LAG).cast_signed(),
        (None, None) => i64::MAX,
    };
    for table in &TABLES {
        let (left, last) = if table.name == "settings" { (MAX_DAMAGE_OF_FEW, i64::MAX) } else { (MAX_DAMAGE, last) };
        let state = &mut state;
        Salvage { table, old: &old, new: &transaction, names: &names, state, left }.all(last)?;
    }
    let own = names.number(&state.store_id);
    for table in ["revocations", "lifts", "others"] {
        let sql = format!("SELECT coalesce(max(origin_seq), 0) FROM {table} WHERE origin = ?1");
        let highest: i64 = transaction.query_row(&sql, [own], |row| row.get(0))?;
        state.own_sequence = state.own_sequence.max(highest.cast_unsigned());
    }
    state.write(&transaction)?;
    transaction.commit()?;
    replay::verify(&new, &Names::read(&new)?, &state)?;
    let lost = lost(&state, said.as_ref(), mark.as_ref());
    new.pragma_update_and_check(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()))?;
    new.close().map_err(|(_, error)| error)?;
    Ok(Gathered { state, lost })
}

/// The state to begin with: of the same store, if it can be told which that was, and beyond every number that
/// it is known to have given.
fn beginning(new: &Connection, said: Option<&State>, mark: Option<&Mark>) -> Result<State, Refused> {
    let mut state = State::read(new)?;
    if let Some(said) = said {
        state.store_id.clone_from(&said.store_id);
        (state.sequence, state.own_sequence) = (said.sequence, said.own_sequence);
    } else if let Some(mark) = mark {
        state.store_id.clone_from(&mark.store_id);
    }
    if let Some(mark) = mark.filter(|mark| mark.store_id == state.store_id) {
        // Each row took a number of the store, and may have been an entry of its own.
        let beyond = mark.sequence.saturating_sub(state.sequence);
        state.sequence += beyond;
        state.own_sequence += beyond;
    }
    Ok(state)
}

/// How many rows are missing, where what there was is known.
fn lost(state: &State, said: Option<&State>, mark: Option<&Mark>) -> Option<u64> {
    let (said, mark) = (said?, mark?);
    let newest = mark.store_id == said.store_id && mark.sequence <= said.sequence;
    let lost = said.records.checked_sub(state.records)?;
    (newest && (lost > 0 || said.digest == state.digest)).then_some(lost)
}

/// Copies the names that can be read.
fn names(old: &Connection, new: &Connection) -> Result<Names, Refused> {
    let table = Table { name: "names", columns: "id, name", count: 2, judge: |_, _, _| Ok(0) };
    let mut state = State::read(new)?;
    let nobody = Names::default();
    Salvage { table: &table, old, new, names: &nobody, state: &mut state, left: MAX_DAMAGE_OF_FEW }.all(i64::MAX)?;
    Ok(Names::read(new)?)
}

/// A table, and how a row of it is judged: its checksum, if that fits.
struct Table {
    name: &'static str,
    columns: &'static str,
    count: usize,
    judge: fn(&Row<'_>, &Names, &mut Vec<u8>) -> Result<i64, RowError>,
}

const TABLES: [Table; 5] = [
    Table {
        name: "revocations",
        columns: REVOCATION,
        count: 17,
        judge: |row, names, scratch| {
            let (record, sum) = rows::revocation(row, names, scratch)?;
            record.read().map(|_| sum).map_err(RowError::from)
        },
    },
    Table {
        name: "lifts",
        columns: LIFT,
        count: 15,
        judge: |row, names, scratch| {
            let (record, sum) = rows::lift(row, names, scratch)?;
            record.read().map(|_| sum).map_err(RowError::from)
        },
    },
    Table {
        name: "others",
        columns: OTHER,
        count: 11,
        judge: |row, names, scratch| {
            let (other, sum) = others::read(row, names, scratch)?;
            other.read().map(|_| sum).map_err(RowError::from)
        },
    },
    Table {
        name: "documents",
        columns: DOCUMENT,
        count: 9,
        judge: |row, names, scratch| {
            let (document, sum) = documents::read(row, names, scratch)?;
            document.read().map(|_| sum).map_err(RowError::from)
        },
    },
    Table {
        name: "settings",
        columns: "name, value, checksum",
        count: 3,
        judge: |row, _, _| {
            let (name, value, sum): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            // There are no numbers in settings.
            if rows::setting_checksum(&name, &value) == sum { Ok(sum) } else { Err(RowError::Checksum { seq: 0 }) }
        },
    },
];

/// One table on its way from the old database to the new one.
struct Salvage<'a> {
    table: &'a Table,
    old: &'a Connection,
    new: &'a Connection,
    names: &'a Names,
    state: &'a mut State,
    /// How often damage may still be met.
    left: u32,
}

impl Salvage<'_> {
    /// Reads every row with a number up to `last`.
    fn all(&mut self, last: i64) -> Result<(), Refused> {
        let mut ranges = vec![(1, last)];
        while let Some((first, last)) = ranges.pop() {
            let Some(first) = self.read(first, last, "ASC")? else { continue };
            let Some(last) = self.read(first, last, "DESC")? else { continue };
            if first < last && self.left > 0 {
                let middle = first.midpoint(last);
                ranges.extend([(middle + 1, last), (first, middle)]);
            }
        }
        Ok(())
    }

    /// Reads a range of rows from one end; returns where it could not go on.
    fn read(&mut self, first: i64, last: i64, order: &str) -> Result<Option<i64>, Refused> {
        let Table { name, columns, count, judge } = self.table;
        let sql = format!(
            "SELECT {columns}, rowid FROM {name} NOT INDEXED WHERE rowid BETWEEN ?1 AND ?2 ORDER BY rowid {order}"
        );
        // A table that is not there, or that nothing is known of.
        let Ok(mut statement) = self.old.prepare_cached(&sql) else { return Ok(None) };
        let (mut reached, mut scratch) = (None, Vec::new());
        let Ok(mut rows) = statement.query((first, last)) else { return Ok(None) };
        loop {
            match rows.next() {
                Ok(None) => return Ok(None),
                Ok(Some(row)) => {
                    let at: i64 = row.get(*count)?;
                    // Pages that lead back to where one has been are damage as well.
                    if reached.is_some_and(|it| if order == "ASC" { at <= it } else { at >= it }) {
                        break;
                    }
                    reached = Some(at);
                    if let Ok(sum) = judge(row, self.names, &mut scratch) {
                        self.keep(row, sum)?;
                    }
                }
                Err(_) => break,
            }
        }
        self.left = self.left.saturating_sub(1);
        Ok(Some(match (order, reached) {
            ("ASC", reached) => reached.map_or(first, |it| it.saturating_add(1)),
            (_, reached) => reached.map_or(last, |it| it.saturating_sub(1)),
        }))
    }

    fn keep(&mut self, row: &Row<'_>, sum: i64) -> Result<(), Refused> {
        let Table { name, columns, count, .. } = self.table;
        let values = (0..*count).map(|place| row.get::<_, Value>(place)).collect::<Result<Vec<_>, _>>()?;
        let places = vec!["?"; *count].join(", ");
        let sql = format!("INSERT OR IGNORE INTO {name} ({columns}) VALUES ({places})");
        if self.new.prepare_cached(&sql)?.execute(params_from_iter(values))? == 0 || *name == "names" {
            return Ok(());
        }
        self.state.add(sum);
        if *name == "settings" {
            return Ok(());
        }
        let seq: i64 = row.get(0)?;
        self.state.sequence = self.state.sequence.max(seq.cast_unsigned());
        if *name == "others" {
            others::index(self.new, &others::read(row, self.names, &mut Vec::new())?.0)?;
        }
        Ok(())
    }
}
