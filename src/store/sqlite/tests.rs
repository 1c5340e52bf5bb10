mod copies;
mod documents;
mod formats;
mod nodes;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::revocation::InForce;
use crate::store::tests::{append, append_revocations, at, entries, in_force, lift, revocation, spell};
use crate::store::{Appended, Body, Snapshot};

fn open(folder: &Path) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(folder, AcceptLoss::No)
}

/// A closed store of `count` revocations, one of them lifted with a cutoff, and what is in force.
fn filled(count: u64) -> (TempDir, BTreeSet<String>) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    append_revocations(&store, 1..=count);
    append(&store, [Body::Lift(lift(&revocation(2), Some(at(7))))]).unwrap();
    store.set_setting("name", "value").unwrap();
    let all = in_force(&store).unwrap();
    assert_eq!(all.len(), usize::try_from(count).unwrap());
    (folder, all)
}

fn copy(folder: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(folder).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

/// What is in force after opening `folder`; an error when opening or verifying refuses it.
fn verified(folder: &Path) -> Result<BTreeSet<String>, String> {
    let looked = Snapshot::open(folder).and_then(|snapshot| snapshot.verify());
    let started = open(folder).map_err(|error| error.to_string());
    let started = started.and_then(|store| in_force(&store).map_err(|error| error.to_string()));
    // Whoever only looks sees what a start would.
    assert!(started.is_ok() || looked.is_err(), "{started:?}");
    let earlier = matches!(looked, Err(OpenError::Earlier { .. }));
    assert!(started.is_err() || earlier || looked.is_ok(), "{looked:?}");
    started
}

fn damage(folder: &Path) -> Damage {
    match open(folder) {
        Err(OpenError::Damaged { damage, .. }) => damage,
        other => panic!("{other:?}"),
    }
}

#[test]
fn everything_acknowledged_is_there_again() {
    let (folder, all) = filled(300);
    let store = open(folder.path()).unwrap();
    assert_eq!(in_force(&store).unwrap(), all);
    assert_eq!(store.own_sequence(), 301);
    assert_eq!(store.setting("name").unwrap().as_deref(), Some("value"));
    append_revocations(&store, 301..=301);
    let id = store.store_id().to_owned();
    drop(store);
    let store = open(folder.path()).unwrap();
    assert_eq!((store.store_id(), store.own_sequence()), (id.as_str(), 302));
    assert_eq!(in_force(&store).unwrap().len(), 301);
}

#[test]
fn files_are_for_their_owner_only() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("a/b");
    let store = open(&folder).unwrap();
    append_revocations(&store, 1..=1);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(folder.clone()), 0o700);
    for file in fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(path.clone()), 0o600, "{path:?}");
    }
}

#[test]
fn a_second_process_is_refused() {
    let (folder, _) = filled(2);
    let store = open(folder.path()).unwrap();
    assert!(matches!(open(folder.path()), Err(OpenError::InUse { .. })));
    drop(store);
    open(folder.path()).unwrap();
}

#[test]
fn a_crash_loses_nothing_acknowledged() {
    let (folder, _) = filled(50);
    let store = open(folder.path()).unwrap();
    for n in 51..=80 {
        append_revocations(&store, n..=n);
        if n % 10 == 0 {
            // As the disk is at this moment, with the log not yet merged.
            let crashed = copy(folder.path());
            assert!(crashed.path().join("revocations.db-wal").metadata().unwrap().len() > 0);
            assert_eq!(verified(crashed.path()).unwrap(), in_force(&store).unwrap());
        }
    }
}

