//! `POST /session/logout`: the end of a session, here and in the browser (T1).

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};

use super::{authority, deny};
use crate::proxy::answer::Refusal;
use crate::proxy::ending::{self, Leaving};
use crate::proxy::record::Record;
use crate::proxy::snapshot::Local;
use crate::revocation::Source;

/// Ends the presented session, its parent token with it, and clears what the browser keeps. Without an
/// authentic token there is nothing to revoke, and the browser is cleared all the same.
pub(super) async fn answer(local: &Local, record: &Record, head: &Parts) -> Result<Response<Bytes>, Refusal> {
    let presented = ending::presented(local, record.time, head, authority(head)).await;
    if let Some(verified) = presented.map_err(|stage| deny(record, stage.denial, stage.issuer))? {
        Leaving::of(&verified).end(local, record, Source::Logout).await?;
    }
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    ending::clear_browser(local, response.headers_mut())?;
    Ok(response)
}
