//! What a response hands out besides what the upstream said: a slid token, a session opened by
//! exchange or by a login, or nothing.
//!
//! What is due is decided when the request is admitted; whether it is given is decided again after the
//! upstream has answered, right before minting. A logout or a revocation in between wins.

use std::rc::Rc;

use http::{HeaderMap, HeaderName, Method, StatusCode, header};

use super::answer::Refusal;
use super::need::settle;
use super::record::Record;
use super::snapshot::{Local, Snapshot};
use crate::config::{Delivery, TokenPlace};
use crate::gate::{Denial, Passage, Remembered, Verified};
use crate::intake::{self, RevokeError};
use crate::revocation::{Reason, Source, Target};
use crate::session::{Current, Grant, Minted, Parent, Sessions, deliver};
use crate::telemetry::{AuditEvent, ReissueResult, SessionOpening, StoreOperation};
use crate::time::Timestamp;
use crate::token::present::present;

/// What a request may earn its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    /// Nothing.
    None,
    /// A successor of its session token.
    Slide,
    /// A session, opened with its token of another issuer.
    Exchange,
}

/// What was settled when the request was admitted.
#[derive(Debug)]
pub(super) struct Earned<'a> {
    /// What it may earn.
    pub(super) renewal: Renewal,
    /// Whether its upstream may open sessions.
    pub(super) login: bool,
    /// The session that a login would end.
    pub(super) earlier: Option<Target>,
    /// Where its token was.
    pub(super) credential: Option<&'a TokenPlace>,
}

/// What the request that was just admitted may earn. To be asked once: it counts requests.
pub(super) fn plan(snapshot: &Snapshot, passage: &Passage, now: Timestamp) -> Renewal {
    let (Some(sessions), Some(bearer)) = (&snapshot.sessions, passage.bearer()) else { return Renewal::None };
    match current(&bearer.verified) {
        Some(current) if sessions.due(&current, now) => Renewal::Slide,
        Some(_) => Renewal::None,
        None if sessions.config().exchange.contains(&bearer.verified.issuer) => Renewal::Exchange,
        None => Renewal::None,
    }
}

/// The session that a login request still carries: a new login ends it.
pub(super) async fn earlier_session(local: &Local, headers: &HeaderMap, now: Timestamp) -> Option<Target> {
    let snapshot = &local.snapshot;
    let presented = present(headers, &snapshot.config.token.from).ok()??;
    let judged = settle(snapshot, &local.shared.clock, now, |gate, now| gate.authenticate(presented.token, now));
    judged.await.ok()?.session()
}

/// Completes the head of an upstream's response: takes out what only the gateway may say, and puts in
/// what the request has earned.
pub(super) async fn finish(
    local: &Rc<Local>,
    record: &Record,
    passage: &Passage,
    earned: Earned<'_>,
    (headers, status): (&mut HeaderMap, StatusCode),
) -> Result<(), Refusal> {
    let Earned { renewal, login, earlier, credential } = earned;
    let snapshot = &local.snapshot;
    let Some(sessions) = &snapshot.sessions else {
        headers.remove(deliver::SESSION_GRANT);
        return Ok(());
    };
    let grant = if login { take_grant(headers)? } else { None };
    deliver::scrub(headers, &sessions.config().cookie);
    if let Some(grant) = grant
        && is_renewable(status)
    {
        return log_in(local, sessions, grant, earlier, record, headers).await;
    }
    if renewal == Renewal::None || !is_renewable(status) || record.method == Method::OPTIONS {
        return Ok(());
    }
    if let (Some(bearer), Some(credential)) = (passage.bearer(), credential) {
        renew(local, sessions, bearer, renewal, credential, headers).await;
    }
    Ok(())
}

/// Responses that carry no token: refusals, which may concern the token itself, failures, and those
/// that a client takes out of its cache.
fn is_renewable(status: StatusCode) -> bool {
    (status.is_success() || status.is_redirection() || status.is_client_error())
        && !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_MODIFIED)
}

fn take_grant(headers: &mut HeaderMap) -> Result<Option<Grant>, Refusal> {
    Grant::take(headers).map_err(|error| {
        tracing::error!(%error, "failed to read a login's session grant");
        Refusal::UpstreamBroken
    })
}

/// Gives a successor or a session, unless something has happened since the request was admitted.
async fn renew(
    local: &Local,
    sessions: &Sessions,
    bearer: &Remembered,
    renewal: Renewal,
    credential: &TokenPlace,
    headers: &mut HeaderMap,
) {
    let snapshot = &local.snapshot;
    let metrics = &local.shared.metrics;
    let clock = &local.shared.clock;
    let judged = settle(snapshot, clock, clock.now(), |gate, now| gate.still_honoured(&bearer.verified, now));
    if let Err(stage) = judged.await {
        metrics.reissued(ReissueResult::Refused);
        if matches!((&stage.denial, credential), (Denial::Revoked(_), TokenPlace::Cookie(_))) {
            clear_cookie(snapshot, headers);
        }
        return;
    }
    let now = clock.now();
    let (minted, delivery) = match renewal {
        Renewal::None => return,
        Renewal::Slide => {
            let Some(current) = current(&bearer.verified) else { return };
            let delivery = match credential {
                TokenPlace::Header(_) => Delivery::Header,
                TokenPlace::Cookie(_) => Delivery::Cookie,
            };
            match sessions.slide(&current, now) {
                Ok(Some(minted)) => (minted, delivery),
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, "failed to reissue a session token");
                    return metrics.reissued(ReissueResult::Failed);
                }
            }
        }
        Renewal::Exchange => match sessions.exchange(parent(snapshot, &bearer.verified), now) {
            Ok(minted) => (minted, sessions.config().delivery),
            Err(error) => {
                tracing::debug!(%error, "a token opened no session");
                return;
            }
        },
    };
    count(local, renewal, &minted);
    attach(sessions, headers, &minted, delivery, &credential_name(credential), now);
}

