//! A token's hold on what it let in: as long as the one is honoured, the other goes on.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::gate::{Denial, Remembered, Stage, Unsettled, Verified};
use crate::proxy::need::settle;
use crate::proxy::snapshot::{Shared, Snapshot};
use crate::revocation::{Handle, RevocationMap, TargetKind, TargetRef};
use crate::time::Timestamp;

/// How long it may take until a standing is asked about that nobody said has changed: what depends on
/// the clock alone, or on a credential that nobody tells of, is found then.
const ROUTINE: Duration = Duration::from_secs(30);
/// How long until something is asked for again that could not be had.
const AGAIN: Duration = Duration::from_secs(5);

/// One stream's hold. Given up when dropped.
#[derive(Debug)]
pub(in crate::proxy) struct Held {
    handle: Handle,
    bearer: Rc<Remembered>,
    shared: Arc<Shared>,
}

impl Held {
    /// Begins to hold. The caller asks [`Self::check`] or [`Self::ended`] next.
    pub(in crate::proxy) fn new(shared: &Arc<Shared>, bearer: &Rc<Remembered>) -> Self {
        let snapshot = shared.snapshot.load();
        let map = snapshot.gate.revocations();
        let handle = map.live().hold(targets(map, &bearer.verified));
        Self { handle, bearer: Rc::clone(bearer), shared: Arc::clone(shared) }
    }

    /// Whether it goes on, as far as can be told at once.
    ///
    /// # Errors
    ///
    /// Why not.
    pub(in crate::proxy) fn check(&self) -> Result<(), Denial> {
        let (snapshot, now) = (self.shared.snapshot.load(), self.shared.clock.now());
        match snapshot.gate.still_holds(&self.bearer.verified, now) {
            Err(Unsettled::Denied(stage)) => Err(stage.denial),
            Ok(()) | Err(Unsettled::Needs(_)) if now >= self.until(&snapshot) => Err(Denial::Expired),
            Ok(()) | Err(Unsettled::Needs(_)) => Ok(()),
        }
    }

    /// Waits until it does not go on any more: why.
    pub(super) async fn ended(&self) -> Denial {
        loop {
            if let Err(denial) = self.check() {
                return denial;
            }
            let snapshot = self.shared.snapshot.load_full();
            let (clock, verified) = (&self.shared.clock, &self.bearer.verified);
            let judging = settle(&snapshot, clock, clock.now(), |gate, now| gate.still_holds(verified, now));
            let judged = tokio::select! {
                biased;
                () = self.handle.doubted() => continue,
                judged = judging => judged,
            };
            let pause = match judged {
                Ok(()) => ROUTINE,
                // That nobody can be asked does not say that anything was revoked.
                Err(Stage { denial: Denial::KeysUnavailable, .. }) => AGAIN + AGAIN.mul_f64(rand::random()),
                Err(stage) => return stage.denial,
            };
            let left = self.until(&snapshot).since(clock.now());
            // It may be the last to hold it: what waits here waits for hours.
            drop(snapshot);
            tokio::select! {
                () = self.handle.doubted() => {}
                () = tokio::time::sleep(pause.min(left)) => {}
            }
        }
    }

    /// The latest instant at which it may go on, as far as is known: that of the token, or of the newest
    /// token of its session.
    fn until(&self, snapshot: &Snapshot) -> Timestamp {
        let verified = &self.bearer.verified;
        let mut expires = verified.claims.expires;
        if verified.lineage.is_some() {
            // The session may have been forgotten and met again since: then the one that the token
            // remembers is not the one that is prolonged.
            let remembered = self.bearer.open(|| None).map(|open| open.tokens_expire());
            let (subject, session) = (verified.claims.subject.as_deref(), verified.claims.session.as_deref());
            let known = subject.zip(session).and_then(|(subject, session)| {
                self.shared.registry.find(subject, session).map(|open| open.tokens_expire())
            });
            expires = remembered.into_iter().chain(known).fold(expires, Timestamp::max);
        }
        snapshot.gate.expiry(expires, verified)
    }
}

/// Every target of a token, and those that its subjects answer for.
fn targets(map: &RevocationMap, verified: &Verified) -> Box<[TargetRef]> {
    let replacements = map.replacements();
    if !replacements.any() {
        return verified.references().into();
    }
    let mut all = verified.references().to_vec();
    for target in verified.targets().iter().filter(|target| target.kind == TargetKind::Subject) {
        for earlier in replacements.earlier(&target.issuer, &target.value) {
            all.push(map.reference(earlier.kind, &earlier.issuer, &earlier.value));
        }
    }
    all.into()
}
