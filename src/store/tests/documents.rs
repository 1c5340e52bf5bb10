//! Documents: one contract, whichever the store.

use std::sync::Arc;
use std::thread;

use super::*;

pub(in crate::store) fn document(kind: DocumentKind, key: &str, revision: u64) -> Document {
    let body = format!("{{\"key\":\"{key}\",\"revision\":{revision}}}");
    Document { kind, key: key.to_owned(), revision, body, forget_at: None }
}

pub(in crate::store) fn put(
    store: &dyn Store,
    writes: impl IntoIterator<Item = (Document, Option<u64>)>,
) -> Result<Put, StoreError> {
    let writes = writes.into_iter().map(|(document, expects)| DocumentWrite { document, expects }).collect();
    store.put(writes).blocking_recv().unwrap()
}

pub(in crate::store) fn all(store: &dyn Store, kind: DocumentKind) -> Vec<Document> {
    let mut found = Vec::new();
    store.documents(kind, &mut |it| found.push(it)).unwrap();
    found
}

fn family(key: &str, revision: u64) -> Document {
    document(DocumentKind::Family, key, revision)
}

#[test]
fn the_last_write_is_what_is_there() {
    for (store, _folder) in both() {
        assert_eq!(store.document(DocumentKind::Family, "a").unwrap(), None);
        for revision in 1..=5 {
            let written = put(&*store, [(family("a", revision), Some(revision - 1))]).unwrap();
            assert_eq!(written, Put::Written);
            assert_eq!(store.document(DocumentKind::Family, "a").unwrap(), Some(family("a", revision)));
        }
        let status = store.status();
        assert_eq!((status.records, status.sequence), (1, 5), "{}", status.engine);
        assert_eq!(store.own_sequence(), 0, "a document is no entry of a node");
        in_force(&*store).unwrap();
    }
}

#[test]
fn a_write_that_meets_another_than_it_expects_changes_nothing() {
    for (store, _folder) in both() {
        put(&*store, [(family("a", 3), None)]).unwrap();
        for (revision, expects) in [(1, Some(0)), (4, Some(2)), (4, Some(0)), (5, Some(4)), (3, None), (2, None)] {
            let outcome = put(&*store, [(family("a", revision), expects)]).unwrap();
            assert_eq!(outcome, Put::Conflict(Some(family("a", 3))), "{revision} {expects:?}");
        }
        assert_eq!(put(&*store, [(family("b", 2), Some(1))]).unwrap(), Put::Conflict(None));
        assert_eq!(all(&*store, DocumentKind::Family), [family("a", 3)]);
        assert_eq!(put(&*store, [(family("a", 9), None)]).unwrap(), Put::Written);
    }
}

#[test]
fn writes_of_one_put_are_all_made_or_none() {
    for (store, _folder) in both() {
        put(&*store, [(family("b", 1), Some(0))]).unwrap();
        let outcome = put(&*store, [(family("a", 1), Some(0)), (family("b", 1), Some(0)), (family("c", 1), None)]);
        assert_eq!(outcome.unwrap(), Put::Conflict(Some(family("b", 1))));
        assert_eq!(all(&*store, DocumentKind::Family), [family("b", 1)]);
        let outcome = put(&*store, [(family("a", 1), Some(0)), (family("b", 2), Some(1)), (family("c", 1), None)]);
        assert_eq!(outcome.unwrap(), Put::Written);
        assert_eq!(all(&*store, DocumentKind::Family), [family("a", 1), family("b", 2), family("c", 1)]);
        assert_eq!(put(&*store, []).unwrap(), Put::Written, "nothing is written at once");
        in_force(&*store).unwrap();
    }
}

#[test]
fn kinds_have_keys_of_their_own() {
    for (store, _folder) in both() {
        for kind in DocumentKind::ALL {
            assert_eq!(put(&*store, [(document(kind, "a", 1), Some(0))]).unwrap(), Put::Written);
        }
        for kind in DocumentKind::ALL {
            assert_eq!(all(&*store, kind), [document(kind, "a", 1)]);
        }
    }
}

