//! The gateway's own endpoints on the traffic listeners: there when sessions are, on every host, before
//! any route.

mod devices;
mod exchange;
mod form;
mod logout;
mod refresh;

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode, header};
use hyper::body::Incoming;

use super::answer::{self, Refusal};
use super::body::ResponseBody;
use super::ending;
use super::need::settle;
use super::record::Record;
use super::renewal;
use super::snapshot::{Local, Snapshot};
use crate::config::TokenPlace;
use crate::gate::{Denial, Presentation, Stage, Verified};
use crate::session::{Open, Sessions, Use};
use crate::token::present::{PresentError, Presented, Unread, present};

/// One of the gateway's own endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint<'p> {
    /// `GET /session`: what the presented session is.
    Describe,
    /// `DELETE /session/devices/{sid}`: the end of one session of the presented one's subject.
    Device(&'p str),
    /// `/session/devices`: `GET` where its subject is logged in, `DELETE` the end of it everywhere else.
    Devices,
    /// `POST /session/exchange`: a session for a token of another issuer (RFC 8693).
    Exchange,
    /// `GET /.well-known/jwks.json`: the gateway's verifying keys (RFC 7517).
    Keys,
    /// `POST /session/logout`: the end of the presented session.
    Logout,
    /// `POST /session/refresh`: the next tokens for a refresh token (RFC 6749 §6).
    Refresh,
}

impl Endpoint<'_> {
    const fn methods(self) -> &'static str {
        match self {
            Self::Describe | Self::Keys => "GET, HEAD",
            Self::Device(_) => "DELETE",
            Self::Devices => "GET, HEAD, DELETE",
            Self::Exchange | Self::Logout | Self::Refresh => "POST",
        }
    }
}

/// The endpoint at `path`, if there are sessions.
pub(super) fn find<'p>(snapshot: &Snapshot, path: &'p str) -> Option<Endpoint<'p>> {
    let sessions = snapshot.sessions.as_ref()?;
    match path {
        "/session" => Some(Endpoint::Describe),
        "/session/devices" => Some(Endpoint::Devices),
        "/session/exchange" => Some(Endpoint::Exchange),
        "/session/logout" => Some(Endpoint::Logout),
        "/session/refresh" if sessions.config().refresh.is_some() => Some(Endpoint::Refresh),
        "/.well-known/jwks.json" => Some(Endpoint::Keys),
        _ => path.strip_prefix("/session/devices/").map(Endpoint::Device),
    }
}

/// Answers a request to `endpoint`.
pub(super) async fn answer(
    endpoint: Endpoint<'_>,
    local: &Rc<Local>,
    record: &mut Record,
    head: &Parts,
    query: Option<&str>,
    body: Incoming,
) -> Result<Response<ResponseBody>, Refusal> {
    if let Some(refusal) = answer::wrong_method(&head.method, endpoint.methods()) {
        return Err(refusal);
    }
    let Some(sessions) = &local.snapshot.sessions else { return Err(Refusal::NoRoute) };
    let response = match endpoint {
        Endpoint::Describe => describe(local, sessions, record, head).await?,
        Endpoint::Device(session) => devices::end_one(local, sessions, record, head, session).await?,
        Endpoint::Devices if head.method == Method::DELETE => {
            devices::end_others(local, sessions, record, head).await?
        }
        Endpoint::Devices => devices::list(local, sessions, record, head).await?,
        Endpoint::Exchange => exchange::answer(local, sessions, record, head, query, body).await?,
        Endpoint::Keys => keys(sessions),
        Endpoint::Logout => logout::answer(local, sessions, record, head, body).await?,
        Endpoint::Refresh => refresh::answer(local, sessions, record, head, body).await?,
    };
    Ok(response.map(ResponseBody::whole))
}

fn keys(sessions: &Sessions) -> Response<Bytes> {
    let mut response = Response::new(sessions.jwks_bytes());
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/jwk-set+json"));
    // Less than a key is published before it signs by default (`session.keys.publish_before`).
    fields.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("public, max-age=60"));
    response
}

