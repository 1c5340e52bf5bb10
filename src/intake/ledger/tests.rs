use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use rusqlite::Connection;

use super::*;
use crate::revocation::{IssuerHorizon, Reason, Source, Standing, TargetKind};
use crate::store::{AcceptLoss, MemoryStore, SqliteStore};

const ISSUER: &str = "https://a.example/";
const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

fn horizons(max_lifetime: Duration) -> Horizons {
    Horizons {
        issuers: vec![IssuerHorizon {
            name: "a".to_owned(),
            url: ISSUER.to_owned(),
            max_lifetime,
            skew: Duration::ZERO,
            exchangeable: false,
            cutoff_margin: Duration::ZERO,
            max_authentication_age: None,
        }],
        session_absolute: None,
    }
}

fn start() -> Timestamp {
    Timestamp::from_secs(1_800_000_000)
}

/// A ledger with everything around it.
struct Desk {
    ledger: Ledger,
    map: Arc<RevocationMap>,
    store: Arc<dyn Store>,
    clock: Clock,
}

impl Desk {
    fn new(store: Arc<dyn Store>, max_entries: usize) -> Self {
        Self::at(store, max_entries, HOUR, Clock::manual(start())).unwrap()
    }

    fn at(
        store: Arc<dyn Store>,
        max_entries: usize,
        max_lifetime: Duration,
        clock: Clock,
    ) -> Result<Self, LedgerError> {
        let map = Arc::new(RevocationMap::new(max_entries));
        let ledger = Ledger::open(Arc::clone(&store), Arc::clone(&map), horizons(max_lifetime), clock.clone())?;
        Ok(Self { ledger, map, store, clock })
    }

    fn in_memory() -> Self {
        Self::new(Arc::new(MemoryStore::new()), 1_000)
    }

    fn standing(&self, target: &Target, issued: Timestamp) -> Standing {
        self.map.standing(&[self.map.reference(target.kind, ISSUER, &target.value)], issued, None)
    }

    fn is_good(&self, target: &Target, issued: Timestamp) -> bool {
        self.standing(target, issued) == Standing::Good
    }

    async fn lift(&self, id: &RecordId, restore: bool) -> Result<Lifted, LiftError> {
        self.ledger.lift(id.clone(), restore, "ops".to_owned(), None).await
    }
}

fn subject(value: &str) -> Target {
    Target::new(TargetKind::Subject, "a", value)
}

fn token(value: &str) -> Target {
    Target::new(TargetKind::Token, "a", value)
}

fn request(target: Target, reason: Reason) -> Request {
    Request::new(target, reason, "ops", Source::Admin)
}

fn with_id(mut request: Request, id: &str) -> Request {
    request.id = Some(id.parse().unwrap());
    request
}

fn sqlite(folder: &tempfile::TempDir) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(folder.path(), AcceptLoss::No).unwrap())
}

#[tokio::test]
async fn an_accepted_revocation_is_in_force_and_says_what_was_understood() {
    let desk = Desk::in_memory();
    let mut events = desk.ledger.watch();
    assert!(desk.is_good(&subject("42"), start()));
    let accepted = desk.ledger.revoke(request(subject("42"), Reason::Logout)).await.unwrap();
    assert_eq!(accepted.target.issuer, ISSUER);
    assert_eq!(accepted.form, Form::Before { issued: Some(start()), authenticated: None });
    assert_eq!(accepted.effective_until, Some(start().plus(HOUR)));
    assert!(!accepted.durable && !accepted.existing, "memory forgets");
    assert_eq!(desk.standing(&subject("42"), start()), Standing::Revoked(TargetKind::Subject));
    assert!(desk.is_good(&subject("42"), start().plus(SECOND)));
    let kept = desk.ledger.find(accepted.id.clone()).await.unwrap().unwrap();
    assert_eq!(events.recv().await.unwrap(), Event::Revoked(Arc::new(kept.revocation.clone())));
    assert_eq!(
        desk.ledger.of_targets(std::slice::from_ref(&accepted.target)).await.unwrap(),
        std::slice::from_ref(&kept.revocation)
    );
    let filter = Filter { issuer: Some("a".to_owned()), ..Filter::default() };
    assert_eq!(desk.ledger.list(filter, None, 10).await.unwrap().items, [kept]);
}

