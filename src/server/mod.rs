//! Sockets, connections and their limits; knows no tokens.
//!
//! One worker a core, each a thread with its own runtime, its own listening sockets (`SO_REUSEPORT`:
//! the kernel spreads connections), its own upstream connections and its own caches, so that requests
//! of two workers meet only at read-mostly state.

mod connection;
mod ending;
mod guard;
mod http1;
mod sockets;
mod tls;

use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::connection::Door;
use self::ending::Ending;
pub use self::sockets::{BindError, Sockets};
use self::sockets::{Serving, accept};
use self::tls::Handshakes;
pub use self::tls::{CertificateError, Identities, Identity, Shown, Unusable};
use crate::proxy::{Shared, Worker};

/// How often idle upstream connections are looked through.
const REAP: Duration = Duration::from_secs(5);

/// The end of all workers, in two steps.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    /// No new connections and requests; running ones go on.
    stop: CancellationToken,
    /// Nothing goes on.
    end: CancellationToken,
}

/// The running workers.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    drain: Drain,
    ended: tokio::sync::mpsc::Receiver<()>,
}

/// Why the workers could not be started. Read as "failed to start: {self}".
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread or its runtime could not be made.
    #[error("a worker thread cannot be started")]
    Thread(#[source] io::Error),
}

impl Workers {
    /// Starts a worker for each set of sockets, whose listeners show themselves as `identities` say.
    ///
    /// # Errors
    ///
    /// When a thread cannot be made.
    pub fn start(sockets: Sockets, shared: &Arc<Shared>, identities: &Arc<Identities>) -> Result<Self, StartError> {
        let drain = Drain::default();
        let (alive, ended) = tokio::sync::mpsc::channel(1);
        let mut threads = Vec::new();
        for (number, listeners) in sockets.of_workers.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build()
                .map_err(StartError::Thread)?;
            let (shared, drain, alive) = (Arc::clone(shared), drain.clone(), alive.clone());
            let identities = Arc::clone(identities);
            let work = move || {
                tokio::task::LocalSet::new().block_on(&runtime, work(listeners, shared, identities, drain));
                drop(alive);
            };
            let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(work);
            threads.push(thread.map_err(StartError::Thread)?);
        }
        Ok(Self { threads, drain, ended })
    }

    /// Stops accepting, lets running requests finish for at most `patience`, and ends the workers.
    /// Whether all requests had finished by then.
    pub async fn drain(mut self, patience: Duration) -> bool {
        self.drain.stop.cancel();
        let finished = tokio::time::timeout(patience, self.ended.recv()).await.is_ok();
        self.drain.end.cancel();
        for thread in self.threads {
            // A worker that panicked has nothing left to finish.
            drop(tokio::task::spawn_blocking(move || thread.join()).await);
        }
        finished
    }
}

async fn work(listeners: Vec<StdListener>, shared: Arc<Shared>, identities: Arc<Identities>, drain: Drain) {
    let worker = Rc::new(Worker::new(Arc::clone(&shared)));
    let limits = shared.snapshot.load().config.limits.clone();
    let slots = Arc::new(Semaphore::new(limits.connections_per_worker));
    let connections = TaskTracker::new();
    let ending = Rc::new(Ending::default());
    let handshakes = Rc::new(Handshakes::new(limits.handshakes_per_worker));
    for (place, listener) in listeners.into_iter().enumerate() {
        let serving = Serving {
            door: Rc::new(Door {
                worker: Rc::clone(&worker),
                ending: Rc::clone(&ending),
                identities: Arc::clone(&identities),
                handshakes: Rc::clone(&handshakes),
                place,
            }),
            slots: Arc::clone(&slots),
            connections: connections.clone(),
        };
        connections.spawn_local(accept(listener, serving, drain.stop.clone()));
    }
    let reaping = Rc::clone(&worker);
    tokio::task::spawn_local(async move {
        let mut ticks = tokio::time::interval(REAP);
        loop {
            ticks.tick().await;
            reaping.reap();
        }
    });
    drain.stop.cancelled().await;
    ending.begin();
    connections.close();
    tokio::select! {
        () = connections.wait() => {}
        () = drain.end.cancelled() => {}
    }
}
