//! The one thread that writes. Whatever waits when it is ready goes into one transaction, so one
//! wait for the disk acknowledges many.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::oneshot;

use super::documents::{self, Counts};
use super::mark::{Mark, MarkFile};
use super::names::Names;
use super::state::State;
use super::work::{Work, WriteError};
use crate::store::{Adopted, Adoption, Appended, Document, DocumentWrite, Entry, Put, StoreError};
use crate::time::Timestamp;

/// Entries in one transaction: keeps the wait of the first of them, and the log, short.
const MAX_BATCH: usize = 4096;
/// How long a transaction is held open for those who took part in the one before.
const GATHER: Duration = Duration::from_micros(500);
/// How long the mark may lag behind while there is always something to write.
const MARK_LAG: Duration = Duration::from_millis(200);

/// What the writer is asked to do.
pub(super) enum Command {
    Adopt { what: Box<Adopting>, done: oneshot::Sender<Result<Adoption, StoreError>> },
    Append { entries: Vec<Entry>, done: oneshot::Sender<Result<Vec<Appended>, StoreError>> },
    Forget { before: Timestamp, limit: usize, done: SyncSender<Result<usize, StoreError>> },
    Put { writes: Vec<DocumentWrite>, done: oneshot::Sender<Result<Put, StoreError>> },
    Set { name: String, value: String, done: SyncSender<Result<(), StoreError>> },
}

/// What other nodes have said, and how far this node has heard of it.
pub(super) struct Adopting {
    pub(super) entries: Vec<Entry>,
    pub(super) documents: Vec<Adopted>,
    pub(super) progress: Vec<(String, String)>,
}

/// What the writer tells others about.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) names: RwLock<Arc<Names>>,
    pub(super) sequence: AtomicU64,
    pub(super) own_sequence: AtomicU64,
    pub(super) records: AtomicU64,
    /// The first failure. Nothing is acknowledged after it.
    pub(super) failure: OnceLock<StoreError>,
}

impl Shared {
    pub(super) fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn publish(&self, state: &State) {
        self.sequence.store(state.sequence, Ordering::Release);
        self.own_sequence.store(state.own_sequence, Ordering::Release);
        self.records.store(state.records, Ordering::Release);
    }
}

/// The writer.
pub(super) struct Writer {
    connection: Connection,
    state: State,
    names: Names,
    mark: MarkFile,
    /// Documents there are, and how many of a kind there may be.
    documents: Counts,
    max_documents: u64,
    shared: Arc<Shared>,
    scratch: Vec<u8>,
    /// Commands in the last transaction.
    usual: usize,
}

/// What to tell whoever asked, once the transaction is on disk.
enum Reply {
    Adopted(oneshot::Sender<Result<Adoption, StoreError>>, Adoption),
    Appended(oneshot::Sender<Result<Vec<Appended>, StoreError>>, Vec<Appended>),
    Forgot(SyncSender<Result<usize, StoreError>>, usize),
    /// A put that found no room fails alone: nothing of it was written, and the others were.
    Put(oneshot::Sender<Result<Put, StoreError>>, Result<Put, StoreError>),
    Set(SyncSender<Result<(), StoreError>>),
}