#[test]
fn a_document_that_has_lapsed_is_dropped() {
    for (store, _folder) in both() {
        append_revocations(&*store, [3]);
        let until = |key: &str, secs| Document { forget_at: Some(at(secs)), ..family(key, 1) };
        put(&*store, [(until("a", 2), None), (until("b", 3), None), (until("c", 9), None), (family("d", 1), None)])
            .unwrap();
        assert_eq!(store.forget(at(4), 2).unwrap(), 2, "the revocation, and one of them");
        assert_eq!(store.forget(at(4), 2).unwrap(), 1);
        assert_eq!(store.forget(at(4), 2).unwrap(), 0);
        assert_eq!(all(&*store, DocumentKind::Family), [until("c", 9), family("d", 1)]);
        assert_eq!(store.status().records, 2);
        assert_eq!(put(&*store, [(family("a", 1), Some(0))]).unwrap(), Put::Written, "as if it had never been");
        in_force(&*store).unwrap();
    }
}

#[test]
fn of_many_that_expect_the_same_one_comes_through() {
    for (store, _folder) in both() {
        let store: Arc<dyn Store> = Arc::from(store);
        put(&*store, [(family("a", 1), Some(0))]).unwrap();
        for revision in 2..12 {
            let rivals: Vec<_> = (0..8)
                .map(|n| {
                    let store = Arc::clone(&store);
                    thread::spawn(move || {
                        let mine = Document { body: n.to_string(), ..family("a", revision) };
                        let outcome = put(&*store, [(mine.clone(), Some(revision - 1))]).unwrap();
                        (mine, outcome)
                    })
                })
                .collect();
            let outcomes: Vec<_> = rivals.into_iter().map(|it| it.join().unwrap()).collect();
            let winners: Vec<_> = outcomes.iter().filter(|(_, outcome)| *outcome == Put::Written).collect();
            let [(winner, _)] = winners[..] else { panic!("{outcomes:?}") };
            let told =
                |(mine, outcome): &(Document, Put)| mine == winner || *outcome == Put::Conflict(Some(winner.clone()));
            assert!(outcomes.iter().all(told), "{outcomes:?}");
        }
    }
}

#[test]
fn what_is_no_document_is_refused() {
    for (store, _folder) in both() {
        let refused = |writes: Vec<Document>| match put(&*store, writes.into_iter().map(|it| (it, None))) {
            Err(StoreError::Unfit(why)) => why,
            other => panic!("{other:?}"),
        };
        let long = "x".repeat(MAX_DOCUMENT_BYTES + 1);
        assert_eq!(refused(vec![Document { body: long, ..family("a", 1) }]), UnfitDocument::TooLong);
        let key = "x".repeat(MAX_DOCUMENT_KEY_BYTES + 1);
        assert_eq!(refused(vec![family(&key, 1)]), UnfitDocument::KeyTooLong);
        assert_eq!(refused(vec![family("a", 0)]), UnfitDocument::Revision);
        assert_eq!(refused(vec![family("a", u64::MAX)]), UnfitDocument::Revision);
        assert_eq!(refused(vec![family("a", 1), family("a", 2)]), UnfitDocument::Twice);
        let many = (0..=MAX_DOCUMENTS_PER_PUT).map(|n| family(&n.to_string(), 1)).collect();
        assert_eq!(refused(many), UnfitDocument::TooMany);
        assert_eq!(all(&*store, DocumentKind::Family), []);
        let most = Document { body: "x".repeat(MAX_DOCUMENT_BYTES), ..family(&"k".repeat(MAX_DOCUMENT_KEY_BYTES), 1) };
        assert_eq!(put(&*store, [(most, None)]).unwrap(), Put::Written);
    }
}

#[test]
fn a_store_with_too_many_documents_takes_no_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = SqliteStore::open_with(folder.path(), AcceptLoss::No, 2).unwrap();
    let stores: [Box<dyn Store>; 2] = [Box::new(sqlite), Box::new(MemoryStore::with_max_documents(2))];
    for store in stores {
        let over = Document { forget_at: Some(at(1)), ..family("a", 1) };
        put(&*store, [(over, None), (family("b", 1), None)]).unwrap();
        let refused = put(&*store, [(family("b", 2), None), (family("c", 1), None)]);
        assert!(matches!(refused, Err(StoreError::Full(DocumentKind::Family))), "{refused:?}");
        assert_eq!(store.document(DocumentKind::Family, "b").unwrap(), Some(family("b", 1)), "all or none");
        assert_eq!(put(&*store, [(family("b", 2), None)]).unwrap(), Put::Written, "one that is there is replaced");
        assert_eq!(put(&*store, [(document(DocumentKind::Key, "c", 1), None)]).unwrap(), Put::Written);
        assert!(store.status().is_ready());
        store.forget(at(2), 10).unwrap();
        assert_eq!(put(&*store, [(family("c", 1), None)]).unwrap(), Put::Written, "there is room again");
    }
}
