//! The store of a gateway that may be running, as it is at one moment: read only, and without its lock.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::mark::Mark;
use super::names::Names;
use super::open::{Files, OpenError, Refused, connect};
use super::state::{FORMAT, State};
use super::{documents, read, replay};
use crate::store::lines::{Header, LINES_VERSION, Line};
use crate::store::{Adopted, Entry};

/// One moment of a store on disk. Whoever writes goes on writing, and is not seen.
#[derive(Debug)]
pub struct Snapshot {
    files: Files,
    connection: Connection,
    state: State,
    names: Names,
}

impl Snapshot {
    /// Looks at the store in `folder`, and changes nothing there.
    ///
    /// # Errors
    ///
    /// When there is none, it cannot be read, contradicts the mark beside it, or is of another release.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let files = Files::within(folder);
        let opened = || {
            if !files.is_there()? {
                return Err(Refused::Files(files.database(), std::io::ErrorKind::NotFound.into()));
            }
            // The mark first: what is written in between is ahead of it.
            let mark = Mark::read(&files.mark());
            let connection = connect(&files.database(), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            connection.execute_batch("BEGIN")?;
            if let Some(format) = State::earlier_format(&connection)? {
                return Ok(Err(OpenError::Earlier { path: files.database(), format }));
            }
            let state = State::read(&connection)?;
            files.compare(mark, &state)?;
            let names = Names::read(&connection)?;
            Ok(Ok((connection, state, names)))
        };
        let (connection, state, names) = opened().map_err(|why| files.refused(why))??;
        Ok(Self { files, connection, state, names })
    }

    /// Verifies everything that a start does.
    ///
    /// # Errors
    ///
    /// [`OpenError::Damaged`] when anything is not as it was written.
    pub fn verify(&self) -> Result<(), OpenError> {
        replay::verify(&self.connection, &self.names, &self.state).map_err(|why| self.files.refused(why))
    }

    /// Which store it is.
    #[must_use]
    pub fn store_id(&self) -> &str {
        &self.state.store_id
    }

    /// The number of the newest row.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.state.sequence
    }

    /// How many rows there are.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.state.records
    }

    /// Hands out a header, every entry and every document.
    ///
    /// # Errors
    ///
    /// When anything cannot be read or is not as it was written: then some were not handed out.
    pub fn lines(&self, each: &mut dyn FnMut(Line)) -> Result<(), OpenError> {
        self.read_lines(each).map_err(|why| self.files.refused(why))
    }

    fn read_lines(&self, each: &mut dyn FnMut(Line)) -> Result<(), Refused> {
        let sql = "SELECT (SELECT count(*) FROM revocations) + (SELECT count(*) FROM lifts) \
                   + (SELECT count(*) FROM others) + (SELECT count(*) FROM documents)";
        let lines: i64 = self.connection.query_row(sql, [], |row| row.get(0))?;
        each(Line::Header(Header {
            version: LINES_VERSION,
            store_id: self.state.store_id.clone(),
            format: FORMAT,
            sequence: self.state.sequence,
            lines: Some(lines.cast_unsigned()),
        }));
        read::entries(&self.connection, &self.names, &mut |entry: Entry| each(Line::Entry(entry)))?;
        documents::adopted(&self.connection, &self.names, &mut |it: Adopted| each(Line::Document(it)))
    }
}
