//! What can happen on a disk to what other nodes said.

use super::documents::found;
use super::*;
use crate::store::tests::documents::document;
use crate::store::tests::nodes::{adopt, entry, every_entry, other};
use crate::store::{Document, DocumentKind};

/// A closed store that heard of others: `count` revocations of theirs, some with an id of its own, lifts of
/// two nodes, records of a later release, documents. And what is in force.
pub(super) fn filled_by_many(count: u64) -> (TempDir, BTreeSet<String>) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    append_revocations(&store, 1..=3);
    let theirs = (1..=count).map(|n| entry("a", n, Body::Revocation(revocation(n))));
    let lifts = ["b", "c"].map(|node| {
        let lift = lift(&revocation(2), Some(at(7)));
        entry(node, 1, Body::Lift(lift))
    });
    let others = (0..count).map(|n| entry("d", n + 1, Body::Other(other(&format!("new-{n}"), &[1_000 + n, 2_000]))));
    let documents = ["x", "y", "z"].map(|key| ("a", document(DocumentKind::Key, key, 1)));
    adopt(&store, theirs.chain(lifts).chain(others), documents).unwrap();
    let all = in_force(&store).unwrap();
    assert_eq!(all.len(), usize::try_from(2 * count + 1).unwrap());
    (folder, all)
}

#[test]
fn what_was_adopted_is_there_again() {
    let (folder, all) = filled_by_many(40);
    let store = open(folder.path()).unwrap();
    assert_eq!((in_force(&store).unwrap(), store.own_sequence()), (all, 3));
    assert_eq!(every_entry(&store).len(), 85);
    assert_eq!(found(&store).len(), 3);
    let again = every_entry(&store);
    let outcome = adopt(&store, again, []).unwrap();
    assert!(outcome.entries.iter().all(|it| *it == Appended::Known), "{outcome:?}");
}

#[test]
fn ones_own_entries_that_came_back_count_after_a_restart() {
    let (folder, _) = filled(2);
    let store = open(folder.path()).unwrap();
    let own = store.store_id().to_owned();
    adopt(&store, [entry(&own, 40, Body::Revocation(revocation(40)))], []).unwrap();
    drop(store);
    assert_eq!(open(folder.path()).unwrap().own_sequence(), 40);
}

#[test]
fn damage_to_what_others_said_is_never_read_as_less() {
    let (folder, all) = filled_by_many(60);
    let whole = fs::read(folder.path().join("revocations.db")).unwrap();
    let mut refused = 0;
    for (place, bit) in positions(&whole).take(150) {
        let damaged = copy(folder.path());
        let mut bytes = whole.clone();
        bytes[place] ^= bit;
        fs::write(damaged.path().join("revocations.db"), &bytes).unwrap();
        let Ok(store) = open(damaged.path()) else {
            refused += 1;
            continue;
        };
        let Ok(found) = in_force(&store) else {
            refused += 1;
            continue;
        };
        assert_eq!(found, all, "bit {bit} of byte {place}");
        // What a lift asks, and what decides whether something is known, must be whole as well.
        for n in [1, 2, 60, 1_000, 1_059, 2_000] {
            let mut live = BTreeSet::new();
            store.live(&revocation(n).target, &mut |it| _ = live.insert(spell(&it))).unwrap();
            assert_eq!(live.len(), 1, "bit {bit} of byte {place}: {live:?}");
            assert!(live.is_subset(&all));
        }
        let known = adopt(&store, every_entry(&store), []).unwrap();
        assert!(known.entries.iter().all(|it| *it == Appended::Known), "bit {bit} of byte {place}");
    }
    // The others hit what SQLite left behind in free space, the words of the schema, or an index only forgetting uses.
    assert!(refused > 50, "{refused}");
    for page in 0..whole.len() / 4096 {
        let damaged = copy(folder.path());
        let mut bytes = whole.clone();
        bytes[page * 4096..(page + 1) * 4096].fill(0);
        fs::write(damaged.path().join("revocations.db"), &bytes).unwrap();
        if let Ok(found) = verified(damaged.path()) {
            assert_eq!(found, all, "page {page}");
        }
    }
}

