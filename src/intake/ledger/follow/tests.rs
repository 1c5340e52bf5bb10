use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::revocation::{Horizons, IssuerHorizon, Lift, Reason, Revocation, RevocationMap, Source, TargetKind};
use crate::store::{Appended, MemoryStore, Other, Store};
use crate::time::{Clock, Timestamp};

const ISSUER: &str = "https://a.example/";

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(1_800_000_000 + secs)
}

struct Desk {
    ledger: Ledger,
    map: Arc<RevocationMap>,
    store: Arc<dyn Store>,
}

fn desk(max_entries: usize) -> Desk {
    let horizons = Horizons {
        issuers: vec![IssuerHorizon {
            name: "a".to_owned(),
            url: ISSUER.to_owned(),
            max_lifetime: Duration::from_secs(3600),
            skew: Duration::ZERO,
            exchangeable: false,
            cutoff_margin: Duration::ZERO,
            max_authentication_age: None,
        }],
        session_absolute: None,
    };
    let (map, store) = (Arc::new(RevocationMap::new(max_entries)), Arc::new(MemoryStore::new()));
    let ledger = Ledger::open(Arc::clone(&store) as _, Arc::clone(&map), horizons, Clock::manual(at(0))).unwrap();
    Desk { ledger, map, store }
}

fn subject(name: &str) -> Target {
    Target::new(TargetKind::Subject, ISSUER, name)
}

fn entry(sequence: u64, body: Body) -> Entry {
    Entry { origin: "elsewhere".to_owned(), origin_seq: sequence, version: Entry::VERSION, body }
}

fn block(sequence: u64, name: &str) -> Entry {
    entry(
        sequence,
        Body::Revocation(Revocation {
            id: format!("id-{sequence}").parse().unwrap(),
            target: subject(name),
            form: Form::Block,
            reason: Reason::Admin,
            source: Source::Admin,
            actor: "ops".to_owned(),
            note: None,
            at: at(0),
            forget_at: None,
        }),
    )
}

fn lift(sequence: u64, of: u64, name: &str) -> Entry {
    entry(
        sequence,
        Body::Lift(Lift {
            id: format!("id-{sequence}").parse().unwrap(),
            of: format!("id-{of}").parse().unwrap(),
            target: subject(name),
            leaves: None,
            actor: "ops".to_owned(),
            note: None,
            at: at(1),
            forget_at: None,
        }),
    )
}

impl Desk {
    fn refuses(&self, name: &str) -> bool {
        let target = subject(name);
        self.map.in_force(self.map.reference(target.kind, &target.issuer, &target.value)).is_some()
    }

    async fn follow(&self, entries: Vec<Entry>) -> Result<Adoption, FollowError> {
        self.ledger.follow(entries, Vec::new(), Vec::new()).await
    }
}

#[tokio::test]
async fn what_others_say_is_in_force_and_kept_in_any_order_and_as_often_as_it_comes() {
    let (block, lift) = (block(1, "eve"), lift(2, 1, "eve"));
    for order in [vec![block.clone(), lift.clone()], vec![lift.clone(), block.clone()]] {
        for split in [true, false] {
            let desk = desk(10);
            if split {
                for entry in &order {
                    desk.follow(vec![entry.clone()]).await.unwrap();
                }
            } else {
                desk.follow(order.clone()).await.unwrap();
            }
            assert!(!desk.refuses("eve"), "{order:?} {split}");
            let again = desk.follow(order.clone()).await.unwrap();
            assert_eq!(again.entries, [Appended::Known, Appended::Known]);
            assert!(!desk.refuses("eve"), "a replay revives nothing");
        }
    }
    let desk = desk(10);
    let mut events = desk.ledger.watch();
    desk.follow(vec![block.clone()]).await.unwrap();
    assert!(desk.refuses("eve"));
    assert!(matches!(events.try_recv(), Ok(Event::Revoked(_))));
    assert_eq!(desk.store.find(block.body.id()).unwrap().map(|it| it.lifted), Some(None));
}

#[tokio::test]
async fn a_lift_of_another_target_with_the_same_id_lifts_nothing() {
    let desk = desk(10);
    desk.follow(vec![block(1, "eve"), lift(2, 1, "mallory")]).await.unwrap();
    assert!(desk.refuses("eve"));
}

#[tokio::test]
async fn what_only_a_later_release_understands_is_refused() {
    let desk = desk(10);
    let other = Other {
        id: "id-1".parse().unwrap(),
        kind: "quarantine".to_owned(),
        says: "{}".to_owned(),
        restricts: vec![subject("eve"), subject("mallory")],
        at: at(0),
        forget_at: None,
    };
    desk.follow(vec![entry(1, Body::Other(other))]).await.unwrap();
    assert!(desk.refuses("eve") && desk.refuses("mallory") && !desk.refuses("bob"));
}

#[tokio::test]
async fn a_map_without_room_is_not_up_to_date() {
    let desk = desk(1);
    desk.follow(vec![block(1, "eve")]).await.unwrap();
    let full = desk.follow(vec![block(2, "mallory")]).await;
    assert!(matches!(full, Err(FollowError::Full(_))), "{full:?}");
    assert!(desk.store.find(&"id-2".parse().unwrap()).unwrap().is_none(), "it comes again");
}

#[tokio::test]
async fn a_copy_that_was_put_back_takes_its_own_records_and_goes_on_after_them() {
    let desk = desk(10);
    let own = Entry { origin: desk.ledger.store_id(), origin_seq: 7, ..block(1, "eve") };
    desk.follow(vec![own]).await.unwrap();
    assert!(desk.refuses("eve"));
    let request = crate::intake::Request::new(subject("bob"), Reason::Admin, "ops", Source::Admin);
    desk.ledger.revoke(request).await.unwrap();
    let mut sequences = Vec::new();
    desk.ledger.entries(&mut |entry| sequences.push(entry.origin_seq)).unwrap();
    sequences.sort_unstable();
    assert_eq!(sequences, [7, 8]);
}
