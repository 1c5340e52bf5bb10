//! Opening sessions: what a login service grants, what a token is exchanged for, and how many there may be.
//!
//! Nothing is handed out before it was judged as it will be when it comes back, and before what it takes
//! the place of has ended, durably.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, header};

use super::answer::Refusal;
use super::ending::{self, Leaving};
use super::record::Record;
use super::refreshing;
use super::renewal;
use super::snapshot::Local;
use crate::config::Delivery;
use crate::gate::{Denial, Verified};
use crate::intake::Request;
use crate::revocation::{Reason, Source, Target, TargetKind};
use crate::session::{Device, ExchangeError, Grant, MintError, Minted, Open, Opener, Sessions, deliver};
use crate::telemetry::{ReissueResult, SessionOpening};

/// What a login request brought, beside the grant of its upstream.
#[derive(Debug)]
pub(super) struct Login {
    /// The session that it takes the place of.
    pub(super) earlier: Option<Leaving>,
    /// Where it came from.
    pub(super) device: Device,
}

/// Opens the session that a login service has granted.
///
/// # Errors
///
/// When the session may not be, cannot be handed out, or what it takes the place of could not be ended
/// durably. The login then does not get through.
pub(super) async fn log_in(
    local: &Rc<Local>,
    sessions: &Sessions,
    grant: Grant,
    login: Login,
    record: &Record,
    headers: &mut HeaderMap,
) -> Result<(), Refusal> {
    let now = local.shared.clock.now();
    let minted = sessions.grant(grant, record.time, now).map_err(|error| {
        tracing::error!(%error, "failed to open a session for a login");
        match error {
            MintError::SubjectTooLong | MintError::TooLarge { .. } => Refusal::UpstreamBroken,
            MintError::Ended | MintError::Sign(_) => Refusal::Internal,
        }
    })?;
    let delivery = sessions.config().delivery;
    if delivery == Delivery::Cookie {
        fits(sessions, &minted)?;
    }
    let refused = |denial: Denial| {
        record.denied(&denial, None);
        Refusal::LoginRefused(denial)
    };
    // The new token is judged as it will be when it comes back: whom it names may be blocked.
    let gate = &local.snapshot.gate;
    let verified =
        gate.verify(minted.token(), now).map_err(|unsettled| refused(gate.refusal(unsettled, now).denial))?;
    gate.standing(&verified).map_err(refused)?;
    enter(local, record, sessions, &minted, login.device, SessionOpening::Grant).await.map_err(
        |refusal| match refusal {
            Refusal::Denied(denial) => refused(denial),
            other => other,
        },
    )?;
    if let Some(earlier) = login.earlier {
        earlier.end(local, record, Source::Gateway).await.inspect_err(|_| {
            local.shared.registry.remove(&minted.subject, &minted.session);
        })?;
    }
    let credential = match delivery {
        Delivery::Header => header::AUTHORIZATION,
        Delivery::Cookie => header::COOKIE,
    };
    let issued = refreshing::open(local, sessions, &minted, Opener { token: None, client: None, delivery }).await;
    renewal::attach(sessions, headers, &minted, delivery, &credential, now).map_err(|_| Refusal::CookieTooLarge)?;
    if let (Some(issued), Some(config)) = (issued, &sessions.config().refresh) {
        let left = issued.ends.since(now);
        deliver::attach_refresh(headers, &issued.token, config.delivery, &config.cookie, left)
            .map_err(|_| Refusal::Internal)?;
    }
    Ok(())
}

/// The session that a token of another issuer opens silently, on the side of a request that is served
/// whether it does or not; `None` when it opens none.
///
/// # Errors
///
/// When what it takes the place of could not be ended durably.
pub(super) async fn exchange(
    local: &Local,
    record: &Record,
    sessions: &Sessions,
    verified: &Verified,
    device: Device,
) -> Result<Option<Arc<Minted>>, Refusal> {
    let minted = match exchanged(local, sessions, verified) {
        Ok(minted) => minted,
        Err(error) => {
            tracing::debug!(%error, "a token opened no session");
            return Ok(None);
        }
    };
    if sessions.config().delivery == Delivery::Cookie
        && let Err(error) = deliver::fits_cookie(&minted, &sessions.config().cookie)
    {
        local.shared.metrics.reissued(ReissueResult::TooLarge);
        if minted.count_once() {
            tracing::error!(%error, "a token opened no session: use delivery: header");
        }
        return Ok(None);
    }
    match enter(local, record, sessions, &minted, device, SessionOpening::Exchange).await {
        Ok(()) => Ok(Some(minted)),
        Err(Refusal::Denied(denial)) => {
            tracing::debug!(reason = denial.reason(), "a token opened no session");
            Ok(None)
        }
        Err(refusal) => Err(refusal),
    }
}