#[tokio::test]
async fn a_request_with_the_same_id_is_carried_out_once() {
    let desk = Desk::in_memory();
    let once = with_id(request(subject("42"), Reason::Logout), "key-1");
    let first = desk.ledger.revoke(once.clone()).await.unwrap();
    desk.clock.advance(60 * SECOND);
    let again = desk.ledger.revoke(once.clone()).await.unwrap();
    assert_eq!(again, Accepted { existing: true, ..first.clone() });
    assert!(desk.is_good(&subject("42"), start().plus(SECOND)), "the cutoff did not move");
    let edits: [fn(&mut Request); 5] = [
        |it| it.target = subject("43"),
        |it| it.reason = Reason::Admin,
        |it| it.note = Some("x".to_owned()),
        |it| it.block = Some(true),
        |it| it.expires_at = Some(Timestamp::MAX),
    ];
    for edit in edits {
        let mut other = once.clone();
        edit(&mut other);
        assert!(matches!(desk.ledger.revoke(other).await, Err(RevokeError::Conflict)));
    }
    assert!(desk.is_good(&subject("43"), start()), "a conflict does nothing");
    assert_eq!(desk.store.status().records, 2, "the revocation, and the limits");
}

#[tokio::test]
async fn a_tombstone_never_undoes_another_revocation_under_its_id() {
    let desk = Desk::in_memory();
    let mut old = with_id(request(subject("42"), Reason::Logout), "key-1");
    old.issued_before = Some(start().minus(1_800 * SECOND));
    let accepted = desk.ledger.revoke(old).await.unwrap();
    desk.lift(&accepted.id, false).await.unwrap();
    desk.clock.advance(1_801 * SECOND);
    assert_eq!(desk.ledger.sweep().unwrap().records, 1, "the tombstone is kept for longer");
    let new = with_id(request(subject("42"), Reason::AccountBlocked), "key-1");
    assert!(matches!(desk.ledger.revoke(new).await, Err(RevokeError::Conflict)));
}

#[tokio::test]
async fn the_same_id_at_the_same_time_is_carried_out_once() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::new(sqlite(&folder), 1_000);
    let same = vec![with_id(request(subject("42"), Reason::Logout), "key-1"); 20];
    let results = desk.ledger.revoke_all(same).await;
    let existing = results.into_iter().map(|it| it.unwrap().existing).filter(|existing| *existing).count();
    assert_eq!(existing, 19);
    assert_eq!(desk.store.status().sequence, 1);
}

#[tokio::test]
async fn a_lifted_block_leaves_a_cutoff_unless_restored() {
    for restore in [false, true] {
        let desk = Desk::in_memory();
        let block = desk.ledger.revoke(request(subject("42"), Reason::AccountSuspended)).await.unwrap();
        assert_eq!(block.effective_until, None);
        desk.clock.advance(60 * SECOND);
        let now = desk.clock.now();
        assert!(!desk.is_good(&subject("42"), now.plus(SECOND)));
        let mut events = desk.ledger.watch();
        let lifted = desk.lift(&block.id, restore).await.unwrap();
        assert_eq!(lifted.lift.leaves, (!restore).then_some(now));
        assert_eq!(events.recv().await.unwrap(), Event::Lifted(Arc::new(lifted.lift.clone())));
        assert!(desk.is_good(&subject("42"), now.plus(SECOND)));
        assert_eq!(desk.is_good(&subject("42"), now), restore);
        desk.clock.advance(60 * SECOND);
        let again = desk.lift(&block.id, !restore).await.unwrap();
        assert_eq!(again, Lifted { existing: true, ..lifted.clone() });
        assert!(desk.is_good(&subject("42"), now.plus(SECOND)));
        assert!(matches!(desk.lift(&lifted.lift.id, false).await, Err(LiftError::LiftOfLift)));
        assert!(matches!(desk.lift(&"nobody".parse().unwrap(), false).await, Err(LiftError::Unknown)));
    }
}

