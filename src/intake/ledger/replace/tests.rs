use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::admin::tests::FailingStore;
use crate::intake::Ledger;
use crate::revocation::{InvalidReplacement, InvalidUndo, IssuerHorizon, RevocationMap, Standing};
use crate::store::{AcceptLoss, MemoryStore, SqliteStore, Store};
use crate::time::Clock;

const ISSUER: &str = "https://a.example/";
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

struct Desk {
    ledger: Ledger,
    map: Arc<RevocationMap>,
    clock: Clock,
}

fn start() -> Timestamp {
    Timestamp::from_secs(1_800_000_000)
}

impl Desk {
    fn new(store: Arc<dyn Store>, clock: &Clock) -> Self {
        Self::with_room(store, clock, 1_000)
    }

    fn with_room(store: Arc<dyn Store>, clock: &Clock, max_entries: usize) -> Self {
        let issuer = IssuerHorizon {
            name: "a".to_owned(),
            url: ISSUER.to_owned(),
            max_lifetime: HOUR,
            skew: Duration::ZERO,
            exchangeable: false,
            cutoff_margin: Duration::ZERO,
            max_authentication_age: Some(HOUR),
        };
        let horizons = Horizons { issuers: vec![issuer], session_absolute: None };
        let map = Arc::new(RevocationMap::new(max_entries));
        let ledger = Ledger::open(store, Arc::clone(&map), horizons, clock.clone()).unwrap();
        Self { ledger, map, clock: clock.clone() }
    }

    fn in_memory() -> Self {
        Self::new(Arc::new(MemoryStore::new()), &Clock::manual(start()))
    }

    async fn replace(&self, old: &str, new: &str) -> Result<Replaced, ReplaceError> {
        self.ledger.replace(request(old, new)).await
    }

    async fn undo(&self, old: &str) -> Result<Undone, UndoError> {
        let (issuer, actor) = ("a".to_owned(), "ops".to_owned());
        self.ledger.undo_replacement(UndoRequest { issuer, old: old.to_owned(), reason: None, actor, note: None }).await
    }

    fn is_good(&self, subject: &str, issued: Timestamp) -> bool {
        let target = self.map.reference(TargetKind::Subject, ISSUER, subject);
        self.map.standing(&[target], issued, Some(issued)) == Standing::Good
    }

    fn account(&self, subject: &str) -> Option<String> {
        self.map.replacements().account(ISSUER, subject).map(|id| id.to_string())
    }
}

fn request(old: &str, new: &str) -> ReplaceRequest {
    ReplaceRequest {
        issuer: "a".to_owned(),
        old: old.to_owned(),
        new: new.to_owned(),
        reason: Reason::CredentialCompromised,
        actor: "ops".to_owned(),
        note: Some("stolen laptop".to_owned()),
        id: None,
    }
}

fn with_id(request: ReplaceRequest, id: &str) -> ReplaceRequest {
    ReplaceRequest { id: Some(id.parse().unwrap()), ..request }
}

#[tokio::test]
async fn a_replaced_subject_is_refused_and_the_new_one_begins_anew() {
    let desk = Desk::in_memory();
    let mut events = desk.ledger.watch();
    let replaced = desk.replace("bob-1", "bob-2").await.unwrap();
    assert_eq!((replaced.account.as_str(), replaced.existing), ("bob-1", false));
    let cutoff = replaced.cutoff.unwrap();
    assert_eq!(cutoff.form, Form::Before { issued: Some(start()), authenticated: Some(start()) });
    assert_eq!(cutoff.target, Target::new(TargetKind::Subject, ISSUER, "bob-2"));
    assert!(!desk.is_good("bob-1", start().plus(HOUR)), "blocked");
    assert!(!desk.is_good("bob-2", start()), "what was issued before inherits nothing");
    assert!(desk.is_good("bob-2", start().plus(SECOND)));
    assert!(matches!(events.recv().await.unwrap(), Event::Revoked(record) if record.id == cutoff.id));
    assert_eq!(events.recv().await.unwrap(), Event::Replaced(replaced.replacement));
    assert_eq!(desk.ledger.of_targets(&[cutoff.target]).await.unwrap().len(), 1, "an ordinary cutoff");
    let old = Target::new(TargetKind::Subject, ISSUER, "bob-1");
    assert_eq!(desk.ledger.of_targets(&[old]).await.unwrap(), [], "the block is the replacement's own");
}

