//! Nodes over a broker in memory, in a time that goes by as fast as there is nothing left to do.

mod history;
mod losses;

use std::sync::atomic::{AtomicUsize, Ordering};

use super::model::{Link, Model};
use super::*;
use crate::intake::{DocumentKind, LiftError, ReplaceRequest, Request, UndoRequest};
use crate::revocation::{Form, Horizons, IssuerHorizon, Reason, RecordId, RevocationMap, Source, Target, TargetKind};
use crate::secret::Secret;
use crate::store::{AcceptLoss, Body, MemoryStore, Other, SqliteStore, Store};

pub(super) const ISSUER: &str = "https://a.example/";
const BEAT: Duration = Duration::from_secs(1);
const MAX_STALENESS: Duration = Duration::from_secs(30);

/// A cluster in which time is the test's.
pub(super) struct World {
    pub(super) model: Model,
    pub(super) clock: Clock,
    ages: Arc<Mutex<Vec<Arc<Freshness>>>>,
}

/// A node, as the test sees it.
pub(super) struct TestNode {
    pub(super) name: String,
    pub(super) link: Arc<Link>,
    pub(super) cluster: Cluster,
    pub(super) ledger: Arc<Ledger>,
    pub(super) map: Arc<RevocationMap>,
    pub(super) freshness: Arc<Freshness>,
    pub(super) heard: Arc<Heard>,
}

#[derive(Debug, Default)]
pub(super) struct Heard {
    documents: Mutex<Vec<Document>>,
    credentials: Mutex<Vec<CredentialDrop>>,
    missed: AtomicUsize,
    proofs: Mutex<Vec<UsedProof>>,
    forged: AtomicUsize,
    pub(super) resyncs: Mutex<Vec<Cause>>,
    propagated: AtomicUsize,
}

impl Audience for Heard {
    fn document(&self, document: &Document) {
        self.documents.lock().unwrap().push(document.clone());
    }

    fn credential(&self, changed: &CredentialDrop) {
        self.credentials.lock().unwrap().push(changed.clone());
    }

    fn missed(&self) {
        self.missed.fetch_add(1, Ordering::SeqCst);
    }

    fn proofs(&self, used: &[UsedProof]) {
        self.proofs.lock().unwrap().extend_from_slice(used);
    }

    fn keys(&self) -> Vec<String> {
        vec!["key".to_owned()]
    }

    fn is_serving(&self) -> bool {
        true
    }

    fn observe(&self, what: Observation) {
        match what {
            Observation::Forged => {
                self.forged.fetch_add(1, Ordering::SeqCst);
            }
            Observation::Resynced(cause) => self.resyncs.lock().unwrap().push(cause),
            Observation::Propagated(_) => {
                self.propagated.fetch_add(1, Ordering::SeqCst);
            }
            Observation::Malformed | Observation::Failed => {}
        }
    }
}

fn seal() -> Seal {
    Seal::new("test", &Secret::new(vec![7; 32]))
}

pub(super) fn horizons() -> Horizons {
    Horizons {
        issuers: vec![IssuerHorizon {
            name: "accounts".to_owned(),
            url: ISSUER.to_owned(),
            max_lifetime: Duration::from_secs(7200),
            skew: Duration::ZERO,
            exchangeable: false,
            cutoff_margin: Duration::ZERO,
            max_authentication_age: None,
        }],
        session_absolute: None,
    }
}

impl World {
    pub(super) fn new() -> Self {
        let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
        let ages: Arc<Mutex<Vec<Arc<Freshness>>>> = Arc::default();
        let (hand, all) = (clock.clone(), Arc::clone(&ages));
        tokio::spawn(async move {
            let step = Duration::from_millis(50);
            loop {
                tokio::time::sleep(step).await;
                hand.advance(step);
                all.lock().unwrap().iter().for_each(|it| it.advance(step));
            }
        });
        Self { model: Model::new(clock.clone()), clock, ages }
    }

