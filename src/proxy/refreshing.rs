//! Refresh tokens on their way: handed out when a session is opened, taken back for the next one, and the end
//! of the session for whoever brings one that was used before.
//!
//! The order is: who asks, is the session in good standing, what is the token worth. Only then is anything
//! made, and the place of the current token is taken by one comparison in the store, so that of all who come
//! with one token, one rotates it and the others find its successor. It is durable before it is answered.

use std::collections::BTreeSet;

use http::HeaderMap;
use http::request::Parts;

use super::answer::{Refusal, TokenRefusal};
use super::need::settle;
use super::opening;
use super::record::Record;
use super::renewal;
use super::snapshot::Local;
use super::{ending, headers};
use crate::config::{Delivery, TokenPlace};
use crate::gate::{Denial, Stage};
use crate::intake::{Document, DocumentKind, DocumentWrite, ExchangeError, Put, Request};
use crate::revocation::{Reason, Source, Target, TargetKind};
use crate::session::{Family, Judgement, MintError, Minted, Open, Opener, RefreshError, RefreshToken, Sessions};
use crate::telemetry::{RefreshResult, StoreOperation};
use crate::time::Timestamp;
use crate::token::Confirmation;
use crate::token::present::{PresentError, present};

/// How often one request may find that another was first. Each time the family has gone on, so that the second
/// time its token is a replaced one; more than a few only come of a store that contradicts itself.
const TRIES_MAX: usize = 8;

/// A refresh token to be handed out.
#[derive(Debug)]
pub(super) struct Issued {
    pub(super) token: RefreshToken,
    pub(super) ends: Timestamp,
}

/// What a refresh token has brought.
#[derive(Debug)]
pub(super) struct Refreshed {
    pub(super) access: std::sync::Arc<Minted>,
    pub(super) next: Issued,
    /// How the session's first access token was handed out.
    pub(super) delivery: Delivery,
}

/// What a refresh asks for beside the token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    /// Who asks.
    pub(super) client: Option<&'a str>,
    /// For which scope; `None`: the one that it has.
    pub(super) scope: Option<&'a str>,
}

/// A family as the store has it.
struct Stored {
    family: Family,
    revision: u64,
}

/// The refresh token of the session that `minted` has just opened; `None` when it gets none. A session is no
/// worse without.
pub(super) async fn open(local: &Local, sessions: &Sessions, minted: &Minted, opener: Opener<'_>) -> Option<Issued> {
    let grace = sessions.config().refresh.as_ref()?.reuse_grace;
    let shared = &local.shared;
    for _ in 0..TRIES_MAX {
        let now = shared.clock.now();
        let found = match find(local, &minted.session).await {
            Ok(found) => found,
            Err(error) => return not_opened(local, &error),
        };
        let revision = found.as_ref().map_or(0, |document| document.revision);
        if let Some(document) = found.filter(|document| document.is_live(now)) {
            // One session, one family: to whom it was given may get it once more, and nobody else.
            let family = Family::restored(&document.key, &document.body).ok()?;
            let token = family.opened_again(opener.token?, now, grace)?;
            return Some(Issued { token, ends: family.ends });
        }
        let (family, token) = match sessions.open_family(minted, opener, now) {
            Ok(opened) => opened,
            Err(RefreshError::Ended | RefreshError::Off) => return None,
            Err(error) => return not_opened(local, &error),
        };
        if !shared.families.reserve(&family, now) {
            shared.metrics.refreshed(RefreshResult::NotOpened);
            tracing::warn!("a session goes without a refresh token: there are as many as session.devices.max allows");
            return None;
        }
        match put(local, &family, revision).await {
            Ok(true) => {
                if let Some(known) = shared.registry.find(&family.subject, &family.session) {
                    known.may_live_until(family.ends);
                }
                return Some(Issued { token, ends: family.ends });
            }
            Ok(false) => {}
            Err(error) => {
                shared.families.release(&family.session);
                return not_opened(local, &error);
            }
        }
    }
    None
}

