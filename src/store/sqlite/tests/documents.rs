//! What can happen to documents on a disk.

use super::*;
use crate::store::document::{Document, DocumentKind};
use crate::store::tests::documents::{all, document, put};
use crate::store::{Put, Store};

/// A closed store of documents, some of them replaced, and what they say.
fn filled(count: usize) -> (TempDir, Vec<Document>) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let one = |n: usize, revision| {
        let kind = DocumentKind::ALL[n % DocumentKind::ALL.len()];
        let forget_at = n.is_multiple_of(3).then(|| at(n.try_into().unwrap()));
        Document { forget_at, ..document(kind, &format!("key-{n}"), revision) }
    };
    put(&store, (0..count).map(|n| (one(n, 1), Some(0)))).unwrap();
    put(&store, (0..count).step_by(2).map(|n| (one(n, 2), Some(1)))).unwrap();
    let found = found(&store);
    assert_eq!(found.len(), count);
    (folder, found)
}

pub(super) fn found(store: &dyn Store) -> Vec<Document> {
    DocumentKind::ALL.into_iter().flat_map(|kind| all(store, kind)).collect()
}

/// The documents after opening and verifying `folder`; an error when that refuses it.
pub(super) fn verified_documents(folder: &Path) -> Result<Vec<Document>, String> {
    let store = open(folder).map_err(|error| error.to_string())?;
    in_force(&store).map_err(|error| error.to_string())?;
    Ok(found(&store))
}

#[test]
fn documents_are_there_again() {
    let (folder, documents) = filled(40);
    assert_eq!(verified_documents(folder.path()).unwrap(), documents);
    let store = open(folder.path()).unwrap();
    let next = Document { revision: 3, ..documents[0].clone() };
    assert_eq!(put(&store, [(next.clone(), Some(2))]).unwrap(), Put::Written);
    // As the disk is at this moment, with the log not yet merged.
    let crashed = copy(folder.path());
    assert!(verified_documents(crashed.path()).unwrap().contains(&next));
}

#[test]
fn damaged_documents_are_never_read_as_others() {
    let (folder, documents) = filled(60);
    let whole = fs::read(folder.path().join("revocations.db")).unwrap();
    let with = |bytes: &[u8]| {
        let damaged = copy(folder.path());
        fs::write(damaged.path().join("revocations.db"), bytes).unwrap();
        verified_documents(damaged.path())
    };
    let mut refused = 0;
    for (at, bit) in positions(&whole).take(150) {
        let mut bytes = whole.clone();
        bytes[at] ^= bit;
        match with(&bytes) {
            Ok(found) => assert_eq!(found, documents, "bit {bit} of byte {at}"),
            Err(_) => refused += 1,
        }
    }
    // The others hit what replaced rows left behind, the words of the schema, or the index that only forgetting uses.
    assert!(refused > 50, "{refused}");
    for page in 0..whole.len() / 4096 {
        let mut bytes = whole.clone();
        bytes[page * 4096..(page + 1) * 4096].fill(0);
        with(&bytes).map(|found| assert_eq!(found, documents, "page {page}")).unwrap_or_default();
        with(&whole[..page * 4096]).map(|found| assert_eq!(found, documents, "cut at {page}")).unwrap_or_default();
    }
}

#[test]
fn documents_changed_by_hand_are_noticed() {
    let changes = [
        "DELETE FROM documents WHERE seq = 4",
        "DELETE FROM documents",
        "UPDATE documents SET revision = 9 WHERE seq = 4",
        "UPDATE documents SET body = '{}' WHERE seq = 4",
        "UPDATE documents SET key = 'other' WHERE seq = 4",
        "UPDATE documents SET kind = 3 WHERE seq = 4",
        "UPDATE documents SET forget_at = 1 WHERE seq = 4",
        "UPDATE documents SET seq = 1000 WHERE seq = 4",
        "INSERT INTO documents SELECT 99, origin, version, kind, 'x', revision, body, forget_at, checksum FROM documents LIMIT 1",
        "DROP INDEX documents_by_key",
        "UPDATE documents SET origin = 9 WHERE seq = 4",
        "DROP INDEX documents_by_origin",
        "DROP TABLE documents",
        "DROP TABLE documents; PRAGMA user_version = 1",
        "PRAGMA user_version = 2",
        "PRAGMA user_version = 1",
    ];
    for change in changes {
        let (folder, _) = filled(9);
        let connection = Connection::open(folder.path().join("revocations.db")).unwrap();
        connection.execute_batch(change).unwrap();
        drop(connection);
        let error = verified_documents(folder.path()).expect_err(change);
        assert!(error.contains("--accept-loss"), "{change}: {error}");
    }
}

#[test]
fn an_older_document_is_noticed() {
    let (folder, documents) = filled(9);
    let older = copy(folder.path());
    let store = open(folder.path()).unwrap();
    put(&store, [(Document { revision: 3, ..documents[0].clone() }, Some(2))]).unwrap();
    drop(store);
    fs::copy(older.path().join("revocations.db"), folder.path().join("revocations.db")).unwrap();
    assert!(matches!(damage(folder.path()), Damage::Behind { database: 14, mark: 15 }));
}

#[test]
fn a_put_that_fails_is_not_acknowledged() {
    let (folder, documents) = filled(9);
    let store = open(folder.path()).unwrap();
    let other = Connection::open(folder.path().join("revocations.db")).unwrap();
    other
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON documents WHEN new.revision = 7 \
             BEGIN SELECT RAISE(ABORT, 'no space'); END",
        )
        .unwrap();
    let write = |n: usize, revision| put(&store, [(Document { revision, ..documents[n].clone() }, None)]);
    assert_eq!(write(0, 6).unwrap(), Put::Written);
    assert!(matches!(write(0, 7), Err(StoreError::NotDurable(_))));
    assert!(matches!(write(1, 8), Err(StoreError::NotDurable(_))), "what reached the disk is not known");
    drop(store);
    other.execute_batch("DROP TRIGGER full").unwrap();
    drop(other);
    let after = verified_documents(folder.path()).unwrap();
    let revision = |of: &Document| after.iter().find(|it| it.key == of.key).unwrap().revision;
    assert_eq!((revision(&documents[0]), revision(&documents[1])), (6, documents[1].revision));
}
