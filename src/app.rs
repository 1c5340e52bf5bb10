//! The composition root: a configuration becomes a running gateway.
//!
//! The order of the start is the order of trust: configuration, keys, store and its full replay, and
//! only then listeners. The order of the end is its reverse: readiness, listeners, requests, store.

mod build;
mod cluster;
mod control;
mod credentials;
mod descriptors;
mod keys;
mod manager;
mod refresh;
mod sessions;
mod signals;
mod signing;
mod watch;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use self::build::{BuildError, Parts};
pub use self::control::Control;
use crate::admin;
use crate::cli::{Exit, Failure, RunOptions};
use crate::config::{self, Loaded, StoreConfig};
use crate::gate::Replays;
use crate::intake::Ledger;
use crate::proxy::{Checks, Shared, Snapshot};
use crate::revocation::{Freshness, RevocationMap};
use crate::server::{Entrances, Inherited, Workers};
use crate::session::{Registry, Sessions};
use crate::store::{AcceptLoss, MemoryStore, SqliteStore, Store};
use crate::telemetry::{self, Audit, Metrics};
use crate::time::Clock;

/// A gateway whose listeners are open.
#[derive(Debug)]
pub struct Gateway {
    control: Arc<Control>,
    workers: Workers,
    admin: Option<AdminServer>,
    sweeping: tokio::task::JoinHandle<()>,
    keeping_sessions: Option<tokio::task::JoinHandle<()>>,
}

#[derive(Debug)]
struct AdminServer {
    address: String,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

/// What a gateway is started from, besides its configuration.
#[derive(Debug, Default)]
pub struct Origin {
    /// Where a changed configuration is read from; none when it was made in memory.
    pub file: Option<std::path::PathBuf>,
    /// Sockets that were handed to this process.
    pub inherited: Inherited,
}

/// Runs the gateway of a configuration file until SIGTERM or SIGINT.
///
/// Prints one line once every listener is open:
/// `{"event":"listening","listeners":["…"],"admin":"…"}`.
///
/// # Errors
///
/// When it cannot be started; exit status 78 for a configuration that is wrong.
pub fn run(options: &RunOptions, stdout: &mut (dyn Write + Send)) -> Result<(), Failure> {
    telemetry::init_tracing();
    descriptors::raise();
    let inherited = Inherited::take();
    let loaded = load(&options.config)?;
    let runtime = control_runtime()?;
    runtime.block_on(async {
        let mut signals =
            signals::Signals::new().map_err(|error| Failure::of(Exit::Failed, "cannot listen to signals", &error))?;
        let accept_loss = if options.accept_loss { AcceptLoss::Yes } else { AcceptLoss::No };
        let from = Origin { file: Some(options.config.clone()), inherited };
        // A node waits for its cluster for as long as it takes.
        let gateway = tokio::select! {
            started = Gateway::start(loaded, from, accept_loss, Clock::System) => started?,
            () = signals.told_again() => {
                tracing::info!("told to stop before it was started");
                return Ok(());
            }
        };
        let line = serde_json::json!({
            "event": "listening",
            "listeners": gateway.addresses().iter().map(ToString::to_string).collect::<Vec<_>>(),
            "admin": gateway.admin_address(),
        });
        writeln!(stdout, "{line}")?;
        stdout.flush()?;
        manager::ready(&format!("serving on {} listeners", gateway.addresses().len()));
        tokio::select! {
            () = signals.until_told_to_stop(&gateway.control) => {}
            () = manager::keep_alive() => {}
        }
        manager::stopping();
        tokio::select! {
            () = gateway.stop() => Ok(()),
            () = manager::keep_alive() => Ok(()),
            () = signals.told_again() => {
                Err(Failure::new(Exit::Failed, "told to stop once more: what was still running was cut"))
            }
        }
    })
}

/// Reads a configuration file and judges its keys and certificates: what `portcullis check` says.
///
/// # Errors
///
/// Every problem of the file, or the first issuer or listener whose keys cannot be used.
pub fn check(path: &Path) -> Result<Loaded, Failure> {
    let loaded = config::load(path).map_err(|problems| Failure::new(Exit::Config, problems.to_string()))?;
    build::judge_keys(&loaded.config).map_err(|error| failure(&error))?;
    build::upstream_tls(&loaded.config).map_err(|error| failure(&error))?;
    let now = Clock::System.now();
    build::identities(&loaded.config, &Entrances::default(), now).map_err(|error| failure(&error))?;
    Ok(loaded)
}

/// Makes the first signing key of a configuration, where there is none yet; which folder it is in.
///
/// # Errors
///
/// When the configuration is wrong, has no sessions, or the folder cannot be used.
pub fn generate_keys(path: &Path) -> Result<std::path::PathBuf, Failure> {
    let loaded = config::load(path).map_err(|problems| Failure::new(Exit::Config, problems.to_string()))?;
    let session = loaded.config.session.ok_or_else(|| {
        Failure::new(Exit::Config, format!("{}: there is no `session`, and so nothing to sign", path.display()))
    })?;
    Sessions::open(&session, Clock::System.now())
        .map_err(|error| Failure::of(Exit::Failed, "cannot make the session keys", &error))?;
    Ok(session.keys_dir)
}

/// The runtime of everything that is not traffic.
///
/// # Errors
///
/// When it cannot be made.
pub fn control_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("control")
        .build()
        .map_err(|error| Failure::of(Exit::Failed, "cannot start the control thread", &error))
}

