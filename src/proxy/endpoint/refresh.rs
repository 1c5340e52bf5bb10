//! `POST /session/refresh`: the next access token for a refresh token (RFC 6749 §6).

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use hyper::body::Incoming;

use super::form::{self, FormError};
use super::{authority, deny, encode};
use crate::config::Delivery;
use crate::gate::Denial;
use crate::proxy::answer::{self, Refusal, TokenRefusal};
use crate::proxy::record::Record;
use crate::proxy::refreshing::{self, Refreshed, Terms};
use crate::proxy::snapshot::Local;
use crate::session::{InCookies, RefreshAnswer, RefreshToken, Sessions, deliver};

/// Longest `client_id`.
pub(super) const CLIENT_BYTES_MAX: usize = 512;

/// What is asked for.
struct Asked {
    token: RefreshToken,
    client: Option<String>,
    scope: Option<String>,
    in_cookie: bool,
}

/// Takes the presented refresh token. The parameters come in the body, as a form or as JSON; a token in the
/// refresh cookie needs none. The answer goes back the way the token came.
pub(super) async fn answer(
    local: &Local,
    sessions: &Sessions,
    record: &Record,
    head: &Parts,
    body: Incoming,
) -> Result<Response<Bytes>, Refusal> {
    let asked = read(local, sessions, record, head, body).await.inspect_err(|refusal| {
        local.shared.metrics.refreshed(refreshing::result_of(refusal));
    })?;
    let terms = Terms { client: asked.client.as_deref(), scope: asked.scope.as_deref() };
    let refreshed = refreshing::refresh(local, sessions, record, &asked.token, terms, head).await?;
    let Refreshed { access, next, delivery } = refreshed;
    let now = local.shared.clock.now();
    let text = next.token.text();
    let cookies = InCookies { access: asked.in_cookie && delivery == Delivery::Cookie, refresh: asked.in_cookie };
    let said = RefreshAnswer::new(&access, (&text, next.ends), cookies, now);
    let mut response = answer::json(StatusCode::OK, "application/json", encode(&said)?);
    let fields = response.headers_mut();
    if cookies.access {
        deliver::attach(fields, &access, delivery, &sessions.config().cookie, &http::header::COOKIE, now)
            .map_err(|_| Refusal::CookieTooLarge)?;
    }
    if let (true, Some(config)) = (cookies.refresh, &sessions.config().refresh) {
        let left = next.ends.since(now);
        deliver::attach_refresh(fields, &next.token, Delivery::Cookie, &config.cookie, left)
            .map_err(|_| Refusal::Internal)?;
    }
    Ok(response)
}

async fn read(
    local: &Local,
    sessions: &Sessions,
    record: &Record,
    head: &Parts,
    body: Incoming,
) -> Result<Asked, Refusal> {
    let form = form::read(local, head, body).await.map_err(as_oauth)?;
    let get = |name| form.get(name).map(|it| it.map(str::to_owned)).map_err(as_oauth);
    let (grant_type, sent, client) = (get("grant_type")?, get("refresh_token")?, get("client_id")?);
    let cookie = refreshing::in_cookie(sessions, head, authority(head)).map_err(|denial| match denial {
        Denial::MultipleTokens => invalid("the refresh cookie has no single value"),
        denial => deny(record, denial, None),
    })?;
    let cookie = cookie.map(str::to_owned);
    match (grant_type.as_deref(), &sent) {
        (Some("refresh_token"), _) | (None, None) => {}
        (Some(_), _) => return Err(Refusal::NoToken(TokenRefusal::UnsupportedGrantType)),
        (None, Some(_)) => return Err(invalid("grant_type is missing")),
    }
    if client.as_ref().is_some_and(|client| client.len() > CLIENT_BYTES_MAX) {
        return Err(invalid("client_id is too long"));
    }
    let (text, in_cookie) = match (sent, cookie) {
        (None, None) => return Err(invalid("refresh_token is missing")),
        (Some(sent), Some(cookie)) if sent != cookie => return Err(invalid("several refresh tokens were presented")),
        (None, Some(cookie)) => (cookie, true),
        (Some(sent), _) => (sent, false),
    };
    record.cookie_borne.set(in_cookie);
    let token = sessions.refresh_token(&text);
    let token = token.ok_or(Refusal::NoToken(TokenRefusal::InvalidGrant(Denial::MalformedToken)))?;
    Ok(Asked { token, client, scope: get("scope")?, in_cookie })
}

const fn invalid(why: &'static str) -> Refusal {
    Refusal::NoToken(TokenRefusal::InvalidRequest(why))
}

fn as_oauth(error: FormError) -> Refusal {
    match error {
        FormError::Malformed => invalid("the body is malformed"),
        FormError::Repeated => invalid("a parameter came more than once"),
        FormError::Body(_) => error.into(),
    }
}
