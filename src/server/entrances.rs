//! The open listeners, which a reload may change: what is new is bound before anything else is changed, and
//! what is not wanted any more stops accepting and lets its connections finish.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::mpsc::UnboundedSender;

use super::inherited::Inherited;
use super::sockets::{BindError, bind};
use super::tls::{self, Identity, Unusable};
use crate::config::{Limits, Listener};
use crate::time::Timestamp;

/// One open listener: what its sockets have in common, of which each worker has one.
#[derive(Debug)]
pub struct Entrance {
    /// As the configuration has it: with port 0 that is not where it listens.
    configured: SocketAddr,
    address: SocketAddr,
    /// Whether its socket, one for all workers, outlives them.
    pub(super) inherited: bool,
    /// How it does handshakes; nothing when it speaks in clear.
    identity: ArcSwapOption<Identity>,
}

impl Entrance {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as the configuration has it.
    pub(super) const fn configured(&self) -> SocketAddr {
        self.configured
    }

    /// What it shows itself as; `None` when it speaks in clear.
    #[must_use]
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.load_full()
    }
}

/// What a worker is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Accept connections from this socket.
    Open(Arc<Entrance>, StdListener),
    /// Accept no more.
    Close(Arc<Entrance>),
    /// As many connections, and as many handshakes, at once.
    Bounds(usize, usize),
}

/// Listeners that can be put in place of those that are open; dropped, nothing has changed.
#[derive(Debug)]
pub struct Prepared {
    entrances: Vec<(Arc<Entrance>, Option<Arc<Identity>>)>,
    /// For each of the new ones a socket a worker.
    sockets: Vec<(Arc<Entrance>, Vec<StdListener>)>,
}

impl Prepared {
    /// Where traffic will come in, in the order of the configuration.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.entrances.iter().map(|(entrance, _)| entrance.address)
    }
}

/// The open listeners, in the order of the configuration.
#[derive(Debug, Default)]
pub struct Entrances {
    open: ArcSwap<Vec<Arc<Entrance>>>,
    /// Ports that were ever listened on, where nobody else can be.
    ports: Mutex<HashSet<u16>>,
    workers: OnceLock<Vec<UnboundedSender<Order>>>,
    inherited: Inherited,
}

impl Entrances {
    /// None yet. What was `inherited` is listened on where the configuration says so.
    #[must_use]
    pub fn new(inherited: Inherited) -> Self {
        Self { inherited, ..Self::default() }
    }

    /// What `listeners` are to show themselves as.
    ///
    /// # Errors
    ///
    /// The first listener whose certificates cannot be used.
    pub fn identities(&self, listeners: &[Listener], now: Timestamp) -> Result<Vec<Option<Arc<Identity>>>, Unusable> {
        let in_force: Vec<_> = self.open.load().iter().filter_map(|entrance| entrance.identity()).collect();
        tls::prepare(&in_force, listeners, now)
    }

    /// Binds those of `listeners` that are not open, once for each of `workers`. Port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// The first address that cannot be bound.
    pub fn prepare(
        &self,
        listeners: &[Listener],
        identities: Vec<Option<Arc<Identity>>>,
        workers: usize,
    ) -> Result<Prepared, BindError> {
        let mut open: Vec<_> = self.open.load().iter().cloned().collect();
        let mut prepared = Prepared { entrances: Vec::new(), sockets: Vec::new() };
        for (listener, identity) in listeners.iter().zip(identities) {
            let configured = listener.address;
            let entrance = match open.iter().position(|entrance| entrance.configured == configured) {
                Some(place) => open.remove(place),
                None => {
                    let opened = self.open(configured, workers)?;
                    let (entrance, sockets) = (Arc::new(opened.0), opened.1);
                    prepared.sockets.push((Arc::clone(&entrance), sockets));
                    entrance
                }
            };
            prepared.entrances.push((entrance, identity));
        }
        Ok(prepared)
    }

    fn open(&self, configured: SocketAddr, workers: usize) -> Result<(Entrance, Vec<StdListener>), BindError> {
        let identity = ArcSwapOption::empty();
        let handles = (0..workers).filter_map(|_| self.inherited.find(configured).transpose());
        let handles = handles.collect::<Result<Vec<_>, _>>();
        let handles = handles.map_err(|source| BindError { address: configured, source })?;
        if !handles.is_empty() {
            return Ok((Entrance { configured, address: configured, inherited: true, identity }, handles));
        }
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let (address, sockets) = bind(configured, workers, ports.contains(&configured.port()))?;
        ports.insert(address.port());
        Ok((Entrance { configured, address, inherited: false, identity }, sockets))
    }

    /// Opens and closes what it takes for `prepared` to be what is open.
    pub fn put(&self, prepared: Prepared) {
        let mut now = Vec::with_capacity(prepared.entrances.len());
        for (entrance, identity) in prepared.entrances {
            entrance.identity.store(identity);
            now.push(entrance);
        }
        for (entrance, sockets) in prepared.sockets {
            for (worker, socket) in self.workers().iter().zip(sockets) {
                // A worker that has ended listens no more.
                drop(worker.send(Order::Open(Arc::clone(&entrance), socket)));
            }
        }
        let now = Arc::new(now);
        let before = self.open.swap(Arc::clone(&now));
        for gone in before.iter().filter(|entrance| !now.iter().any(|it| Arc::ptr_eq(it, entrance))) {
            self.tell(|| Order::Close(Arc::clone(gone)));
        }
    }

    /// Changes how much each worker does at once.
    pub fn set_limits(&self, limits: &Limits) {
        self.tell(|| Order::Bounds(limits.connections_per_worker, limits.handshakes_per_worker));
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Arc<Vec<Arc<Entrance>>> {
        self.open.load_full()
    }

    /// The sockets that were handed to this process.
    #[must_use]
    pub const fn inherited(&self) -> &Inherited {
        &self.inherited
    }

    /// Who is to be told. Once, before anything is opened.
    pub(super) fn begin(&self, workers: Vec<UnboundedSender<Order>>) {
        drop(self.workers.set(workers));
    }

    fn tell(&self, order: impl Fn() -> Order) {
        for worker in self.workers() {
            drop(worker.send(order()));
        }
    }

    fn workers(&self) -> &[UnboundedSender<Order>] {
        self.workers.get().map_or(&[], Vec::as_slice)
    }
}