#[tokio::test]
async fn a_lift_loosens_only_what_it_names() {
    let desk = Desk::in_memory();
    let mut earlier = request(subject("42"), Reason::Logout);
    earlier.issued_before = Some(start().minus(60 * SECOND));
    desk.ledger.revoke(earlier).await.unwrap();
    let cut = desk.ledger.revoke(request(subject("42"), Reason::Logout)).await.unwrap();
    desk.lift(&cut.id, false).await.unwrap();
    assert!(desk.is_good(&subject("42"), start()), "a lifted cutoff leaves nothing");
    assert!(!desk.is_good(&subject("42"), start().minus(60 * SECOND)), "the earlier one stays");
    let two = [Reason::AccountBlocked, Reason::AccountDeleted];
    let mut blocks = Vec::new();
    for reason in two {
        blocks.push(desk.ledger.revoke(request(subject("43"), reason)).await.unwrap());
    }
    desk.lift(&blocks[0].id, true).await.unwrap();
    assert!(!desk.is_good(&subject("43"), Timestamp::MAX));
    desk.lift(&blocks[1].id, true).await.unwrap();
    assert!(desk.is_good(&subject("43"), Timestamp::MIN));
    assert!(desk.map.in_force(desk.map.reference(TargetKind::Subject, ISSUER, "43")).is_none());
}

#[tokio::test]
async fn everything_is_in_force_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(start());
    let lifted = {
        let desk = Desk::at(sqlite(&folder), 1_000, HOUR, clock.clone()).unwrap();
        let requests = (0..50).map(|n| request(token(&n.to_string()), Reason::Logout)).collect();
        assert!(desk.ledger.revoke_all(requests).await.into_iter().all(|it| it.is_ok()));
        let block = desk.ledger.revoke(request(subject("42"), Reason::AccountBlocked)).await.unwrap();
        desk.lift(&block.id, false).await.unwrap();
        block.id
    };
    let desk = Desk::at(sqlite(&folder), 1_000, HOUR, clock).unwrap();
    for n in 0..50 {
        assert!(!desk.is_good(&token(&n.to_string()), start()));
    }
    assert!(!desk.is_good(&subject("42"), start()) && desk.is_good(&subject("42"), start().plus(SECOND)));
    assert!(desk.lift(&lifted, true).await.unwrap().existing);
    // The block had no end, so neither has its tombstone; the cutoff that it left has.
    desk.clock.advance(HOUR + SECOND);
    let sweeping = desk.ledger.clone();
    let swept = tokio::task::spawn_blocking(move || sweeping.sweep()).await.unwrap().unwrap();
    assert_eq!(swept, Swept { targets: 51, records: 50 });
    assert!(desk.ledger.revoke(request(token("x"), Reason::Logout)).await.unwrap().durable);
}

#[tokio::test]
async fn what_cannot_be_stored_is_in_force_and_said_to_be_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::new(sqlite(&folder), 1_000);
    let kept = desk.ledger.revoke(request(subject("1"), Reason::AccountBlocked)).await.unwrap();
    let other = Connection::open(folder.path().join("revocations.db")).unwrap();
    other
        .execute_batch("CREATE TRIGGER full BEFORE INSERT ON revocations BEGIN SELECT RAISE(ABORT, 'no space'); END")
        .unwrap();
    for value in ["2", "3"] {
        match desk.ledger.revoke(request(subject(value), Reason::Logout)).await {
            Err(RevokeError::NotDurable { accepted, .. }) => assert!(!accepted.durable),
            other => panic!("{other:?}"),
        }
        assert!(!desk.is_good(&subject(value), start()));
    }
    assert!(!desk.ledger.status().is_ready());
    assert!(matches!(desk.lift(&kept.id, true).await, Err(LiftError::Store(StoreError::NotDurable(_)))));
    assert!(!desk.is_good(&subject("1"), Timestamp::MAX), "a lift that is not stored loosens nothing");
}

