//! What other nodes said: one contract, whichever the store.

use proptest::prelude::*;

use super::documents::{all, document, put};
use super::*;

pub(in crate::store) fn entry(origin: &str, origin_seq: u64, body: Body) -> Entry {
    Entry { origin: origin.to_owned(), origin_seq, version: Entry::VERSION, body }
}

/// A record of a later release, about tokens.
pub(in crate::store) fn other(id: &str, tokens: &[u64]) -> Other {
    Other {
        id: id.parse().unwrap(),
        kind: "quota".to_owned(),
        says: "{\"limit\":3}".to_owned(),
        restricts: tokens.iter().map(|n| revocation(*n).target).collect(),
        at: at(1),
        forget_at: Some(at(50)),
    }
}

pub(in crate::store) fn adopt(
    store: &dyn Store,
    entries: impl IntoIterator<Item = Entry>,
    documents: impl IntoIterator<Item = (&'static str, Document)>,
) -> Result<Adoption, StoreError> {
    let documents = documents.into_iter().map(|(origin, document)| Adopted { origin: origin.to_owned(), document });
    store.adopt(entries.into_iter().collect(), documents.collect(), Vec::new()).blocking_recv().unwrap()
}

fn adopt_entries(store: &dyn Store, entries: impl IntoIterator<Item = Entry>) -> Vec<Appended> {
    adopt(store, entries, []).unwrap().entries
}

/// Every entry, in an order of its own.
pub(in crate::store) fn every_entry(store: &dyn Store) -> Vec<Entry> {
    let mut found = Vec::new();
    store.entries(&mut |it| found.push(it)).unwrap();
    found.sort_by_key(|it| (it.origin.clone(), it.origin_seq, it.body.id().clone()));
    found
}

fn every_document(store: &dyn Store) -> Vec<Document> {
    DocumentKind::ALL.into_iter().flat_map(|kind| all(store, kind)).collect()
}

/// What is in force for a target, joined.
fn in_force_for(store: &dyn Store, target: &Target) -> Option<InForce> {
    let mut joined: Option<InForce> = None;
    store.live(target, &mut |live| joined = Some(joined.map_or(live.effect, |it| it.join(live.effect)))).unwrap();
    joined
}

fn family(key: &str, revision: u64, body: &str) -> Document {
    Document { body: body.to_owned(), ..document(DocumentKind::Family, key, revision) }
}

#[test]
fn what_is_adopted_twice_is_there_once() {
    for (store, _folder) in both() {
        let entries = || {
            [
                entry("a", 1, Body::Revocation(revocation(1))),
                entry("b", 1, Body::Lift(lift(&revocation(1), None))),
                entry("b", 2, Body::Other(other("new", &[7]))),
            ]
        };
        assert_eq!(adopt_entries(&*store, entries()), [Appended::New; 3]);
        assert_eq!(adopt_entries(&*store, entries()), [Appended::Known; 3]);
        assert_eq!(every_entry(&*store), entries());
        let status = store.status();
        assert_eq!((status.sequence, status.records, store.own_sequence()), (3, 3, 0), "{}", status.engine);
        in_force(&*store).unwrap();
    }
}

#[test]
fn nodes_that_number_alike_lose_nothing() {
    for (store, _folder) in both() {
        // A node that was put back to an older copy, and wrote before it heard what it had said.
        adopt_entries(&*store, [entry("a", 1, Body::Revocation(revocation(1)))]);
        assert_eq!(adopt_entries(&*store, [entry("a", 1, Body::Revocation(revocation(2)))]), [Appended::New]);
        assert_eq!(in_force(&*store).unwrap().len(), 2);
    }
}

#[test]
fn two_nodes_may_use_one_id_for_one_thing() {
    for (store, _folder) in both() {
        let later = Revocation { at: at(2), actor: "else".to_owned(), ..revocation(1) };
        append_revocations(&*store, [1]);
        assert_eq!(adopt_entries(&*store, [entry("a", 1, Body::Revocation(later.clone()))]), [Appended::New]);
        assert_eq!(store.status().records, 2);
        assert_eq!(store.of_target(&later.target, 10).unwrap(), [later.clone(), revocation(1)]);
        assert!(!store.is_lifted(&later.id, &later.target).unwrap());
        // Whoever lifts it lifts both.
        adopt_entries(&*store, [entry("b", 1, Body::Lift(lift(&later, None)))]);
        assert!(store.is_lifted(&later.id, &later.target).unwrap());
        assert_eq!(in_force(&*store).unwrap().len(), 0);
        assert_eq!(in_force_for(&*store, &later.target), None);
        assert_eq!(store.of_target(&later.target, 10).unwrap(), []);
        let page = store.page(&Filter::default(), None, 10).unwrap();
        assert!(page.items.len() == 2 && page.items.iter().all(|it| it.lifted.is_some()), "{page:?}");
        assert_eq!(store.find(&later.id).unwrap().unwrap().lifted, Some(lift(&later, None)));
    }
}

#[test]
fn a_lift_is_of_one_thing_though_two_have_its_id() {
    for (store, _folder) in both() {
        let theirs = Revocation { target: revocation(2).target, ..revocation(1) };
        append_revocations(&*store, [1]);
        adopt_entries(&*store, [entry("a", 1, Body::Revocation(theirs.clone()))]);
        adopt_entries(&*store, [entry("b", 1, Body::Lift(lift(&revocation(1), None)))]);
        assert_eq!(in_force_for(&*store, &revocation(1).target), None);
        assert!(in_force_for(&*store, &theirs.target).is_some());
        assert!(store.is_lifted(&theirs.id, &revocation(1).target).unwrap());
        assert!(!store.is_lifted(&theirs.id, &theirs.target).unwrap());
        let all = in_force(&*store).unwrap();
        assert!(all.len() == 1 && all.iter().all(|it| it.contains("token-2")), "{all:?}");
        assert_eq!(store.of_target(&theirs.target, 10).unwrap(), std::slice::from_ref(&theirs));
        let found = store.find(&theirs.id).unwrap();
        assert_eq!(found, Some(Kept { revocation: theirs.clone(), lifted: None }), "what is in force comes first");
        let page = store.page(&Filter::default(), None, 10).unwrap();
        let lifted: Vec<_> = page.items.iter().map(|it| it.lifted.is_some()).collect();
        assert_eq!(lifted, [false, true]);
        let second = Lift { id: "second".parse().unwrap(), ..lift(&theirs, None) };
        assert_eq!(append(&*store, [Body::Lift(second)]).unwrap(), [Appended::New], "of the other target");
        assert_eq!(in_force(&*store).unwrap().len(), 0);
    }
}

#[test]
fn the_latest_cutoff_of_several_lifts_counts() {
    for (store, _folder) in both() {
        for cutoffs in [[7, 9, 8], [9, 8, 7]] {
            let of = revocation(cutoffs[0]);
            append_revocations(&*store, [cutoffs[0]]);
            let lifts = cutoffs.map(|cutoff| Lift {
                id: format!("{}-{cutoff}", of.id).parse().unwrap(),
                ..lift(&of, Some(at(cutoff.cast_signed())))
            });
            let lifts = (0..).zip(lifts).map(|(n, it)| entry(&format!("node-{n}"), cutoffs[0], Body::Lift(it)));
            assert_eq!(adopt_entries(&*store, lifts), [Appended::New; 3]);
            let form = in_force_for(&*store, &of.target).unwrap().form;
            assert_eq!(form, Form::Before { issued: Some(at(9)), authenticated: None });
            assert!(store.find(&of.id).unwrap().unwrap().lifted.is_some());
        }
        assert_eq!(in_force(&*store).unwrap().len(), 6);
    }
}

#[test]
fn a_lift_that_is_heard_of_before_its_revocation_lifts_it() {
    for (store, _folder) in both() {
        adopt_entries(&*store, [entry("b", 1, Body::Lift(lift(&revocation(1), None)))]);
        assert_eq!(store.find(&revocation(1).id).unwrap(), None);
        let entries = [1, 2].map(|n| entry("a", n, Body::Revocation(revocation(n))));
        adopt_entries(&*store, entries);
        let all = in_force(&*store).unwrap();
        assert!(all.len() == 1 && all.iter().all(|it| it.contains("token-2")), "{all:?}");
    }
}

#[test]
fn an_id_that_another_node_used_is_a_conflict_for_a_record_of_ones_own() {
    for (store, _folder) in both() {
        let theirs = Revocation { at: at(2), ..revocation(1) };
        adopt_entries(&*store, [entry("a", 1, Body::Revocation(theirs.clone()))]);
        let own = |it| append(&*store, [Body::Revocation(it)]).unwrap();
        assert_eq!(own(revocation(1)), [Appended::Conflict]);
        assert_eq!(own(theirs), [Appended::Known]);
        adopt_entries(&*store, [entry("b", 1, Body::Revocation(revocation(1)))]);
        assert_eq!(own(revocation(1)), [Appended::Known], "one of those that are there");
        assert_eq!((store.own_sequence(), store.status().records), (0, 2));
    }
}

#[test]
fn ones_own_entries_that_come_back_count() {
    for (store, _folder) in both() {
        append_revocations(&*store, 1..=2);
        let own = store.store_id().to_owned();
        let back = [9, 7].map(|n| entry(&own, n, Body::Revocation(revocation(n))));
        assert_eq!(adopt_entries(&*store, back), [Appended::New; 2]);
        assert_eq!(store.own_sequence(), 9);
        append_revocations(&*store, [10]);
        assert_eq!(store.own_sequence(), 10);
        assert_eq!(store.written(0, 10).unwrap().len(), 5);
        in_force(&*store).unwrap();
    }
}

#[test]
fn of_equal_revisions_all_nodes_keep_one() {
    let rivals = || {
        let forget_at = Some(at(9));
        [
            ("a", family("a", 3, "{\"a\":2}")),
            ("b", Document { forget_at, ..family("a", 3, "{\"b\":1}") }),
            ("c", family("a", 3, "{\"b\":1}")),
            ("d", family("a", 2, "{\"z\":9}")),
        ]
    };
    for turn in 0..4 {
        for (store, _folder) in both() {
            let mut taken = Vec::new();
            for n in 0..8 {
                taken.extend(adopt(&*store, [], [rivals()[(n + turn) % 4].clone()]).unwrap().documents);
            }
            assert_eq!(all(&*store, DocumentKind::Family), [family("a", 3, "{\"b\":1}")], "{turn}");
            assert!(taken[0] && !taken[4..].contains(&true), "{taken:?}");
            assert_eq!(store.status().records, 1);
            in_force(&*store).unwrap();
        }
    }
}

#[test]
fn adopted_and_own_documents_take_each_others_place() {
    for (store, _folder) in both() {
        put(&*store, [(family("a", 1, "1"), Some(0))]).unwrap();
        assert_eq!(adopt(&*store, [], [("b", family("a", 5, "5"))]).unwrap().documents, [true]);
        let outcome = put(&*store, [(family("a", 2, "2"), Some(1))]).unwrap();
        assert_eq!(outcome, Put::Conflict(Some(family("a", 5, "5"))));
        assert_eq!(store.written(0, 10).unwrap(), [], "it is theirs now");
        assert_eq!(put(&*store, [(family("a", 6, "6"), Some(5))]).unwrap(), Put::Written);
        let what = WrittenWhat::Document(family("a", 6, "6"));
        assert_eq!(store.written(0, 10).unwrap(), [Written { seq: 3, what }]);
        assert_eq!(adopt(&*store, [], [("b", family("a", 5, "5"))]).unwrap().documents, [false]);
    }
}

#[test]
fn a_store_with_too_many_documents_adopts_no_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = SqliteStore::open_with(folder.path(), AcceptLoss::No, 2).unwrap();
    let stores: [Box<dyn Store>; 2] = [Box::new(sqlite), Box::new(MemoryStore::with_max_documents(2))];
    for store in stores {
        let documents = ["a", "b", "c", "a"].map(|key| ("n", family(key, 1, key)));
        assert_eq!(adopt(&*store, [], documents).unwrap().documents, [true, true, false, false]);
        assert_eq!(adopt(&*store, [], [("n", family("b", 2, "b"))]).unwrap().documents, [true], "there already");
        assert!(matches!(put(&*store, [(family("d", 1, "d"), None)]), Err(StoreError::Full(DocumentKind::Family))));
    }
}

