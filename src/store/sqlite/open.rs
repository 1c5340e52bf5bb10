//! Opening the folder of a store: whole, or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::mark::{Mark, MarkFile};
use super::state::State;

/// What the store does with a database that is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptLoss {
    /// Refuse to open it.
    No,
    /// Move its files aside, and begin with an empty one. Nothing is deleted.
    Yes,
}

/// How what is on disk contradicts what was written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Damage {
    #[error("the database is missing, but the mark beside it says that there was one")]
    DatabaseMissing,
    #[error("the mark is missing, but the database beside it has entries")]
    MarkMissing,
    #[error("the mark is not readable")]
    MarkUnreadable,
    #[error("the database and the mark beside it belong to different stores")]
    Swapped,
    #[error("the database ends at entry {database}, but it had come to entry {mark}: entries are lost")]
    Behind { database: u64, mark: u64 },
    #[error("the file is empty")]
    Empty,
    #[error("the file is not a database of this gateway")]
    Foreign,
    #[error("the database was written by a later release (format {0})")]
    LaterFormat(i64),
    #[error("the database is malformed: {0}")]
    Malformed(String),
    #[error("the checksum of the {what} is wrong")]
    Checksum { what: String },
    #[error("entries are missing or were changed: {found} of {expected} are there")]
    Missing { found: u64, expected: u64 },
}

/// Why a store was not opened. Read as "failed to open the store: {self}".
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder or a file in it cannot be made, read or written.
    #[error("cannot use `{path}`")]
    Files {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("`{path}` is in use by another process")]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// What is there is not what was written.
    #[error(
        "`{path}` is damaged: {damage}; put back a good copy of the whole folder, keep what is whole of it with \
         `portcullis store rebuild`, or start without what it held: --accept-loss moves its files aside"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
    /// It was written by an earlier release, and is only looked at, so it stays as it is.
    #[error("`{path}` is of an earlier release (format {format}): the gateway takes it over when it starts")]
    Earlier {
        /// The database.
        path: PathBuf,
        /// Its format.
        format: i64,
    },
    /// What is there is damaged, and nothing of it can be read.
    #[error(
        "nothing of `{path}` can be read: {damage}; put back a good copy of the whole folder, or start without what \
         it held: --accept-loss moves its files aside"
    )]
    Hopeless {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
    /// The database cannot be used, for a reason that is not damage.
    #[error("cannot open the database `{path}`")]
    Database {
        /// The database.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
}

/// Why the files were not taken as they are.
pub(super) enum Refused {
    Damaged(Damage),
    Database(rusqlite::Error),
    Files(PathBuf, io::Error),
}

impl From<Damage> for Refused {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}

/// Errors that say something about the machine are passed on; the others about the file.
impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(
                ErrorCode::CannotOpen
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::OutOfMemory
                | ErrorCode::PermissionDenied
                | ErrorCode::ReadOnly
                | ErrorCode::SystemIoFailure,
            ) => Self::Database(error),
            Some(ErrorCode::NotADatabase) => Self::Damaged(Damage::Foreign),
            _ => Self::Damaged(Damage::Malformed(error.to_string())),
        }
    }
}

/// The files of a store.
#[derive(Clone, Debug)]
pub(super) struct Files {
    folder: PathBuf,
}

