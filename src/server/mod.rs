//! Sockets, connections and their limits; knows no tokens.
//!
//! One worker a core, each a thread with its own runtime, its own listening sockets (`SO_REUSEPORT`:
//! the kernel spreads connections; an inherited one is shared), its own upstream connections and its own caches, so that requests
//! of two workers meet only at read-mostly state.

mod capacity;
mod census;
mod connection;
mod ending;
mod entrances;
mod frames;
mod guard;
mod http1;
mod http2;
mod inherited;
mod patient;
mod sockets;
mod tls;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::capacity::Capacity;
use self::census::Census;
use self::connection::Door;
use self::ending::Ending;
use self::entrances::Order;
pub use self::entrances::{Entrance, Entrances, Prepared};
pub use self::inherited::Inherited;
pub use self::sockets::BindError;
use self::sockets::{Serving, accept};
use self::tls::Handshakes;
pub use self::tls::{CertificateError, Identity, Shown, Unusable};
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
    /// Starts `count` workers, which open and close `entrances`.
    ///
    /// # Errors
    ///
    /// When a thread cannot be made.
    pub fn start(count: usize, shared: &Arc<Shared>, entrances: &Entrances) -> Result<Self, StartError> {
        let drain = Drain::default();
        let (alive, ended) = tokio::sync::mpsc::channel(1);
        let (mut threads, mut tell) = (Vec::new(), Vec::new());
        let census = Arc::<Census>::default();
        for number in 0..count {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build()
                .map_err(StartError::Thread)?;
            let (shared, drain, alive) = (Arc::clone(shared), drain.clone(), alive.clone());
            let (teller, orders) = tokio::sync::mpsc::unbounded_channel();
            let census = Arc::clone(&census);
            let work = move || {
                tokio::task::LocalSet::new().block_on(&runtime, work(orders, shared, census, drain));
                drop(alive);
            };
            let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(work);
            threads.push(thread.map_err(StartError::Thread)?);
            tell.push(teller);
        }
        entrances.begin(tell);
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

/// Ends what is left of a listener that is not wanted any more, when it has had its time.
async fn end(door: Rc<Door>) {
    let patience = door.worker.local().snapshot.config.shutdown.drain_timeout;
    tokio::time::sleep(patience).await;
    door.ending.end();
}

/// A listener that a worker accepts from.
struct Open {
    door: Rc<Door>,
    stop: CancellationToken,
}

async fn work(mut orders: UnboundedReceiver<Order>, shared: Arc<Shared>, census: Arc<Census>, drain: Drain) {
    let worker = Rc::new(Worker::new(Arc::clone(&shared)));
    let limits = shared.snapshot.load().config.limits.clone();
    let slots = Rc::new(Capacity::new(limits.connections_per_worker));
    let connections = TaskTracker::new();
    let handshakes = Rc::new(Handshakes::new(limits.handshakes_per_worker, &shared.metrics));
    let reaping = Rc::clone(&worker);
    tokio::task::spawn_local(async move {
        let mut ticks = tokio::time::interval(REAP);
        loop {
            ticks.tick().await;
            reaping.reap();
        }
    });
    let mut open: Vec<Open> = Vec::new();
    loop {
        let order = tokio::select! {
            Some(order) = orders.recv() => order,
            () = drain.stop.cancelled() => break,
        };
        match order {
            Order::Open(entrance, socket) => {
                let door = Rc::new(Door {
                    worker: Rc::clone(&worker),
                    ending: Ending::default(),
                    entrance,
                    handshakes: Rc::clone(&handshakes),
                });
                let stop = drain.stop.child_token();
                let serving = Serving {
                    door: Rc::clone(&door),
                    slots: Rc::clone(&slots),
                    census: Arc::clone(&census),
                    connections: connections.clone(),
                };
                connections.spawn_local(accept(socket, serving, stop.clone()));
                open.push(Open { door, stop });
            }
            Order::Close(entrance) => open.retain(|it| {
                let stays = !Arc::ptr_eq(&it.door.entrance, &entrance);
                if !stays {
                    it.stop.cancel();
                    it.door.ending.begin();
                    tokio::task::spawn_local(end(Rc::clone(&it.door)));
                }
                stays
            }),
            Order::Bounds(max_connections, max_handshakes) => {
                slots.set(max_connections);
                handshakes.set_max(max_handshakes);
                // Comes with a reload: one that has nothing to do lets go of the old generation as well.
                drop(worker.local());
            }
        }
    }
    open.iter().for_each(|it| it.door.ending.begin());
    connections.close();
    tokio::select! {
        () = connections.wait() => {}
        () = drain.end.cancelled() => {}
    }
}
