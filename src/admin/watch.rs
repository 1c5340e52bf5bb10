//! Revocations and lifts as they come into force, as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::problem::Problem;
use super::{Api, view};
use crate::intake;

/// How often a silent stream says that it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `GET /v1/revocations:watch`. Who falls behind is told how much was missed, and should list.
pub(super) async fn watch(State(api): State<Api>) -> Result<Response, Problem> {
    let permit = std::sync::Arc::clone(&api.0.watchers).try_acquire_owned().map_err(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_watchers", "as many streams are open as may be")
    })?;
    let closing = api.0.closing.clone();
    let events = futures_util::stream::unfold((api.0.ledger.watch(), permit), move |(mut events, permit)| {
        let closing = closing.clone();
        async move {
            let event = tokio::select! {
                () = closing.cancelled() => return None,
                event = next(&mut events) => event?,
            };
            Some((Ok::<_, Infallible>(event), (events, permit)))
        }
    });
    // The first bytes go out at once, so that a client knows from when on it misses nothing.
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

async fn next(events: &mut Receiver<intake::Event>) -> Option<Event> {
    let (name, data): (_, Value) = match events.recv().await {
        Ok(intake::Event::Revoked(record)) => ("revocation", view::revocation(&record)),
        Ok(intake::Event::Lifted(lift)) => ("lift", view::lift(&lift)),
        Ok(intake::Event::Replaced(link)) => ("replacement", view::replacement(&link)),
        Ok(intake::Event::Undone(link)) => ("replacement_undone", view::replacement(&link)),
        Err(RecvError::Lagged(missed)) => ("lagged", json!({ "missed": missed })),
        Err(RecvError::Closed) => return None,
    };
    Some(Event::default().event(name).data(data.to_string()))
}