    /// A node that has not joined yet.
    pub(super) async fn enter(&self, name: &str, store: Arc<dyn Store>) -> TestNode {
        let map = Arc::new(RevocationMap::new(100_000));
        let opening = {
            let (map, clock) = (Arc::clone(&map), self.clock.clone());
            tokio::task::spawn_blocking(move || Ledger::open(store, map, horizons(), clock))
        };
        let ledger = Arc::new(opening.await.unwrap().unwrap());
        let freshness = Arc::new(Freshness::new(MAX_STALENESS));
        self.ages.lock().unwrap().push(Arc::clone(&freshness));
        let settings = Settings {
            node: name.to_owned(),
            cluster: "test".to_owned(),
            heartbeat: BEAT,
            compare: Duration::from_secs(30),
            level: Level::Bus,
            patience: Duration::from_millis(500),
            max_clock_skew: BEAT,
        };
        let (link, heard) = (self.model.link(), Arc::<Heard>::default());
        let (broker, audience): (Arc<dyn Broker>, Arc<dyn Audience>) =
            (Arc::clone(&link) as _, Arc::clone(&heard) as _);
        let started = Cluster::start(settings, broker, seal(), &ledger, audience, &freshness, self.clock.clone());
        let cluster = started.await.unwrap();
        TestNode { name: name.to_owned(), link, cluster, ledger, map, freshness, heard }
    }

    pub(super) async fn join(&self, name: &str) -> TestNode {
        let node = self.enter(name, Arc::new(MemoryStore::new())).await;
        node.cluster.joined().await.unwrap();
        node
    }
}

pub(super) async fn secs(secs: u64) {
    tokio::time::sleep(Duration::from_secs(secs)).await;
}

pub(super) fn subject(name: &str) -> Target {
    Target::new(TargetKind::Subject, ISSUER, name)
}

impl TestNode {
    pub(super) async fn revoke(&self, name: &str) -> (RecordId, Reached) {
        let request = Request { block: Some(true), ..Request::new(subject(name), Reason::Admin, "ops", Source::Admin) };
        let accepted = self.ledger.revoke(request).await.unwrap();
        (accepted.id, accepted.reached)
    }

    pub(super) fn refuses(&self, name: &str) -> bool {
        let target = subject(name);
        self.map
            .in_force(self.map.reference(target.kind, &target.issuer, &target.value))
            .is_some_and(|it| it.form == Form::Block)
    }

    async fn lift(&self, id: &RecordId) -> Result<(), LiftError> {
        self.ledger.lift(id.clone(), true, "ops".to_owned(), None).await.map(drop)
    }

    pub(super) async fn stop(self) {
        self.cluster.stop().await;
    }

    pub(super) fn kill(self) {
        self.cluster.tasks.lock().unwrap().iter().for_each(JoinHandle::abort);
    }

    async fn document(&self, kind: DocumentKind, key: &str) -> Option<Document> {
        self.ledger.document(kind, key).await.unwrap()
    }
}

/// Waits until something is so, in the time of the test.
pub(super) async fn until(what: impl Fn() -> bool) {
    for _ in 0..2000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it never came to be so");
}

fn document(kind: DocumentKind, key: &str, revision: u64, body: &str) -> Document {
    Document { kind, key: key.to_owned(), revision, body: body.to_owned(), forget_at: None }
}

