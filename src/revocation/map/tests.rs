use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::revocation::{Horizons, IssuerHorizon, Target};

const ISSUER: &str = "https://a.example/";

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs)
}

const fn issued(at: Timestamp) -> Form {
    Form::Before { issued: Some(at), authenticated: None }
}

fn count(map: &RevocationMap, kind: TargetKind) -> u64 {
    map.counts().into_iter().find(|(it, _)| *it == kind).map_or(0, |(_, count)| count)
}

#[test]
fn the_narrowest_revoked_kind_is_named() {
    let map = RevocationMap::new(10);
    let targets = TargetKind::ALL.map(|kind| map.reference(kind, ISSUER, "42"));
    assert_eq!(map.standing(&targets, at(5), None), Standing::Good);
    for kind in TargetKind::ALL.into_iter().rev() {
        map.apply(map.reference(kind, ISSUER, "42"), Form::Block, None).unwrap();
        let mut shuffled = targets;
        shuffled.reverse();
        assert_eq!(map.standing(&targets, at(5), None), Standing::Revoked(kind));
        assert_eq!(map.standing(&shuffled, at(5), None), Standing::Revoked(kind));
        assert_eq!(
            map.standing(&[map.reference(kind, ISSUER, "43")], at(5), None),
            match kind {
                TargetKind::Issuer | TargetKind::All => Standing::Revoked(kind),
                _ => Standing::Good,
            }
        );
    }
}

#[test]
fn a_cutoff_refuses_what_is_at_or_before_it() {
    let map = RevocationMap::new(10);
    let subject = map.reference(TargetKind::Subject, ISSUER, "42");
    map.apply(subject, issued(Timestamp::from_millis(100_500)), Some(at(9_000))).unwrap();
    for (millis, refused) in [(99_000, true), (100_000, true), (100_500, true), (100_501, false), (101_000, false)] {
        let expected = if refused { Standing::Revoked(TargetKind::Subject) } else { Standing::Good };
        assert_eq!(map.standing(&[subject], Timestamp::from_millis(millis), None), expected, "{millis}");
    }
}

#[test]
fn a_missing_auth_time_is_too_old_and_a_revocation_outranks_it() {
    let map = RevocationMap::new(10);
    let subject = map.reference(TargetKind::Subject, ISSUER, "42");
    let client = map.reference(TargetKind::Client, ISSUER, "app");
    map.apply(subject, Form::Before { issued: None, authenticated: Some(at(10)) }, None).unwrap();
    assert_eq!(map.standing(&[subject], at(99), None), Standing::AuthenticationTooOld);
    assert_eq!(map.standing(&[subject], at(99), Some(at(10))), Standing::AuthenticationTooOld);
    assert_eq!(map.standing(&[subject], at(99), Some(at(11))), Standing::Good);
    map.apply(client, Form::Block, None).unwrap();
    assert_eq!(map.standing(&[subject, client], at(99), None), Standing::Revoked(TargetKind::Client));
}

#[test]
fn the_epoch_moves_with_every_change_and_only_then() {
    let map = RevocationMap::new(10);
    let subject = map.reference(TargetKind::Subject, ISSUER, "42");
    let before = map.epoch();
    assert_eq!(map.apply(subject, issued(at(10)), Some(at(100))), Ok(Effect::Added));
    let added = map.epoch();
    assert!(added > before);
    assert_eq!(map.apply(subject, issued(at(10)), Some(at(100))), Ok(Effect::Unchanged));
    assert_eq!(
        map.apply(subject, issued(at(9)), Some(at(90))),
        Ok(Effect::Unchanged),
        "an older record says nothing new"
    );
    assert_eq!(map.epoch(), added);
    assert_eq!(map.apply(subject, issued(at(11)), Some(at(100))), Ok(Effect::Changed));
    assert_eq!(map.replace(subject, None), Ok(Effect::Changed));
    assert_eq!(map.replace(subject, None), Ok(Effect::Unchanged));
    assert_eq!(map.epoch(), added + 2);
    map.bump();
    assert_eq!(map.epoch(), added + 3);
}

