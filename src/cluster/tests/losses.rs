//! What goes missing on the way, and what must not come of it.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_node_that_has_always_more_to_say_still_says_that_it_is_there() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    // Slower than what comes after it.
    a.link.slow.store(20, Ordering::SeqCst);
    let request = |n: u64| Request {
        block: Some(true),
        level: Some(Level::Local),
        ..Request::new(subject(&format!("user-{n}")), Reason::Admin, "ops", Source::Admin)
    };
    for n in 0..8000 {
        a.ledger.revoke(request(n)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!a.freshness.is_stale(), "{:?}", a.freshness.age());
    until(|| b.refuses("user-7999")).await;
}

#[tokio::test(start_paused = true)]
async fn a_record_that_the_broker_lost_before_anybody_read_it_is_given_back() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    a.link.cut_in.store(true, Ordering::SeqCst);
    b.link.cut(true);
    assert_eq!(a.revoke("eve").await.1.level, Level::Bus);
    world.model.lose_last();
    a.link.cut_in.store(false, Ordering::SeqCst);
    b.link.cut(false);
    until(|| b.refuses("eve")).await;
    secs(5).await;
    let resyncs = b.heard.resyncs.lock().unwrap().len();
    secs(20).await;
    assert_eq!(b.heard.resyncs.lock().unwrap().len(), resyncs, "it is over");
}

#[tokio::test(start_paused = true)]
async fn records_that_have_lapsed_everywhere_are_not_looked_for() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    let target = Target::new(TargetKind::Token, ISSUER, "token");
    a.ledger.revoke(Request::new(target, Reason::Admin, "ops", Source::Admin)).await.unwrap();
    until(|| a.cluster.reached(1) == Some(Level::All)).await;
    world.clock.advance(Duration::from_secs(4 * 3600));
    for node in [&a, &b] {
        let ledger = Arc::clone(&node.ledger);
        assert_eq!(tokio::task::spawn_blocking(move || ledger.sweep()).await.unwrap().unwrap().records, 1);
        node.cluster.forget(world.clock.now()).await.unwrap();
    }
    secs(5).await;
    let c = world.join("c").await;
    a.cluster.node.ask_for_resync(Cause::Differs);
    secs(5).await;
    let resyncs = || [&a, &b, &c].map(|it| it.heard.resyncs.lock().unwrap().len());
    let before = resyncs();
    secs(20).await;
    assert_eq!(resyncs(), before);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_said_is_said_later() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    a.link.cut_out.store(true, Ordering::SeqCst);
    a.cluster.credential_changed(ISSUER.to_owned(), "bob".to_owned());
    secs(3).await;
    a.link.cut_out.store(false, Ordering::SeqCst);
    until(|| b.heard.credentials.lock().unwrap().len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_passes_by_is_heard_by_a_node_that_reads_all_that_is_kept() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    b.link.cut(true);
    secs(2).await;
    a.cluster.credential_changed(ISSUER.to_owned(), "bob".to_owned());
    secs(2).await;
    let missed = || b.heard.missed.load(Ordering::SeqCst);
    let before = missed();
    b.cluster.node.ask_for_resync(Cause::Differs);
    b.link.cut(false);
    until(|| b.heard.credentials.lock().unwrap().len() == 1).await;
    assert_eq!(missed(), before, "nothing was");
    b.link.cut(true);
    secs(2).await;
    a.cluster.credential_changed(ISSUER.to_owned(), "eve".to_owned());
    secs(2).await;
    world.model.trim();
    b.link.cut(false);
    until(|| missed() > before).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_killed_knows_how_far_it_had_come() {
    let world = World::new();
    let a = world.join("a").await;
    let folder = tempfile::tempdir().unwrap();
    let b = world.enter("b", Arc::new(SqliteStore::open(folder.path(), AcceptLoss::No).unwrap())).await;
    b.cluster.joined().await.unwrap();
    for n in 0..3 {
        a.revoke(&format!("user-{n}")).await;
    }
    until(|| (0..3).all(|n| b.refuses(&format!("user-{n}")))).await;
    secs(1).await;
    let TestNode { cluster, ledger, .. } = b;
    cluster.tasks.lock().unwrap().iter().for_each(JoinHandle::abort);
    drop((cluster, ledger));
    secs(0).await;
    a.revoke("user-3").await;
    let store = loop {
        match SqliteStore::open(folder.path(), AcceptLoss::No) {
            Ok(store) => break store,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let b = world.enter("b", Arc::new(store)).await;
    b.cluster.joined().await.unwrap();
    assert!(b.refuses("user-3"));
    secs(35).await;
    assert_eq!(*b.heard.resyncs.lock().unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_document_that_the_broker_lost_is_given_back_when_it_is_missed() {
    let world = World::new();
    let (a, _b) = (world.join("a").await, world.join("b").await);
    let kind = DocumentKind::Family;
    let write = |revision: u64| DocumentWrite {
        document: document(kind, "f", revision, &revision.to_string()),
        expects: Some(revision - 1),
    };
    assert_eq!(a.ledger.exchange(write(1)).await.unwrap(), Put::Written);
    world.model.lose_documents();
    assert_eq!(a.ledger.exchange(write(2)).await.unwrap(), Put::Conflict(None));
    secs(3).await;
    assert_eq!(a.ledger.exchange(write(2)).await.unwrap(), Put::Written);
}

#[tokio::test(start_paused = true)]
async fn a_document_in_the_place_of_another_is_not_believed() {
    let world = World::new();
    let a = world.join("a").await;
    let kind = DocumentKind::Family;
    let write = DocumentWrite { document: document(kind, "f", 1, "{}"), expects: Some(0) };
    assert_eq!(a.ledger.exchange(write).await.unwrap(), Put::Written);
    world.model.misplace(kind, "f", "g");
    assert!(a.ledger.agreed_document(kind, "g").await.is_err());
    assert_eq!(a.ledger.agreed_document(kind, "f").await.unwrap().unwrap().revision, 1);
}

#[tokio::test(start_paused = true)]
async fn a_cutoff_covers_what_a_clock_that_is_ahead_has_opened_since_it_was_heard() {
    let world = World::new();
    let (a, b) = (world.join("a").await, world.join("b").await);
    secs(3).await;
    {
        let mut state = b.cluster.node.state();
        let at = state.peers.now();
        let mut said = state.peers.all().find(|it| it.said.node == "a").unwrap().said.clone();
        said.sent = at.plus(Duration::from_secs(20));
        said.latest = said.sent;
        state.note_time(said.latest);
        state.peers.hear(said, at);
    }
    drop(a.cluster.tasks.lock().unwrap().drain(..).map(|task| task.abort()).collect::<Vec<_>>());
    tokio::time::sleep(Duration::from_millis(900)).await;
    let now = world.clock.now();
    let request = Request::new(subject("eve"), Reason::PermissionsChanged, "ops", Source::Admin);
    let Form::Before { issued: Some(cutoff), .. } = b.ledger.revoke(request).await.unwrap().form else { panic!() };
    // What the clock of `a` shows now.
    assert!(cutoff >= now.plus(Duration::from_secs(20)), "{cutoff} {now}");
}
