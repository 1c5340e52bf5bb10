//! Looking at a store that is in use, and making a new one of a damaged one.

use super::documents::found;
use super::nodes::filled_by_many;
use super::*;
use crate::store::tests::nodes::{adopt, entry, every_entry};
use crate::store::{Line, Rebuilt, Snapshot, rebuild};

fn lines(snapshot: &Snapshot) -> Vec<Line> {
    let mut lines = Vec::new();
    snapshot.lines(&mut |line| lines.push(line)).unwrap();
    lines
}

fn change(folder: &Path, sql: &str) {
    let connection = Connection::open(folder.join("revocations.db")).unwrap();
    connection.execute_batch(sql).unwrap();
}

#[test]
fn a_snapshot_is_of_one_moment_of_a_store_in_use() {
    let (folder, _) = filled_by_many(20);
    let store = open(folder.path()).unwrap();
    let snapshot = Snapshot::open(folder.path()).unwrap();
    let entries = every_entry(&store);
    append_revocations(&store, 500..=600);
    adopt(&store, [entry("x", 1, Body::Revocation(revocation(700)))], []).unwrap();
    store.forget(at(10), 100).unwrap();
    snapshot.verify().unwrap();
    assert_eq!((snapshot.store_id(), snapshot.records()), (store.store_id(), 48));
    let lines = lines(&snapshot);
    let Line::Header(header) = &lines[0] else { panic!("{:?}", lines[0]) };
    assert_eq!((header.lines, header.sequence), (Some(48), snapshot.sequence()));
    let mut seen: Vec<_> =
        lines.iter().filter_map(|it| if let Line::Entry(it) = it { Some(it.clone()) } else { None }).collect();
    seen.sort_by_key(|it| (it.origin.clone(), it.origin_seq, it.body.id().clone()));
    assert_eq!(seen, entries);
    assert_eq!(lines.iter().filter(|it| matches!(it, Line::Document(_))).count(), 3);
    let now = Snapshot::open(folder.path()).unwrap();
    now.verify().unwrap();
    assert!(now.records() > 48);
    append_revocations(&store, 800..=801);
}

