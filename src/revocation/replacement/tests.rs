use proptest::prelude::*;

use super::*;
use crate::revocation::{Form, RevocationMap, Standing};

const ISSUER: &str = "https://a.example/";

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs)
}

fn link(old: &str, new: &str) -> Replacement {
    Replacement {
        id: RecordId::generate(),
        issuer: ISSUER.to_owned(),
        old: old.to_owned(),
        new: new.to_owned(),
        reason: Reason::CredentialCompromised,
        actor: "ops".to_owned(),
        note: None,
        at: at(100),
    }
}

fn map_with(links: &[(&str, &str)]) -> RevocationMap {
    let map = RevocationMap::new(1000);
    for (old, new) in links {
        map.replace_subject(link(old, new)).unwrap();
    }
    map
}

fn standing(map: &RevocationMap, subject: &str, issued: i64) -> Standing {
    map.standing(&[map.reference(TargetKind::Subject, ISSUER, subject)], at(issued), Some(at(issued)))
}

const REVOKED: Standing = Standing::Revoked(TargetKind::Subject);

#[test]
fn a_replaced_id_is_refused_and_its_successor_is_not() {
    let map = map_with(&[("bob-1", "bob-2")]);
    assert_eq!(standing(&map, "bob-1", 5_000), REVOKED);
    assert_eq!(standing(&map, "bob-2", 5_000), Standing::Good);
    assert_eq!(standing(&map, "bob-3", 5_000), Standing::Good);
    let elsewhere = map.reference(TargetKind::Subject, "https://b.example/", "bob-1");
    assert_eq!(map.standing(&[elsewhere], at(5), None), Standing::Good, "two issuers may both have a bob");
    let session = map.reference(TargetKind::Session, ISSUER, "bob-1");
    assert_eq!(map.standing(&[session], at(5), None), Standing::Good, "only subjects are replaced");
    map.undo_replacement(ISSUER, "bob-1").unwrap();
    assert_eq!(standing(&map, "bob-1", 5_000), Standing::Good);
    assert!(map.replacements().is_empty());
}

#[test]
fn what_is_revoked_for_one_id_is_revoked_for_all_later_ones_and_no_earlier_one() {
    for (revoked, form, refused, good) in [
        ("a", Form::Before { issued: Some(at(50)), authenticated: None }, 50, 51),
        ("b", Form::Before { issued: Some(at(50)), authenticated: None }, 50, 51),
        ("c", Form::Before { issued: Some(at(50)), authenticated: None }, 50, 51),
    ] {
        // Before the replacement and after it.
        for first in [true, false] {
            let map = RevocationMap::new(10);
            let target = map.reference(TargetKind::Subject, ISSUER, revoked);
            if first {
                map.apply(target, form, None).unwrap();
            }
            map.replace_subject(link("a", "b")).unwrap();
            map.replace_subject(link("b", "c")).unwrap();
            if !first {
                map.apply(target, form, None).unwrap();
            }
            assert_eq!(standing(&map, "c", refused), REVOKED, "{revoked} {first}");
            assert_eq!(standing(&map, "c", good), Standing::Good, "{revoked} {first}");
        }
    }
    let map = map_with(&[("a", "b")]);
    map.apply(map.reference(TargetKind::Subject, ISSUER, "b"), Form::Block, None).unwrap();
    map.undo_replacement(ISSUER, "a").unwrap();
    assert_eq!(standing(&map, "a", 5), Standing::Good, "nothing goes backwards");
    assert_eq!(standing(&map, "b", 5), REVOKED);
}

#[test]
fn a_cutoff_on_auth_time_goes_down_the_chain_too() {
    let map = map_with(&[("a", "b")]);
    let form = Form::Before { issued: None, authenticated: Some(at(50)) };
    map.apply(map.reference(TargetKind::Subject, ISSUER, "a"), form, None).unwrap();
    let b = map.reference(TargetKind::Subject, ISSUER, "b");
    assert_eq!(map.standing(&[b], at(90), Some(at(50))), Standing::AuthenticationTooOld);
    assert_eq!(map.standing(&[b], at(90), None), Standing::AuthenticationTooOld);
    assert_eq!(map.standing(&[b], at(90), Some(at(51))), Standing::Good);
}

#[test]
fn a_chain_has_neither_circles_nor_branches() {
    let map = map_with(&[("a", "b"), ("b", "c"), ("x", "y")]);
    let refused = |old: &str, new: &str| map.replace_subject(link(old, new)).unwrap_err();
    assert_eq!(refused("a", "a"), InvalidReplacement::Cycle);
    assert_eq!(refused("c", "a"), InvalidReplacement::Cycle);
    assert_eq!(refused("c", "b"), InvalidReplacement::Cycle);
    assert_eq!(refused("a", "d"), InvalidReplacement::AlreadyReplaced);
    assert_eq!(refused("a", "b"), InvalidReplacement::AlreadyReplaced);
    assert_eq!(refused("c", "x"), InvalidReplacement::InUse, "it has been replaced");
    assert_eq!(refused("c", "y"), InvalidReplacement::InUse, "it replaces another");
    assert_eq!(refused("z", "c"), InvalidReplacement::InUse, "two accounts do not become one");
    assert_eq!(map.replacements().len(), 3);
    map.replace_subject(link("c", "d")).unwrap();
}

