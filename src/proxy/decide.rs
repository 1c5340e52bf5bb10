//! The gate is asked: which token a request has, and whether that is enough for its route.

use super::answer::Refusal;
use super::ending;
use super::need::settle;
use super::record::Record;
use super::snapshot::Local;
use crate::config::TokenPlace;
use crate::gate::{Admission, Demand, Denial, Gate, Permit, Presentation, Stage};
use crate::token::present::{PresentError, find};

/// The decision about a request that needs a token, and the place the token was in.
///
/// Where somebody `leaves`, a token that has merely expired lets the request through, as nobody's.
pub(super) async fn decide(
    local: &Local,
    record: &mut Record,
    demand: &Demand,
    head: &http::request::Parts,
    host: Option<&str>,
    leaves: bool,
) -> Result<(Permit, usize), Refusal> {
    match judge(local, record, demand, head, host).await {
        Ok((admission, place)) => {
            record.bearer = admission.permit.bearer().cloned();
            Ok((admission.permit, place))
        }
        Err(stage) => {
            let goodbye = if leaves && stage.denial == Denial::Expired {
                // In a box: it is rare, and must not make every request's future larger.
                Box::pin(goodbye(local, record, demand, head)).await
            } else {
                Err(stage)
            };
            goodbye.map_err(|Stage { denial, issuer }| {
                record.denied(&denial, issuer);
                Refusal::Denied(denial)
            })
        }
    }
}

/// Lets a request through on the word of a token that has expired, without saying whose it was.
async fn goodbye(
    local: &Local,
    record: &Record,
    demand: &Demand,
    head: &http::request::Parts,
) -> Result<(Permit, usize), Stage> {
    let snapshot = &local.snapshot;
    let Ok(Some((token, place))) = find(&head.headers, &snapshot.config.token.from) else {
        return Err(Denial::MissingToken.into());
    };
    let sender = record.sender(head, &local.snapshot);
    let presented = Presentation { token, sender: &sender };
    let ask = |gate: &Gate, now| gate.admit_expired(presented, demand, now);
    settle(snapshot, &local.shared.clock, record.time, ask).await.map(|permit| (permit, place))
}

/// The same decision on a route that only reports: it is counted and logged, and the permit is dropped.
pub(super) async fn report(
    local: &Local,
    record: &mut Record,
    demand: &Demand,
    head: &http::request::Parts,
    host: Option<&str>,
) {
    match judge(local, record, demand, head, host).await {
        Ok((admission, _)) => drop(admission.permit),
        Err(Stage { denial, issuer }) => record.would_deny(&denial, issuer),
    }
}

/// Finds the one token, and asks the gate.
async fn judge(
    local: &Local,
    record: &mut Record,
    demand: &Demand,
    head: &http::request::Parts,
    host: Option<&str>,
) -> Result<(Admission, usize), Stage> {
    let snapshot = &local.snapshot;
    let places = &snapshot.config.token.from;
    let (token, place) = match find(&head.headers, places) {
        Ok(Some(found)) => found,
        Ok(None) => return Err(Denial::MissingToken.into()),
        Err(PresentError::Several | PresentError::Malformed) => return Err(Denial::MultipleTokens.into()),
    };
    record.cookie_borne.set(matches!(places.get(place), Some(TokenPlace::Cookie(_))));
    if record.cookie_borne.get() && !ending::is_same_origin(head, host) {
        return Err(Denial::CrossSite.into());
    }
    let sender = record.sender(head, &local.snapshot);
    let presented = Presentation { token, sender: &sender };
    let ask = |gate: &Gate, now| {
        let began = std::time::Instant::now();
        gate.admit(&local.cache, presented, demand, now).map(|admission| (admission, began))
    };
    let (admission, began) = settle(snapshot, &local.shared.clock, record.time, ask).await?;
    let metrics = &local.shared.metrics;
    if admission.stale {
        metrics.cluster.stale_served.inc();
    }
    if admission.cached { &metrics.token_cache_hits } else { &metrics.token_cache_misses }.inc();
    if let Some(algorithm) = admission.verified {
        metrics.verified(algorithm, began.elapsed());
    }
    if let Some(metrics) = snapshot.decision_metrics.get(admission.issuer) {
        metrics.permitted();
    }
    Ok((admission, place))
}
