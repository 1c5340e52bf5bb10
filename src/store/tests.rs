//! One contract, whichever the store.

pub(super) mod documents;
pub(super) mod nodes;

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::*;
use crate::revocation::{Form, Reason, Source};

pub(super) const ISSUER: &str = "https://a.example/";

pub(super) fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs)
}

/// A block of token `n`, remembered until second `n`.
pub(super) fn revocation(n: u64) -> Revocation {
    Revocation {
        id: format!("id-{n}").parse().unwrap(),
        target: Target::new(TargetKind::Token, ISSUER, format!("token-{n}")),
        form: Form::Block,
        reason: Reason::Logout,
        source: Source::Logout,
        actor: format!("user-{n}"),
        note: n.is_multiple_of(3).then(|| format!("note {n}")),
        at: at(1),
        forget_at: Some(Timestamp::from_secs(n.cast_signed())),
    }
}

pub(super) fn lift(of: &Revocation, leaves: Option<Timestamp>) -> Lift {
    Lift {
        id: format!("lift-of-{}", of.id).parse().unwrap(),
        of: of.id.clone(),
        target: of.target.clone(),
        leaves,
        actor: "ops".to_owned(),
        note: None,
        at: at(2),
        forget_at: of.forget_at,
    }
}

/// Entries of this store's own node.
pub(super) fn entries(store: &dyn Store, bodies: impl IntoIterator<Item = Body>) -> Vec<Entry> {
    let first = store.own_sequence() + 1;
    let entry =
        |(origin_seq, body)| Entry { origin: store.store_id().to_owned(), origin_seq, version: Entry::VERSION, body };
    (first..).zip(bodies).map(entry).collect()
}

pub(super) fn append(store: &dyn Store, bodies: impl IntoIterator<Item = Body>) -> Result<Vec<Appended>, StoreError> {
    store.append(entries(store, bodies)).blocking_recv().unwrap()
}

pub(super) fn append_revocations(store: &dyn Store, numbers: impl IntoIterator<Item = u64>) {
    let outcomes = append(store, numbers.into_iter().map(|n| Body::Revocation(revocation(n)))).unwrap();
    assert!(outcomes.into_iter().all(|it| it == Appended::New));
}

/// Everything in force, as text.
pub(super) fn in_force(store: &dyn Store) -> Result<BTreeSet<String>, StoreError> {
    let found = Mutex::new(BTreeSet::new());
    store.replay(&|live| {
        found.lock().unwrap().insert(spell(&live));
    })?;
    Ok(found.into_inner().unwrap())
}

pub(super) fn spell(live: &Live<'_>) -> String {
    format!("{} {} {} {:?}", live.kind, live.issuer, live.value, live.effect)
}

fn both() -> [(Box<dyn Store>, Option<tempfile::TempDir>); 2] {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = SqliteStore::open(folder.path(), AcceptLoss::No).unwrap();
    [(Box::new(sqlite), Some(folder)), (Box::new(MemoryStore::new()), None)]
}

#[test]
fn what_was_appended_is_found() {
    for (store, _folder) in both() {
        append_revocations(&*store, 1..=9);
        let kept = store.find(&revocation(3).id).unwrap().unwrap();
        assert_eq!(kept, Kept { revocation: revocation(3), lifted: None });
        assert_eq!(store.find(&"id-10".parse().unwrap()).unwrap(), None);
        assert_eq!(store.of_target(&revocation(4).target, 10).unwrap(), [revocation(4)]);
        assert_eq!(store.of_target(&Target::new(TargetKind::Token, "x", "token-4"), 10).unwrap(), []);
        assert_eq!(in_force(&*store).unwrap().len(), 9);
        let status = store.status();
        assert_eq!((status.sequence, status.records, status.is_ready()), (9, 9, true), "{}", status.engine);
        assert_eq!(store.own_sequence(), 9);
    }
}

#[test]
fn an_id_is_used_once() {
    for (store, _folder) in both() {
        append_revocations(&*store, 1..=1);
        let again = |edit: &dyn Fn(&mut Revocation)| {
            let mut it = revocation(1);
            edit(&mut it);
            append(&*store, [Body::Revocation(it)]).unwrap()
        };
        assert_eq!(again(&|_| {}), [Appended::Known]);
        assert_eq!(again(&|it| it.reason = Reason::Admin), [Appended::Conflict]);
        let first = lift(&revocation(1), None);
        assert_eq!(append(&*store, [Body::Lift(first.clone())]).unwrap(), [Appended::New]);
        assert_eq!(append(&*store, [Body::Lift(first.clone())]).unwrap(), [Appended::Known]);
        let second = Lift { id: "other".parse().unwrap(), ..first };
        assert_eq!(append(&*store, [Body::Lift(second)]).unwrap(), [Appended::Conflict]);
        assert_eq!(store.status().records, 2);
        assert!(store.is_lift(&"lift-of-id-1".parse().unwrap()).unwrap());
        assert!(!store.is_lift(&"id-1".parse().unwrap()).unwrap());
        assert!(store.is_lifted(&revocation(1).id, &revocation(1).target).unwrap());
        assert!(!store.is_lifted(&revocation(2).id, &revocation(2).target).unwrap());
    }
}