/// Takes `token` for the next access token and the next refresh token.
///
/// # Errors
///
/// When it is worth nothing, or nothing could be made durable. The session of one that was used before has
/// then ended.
pub(super) async fn refresh(
    local: &Local,
    sessions: &Sessions,
    record: &Record,
    token: &RefreshToken,
    terms: Terms<'_>,
    head: &Parts,
) -> Result<Refreshed, Refusal> {
    let outcome = take(local, sessions, record, token, terms, head).await;
    local.shared.metrics.refreshed(match &outcome {
        Ok((_, result)) => *result,
        Err(Failed::Reused(_)) => RefreshResult::Reused,
        Err(Failed::Refused(refusal)) => result_of(refusal),
    });
    match outcome {
        Ok((refreshed, _)) => Ok(refreshed),
        Err(Failed::Refused(refusal) | Failed::Reused(refusal)) => Err(refusal),
    }
}

/// What a refused request is counted as.
pub(super) const fn result_of(refusal: &Refusal) -> RefreshResult {
    match refusal {
        Refusal::NoToken(
            TokenRefusal::InvalidGrant(Denial::Expired | Denial::MalformedToken)
            | TokenRefusal::InvalidRequest(_)
            | TokenRefusal::InvalidScope
            | TokenRefusal::OtherClient
            | TokenRefusal::UnsupportedGrantType,
        )
        | Refusal::BadRequest(_)
        | Refusal::BodyBroken
        | Refusal::BodyTooLarge
        | Refusal::BodyTooSlow => RefreshResult::Invalid,
        Refusal::NoToken(TokenRefusal::InvalidGrant(_)) | Refusal::Denied(_) => RefreshResult::Refused,
        _ => RefreshResult::Failed,
    }
}

enum Failed {
    Refused(Refusal),
    Reused(Refusal),
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

async fn take(
    local: &Local,
    sessions: &Sessions,
    record: &Record,
    token: &RefreshToken,
    terms: Terms<'_>,
    head: &Parts,
) -> Result<(Refreshed, RefreshResult), Failed> {
    let shared = &local.shared;
    let grace = sessions.config().refresh.as_ref().map(|it| it.reuse_grace).unwrap_or_default();
    let mut confirmed = false;
    for _ in 0..TRIES_MAX {
        let now = shared.clock.now();
        let Stored { family, revision } = live(find(local, &token.session).await, now)?;
        if family.bound_to.is_some() && family.bound_to.as_deref() != terms.client {
            return Err(Refusal::NoToken(TokenRefusal::OtherClient).into());
        }
        // Once: a proof is used up by it.
        if !confirmed {
            confirm(local, record, &family, head, now)?;
            confirmed = true;
        }
        let open = Open::of_family(&family, renewal::device(&local.snapshot, record, &head.headers), now);
        stand(local, &open).await?;
        let past = shared.families.is_past(token);
        let judgement = if past { Judgement::Reused } else { family.judge(token, now, grace) };
        let known = match judgement {
            Judgement::Unknown => return Err(refused(Denial::Expired).into()),
            Judgement::Reused => return Err(Failed::Reused(reused(local, record, (&family, &open), sessions).await)),
            Judgement::Current | Judgement::Repeated(_) => shared.registry.meet(open, now),
        };
        let access = sessions.refreshed(&family, token, known.newest_used(), now).map_err(|error| unminted(&error))?;
        if terms.scope.is_some_and(|scope| !is_same_scope(scope, access.scope.as_deref().unwrap_or_default())) {
            return Err(Refusal::NoToken(TokenRefusal::InvalidScope).into());
        }
        if family.delivery == Delivery::Cookie {
            opening::fits(sessions, &access)?;
        }
        known.prolong(access.expires);
        let delivery = family.delivery;
        if let Judgement::Repeated(next) = judgement {
            let next = Issued { token: next, ends: family.ends };
            return Ok((Refreshed { access, next, delivery }, RefreshResult::Repeated));
        }
        let (family, next) = sessions.next_generation(&family, token, &access, now).map_err(|error| match error {
            RefreshError::Ended => refused(Denial::Expired),
            other => {
                tracing::error!(error = %other, "failed to rotate a refresh token");
                Refusal::Internal
            }
        })?;
        match put(local, &family, revision).await {
            Ok(true) => {
                shared.families.note(&family);
                known.may_live_until(family.ends);
                let next = Issued { token: next, ends: family.ends };
                return Ok((Refreshed { access, next, delivery }, RefreshResult::Rotated));
            }
            // Another request with the same token was first, and has made its successor.
            Ok(false) => {}
            Err(error) => return Err(unavailable(&error).into()),
        }
    }
    tracing::error!("failed to rotate a refresh token: its family keeps changing");
    Err(Refusal::NoToken(TokenRefusal::Unavailable).into())
}

/// The refresh token in the refresh cookie.
///
/// # Errors
///
/// [`Denial::MultipleTokens`], and [`Denial::CrossSite`] when a page of another site may have sent it.
pub(super) fn in_cookie<'r>(
    sessions: &Sessions,
    head: &'r Parts,
    authority: Option<&str>,
) -> Result<Option<&'r str>, Denial> {
    let Some(config) = &sessions.config().refresh else { return Ok(None) };
    let places = [TokenPlace::Cookie(config.cookie.clone())];
    let found = present(&head.headers, &places).map_err(|error| match error {
        PresentError::Several | PresentError::Malformed => Denial::MultipleTokens,
    })?;
    let Some(found) = found else { return Ok(None) };
    if ending::is_same_origin(head, authority) { Ok(Some(found.token)) } else { Err(Denial::CrossSite) }
}

