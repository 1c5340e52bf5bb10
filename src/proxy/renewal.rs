//! What a response hands out besides what the upstream said: a slid token, a session opened by
//! exchange or by a login, or nothing.
//!
//! What is due is decided when the request is admitted; whether it is given is decided again after the
//! upstream has answered, right before minting. A logout or a revocation in between wins.

use std::rc::Rc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::answer::Refusal;
use super::ending::{self, Leaving};
use super::need::settle;
use super::opening::{self, Login};
use super::record::Record;
use super::snapshot::{Local, Snapshot};
use crate::config::{Delivery, TokenPlace};
use crate::gate::{Denial, Passage, Remembered, Verified};
use crate::revocation::Source;
use crate::session::deliver::{self, DeliverError};
use crate::session::{Current, Device, Grant, Minted, Open, Parent, Sessions, Use};
use crate::telemetry::ReissueResult;
use crate::time::Timestamp;

/// What a request may earn its client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Renewal {
    /// Nothing.
    #[default]
    None,
    /// A successor of its session token.
    Slide,
    /// A session, opened with its token of another issuer.
    Exchange,
    /// The end of its session: its token was replaced too long ago.
    Reused,
}

/// What was settled when the request was admitted.
#[derive(Debug, Default)]
pub(super) struct Earned<'a> {
    /// What it may earn.
    pub(super) renewal: Renewal,
    /// On a login route: what its upstream may open a session with.
    pub(super) login: Option<Box<Login>>,
    /// On a logout route: what its upstream may end.
    pub(super) logout: Option<Box<Logout>>,
    /// Where its token was.
    pub(super) credential: Option<&'a TokenPlace>,
    /// Where it came from, if that may be needed.
    pub(super) device: Device,
}

/// What ends when the upstream of a logout route answers well; nothing for who presented no token.
#[derive(Debug)]
pub(super) struct Logout(pub(super) Option<Leaving>);

/// What the request that was just admitted may earn. To be asked once: it counts requests, and notes that
/// the session is used.
pub(super) fn plan(local: &Local, record: &Record, passage: &Passage, headers: &HeaderMap) -> Renewal {
    let (snapshot, now) = (&local.snapshot, record.time);
    let (Some(sessions), Some(bearer)) = (&snapshot.sessions, passage.bearer()) else { return Renewal::None };
    let Some(current) = current(&bearer.verified) else {
        let opens = sessions.config().exchange.contains(&bearer.verified.issuer);
        return if opens { Renewal::Exchange } else { Renewal::None };
    };
    let met = || {
        let open = Open::met(&current, device(snapshot, record, headers), now)?;
        Some(local.shared.registry.meet(open, now))
    };
    if let Some(open) = bearer.open(met) {
        open.touch(now);
        if let Some(grace) = sessions.config().reuse_grace
            && open.uses(current.claims.expires, now, grace) == Use::Reused
        {
            return Renewal::Reused;
        }
    }
    if sessions.due(&current, now) { Renewal::Slide } else { Renewal::None }
}

/// Where a request comes from, as far as it may be kept.
pub(super) fn device(snapshot: &Snapshot, record: &Record, headers: &HeaderMap) -> Device {
    let Some(sessions) = &snapshot.sessions else { return Device::default() };
    let user_agent = headers.get(header::USER_AGENT).map(HeaderValue::as_bytes);
    Device::of(sessions.config().devices, record.client, user_agent)
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
    let Earned { renewal, login, logout, credential, device } = earned;
    let snapshot = &local.snapshot;
    let grant = if login.is_some() { take_grant(headers)? } else { None };
    if let Some(sessions) = &snapshot.sessions {
        deliver::scrub(headers, &sessions.config().cookie);
        if let Some(refresh) = &sessions.config().refresh {
            deliver::remove_cookie(headers, &refresh.cookie);
        }
    }
    // What follows waits for something, in boxes: it is rare, and must not make every request's future larger.
    if let Some(Logout(leaving)) = logout.map(|it| *it) {
        if !is_accepted(status) || record.method == Method::OPTIONS {
            return Ok(());
        }
        if let Some(leaving) = leaving {
            Box::pin(leaving.end(local, record, Source::Logout)).await?;
        }
        return ending::clear_browser(local, headers);
    }
    let Some(sessions) = &snapshot.sessions else { return Ok(()) };
    if let (Some(grant), Some(login)) = (grant, login)
        && is_accepted(status)
        && record.method != Method::OPTIONS
    {
        return Box::pin(opening::log_in(local, sessions, grant, *login, record, headers)).await;
    }
    if renewal == Renewal::None || !is_renewable(status) || record.method == Method::OPTIONS {
        return Ok(());
    }
    if let (Some(bearer), Some(credential)) = (passage.bearer(), credential) {
        Box::pin(renew(local, record, sessions, (bearer, renewal, credential, device), headers)).await?;
    }
    Ok(())
}