/// A token is minted once, and shared by the requests that ask for it afterwards.
fn count(local: &Local, renewal: Renewal, minted: &Minted) {
    let metrics = &local.shared.metrics;
    let new = minted.count_once();
    match renewal {
        Renewal::Slide => metrics.reissued(if new { ReissueResult::Minted } else { ReissueResult::Shared }),
        Renewal::Exchange if new => metrics.session_opened(SessionOpening::Exchange),
        Renewal::Exchange | Renewal::None => {}
    }
}

/// Opens the session that a login service has granted.
async fn log_in(
    local: &Rc<Local>,
    sessions: &Sessions,
    grant: Grant,
    earlier: Option<Target>,
    record: &Record,
    headers: &mut HeaderMap,
) -> Result<(), Refusal> {
    let snapshot = &local.snapshot;
    let actor = grant.subject().to_owned();
    if let Some(session) = earlier {
        end(local, record, session, &actor, Source::Gateway).await?;
    }
    let now = local.shared.clock.now();
    let minted = sessions.grant(grant, record.time, now).map_err(|error| {
        tracing::error!(%error, "failed to open a session for a login");
        Refusal::Internal
    })?;
    // The new token is judged as it will be when it comes back: whom it names may be blocked.
    let judged = settle(snapshot, &local.shared.clock, now, |gate, now| gate.verify(minted.token(), now));
    let honoured = judged.await.map_err(|stage| stage.denial);
    if let Err(denial) = honoured.and_then(|verified| snapshot.gate.standing(&verified)) {
        record.denied(&denial, None);
        return Err(Refusal::LoginRefused(denial));
    }
    local.shared.metrics.session_opened(SessionOpening::Grant);
    let delivery = sessions.config().delivery;
    let credential = match delivery {
        Delivery::Header => header::AUTHORIZATION,
        Delivery::Cookie => header::COOKIE,
    };
    attach(sessions, headers, &minted, delivery, &credential, now);
    Ok(())
}

/// Puts a token into a response head.
pub(super) fn attach(
    sessions: &Sessions,
    headers: &mut HeaderMap,
    minted: &Minted,
    delivery: Delivery,
    credential: &HeaderName,
    now: Timestamp,
) {
    let cookie = &sessions.config().cookie;
    if let Err(error) = deliver::attach(headers, minted, delivery, cookie, credential, now) {
        tracing::error!(%error, "failed to deliver a session token");
    }
}

/// Removes the session cookie from the browser.
pub(super) fn clear_cookie(snapshot: &Snapshot, headers: &mut HeaderMap) {
    let Some(sessions) = &snapshot.sessions else { return };
    if let Err(error) = deliver::clear_cookie(headers, &sessions.config().cookie) {
        tracing::error!(%error, "failed to clear the session cookie");
    }
}

/// Ends one token or session for good: in force and durable when this returns well, and in the audit log.
pub(super) async fn end(
    local: &Local,
    record: &Record,
    target: Target,
    actor: &str,
    source: Source,
) -> Result<(), Refusal> {
    let kind = target.kind;
    let line = format!("{kind} {} {}", target.issuer, target.value);
    let request = intake::Request::new(target, Reason::Logout, actor, source);
    let metrics = &local.shared.metrics;
    let (ended, result, id) = match local.shared.ledger.revoke(request).await {
        Ok(accepted) => {
            metrics.revoked(kind, Reason::Logout, source);
            (Ok(()), "ok", Some(accepted.id.to_string()))
        }
        Err(RevokeError::NotDurable { accepted, .. }) => {
            metrics.revoked(kind, Reason::Logout, source);
            metrics.store_failed(StoreOperation::Append);
            tracing::error!("a logout is in force and not durable");
            (Err(Refusal::StoreNotDurable), "store_not_durable", Some(accepted.id.to_string()))
        }
        Err(error) => {
            tracing::error!(%error, "failed to revoke");
            (Err(Refusal::Internal), "failed", None)
        }
    };
    let event = AuditEvent {
        actor: actor.to_owned(),
        role: "session",
        address: record.client.to_string(),
        action: "logout",
        target: line,
        reason: Some(Reason::Logout.name()),
        result,
        id,
    };
    if let Err(error) = local.shared.audit.record(event).await {
        metrics.audit_errors.inc();
        tracing::error!(%error, "a logout has no audit line");
    }
    ended
}

/// A session token as the session module sees it; `None` for a token of another issuer.
pub(super) fn current(verified: &Verified) -> Option<Current<'_>> {
    Some(Current {
        claims: &verified.claims,
        lineage: verified.lineage.as_ref()?,
        token_name: &verified.name,
        key_thumbprint: verified.key.thumbprint(),
    })
}

/// A token of another issuer as the session module sees it.
pub(super) fn parent<'v>(snapshot: &'v Snapshot, verified: &'v Verified) -> Parent<'v> {
    let issuer = snapshot.config.issuers.get(verified.issuer);
    Parent {
        issuer_index: verified.issuer,
        claims: &verified.claims,
        token_name: &verified.name,
        key_thumbprint: verified.key.thumbprint(),
        subject_prefix: issuer.map_or("", |issuer| issuer.subject_prefix.as_str()),
    }
}

fn credential_name(place: &TokenPlace) -> HeaderName {
    match place {
        TokenPlace::Header(name) => name.clone(),
        TokenPlace::Cookie(_) => header::COOKIE,
    }
}
