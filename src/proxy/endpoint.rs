//! The gateway's own endpoints on the traffic listeners: there when sessions are, on every host, before
//! any route.

use std::rc::Rc;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::answer::{self, Refusal};
use super::body::ResponseBody;
use super::need::settle;
use super::record::Record;
use super::renewal;
use super::snapshot::{Local, Snapshot};
use crate::config::{Delivery, TokenPlace};
use crate::gate::{Denial, Stage, Verified};
use crate::revocation::{Source, TargetKind};
use crate::session::{ExchangeAnswer, ExchangeError, Sessions, deliver, origin};
use crate::telemetry::SessionOpening;
use crate::token::present::{PresentError, Presented, present};

/// One of the gateway's own endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `GET /session`: what the presented session is.
    Describe,
    /// `POST /session/exchange`: a session for a token of another issuer (RFC 8693).
    Exchange,
    /// `GET /.well-known/jwks.json`: the gateway's verifying keys (RFC 7517).
    Keys,
    /// `POST /session/logout`: the end of the presented session.
    Logout,
}

impl Endpoint {
    const fn methods(self) -> &'static str {
        match self {
            Self::Describe | Self::Keys => "GET, HEAD",
            Self::Exchange | Self::Logout => "POST",
        }
    }
}

/// The endpoint at `path`, if there are sessions.
pub(super) fn find(snapshot: &Snapshot, path: &str) -> Option<Endpoint> {
    snapshot.sessions.as_ref()?;
    match path {
        "/session" => Some(Endpoint::Describe),
        "/session/exchange" => Some(Endpoint::Exchange),
        "/session/logout" => Some(Endpoint::Logout),
        "/.well-known/jwks.json" => Some(Endpoint::Keys),
        _ => None,
    }
}

/// The form of an exchange may have this many bytes.
const MAX_FORM: usize = 16 * 1024;

/// Answers a request to `endpoint`.
pub(super) async fn answer(
    endpoint: Endpoint,
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
        Endpoint::Exchange => exchange(local, sessions, record, head, query, body).await?,
        Endpoint::Keys => keys(sessions),
        Endpoint::Logout => logout(local, sessions, record, head).await?,
    };
    Ok(response.map(ResponseBody::whole))
}

fn keys(sessions: &Sessions) -> Response<Bytes> {
    let mut response = Response::new(sessions.jwks_bytes());
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/jwk-set+json"));
    // A rotated key is published when it begins to sign, so readers must not keep the set for long.
    fields.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("public, max-age=60"));
    response
}

/// The token in the places that tokens are looked for, and its place.
fn presented<'r>(local: &'r Local, record: &Record, head: &'r Parts) -> Result<Option<Presented<'r>>, Refusal> {
    let places = &local.snapshot.config.token.from;
    let found = present(&head.headers, places).map_err(|error| match error {
        PresentError::Several | PresentError::Malformed => deny(record, Denial::MultipleTokens, None),
    })?;
    let from_cookie = |found: &Presented<'_>| matches!(places.get(found.place), Some(TokenPlace::Cookie(_)));
    match found {
        Some(found) if from_cookie(&found) && !is_same_origin(head) => Err(deny(record, Denial::CrossSite, None)),
        found => Ok(found),
    }
}

fn is_same_origin(head: &Parts) -> bool {
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    origin::same_origin(&head.method, &head.headers, authority.unwrap_or_else(|| origin::host(&head.headers)))
}

fn deny(record: &Record, denial: Denial, issuer: Option<usize>) -> Refusal {
    record.denied(&denial, issuer);
    Refusal::Denied(denial)
}

/// A token that is honoured now, whatever a route would demand of it.
async fn honoured(local: &Local, record: &Record, token: &str) -> Result<Verified, Refusal> {
    let (snapshot, clock) = (&local.snapshot, &local.shared.clock);
    let refuse = |stage: Stage| deny(record, stage.denial, stage.issuer);
    let verified = settle(snapshot, clock, record.time, |gate, now| gate.verify(token, now)).await.map_err(refuse)?;
    settle(snapshot, clock, clock.now(), |gate, now| gate.still_honoured(&verified, now)).await.map_err(refuse)?;
    Ok(verified)
}

async fn describe(
    local: &Local,
    sessions: &Sessions,
    record: &Record,
    head: &Parts,
) -> Result<Response<Bytes>, Refusal> {
    let Some(found) = presented(local, record, head)? else { return Err(deny(record, Denial::MissingToken, None)) };
    let verified = honoured(local, record, found.token).await?;
    let Some(current) = renewal::current(&verified) else {
        // Another issuer's token is no session; what it says of itself is its issuer's to tell.
        return Err(deny(record, Denial::ClaimMismatch, Some(verified.issuer)));
    };
    Ok(answer::json(StatusCode::OK, "application/json", encode(&sessions.describe(&current))?))
}