#[tokio::test(start_paused = true)]
async fn what_one_node_revokes_every_node_refuses() {
    let world = World::new();
    let (a, b, c) = (world.join("a").await, world.join("b").await, world.join("c").await);
    let (_, reached) = a.revoke("eve").await;
    assert_eq!((reached.level, reached.enough), (Level::Bus, true));
    until(|| b.refuses("eve") && c.refuses("eve")).await;
    assert_eq!(b.heard.propagated.load(Ordering::SeqCst), 1);
    assert_eq!(a.heard.propagated.load(Ordering::SeqCst), 0, "what it said itself has not come far");
    let (id, _) = b.revoke("mallory").await;
    until(|| a.refuses("mallory") && c.refuses("mallory")).await;
    c.lift(&id).await.unwrap();
    until(|| !a.refuses("mallory") && !b.refuses("mallory")).await;
    assert!(a.refuses("eve"));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_joins_has_everything_before_it_says_so() {
    let world = World::new();
    let a = world.join("a").await;
    for n in 0..100 {
        a.revoke(&format!("user-{n}")).await;
    }
    let (id, _) = a.revoke("forgiven").await;
    a.lift(&id).await.unwrap();
    world.model.trim();
    let b = world.join("b").await;
    assert!((0..100).all(|n| b.refuses(&format!("user-{n}"))));
    assert!(!b.refuses("forgiven"));
    assert_eq!(*b.heard.resyncs.lock().unwrap(), [Cause::New]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_away_reads_on_from_where_it_was() {
    let world = World::new();
    let a = world.join("a").await;
    let folder = tempfile::tempdir().unwrap();
    let open = || Arc::new(SqliteStore::open(folder.path(), AcceptLoss::No).unwrap());
    let b = world.enter("b", open()).await;
    b.cluster.joined().await.unwrap();
    a.revoke("eve").await;
    until(|| b.refuses("eve")).await;
    b.stop().await;
    a.revoke("mallory").await;
    let b = world.enter("b", open()).await;
    assert!(b.refuses("eve"), "it has its own copy");
    b.cluster.joined().await.unwrap();
    assert!(b.refuses("mallory"));
    assert_eq!(*b.heard.resyncs.lock().unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_knows_it_and_catches_up() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    until(|| !b.freshness.is_stale()).await;
    b.link.cut(true);
    secs(2).await;
    let (_, reached) = b.revoke("eve").await;
    assert_eq!((reached.level, reached.enough), (Level::Local, false), "durable here, and on its way");
    a.revoke("mallory").await;
    secs(20).await;
    assert!(!b.freshness.is_stale() && !b.refuses("mallory") && !a.refuses("eve"));
    secs(15).await;
    assert!(b.freshness.is_stale() && !a.freshness.is_stale());
    b.link.cut(false);
    until(|| b.refuses("mallory") && a.refuses("eve") && !b.freshness.is_stale()).await;
    assert!(b.cluster.reached(reached.sequence) >= Some(Level::Bus));
    until(|| b.cluster.reached(reached.sequence) == Some(Level::All)).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_speaks_and_does_not_hear_knows_it() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    b.link.cut_in.store(true, Ordering::SeqCst);
    secs(35).await;
    assert!(b.freshness.is_stale() && !a.freshness.is_stale());
    assert_eq!(b.revoke("eve").await.1.level, Level::Bus, "others hear it");
    until(|| a.refuses("eve")).await;
    b.link.cut_in.store(false, Ordering::SeqCst);
    until(|| !b.freshness.is_stale()).await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_lost_everything_is_given_it_back() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    let (id, _) = a.revoke("forgiven").await;
    a.revoke("eve").await;
    b.revoke("mallory").await;
    until(|| a.refuses("mallory") && b.refuses("eve")).await;
    b.lift(&id).await.unwrap();
    until(|| !a.refuses("forgiven")).await;
    world.model.lose_everything();
    a.stop().await;
    until(|| b.heard.resyncs.lock().unwrap().contains(&Cause::Epoch)).await;
    let c = world.join("c").await;
    assert!(c.refuses("eve") && c.refuses("mallory") && !c.refuses("forgiven"));
    assert!(b.refuses("eve") && b.refuses("mallory") && !b.refuses("forgiven"));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_was_put_back_to_yesterday_is_brought_up_to_date() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    a.revoke("eve").await;
    let yesterday = world.model.back_up();
    a.revoke("mallory").await;
    b.revoke("trent").await;
    until(|| a.refuses("trent") && b.refuses("mallory")).await;
    world.model.put_back(yesterday);
    secs(40).await;
    let c = world.join("c").await;
    assert!(c.refuses("eve") && c.refuses("mallory") && c.refuses("trent"));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_was_cut_short_is_no_loss() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    b.link.cut(true);
    for n in 0..20 {
        a.revoke(&format!("user-{n}")).await;
    }
    world.model.trim();
    b.link.cut(false);
    until(|| (0..20).all(|n| b.refuses(&format!("user-{n}")))).await;
    assert!(b.heard.resyncs.lock().unwrap().contains(&Cause::Trimmed));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_the_broker_lost_is_noticed_by_the_next_one() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    b.link.cut(true);
    a.revoke("eve").await;
    world.model.lose_last();
    b.link.cut(false);
    // The next heartbeat says how many there are; the node that made it gives it back.
    until(|| b.refuses("eve")).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_else_can_lift_anything() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    let (id, _) = a.revoke("eve").await;
    until(|| b.refuses("eve")).await;
    let lift = crate::revocation::Lift {
        id: "forged".parse().unwrap(),
        of: id,
        target: subject("eve"),
        leaves: None,
        actor: "eve".to_owned(),
        note: None,
        at: world.clock.now(),
        forget_at: None,
    };
    let entry = crate::store::Entry {
        origin: a.ledger.store_id(),
        origin_seq: 2,
        version: crate::store::Entry::VERSION,
        body: Body::Lift(lift),
    };
    let other = Seal::new("test", &Secret::new(vec![8; 32]));
    world.model.forge(other.close(&Message::Record(entry)).unwrap());
    world.model.forge(bytes::Bytes::from_static(b"hello"));
    until(|| b.heard.forged.load(Ordering::SeqCst) == 2).await;
    secs(2).await;
    assert!(a.refuses("eve") && b.refuses("eve"));
}

#[tokio::test(start_paused = true)]
async fn what_a_later_release_says_is_kept_refused_and_passed_on() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    let other = Other {
        id: "of-a-later-release".parse().unwrap(),
        kind: "quarantine".to_owned(),
        says: r#"{"until":"asked",  "of":"eve"}"#.to_owned(),
        restricts: vec![subject("eve")],
        at: world.clock.now(),
        forget_at: None,
    };
    let version = crate::store::Entry::VERSION + 1;
    let body = Body::Other(other);
    let entry = crate::store::Entry { origin: "a later release".to_owned(), origin_seq: 1, version, body };
    let message = Message::Record(entry.clone());
    let publication = Publication { place: message.place(), sealed: seal().close(&message).unwrap() };
    let head = a.link.head().await.unwrap();
    a.link.publish(&head.epoch, &[publication]).await.unwrap();
    until(|| a.refuses("eve") && b.refuses("eve")).await;
    assert!(!a.refuses("bob"));
    // Whoever made it is gone, and so is the broker that had it.
    world.model.lose_everything();
    a.stop().await;
    until(|| b.heard.resyncs.lock().unwrap().contains(&Cause::Epoch)).await;
    let store = Arc::new(MemoryStore::new());
    let c = world.enter("c", Arc::clone(&store) as Arc<dyn Store>).await;
    c.cluster.joined().await.unwrap();
    assert!(c.refuses("eve") && !c.refuses("bob"));
    let mut kept = Vec::new();
    store.entries(&mut |entry| kept.push(entry)).unwrap();
    assert_eq!(kept, [entry], "as it came");
}

#[tokio::test(start_paused = true)]
async fn the_second_node_of_a_name_is_refused() {
    let world = World::new();
    let a = world.join("a").await;
    let second = world.enter("a", Arc::new(MemoryStore::new())).await;
    let refused = second.cluster.joined().await;
    assert!(matches!(refused, Err(JoinError::Conflict(_))));
    secs(5).await;
    assert!(!a.freshness.is_stale());
    assert_eq!(a.revoke("eve").await.1.level, Level::Bus, "the first one stays");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_killed_may_come_back_at_once() {
    let world = World::new();
    let _other = world.join("b").await;
    let folder = tempfile::tempdir().unwrap();
    let open = || Arc::new(SqliteStore::open(folder.path(), AcceptLoss::No).unwrap());
    let a = world.enter("a", open()).await;
    a.cluster.joined().await.unwrap();
    a.revoke("eve").await;
    secs(1).await;
    let TestNode { cluster, ledger, .. } = a;
    cluster.tasks.lock().unwrap().iter().for_each(JoinHandle::abort);
    drop((cluster, ledger));
    secs(0).await;
    let store = loop {
        match SqliteStore::open(folder.path(), AcceptLoss::No) {
            Ok(store) => break store,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let a = world.enter("a", Arc::new(store)).await;
    a.cluster.joined().await.unwrap();
    assert!(a.refuses("eve"));
}

#[tokio::test(start_paused = true)]
async fn one_of_two_takes_the_place() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    let kind = DocumentKind::Family;
    let write = |revision, body: &str| DocumentWrite {
        document: document(kind, "f", revision, body),
        expects: Some(revision - 1),
    };
    assert_eq!(a.ledger.exchange(write(1, "one")).await.unwrap(), Put::Written);
    for round in 2..50 {
        let (of_a, of_b) = (write(round, &format!("a{round}")), write(round, &format!("b{round}")));
        let (x, y) = tokio::join!(a.ledger.exchange(of_a), b.ledger.exchange(of_b));
        let (x, y) = (x.unwrap(), y.unwrap());
        let (winner, loser) = if x == Put::Written { (x, y) } else { (y, x) };
        assert_eq!(winner, Put::Written);
        let Put::Conflict(Some(there)) = loser else { panic!("{loser:?}") };
        assert_eq!(there.revision, round);
        assert_eq!(a.document(kind, "f").await, b.document(kind, "f").await, "whoever lost has what won");
    }
    b.link.cut(true);
    assert!(b.ledger.exchange(write(50, "b50")).await.is_err());
    assert_eq!(b.document(kind, "f").await.unwrap().revision, 49, "nothing was taken");
}

#[tokio::test(start_paused = true)]
async fn documents_travel_and_survive_the_broker() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    let put = DocumentWrite { document: document(DocumentKind::Session, "s", 5, "{}"), expects: None };
    a.ledger.put(vec![put]).await.unwrap();
    let own = DocumentWrite { document: document(DocumentKind::Key, "k", 1, "{}"), expects: None };
    a.ledger.put(vec![own]).await.unwrap();
    until(|| b.heard.documents.lock().unwrap().len() == 1).await;
    assert_eq!(b.document(DocumentKind::Session, "s").await.unwrap().revision, 5);
    assert_eq!(b.document(DocumentKind::Key, "k").await, None, "everybody finds out about keys alone");
    world.model.lose_everything();
    until(|| !a.heard.resyncs.lock().unwrap().is_empty() && b.heard.resyncs.lock().unwrap().len() > 1).await;
    let c = world.join("c").await;
    assert_eq!(c.document(DocumentKind::Session, "s").await.unwrap().revision, 5);
}

#[tokio::test(start_paused = true)]
async fn a_subject_that_is_replaced_is_replaced_everywhere_and_back() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    let request = ReplaceRequest {
        issuer: ISSUER.to_owned(),
        old: "bob".to_owned(),
        new: "bob-2".to_owned(),
        reason: Reason::CredentialCompromised,
        actor: "ops".to_owned(),
        note: None,
        id: None,
    };
    a.ledger.replace(request).await.unwrap();
    let replaced = |node: &TestNode| node.map.replacements().of(ISSUER, "bob").is_some();
    until(|| replaced(&b)).await;
    let c = world.join("c").await;
    assert!(replaced(&c));
    let undo = UndoRequest {
        issuer: ISSUER.to_owned(),
        old: "bob".to_owned(),
        reason: None,
        actor: "ops".to_owned(),
        note: None,
    };
    c.ledger.undo_replacement(undo).await.unwrap();
    until(|| !replaced(&a) && !replaced(&b)).await;
}

#[tokio::test(start_paused = true)]
async fn all_means_every_node_that_is_there() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    let request = || Request {
        block: Some(true),
        level: Some(Level::All),
        ..Request::new(subject("eve"), Reason::Admin, "ops", Source::Admin)
    };
    let accepted = a.ledger.revoke(request()).await.unwrap();
    assert_eq!((accepted.reached.level, accepted.reached.enough), (Level::All, true));
    assert!(b.refuses("eve"));
    b.link.cut(true);
    secs(1).await;
    let accepted = a.ledger.revoke(request()).await.unwrap();
    assert_eq!((accepted.reached.level, accepted.reached.enough), (Level::Bus, false), "it may still be there");
    secs(10).await;
    let accepted = a.ledger.revoke(request()).await.unwrap();
    assert_eq!(accepted.reached.level, Level::All, "it is not there any more");
}

#[tokio::test(start_paused = true)]
async fn a_retry_at_another_node_is_the_same_revocation() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    let request = || Request {
        block: Some(true),
        id: Some("once".parse().unwrap()),
        ..Request::new(subject("eve"), Reason::Admin, "ops", Source::Admin)
    };
    a.link.cut(true);
    secs(2).await;
    assert_eq!(a.ledger.revoke(request()).await.unwrap().reached.level, Level::Local);
    assert!(!b.ledger.revoke(request()).await.unwrap().existing, "it cannot know");
    a.link.cut(false);
    until(|| a.cluster.reached(1) == Some(Level::All)).await;
    assert!(b.ledger.revoke(request()).await.unwrap().existing);
    a.lift(&"once".parse().unwrap()).await.unwrap();
    until(|| !a.refuses("eve") && !b.refuses("eve")).await;
}

#[tokio::test(start_paused = true)]
async fn a_cutoff_is_not_before_what_happened_elsewhere() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    let ahead = world.clock.now().plus(Duration::from_secs(30));
    // The clock of `a` is ahead: what it opens now is opened in the future of `b`.
    a.cluster.node.state().note_time(ahead);
    secs(3).await;
    let request = Request::new(subject("eve"), Reason::PermissionsChanged, "ops", Source::Admin);
    let accepted = b.ledger.revoke(request).await.unwrap();
    let Form::Before { issued: Some(cutoff), .. } = accepted.form else { panic!("{:?}", accepted.form) };
    assert!(cutoff >= ahead, "{cutoff} {ahead}");
    // One that is years ahead is not believed.
    a.cluster.node.state().latest = world.clock.now().plus(Duration::from_secs(400 * 24 * 3600));
    secs(3).await;
    assert!(b.cluster.node.state().latest < world.clock.now().plus(Duration::from_secs(3600)));
}

