//! `POST /session/logout`: the end of a session, here and in the browser (T1).

use std::rc::Rc;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};

use super::{deny, presented};
use crate::gate::{Denial, Stage, Verified};
use crate::proxy::answer::Refusal;
use crate::proxy::need::settle;
use crate::proxy::record::Record;
use crate::proxy::renewal;
use crate::proxy::snapshot::Local;
use crate::revocation::{Source, TargetKind};
use crate::session::{Sessions, deliver};

/// Ends the presented session, its parent token with it, and clears what the browser keeps. Without an
/// authentic token there is nothing to revoke, and the browser is cleared all the same.
pub(super) async fn answer(
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