fn load(path: &Path) -> Result<Loaded, Failure> {
    let loaded = config::load(path).map_err(|problems| Failure::new(Exit::Config, problems.to_string()))?;
    for warning in &loaded.warnings {
        tracing::warn!(%warning, "the configuration is probably not what is meant");
    }
    Ok(loaded)
}

impl Gateway {
    /// Starts the gateway of a loaded configuration. When this returns, every listener is open and
    /// everything in the store is in force.
    ///
    /// # Errors
    ///
    /// When keys, store or listeners cannot be had.
    pub async fn start(loaded: Loaded, from: Origin, accept_loss: AcceptLoss, clock: Clock) -> Result<Self, Failure> {
        let Origin { file, inherited } = from;
        let started_at = clock.now();
        let config = loaded.config.clone();
        let metrics = Arc::new(Metrics::new());
        let map = Arc::new(RevocationMap::new(config.revocation.max_entries));
        let parts = Parts {
            metrics: Arc::clone(&metrics),
            map: Arc::clone(&map),
            clock: clock.clone(),
            entrances: Arc::new(Entrances::new(inherited)),
            replays: Arc::new(Replays::new(config.token.proofs.max, config.token.proofs.life(), started_at)),
            freshness: config.cluster.as_ref().map(|it| Arc::new(Freshness::new(it.max_staleness))),
            ledger: Arc::default(),
        };
        let identities = build::identities(&config, &parts.entrances, started_at).map_err(|error| failure(&error))?;
        let snapshot = build::snapshot(&config, &parts, None).map_err(|error| failure(&error))?;
        let horizons = build::horizons(&config);

        let store = open_store(&config.revocation.store, accept_loss)?;
        bind_store(&snapshot, store.as_ref(), accept_loss)?;
        let ledger = {
            let (map, clock) = (Arc::clone(&map), clock.clone());
            let opening = tokio::task::spawn_blocking(move || Ledger::open(store, map, horizons, clock));
            let opened = opening.await.map_err(|error| Failure::of(Exit::Failed, "cannot replay the store", &error))?;
            Arc::new(opened.map_err(|error| Failure::of(Exit::Failed, "cannot replay the store", &error))?)
        };
        // Set once, here.
        drop(parts.ledger.set(Arc::clone(&ledger)));
        let families = refresh::restore(&config, Arc::clone(&ledger), clock.now()).await?;
        keys::start(&snapshot, None, &ledger, clock.now()).await;
        let registry = open_registry(&config, &ledger, clock.now()).await?;
        let audit_target = config.admin.as_ref().map_or(config::LogTarget::Off, |admin| admin.audit_log.clone());
        let audit = Audit::open(&audit_target, clock.clone())
            .map_err(|error| Failure::of(Exit::Failed, "cannot open the audit log", &error))?;
        let audit = Arc::new(audit);
        let workers = config.workers;
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(snapshot),
            ledger,
            registry,
            families,
            audit: Arc::clone(&audit),
            metrics: Arc::clone(&metrics),
            clock: clock.clone(),
        });
        let entrances = Arc::clone(&parts.entrances);
        let bound = entrances.prepare(&config.listeners, identities, workers);
        let bound = bound.map_err(|error| Failure::of(Exit::Unavailable, "cannot open a listener", &error))?;
        let control = Arc::new(Control {
            shared: Arc::clone(&shared),
            parts,
            file: file.clone(),
            loaded: ArcSwap::from_pointee(control::InForce { loaded, since: started_at }),
            reloading: tokio::sync::Mutex::new(()),
            credentials: std::sync::OnceLock::new(),
            started_at,
            workers,
            admin_address: config.admin.as_ref().map(|admin| admin.address.clone()),
            files: tokio::sync::watch::Sender::new(file.iter().cloned().collect()),
            last_failed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            checks: Checks::default(),
            cluster: std::sync::OnceLock::new(),
        });
        control.checks.follow(&shared.snapshot.load());
        let admin = match &config.admin {
            None => None,
            Some(admin) => Some(serve_admin(admin, &control, &metrics, audit, clock).await?),
        };
        if let (Some(config), Some(freshness)) = (&config.cluster, control.parts.freshness.clone()) {
            cluster::join(config, &control, &freshness).await?;
        }
        let counting = control.clone();
        let sweeping = tokio::spawn(async move {
            tokio::join!(
                control::keep_house(&counting),
                control::forget_rates(&counting),
                signing::keep_time(&counting),
                watch::keep(&counting)
            );
        });
        // A store that forgets need not be told.
        let keeping = Arc::clone(&shared);
        let keeping_sessions =
            shared.ledger.status().survives.then(|| tokio::spawn(async move { sessions::keep(&keeping).await }));
        // Last of all: from here on requests come in.
        let workers = Workers::start(workers, &shared, &entrances)
            .map_err(|error| Failure::of(Exit::Failed, "cannot start", &error))?;
        entrances.put(bound);
        entrances.inherited().warn_of_others(&listened_on(&config));
        Ok(Self { control, workers, admin, sweeping, keeping_sessions })
    }

    /// Where traffic comes in.
    #[must_use]
    pub fn addresses(&self) -> Vec<std::net::SocketAddr> {
        self.control.parts.entrances.all().iter().map(|entrance| entrance.address()).collect()
    }

    /// Where the control plane listens, when there is one.
    #[must_use]
    pub fn admin_address(&self) -> Option<&str> {
        self.admin.as_ref().map(|admin| admin.address.as_str())
    }

    /// What operators ask and change.
    #[must_use]
    pub const fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Ends the gateway: says it is not ready, waits, closes the listeners, lets requests finish, and
    /// closes the store once everything acknowledged is on disk.
    pub async fn stop(self) {
        let shutdown = self.control.shared.snapshot.load().config.shutdown;
        self.control.draining.store(true, std::sync::atomic::Ordering::Release);
        tracing::info!("draining");
        tokio::time::sleep(shutdown.drain_delay).await;
        if !self.workers.drain(shutdown.drain_timeout).await {
            tracing::warn!("requests were still running at the end of drain_timeout");
        }
        if let Some(admin) = self.admin {
            admin.stop.cancel();
            // A panic there has been reported where it happened.
            drop(admin.task.await);
        }
        self.sweeping.abort();
        if let Some(keeping) = self.keeping_sessions {
            keeping.abort();
            // It has ended before anything else is written.
            drop(keeping.await);
            sessions::write_all(self.control.shared()).await;
        }
        if let Some(cluster) = self.control.cluster.get() {
            cluster.stop().await;
        }
        tracing::info!("stopped");
    }
}

