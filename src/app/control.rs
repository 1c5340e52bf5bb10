//! What operators ask of the running gateway and change in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::build::{self, BuildError, Parts};
use super::{cluster, keys, manager, signing};
use crate::admin::{
    Credentials, Explanation, Gateway, KeyInfo, Pending, Question, ReloadError, Reloaded, RotateError, ServerInfo,
    Status,
};
use crate::cluster::{Cluster, ClusterStatus};
use crate::config::{self, Loaded, Problems};
use crate::gate::Denial;
use crate::intake::Level;
use crate::keys::subject;
use crate::proxy::{Checks, ServerView, Shared, explain, settle};
use crate::revocation::{Target, TargetKind};
use crate::session::{Open, Wanted};
use crate::telemetry::StoreOperation;
use crate::time::Timestamp;

/// The control plane's hold on the running gateway.
#[derive(Debug)]
pub struct Control {
    pub(super) shared: Arc<Shared>,
    pub(super) parts: Parts,
    /// Where the configuration came from; none when it was made in memory.
    pub(super) file: Option<PathBuf>,
    pub(super) loaded: ArcSwap<InForce>,
    /// Held during a reload, so that one ends before the next begins.
    pub(super) reloading: tokio::sync::Mutex<()>,
    pub(super) credentials: OnceLock<Credentials>,
    pub(super) started_at: Timestamp,
    pub(super) workers: usize,
    /// As the configuration had it at the start.
    pub(super) admin_address: Option<config::AdminAddress>,
    /// What the configuration hung on when it was last read.
    pub(super) files: tokio::sync::watch::Sender<Vec<PathBuf>>,
    /// Whether what was last read was not taken up.
    pub(super) last_failed: AtomicBool,
    pub(super) draining: AtomicBool,
    /// The checks of upstream servers.
    pub(super) checks: Checks,
    /// This node's part in its cluster, once it takes part.
    pub(super) cluster: OnceLock<Cluster>,
}

/// The configuration in force.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) loaded: Loaded,
    pub(super) since: Timestamp,
}

impl Control {
    /// What lives as long as the process.
    #[must_use]
    pub const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Opens log files anew, for whoever moves them away.
    pub(super) fn reopen_logs(&self) {
        if let Err(error) = self.shared.snapshot.load().access_log.reopen() {
            tracing::error!(%error, "failed to reopen the access log");
        }
    }

    /// How the servers of every upstream stand.
    fn upstreams(&self) -> BTreeMap<String, BTreeMap<String, ServerInfo>> {
        let (now, time) = (Instant::now(), self.shared.clock.now());
        let info = |server: ServerView| {
            let (ago, why) = server.changed.unzip();
            let since = ago.map(|ago| time.minus(ago));
            (server.name, ServerInfo { state: server.state, weight: server.weight, since, why })
        };
        let snapshot = self.shared.snapshot.load();
        let groups = snapshot.groups.iter();
        groups.map(|group| (group.name().to_owned(), group.servers(now).into_iter().map(info).collect())).collect()
    }

    /// Takes up what has changed since it was last tried. After a failure everything is tried again.
    pub(super) async fn take_up_changes(&self) {
        let _turn = self.reloading.lock().await;
        let Some(path) = &self.file else { return };
        let read = self.read(path);
        let same = |loaded: &Loaded| loaded.digest == self.loaded.load().loaded.digest;
        if read.as_ref().is_ok_and(same) && !self.last_failed.load(Ordering::Relaxed) {
            return;
        }
        // What came of it is in the log and the metrics.
        drop(self.attempt(read).await);
    }

    fn read(&self, path: &Path) -> Result<Loaded, Problems> {
        let reading = config::read(path);
        self.files.send_replace(reading.files);
        reading.outcome
    }