impl Files {
    /// Those in a folder, without its lock: to be looked at only.
    pub(super) fn within(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    pub(super) fn database(&self) -> PathBuf {
        self.folder.join("revocations.db")
    }

    pub(super) fn mark(&self) -> PathBuf {
        self.folder.join("mark")
    }

    fn new_database(&self) -> PathBuf {
        self.folder.join("revocations.db.new")
    }

    /// Makes the folder and takes its lock, which lasts as long as the file stays open.
    pub(super) fn claim(folder: &Path) -> Result<(Self, File), OpenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Files { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed(folder))?;
        let path = folder.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok((Self { folder: folder.to_owned() }, lock)),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path }),
            Err(TryLockError::Error(source)) => Err(OpenError::Files { path, source }),
        }
    }

    /// Opens what is there, or makes it when nothing is, and renews the mark.
    pub(super) fn open(&self) -> Result<(Connection, State, MarkFile), Refused> {
        let (database, mark) = (self.database(), self.mark());
        if !self.is_there()? {
            self.create()?;
        }
        let connection = connect(&database, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        State::upgrade(&connection)?;
        let state = State::read(&connection)?;
        self.compare(Mark::read(&mark), &state)?;
        let said = Mark { store_id: state.store_id.clone(), sequence: state.sequence };
        let mark_file = MarkFile::create(&mark, &said).map_err(|error| Refused::Files(mark, error))?;
        Ok((connection, state, mark_file))
    }

    /// Whether there is a store: that there was one is no answer.
    pub(super) fn is_there(&self) -> Result<bool, Refused> {
        let database = self.database();
        let exists = |path: &Path| path.try_exists().map_err(|error| Refused::Files(path.to_owned(), error));
        match (exists(&database)?, exists(&self.mark())?) {
            (false, false) => return Ok(false),
            (false, true) => return Err(Damage::DatabaseMissing.into()),
            (true, _) => {}
        }
        let size = fs::metadata(&database).map_err(|error| Refused::Files(database, error))?.len();
        if size == 0 { Err(Damage::Empty.into()) } else { Ok(true) }
    }

    /// Compares what the mark said, no later than the state was read, with the state.
    pub(super) fn compare(&self, mark: io::Result<Option<Mark>>, state: &State) -> Result<(), Refused> {
        let mark = match mark {
            Ok(Some(mark)) => mark,
            Ok(None) => return Err(Damage::MarkUnreadable.into()),
            // A crash between making the database and making its mark leaves an unused database.
            Err(error) if error.kind() == io::ErrorKind::NotFound && state.is_unused() => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Damage::MarkMissing.into()),
            Err(error) => return Err(Refused::Files(self.mark(), error)),
        };
        if mark.store_id != state.store_id {
            return Err(Damage::Swapped.into());
        }
        if mark.sequence > state.sequence {
            return Err(Damage::Behind { database: state.sequence, mark: mark.sequence }.into());
        }
        Ok(())
    }

    /// Makes a database beside its place and moves it there whole, so that a crash on the way never
    /// looks like damage.
    fn create(&self) -> Result<(), Refused> {
        self.begin_new()?.close().map_err(|(_, error)| error)?;
        self.take_new()
    }

    /// A new, empty database beside its place.
    pub(super) fn begin_new(&self) -> Result<Connection, Refused> {
        let new = self.new_database();
        let files = |error| Refused::Files(new.clone(), error);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(files(error)),
            Ok(()) | Err(_) => {}
        }
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(files)?;
        let connection = connect(&new, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        State::create(&connection)?;
        Ok(connection)
    }

    /// Takes the new database away again. If it stays, the next one takes its place.
    pub(super) fn drop_new(&self) {
        drop(fs::remove_file(self.new_database()));
    }

    /// Puts the new database, which is closed, into place.
    pub(super) fn take_new(&self) -> Result<(), Refused> {
        let new = self.new_database();
        let files = |error| Refused::Files(new.clone(), error);
        File::open(&new).and_then(|file| file.sync_all()).map_err(files)?;
        fs::rename(&new, self.database()).map_err(files)?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(files)
    }

    /// Moves everything that belongs to the database out of the way, under names not yet taken.
    pub(super) fn set_aside(&self) -> Result<(), OpenError> {
        self.set_database_aside()?;
        let path = self.mark();
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(OpenError::Files { path, source }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The same, but the mark stays as well, and goes on saying that there was a database; returns where
    /// that is now.
    pub(super) fn set_database_aside(&self) -> Result<PathBuf, OpenError> {
        let names = ["mark", "revocations.db-wal", "revocations.db-shm", "revocations.db"];
        let aside = |name: &str, n: u32| self.folder.join(format!("{name}.damaged-{n}"));
        let taken = |n: u32| names.iter().any(|name| aside(name, n).exists());
        let n = (1..).find(|n| !taken(*n)).unwrap_or(u32::MAX);
        for name in names {
            let (path, aside) = (self.folder.join(name), aside(name, n));
            let moved = if name == "mark" { fs::copy(&path, aside).map(drop) } else { fs::rename(&path, aside) };
            match moved {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(OpenError::Files { path, source });
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(aside("revocations.db", n))
    }

    /// The error for the operator.
    pub(super) fn refused(&self, why: Refused) -> OpenError {
        match why {
            Refused::Damaged(damage) => OpenError::Damaged { path: self.database(), damage },
            Refused::Database(source) => OpenError::Database { path: self.database(), source },
            Refused::Files(path, source) => OpenError::Files { path, source },
        }
    }
}

/// A connection with this gateway's settings: what is committed has reached the disk.
pub(super) fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    if access.contains(OpenFlags::SQLITE_OPEN_READ_WRITE) {
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "cache_size", CACHE_KIB)?;
        connection.pragma_update_and_check(None, "wal_autocheckpoint", CHECKPOINT_PAGES, |_| Ok(()))?;
        connection.pragma_update_and_check(None, "journal_size_limit", WAL_BYTES, |_| Ok(()))?;
    }
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// How long to wait for somebody who looks at the file with a tool of their own.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);
/// Pages kept by the writer; negative: in KiB.
const CACHE_KIB: i64 = -8 * 1024;
/// Pages in the log before they are merged into the file: pages that many commits touch are then
/// written there once.
const CHECKPOINT_PAGES: i64 = 4096;
/// What the log is cut back to after a checkpoint.
const WAL_BYTES: i64 = 64 << 20;
