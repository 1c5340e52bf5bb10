//! The one row that says what the database holds, so that what went missing is noticed.

use rusqlite::Connection;

use super::open::{Damage, Refused};
use crate::store::record::{Canonical, checksum};

/// Which tables there are and what is in them; a database with a higher one is not touched.
pub(super) const FORMAT: i64 = 3;
/// What each format added to the one before it, the first to nothing.
const STEPS: [(i64, &str); 3] = [
    (1, include_str!("format-1.sql")),
    // Documents.
    (2, include_str!("format-2.sql")),
    // What other nodes say.
    (FORMAT, include_str!("format-3.sql")),
];
/// Tells our databases from others ("PCLS").
const APPLICATION: i64 = 0x5043_4C53;

/// What the database says it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) store_id: String,
    /// The highest number ever given to a row.
    pub(super) sequence: u64,
    /// The highest `origin_seq` among this node's own entries.
    pub(super) own_sequence: u64,
    /// Rows with a checksum.
    pub(super) records: u64,
    /// The sum of the checksums.
    pub(super) digest: i64,
}

impl State {
    /// Puts tables and an empty state into an empty database.
    pub(super) fn create(connection: &Connection) -> rusqlite::Result<()> {
        let transaction = connection.unchecked_transaction()?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        bring_up(&transaction, 0)?;
        let state =
            Self { store_id: uuid::Uuid::now_v7().to_string(), sequence: 0, own_sequence: 0, records: 0, digest: 0 };
        state.write(&transaction)?;
        transaction.commit()
    }

    /// Brings a database of an earlier format to this one, in one transaction: it is either or. What it
    /// holds stays as it is, and is verified like any other.
    pub(super) fn upgrade(connection: &Connection) -> rusqlite::Result<()> {
        let Some(format) = Self::earlier_format(connection)? else { return Ok(()) };
        let transaction = connection.unchecked_transaction()?;
        bring_up(&transaction, format)?;
        transaction.commit()
    }

    /// The format of a database of ours that an earlier release wrote.
    pub(super) fn earlier_format(connection: &Connection) -> rusqlite::Result<Option<i64>> {
        let format = pragma(connection, "user_version")?;
        let earlier = pragma(connection, "application_id")? == APPLICATION && (1..FORMAT).contains(&format);
        Ok(earlier.then_some(format))
    }

    /// Reads the state of a database that is ours.
    pub(super) fn read(connection: &Connection) -> Result<Self, Refused> {
        if pragma(connection, "application_id")? != APPLICATION {
            return Err(Damage::Foreign.into());
        }
        match pragma(connection, "user_version")? {
            FORMAT => {}
            later if later > FORMAT => return Err(Damage::LaterFormat(later).into()),
            _ => return Err(Damage::Foreign.into()),
        }
        let sql = "SELECT store_id, sequence, own_sequence, records, digest, checksum FROM state WHERE one = 1";
        let (state, sum) = connection.query_row(sql, [], |row| {
            let state = Self {
                store_id: row.get(0)?,
                sequence: row.get::<_, i64>(1)?.cast_unsigned(),
                own_sequence: row.get::<_, i64>(2)?.cast_unsigned(),
                records: row.get::<_, i64>(3)?.cast_unsigned(),
                digest: row.get(4)?,
            };
            Ok((state, row.get::<_, i64>(5)?))
        })?;
        if state.checksum() != sum {
            return Err(Damage::Checksum { what: "state".to_owned() }.into());
        }
        Ok(state)
    }

    /// Writes the state, within the transaction of what it describes.
    pub(super) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO state (one, store_id, sequence, own_sequence, records, digest, checksum) \
                   VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)";
        connection.prepare_cached(sql)?.execute((
            &self.store_id,
            self.sequence.cast_signed(),
            self.own_sequence.cast_signed(),
            self.records.cast_signed(),
            self.digest,
            self.checksum(),
        ))?;
        Ok(())
    }

    /// Whether nothing was ever written.
    pub(super) const fn is_unused(&self) -> bool {
        self.sequence == 0 && self.records == 0
    }

    /// Takes note of a row that was written.
    pub(super) const fn add(&mut self, row: i64) {
        self.records += 1;
        self.digest = self.digest.wrapping_add(row);
    }

    /// Takes note of a row that was deleted.
    pub(super) const fn remove(&mut self, row: i64) {
        self.records = self.records.saturating_sub(1);
        self.digest = self.digest.wrapping_sub(row);
    }

    fn checksum(&self) -> i64 {
        let mut bytes = Vec::new();
        let mut put = Canonical(&mut bytes);
        put.text(&self.store_id);
        put.number(self.sequence.cast_signed());
        put.number(self.own_sequence.cast_signed());
        put.number(self.records.cast_signed());
        put.number(self.digest);
        checksum(&bytes)
    }
}

/// Takes the steps after `format`.
fn bring_up(connection: &Connection, format: i64) -> rusqlite::Result<()> {
    for (_, step) in STEPS.iter().filter(|(to, _)| *to > format) {
        connection.execute_batch(step)?;
    }
    connection.pragma_update(None, "user_version", FORMAT)
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}
