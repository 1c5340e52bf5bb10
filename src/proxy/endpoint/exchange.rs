//! `POST /session/exchange`: a session for a token of another issuer, as in RFC 8693.

use std::rc::Rc;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode, header};
use hyper::body::Incoming;

use super::form;
use super::{deny, encode, honoured, presented};
use crate::config::Delivery;
use crate::gate::Denial;
use crate::proxy::answer::{self, Refusal};
use crate::proxy::opening;
use crate::proxy::record::Record;
use crate::proxy::renewal;
use crate::proxy::snapshot::Local;
use crate::session::{ExchangeAnswer, ExchangeError, Sessions};
use crate::telemetry::SessionOpening;

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
    let verified = match (presented(local, record, head)?, subject_token) {
        (None, None) => return Err(deny(record, Denial::MissingToken, None)),
        (Some(found), Some(token)) if found.token != token => {
            return Err(deny(record, Denial::MultipleTokens, None));
        }
        (Some(found), _) => honoured(local, record, head, found).await?,
        (None, Some(token)) => honoured(local, record, head, token).await?,
    };
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
    let now = local.shared.clock.now();
    let body = encode(&ExchangeAnswer::new(&minted, now))?;
    let mut response = answer::json(StatusCode::OK, "application/json", body);
    if as_cookie {
        renewal::attach(sessions, response.headers_mut(), &minted, Delivery::Cookie, &header::COOKIE, now)
            .map_err(|_| Refusal::CookieTooLarge)?;
    }
    Ok(response)
}
