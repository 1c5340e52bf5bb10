//! The mark beside the database: which store it is, and how far it had come. A database that was
//! emptied, replaced by another or by an older copy of itself contradicts its mark.
//!
//! The mark may lag behind by the last commits, never run ahead: it is written after them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::store::record::checksum;

/// Two copies, written in turn, each in a disk block of its own: one survives a torn write.
const SLOT: usize = 512;

/// What the mark says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) store_id: String,
    pub(super) sequence: u64,
}

impl Mark {
    /// Reads the mark; `None` when neither copy is intact.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        let bytes = fs::read(path)?;
        Ok(bytes.chunks(SLOT).take(2).filter_map(Self::parse).max_by_key(|mark| mark.sequence))
    }

    fn parse(slot: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(slot).ok()?.trim_end_matches('\0').strip_suffix('\n')?;
        let (said, sum) = line.rsplit_once(' ')?;
        if format!("{:016x}", checksum(said.as_bytes())) != sum {
            return None;
        }
        let mut words = said.strip_prefix("portcullis-mark 1 ")?.split(' ');
        let mark = Self { store_id: words.next()?.to_owned(), sequence: words.next()?.parse().ok()? };
        words.next().is_none().then_some(mark)
    }

    fn slot(&self) -> Vec<u8> {
        let said = format!("portcullis-mark 1 {} {}", self.store_id, self.sequence);
        let mut slot = format!("{said} {:016x}\n", checksum(said.as_bytes())).into_bytes();
        slot.resize(SLOT, 0);
        slot
    }
}

/// The mark, open for writing.
#[derive(Debug)]
pub(super) struct MarkFile {
    file: File,
    next: u64,
}

impl MarkFile {
    /// Puts a mark into place, whole or not at all, and keeps it open.
    pub(super) fn create(path: &Path, mark: &Mark) -> io::Result<Self> {
        let new = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&mark.slot())?;
        file.write_all(&mark.slot())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(Self { file, next: 0 })
    }

    /// Overwrites the older copy, and returns once that is on disk.
    pub(super) fn write(&mut self, mark: &Mark) -> io::Result<()> {
        self.file.write_all_at(&mark.slot(), self.next)?;
        self.file.sync_data()?;
        self.next = SLOT as u64 - self.next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(sequence: u64) -> Mark {
        Mark { store_id: "0190-store".to_owned(), sequence }
    }

    #[test]
    fn the_newer_copy_counts_and_one_is_enough() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        let mut file = MarkFile::create(&path, &mark(1)).unwrap();
        for sequence in 2..6 {
            file.write(&mark(sequence)).unwrap();
            assert_eq!(Mark::read(&path).unwrap(), Some(mark(sequence)));
        }
        let whole = fs::read(&path).unwrap();
        for torn in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[torn] ^= 1;
            fs::write(&path, &bytes).unwrap();
            let read = Mark::read(&path).unwrap().unwrap();
            assert!([4, 5].contains(&read.sequence), "byte {torn}");
        }
    }

    #[test]
    fn a_mark_without_an_intact_copy_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        MarkFile::create(&path, &mark(1)).unwrap();
        let whole = fs::read(&path).unwrap();
        for text in [&b""[..], b"portcullis-mark 1 0190-store 1 0000000000000000\n", &whole[..40]] {
            fs::write(&path, text).unwrap();
            assert_eq!(Mark::read(&path).unwrap(), None);
        }
    }
}
