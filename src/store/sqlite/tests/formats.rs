//! Stores that earlier releases left behind.

use super::documents::{found, verified_documents};
use super::*;
use crate::revocation::{Form, Lift, Revocation};
use crate::store::document::{Document, DocumentKind};
use crate::store::tests::documents::{document, put};
use crate::store::tests::nodes::{adopt, entry, every_entry};

/// The files that make a store of each format, and the rows that its release put there.
const FORMAT_1: [&str; 2] = [include_str!("../format-1.sql"), include_str!("../format-1-rows.sql")];
const FORMAT_2: [&str; 3] =
    [include_str!("../format-1.sql"), include_str!("../format-2.sql"), include_str!("../format-2-rows.sql")];

/// A store as the release of a format left it.
fn left(format: i64, files: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let connection = Connection::open(folder.path().join("revocations.db")).unwrap();
    for file in files {
        connection.execute_batch(file).unwrap();
    }
    connection.execute_batch(&format!("PRAGMA application_id = 1346587731; PRAGMA user_version = {format}")).unwrap();
    let of = |what: &str| format!("SELECT {what} FROM state");
    let store_id = connection.query_row(&of("store_id"), [], |row| row.get(0)).unwrap();
    let sequence: i64 = connection.query_row(&of("sequence"), [], |row| row.get(0)).unwrap();
    let mark = mark::Mark { store_id, sequence: sequence.cast_unsigned() };
    mark::MarkFile::create(&folder.path().join("mark"), &mark).unwrap();
    folder
}

pub(super) fn left_by_format_2() -> TempDir {
    left(2, &FORMAT_2)
}

/// What the database says that it is made of.
fn schema(folder: &Path) -> Vec<String> {
    let connection = Connection::open(folder.join("revocations.db")).unwrap();
    let sql = "SELECT coalesce(sql, name) FROM sqlite_master ORDER BY type, name";
    let mut statement = connection.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_store_of_format_1_is_taken_over() {
    let folder = left(1, &FORMAT_1);
    let kept = {
        let store = open(folder.path()).unwrap();
        let kept = in_force(&store).unwrap();
        assert_eq!((kept.len(), store.own_sequence()), (9, 10));
        assert!(store.find(&revocation(2).id).unwrap().unwrap().lifted.is_some());
        assert_eq!(store.find(&revocation(3).id).unwrap().unwrap().revocation, revocation(3));
        assert_eq!(store.setting("name").unwrap().as_deref(), Some("value"));
        assert_eq!(found(&store), []);
        put(&store, [(document(DocumentKind::Family, "a", 1), Some(0))]).unwrap();
        append_revocations(&store, [10]);
        kept
    };
    let store = open(folder.path()).unwrap();
    let now = in_force(&store).unwrap();
    assert_eq!((now.len(), now.is_superset(&kept)), (10, true));
    assert_eq!(found(&store), [document(DocumentKind::Family, "a", 1)]);
}

#[test]
fn a_store_of_format_2_is_taken_over() {
    let folder = left(2, &FORMAT_2);
    let store = open(folder.path()).unwrap();
    let kept = in_force(&store).unwrap();
    assert_eq!((kept.len(), store.own_sequence(), store.status().records), (7, 10, 16));
    assert_eq!(store.find(&revocation(2).id).unwrap().unwrap().lifted, Some(lift(&revocation(2), Some(at(7)))));
    assert_eq!(store.find(&revocation(3).id).unwrap().unwrap().lifted, Some(lift(&revocation(3), None)));
    let form = Form::Before { issued: Some(at(5)), authenticated: Some(at(4)) };
    let cutoff = Revocation { id: "cutoff".parse().unwrap(), form, ..revocation(8) };
    assert_eq!(store.find(&cutoff.id).unwrap().unwrap().revocation, cutoff);
    assert_eq!(store.setting("name").unwrap().as_deref(), Some("value"));
    let documents = found(&store);
    let written = |kind, n: u8, revision| document(kind, &format!("key-{n}"), revision);
    let [family, session, replacement, key] = DocumentKind::ALL;
    assert_eq!(
        documents,
        [
            written(family, 4, 1),
            written(session, 1, 2),
            written(session, 5, 1),
            written(replacement, 2, 1),
            Document { forget_at: Some(at(9)), ..written(key, 3, 1) },
        ]
    );
    // All of it is this node's own, in the order in which it was written.
    let own = store.written(0, 100).unwrap();
    assert!(own.len() == 15 && own.is_sorted_by_key(|it| it.seq), "{own:?}");
    assert_eq!(every_entry(&store).len(), 10);
    // And what could not be before: another record with an id, and another lift of a revocation.
    let theirs = [
        entry("a", 1, Body::Revocation(Revocation { at: at(5), ..revocation(4) })),
        entry("a", 2, Body::Lift(Lift { at: at(5), leaves: Some(at(8)), ..lift(&revocation(2), None) })),
    ];
    assert_eq!(adopt(&store, theirs, []).unwrap().entries, [Appended::New; 2]);
    drop(store);
    let now = verified(folder.path()).unwrap();
    assert_eq!((now.len(), now.is_superset(&kept)), (8, true));
}

#[test]
fn a_store_that_was_taken_over_is_made_like_a_new_one() {
    let (new, _) = filled(2);
    for (format, files) in [(1, &FORMAT_1[..]), (2, &FORMAT_2[..])] {
        let folder = left(format, files);
        drop(open(folder.path()).unwrap());
        assert_eq!(schema(folder.path()), schema(new.path()));
    }
}

#[test]
fn a_damaged_store_of_an_earlier_format_is_refused_all_the_same() {
    for change in [
        "DELETE FROM revocations WHERE seq = 4",
        "DELETE FROM lifts",
        "UPDATE lifts SET revocation = 'id-5' WHERE seq = 10",
        "DELETE FROM state",
        "DROP TABLE lifts",
        "PRAGMA user_version = 0",
    ] {
        for (format, files) in [(1, &FORMAT_1[..]), (2, &FORMAT_2[..])] {
            let folder = left(format, files);
            let connection = Connection::open(folder.path().join("revocations.db")).unwrap();
            connection.execute_batch(change).unwrap();
            drop(connection);
            let error = verified_documents(folder.path()).expect_err(change);
            assert!(error.contains("--accept-loss"), "{format} {change}: {error}");
        }
    }
}

#[test]
fn a_store_that_could_not_be_taken_over_is_left_as_it_was() {
    let folder = left(2, &FORMAT_2);
    let path = folder.path().join("revocations.db");
    // Something in the way of the last step.
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE restricted (x)").unwrap();
    let before = schema(folder.path());
    assert!(verified(folder.path()).is_err());
    assert_eq!(schema(folder.path()), before);
    Connection::open(&path).unwrap().execute_batch("DROP TABLE restricted").unwrap();
    assert_eq!(verified(folder.path()).unwrap().len(), 7);
}