#[test]
fn what_others_said_cannot_be_changed_by_hand() {
    let changes = [
        "DELETE FROM others WHERE id = 'new-3'",
        "DELETE FROM others",
        "DELETE FROM restricted WHERE value = 'token-1003'",
        "UPDATE restricted SET value = 'x' WHERE value = 'token-1003'",
        "INSERT INTO restricted VALUES (1, 'x', 'x', 9)",
        "UPDATE others SET restricts = '[]' WHERE id = 'new-3'",
        "UPDATE others SET says = '' WHERE id = 'new-3'",
        "UPDATE others SET version = 2 WHERE id = 'new-3'",
        "UPDATE others SET name = 'x' WHERE id = 'new-3'",
        "UPDATE others SET forget_at = 1 WHERE id = 'new-3'",
        "UPDATE others SET origin_seq = 99 WHERE id = 'new-3'",
        "UPDATE lifts SET origin = 1",
        "UPDATE lifts SET value = 'token-3'",
        "UPDATE revocations SET origin = 1 WHERE id = 'id-5'",
        "DELETE FROM lifts WHERE seq = (SELECT max(seq) FROM lifts)",
        "DROP INDEX others_by_id",
        "DROP INDEX lifts_by_id",
        "DROP INDEX revocations_by_origin",
        "DROP TABLE others",
        "DROP TABLE restricted",
    ];
    for change in changes {
        let (folder, _) = filled_by_many(9);
        let connection = Connection::open(folder.path().join("revocations.db")).unwrap();
        assert!(connection.execute(change, []).is_ok(), "{change}");
        drop(connection);
        let error = verified(folder.path()).expect_err(change);
        assert!(error.contains("--accept-loss"), "{change}: {error}");
    }
}

#[test]
fn an_adoption_that_fails_leaves_nothing_of_it() {
    let (folder, all) = filled_by_many(5);
    let store = open(folder.path()).unwrap();
    let other = Connection::open(folder.path().join("revocations.db")).unwrap();
    // The very last of what is written.
    other
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON settings WHEN new.name = 'cursor' \
             BEGIN SELECT RAISE(ABORT, 'no space'); END",
        )
        .unwrap();
    let try_one = |n: u64| {
        let entries = vec![entry("z", n, Body::Revocation(revocation(n)))];
        let document = Document { body: "{}".to_owned(), ..document(DocumentKind::Key, &format!("new-{n}"), 1) };
        let documents = vec![Adopted { origin: "z".to_owned(), document }];
        let progress = vec![("epoch".to_owned(), "e".to_owned()), ("cursor".to_owned(), n.to_string())];
        store.adopt(entries, documents, progress).blocking_recv().unwrap()
    };
    assert!(matches!(try_one(90), Err(StoreError::NotDurable(_))));
    assert!(matches!(try_one(91), Err(StoreError::NotDurable(_))), "what reached the disk is not known");
    drop(store);
    other.execute_batch("DROP TRIGGER full").unwrap();
    drop(other);
    let store = open(folder.path()).unwrap();
    assert_eq!(in_force(&store).unwrap(), all);
    assert_eq!(found(&store).len(), 3);
    assert_eq!((store.setting("epoch").unwrap(), store.setting("cursor").unwrap()), (None, None));
}

#[test]
fn a_crash_loses_nothing_adopted() {
    let (folder, _) = filled_by_many(5);
    let store = open(folder.path()).unwrap();
    for n in 1..=5 {
        let entries = vec![entry("z", n, Body::Revocation(revocation(100 + n)))];
        store.adopt(entries, Vec::new(), vec![("cursor".to_owned(), n.to_string())]).blocking_recv().unwrap().unwrap();
        // As the disk is at this moment, with the log not yet merged.
        let crashed = copy(folder.path());
        assert_eq!(verified(crashed.path()).unwrap(), in_force(&store).unwrap());
        assert_eq!(open(crashed.path()).unwrap().setting("cursor").unwrap(), Some(n.to_string()));
    }
}

/// A row that names a node nobody heard of before is not taken for damage by whoever meets both at once.
#[test]
fn new_names_are_known_to_whoever_sees_their_rows() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    append_revocations(&store, [1]);
    let mut tries = 0;
    let page = store.read(|connection, names| {
        tries += 1;
        // It comes when the names were looked up already, and the rows not yet.
        if tries == 1 {
            adopt(&store, [entry("new", 1, Body::Revocation(revocation(2)))], []).unwrap();
        }
        read::page(connection, names, &Filter::default(), None, 10)
    });
    assert_eq!((page.unwrap().items.len(), tries), (2, 2));
    let damaged = || Refused::from(Damage::Empty);
    let mut tries = 0;
    let refused = store.read(|_, _| {
        tries += 1;
        Err::<(), _>(damaged())
    });
    assert!(matches!(refused, Err(StoreError::Damaged(_))) && tries == 1, "damage is not tried again");
}