#[tokio::test]
async fn a_full_map_refuses_and_stores_nothing() {
    let desk = Desk::new(Arc::new(MemoryStore::new()), 2);
    let requests = (0..4).map(|n| request(token(&n.to_string()), Reason::Logout)).collect();
    let results = desk.ledger.revoke_all(requests).await;
    let full = results.iter().filter(|it| matches!(it, Err(RevokeError::Full(Full { max_entries: 2 }))));
    assert_eq!((full.count(), desk.store.status().sequence), (2, 2));
    let store = Arc::clone(&desk.store);
    let smaller = Desk::at(store, 1, HOUR, Clock::manual(start())).map(|_| ());
    assert!(matches!(smaller, Err(LedgerError::Full(_))), "nothing starts with less than what is stored");
}

#[tokio::test]
async fn a_raised_limit_brings_nothing_back() {
    let desk = Desk::in_memory();
    let old_cut = start();
    desk.ledger.revoke(request(subject("old"), Reason::Logout)).await.unwrap();
    desk.clock.advance(HOUR + SECOND);
    desk.ledger.sweep().unwrap();
    let late_cut = desk.clock.now();
    desk.ledger.revoke(request(subject("late"), Reason::Logout)).await.unwrap();
    assert!(desk.is_good(&subject("old"), old_cut), "forgotten: its tokens have expired");
    desk.ledger.set_horizons(horizons(3 * HOUR)).await.unwrap();
    let issuer = Target::new(TargetKind::Issuer, ISSUER, "");
    assert!(!desk.is_good(&issuer, old_cut), "a token of three hours issued then is cut with its issuer");
    assert!(desk.is_good(&issuer, desk.clock.now().minus(HOUR).plus(SECOND)), "and nothing that was alive");
    // The later one was to be remembered for an hour, but its tokens can live for three now.
    desk.clock.advance(2 * HOUR);
    desk.ledger.sweep().unwrap();
    assert!(!desk.is_good(&subject("late"), late_cut));
    desk.clock.advance(HOUR + SECOND);
    desk.ledger.sweep().unwrap();
    assert!(desk.is_good(&subject("late"), late_cut));
    let raised =
        desk.ledger.list(Filter { kind: Some(TargetKind::Issuer), ..Filter::default() }, None, 9).await.unwrap();
    assert!(raised.items.iter().all(|kept| kept.revocation.source == Source::Gateway));
}

#[tokio::test]
async fn a_limit_that_was_raised_between_two_runs_counts_as_raised() {
    let folder = tempfile::tempdir().unwrap();
    drop(Desk::at(sqlite(&folder), 10, HOUR, Clock::manual(start())).unwrap());
    let desk = Desk::at(sqlite(&folder), 10, 2 * HOUR, Clock::manual(start())).unwrap();
    let issuer = Target::new(TargetKind::Issuer, ISSUER, "");
    assert!(!desk.is_good(&issuer, start().minus(HOUR)));
    assert!(desk.is_good(&issuer, start().minus(HOUR).plus(SECOND)));
    drop(desk);
    let desk = Desk::at(sqlite(&folder), 10, 2 * HOUR, Clock::manual(start().plus(HOUR))).unwrap();
    assert!(desk.is_good(&issuer, start()), "and only once");
}

