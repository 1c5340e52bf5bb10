//! `/session/devices`: where the holder of a session is logged in, and the end of it there.
//!
//! Whoever asks is the holder of a session that is honoured, and sees and ends sessions of its own subject
//! alone: another subject's session is looked for where it cannot be, so it is not found, at the cost of one
//! that does not exist.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use serde_json::json;

use super::{encode, own_session};
use crate::intake::Request;
use crate::proxy::answer::{self, Refusal};
use crate::proxy::ending;
use crate::proxy::record::Record;
use crate::proxy::snapshot::Local;
use crate::revocation::{Reason, Source, Target, TargetKind};
use crate::session::{Open, Sessions};

/// `GET`: every open session of the subject, the one that asks first, then by last use.
pub(super) async fn list(
    local: &Local,
    sessions: &Sessions,
    record: &Record,
    head: &Parts,
) -> Result<Response<Bytes>, Refusal> {
    let (_, own) = own_session(local, sessions, record, head).await?;
    let mut open = honoured(local, &own.subject);
    open.sort_by_key(|it| it.session != own.session);
    let devices: Vec<_> = open.iter().map(|it| sessions.device(it, &own.session)).collect();
    Ok(answer::json(StatusCode::OK, "application/json", encode(&json!({ "devices": devices }))?))
}

/// `DELETE` of one: it ends, and so does the token that opened it. Ending one's own is a logout.
pub(super) async fn end_one(
    local: &Local,
    sessions: &Sessions,
    record: &Record,
    head: &Parts,
    session: &str,
) -> Result<Response<Bytes>, Refusal> {
    let (_, own) = own_session(local, sessions, record, head).await?;
    let found = local.shared.registry.find(&own.subject, session);
    let found = found.filter(|it| is_honoured(local, it)).ok_or(Refusal::UnknownSession)?;
    end(local, record, &own, std::slice::from_ref(&found), None, "logout_device").await?;
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if found.session == own.session {
        ending::clear_browser(local, response.headers_mut())?;
    }
    Ok(response)
}

/// `DELETE` of all: log out everywhere else. Answers how many sessions were known to be open.
///
/// Those that are known end one by one. A cutoff right before this session began ends the ones that were
/// forgotten, too: the list is bounded, sessions are not.
pub(super) async fn end_others(
    local: &Local,
    sessions: &Sessions,
    record: &Record,
    head: &Parts,
) -> Result<Response<Bytes>, Refusal> {
    let (_, own) = own_session(local, sessions, record, head).await?;
    let mut others = honoured(local, &own.subject);
    others.retain(|it| it.session != own.session);
    let before = own.lineage.origin_issued.minus(Duration::from_millis(1));
    let subject = Target::new(TargetKind::Subject, sessions.issuer(), &*own.subject);
    // Repeating it must not fill the store.
    let cutoff = (!local.snapshot.gate.revocations().is_cut(&subject, before)).then(|| Request {
        issued_before: Some(before),
        ..Request::new(subject, Reason::Logout, &*own.subject, Source::Logout)
    });
    end(local, record, &own, &others, cutoff, "logout_others").await?;
    Ok(answer::json(StatusCode::OK, "application/json", encode(&json!({ "ended": others.len() }))?))
}

/// The open sessions of a subject that are honoured, the one used last first.
fn honoured(local: &Local, subject: &str) -> Vec<Arc<Open>> {
    let mut open = local.shared.registry.of_subject(subject, local.shared.clock.now());
    open.retain(|it| is_honoured(local, it));
    open
}

fn is_honoured(local: &Local, open: &Open) -> bool {
    !open.is_over(local.shared.clock.now()) && local.snapshot.gate.session_standing(open).is_ok()
}

/// Ends sessions on the word of `own`, with the tokens that opened them: in force and durable when this
/// returns well.
async fn end(
    local: &Local,
    record: &Record,
    own: &Open,
    ended: &[Arc<Open>],
    cutoff: Option<Request>,
    action: &'static str,
) -> Result<(), Refusal> {
    let gate = &local.snapshot.gate;
    let targets = ended.iter().flat_map(|it| gate.logout_targets(it));
    let targets = targets.filter(|target| !gate.revocations().is_blocked(target));
    let blocks = targets.map(|target| Request::new(target, Reason::Logout, &*own.subject, Source::Logout));
    let requests = blocks.chain(cutoff).collect();
    ending::end_all(local, record, requests, action).await?;
    for open in ended {
        local.shared.registry.remove(&open.subject, &open.session);
        local.shared.families.release(&open.session);
    }
    Ok(())
}