/// The token of the session that `verified` opens: never one that has been replaced for good.
///
/// # Errors
///
/// Why it opens none.
pub(super) fn exchanged(local: &Local, sessions: &Sessions, verified: &Verified) -> Result<Arc<Minted>, ExchangeError> {
    let (parent, now) = (renewal::parent(&local.snapshot, verified), local.shared.clock.now());
    let minted = sessions.exchange(parent, now)?;
    if sessions.config().reuse_grace.is_none() {
        return Ok(minted);
    }
    let newest = local.shared.registry.find(&minted.subject, &minted.session).map(|open| open.newest_used());
    match newest.filter(|newest| *newest > minted.expires) {
        None => Ok(minted),
        Some(newest) => sessions.exchange_after(parent, newest, now),
    }
}

/// Whether the session cookie can carry the token: asked before anything is done for its sake.
///
/// # Errors
///
/// [`Refusal::CookieTooLarge`], and the log says by how much.
pub(super) fn fits(sessions: &Sessions, minted: &Minted) -> Result<(), Refusal> {
    deliver::fits_cookie(minted, &sessions.config().cookie).map_err(|error| {
        tracing::error!(%error, "failed to open a session: leave claims out, or use delivery: header");
        Refusal::CookieTooLarge
    })
}

/// Enters a session that `minted` opens or goes on with, and ends those that it makes too many.
///
/// # Errors
///
/// [`Refusal::Denied`] when it is not honoured, or when later logins fill the limit; others when those that
/// it takes the place of could not be ended durably.
pub(super) async fn enter(
    local: &Local,
    record: &Record,
    sessions: &Sessions,
    minted: &Minted,
    device: Device,
    how: SessionOpening,
) -> Result<(), Refusal> {
    let Local { snapshot, shared, .. } = local;
    let (registry, gate, now) = (&shared.registry, &snapshot.gate, shared.clock.now());
    if let Some(known) = registry.find(&minted.subject, &minted.session) {
        known.touch(now);
        known.prolong(minted.expires);
        return gate.session_standing(&known).map_err(Refusal::Denied);
    }
    gate.up_to_date().map_err(Refusal::Denied)?;
    let open = Open::minted(minted, device, now);
    gate.session_standing(&open).map_err(Refusal::Denied)?;
    let limit = sessions.config().max_per_subject;
    let opening = registry.open(open, limit, now, |it| gate.session_standing(it).is_ok());
    if opening.refused {
        return Err(Refusal::Denied(Denial::Revoked(TargetKind::Session)));
    }
    if !opening.is_new {
        return Ok(());
    }
    let open = &opening.session;
    let requests = excess(sessions, limit, open, &opening.beyond);
    if !requests.is_empty() {
        ending::end_all(local, record, requests, "session_limit").await.inspect_err(|_| {
            registry.remove(&open.subject, &open.session);
        })?;
        for ended in &opening.beyond {
            registry.remove(&ended.subject, &ended.session);
        }
        // A login that came later may have ended this one meanwhile.
        gate.session_standing(open).map_err(Refusal::Denied)?;
    }
    shared.metrics.session_opened(how);
    Ok(())
}

/// What ends the sessions beyond the limit. With a limit of one that is a cutoff right before this login,
/// which also ends sessions that the registry has forgotten; logins of the same millisecond are ended one
/// by one.
fn excess(sessions: &Sessions, limit: Option<usize>, open: &Open, beyond: &[Arc<Open>]) -> Vec<Request> {
    let request = |kind, value: &str| {
        let target = Target::new(kind, sessions.issuer(), value);
        Request::new(target, Reason::Logout, &*open.subject, Source::Gateway)
    };
    let began = open.lineage.origin_issued;
    let cutoff = (limit == Some(1)).then(|| Request {
        issued_before: Some(began.minus(Duration::from_millis(1))),
        ..request(TargetKind::Subject, &open.subject)
    });
    let covered = |it: &&Arc<Open>| cutoff.is_none() || it.lineage.origin_issued >= began;
    let blocks: Vec<_> =
        beyond.iter().filter(covered).map(|ended| request(TargetKind::Session, &ended.session)).collect();
    cutoff.into_iter().chain(blocks).collect()
}