#[test]
fn a_lift_beats_its_revocation_whichever_came_first() {
    for (store, _folder) in both() {
        append(&*store, [Body::Lift(lift(&revocation(1), None)), Body::Lift(lift(&revocation(2), Some(at(7))))])
            .unwrap();
        append_revocations(&*store, 1..=3);
        let target = &revocation(2).target;
        let mut left = Vec::new();
        store.live(target, &mut |live| left.push((live.effect.form, live.left_by_lift))).unwrap();
        assert_eq!(left, [(Form::Before { issued: Some(at(7)), authenticated: None }, true)]);
        let all = in_force(&*store).unwrap();
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(!all.iter().any(|it| it.contains("token-1")));
        assert_eq!(store.of_target(target, 10).unwrap(), []);
        let kept = store.find(&revocation(2).id).unwrap().unwrap();
        assert_eq!(kept.lifted, Some(lift(&revocation(2), Some(at(7)))));
    }
}

#[test]
fn pages_run_from_the_newest_to_the_oldest() {
    for (store, _folder) in both() {
        append_revocations(&*store, 1..=25);
        append(&*store, [Body::Lift(lift(&revocation(24), None))]).unwrap();
        let (mut seen, mut from) = (Vec::new(), None);
        loop {
            let page = store.page(&Filter::default(), from, 10).unwrap();
            assert!(page.items.len() <= 10);
            seen.extend(page.items);
            let Some(next) = page.next else { break };
            from = Some(next.to_string().parse().unwrap());
        }
        let numbers: Vec<_> = seen.iter().map(|kept| kept.revocation.clone()).collect();
        assert_eq!(numbers, (1..=25).rev().map(revocation).collect::<Vec<_>>());
        assert_eq!(seen.iter().filter(|kept| kept.lifted.is_some()).count(), 1);
    }
}

#[test]
fn a_filter_shows_what_fits_it() {
    for (store, _folder) in both() {
        append_revocations(&*store, 1..=5);
        let subject = Revocation {
            id: "subject".parse().unwrap(),
            target: Target::new(TargetKind::Subject, "https://b.example/", "token-3"),
            ..revocation(1)
        };
        append(&*store, [Body::Revocation(subject)]).unwrap();
        let count = |kind: Option<TargetKind>, issuer: Option<&str>, value: Option<&str>| {
            let filter = Filter { kind, issuer: issuer.map(ToOwned::to_owned), value: value.map(ToOwned::to_owned) };
            store.page(&filter, None, 10).unwrap().items.len()
        };
        let token = Some(TargetKind::Token);
        assert_eq!(count(token, None, None), 5);
        assert_eq!(count(None, Some("https://b.example/"), None), 1);
        assert_eq!(count(None, None, Some("token-3")), 2);
        assert_eq!(count(token, Some(ISSUER), Some("token-3")), 1);
        assert_eq!(count(token, Some(ISSUER), Some("token-9")), 0);
        assert_eq!(count(token, Some("https://c.example/"), Some("token-3")), 0);
    }
}

#[test]
fn forgetting_takes_what_is_over_and_tombstones_last() {
    for (store, _folder) in both() {
        append_revocations(&*store, 1..=6);
        append(&*store, [Body::Lift(lift(&revocation(1), None))]).unwrap();
        assert_eq!(store.forget(at(1), 10).unwrap(), 0, "not at its end, after it");
        assert_eq!(store.forget(at(4), 2).unwrap(), 2);
        assert!(store.is_lift(&"lift-of-id-1".parse().unwrap()).unwrap());
        assert_eq!(store.forget(at(4), 2).unwrap(), 2, "the third, and the tombstone");
        assert_eq!(store.forget(at(4), 2).unwrap(), 0);
        assert_eq!(in_force(&*store).unwrap().len(), 3);
        assert_eq!(store.find(&revocation(3).id).unwrap(), None);
        let unending = Revocation { id: "block".parse().unwrap(), forget_at: None, ..revocation(1) };
        append(&*store, [Body::Revocation(unending)]).unwrap();
        assert_eq!(store.forget(Timestamp::MAX, 100).unwrap(), 3);
        assert_eq!((in_force(&*store).unwrap().len(), store.status().records), (1, 1));
    }
}

#[test]
fn settings_are_kept() {
    for (store, _folder) in both() {
        assert_eq!(store.setting("a").unwrap(), None);
        for value in ["1", "2", ""] {
            store.set_setting("a", value).unwrap();
            assert_eq!(store.setting("a").unwrap().as_deref(), Some(value));
        }
        in_force(&*store).unwrap();
    }
}

#[test]
fn an_empty_append_is_a_barrier() {
    for (store, _folder) in both() {
        let first = store.append(entries(&*store, (1..=500).map(|n| Body::Revocation(revocation(n)))));
        assert_eq!(append(&*store, []).unwrap(), []);
        assert_eq!(store.status().records, 500);
        drop(first);
    }
}

#[test]
fn a_cursor_is_a_number() {
    for text in ["", "x", "-1", "1.5", "99999999999999999999"] {
        assert_eq!(text.parse::<Cursor>(), Err(InvalidCursor), "{text}");
    }
}