#[test]
fn what_this_node_wrote_is_paged_through_in_order() {
    for (store, _folder) in both() {
        let mut expected = Vec::new();
        for n in 1..=30 {
            adopt_entries(&*store, [entry("a", n, Body::Revocation(revocation(100 + n)))]);
            adopt(&*store, [], [("a", family(&format!("theirs-{n}"), 1, "{}"))]).unwrap();
            let body = match n % 3 {
                0 => Body::Revocation(revocation(n)),
                1 => Body::Lift(lift(&revocation(n), None)),
                _ => Body::Other(other(&format!("other-{n}"), &[n])),
            };
            let own = entries(&*store, [body]);
            store.append(own.clone()).blocking_recv().unwrap().unwrap();
            expected.extend(own.into_iter().map(WrittenWhat::Entry));
            let document = family(&format!("ours-{n}"), 1, "{}");
            put(&*store, [(document.clone(), Some(0))]).unwrap();
            expected.push(WrittenWhat::Document(document));
        }
        // A document that was written again is there with its last number only.
        put(&*store, [(family("ours-1", 2, "{}"), Some(1))]).unwrap();
        expected.remove(1);
        expected.push(WrittenWhat::Document(family("ours-1", 2, "{}")));
        let (mut seen, mut after) = (Vec::new(), 0);
        loop {
            let page = store.written(after, 7).unwrap();
            assert!(page.len() <= 7 && page.is_sorted_by_key(|it| it.seq), "{page:?}");
            let Some(last) = page.last() else { break };
            assert!(page[0].seq > after);
            after = last.seq;
            seen.extend(page.into_iter().map(|it| it.what));
        }
        assert_eq!(seen, expected);
        assert_eq!(store.written(u64::MAX, 7).unwrap(), []);
        // What is forgotten is not told of any more.
        store.forget(Timestamp::MAX, 1_000).unwrap();
        let left = store.written(0, 100).unwrap();
        assert!(left.len() == 30 && left.iter().all(|it| matches!(it.what, WrittenWhat::Document(_))), "{left:?}");
    }
}