/// Every TCP address that a configuration names.
fn listened_on(config: &config::Config) -> Vec<std::net::SocketAddr> {
    let admin = config.admin.as_ref().and_then(|admin| match &admin.address {
        config::AdminAddress::Tcp(address) => Some(*address),
        config::AdminAddress::Unix(_) => None,
    });
    config.listeners.iter().map(|listener| listener.address).chain(admin).collect()
}

async fn serve_admin(
    config: &config::Admin,
    control: &Arc<Control>,
    metrics: &Arc<Metrics>,
    audit: Arc<Audit>,
    clock: Clock,
) -> Result<AdminServer, Failure> {
    let inherited = match &config.address {
        config::AdminAddress::Tcp(address) => control.parts.entrances.inherited().find(*address),
        config::AdminAddress::Unix(_) => Ok(None),
    };
    let listener = match inherited {
        Ok(Some(socket)) => admin::Listener::inherited(socket),
        Ok(None) => admin::Listener::bind(&config.address).await,
        Err(error) => Err(error),
    };
    let listener =
        listener.map_err(|error| Failure::of(Exit::Unavailable, "cannot open the admin listener", &error))?;
    let address = listener.address();
    let gateway: Arc<dyn admin::Gateway> = control.clone();
    let api = admin::Api::new(admin::Parts {
        gateway,
        ledger: control.shared.ledger.as_ref().clone(),
        map: Arc::clone(&control.parts.map),
        metrics: Arc::clone(metrics),
        audit,
        tokens: config.tokens.clone(),
        clock,
    });
    // Set once, here.
    drop(control.credentials.set(api.credentials()));
    let stop = CancellationToken::new();
    let task = tokio::spawn(admin::serve(listener, api, stop.clone()));
    Ok(AdminServer { address, stop, task })
}