#[tokio::test(start_paused = true)]
async fn what_passes_by_is_heard_by_those_who_are_there() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    a.cluster.credential_changed(ISSUER.to_owned(), "bob".to_owned());
    let proof = UsedProof { key: "k".to_owned(), id: "j".to_owned(), issued: world.clock.now() };
    a.cluster.proof_used(proof.clone());
    until(|| *b.heard.proofs.lock().unwrap() == [proof.clone()]).await;
    let dropped = CredentialDrop { issuer: ISSUER.to_owned(), subject: "bob".to_owned() };
    assert_eq!(*b.heard.credentials.lock().unwrap(), [dropped]);
}

#[tokio::test(start_paused = true)]
async fn every_node_is_seen() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    b.revoke("eve").await;
    secs(3).await;
    let status = a.cluster.status();
    assert!(status.joined && status.reachable && !status.stale && !status.skewed);
    let names: Vec<_> = status.nodes.iter().map(|it| (it.said.node.as_str(), it.live, it.here, it.lag)).collect();
    assert_eq!(names, [("a", true, true, 0), ("b", true, false, 0)]);
    b.stop().await;
    secs(1).await;
    let status = a.cluster.status();
    assert!(status.nodes.iter().any(|it| it.said.node == "b" && !it.live && it.said.leaving));
}