#[test]
fn what_a_later_release_restricts_is_refused_until_lifted_or_over() {
    for (store, _folder) in both() {
        let one = other("new", &[1, 2, 2]);
        let as_it_came = Entry { version: 7, ..entry("a", 1, Body::Other(one.clone())) };
        assert_eq!(adopt_entries(&*store, [as_it_came.clone()]), [Appended::New]);
        assert_eq!(every_entry(&*store), [as_it_came]);
        let blocked = |n: u64| in_force_for(&*store, &revocation(n).target);
        let block = Some(InForce::new(Form::Block, Some(at(50))));
        assert_eq!((blocked(1), blocked(2), blocked(3)), (block, block, None));
        assert_eq!(in_force(&*store).unwrap().len(), 2);
        assert_eq!(store.find(&one.id).unwrap(), None);
        assert_eq!(store.page(&Filter::default(), None, 10).unwrap(), Page::default());
        assert_eq!(store.of_target(&one.restricts[0], 10).unwrap(), []);
        let lifts = Lift { of: one.id.clone(), ..lift(&revocation(2), None) };
        adopt_entries(&*store, [entry("b", 1, Body::Lift(lifts))]);
        assert_eq!((blocked(1), blocked(2)), (block, None), "of this target alone");
        assert_eq!(in_force(&*store).unwrap().len(), 1);
        assert_eq!(store.status().records, 2);
        store.forget(at(51), 100).unwrap();
        assert_eq!((blocked(1), store.status().records), (None, 0));
        assert_eq!(in_force(&*store).unwrap().len(), 0);
    }
}

