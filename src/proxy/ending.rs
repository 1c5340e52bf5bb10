//! The end of sessions, as far as traffic brings it: logouts, logins that take another's place, tokens
//! that come back after they were replaced.
//!
//! Everything goes through the ledger, and is in force and durable before anything is answered. The
//! registry only forgets what has ended.

use std::sync::Arc;

use http::HeaderMap;
use http::request::Parts;

use super::answer::Refusal;
use super::need::settle;
use super::record::Record;
use super::snapshot::Local;
use crate::config::TokenPlace;
use crate::gate::{Denial, Remembered, Stage, Verified};
use crate::intake::{Accepted, Request, RevokeError};
use crate::revocation::{Reason, Source, Target, TargetKind};
use crate::session::{Family, Open, deliver, origin};
use crate::telemetry::{AuditEvent, ReissueResult, StoreOperation};
use crate::time::Timestamp;
use crate::token::present::{PresentError, present};

/// What a request says goodbye to: the presented session and the token that opened it, or the presented
/// token of another issuer.
#[derive(Debug)]
pub(super) struct Leaving {
    targets: Vec<Target>,
    actor: String,
    /// Subject and `sid`, as the registry knows it.
    session: Option<(String, String)>,
}

impl Leaving {
    /// What a logout with this token ends.
    pub(super) fn of(verified: &Verified) -> Self {
        Self {
            targets: verified.session().into_iter().chain(verified.parent()).collect(),
            ..Self::session_of(verified)
        }
    }

    /// The session of this token alone: what a new login takes the place of.
    pub(super) fn session_of(verified: &Verified) -> Self {
        let subject = verified.claims.subject.clone().unwrap_or_default();
        let session = verified.session();
        Self {
            session: session.as_ref().map(|target| (subject.clone(), target.value.clone())),
            targets: session.into_iter().collect(),
            actor: subject,
        }
    }

    /// What a logout with a refresh token of `family` ends.
    pub(super) fn of_family(local: &Local, family: &Family) -> Self {
        let mut leaving = Self::session_of_family(local, family);
        let parent = family.lineage.origin.as_ref();
        leaving.targets.extend(parent.map(|origin| Target::new(TargetKind::Token, &origin.issuer, &origin.token)));
        leaving
    }

    /// The session of `family` alone.
    pub(super) fn session_of_family(local: &Local, family: &Family) -> Self {
        let own = local.snapshot.sessions.as_ref().map_or("", |sessions| sessions.issuer());
        Self {
            targets: vec![Target::new(TargetKind::Session, own, &*family.session)],
            actor: family.subject.clone(),
            session: Some((family.subject.clone(), family.session.to_string())),
        }
    }

    /// Ends it. What has ended already is left alone: repeating a logout must not fill the store.
    ///
    /// # Errors
    ///
    /// When it is not in force, or not durable.
    pub(super) async fn end(self, local: &Local, record: &Record, source: Source) -> Result<(), Refusal> {
        let map = local.snapshot.gate.revocations();
        let targets = self.targets.into_iter().filter(|target| !map.is_blocked(target));
        let requests = targets.map(|target| Request::new(target, Reason::Logout, self.actor.as_str(), source));
        end_all(local, record, requests.collect(), "logout").await?;
        if let Some((subject, session)) = self.session {
            local.shared.registry.remove(&subject, &session);
            local.shared.families.release(&session);
        }
        Ok(())
    }
}

/// The presented token of a request that may end something by it: on a login route the earlier session, on
/// a logout route all that it belongs to. It may have expired, but it must be authentic.
///
/// # Errors
///
/// When it cannot be told what is presented; when a page of another site may have sent the cookie; when the
/// keys that would verify it cannot be had.
pub(super) async fn presented(
    local: &Local,
    now: Timestamp,
    head: &Parts,
    authority: Option<&str>,
) -> Result<Option<Verified>, Stage> {
    let places = &local.snapshot.config.token.from;
    let found = present(&head.headers, places).map_err(|error| match error {
        PresentError::Several | PresentError::Malformed => Denial::MultipleTokens,
    })?;
    let Some(found) = found else { return Ok(None) };
    if matches!(places.get(found.place), Some(TokenPlace::Cookie(_))) && !is_same_origin(head, authority) {
        return Err(Denial::CrossSite.into());
    }
    let (snapshot, clock) = (&local.snapshot, &local.shared.clock);
    match settle(snapshot, clock, now, |gate, now| gate.authenticate(found.token, now)).await {
        Ok(verified) => Ok(Some(verified)),
        // It may well be authentic, and would live on: not to be taken for a logout.
        Err(stage) if stage.denial == Denial::KeysUnavailable => Err(stage),
        Err(_) => Ok(None),
    }
}