#[test]
fn a_log_that_was_cut_off_is_noticed() {
    let (folder, _) = filled(5);
    let store = open(folder.path()).unwrap();
    for n in 6..=12 {
        append_revocations(&store, n..=n);
    }
    // The mark follows by itself once the store is quiet.
    let marked = || mark::Mark::read(&folder.path().join("mark")).unwrap().unwrap().sequence;
    while marked() < store.status().sequence {
        thread::yield_now();
    }
    let whole = fs::read(folder.path().join("revocations.db-wal")).unwrap();
    let all = in_force(&store).unwrap();
    let step = whole.len() / 60;
    for cut in (0..=whole.len()).rev().step_by(step).chain([1, 31, 32, 33, whole.len() - 1]) {
        let crashed = copy(folder.path());
        let log = crashed.path().join("revocations.db-wal");
        if cut == 0 {
            fs::remove_file(&log).unwrap()
        } else {
            fs::write(&log, &whole[..cut]).unwrap()
        }
        match verified(crashed.path()) {
            Ok(found) => assert_eq!(found, all, "cut at {cut} of {}", whole.len()),
            Err(error) => assert!(cut < whole.len() && error.contains("--accept-loss"), "{cut}: {error}"),
        }
    }
}

#[test]
fn a_database_cut_off_anywhere_is_never_read_as_less() {
    let (folder, all) = filled(400);
    let whole = fs::read(folder.path().join("revocations.db")).unwrap();
    let mut refused = 0;
    for cut in (0..whole.len()).step_by(whole.len() / 80).chain([1, 15, 16, 99, 100, 4095, 4096, 4097, whole.len() - 1])
    {
        let damaged = copy(folder.path());
        fs::write(damaged.path().join("revocations.db"), &whole[..cut]).unwrap();
        match verified(damaged.path()) {
            Ok(found) => assert_eq!(found, all, "cut at {cut}"),
            Err(error) => {
                assert!(error.contains("--accept-loss") && error.contains("revocations.db"), "{cut}: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 80);
}

/// A generator of its own, so that a failure can be looked at again.
fn positions(bytes: &[u8]) -> impl Iterator<Item = (usize, u8)> {
    // Where nothing stands there is nothing to damage.
    let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = usize::try_from(state >> 33).unwrap() % used.len();
        (used[at], 1 << ((state >> 20) & 7))
    })
}

#[test]
fn flipped_bits_are_never_read_as_less() {
    let (folder, all) = filled(120);
    let whole = fs::read(folder.path().join("revocations.db")).unwrap();
    let mut refused = 0;
    for (at, bit) in positions(&whole).take(150) {
        let damaged = copy(folder.path());
        let mut bytes = whole.clone();
        bytes[at] ^= bit;
        fs::write(damaged.path().join("revocations.db"), &bytes).unwrap();
        let Ok(store) = open(damaged.path()) else {
            refused += 1;
            continue;
        };
        let Ok(found) = in_force(&store) else {
            refused += 1;
            continue;
        };
        assert_eq!(found, all, "bit {bit} of byte {at}");
        // What a lift asks must be whole as well, or a lift would loosen more than it should.
        for n in 1..=120 {
            let mut live = BTreeSet::new();
            store
                .live(&revocation(n).target, &mut |it| {
                    live.insert(spell(&it));
                })
                .unwrap();
            assert_eq!(live.len(), 1, "bit {bit} of byte {at}: {live:?}");
            assert!(live.is_subset(&all));
            assert!(store.find(&revocation(n).id).unwrap().is_some(), "bit {bit} of byte {at}");
        }
    }
    // The others hit what SQLite left behind in free space, or an index only forgetting uses.
    assert!(refused > 75, "{refused}");
}

#[test]
fn zeroed_pages_are_never_read_as_less() {
    let (folder, all) = filled(400);
    let whole = fs::read(folder.path().join("revocations.db")).unwrap();
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
fn rows_changed_by_hand_are_noticed() {
    let changes = [
        "DELETE FROM revocations WHERE seq = 3",
        "DELETE FROM revocations",
        "DELETE FROM lifts",
        "DELETE FROM settings",
        "UPDATE revocations SET forget_at = 5 WHERE seq = 3",
        "UPDATE revocations SET issued = 5 WHERE seq = 3",
        "UPDATE revocations SET seq = 1000 WHERE seq = 3",
        "UPDATE revocations SET value = 'token-4' WHERE seq = 3",
        "UPDATE lifts SET revocation = 'id-3'",
        "UPDATE names SET name = 'https://c.example/' WHERE name = 'https://a.example/'",
        "DELETE FROM names",
        "UPDATE settings SET value = 'other'",
        "UPDATE state SET records = 0, digest = 0",
        "UPDATE state SET sequence = 2",
        "DELETE FROM state",
        "DROP TABLE lifts",
        "DROP INDEX revocations_by_target",
        "DROP INDEX revocations_by_id",
        "DROP INDEX lifts_by_origin",
        "PRAGMA user_version = 4",
        "PRAGMA application_id = 1",
        "INSERT INTO lifts SELECT 99, origin, 99, 1, 'x', kind, issuer, value, 'id-5', NULL, actor, note, at, forget_at, \
         checksum FROM lifts",
    ];
    for change in changes {
        let (folder, _) = filled(9);
        let connection = Connection::open(folder.path().join("revocations.db")).unwrap();
        connection.execute_batch(change).unwrap();
        drop(connection);
        let error = verified(folder.path()).expect_err(change);
        assert!(error.contains("--accept-loss"), "{change}: {error}");
    }
}

#[test]
fn what_is_missing_or_swapped_is_named() {
    let (folder, _) = filled(3);
    let (other, _) = filled(4);
    let file = |folder: &TempDir, name: &str| folder.path().join(name);
    let with = |edit: &dyn Fn(&TempDir)| {
        let copy = copy(folder.path());
        edit(&copy);
        damage(copy.path())
    };
    assert!(matches!(with(&|it| fs::remove_file(file(it, "revocations.db")).unwrap()), Damage::DatabaseMissing));
    assert!(matches!(with(&|it| fs::remove_file(file(it, "mark")).unwrap()), Damage::MarkMissing));
    assert!(matches!(with(&|it| fs::write(file(it, "mark"), "").unwrap()), Damage::MarkUnreadable));
    assert!(matches!(with(&|it| fs::write(file(it, "revocations.db"), "").unwrap()), Damage::Empty));
    assert!(matches!(with(&|it| fs::write(file(it, "revocations.db"), "x".repeat(9000)).unwrap()), Damage::Foreign));
    let swap = |it: &TempDir| {
        fs::copy(file(&other, "revocations.db"), file(it, "revocations.db")).unwrap();
    };
    assert!(matches!(with(&swap), Damage::Swapped));
    let foreign = |it: &TempDir| {
        fs::remove_file(file(it, "revocations.db")).unwrap();
        let connection = Connection::open(file(it, "revocations.db")).unwrap();
        connection.execute_batch("CREATE TABLE revocations (seq)").unwrap();
    };
    assert!(matches!(with(&foreign), Damage::Foreign));
}

#[test]
fn an_older_copy_of_the_database_is_noticed() {
    let (folder, _) = filled(3);
    let older = copy(folder.path());
    let store = open(folder.path()).unwrap();
    append_revocations(&store, 10..=10);
    drop(store);
    fs::copy(older.path().join("revocations.db"), folder.path().join("revocations.db")).unwrap();
    assert!(matches!(damage(folder.path()), Damage::Behind { database: 4, mark: 5 }));
}

#[test]
fn a_crash_while_the_store_is_made_is_not_damage() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("revocations.db.new"), "half").unwrap();
    drop(open(folder.path()).unwrap());
    fs::remove_file(folder.path().join("mark")).unwrap();
    assert_eq!(verified(folder.path()).unwrap(), BTreeSet::new());
}

#[test]
fn accepting_the_loss_moves_everything_aside() {
    let (folder, _) = filled(9);
    let path = folder.path().join("revocations.db");
    for n in 1..=2 {
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("UPDATE state SET digest = 1; DELETE FROM revocations WHERE seq = 3").unwrap();
        drop(connection);
        assert!(verified(folder.path()).is_err());
        let store = SqliteStore::open(folder.path(), AcceptLoss::Yes).unwrap();
        assert_eq!(in_force(&store).unwrap(), BTreeSet::new());
        append_revocations(&store, 1..=5);
        assert!(folder.path().join(format!("revocations.db.damaged-{n}")).exists());
        assert!(folder.path().join(format!("mark.damaged-{n}")).exists());
    }
    let sound = SqliteStore::open(folder.path(), AcceptLoss::Yes).unwrap();
    assert_eq!(in_force(&sound).unwrap().len(), 5, "what is not damaged stays");
}

#[test]
fn a_write_that_fails_is_the_last() {
    let (folder, all) = filled(9);
    let store = open(folder.path()).unwrap();
    let other = Connection::open(folder.path().join("revocations.db")).unwrap();
    other
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON revocations WHEN new.id = 'id-11' \
             BEGIN SELECT RAISE(ABORT, 'no space'); END",
        )
        .unwrap();
    let one = |n| append(&store, [Body::Revocation(revocation(n))]);
    assert_eq!(one(10).unwrap(), [Appended::New]);
    assert!(matches!(one(11), Err(StoreError::NotDurable(_))));
    // Nothing wrong with this one, but what reached the disk is not known any more.
    assert!(matches!(one(12), Err(StoreError::NotDurable(_))));
    assert!(matches!(store.forget(at(900), 10), Err(StoreError::NotDurable(_))));
    assert!(matches!(store.set_setting("name", "other"), Err(StoreError::NotDurable(_))));
    let status = store.status();
    assert!(!status.is_ready() && status.failure.is_some());
    assert!(store.find(&revocation(10).id).unwrap().is_some(), "it still answers questions");
    drop(store);
    other.execute_batch("DROP TRIGGER full").unwrap();
    drop(other);
    let after = verified(folder.path()).unwrap();
    assert_eq!((after.len(), after.is_superset(&all)), (10, true), "acknowledged: there; refused: not");
}