/// The open sessions that the store knows.
async fn open_registry(
    config: &config::Config,
    ledger: &Arc<Ledger>,
    now: crate::time::Timestamp,
) -> Result<Arc<Registry>, Failure> {
    let registry = Arc::new(Registry::new(config.session.as_ref().map_or(0, |session| session.devices.max)));
    if config.session.is_some() {
        let (into, from) = (Arc::clone(&registry), Arc::clone(ledger));
        let reading = tokio::task::spawn_blocking(move || sessions::restore(&into, &from, now));
        let read = reading.await.map_err(|error| Failure::of(Exit::Failed, "cannot read the open sessions", &error))?;
        read.map_err(|error| Failure::of(Exit::Failed, "cannot read the open sessions", &error))?;
    }
    Ok(registry)
}

fn open_store(config: &StoreConfig, accept_loss: AcceptLoss) -> Result<Arc<dyn Store>, Failure> {
    match config {
        StoreConfig::Memory => {
            tracing::warn!("revocations are kept in memory only: a restart forgets them");
            Ok(Arc::new(MemoryStore::new()))
        }
        StoreConfig::Sqlite(folder) => {
            let store = SqliteStore::open(folder, accept_loss);
            Ok(Arc::new(store.map_err(|error| Failure::of(Exit::Failed, "cannot open the store", &error))?))
        }
    }
}

/// What a store remembers once session keys were bound to it.
const BOUND: &str = "session_keys";

/// Holds the store and the session keys to belong together: an emptied data folder beside keys whose
/// tokens still live would read as "nothing is revoked", and new keys beside an old store would give
/// sessions other names than the ones that were revoked.
fn bind_store(snapshot: &Snapshot, store: &dyn Store, accept_loss: AcceptLoss) -> Result<(), Failure> {
    let (Some(sessions), StoreConfig::Sqlite(_)) = (&snapshot.sessions, &snapshot.config.revocation.store) else {
        return Ok(());
    };
    if snapshot.config.cluster.is_some() {
        // Many stores beside one folder of keys; and one that was lost is filled by the others before it counts.
        return Ok(());
    }
    let failed = |error| Failure::of(Exit::Failed, "cannot read the session keys", &error);
    let unread = |error| Failure::of(Exit::Failed, "cannot read the store", &error);
    let lost = |what: &str| Failure::new(Exit::Failed, format!("{what}: --accept-loss binds them to each other anew"));
    let bound = sessions.store_id().map_err(failed)?;
    match bound {
        Some(id) if id == store.store_id() => {}
        Some(_) if accept_loss == AcceptLoss::No => {
            return Err(lost(
                "the session keys belong to another revocation store; put back the store they belong to, or start without \
                 what it held",
            ));
        }
        Some(_) => sessions.rebind_store_id(store.store_id()).map_err(failed)?,
        None if accept_loss == AcceptLoss::No && store.setting(BOUND).map_err(unread)?.is_some() => {
            return Err(lost(
                "the revocation store belongs to session keys that are gone; put back the keys folder, or start with the \
                 new keys",
            ));
        }
        None => sessions.bind_store_id(store.store_id()).map_err(failed)?,
    }
    store.set_setting(BOUND, "bound").map_err(unread)
}

fn failure(error: &BuildError) -> Failure {
    Failure::of(error.exit(), "cannot put the configuration into force", error)
}
