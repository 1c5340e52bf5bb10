use std::sync::atomic::AtomicBool;
use std::task::{Context, Waker};
use std::thread;

use proptest::prelude::*;

use super::super::{Form, RevocationMap, Standing, TargetKind};
use super::*;
use crate::time::Timestamp;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

fn subject(map: &RevocationMap, name: &str) -> TargetRef {
    map.reference(TargetKind::Subject, "https://a.example/", name)
}

fn targets(map: &RevocationMap, name: &str) -> Box<[TargetRef]> {
    let issuer = map.reference(TargetKind::Issuer, "https://a.example/", "");
    [subject(map, name), issuer, map.reference(TargetKind::All, "", "")].into()
}

/// Whether the holder has been told to ask again.
fn is_doubted(handle: &Handle) -> bool {
    let mut asking = std::pin::pin!(handle.doubted());
    asking.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[test]
fn a_write_concerns_those_who_hold_on_to_its_target_and_nobody_else() {
    let map = RevocationMap::new(10);
    let [ada, other] = ["ada", "bob"].map(|name| map.live().hold(targets(&map, name)));
    assert!(!is_doubted(&ada) && !is_doubted(&other));
    map.apply(subject(&map, "ada"), Form::Block, None).unwrap();
    assert_eq!([is_doubted(&ada), is_doubted(&other)], [true, false]);
    assert!(!is_doubted(&ada), "told once");
    map.replace(subject(&map, "ada"), None).unwrap();
    assert_eq!([is_doubted(&ada), is_doubted(&other)], [true, false], "a lift is a change as well");
    map.apply(
        map.reference(TargetKind::Issuer, "https://a.example/", ""),
        Form::Before { issued: Some(NOW), authenticated: None },
        None,
    )
    .unwrap();
    assert_eq!([is_doubted(&ada), is_doubted(&other)], [true, true]);
    map.bump();
    assert_eq!([is_doubted(&ada), is_doubted(&other)], [true, true], "whatever changed, it may concern all");
    map.bump_for(TargetKind::Subject, "https://a.example/", "bob");
    assert_eq!([is_doubted(&ada), is_doubted(&other)], [false, true]);
}

#[test]
fn nothing_is_left_of_a_handle() {
    let map = RevocationMap::new(10);
    let handles: Vec<_> = (0..100).map(|n| map.live().hold(targets(&map, &n.to_string()))).collect();
    assert_eq!((map.live().len(), map.live().places()), (100, 300));
    drop(handles);
    assert_eq!((map.live().len(), map.live().places()), (0, 0));
    assert!(map.live().is_empty());
}

/// Registering races with revoking: whoever comes second has seen the other.
#[test]
fn who_registers_while_it_is_revoked_finds_out() {
    for round in 0..2_000 {
        let map = RevocationMap::new(10_000);
        let ada = subject(&map, "ada");
        let begin = std::sync::Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                begin.wait();
                map.apply(ada, Form::Block, None).unwrap();
            });
            begin.wait();
            let handle = map.live().hold(targets(&map, "ada"));
            let seen = map.standing(&[ada], NOW, None) != Standing::Good;
            let told = || (0..10_000_000).any(|_| is_doubted(&handle));
            assert!(seen || told(), "round {round}");
        });
    }
}

#[test]
fn holders_come_and_go_while_others_are_cut() {
    let map = RevocationMap::new(100_000);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let holders: Vec<_> = (0..4)
            .map(|number| {
                let map = &map;
                scope.spawn(move || {
                    for n in 0..2_000 {
                        let handle = map.live().hold(targets(map, &format!("{number}-{n}")));
                        let _ = is_doubted(&handle);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut n = 0;
            while !over.load(Ordering::Relaxed) && n < 50_000 {
                map.apply(subject(&map, &format!("0-{n}")), Form::Block, None).unwrap();
                map.bump();
                n += 1;
            }
        });
        for holder in holders {
            holder.join().unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!((map.live().len(), map.live().places()), (0, 0));
}

/// What happens to the index.
#[derive(Clone, Debug)]
enum Step {
    Hold(u8),
    Release(u8),
    Block(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![(0_u8..6).prop_map(Step::Hold), any::<u8>().prop_map(Step::Release), (0_u8..6).prop_map(Step::Block)]
}

proptest! {
    #[test]
    fn exactly_those_concerned_are_told(steps in proptest::collection::vec(step(), 1..60)) {
        let map = RevocationMap::new(10);
        let mut held: Vec<(u8, Handle)> = Vec::new();
        for step in steps {
            match step {
                Step::Hold(who) => held.push((who, map.live().hold(targets(&map, &who.to_string())))),
                Step::Release(which) if !held.is_empty() => drop(held.swap_remove(usize::from(which) % held.len())),
                Step::Release(_) => {}
                Step::Block(whom) => {
                    map.replace(subject(&map, &whom.to_string()), None).unwrap();
                    for (_, handle) in &held {
                        let _ = is_doubted(handle);
                    }
                    map.apply(subject(&map, &whom.to_string()), Form::Block, None).unwrap();
                    for (who, handle) in &held {
                        prop_assert_eq!(is_doubted(handle), *who == whom);
                    }
                }
            }
            prop_assert_eq!(map.live().places(), 3 * held.len());
        }
    }
}