#[test]
fn a_tombstone_outlives_what_a_later_release_restricts() {
    for (store, _folder) in both() {
        let ends = Some(at(50));
        let lifts = Lift { of: "new".parse().unwrap(), forget_at: ends, ..lift(&revocation(2), None) };
        adopt_entries(
            &*store,
            [entry("b", 1, Body::Lift(lifts.clone())), entry("a", 1, Body::Other(other("new", &[2])))],
        );
        assert_eq!(store.forget(at(51), 1).unwrap(), 1);
        assert!(store.is_lift(&lifts.id).unwrap());
        assert_eq!(store.forget(at(51), 1).unwrap(), 1);
        assert!(!store.is_lift(&lifts.id).unwrap());
    }
}

#[test]
fn what_is_no_entry_is_refused_and_nothing_beside_it_is_written() {
    let good = || entry("a", 1, Body::Revocation(revocation(1)));
    let with = |edit: &dyn Fn(&mut Other)| {
        let mut it = other("new", &[1]);
        edit(&mut it);
        entry("a", 2, Body::Other(it))
    };
    let unfit = [
        (Entry { origin: String::new(), ..good() }, UnfitEntry::Origin),
        (Entry { origin: "x".repeat(MAX_ORIGIN_BYTES + 1), ..good() }, UnfitEntry::Origin),
        (Entry { origin_seq: 0, ..good() }, UnfitEntry::Number),
        (Entry { origin_seq: u64::MAX, ..good() }, UnfitEntry::Number),
        (Entry { version: Entry::VERSION + 1, ..good() }, UnfitEntry::Version),
        (with(&|it| it.kind.clear()), UnfitEntry::Kind),
        (with(&|it| it.kind = "x".repeat(MAX_OTHER_KIND_BYTES + 1)), UnfitEntry::Kind),
        (with(&|it| it.says = "x".repeat(MAX_OTHER_BYTES + 1)), UnfitEntry::TooLong),
        (with(&|it| it.restricts = (0..=16).map(|n| revocation(n).target).collect()), UnfitEntry::TooManyTargets),
    ];
    for (store, _folder) in both() {
        for (entry, why) in &unfit {
            let progress = vec![("cursor".to_owned(), "1".to_owned())];
            let adopted = store.adopt(vec![good(), entry.clone()], Vec::new(), progress).blocking_recv().unwrap();
            assert!(matches!(adopted, Err(StoreError::UnfitEntry(it)) if it == *why), "{adopted:?}");
            let appended = store.append(vec![good(), entry.clone()]).blocking_recv().unwrap();
            assert!(matches!(appended, Err(StoreError::UnfitEntry(it)) if it == *why), "{appended:?}");
        }
        let long = Document { body: "x".repeat(MAX_DOCUMENT_BYTES + 1), ..family("a", 1, "") };
        let adopted = adopt(&*store, [good()], [("a", long)]);
        assert!(matches!(adopted, Err(StoreError::Unfit(UnfitDocument::TooLong))), "{adopted:?}");
        let adopted = adopt(&*store, [good()], [("", family("a", 1, ""))]);
        assert!(matches!(adopted, Err(StoreError::UnfitEntry(UnfitEntry::Origin))), "{adopted:?}");
        assert_eq!((store.status().sequence, store.setting("cursor").unwrap()), (0, None));
        assert!(store.status().is_ready());
        let most = with(&|it| {
            it.kind = "x".repeat(MAX_OTHER_KIND_BYTES);
            it.says = "x".repeat(MAX_OTHER_BYTES);
            it.restricts = (1..=16).map(|n| revocation(n).target).collect();
        });
        assert_eq!(adopt_entries(&*store, [most]), [Appended::New]);
    }
}