#[tokio::test]
async fn whatever_the_reason_the_new_id_is_cut_and_not_blocked() {
    for reason in Reason::ALL {
        let desk = Desk::in_memory();
        desk.ledger.replace(ReplaceRequest { reason, ..request("bob-1", "bob-2") }).await.unwrap();
        assert!(desk.is_good("bob-2", start().plus(SECOND)), "{reason}");
        assert!(!desk.is_good("bob-2", start()) && !desk.is_good("bob-1", start().plus(SECOND)), "{reason}");
    }
}

#[tokio::test]
async fn asked_again_it_changes_nothing() {
    let desk = Desk::in_memory();
    let first = desk.ledger.replace(with_id(request("a", "b"), "key-1")).await.unwrap();
    assert_eq!(first.replacement.id.as_str(), "key-1");
    desk.clock.advance(HOUR);
    for again in [with_id(request("a", "b"), "key-1"), request("a", "b"), with_id(request("a", "b"), "key-2")] {
        let again = desk.ledger.replace(again).await.unwrap();
        assert!(again.existing && again.cutoff.is_none() && again.replacement == first.replacement);
    }
    assert!(desk.is_good("b", start().plus(SECOND)), "the cutoff did not move");
    let error = desk.replace("a", "c").await.unwrap_err();
    assert!(matches!(error, ReplaceError::Chain(InvalidReplacement::AlreadyReplaced)));
    for other in [request("c", "d"), request("a", "d")] {
        let error = desk.ledger.replace(with_id(other, "key-1")).await.unwrap_err();
        assert!(matches!(error, ReplaceError::Conflict), "{error:?}");
    }
    let target = Target::new(TargetKind::Subject, "a", "x");
    let revoked = desk.ledger.revoke(Request::new(target, Reason::Admin, "ops", SOURCE)).await.unwrap();
    let error = desk.ledger.replace(with_id(request("c", "d"), revoked.id.as_str())).await.unwrap_err();
    assert!(matches!(error, ReplaceError::Conflict), "{error:?}");
    assert!(desk.is_good("d", start()) && desk.is_good("c", start()), "a conflict does nothing");
}

#[tokio::test]
async fn undoing_brings_the_old_id_back_without_what_it_had() {
    let desk = Desk::in_memory();
    desk.ledger.replace(with_id(request("a", "b"), "key-1")).await.unwrap();
    desk.clock.advance(60 * SECOND);
    let undone = desk.undo("a").await.unwrap();
    let at = start().plus(60 * SECOND);
    assert_eq!((undone.at, undone.cutoffs.len(), undone.existing), (at, 2, false));
    for id in ["a", "b"] {
        assert!(!desk.is_good(id, at) && desk.is_good(id, at.plus(SECOND)), "{id}");
        assert_eq!(desk.account(id), None);
    }
    desk.clock.advance(60 * SECOND);
    let again = desk.undo("a").await.unwrap();
    assert!(again.existing && again.cutoffs.is_empty() && again.at == at);
    assert!(desk.is_good("a", at.plus(SECOND)), "the cutoff did not move");
    let repeated = desk.ledger.replace(with_id(request("a", "b"), "key-1")).await.unwrap_err();
    assert!(matches!(repeated, ReplaceError::Conflict), "a call that is repeated late undoes no undoing");
    assert!(matches!(desk.undo("b").await, Err(UndoError::Chain(InvalidUndo::NotReplaced))));
    desk.replace("a", "c").await.unwrap();
    desk.replace("c", "d").await.unwrap();
    assert!(matches!(desk.undo("a").await, Err(UndoError::Chain(InvalidUndo::NotTheLast))));
    assert_eq!(desk.account("d").as_deref(), Some("a"));
}