#[test]
fn a_full_map_drops_nothing_and_still_widens() {
    let map = RevocationMap::new(2);
    let name = |n: u32| map.reference(TargetKind::Token, ISSUER, &n.to_string());
    map.apply(name(1), Form::Block, Some(at(50))).unwrap();
    map.apply(name(2), issued(at(5)), Some(at(100))).unwrap();
    let epoch = map.epoch();
    assert_eq!(map.apply(name(3), Form::Block, None), Err(Full { max_entries: 2 }));
    assert_eq!(map.epoch(), epoch);
    assert_eq!(map.apply(name(2), Form::Block, None), Ok(Effect::Changed));
    assert_eq!((map.len(), count(&map, TargetKind::Token)), (2, 2));
    assert_eq!(map.sweep(at(51)), 1);
    assert_eq!(map.apply(name(3), Form::Block, None), Ok(Effect::Added), "room again after the sweep");
}

#[test]
fn two_different_cutoffs_stand_aside_and_come_back() {
    let map = RevocationMap::new(10);
    let subject = map.reference(TargetKind::Subject, ISSUER, "42");
    map.apply(subject, issued(at(10)), Some(at(1_000))).unwrap();
    map.apply(subject, Form::Before { issued: None, authenticated: Some(at(20)) }, Some(at(2_000))).unwrap();
    assert_eq!(map.aside.len(), 1);
    let both = Form::Before { issued: Some(at(10)), authenticated: Some(at(20)) };
    assert_eq!(map.in_force(subject).map(|it| it.form), Some(both));
    assert_eq!(map.standing(&[subject], at(11), Some(at(20))), Standing::AuthenticationTooOld);
    map.apply(subject, Form::Block, None).unwrap();
    assert_eq!((map.aside.len(), map.in_force(subject)), (0, Some(InForce::new(Form::Block, None))));
    map.replace(subject, Some(InForce::new(both, Some(at(2_000))))).unwrap();
    assert_eq!(map.sweep(at(2_500)), 1);
    assert!(map.is_empty() && map.aside.is_empty());
}

#[test]
fn a_sweep_gives_memory_back() {
    let map = RevocationMap::new(200_000);
    for n in 0..100_000 {
        map.apply(map.reference(TargetKind::Token, ISSUER, &n.to_string()), Form::Block, Some(at(n / 1_000))).unwrap();
    }
    let held = map.entries.capacity();
    assert_eq!(map.sweep(at(90)), 90_000);
    assert_eq!((map.len(), count(&map, TargetKind::Token)), (10_000, 10_000));
    assert!(map.entries.capacity() < held / 2);
}

#[test]
fn once_a_write_returned_every_later_look_up_refuses() {
    const WRITES: i64 = 5_000;
    let map = Arc::new(RevocationMap::new(100_000));
    let written = Arc::new(AtomicI64::new(-1));
    let done = Arc::new(AtomicBool::new(false));
    let name = |map: &RevocationMap, n: i64| map.reference(TargetKind::Session, ISSUER, &n.to_string());
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (map, written, done) = (Arc::clone(&map), Arc::clone(&written), Arc::clone(&done));
            thread::spawn(move || {
                let mut judged = 0_u64;
                let mut last = (-1, 0);
                while !done.load(Ordering::Acquire) || judged == 0 {
                    let newest = written.load(Ordering::Acquire);
                    let epoch = map.epoch();
                    assert!((newest, epoch) >= last, "neither goes back");
                    last = (newest, epoch);
                    if newest < 0 {
                        continue;
                    }
                    assert!(epoch > 0);
                    for n in [newest, newest / 2, 0] {
                        let standing = map.standing(&[name(&map, n)], at(0), None);
                        assert_eq!(standing, Standing::Revoked(TargetKind::Session));
                        judged += 1;
                    }
                }
            })
        })
        .collect();
    let sweeper = {
        let (map, done) = (Arc::clone(&map), Arc::clone(&done));
        thread::spawn(move || {
            while !done.load(Ordering::Acquire) {
                map.sweep(at(50));
            }
        })
    };
    for n in 0..WRITES {
        // Something for the sweep to take, of the same kind, so that the counts move both ways.
        map.apply(name(&map, -1 - n), Form::Block, Some(at(10))).unwrap();
        map.apply(name(&map, n), Form::Block, Some(at(100))).unwrap();
        written.store(n, Ordering::Release);
    }
    done.store(true, Ordering::Release);
    for thread in readers {
        thread.join().unwrap();
    }
    sweeper.join().unwrap();
    map.sweep(at(50));
    assert_eq!(count(&map, TargetKind::Session), u64::try_from(WRITES).unwrap());
}