#[test]
fn many_writers_share_their_commits() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(open(folder.path()).unwrap());
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                for n in 0..40 {
                    append_revocations(&*store, [1_000 * writer + n]);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    assert_eq!(store.status().sequence, 320);
    drop(Arc::into_inner(store));
    assert_eq!(verified(folder.path()).unwrap().len(), 320);
}

#[test]
fn a_full_queue_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let other = Connection::open(folder.path().join("revocations.db")).unwrap();
    // The writer waits for this one, and the queue fills.
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let answers: Vec<_> = (0..2 * QUEUE).map(|_| store.append(Vec::new())).collect();
    other.execute_batch("ROLLBACK").unwrap();
    let busy =
        answers.into_iter().map(|it| it.blocking_recv().unwrap()).filter(|it| matches!(it, Err(StoreError::Busy)));
    assert!((1..=QUEUE).contains(&busy.count()));
    append_revocations(&store, 1..=1);
}

#[test]
fn a_large_replay_is_shared_among_threads() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let count = 120_000_u64;
    for first in (0..count).step_by(10_000) {
        let bodies = (first..first + 10_000).map(|n| Body::Revocation(revocation(n)));
        store.append(entries(&store, bodies)).blocking_recv().unwrap().unwrap();
    }
    let threads = Mutex::new(BTreeSet::new());
    let sum = Mutex::new(0_u64);
    store
        .replay(&|live| {
            threads.lock().unwrap().insert(format!("{:?}", thread::current().id()));
            let InForce { forget_at, .. } = live.effect;
            *sum.lock().unwrap() += forget_at.unwrap().secs().cast_unsigned();
        })
        .unwrap();
    assert_eq!(sum.into_inner().unwrap(), (0..count).sum::<u64>());
    assert!(threads.into_inner().unwrap().len() >= thread::available_parallelism().map_or(1, usize::from).min(2));
}