impl Reply {
    /// Whoever asked may be gone by now: then nobody is told, and what was written stays.
    fn send(self, failure: Option<&StoreError>) {
        match self {
            Self::Adopted(done, adoption) => {
                let _ = done.send(failure.map_or(Ok(adoption), |error| Err(error.clone())));
            }
            Self::Appended(done, outcomes) => {
                let _ = done.send(failure.map_or(Ok(outcomes), |error| Err(error.clone())));
            }
            Self::Forgot(done, rows) => {
                let _ = done.send(failure.map_or(Ok(rows), |error| Err(error.clone())));
            }
            Self::Put(done, outcome) => {
                let _ = done.send(failure.map_or(outcome, |error| Err(error.clone())));
            }
            Self::Set(done) => {
                let _ = done.send(failure.map_or(Ok(()), |error| Err(error.clone())));
            }
        }
    }
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        state: State,
        names: Names,
        mark: MarkFile,
        max_documents: u64,
        shared: Arc<Shared>,
    ) -> rusqlite::Result<Self> {
        let documents = documents::counts(&connection)?;
        Ok(Self { connection, state, names, mark, documents, max_documents, shared, scratch: Vec::new(), usual: 1 })
    }

    /// Works until every sender is gone and everything they sent is done.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        let mut marked = self.state.sequence;
        let mut marked_at = Instant::now();
        loop {
            let first = if marked == self.state.sequence {
                commands.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                commands.recv_timeout(MARK_LAG.saturating_sub(marked_at.elapsed()))
            };
            match first {
                Ok(first) => self.group(first, commands),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            // Acknowledged first, marked then: the mark may lag, and a quiet store is marked at once.
            if marked != self.state.sequence && marked_at.elapsed() >= MARK_LAG {
                self.mark();
                (marked, marked_at) = (self.state.sequence, Instant::now());
            }
        }
        self.mark();
        // The log goes into the file, so that a copy of the folder of a stopped gateway is one file. If
        // that fails, everything is in the log.
        let _ = self.connection.pragma_update_and_check(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()));
    }

    fn mark(&mut self) {
        let mark = Mark { store_id: self.state.store_id.clone(), sequence: self.state.sequence };
        if let Err(error) = self.mark.write(&mark) {
            self.fail(error.into());
        }
    }

    /// Writes `first` and whatever else waits, as one transaction, and tells everybody.
    fn group(&mut self, first: Command, commands: &Receiver<Command>) {
        let begun = Instant::now();
        let mut batch = vec![first];
        let mut size = batch[0].size();
        while size < MAX_BATCH {
            // Whoever had their answer from the last transaction is likely to ask again at once: going
            // without them would cost them a whole wait for the disk. One writer alone never waits.
            let patience =
                if batch.len() < self.usual { GATHER.saturating_sub(begun.elapsed()) } else { Duration::ZERO };
            let Ok(command) = commands.recv_timeout(patience) else { break };
            size += command.size();
            batch.push(command);
        }
        self.usual = batch.len();
        let mut replies = Vec::with_capacity(batch.len());
        if self.shared.failure.get().is_none()
            && let Err(error) = self.commit(&mut batch, &mut replies)
        {
            self.fail(error);
        }
        let failure = self.shared.failure.get();
        // Whatever the transaction did not come to, because it failed, or was not begun.
        replies.extend(batch.into_iter().map(Command::undone));
        for reply in replies {
            reply.send(failure);
        }
    }

    /// Moves the commands that it carries out from `batch` to `replies`.
    fn commit(&mut self, batch: &mut Vec<Command>, replies: &mut Vec<Reply>) -> Result<(), WriteError> {
        let mut state = self.state.clone();
        let mut documents = self.documents;
        let known_names = self.names.len();
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut work = Work {
            connection: &transaction,
            state: &mut state,
            names: &mut self.names,
            documents: &mut documents,
            max_documents: self.max_documents,
            scratch: &mut self.scratch,
        };
        for command in batch.drain(..) {
            let reply = match &command {
                Command::Adopt { what, .. } => work.adopt(what).map(Outcome::Adopted),
                Command::Append { entries, .. } => work.append(entries).map(Outcome::Appended),
                Command::Forget { before, limit, .. } => work.forget(*before, *limit).map(Outcome::Forgot),
                Command::Put { writes, .. } => work.put(writes).map(Outcome::Put),
                Command::Set { name, value, .. } => work.set(name, value).map(|()| Outcome::Set),
            };
            match reply {
                Ok(outcome) => replies.push(command.done(outcome)),
                Err(error) => {
                    replies.push(command.undone());
                    return Err(error);
                }
            }
        }
        if state != self.state {
            state.write(&transaction)?;
        }
        // Before anybody can see a row that has them. When the commit fails they are names of nothing, and
        // nothing else will have their numbers, for nothing more is written.
        if self.names.len() != known_names {
            *self.shared.names.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(self.names.clone());
        }
        transaction.commit()?;
        self.state = state;
        self.documents = documents;
        self.shared.publish(&self.state);
        Ok(())
    }

    /// What reached the disk is not known any more, and asking the disk again proves nothing: from
    /// here on nothing is acknowledged.
    fn fail(&self, cause: WriteError) {
        let _ = self.shared.failure.set(StoreError::NotDurable(Arc::new(cause)));
    }
}

/// What a command did, if the transaction comes through.
enum Outcome {
    Adopted(Adoption),
    Appended(Vec<Appended>),
    Forgot(usize),
    Put(Result<Put, StoreError>),
    Set,
}

/// A long document costs as much as several entries.
const fn cost(document: &Document) -> usize {
    1 + document.body.len() / 4096
}

impl Adopting {
    fn size(&self) -> usize {
        let documents: usize = self.documents.iter().map(|it| cost(&it.document)).sum();
        self.entries.len() + documents + self.progress.len()
    }
}

impl Command {
    /// How much it adds to a transaction, at least one: a batch ends some time.
    fn size(&self) -> usize {
        match self {
            Self::Adopt { what, .. } => what.size().max(1),
            Self::Append { entries, .. } => entries.len().max(1),
            Self::Forget { limit, .. } => *limit,
            Self::Put { writes, .. } => writes.iter().map(|it| cost(&it.document)).sum::<usize>().max(1),
            Self::Set { .. } => 1,
        }
    }

    fn done(self, outcome: Outcome) -> Reply {
        match (self, outcome) {
            (Self::Adopt { done, .. }, Outcome::Adopted(adoption)) => Reply::Adopted(done, adoption),
            (Self::Append { done, .. }, Outcome::Appended(outcomes)) => Reply::Appended(done, outcomes),
            (Self::Forget { done, .. }, Outcome::Forgot(rows)) => Reply::Forgot(done, rows),
            (Self::Put { done, .. }, Outcome::Put(outcome)) => Reply::Put(done, outcome),
            (command, _) => command.undone(),
        }
    }

    /// The reply of a command that was not carried out; only sent together with the failure.
    fn undone(self) -> Reply {
        match self {
            Self::Adopt { done, .. } => Reply::Adopted(done, Adoption::default()),
            Self::Append { done, .. } => Reply::Appended(done, Vec::new()),
            Self::Forget { done, .. } => Reply::Forgot(done, 0),
            Self::Put { done, .. } => Reply::Put(done, Err(StoreError::Stopped)),
            Self::Set { done, .. } => Reply::Set(done),
        }
    }
}