#[tokio::test]
async fn a_lift_never_opens_a_gap_for_what_comes_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::new(sqlite(&folder), 1_000);
    for round in 0..20 {
        let target = subject(&format!("user-{round}"));
        let first = desk.ledger.revoke(request(target.clone(), Reason::AccountBlocked)).await.unwrap();
        let reference = desk.map.reference(TargetKind::Subject, ISSUER, &target.value);
        // From the answer to the second on, whatever becomes of the lift.
        let (answered, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let watcher = {
            let (map, answered, done) = (Arc::clone(&desk.map), Arc::clone(&answered), Arc::clone(&done));
            std::thread::spawn(move || {
                while !done.load(Ordering::Acquire) {
                    if answered.load(Ordering::Acquire) {
                        assert_ne!(map.standing(&[reference], Timestamp::MAX, None), Standing::Good);
                    }
                }
            })
        };
        let second = async {
            let second = desk.ledger.revoke(request(target.clone(), Reason::AccountDeleted)).await;
            answered.store(true, Ordering::Release);
            second
        };
        let (lifted, second) = tokio::join!(desk.lift(&first.id, true), second);
        done.store(true, Ordering::Release);
        watcher.join().unwrap();
        assert!(lifted.is_ok() && second.is_ok());
        assert!(!desk.is_good(&target, Timestamp::MAX));
    }
}

#[test]
fn a_wall_clock_that_jumps_ahead_makes_nothing_be_forgotten() {
    assert_eq!(steady(start().plus(24 * HOUR), start(), 60 * SECOND), start().plus(60 * SECOND));
    assert_eq!(steady(start().minus(24 * HOUR), start(), 60 * SECOND), start().minus(24 * HOUR));
    let desk = Desk::at(Arc::new(MemoryStore::new()), 10, HOUR, Clock::System).unwrap();
    let (opened, since) = desk.ledger.inner.opened;
    assert!(desk.ledger.inner.forget_before() <= opened.plus(since.elapsed()));
}

#[derive(Clone, Debug)]
enum Step {
    Revoke { target: usize, block: bool, back: u64, id: Option<u8> },
    Lift { which: usize, restore: bool },
    Wait { secs: u64 },
    Sweep,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..4_usize, any::<bool>(), 0..4_000_u64, prop::option::of(0..6_u8))
            .prop_map(|(target, block, back, id)| Step::Revoke { target, block, back, id }),
        3 => (0..20_usize, any::<bool>()).prop_map(|(which, restore)| Step::Lift { which, restore }),
        2 => (0..1_500_u64).prop_map(|secs| Step::Wait { secs }),
        1 => Just(Step::Sweep),
        1 => Just(Step::Restart),
    ]
}