    /// Puts what was read into force, or says why not. To be asked by whoever has the turn.
    async fn attempt(&self, read: Result<Loaded, Problems>) -> Result<Reloaded, ReloadError> {
        manager::reloading();
        let outcome = match read {
            Err(problems) => Err(ReloadError::Invalid(problems.to_string())),
            Ok(loaded) => self.take_up(loaded).await,
        };
        self.last_failed.store(outcome.is_err(), Ordering::Relaxed);
        self.shared.metrics.reloaded(outcome.is_ok());
        let result = if outcome.is_ok() { "" } else { "; the last reload failed" };
        manager::ready(&format!("serving on {} listeners{result}", self.parts.entrances.all().len()));
        match &outcome {
            Ok(reloaded) => {
                tracing::info!(digest = reloaded.config_digest, "the configuration was reloaded");
                for warning in &reloaded.warnings {
                    tracing::warn!(warning, "a part of the configuration is not in force");
                }
            }
            Err(error) => tracing::error!(%error, "failed to reload; the old configuration stays in force"),
        }
        outcome
    }

    /// Settings that are read once, at the start: those that may differ until then, as warnings.
    fn check_restart(&self, before: &config::Config, after: &config::Config) -> Result<Vec<String>, ReloadError> {
        let (old, new) = (before.admin.as_ref(), after.admin.as_ref());
        let audit_log = |admin: Option<&config::Admin>| admin.map(|it| it.audit_log.clone());
        let changed = [
            ("admin", old.is_some() != new.is_some()),
            ("admin.audit_log", audit_log(old) != audit_log(new)),
            ("revocation.store", before.revocation.store != after.revocation.store),
            ("revocation.max_entries", before.revocation.max_entries != after.revocation.max_entries),
            ("cluster", cluster::differs(before.cluster.as_ref(), after.cluster.as_ref())),
        ];
        let names: Vec<_> = changed.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name).collect();
        if !names.is_empty() {
            return Err(ReloadError::NeedsRestart(format!("a change of {} needs a restart", names.join(", "))));
        }
        let mut warnings = Vec::new();
        if after.workers != self.workers {
            warnings.push(format!("`workers` stays {} until a restart", self.workers));
        }
        if self.admin_address.as_ref() != new.map(|it| &it.address) {
            warnings.push("`admin.address` stays what it is until a restart".to_owned());
        }
        Ok(warnings)
    }

    async fn take_up(&self, loaded: Loaded) -> Result<Reloaded, ReloadError> {
        let now = self.shared.clock.now();
        let before = self.shared.snapshot.load_full();
        let warnings = self.check_restart(&before.config, &loaded.config)?;
        let failed = |error: BuildError| {
            let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
            ReloadError::Failed(format!("{error}{cause}"))
        };
        let identities = build::identities(&loaded.config, &self.parts.entrances, now).map_err(failed)?;
        let entrances = self.parts.entrances.prepare(&loaded.config.listeners, identities, self.workers);
        let entrances = entrances.map_err(|error| ReloadError::Failed(format!("{error}: {}", error.source)))?;
        let snapshot = build::snapshot(&loaded.config, &self.parts, Some(&before)).map_err(failed)?;
        keys::start(&snapshot, Some(&before), &self.shared.ledger, now).await;
        // A limit that is raised would let back in what was only forgotten: the cutoff comes first.
        let horizons = build::horizons(&loaded.config);
        self.shared.ledger.set_horizons(horizons).await.map_err(|error| ReloadError::Failed(error.to_string()))?;
        if let (Some(credentials), Some(admin)) = (self.credentials.get(), &loaded.config.admin) {
            credentials.set(admin.tokens.clone());
        }
        let changed = loaded.digest != self.loaded.load().loaded.digest;
        let reloaded = Reloaded { config_digest: loaded.digest.clone(), changed, warnings };
        if let Some(session) = &snapshot.config.session {
            self.shared.registry.set_max(session.devices.max);
            self.shared.families.set_max(session.devices.max);
        }
        if let (Some(config), Some(freshness)) = (&snapshot.config.cluster, &self.parts.freshness) {
            freshness.set_max_staleness(config.max_staleness);
        }
        self.parts.replays.set_max(snapshot.config.token.proofs.max);
        // Before anybody is judged by it: what was used is not forgotten sooner than it is good.
        self.parts.replays.outlive(snapshot.config.token.proofs.life(), self.shared.clock.now());
        self.checks.follow(&snapshot);
        self.shared.snapshot.store(Arc::new(snapshot));
        self.parts.entrances.put(entrances);
        self.parts.entrances.set_limits(&loaded.config.limits);
        // Whatever was judged under the old keys and rules is judged again.
        self.parts.map.bump();
        self.loaded.store(Arc::new(InForce { loaded, since: now }));
        Ok(reloaded)
    }
}