async fn exchange(
    local: &Rc<Local>,
    sessions: &Sessions,
    record: &Record,
    head: &Parts,
    query: Option<&str>,
    body: Incoming,
) -> Result<Response<Bytes>, Refusal> {
    let form = form(head, body).await?;
    let parameter = |name: &str| {
        let found = form.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        found.or_else(|| pairs(query.unwrap_or_default()).find(|(key, _)| key == name).map(|(_, value)| value))
    };
    let subject_token = form.iter().find(|(key, _)| key == "subject_token").map(|(_, value)| value.as_str());
    let verified = match (presented(local, record, head)?, subject_token) {
        (None, None) => return Err(deny(record, Denial::MissingToken, None)),
        (Some(found), Some(token)) if found.token != token => {
            return Err(deny(record, Denial::MultipleTokens, None));
        }
        (Some(found), _) => honoured(local, record, found.token).await?,
        (None, Some(token)) => honoured(local, record, token).await?,
    };
    let now = local.shared.clock.now();
    let minted = sessions.exchange(renewal::parent(&local.snapshot, &verified), now).map_err(|error| match error {
        ExchangeError::IssuerNotListed => deny(record, Denial::IssuerNotAllowed, Some(verified.issuer)),
        ExchangeError::MissingSubject => deny(record, Denial::MissingClaim, Some(verified.issuer)),
        ExchangeError::Mint(error) => {
            tracing::error!(%error, "failed to open a session by exchange");
            deny(record, Denial::SessionTooOld, Some(verified.issuer))
        }
    })?;
    if minted.count_once() {
        local.shared.metrics.session_opened(SessionOpening::Exchange);
    }
    let body = encode(&ExchangeAnswer::new(&minted, now))?;
    let mut response = answer::json(StatusCode::OK, "application/json", body);
    if parameter("delivery").as_deref() == Some("cookie") {
        renewal::attach(sessions, response.headers_mut(), &minted, Delivery::Cookie, &header::COOKIE, now);
    }
    Ok(response)
}

/// Ends the presented session, its parent token with it, and clears what the browser keeps. Without an
/// authentic token there is nothing to revoke, and the browser is cleared all the same.
async fn logout(
    local: &Rc<Local>,
    sessions: &Sessions,
    record: &Record,
    head: &Parts,
) -> Result<Response<Bytes>, Refusal> {
    if let Some(found) = presented(local, record, head)? {
        // An expired token may have living descendants: its times do not matter here.
        let judged =
            settle(&local.snapshot, &local.shared.clock, record.time, |gate, now| gate.authenticate(found.token, now));
        match judged.await {
            Ok(verified) => end(local, record, &verified).await?,
            // It may well be authentic, and would live on: not to be taken for a logout.
            Err(Stage { denial: denial @ Denial::KeysUnavailable, issuer }) => {
                return Err(deny(record, denial, issuer));
            }
            Err(_) => {}
        }
    }
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    deliver::clear(response.headers_mut(), &sessions.config().cookie).map_err(|error| {
        tracing::error!(%error, "failed to clear the session cookie");
        Refusal::Internal
    })?;
    Ok(response)
}

/// Ends the session of a token, and the token that opened it.
async fn end(local: &Local, record: &Record, verified: &Verified) -> Result<(), Refusal> {
    if is_over(local, verified) {
        return Ok(());
    }
    let actor = verified.claims.subject.clone().unwrap_or_default();
    for target in verified.session().into_iter().chain(verified.parent()) {
        renewal::end(local, record, target, &actor, Source::Logout).await?;
    }
    Ok(())
}

/// Whether nothing that a logout would end is alive: repeating one must not fill the store.
fn is_over(local: &Local, verified: &Verified) -> bool {
    match local.snapshot.gate.standing(verified) {
        Err(Denial::Revoked(TargetKind::Token)) => true,
        Err(Denial::Revoked(TargetKind::Session)) => verified.parent().is_none(),
        _ => false,
    }
}

fn encode(answer: &impl serde::Serialize) -> Result<String, Refusal> {
    serde_json::to_string(answer).map_err(|_| Refusal::Internal)
}

/// The fields of an `application/x-www-form-urlencoded` body; none for another type of body.
async fn form(head: &Parts, body: Incoming) -> Result<Vec<(String, String)>, Refusal> {
    let kind = head.headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes().to_ascii_lowercase());
    if !kind.is_some_and(|kind| kind.starts_with(b"application/x-www-form-urlencoded")) {
        return Ok(Vec::new());
    }
    let body = Limited::new(body, MAX_FORM).collect().await.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() { Refusal::BodyTooLarge } else { Refusal::BodyBroken }
    })?;
    let bytes = body.to_bytes();
    let text = std::str::from_utf8(&bytes).map_err(|_| Refusal::BodyBroken)?;
    Ok(pairs(text).collect())
}

/// Name and value pairs of a query or form.
fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    let decode = |part: &str| {
        let spaced = part.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
    };
    text.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_decoded() {
        let found: Vec<_> = pairs("a=1&b=x%2By+z&c&&=d").collect();
        let wanted = [("a", "1"), ("b", "x+y z"), ("c", ""), ("", "d")];
        assert_eq!(found, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