/// One record of the model: what it refuses, as long as it is not lifted.
struct Modelled {
    target: usize,
    form: Form,
    lifted: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is asked for, in whatever order, across restarts: every token that can be alive stands
    /// as a list of all that was accepted, and not lifted, says.
    #[test]
    fn the_map_is_what_the_records_say(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let clock = Clock::manual(start());
        let mut desk = Desk::at(Arc::clone(&store), 1_000, HOUR, clock.clone()).unwrap();
        let targets = [subject("1"), subject("2"), token("1"), Target::new(TargetKind::Client, "a", "1")];
        let mut model: Vec<Modelled> = Vec::new();
        let mut ids: Vec<(RecordId, usize)> = Vec::new();
        let mut used: HashMap<u8, usize> = HashMap::new();
        let mut tombs: HashSet<u8> = HashSet::new();
        for step in steps {
            let now = clock.now();
            match step {
                Step::Revoke { target, block, back, id } => {
                    let mut request = request(targets[target].clone(), Reason::Admin);
                    let single = request.target.kind.takes_blocks_only();
                    if !single {
                        request.block = Some(block);
                        request.issued_before = (!block).then(|| now.minus(Duration::from_secs(back)));
                    }
                    request.id = id.map(|id| format!("key-{id}").parse().unwrap());
                    match runtime.block_on(desk.ledger.revoke(request)) {
                        Ok(accepted) if accepted.existing => {
                            let known = &model[used[&id.unwrap()]];
                            prop_assert_eq!((known.target, known.form), (target, accepted.form));
                        }
                        Ok(accepted) => {
                            if let Some(id) = id { used.insert(id, model.len()); }
                            ids.push((accepted.id, model.len()));
                            model.push(Modelled { target, form: accepted.form, lifted: false });
                        }
                        Err(RevokeError::Conflict) => {
                            let id = id.unwrap();
                            prop_assert!(used.contains_key(&id) || tombs.contains(&id));
                        }
                        Err(error) => prop_assert!(false, "{}", error),
                    }
                }
                Step::Lift { which, restore } if !ids.is_empty() => {
                    let (id, number) = &ids[which % ids.len()];
                    match runtime.block_on(desk.lift(id, restore)) {
                        Ok(lifted) => {
                            prop_assert_eq!(lifted.existing, model[*number].lifted);
                            model[*number].lifted = true;
                            let target = model[*number].target;
                            if let (Some(leaves), false) = (lifted.lift.leaves, lifted.existing) {
                                let form = Form::Before { issued: Some(leaves), authenticated: None };
                                model.push(Modelled { target, form, lifted: false });
                            }
                        }
                        Err(error) => prop_assert!(false, "{}", error),
                    }
                }
                Step::Lift { .. } => {}
                Step::Wait { secs } => clock.advance(Duration::from_secs(secs)),
                Step::Sweep => {
                    desk.ledger.sweep().unwrap();
                    // An id that is forgotten can be used again, for another record.
                    ids.retain(|(id, _)| runtime.block_on(desk.ledger.find(id.clone())).unwrap().is_some());
                    tombs.extend(used.iter().filter(|(_, number)| model[**number].lifted).map(|(id, _)| *id));
                    used.retain(|_, number| ids.iter().any(|(_, it)| it == number));
                }
                Step::Restart => desk = Desk::at(Arc::clone(&store), 1_000, HOUR, clock.clone()).unwrap(),
            }
            let now = clock.now();
            for (number, target) in targets.iter().enumerate() {
                for age in [0, 1, 600, 1_800, 3_600] {
                    let issued = now.minus(Duration::from_secs(age));
                    let refuses = |it: &&Modelled| it.target == number && !it.lifted && match it.form {
                        Form::Block => true,
                        Form::Before { issued: cutoff, .. } => cutoff.is_some_and(|cutoff| issued <= cutoff),
                    };
                    let refused = model.iter().any(|it| refuses(&it));
                    // A block of a token is for tokens there are; one issued an hour later is another.
                    if target.kind == TargetKind::Token && refused { continue }
                    prop_assert_eq!(desk.is_good(target, issued), !refused, "{} at {}", target.value, age);
                }
            }
        }
    }
}

#[tokio::test]
async fn documents_go_through_the_ledger_and_are_swept_with_the_rest() {
    let desk = Desk::in_memory();
    let write = |revision, forget_at| {
        let key = "a".to_owned();
        let document = Document { kind: DocumentKind::Session, key, revision, body: "{}".to_owned(), forget_at };
        vec![DocumentWrite { document, expects: Some(revision - 1) }]
    };
    assert_eq!(desk.ledger.put(write(1, None)).await.unwrap(), Put::Written);
    assert_eq!(desk.ledger.put(write(2, Some(start()))).await.unwrap(), Put::Written);
    let found = desk.ledger.document(DocumentKind::Session, "a").await.unwrap().unwrap();
    assert_eq!((found.revision, found.is_live(start())), (2, false), "over, and there until it is swept");
    let mut all = Vec::new();
    desk.ledger.documents(DocumentKind::Session, &mut |it| all.push(it)).unwrap();
    assert_eq!(all, [found]);
    desk.clock.advance(2 * HOUR);
    assert_eq!(desk.ledger.sweep().unwrap().records, 1);
    assert_eq!(desk.ledger.document(DocumentKind::Session, "a").await.unwrap(), None);
}