/// The session that the refresh cookie of a request belongs to: on a login route it is the earlier one, on a logout
/// route the one that ends, when no access token says so.
///
/// # Errors
///
/// As [`in_cookie`] and [`family_of`].
pub(super) async fn family_in_cookie(
    local: &Local,
    head: &Parts,
    authority: Option<&str>,
) -> Result<Option<Family>, Refusal> {
    let Some(sessions) = &local.snapshot.sessions else { return Ok(None) };
    match in_cookie(sessions, head, authority)? {
        None => Ok(None),
        Some(text) => family_of(local, sessions, text).await,
    }
}

/// The family that the refresh token `text` is of, for who says goodbye with it: any token of it will do,
/// however old. `None` when it is none, or has ended.
///
/// # Errors
///
/// When the store cannot be asked: the session may well be there, and would live on.
pub(super) async fn family_of(local: &Local, sessions: &Sessions, text: &str) -> Result<Option<Family>, Refusal> {
    let Some(token) = sessions.refresh_token(text) else { return Ok(None) };
    let now = local.shared.clock.now();
    // Whoever leaves need not wait for the others: what is known here will do.
    let found = local.shared.ledger.document(DocumentKind::Family, &token.session).await.map_err(ExchangeError::from);
    match live(found, now) {
        Ok(stored) => Ok(Some(stored.family).filter(|family| family.opened == token.opened)),
        Err(Refusal::NoToken(TokenRefusal::InvalidGrant(_))) => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// Removes the refresh cookie from a request: it is for the gateway alone.
pub(super) fn strip(sessions: &Sessions, fields: &mut HeaderMap) {
    if let Some(refresh) = &sessions.config().refresh {
        headers::remove_cookie(fields, &refresh.cookie);
    }
}

async fn find(local: &Local, session: &str) -> Result<Option<Document>, ExchangeError> {
    local.shared.ledger.agreed_document(DocumentKind::Family, session).await.inspect_err(|_| {
        local.shared.metrics.store_failed(StoreOperation::Read);
    })
}

/// The family that was `found`, unless it has ended.
fn live(found: Result<Option<Document>, ExchangeError>, now: Timestamp) -> Result<Stored, Refusal> {
    let found = found.map_err(|error| {
        tracing::error!(%error, "failed to read a family of refresh tokens");
        Refusal::NoToken(TokenRefusal::Unavailable)
    })?;
    let Some(document) = found.filter(|document| document.is_live(now)) else {
        return Err(refused(Denial::Expired));
    };
    let family = Family::restored(&document.key, &document.body).map_err(|error| {
        tracing::error!(%error, "failed to read a family of refresh tokens");
        Refusal::NoToken(TokenRefusal::Unavailable)
    })?;
    Ok(Stored { family, revision: document.revision })
}

/// Whether whoever asks holds what the session is bound to. Without that a token does nothing, not even harm.
fn confirm(local: &Local, record: &Record, family: &Family, head: &Parts, now: Timestamp) -> Result<(), Refusal> {
    let bound = Confirmation::read(&family.claims).map_err(|_| refused(Denial::MalformedClaim))?;
    let Some(bound) = bound else { return Ok(()) };
    let confirmed = local.snapshot.gate.confirm_refresh(&bound, &record.sender(head, &local.snapshot), now);
    confirmed.map_err(|denial| match denial {
        Denial::ProofsExhausted | Denial::StateStale => Refusal::NoToken(TokenRefusal::Unavailable),
        denial => refused(denial),
    })
}

/// Whether the session is still in good standing, and hangs on a credential that is still the current one.
async fn stand(local: &Local, open: &Open) -> Result<(), Refusal> {
    let (snapshot, clock) = (&local.snapshot, &local.shared.clock);
    let gate = &snapshot.gate;
    gate.up_to_date().map_err(|_| Refusal::NoToken(TokenRefusal::Unavailable))?;
    gate.session_standing(open).map_err(refused)?;
    let ask = |gate: &crate::gate::Gate, now| gate.credential_of_session(&open.lineage, now);
    settle(snapshot, clock, clock.now(), ask).await.map_err(|Stage { denial, .. }| match denial {
        Denial::KeysUnavailable => Refusal::NoToken(TokenRefusal::Unavailable),
        denial => refused(denial),
    })?;
    // What was waited for may have taken a while.
    gate.session_standing(open).map_err(refused)
}

/// Puts `family` where one of `revision` is; whether it was still there. Durable when this is `true`.
async fn put(local: &Local, family: &Family, revision: u64) -> Result<bool, ExchangeError> {
    let document = Document {
        kind: DocumentKind::Family,
        key: family.session.to_string(),
        revision: revision.saturating_add(1),
        body: family.body(),
        forget_at: Some(family.ends),
    };
    let write = DocumentWrite { document, expects: Some(revision) };
    match local.shared.ledger.exchange(write).await {
        Ok(Put::Written) => Ok(true),
        Ok(Put::Conflict(_)) => Ok(false),
        Err(error) => {
            local.shared.metrics.store_failed(StoreOperation::Append);
            Err(error)
        }
    }
}

/// Ends the session of a token that was used before: it or its successor is in the wrong hands, and nobody
/// can tell which. Returns what the request is refused with.
async fn reused(local: &Local, record: &Record, (family, open): (&Family, &Open), sessions: &Sessions) -> Refusal {
    let shared = &local.shared;
    let refusal = refused(Denial::Revoked(TargetKind::Session));
    // Of several at once, the first one ends it.
    if !shared.families.begin_ending(&family.session) {
        return refusal;
    }
    let _turn = Turn { local, session: &family.session };
    // Whoever had the turn before may have ended it since this one was found to be in good standing. An end that
    // was lifted is none: then this is another theft.
    if local.snapshot.gate.session_standing(open).is_err() {
        return refusal;
    }
    shared.metrics.refresh_reuse.inc();
    let target = Target::new(TargetKind::Session, sessions.issuer(), &*family.session);
    let request = Request::new(target, Reason::SessionReuse, family.subject.as_str(), Source::Gateway);
    match ending::end_all(local, record, vec![request], "session_reuse").await {
        Ok(()) => {
            shared.registry.remove(&family.subject, &family.session);
            refusal
        }
        // In force, though not on disk.
        Err(Refusal::StoreNotDurable) => refusal,
        Err(_) => Refusal::NoToken(TokenRefusal::Unavailable),
    }
}

/// The order of scopes means nothing (RFC 6749 §3.3).
fn is_same_scope(one: &str, other: &str) -> bool {
    let set = |scope| str::split(scope, ' ').filter(|it| !it.is_empty()).collect::<BTreeSet<_>>();
    set(one) == set(other)
}

/// Whoever ends a session, until that is in force or has come to nothing.
struct Turn<'a> {
    local: &'a Local,
    session: &'a str,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.local.shared.families.end_turn(self.session);
    }
}

const fn refused(denial: Denial) -> Refusal {
    Refusal::NoToken(TokenRefusal::InvalidGrant(denial))
}

fn unminted(error: &MintError) -> Refusal {
    if matches!(error, MintError::Ended) {
        return refused(Denial::Expired);
    }
    tracing::error!(%error, "failed to mint a token for a refresh");
    Refusal::Internal
}

fn unavailable(error: &ExchangeError) -> Refusal {
    tracing::error!(%error, "a refresh token was not rotated");
    Refusal::NoToken(TokenRefusal::Unavailable)
}

fn not_opened(local: &Local, error: &impl std::fmt::Display) -> Option<Issued> {
    local.shared.metrics.refreshed(RefreshResult::NotOpened);
    tracing::error!(%error, "a session goes without a refresh token");
    None
}