#[test]
fn progress_is_kept_with_what_was_adopted() {
    for (store, _folder) in both() {
        let progress = vec![("cursor".to_owned(), "7-0".to_owned()), ("epoch".to_owned(), "x".to_owned())];
        let entries = vec![entry("a", 1, Body::Revocation(revocation(1)))];
        store.adopt(entries, Vec::new(), progress).blocking_recv().unwrap().unwrap();
        assert_eq!(store.setting("cursor").unwrap().as_deref(), Some("7-0"));
        assert_eq!(store.setting("epoch").unwrap().as_deref(), Some("x"));
        assert_eq!(store.status().records, 3);
        in_force(&*store).unwrap();
    }
}

/// What one node may say, out of few ids and targets, so that they meet.
fn said() -> impl Strategy<Value = Body> {
    let revoked = (0..4_u64, 0..4_u64, 1..4_i64).prop_map(|(id, target, made)| {
        Body::Revocation(Revocation { target: revocation(target).target, at: at(made), ..revocation(id) })
    });
    let lifted = (0..4_u64, 0..4_u64, any::<u16>(), prop::option::of(1..9_i64)).prop_map(|(of, target, id, leaves)| {
        let of = Revocation { target: revocation(target).target, ..revocation(of) };
        Body::Lift(Lift { id: format!("lift-{id}").parse().unwrap(), ..lift(&of, leaves.map(at)) })
    });
    let unknown = (0..4_u64, prop::collection::vec(0..4_u64, 0..3))
        .prop_map(|(id, tokens)| Body::Other(other(&format!("id-{id}"), &tokens)));
    prop_oneof![3 => revoked, 2 => lifted, 1 => unknown]
}