#[test]
fn looking_at_a_store_makes_none() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Snapshot::open(folder.path()), Err(OpenError::Files { .. })));
    assert!(matches!(rebuild(folder.path()), Err(OpenError::Files { .. })));
    assert!(matches!(rebuild(&folder.path().join("nowhere")), Err(OpenError::Files { .. })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_store_of_an_earlier_release_is_not_changed_by_looking_at_it() {
    let folder = formats::left_by_format_2();
    let looked = Snapshot::open(folder.path());
    assert!(matches!(looked, Err(OpenError::Earlier { format: 2, .. })), "{looked:?}");
    drop(open(folder.path()).unwrap());
    Snapshot::open(folder.path()).unwrap().verify().unwrap();
}

#[test]
fn a_store_that_is_whole_is_not_rebuilt() {
    let (folder, all) = filled(9);
    let store = open(folder.path()).unwrap();
    assert!(matches!(rebuild(folder.path()), Err(OpenError::InUse { .. })));
    drop(store);
    assert_eq!(rebuild(folder.path()).unwrap(), Rebuilt { kept: 11, lost: Some(0), aside: None });
    assert_eq!(verified(folder.path()).unwrap(), all);
}

/// Rebuilds; what is in force then must be whole, and no more than what was.
fn rebuilt(folder: &Path, all: &BTreeSet<String>) -> Rebuilt {
    let rebuilt = rebuild(folder).unwrap();
    let now = verified(folder).unwrap();
    assert!(now.is_subset(all), "{now:?}");
    assert!(rebuilt.aside.as_ref().unwrap().exists());
    assert_eq!(open(folder).unwrap().status().records, rebuilt.kept);
    rebuilt
}

#[test]
fn what_is_whole_of_a_damaged_store_is_kept() {
    for (sql, kept, lost) in [
        ("DELETE FROM revocations WHERE seq = 3", 47, Some(1)),
        ("UPDATE revocations SET forget_at = 5 WHERE seq = 3", 47, Some(1)),
        ("UPDATE others SET says = '' WHERE id = 'new-3'", 47, Some(1)),
        ("UPDATE documents SET body = '[]' WHERE key = 'x'", 47, Some(1)),
        ("DROP TABLE others", 28, Some(20)),
        ("DELETE FROM restricted", 48, Some(0)),
        ("DROP INDEX revocations_by_target", 48, Some(0)),
        ("DELETE FROM state", 48, None),
        ("UPDATE state SET records = 0, digest = 0", 48, None),
        ("UPDATE names SET name = 'x' WHERE name = 'a'", 25, Some(23)),
        ("DELETE FROM names WHERE name = 'd'", 28, Some(20)),
    ] {
        let (folder, all) = filled_by_many(20);
        let id = open(folder.path()).unwrap().store_id().to_owned();
        change(folder.path(), sql);
        assert!(verified(folder.path()).is_err(), "{sql}");
        let rebuilt = rebuilt(folder.path(), &all);
        assert_eq!((rebuilt.kept, rebuilt.lost), (kept, lost), "{sql}");
        let store = open(folder.path()).unwrap();
        assert_eq!(store.store_id(), id, "{sql}: it is the same store");
        assert!(store.own_sequence() >= 3, "{sql}: no number is given twice");
        assert!(store.status().sequence >= 48, "{sql}");
        append_revocations(&store, [900]);
    }
}

#[test]
fn everything_a_node_said_and_kept_is_rebuilt() {
    let (folder, all) = filled_by_many(20);
    let store = open(folder.path()).unwrap();
    store.set_setting("name", "value").unwrap();
    let (entries, documents) = (every_entry(&store), found(&store));
    drop(store);
    change(folder.path(), "DROP INDEX others_by_origin; DROP INDEX documents_by_key");
    assert_eq!(rebuilt(folder.path(), &all).lost, Some(0));
    let store = open(folder.path()).unwrap();
    assert_eq!((every_entry(&store), found(&store)), (entries, documents));
    assert_eq!(store.setting("name").unwrap().as_deref(), Some("value"));
    assert_eq!(in_force(&store).unwrap(), all);
}

#[test]
fn what_lies_around_damage_is_kept() {
    let (folder, all) = filled_by_many(150);
    let whole = fs::read(folder.path().join("revocations.db")).unwrap();
    let total = 3 + 150 + 2 + 150 + 3;
    let (mut most, mut hopeless) = (0, 0);
    let pages = whole.len() / 4096;
    for page in 0..pages {
        let damaged = copy(folder.path());
        let mut bytes = whole.clone();
        bytes[page * 4096..(page + 1) * 4096].fill(0);
        fs::write(damaged.path().join("revocations.db"), &bytes).unwrap();
        if verified(damaged.path()).is_ok() {
            continue;
        }
        match rebuild(damaged.path()) {
            Ok(rebuilt) => {
                let now = verified(damaged.path()).unwrap();
                // Without its lift, a revocation is in force again.
                assert!(now.difference(&all).all(|it| it.contains("token-2 ")), "page {page}");
                assert!(rebuilt.lost.is_none_or(|lost| lost + rebuilt.kept == total), "page {page}: {rebuilt:?}");
                assert!(rebuilt.lost != Some(0) || now == all, "page {page}: {rebuilt:?}");
                most += usize::from(rebuilt.kept > total - 100);
            }
            Err(error) => {
                assert!(matches!(error, OpenError::Damaged { .. } | OpenError::Hopeless { .. }), "{page}: {error}");
                assert!(error.to_string().contains("--accept-loss"), "{error}");
                hopeless += 1;
            }
        }
    }
    // The first pages say what there is; a page that leads to others costs what it leads to.
    assert!(hopeless <= 5 && most > pages / 2, "{hopeless} {most} of {pages}");
}

#[test]
fn an_older_copy_goes_on_with_numbers_that_were_never_given() {
    let (folder, all) = filled(3);
    let older = copy(folder.path());
    let store = open(folder.path()).unwrap();
    append_revocations(&store, 10..=12);
    drop(store);
    fs::copy(older.path().join("revocations.db"), folder.path().join("revocations.db")).unwrap();
    let rebuilt = rebuilt(folder.path(), &all);
    assert_eq!((rebuilt.kept, rebuilt.lost), (5, None), "what is lost can not be told");
    let store = open(folder.path()).unwrap();
    assert_eq!((store.own_sequence(), store.status().sequence), (7, 7));
    assert_eq!(in_force(&store).unwrap(), all);
}

#[test]
fn what_cannot_be_rebuilt_stays_as_it_is() {
    for (name, bytes) in [("revocations.db", &b""[..]), ("revocations.db", &[b'x'; 9000][..])] {
        let (folder, _) = filled(3);
        fs::write(folder.path().join(name), bytes).unwrap();
        let error = rebuild(folder.path()).unwrap_err();
        assert!(error.to_string().contains("--accept-loss"), "{error}");
        assert_eq!(fs::read(folder.path().join(name)).unwrap(), bytes);
    }
    let (folder, _) = filled(3);
    change(folder.path(), "DELETE FROM names; DELETE FROM settings");
    let error = rebuild(folder.path()).unwrap_err();
    assert!(matches!(error, OpenError::Hopeless { .. }), "{error}");
    let names = fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap());
    assert!(!names.into_iter().any(|it| it.contains("damaged") || it.contains("new")));
    let (folder, _) = filled(3);
    change(folder.path(), "PRAGMA user_version = 9");
    let error = rebuild(folder.path()).unwrap_err();
    assert!(error.to_string().contains("later release"), "{error}");
    let (folder, _) = filled(3);
    fs::remove_file(folder.path().join("revocations.db")).unwrap();
    let error = rebuild(folder.path()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { damage: Damage::DatabaseMissing, .. }), "{error}");
}

#[test]
fn a_crash_on_the_way_to_a_new_store_is_not_read_as_an_empty_one() {
    let (folder, _) = filled(3);
    change(folder.path(), "DELETE FROM revocations WHERE seq = 3");
    // Between the two moves: the old one is aside, and the new one not yet there.
    drop(Files::within(folder.path()).set_database_aside().unwrap());
    assert!(matches!(damage(folder.path()), Damage::DatabaseMissing));
}

#[test]
fn a_damaged_store_of_an_earlier_format_is_rebuilt() {
    let folder = formats::left_by_format_2();
    let all = verified(copy(folder.path()).path()).unwrap();
    // So that it cannot be taken over either.
    change(folder.path(), "DROP TABLE lifts; DELETE FROM revocations WHERE seq = 4");
    let rebuilt = rebuild(folder.path()).unwrap();
    assert_eq!((rebuilt.kept, rebuilt.lost), (13, None));
    // Without lifts, what they lifted is in force again.
    let now = verified(folder.path()).unwrap();
    assert_eq!((now.len(), now.difference(&all).count()), (7, 2));
}