#[test]
fn exactly_as_many_as_there_is_room_for_get_in() {
    let map = Arc::new(RevocationMap::new(1_000));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let map = Arc::clone(&map);
            thread::spawn(move || {
                let name = |n: i32| map.reference(TargetKind::Token, ISSUER, &format!("{writer}/{n}"));
                (0..500).filter(|n| map.apply(name(*n), Form::Block, None).is_ok()).count()
            })
        })
        .collect();
    let admitted: usize = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
    assert_eq!((admitted, map.len(), map.entries.len()), (1_000, 1_000, 1_000));
}

// ---- against a naive model

const LIFETIME: i64 = 600;
const SKEW: i64 = 5;

fn horizons() -> Horizons {
    Horizons {
        issuers: vec![IssuerHorizon {
            name: "a".to_owned(),
            url: ISSUER.to_owned(),
            max_lifetime: Duration::from_secs(LIFETIME.unsigned_abs()),
            skew: Duration::from_secs(SKEW.unsigned_abs()),
            exchangeable: false,
            cutoff_margin: Duration::ZERO,
            max_authentication_age: Some(Duration::from_secs(2 * LIFETIME.unsigned_abs())),
        }],
        session_absolute: None,
    }
}

#[derive(Clone, Debug)]
struct Record {
    target: Target,
    form: Form,
    made: Timestamp,
    lifted: bool,
}

#[derive(Clone, Debug)]
enum Step {
    /// Makes a record; the map hears of it at once, or only with the next replay.
    Revoke {
        target: usize,
        shape: u8,
        back: i64,
        late: bool,
    },
    Lift {
        which: usize,
    },
    /// Hears of everything again, in reverse.
    Replay,
    Sweep,
    Wait {
        secs: i64,
    },
    Judge {
        targets: Vec<usize>,
        age: i64,
        authenticated: Option<i64>,
    },
}