#[tokio::test]
async fn chains_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(start());
    let open = || Desk::new(Arc::new(SqliteStore::open(folder.path(), AcceptLoss::No).unwrap()), &clock);
    {
        let desk = open();
        let replaced = desk.replace("a", "b").await.unwrap();
        assert!(replaced.durable && replaced.cutoff.unwrap().durable);
        desk.replace("b", "c").await.unwrap();
        desk.replace("x", "y").await.unwrap();
        assert!(desk.undo("x").await.unwrap().durable);
    }
    {
        let desk = open();
        assert_eq!(desk.account("c").as_deref(), Some("a"));
        assert!(!desk.is_good("a", start().plus(SECOND)) && !desk.is_good("b", start().plus(SECOND)));
        assert!(!desk.is_good("c", start()) && desk.is_good("c", start().plus(SECOND)));
        assert!(desk.is_good("x", start().plus(SECOND)) && !desk.is_good("x", start()));
        assert_eq!(desk.account("y"), None);
        assert!(desk.replace("a", "b").await.unwrap().existing);
        assert!(desk.undo("x").await.unwrap().existing);
        // What was undone is forgotten in the end, and what is in force is not.
        clock.advance(100 * HOUR);
        assert!(desk.ledger.sweep().unwrap().records > 0);
    }
    let desk = open();
    assert_eq!(desk.account("c").as_deref(), Some("a"));
    assert!(!desk.is_good("a", clock.now()));
    assert!(matches!(desk.undo("x").await, Err(UndoError::Chain(InvalidUndo::NotReplaced))));
}

#[tokio::test]
async fn without_a_disk_it_is_in_force_and_said_to_be_no_more() {
    let store = Arc::new(FailingStore::default());
    let clock = Clock::manual(start());
    let desk = Desk::new(Arc::<FailingStore>::clone(&store), &clock);
    desk.replace("a", "b").await.unwrap();
    store.failing.store(true, Ordering::Relaxed);
    let error = desk.replace("x", "y").await.unwrap_err();
    let ReplaceError::NotDurable { replaced, source: Some(_) } = error else { panic!("{error:?}") };
    assert!(!replaced.durable);
    assert!(!desk.is_good("x", start().plus(SECOND)) && !desk.is_good("y", start()));
    let error = desk.undo("a").await.unwrap_err();
    assert!(matches!(error, UndoError::Store(Some(_))), "{error:?}");
    assert!(!desk.is_good("a", start().plus(SECOND)), "what is not durable loosens nothing");
    assert_eq!(desk.account("b").as_deref(), Some("a"));
    store.failing.store(false, Ordering::Relaxed);
    // Asked again it is made good for, with the cutoff of that moment.
    clock.advance(60 * SECOND);
    let again = desk.replace("x", "y").await.unwrap();
    assert!(!again.existing && again.replacement == replaced.replacement);
    assert!(!desk.is_good("y", start().plus(60 * SECOND)) && desk.is_good("y", start().plus(61 * SECOND)));
    let restarted = Desk::new(store, &clock);
    assert_eq!(restarted.account("y").as_deref(), Some("x"));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anything_is_done() {
    let desk = Desk::in_memory();
    let long = "x".repeat(1025);
    for request in [
        ReplaceRequest { issuer: "nobody".to_owned(), ..request("a", "b") },
        request("", "b"),
        request("a", ""),
        request(&long, "b"),
        request("a", &long),
        ReplaceRequest { note: Some("x".repeat(5_000)), ..request("a", "b") },
        ReplaceRequest { actor: "x".repeat(5_000), ..request("a", "b") },
    ] {
        assert!(matches!(desk.ledger.replace(request).await, Err(ReplaceError::Invalid(_))));
    }
    assert!(matches!(desk.replace("a", "a").await, Err(ReplaceError::Chain(InvalidReplacement::Cycle))));
    assert!(desk.map.is_empty() && desk.map.replacements().is_empty());
    desk.replace(&long[1..], "b").await.unwrap();
}

#[tokio::test]
async fn without_room_for_the_cutoff_nothing_is_replaced() {
    let desk = Desk::with_room(Arc::new(MemoryStore::new()), &Clock::manual(start()), 0);
    let error = desk.replace("a", "b").await.unwrap_err();
    assert!(matches!(error, ReplaceError::Cutoff(RevokeError::Full(_))), "{error:?}");
    assert!(desk.map.replacements().is_empty());
}

/// The length of the issuer is part of the name.
#[test]
fn two_subjects_have_two_keys() {
    assert_ne!(key("ab", "c"), key("a", "bc"));
    assert_eq!(key("ab", "c").len(), 43);
}