/// What an upstream answers to a login or a logout that it has carried out: 2xx, or a redirect to where
/// the client goes on.
fn is_accepted(status: StatusCode) -> bool {
    status.is_success() || (status.is_redirection() && status != StatusCode::NOT_MODIFIED)
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
    record: &Record,
    sessions: &Sessions,
    (bearer, renewal, credential, device): (&Remembered, Renewal, &TokenPlace, Device),
    headers: &mut HeaderMap,
) -> Result<(), Refusal> {
    let snapshot = &local.snapshot;
    let metrics = &local.shared.metrics;
    let clock = &local.shared.clock;
    let judged = settle(snapshot, clock, clock.now(), |gate, now| gate.still_honoured(&bearer.verified, now));
    if let Err(stage) = judged.await {
        metrics.reissued(ReissueResult::Refused);
        if matches!(
            (&stage.denial, credential),
            (Denial::Revoked(_) | Denial::CredentialChanged, TokenPlace::Cookie(_))
        ) {
            clear_cookie(snapshot, headers);
        }
        return Ok(());
    }
    let now = clock.now();
    let (minted, delivery) = match renewal {
        Renewal::None | Renewal::Reused => return Ok(()),
        Renewal::Slide => {
            let Some(current) = current(&bearer.verified) else { return Ok(()) };
            let delivery = match credential {
                TokenPlace::Header(_) => Delivery::Header,
                TokenPlace::Cookie(_) => Delivery::Cookie,
            };
            match sessions.slide(&current, now) {
                Ok(Some(minted)) => (minted, delivery),
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::error!(%error, "failed to reissue a session token");
                    metrics.reissued(ReissueResult::Failed);
                    return Ok(());
                }
            }
        }
        Renewal::Exchange => {
            let Some(minted) = opening::exchange(local, record, sessions, &bearer.verified, device).await? else {
                return Ok(());
            };
            (minted, sessions.config().delivery)
        }
    };
    if let (Renewal::Slide, Some(open)) = (renewal, bearer.open(|| None)) {
        // The client has a newer one already; this one would take its place.
        if open.newest_used() > minted.expires {
            return Ok(());
        }
        open.prolong(minted.expires);
    }
    let new = minted.count_once();
    let delivered = attach(sessions, headers, &minted, delivery, &credential_name(credential), now);
    match (delivered, renewal) {
        // The client keeps what it has, which is good until it expires.
        (Err(error), _) => {
            metrics.reissued(ReissueResult::TooLarge);
            if new {
                tracing::error!(%error, sid = minted.session, "a session token was not renewed");
            }
        }
        (Ok(()), Renewal::Slide) => metrics.reissued(if new { ReissueResult::Minted } else { ReissueResult::Shared }),
        (Ok(()), Renewal::Exchange | Renewal::None | Renewal::Reused) => {}
    }
    Ok(())
}

/// Puts a token into a response head.
///
/// # Errors
///
/// When the cookie would not be kept; the head is then as it was.
pub(super) fn attach(
    sessions: &Sessions,
    headers: &mut HeaderMap,
    minted: &Minted,
    delivery: Delivery,
    credential: &HeaderName,
    now: Timestamp,
) -> Result<(), DeliverError> {
    deliver::attach(headers, minted, delivery, &sessions.config().cookie, credential, now)
}

/// Removes the session cookie from the browser, and the refresh cookie with it.
pub(super) fn clear_cookie(snapshot: &Snapshot, headers: &mut HeaderMap) {
    let Some(sessions) = &snapshot.sessions else { return };
    let config = sessions.config();
    let refresh = config.refresh.as_ref().map_or(Ok(()), |it| deliver::clear_refresh(headers, &it.cookie));
    if let Err(error) = refresh.and_then(|()| deliver::clear_cookie(headers, &config.cookie)) {
        tracing::error!(%error, "failed to clear the session cookie");
    }
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
        credential: verified.credential(),
    }
}

fn credential_name(place: &TokenPlace) -> HeaderName {
    match place {
        TokenPlace::Header(name) => name.clone(),
        TokenPlace::Cookie(_) => header::COOKIE,
    }
}
