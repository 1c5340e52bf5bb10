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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::revocation::{Horizons, RevocationMap};
    use crate::store::MemoryStore;
    use crate::time::Clock;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn ledger() -> Ledger {
        let map = Arc::new(RevocationMap::new(10));
        Ledger::open(Arc::new(MemoryStore::new()), map, Horizons::default(), Clock::manual(NOW)).unwrap()
    }

    fn body(subject: &str) -> String {
        let expires = NOW.plus(Duration::from_secs(3600));
        json!({ "sub": subject, "key": "k", "lineage": { "orig_iat": NOW.secs() }, "opened": NOW, "seen": NOW,
            "expires": expires })
        .to_string()
    }

    /// A registry with sessions that nobody has written.
    fn filled(sessions: &[(&str, &str)]) -> Registry {
        let registry = Registry::new(10_000);
        for (session, subject) in sessions {
            registry.restore(session, &body(subject), 0, NOW).unwrap();
        }
        registry
    }

    fn stored(ledger: &Ledger) -> Vec<String> {
        let mut keys = Vec::new();
        ledger.documents(DocumentKind::Session, &mut |document| keys.push(document.key)).unwrap();
        keys
    }

    #[tokio::test]
    async fn what_is_written_is_read_back() {
        let ledger = ledger();
        let names: Vec<_> = (0..600).map(|number| format!("s{number:03}")).collect();
        let sessions: Vec<_> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
        let registry = filled(&sessions);
        put(&ledger, registry.unwritten(true, NOW)).await.unwrap();
        assert!(registry.unwritten(true, NOW).is_empty());
        assert_eq!(stored(&ledger), names);
        let next = Registry::new(10_000);
        restore(&next, &ledger, NOW).unwrap();
        assert_eq!(next.len(), 600);
        let later = Registry::new(10_000);
        restore(&later, &ledger, NOW.plus(Duration::from_secs(3600))).unwrap();
        assert!(later.is_empty(), "they are over");
    }

    #[tokio::test]
    async fn a_newer_one_in_the_store_holds_up_no_other() {
        let ledger = ledger();
        let newer = u64::try_from(NOW.millis()).unwrap() + 5000;
        let document = Document {
            kind: DocumentKind::Session,
            key: "b".to_owned(),
            revision: newer,
            body: body("bob"),
            forget_at: None,
        };
        ledger.put(vec![DocumentWrite { document, expects: None }]).await.unwrap();
        let registry = filled(&[("a", "ann"), ("b", "bob"), ("c", "cat")]);
        registry.find("bob", "b").unwrap().prolong(NOW.plus(Duration::from_secs(7200)));
        put(&ledger, registry.unwritten(true, NOW)).await.unwrap();
        assert_eq!(stored(&ledger), ["a", "b", "c"]);
        let left = registry.unwritten(true, NOW);
        assert_eq!((left.len(), left[0].session(), left[0].revision), (1, "b", newer + 1), "it has its turn");
        put(&ledger, left).await.unwrap();
        assert!(registry.unwritten(true, NOW).is_empty());
    }

    /// An issuer that gives two users' tokens one name gives them two sessions of one `sid`.
    #[tokio::test]
    async fn two_of_one_name_are_not_refused_together() {
        let ledger = ledger();
        let registry = filled(&[("a", "ann"), ("a", "eve"), ("b", "bob")]);
        assert_eq!(registry.len(), 3);
        for left in [3, 1] {
            let unwritten = registry.unwritten(true, NOW);
            assert_eq!(unwritten.len(), left);
            put(&ledger, unwritten).await.unwrap();
        }
        assert_eq!(stored(&ledger), ["a", "b"]);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_left_out() {
        let ledger = ledger();
        let write = |key: &str, body: String| DocumentWrite {
            document: Document { kind: DocumentKind::Session, key: key.to_owned(), revision: 1, body, forget_at: None },
            expects: None,
        };
        ledger.put(vec![write("good", body("ann")), write("bad", "{}".to_owned())]).await.unwrap();
        let registry = Registry::new(10);
        restore(&registry, &ledger, NOW).unwrap();
        assert!(registry.len() == 1 && registry.find("ann", "good").is_some());
    }
}