impl Gateway for Control {
    fn explain(&self, question: Question) -> Pending<'_, Explanation> {
        Box::pin(async move { explain(&self.shared.snapshot.load_full(), &question, &self.shared.clock).await })
    }

    fn status(&self) -> Status {
        let in_force = self.loaded.load();
        Status {
            started_at: self.started_at,
            now: self.shared.clock.now(),
            workers: self.workers,
            listeners: self.parts.entrances.all().iter().map(|it| it.address().to_string()).collect(),
            config_digest: in_force.loaded.digest.clone(),
            config_loaded_at: in_force.since,
            draining: self.draining.load(Ordering::Acquire),
            upstreams: self.upstreams(),
        }
    }

    fn cluster(&self) -> Option<ClusterStatus> {
        self.cluster.get().map(Cluster::status)
    }

    fn reached(&self, sequence: u64) -> Option<Level> {
        self.cluster.get()?.reached(sequence)
    }

    fn credential_changed(&self, issuer_url: &str, subject: &str) {
        if let Some(cluster) = self.cluster.get() {
            cluster.credential_changed(issuer_url.to_owned(), subject.to_owned());
        }
    }

    fn config(&self) -> serde_json::Value {
        self.loaded.load().loaded.redacted.clone()
    }

    fn reload(&self) -> Pending<'_, Result<Reloaded, ReloadError>> {
        Box::pin(async {
            let _turn = self.reloading.lock().await;
            match &self.file {
                None => Err(ReloadError::Failed("the configuration did not come from a file".to_owned())),
                Some(path) => self.attempt(self.read(path)).await,
            }
        })
    }

    fn keys(&self) -> Vec<KeyInfo> {
        signing::keys(&self.shared.snapshot.load(), &self.parts.map)
    }

    fn rotate_key(&self, immediately: bool) -> Pending<'_, Result<KeyInfo, RotateError>> {
        Box::pin(signing::rotate(self, immediately))
    }

    fn withdraw_key<'a>(&'a self, thumbprint: &'a str) -> Pending<'a, Result<bool, RotateError>> {
        Box::pin(signing::withdraw(self, thumbprint))
    }

    fn observe(&self) {
        let now = self.shared.clock.now();
        self.shared.snapshot.load().groups.iter().for_each(|group| group.observe(Instant::now()));
        for published in self.shared.snapshot.load().published.iter().flatten() {
            if let Some(fetched) = published.standing().fetched {
                self.parts.metrics.keys(&published.issuer().name).set_age(now.since(fetched));
            }
        }
        let entrances = self.parts.entrances.all();
        let shown: Vec<_> = entrances.iter().map(|it| (it.address().to_string(), it.identity())).collect();
        let shown = shown.iter().flat_map(|(listener, identity)| {
            let certificates = identity.iter().flat_map(|identity| identity.certificates());
            certificates.map(move |it| (listener.as_str(), it.name(), it.expires().since(now)))
        });
        self.parts.metrics.set_certificates(shown);
        if let Some(joined) = self.cluster.get() {
            cluster::observe(joined, &self.parts.metrics.cluster);
        }
    }

    fn subject_credentials(&self, issuer_url: &str) -> Option<Arc<subject::Credentials>> {
        let snapshot = self.shared.snapshot.load();
        snapshot.gate.issuers().iter().find(|issuer| issuer.url == issuer_url)?.credentials.clone()
    }

    fn sessions(&self, wanted: Wanted<'_>, from: Option<&str>, limit: usize) -> (Vec<Arc<Open>>, Option<String>) {
        let (mut found, more) = self.shared.registry.page(wanted, from, limit, self.shared.clock.now());
        let next = found.last().filter(|_| more).map(|last| last.session.to_string());
        let gate = &self.shared.snapshot.load().gate;
        found.retain(|open| gate.session_standing(open).is_ok());
        (found, next)
    }

    fn session(&self, session: &str) -> Option<Arc<Open>> {
        let now = self.shared.clock.now();
        let open = self.shared.registry.find_by_id(session).filter(|open| !open.is_over(now))?;
        self.shared.snapshot.load().gate.session_standing(&open).is_ok().then_some(open)
    }

    fn logout_targets(&self, open: &Open) -> Vec<Target> {
        self.shared.snapshot.load().gate.logout_targets(open)
    }

    fn forget_session(&self, open: &Open) {
        self.shared.registry.remove(&open.subject, &open.session);
        self.shared.families.release(&open.session);
    }

    fn issuer_url(&self, name_or_url: &str) -> Option<String> {
        self.shared.ledger.resolve(name_or_url).ok()
    }

    fn identify<'a>(&'a self, token: &'a str) -> Pending<'a, Result<Target, Denial>> {
        Box::pin(async move {
            let snapshot = self.shared.snapshot.load_full();
            let clock = &self.shared.clock;
            let judged = settle(&snapshot, clock, clock.now(), |gate, now| gate.authenticate(token, now));
            let verified = judged.await.map_err(|stage| stage.denial)?;
            let itself = Target::new(TargetKind::Token, &verified.claims.issuer, &verified.name);
            Ok(verified.session().unwrap_or(itself))
        })
    }

    fn readiness(&self) -> Result<(), Vec<String>> {
        let mut why = Vec::new();
        if self.draining.load(Ordering::Acquire) {
            why.push("draining".to_owned());
        }
        if !self.shared.ledger.status().is_ready() {
            why.push("store_poisoned".to_owned());
        }
        if let Some(joined) = self.cluster.get() {
            cluster::reasons(joined, &mut why);
        }
        if why.is_empty() { Ok(()) } else { Err(why) }
    }
}

