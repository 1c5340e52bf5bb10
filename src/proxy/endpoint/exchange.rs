//! `POST /session/exchange`: a session for a token of another issuer, as in RFC 8693.

use std::rc::Rc;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode, header};
use hyper::body::Incoming;

use super::form;
use super::refresh::CLIENT_BYTES_MAX;
use super::{deny, encode, honoured, presented};
use crate::config::Delivery;
use crate::gate::Denial;
use crate::proxy::answer::{self, Refusal};
use crate::proxy::opening;
use crate::proxy::record::Record;
use crate::proxy::refreshing;
use crate::proxy::renewal;
use crate::proxy::snapshot::Local;
use crate::session::{ExchangeAnswer, ExchangeError, Opener, Sessions, deliver};
use crate::telemetry::SessionOpening;
use crate::token::present::Unread;

/// Opens the session that belongs to the presented token. The parameters may come in the body, as a form
/// or as JSON; `delivery` also in the query.
pub(super) async fn answer(
    local: &Rc<Local>,
    sessions: &Sessions,
    record: &Record,
    head: &Parts,
    query: Option<&str>,
    body: Incoming,
) -> Result<Response<Bytes>, Refusal> {
    let form = form::read(local, head, body).await?;
    let subject_token = form.get("subject_token")?;
    let delivery = match form.get("delivery")? {
        Some(delivery) => Some(delivery.to_owned()),
        None => form::parse_query(query.unwrap_or_default()).get("delivery")?.map(str::to_owned),
    };
    let client = form.get("client_id")?;
    if client.is_some_and(|client| client.len() > CLIENT_BYTES_MAX) {
        return Err(Refusal::BadRequest("client_id is too long"));
    }
    let (unread, token) = match (presented(local, record, head)?, subject_token) {
        (None, None) => return Err(deny(record, Denial::MissingToken, None)),
        (Some(found), Some(token)) if found.token != token => {
            return Err(deny(record, Denial::MultipleTokens, None));
        }
        (Some(found), _) => (Unread::from(found), found.token),
        (None, Some(token)) => (Unread::from(token), token),
    };
    let verified = honoured(local, record, head, unread).await?;
    let minted = opening::exchanged(local, sessions, &verified).map_err(|error| match error {
        ExchangeError::IssuerNotListed => deny(record, Denial::IssuerNotAllowed, Some(verified.issuer)),
        ExchangeError::MissingSubject => deny(record, Denial::MissingClaim, Some(verified.issuer)),
        ExchangeError::Mint(error) => {
            tracing::error!(%error, "failed to open a session by exchange");
            deny(record, Denial::SessionTooOld, Some(verified.issuer))
        }
    })?;
    let as_cookie = delivery.as_deref() == Some("cookie");
    if as_cookie {
        opening::fits(sessions, &minted)?;
    }
    let device = renewal::device(&local.snapshot, record, &head.headers);
    let entered = opening::enter(local, record, sessions, &minted, device, SessionOpening::Exchange).await;
    entered.map_err(|refusal| match refusal {
        Refusal::Denied(denial) => deny(record, denial, Some(verified.issuer)),
        other => other,
    })?;
    let access = if as_cookie { Delivery::Cookie } else { Delivery::Header };
    let issued =
        refreshing::open(local, sessions, &minted, Opener { token: Some(token), client, delivery: access }).await;
    let now = local.shared.clock.now();
    let config = sessions.config().refresh.as_ref();
    let refresh_as_cookie = as_cookie || config.is_some_and(|it| it.delivery == Delivery::Cookie);
    let text = issued.as_ref().map(|issued| issued.token.text());
    let said = ExchangeAnswer::new(&minted, now);
    let said = match &issued {
        None => said,
        Some(issued) => {
            let text = text.as_ref().map(|it| it.as_str()).filter(|_| !refresh_as_cookie);
            said.with_refresh(text, issued.ends, now)
        }
    };
    let mut response = answer::json(StatusCode::OK, "application/json", encode(&said)?);
    if as_cookie {
        renewal::attach(sessions, response.headers_mut(), &minted, Delivery::Cookie, &header::COOKIE, now)
            .map_err(|_| Refusal::CookieTooLarge)?;
    }
    if let (true, Some(issued), Some(config)) = (refresh_as_cookie, &issued, config) {
        let left = issued.ends.since(now);
        deliver::attach_refresh(response.headers_mut(), &issued.token, Delivery::Cookie, &config.cookie, left)
            .map_err(|_| Refusal::Internal)?;
    }
    Ok(response)
}
