//! `POST /session/logout`: the end of the presented session (T1).

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode, header};
use hyper::body::Incoming;

use super::{authority, deny, form};
use crate::gate::Denial;
use crate::proxy::answer::Refusal;
use crate::proxy::ending::{self, Leaving};
use crate::proxy::record::Record;
use crate::proxy::refreshing;
use crate::proxy::snapshot::Local;
use crate::revocation::Source;
use crate::session::{Sessions, origin};

/// Ends the presented session, its parent token with it, and clears what the browser keeps. An access token
/// that has expired will do, and so will a refresh token, in its cookie or as the parameter `refresh_token`.
/// Without an authentic one there is nothing to revoke, and the browser is cleared all the same.
pub(super) async fn answer(
    local: &Local,
    sessions: &Sessions,
    record: &Record,
    head: &Parts,
    body: Incoming,
) -> Result<Response<Bytes>, Refusal> {
    // A bearer token is put in by a script that has it; everything else a page of another site can send.
    let host = authority(head).unwrap_or_else(|| origin::host(&head.headers));
    if !head.headers.contains_key(header::AUTHORIZATION) && origin::is_cross_site(&head.headers, host) {
        return Err(deny(record, Denial::CrossSite, None));
    }
    let presented = ending::presented(local, record.time, head, authority(head)).await;
    let presented = presented.map_err(|stage| deny(record, stage.denial, stage.issuer))?;
    let mut leaving: Vec<_> = presented.as_ref().map(Leaving::of).into_iter().collect();
    if sessions.config().refresh.is_some() {
        let form = form::read(local, head, body).await?;
        let sent = form.get("refresh_token")?.map(str::to_owned);
        let kept = refreshing::in_cookie(sessions, head, authority(head));
        let kept = kept.map_err(|denial| deny(record, denial, None))?;
        for token in sent.as_deref().into_iter().chain(kept) {
            let family = refreshing::family_of(local, sessions, token).await?;
            leaving.extend(family.map(|family| Leaving::of_family(local, &family)));
        }
    }
    for leaving in leaving {
        leaving.end(local, record, Source::Logout).await?;
    }
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    ending::clear_browser(local, response.headers_mut())?;
    Ok(response)
}