/// The token in the places that tokens are looked for, and its place.
fn presented<'r>(local: &'r Local, record: &Record, head: &'r Parts) -> Result<Option<Presented<'r>>, Refusal> {
    let places = &local.snapshot.config.token.from;
    let found = present(&head.headers, places).map_err(|error| match error {
        PresentError::Several | PresentError::Malformed => deny(record, Denial::MultipleTokens, None),
    })?;
    let Some(found) = found else { return Ok(None) };
    if matches!(places.get(found.place), Some(TokenPlace::Cookie(_))) {
        record.cookie_borne.set(true);
        if !ending::is_same_origin(head, authority(head)) {
            return Err(deny(record, Denial::CrossSite, None));
        }
    }
    Ok(Some(found))
}

/// The authority in a request's target, when it has one.
fn authority(head: &Parts) -> Option<&str> {
    head.uri.authority().map(http::uri::Authority::as_str)
}

fn deny(record: &Record, denial: Denial, issuer: Option<usize>) -> Refusal {
    record.denied(&denial, issuer);
    Refusal::Denied(denial)
}

/// A token that is honoured now, whatever a route would demand of it, from whoever sends `head`.
async fn honoured<'r>(
    local: &Local,
    record: &Record,
    head: &Parts,
    token: impl Into<Unread<'r>>,
) -> Result<Verified, Refusal> {
    let (snapshot, clock, token) = (&local.snapshot, &local.shared.clock, token.into());
    let refuse = |stage: Stage| deny(record, stage.denial, stage.issuer);
    let text = token.text().map_err(|_| deny(record, Denial::MultipleTokens, None))?;
    let verified = settle(snapshot, clock, record.time, |gate, now| gate.verify(text, now)).await.map_err(refuse)?;
    settle(snapshot, clock, clock.now(), |gate, now| gate.still_honoured(&verified, now)).await.map_err(refuse)?;
    let presented = Presentation { token, sender: &record.sender(head, &local.snapshot) };
    let confirmed = snapshot.gate.confirm(&verified, presented, clock.now());
    confirmed.map_err(|denial| deny(record, denial, Some(verified.issuer)))?;
    Ok(verified)
}

/// The session of the presented token, which is honoured, and what the registry knows of it. It counts as
/// used; with `rotation: strict` it ends when its token was replaced too long ago.
async fn own_session(
    local: &Local,
    sessions: &Sessions,
    record: &Record,
    head: &Parts,
) -> Result<(Verified, Arc<Open>), Refusal> {
    let Some(found) = presented(local, record, head)? else { return Err(deny(record, Denial::MissingToken, None)) };
    let verified = honoured(local, record, head, found).await?;
    // Another issuer's token is no session; what it says of itself is its issuer's to tell.
    let Some(current) = renewal::current(&verified) else {
        return Err(deny(record, Denial::ClaimMismatch, Some(verified.issuer)));
    };
    let (device, now) = (renewal::device(&local.snapshot, record, &head.headers), record.time);
    let met = Open::met(&current, device, now).ok_or(Refusal::Internal)?;
    let open = local.shared.registry.meet(met, now);
    if let Some(grace) = sessions.config().reuse_grace
        && open.uses(current.claims.expires, now, grace) == Use::Reused
    {
        return Err(ending::replaced(local, record, &verified, &open).await);
    }
    Ok((verified, open))
}

async fn describe(
    local: &Local,
    sessions: &Sessions,
    record: &Record,
    head: &Parts,
) -> Result<Response<Bytes>, Refusal> {
    let (verified, _) = own_session(local, sessions, record, head).await?;
    // It has just been found to be the gateway's own.
    let current = renewal::current(&verified).ok_or(Refusal::Internal)?;
    Ok(answer::json(StatusCode::OK, "application/json", encode(&sessions.describe(&current))?))
}

fn encode(answer: &impl serde::Serialize) -> Result<String, Refusal> {
    serde_json::to_string(answer).map_err(|_| Refusal::Internal)
}
