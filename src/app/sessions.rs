//! Open sessions in the store: read back at the start, written when they are opened and now and then
//! while they are used.
//!
//! What is written is a list for people (see [`Registry`](crate::session::Registry)), so nothing waits for it, and a store that does not
//! take it stops nobody: what is missing after a restart is met again when it is used. A request writes
//! nothing. A session that is opened is written at once, one in use once a minute, and all that has changed
//! when the gateway is stopped.

use std::time::Duration;

use crate::intake::{Document, DocumentKind, DocumentWrite, Ledger, Put, StoreError};
use crate::proxy::Shared;
use crate::session::{Registry, Unwritten};
use crate::telemetry::StoreOperation;
use crate::time::Timestamp;

/// How often sessions in use are looked through.
const PASS: Duration = Duration::from_secs(10);
/// Sessions in one transaction: others wait for it.
const BATCH: usize = 250;

/// Takes in the sessions that the store has. Blocks.
///
/// # Errors
///
/// When the store cannot be read.
pub(super) fn restore(registry: &Registry, ledger: &Ledger, now: Timestamp) -> Result<(), StoreError> {
    let mut unread = 0_u64;
    ledger.documents(DocumentKind::Session, &mut |document| {
        if document.is_live(now)
            && let Err(error) = registry.restore(&document.key, &document.body, document.revision, now)
        {
            unread += 1;
            tracing::debug!(%error, "failed to read a session");
        }
    })?;
    if unread > 0 {
        tracing::error!(unread, "sessions in the store could not be read: they are not listed until they are used");
    }
    tracing::info!(sessions = registry.len(), "open sessions were read");
    Ok(())
}

/// Writes sessions for as long as the gateway runs.
pub(super) async fn keep(shared: &Shared) {
    let mut works = true;
    let mut pass = tokio::time::interval(PASS);
    pass.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let unwritten = tokio::select! {
            fresh = shared.registry.fresh(&shared.clock) => fresh,
            _ = pass.tick() => shared.registry.unwritten(false, shared.clock.now()),
        };
        works = write(shared, unwritten, works).await;
    }
}

/// Writes everything that the store has not: before it is closed.
pub(super) async fn write_all(shared: &Shared) {
    let unwritten = shared.registry.unwritten(true, shared.clock.now());
    write(shared, unwritten, true).await;
}

/// Writes what it can; whether the store took it all. It is said once when it begins to fail: `worked`.
async fn write(shared: &Shared, mut unwritten: Vec<Unwritten>, worked: bool) -> bool {
    while !unwritten.is_empty() {
        let batch = unwritten.split_off(unwritten.len().saturating_sub(BATCH));
        if let Err(error) = put(&shared.ledger, batch).await {
            shared.metrics.store_failed(StoreOperation::Append);
            if worked {
                tracing::error!(%error, "failed to write open sessions: a restart will not list them");
            }
            return false;
        }
    }
    true
}

async fn put(ledger: &Ledger, mut batch: Vec<Unwritten>) -> Result<(), StoreError> {
    // What is written twice in one go is refused; the second has its turn in the next pass.
    batch.sort_unstable_by(|one, other| one.session().cmp(other.session()));
    batch.dedup_by(|one, other| one.session() == other.session());
    while !batch.is_empty() {
        match ledger.put(batch.iter().map(document).collect()).await? {
            Put::Written => {
                batch.drain(..).for_each(Unwritten::is_written);
            }
            Put::Conflict(there) => {
                // One that is newer in the store is left for the next pass, the others are not held up by it.
                let place = there.as_ref().and_then(|it| batch.iter().position(|one| one.session() == it.key));
                let (Some(place), Some(there)) = (place, there) else { return Ok(()) };
                batch.swap_remove(place).is_behind(there.revision);
            }
        }
    }
    Ok(())
}

fn document(unwritten: &Unwritten) -> DocumentWrite {
    let document = Document {
        kind: DocumentKind::Session,
        key: unwritten.session().to_owned(),
        revision: unwritten.revision,
        body: unwritten.body.clone(),
        forget_at: Some(unwritten.forget_at()),
    };
    DocumentWrite { document, expects: None }
}
