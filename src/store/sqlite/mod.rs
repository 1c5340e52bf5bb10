//! The store on disk: one SQLite file in a folder of its own, with a mark beside it.

mod documents;
mod mark;
mod names;
mod open;
mod others;
mod read;
mod rebuild;
mod replay;
mod rows;
mod snapshot;
mod state;
mod work;
mod writer;

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use self::names::Names;
use self::open::{Files, Refused, connect};
use self::state::State;
use self::writer::{Adopting, Command, Shared, Writer};
use super::document::{self, Document, DocumentKind, DocumentWrite, MAX_DOCUMENTS};
use super::exchange::{self, AdoptAcknowledgement, Adopted, Written};
use super::{
    Acknowledgement, Cursor, Entry, Filter, Kept, Live, Page, PutAcknowledgement, Store, StoreError, StoreStatus,
};
use crate::revocation::{RecordId, Revocation, Target};
use crate::time::Timestamp;

pub use self::open::{AcceptLoss, Damage, OpenError};
pub use self::rebuild::{Rebuilt, rebuild};
pub use self::snapshot::Snapshot;

/// Appends that may wait for the writer.
const QUEUE: usize = 16 * 1024;

/// Entries in an SQLite database (WAL, `synchronous=FULL`).
///
/// An entry is acknowledged once it is on disk. One thread writes; reads have a connection of their
/// own. The folder is locked: a second process is refused.
#[derive(Debug)]
pub struct SqliteStore {
    store_id: String,
    files: Files,
    shared: Arc<Shared>,
    reader: Mutex<Connection>,
    commands: Option<SyncSender<Command>>,
    writer: Option<JoinHandle<()>>,
    /// Held for as long as the store is open.
    _lock: File,
}

impl SqliteStore {
    /// Opens the store in `folder`, which is made if it is not there.
    ///
    /// [`replay`](Store::replay) completes the verification; with [`AcceptLoss::Yes`] all of it is
    /// done here, so that damage of any sort is moved aside.
    ///
    /// # Errors
    ///
    /// When the folder is in use or cannot be used, and when anything in it is not as it was written.
    pub fn open(folder: &Path, accept_loss: AcceptLoss) -> Result<Self, OpenError> {
        Self::open_with(folder, accept_loss, MAX_DOCUMENTS)
    }

    pub(super) fn open_with(folder: &Path, accept_loss: AcceptLoss, max_documents: u64) -> Result<Self, OpenError> {
        let (files, lock) = Files::claim(folder)?;
        if accept_loss == AcceptLoss::Yes && matches!(Self::verify(&files), Err(Refused::Damaged(_))) {
            files.set_aside()?;
        }
        Self::start(&files, lock, max_documents).map_err(|why| files.refused(why))
    }

    fn verify(files: &Files) -> Result<State, Refused> {
        let (_, state, _) = files.open()?;
        replay::replay(&files.database(), &state, &|_| {})?;
        Ok(state)
    }

    fn start(files: &Files, lock: File, max_documents: u64) -> Result<Self, Refused> {
        let (connection, state, mark) = files.open()?;
        let reader = connect(&files.database(), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let names = Names::read(&connection)?;
        let shared = Arc::new(Shared { names: RwLock::new(Arc::new(names.clone())), ..Shared::default() });
        shared.publish(&state);
        let store_id = state.store_id.clone();
        let (commands, queue) = sync_channel(QUEUE);
        let writer = Writer::new(connection, state, names, mark, max_documents, Arc::clone(&shared))?;
        let writer = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(&queue))
            .map_err(|error| Refused::Files(files.database(), error))?;
        Ok(Self {
            store_id,
            files: files.clone(),
            shared,
            reader: Mutex::new(reader),
            commands: Some(commands),
            writer: Some(writer),
            _lock: lock,
        })
    }

    /// Runs `query` on the read connection.
    fn read<T>(&self, mut query: impl FnMut(&Connection, &Names) -> Result<T, Refused>) -> Result<T, StoreError> {
        let connection = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let names = self.shared.names();
            match query(&connection, &names) {
                // It may have met a row whose names came with it, just now. They are told before the row
                // can be seen, so when there are no others by now, it is damaged.
                Err(Refused::Damaged(_)) if !Arc::ptr_eq(&names, &self.shared.names()) => {}
                answer => return answer.map_err(|why| self.failed(why)),
            }
        }
    }

    /// Runs `query` on a connection of its own, so that nobody else waits until it is done.
    fn read_all(&self, query: impl FnOnce(&Connection, &Names) -> Result<(), Refused>) -> Result<(), StoreError> {
        let read = || {
            let connection = connect(&self.files.database(), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            let snapshot = connection.unchecked_transaction()?;
            query(&snapshot, &Names::read(&snapshot)?)
        };
        read().map_err(|why| self.failed(why))
    }

    fn failed(&self, why: Refused) -> StoreError {
        match why {
            Refused::Damaged(_) => StoreError::Damaged(Arc::new(self.files.refused(why))),
            Refused::Database(error) => StoreError::Read(Arc::new(error)),
            Refused::Files(_, error) => StoreError::Read(Arc::new(error)),
        }
    }

    /// Queues a command for the writer, or gives it back.
    fn queue(&self, command: Command) -> Result<(), (StoreError, Command)> {
        match &self.commands {
            None => Err((StoreError::Stopped, command)),
            Some(commands) => commands.try_send(command).map_err(|error| match error {
                TrySendError::Full(command) => (StoreError::Busy, command),
                TrySendError::Disconnected(command) => (StoreError::Stopped, command),
            }),
        }
    }

    /// Has the writer do something, and waits for it.
    fn command<T>(&self, command: impl FnOnce(SyncSender<Result<T, StoreError>>) -> Command) -> Result<T, StoreError> {
        let (done, answer) = sync_channel(1);
        let commands = self.commands.as_ref().ok_or(StoreError::Stopped)?;
        commands.send(command(done)).map_err(|_| StoreError::Stopped)?;
        answer.recv().map_err(|_| StoreError::Stopped)?
    }
}