#[test]
fn only_the_last_replacement_of_a_chain_is_undone() {
    let map = map_with(&[("a", "b"), ("b", "c")]);
    assert_eq!(map.undo_replacement(ISSUER, "a"), Err(InvalidUndo::NotTheLast));
    assert_eq!(map.undo_replacement(ISSUER, "c"), Err(InvalidUndo::NotReplaced));
    assert_eq!(map.undo_replacement(ISSUER, "b").unwrap().new, "c");
    assert_eq!(standing(&map, "b", 5), Standing::Good);
    assert_eq!(map.undo_replacement(ISSUER, "a").unwrap().new, "b");
    // All are free again, in any direction.
    map.replace_subject(link("c", "a")).unwrap();
    assert_eq!(map.replacements().account(ISSUER, "a").as_deref(), Some("c"));
}

#[test]
fn the_account_is_the_first_id_of_the_chain() {
    let map = map_with(&[("a", "b"), ("b", "c")]);
    let account = |subject: &str| map.replacements().account(ISSUER, subject);
    for subject in ["a", "b", "c"] {
        assert_eq!(account(subject).as_deref(), Some("a"));
        let chain = map.replacements().chain(ISSUER, subject);
        let ids: Vec<_> = chain.iter().map(|link| (link.old.as_str(), link.new.as_str())).collect();
        assert_eq!(ids, [("a", "b"), ("b", "c")], "{subject}");
    }
    assert_eq!(account("d"), None);
    let earlier = map.replacements().earlier(ISSUER, "c");
    let earlier: Vec<_> = earlier.iter().map(|target| target.value.as_str()).collect();
    assert_eq!(earlier, ["b", "a"]);
    assert_eq!(map.replacements().earlier(ISSUER, "a"), []);
    map.undo_replacement(ISSUER, "b").unwrap();
    assert_eq!(account("c"), None);
    assert_eq!(account("b").as_deref(), Some("a"));
}

#[test]
fn every_change_moves_the_epoch_and_the_generation() {
    let map = RevocationMap::new(10);
    let mut seen = vec![(map.epoch(), map.replacements().generation())];
    let mut moved = |map: &RevocationMap| {
        let now = (map.epoch(), map.replacements().generation());
        let last = *seen.last().unwrap();
        assert!(now.0 > last.0 && now.1 > last.1, "{now:?} after {last:?}");
        seen.push(now);
    };
    map.replace_subject(link("a", "b")).unwrap();
    moved(&map);
    map.undo_replacement(ISSUER, "a").unwrap();
    moved(&map);
    assert!(map.restore_replacement(link("a", "b")));
    moved(&map);
    assert!(!map.restore_replacement(link("b", "a")));
    moved(&map);
}

#[test]
fn a_chain_is_bounded() {
    let map = RevocationMap::new(10);
    let id = |number: usize| format!("id{number}");
    for number in 1..CHAIN_MAX {
        map.replace_subject(link(&id(number - 1), &id(number))).unwrap();
    }
    let last = CHAIN_MAX - 1;
    let refused = map.replace_subject(link(&id(last), &id(last + 1))).unwrap_err();
    assert_eq!(refused, InvalidReplacement::ChainTooLong);
    assert_eq!(standing(&map, &id(last), 5), Standing::Good);
    assert_eq!(map.replacements().account(ISSUER, &id(last)).as_deref(), Some("id0"));
    assert_eq!(map.replacements().chain(ISSUER, &id(7)).len(), CHAIN_MAX - 1);
    map.apply(map.reference(TargetKind::Subject, ISSUER, "id0"), Form::Block, None).unwrap();
    assert_eq!(standing(&map, &id(last), 5), REVOKED, "the whole chain is looked at");
}

#[test]
fn what_contradicts_itself_is_refused_whole() {
    // Two nodes that each replaced one with the other, and two that gave one id two pasts.
    for (one, two) in [(("a", "b"), ("b", "a")), (("a", "c"), ("b", "c")), (("a", "b"), ("a", "c"))] {
        for (first, second) in [(one, two), (two, one)] {
            let map = RevocationMap::new(10);
            assert!(map.restore_replacement(link(first.0, first.1)));
            assert!(!map.restore_replacement(link(second.0, second.1)));
            assert_eq!(standing(&map, first.0, 5), REVOKED);
            assert_eq!(standing(&map, second.0, 5), REVOKED);
            assert_eq!(standing(&map, second.1, 5), REVOKED, "{first:?} {second:?}");
            assert!(map.replacements().any());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn chains_are_restored_in_any_order(lengths in prop::collection::vec(1..6_usize, 1..5), seed in any::<u64>()) {
        let mut links = Vec::new();
        for (chain, length) in lengths.iter().enumerate() {
            for number in 0..*length {
                links.push(link(&format!("{chain}-{number}"), &format!("{chain}-{}", number + 1)));
            }
        }
        let mut order = seed;
        for place in (1..links.len()).rev() {
            order = order.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            links.swap(place, (order >> 33) as usize % (place + 1));
        }
        let map = RevocationMap::new(10);
        for link in links {
            prop_assert!(map.restore_replacement(link));
        }
        for (chain, length) in lengths.iter().enumerate() {
            for number in 0..=*length {
                let id = format!("{chain}-{number}");
                let (account, first) = (map.replacements().account(ISSUER, &id), format!("{chain}-0"));
                prop_assert_eq!(account.as_deref(), Some(first.as_str()));
                prop_assert_eq!(standing(&map, &id, 5) == Standing::Good, number == *length);
            }
        }
    }
}