fn targets() -> Vec<Target> {
    let named = |kind, value| Target::new(kind, ISSUER, value);
    vec![
        named(TargetKind::Token, "t1"),
        named(TargetKind::Session, "s1"),
        named(TargetKind::Subject, "u1"),
        named(TargetKind::Subject, "u2"),
        named(TargetKind::Client, "c1"),
        named(TargetKind::Issuer, ""),
        named(TargetKind::All, ""),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let target = 0..targets().len();
    // Often at the very end of the longest life: what is forgotten too early shows there.
    let age = prop_oneof![-SKEW..LIFETIME + SKEW, LIFETIME - 60..LIFETIME + SKEW];
    prop_oneof![
        4 => (target.clone(), 0..4_u8, 0..2 * LIFETIME, any::<bool>())
            .prop_map(|(target, shape, back, late)| Step::Revoke { target, shape, back, late }),
        2 => (0..20_usize).prop_map(|which| Step::Lift { which }),
        1 => Just(Step::Replay),
        2 => Just(Step::Sweep),
        3 => (0..LIFETIME / 2).prop_map(|secs| Step::Wait { secs }),
        6 => (prop::collection::vec(target, 1..5), age, prop::option::of(0..2 * LIFETIME))
            .prop_map(|(targets, age, authenticated)| Step::Judge { targets, age, authenticated }),
    ]
}

/// Everything of one target that is not lifted, however old.
fn effect(records: &[Record], target: &Target, horizons: &Horizons) -> Option<InForce> {
    let kept = records.iter().filter(|record| record.target == *target && !record.lifted);
    kept.map(|record| InForce::new(record.form, horizons.forget_at(target, record.form, record.made)))
        .reduce(InForce::join)
}

/// What the definition says: the narrowest of all records of all targets, however old.
fn model(records: &[Record], targets: &[&Target], issued: Timestamp, authenticated: Option<Timestamp>) -> Standing {
    let hits = |record: &&Record| targets.contains(&&record.target) && !record.lifted;
    let revoked = records.iter().filter(hits).filter(|record| match record.form {
        Form::Block => true,
        Form::Before { issued: cutoff, .. } => cutoff.is_some_and(|cutoff| issued <= cutoff),
    });
    let too_old = records.iter().filter(hits).any(|record| match record.form {
        Form::Block => false,
        Form::Before { authenticated: cutoff, .. } => {
            cutoff.is_some_and(|cutoff| authenticated.is_none_or(|at| at <= cutoff))
        }
    });
    match revoked.map(|record| record.target.kind).min() {
        Some(kind) => Standing::Revoked(kind),
        None if too_old => Standing::AuthenticationTooOld,
        None => Standing::Good,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Revoking, lifting, waiting, sweeping, hearing twice, late and in reverse: the map says of every
    /// token that can be alive what a list of all records says.
    #[test]
    fn standing_is_what_a_list_of_records_says(steps in prop::collection::vec(step(), 1..120)) {
        let horizons = horizons();
        let all = targets();
        let map = RevocationMap::new(100);
        let mut records: Vec<Record> = Vec::new();
        let mut late: Vec<usize> = Vec::new();
        let mut names: HashMap<Target, TargetRef> = HashMap::new();
        for target in &all {
            names.insert(target.clone(), map.reference(target.kind, &target.issuer, &target.value));
        }
        let hear = |record: &Record| {
            let forget_at = horizons.forget_at(&record.target, record.form, record.made);
            map.apply(names[&record.target], record.form, forget_at).map(|_| ())
        };
        let mut now = at(1_800_000_000);
        for step in steps {
            match step {
                Step::Revoke { target, shape, back, late: is_late } => {
                    let target = all[target].clone();
                    let cutoff = now.minus(Duration::from_secs(back.unsigned_abs()));
                    let form = match shape {
                        _ if target.kind.takes_blocks_only() => Form::Block,
                        0 => Form::Block,
                        1 => issued(cutoff),
                        2 => Form::Before { issued: None, authenticated: Some(cutoff) },
                        _ => Form::Before { issued: Some(now), authenticated: Some(cutoff) },
                    };
                    let record = Record { target, form, made: now, lifted: false };
                    if is_late { late.push(records.len()) } else { hear(&record).unwrap() }
                    records.push(record);
                }
                Step::Lift { which } if !records.is_empty() => {
                    let which = which % records.len();
                    records[which].lifted = true;
                    late.retain(|it| *it != which);
                    // What is late is not known here yet, so a lift must not bring it in.
                    let known: Vec<_> = records.iter().enumerate().filter(|(n, _)| !late.contains(n))
                        .map(|(_, record)| record.clone()).collect();
                    let target = &records[which].target;
                    map.replace(names[target], effect(&known, target, &horizons)).unwrap();
                }
                Step::Lift { .. } => {}
                Step::Replay => {
                    for record in records.iter().rev().filter(|record| !record.lifted) {
                        hear(record).unwrap();
                    }
                    late.clear();
                }
                Step::Sweep => { map.sweep(now); }
                Step::Wait { secs } => now = now.plus(Duration::from_secs(secs.unsigned_abs())),
                Step::Judge { targets, age, authenticated } => {
                    // A token that can be alive: not older than the longest life, and with the
                    // `auth_time` that its issuer must state, no older than its limit.
                    let issued = Timestamp::from_millis(now.millis() - age * 1000);
                    let authenticated = Some(now.minus(Duration::from_secs(authenticated.unwrap_or(0).unsigned_abs())));
                    let targets: Vec<_> = targets.iter().map(|n| &all[*n]).collect();
                    let known: Vec<_> = records.iter().enumerate().filter(|(n, _)| !late.contains(n))
                        .map(|(_, record)| record.clone()).collect();
                    // Blocks of tokens and sessions are for tokens that exist when they are made.
                    let possible = |record: &Record| !record.target.kind.is_single_use()
                        || issued <= record.made.plus(Duration::from_secs(SKEW.unsigned_abs()));
                    if known.iter().filter(|record| targets.contains(&&record.target)).all(possible) {
                        let refs: Vec<_> = targets.iter().map(|target| names[*target]).collect();
                        prop_assert_eq!(
                            map.standing(&refs, issued, authenticated),
                            model(&known, &targets, issued, authenticated)
                        );
                    }
                }
            }
        }
        let held: u64 = map.counts().into_iter().map(|(_, count)| count).sum();
        prop_assert_eq!(held, map.entries.len() as u64);
        prop_assert_eq!(map.len(), map.entries.len());
    }
}