impl Store for SqliteStore {
    fn store_id(&self) -> &str {
        &self.store_id
    }

    fn own_sequence(&self) -> u64 {
        self.shared.own_sequence.load(Ordering::Acquire)
    }

    fn append(&self, entries: Vec<Entry>) -> Acknowledgement {
        let (done, answer) = oneshot::channel();
        if let Err(why) = exchange::check_entries(&entries) {
            // Nobody can have given up on an answer that was not handed out yet.
            let _ = done.send(Err(why.into()));
        } else if let Err((error, Command::Append { done, .. })) = self.queue(Command::Append { entries, done }) {
            let _ = done.send(Err(error));
        }
        answer
    }

    fn put(&self, writes: Vec<DocumentWrite>) -> PutAcknowledgement {
        let (done, answer) = oneshot::channel();
        if let Err(error) = document::check(&writes) {
            let _ = done.send(Err(error));
        } else if let Err((error, Command::Put { done, .. })) = self.queue(Command::Put { writes, done }) {
            let _ = done.send(Err(error));
        }
        answer
    }

    fn document(&self, kind: DocumentKind, key: &str) -> Result<Option<Document>, StoreError> {
        self.read(|connection, names| Ok(documents::find(connection, names, kind, key)?.map(|it| it.document)))
    }

    fn documents(&self, kind: DocumentKind, each: &mut dyn FnMut(Document)) -> Result<(), StoreError> {
        self.read_all(|connection, names| documents::each(connection, names, kind, each))
    }

    fn adopt(
        &self,
        entries: Vec<Entry>,
        documents: Vec<Adopted>,
        progress: Vec<(String, String)>,
    ) -> AdoptAcknowledgement {
        let (done, answer) = oneshot::channel();
        // As above.
        if let Err(error) = exchange::check(&entries, &documents) {
            let _ = done.send(Err(error));
            return answer;
        }
        let command = Command::Adopt { what: Box::new(Adopting { entries, documents, progress }), done };
        if let Err((error, Command::Adopt { done, .. })) = self.queue(command) {
            let _ = done.send(Err(error));
        }
        answer
    }

    fn written(&self, after: u64, limit: usize) -> Result<Vec<Written>, StoreError> {
        self.read(|connection, names| read::written(connection, names, &self.store_id, after, limit))
    }

    fn entries(&self, each: &mut dyn FnMut(Entry)) -> Result<(), StoreError> {
        self.read_all(|connection, names| read::entries(connection, names, each))
    }

    fn replay(&self, each: &(dyn Fn(Live<'_>) + Sync)) -> Result<(), StoreError> {
        let state = self.read(|connection, _| State::read(connection))?;
        replay::replay(&self.files.database(), &state, each).map_err(|why| self.failed(why))
    }

    fn live(&self, target: &Target, each: &mut dyn FnMut(Live<'_>)) -> Result<(), StoreError> {
        self.read(|connection, names| read::live(connection, names, target, each))
    }

    fn find(&self, id: &RecordId) -> Result<Option<Kept>, StoreError> {
        self.read(|connection, names| read::find(connection, names, id))
    }

    fn is_lift(&self, id: &RecordId) -> Result<bool, StoreError> {
        self.read(|connection, _| read::is_lift(connection, id))
    }

    fn is_lifted(&self, id: &RecordId, target: &Target) -> Result<bool, StoreError> {
        self.read(|connection, names| Ok(rows::is_lifted(connection, names, id.as_str(), target)?))
    }

    fn of_target(&self, target: &Target, limit: usize) -> Result<Vec<Revocation>, StoreError> {
        self.read(|connection, names| read::of_target(connection, names, target, limit))
    }

    fn page(&self, filter: &Filter, from: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.read(|connection, names| read::page(connection, names, filter, from, limit))
    }

    fn forget(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.command(|done| Command::Forget { before, limit, done })
    }

    fn setting(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.read(|connection, _| Ok(rows::setting(connection, name)?.map(|(value, _)| value)))
    }

    fn set_setting(&self, name: &str, value: &str) -> Result<(), StoreError> {
        self.command(|done| Command::Set { name: name.to_owned(), value: value.to_owned(), done })
    }

    fn status(&self) -> StoreStatus {
        let failure = match self.shared.failure.get() {
            Some(error) => Some(error.clone()),
            None if self.writer.as_ref().is_none_or(JoinHandle::is_finished) => Some(StoreError::Stopped),
            None => None,
        };
        StoreStatus {
            engine: "sqlite",
            survives: true,
            store_id: self.store_id.clone(),
            sequence: self.shared.sequence.load(Ordering::Acquire),
            records: self.shared.records.load(Ordering::Acquire),
            failure: failure.map(|error| error.to_string()),
        }
    }
}

/// Whatever was appended is written before the store is closed.
impl Drop for SqliteStore {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has nothing left to write.
            let _ = writer.join();
        }
    }
}

#[cfg(test)]
mod tests;