fn written_by_some_node() -> impl Strategy<Value = (&'static str, Document)> {
    let origin = prop::sample::select(vec!["a", "b", "c"]);
    (origin, 0..3_u8, 1..4_u64, 0..3_u8, prop::option::of(1..9_i64)).prop_map(|(origin, key, revision, body, ends)| {
        let forget_at = ends.map(at);
        (origin, Document { forget_at, ..family(&format!("key-{key}"), revision, &body.to_string()) })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever nodes say, a store that hears it in another order, and some of it again, ends the same.
    #[test]
    fn nodes_that_heard_of_the_same_hold_the_same(
        bodies in prop::collection::vec(said(), 1..24),
        documents in prop::collection::vec(written_by_some_node(), 0..12),
        order in prop::collection::vec(any::<prop::sample::Index>(), 60),
    ) {
        let entries: Vec<_> =
            (1..).zip(bodies).map(|(n, body)| entry(["a", "b", "c"][usize::try_from(n % 3).unwrap()], n, body)).collect();
        let stores = both();
        let (one, two) = (&*stores[0].0, &*stores[1].0);
        adopt(one, entries.clone(), documents.clone()).unwrap();
        // Some in disorder, one by one, and then whatever is left, backwards.
        for place in &order {
            let which = place.index(entries.len() + documents.len());
            match entries.get(which) {
                Some(entry) => adopt(two, [entry.clone()], []).unwrap(),
                None => adopt(two, [], [documents[which - entries.len()].clone()]).unwrap(),
            };
        }
        adopt(two, entries.iter().rev().cloned(), documents.iter().rev().cloned()).unwrap();
        prop_assert_eq!(every_entry(one), every_entry(two));
        prop_assert_eq!(every_document(one), every_document(two));
        prop_assert_eq!(in_force(one).unwrap(), in_force(two).unwrap());
        prop_assert_eq!(one.status().records, two.status().records);
        for n in 0..4 {
            let target = revocation(n).target;
            prop_assert_eq!(in_force_for(one, &target), in_force_for(two, &target));
            for id in 0..4 {
                let id = revocation(id).id;
                prop_assert_eq!(one.is_lifted(&id, &target).unwrap(), two.is_lifted(&id, &target).unwrap());
            }
        }
        // What `live` says of a target is what the replay says of it.
        let replayed = in_force(one).unwrap();
        let mut asked = BTreeSet::new();
        for n in 0..4 {
            one.live(&revocation(n).target, &mut |live| { asked.insert(spell(&live)); }).unwrap();
        }
        prop_assert_eq!(replayed, asked);
    }
}
