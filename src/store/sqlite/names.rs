//! Issuers and nodes, which many rows name.

use std::collections::HashMap;

use rusqlite::Connection;

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