/// Whether a request with its token in a cookie may have an effect. `authority` is the one in its target;
/// without one there is `Host`.
pub(super) fn is_same_origin(head: &Parts, authority: Option<&str>) -> bool {
    origin::same_origin(&head.method, &head.headers, authority.unwrap_or_else(|| origin::host(&head.headers)))
}

/// Removes everything from the browser that this origin has put there, the session cookie by name.
///
/// # Errors
///
/// [`Refusal::Internal`] for a cookie name that configuration refuses.
pub(super) fn clear_browser(local: &Local, headers: &mut HeaderMap) -> Result<(), Refusal> {
    let Some(sessions) = &local.snapshot.sessions else {
        deliver::clear_site(headers);
        return Ok(());
    };
    let config = sessions.config();
    let refresh = config.refresh.as_ref().map_or(Ok(()), |it| deliver::clear_refresh(headers, &it.cookie));
    refresh.and_then(|()| deliver::clear(headers, &config.cookie)).map_err(|error| {
        tracing::error!(%error, "failed to clear the session cookie");
        Refusal::Internal
    })
}

/// Ends the session of a token that came although it had been replaced for too long: it or its successor
/// is in the wrong hands, and nobody can tell which. Returns what the request is refused with.
pub(super) async fn reused(local: &Local, record: &Record, bearer: &Remembered) -> Refusal {
    match bearer.open(|| None) {
        Some(open) => replaced(local, record, &bearer.verified, open).await,
        None => Refusal::Denied(Denial::Revoked(TargetKind::Session)),
    }
}

/// The same for a token that no worker remembers.
pub(super) async fn replaced(local: &Local, record: &Record, verified: &Verified, open: &Open) -> Refusal {
    let denial = Denial::Revoked(TargetKind::Session);
    let Some(target) = verified.session() else { return Refusal::Denied(denial) };
    // Of several at once, the first one ends it.
    if !open.begin_ending() {
        return Refusal::Denied(denial);
    }
    local.shared.metrics.reissued(ReissueResult::Reused);
    let request = Request::new(target, Reason::SessionReuse, &*open.subject, Source::Gateway);
    match end_all(local, record, vec![request], "session_reuse").await {
        Ok(()) => local.shared.registry.remove(&open.subject, &open.session),
        // In force, though not on disk.
        Err(Refusal::StoreNotDurable) => {}
        Err(_) => open.lives_on(),
    }
    Refusal::Denied(denial)
}

/// Carries out revocations that traffic brings: in force, durable and in the audit log when this returns
/// well. A client that goes away does not stop it half-way.
///
/// # Errors
///
/// [`Refusal::StoreNotDurable`] when one is in force but not on disk, [`Refusal::Internal`] when one is not
/// even in force.
pub(super) async fn end_all(
    local: &Local,
    record: &Record,
    requests: Vec<Request>,
    action: &'static str,
) -> Result<(), Refusal> {
    if requests.is_empty() {
        // In force is not yet durable.
        return local.shared.ledger.settled().await.map_err(|_| Refusal::StoreNotDurable);
    }
    let shared = Arc::clone(&local.shared);
    let address = record.client.to_string();
    let work = tokio::spawn(async move {
        let outcomes = shared.ledger.revoke_all(requests.clone()).await;
        let mut ended = Ok(());
        let mut events = Vec::with_capacity(requests.len());
        for (request, outcome) in requests.into_iter().zip(outcomes) {
            let (reason, kind) = (request.reason, request.target.kind);
            if matches!(outcome, Ok(_) | Err(RevokeError::NotDurable { .. })) {
                shared.metrics.revoked(kind, reason, request.source);
            }
            let (result, id) = match outcome {
                Ok(Accepted { id, .. }) => ("ok", Some(id.to_string())),
                Err(RevokeError::NotDurable { accepted, .. }) => {
                    shared.metrics.store_failed(StoreOperation::Append);
                    tracing::error!(%kind, %reason, "a revocation is in force and not durable");
                    ended = ended.and(Err(Refusal::StoreNotDurable));
                    ("store_not_durable", Some(accepted.id.to_string()))
                }
                Err(error) => {
                    tracing::error!(%error, "failed to revoke");
                    ended = Err(Refusal::Internal);
                    ("failed", None)
                }
            };
            events.push(AuditEvent {
                actor: request.actor,
                role: "session",
                address: address.clone(),
                action,
                target: format!("{kind} {} {}", request.target.issuer, request.target.value),
                reason: Some(reason.name()),
                result,
                id,
            });
        }
        if let Err(error) = shared.audit.record_all(events).await {
            shared.metrics.audit_errors.inc();
            tracing::error!(%error, "the end of a session has no audit line");
        }
        ended
    });
    work.await.unwrap_or(Err(Refusal::Internal))
}