/// Sweeps out what may be forgotten, now and then.
pub(super) async fn keep_house(control: &Control) {
    loop {
        let interval = control.shared.snapshot.load().config.revocation.sweep_interval;
        tokio::time::sleep(interval).await;
        sweep(control).await;
        cluster::forget(control).await;
    }
}

/// How often quotas that are whole again are forgotten. A crowd of clients fills the memory of a rule within
/// seconds, and from then on newcomers share one quota.
const FORGET_RATES: Duration = Duration::from_secs(5);

/// Forgets what rate limits no longer need.
pub(super) async fn forget_rates(control: &Control) {
    loop {
        tokio::time::sleep(FORGET_RATES).await;
        let snapshot = control.shared.snapshot.load_full();
        let sweeping = tokio::task::spawn_blocking(move || snapshot.rate_limits.sweep());
        if let Err(error) = sweeping.await {
            tracing::error!(%error, "the sweep of the rate limits ended early");
        }
    }
}

async fn sweep(control: &Control) {
    let (shared, replays) = (Arc::clone(&control.shared), Arc::clone(&control.parts.replays));
    let sweeping = tokio::task::spawn_blocking(move || {
        let now = shared.clock.now();
        shared.registry.sweep(now);
        replays.sweep(now);
        shared.families.sweep(now);
        if let Some(sessions) = &shared.snapshot.load().sessions {
            sessions.sweep(now);
            if let Err(error) = sessions.prune(now) {
                tracing::error!(%error, "failed to delete session keys whose tokens have lapsed");
            }
        }
        if let Err(error) = shared.ledger.sweep() {
            shared.metrics.store_failed(StoreOperation::Trim);
            tracing::error!(%error, "failed to sweep the store");
        }
    });
    if let Err(error) = sweeping.await {
        tracing::error!(%error, "the sweep ended early");
    }
}
