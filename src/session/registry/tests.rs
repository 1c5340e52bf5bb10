use std::collections::BTreeSet;
use std::thread;

use serde_json::json;

use super::super::fixture::{NOW, after};
use super::*;
use crate::session::How;
use crate::token::Lineage;

/// A session that lives for an hour from `opened` on.
fn open(subject: &str, session: &str, origin: u64, opened: u64) -> Open {
    let mut lineage = serde_json::Map::new();
    Lineage { origin_issued: after(origin), origin: None, keys: Vec::new() }.write(&mut lineage);
    let body = json!({
        "sub": subject, "key": "k", "lineage": lineage, "opened": after(opened), "seen": after(opened),
        "expires": after(opened + 3600),
    });
    Open::restored(session, &body.to_string(), 0).unwrap()
}

fn ids(sessions: &[Arc<Open>]) -> Vec<&str> {
    sessions.iter().map(|it| &*it.session).collect()
}

fn log_in(registry: &Registry, subject: &str, session: &str, origin: u64, limit: usize) -> Opening {
    registry.open(open(subject, session, origin, origin), Some(limit), after(origin), |_| true)
}

#[test]
fn sessions_are_found_by_subject_and_by_id() {
    let registry = Registry::new(1000);
    for (subject, session, seen) in [("ada", "a1", 1), ("ada", "a2", 2), ("bob", "b1", 3)] {
        registry.meet(open(subject, session, 0, seen), after(seen));
    }
    assert_eq!(ids(&registry.of_subject("ada", after(9))), ["a2", "a1"], "the one used last comes first");
    registry.find("ada", "a1").unwrap().touch(after(5));
    assert_eq!(ids(&registry.of_subject("ada", after(9))), ["a1", "a2"]);
    assert_eq!(ids(&registry.of_subject("ada", after(3602))), Vec::<&str>::new(), "they are over");
    assert!(registry.find("bob", "a1").is_none(), "another's");
    assert_eq!(&*registry.find_by_id("b1").unwrap().subject, "bob");
    assert!(registry.find_by_id("b2").is_none());
    registry.remove("ada", "a1");
    registry.remove("eve", "a1");
    assert_eq!((ids(&registry.of_subject("ada", after(9))), registry.len()), (vec!["a2"], 2));
    registry.sweep(after(3602));
    assert_eq!(registry.len(), 1, "bob's lives a second longer");
    registry.sweep(after(3603));
    assert!(registry.is_empty());
}

#[test]
fn a_session_met_again_is_the_same() {
    let registry = Registry::new(1000);
    let first = registry.meet(open("ada", "a1", 0, 1), after(1));
    let again = registry.meet(open("ada", "a1", 0, 9), after(9));
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!((again.last_seen(), again.opened, again.expires()), (after(9), after(1), after(3609)));
    assert_eq!(registry.len(), 1);
    let opened = registry.open(open("ada", "a1", 0, 20), Some(1), after(20), |_| true);
    assert!(!opened.is_new && !opened.refused && opened.beyond.is_empty());
    assert!(Arc::ptr_eq(&opened.session, &first));
}

#[test]
fn the_last_logins_stay_whatever_the_order_in_which_they_are_entered() {
    for order in [[1, 2, 3, 4], [4, 3, 2, 1], [3, 1, 4, 2], [2, 4, 1, 3]] {
        let registry = Registry::new(1000);
        for origin in order {
            let opening = log_in(&registry, "ada", &format!("s{origin}"), origin, 2);
            for ended in opening.beyond {
                registry.remove("ada", &ended.session);
            }
        }
        let left: BTreeSet<_> = registry.of_subject("ada", after(5)).iter().map(|it| it.session.to_string()).collect();
        assert_eq!(left, BTreeSet::from(["s3".to_owned(), "s4".to_owned()]), "{order:?}");
    }
}

#[test]
fn of_equal_logins_the_one_entered_last_stays() {
    let registry = Registry::new(1000);
    log_in(&registry, "ada", "first", 1, 1);
    let opening = log_in(&registry, "ada", "second", 1, 1);
    assert_eq!((ids(&opening.beyond), opening.refused), (vec!["first"], false));
}

#[test]
fn what_is_dead_does_not_count_and_others_neither() {
    let registry = Registry::new(1000);
    log_in(&registry, "ada", "a1", 1, 1);
    log_in(&registry, "bob", "b1", 1, 1);
    let opening = registry.open(open("ada", "a2", 2, 2), Some(1), after(2), |it| &*it.session != "a1");
    assert!(opening.beyond.is_empty() && !opening.refused);
    let opening = registry.open(open("ada", "a3", 3, 3), Some(1), after(4000), |_| true);
    assert!(opening.beyond.is_empty(), "both are over");
    let older = registry.open(open("bob", "b0", 0, 2), Some(1), after(2), |_| true);
    assert!(older.refused && older.beyond.is_empty());
    assert!(registry.find("bob", "b0").is_none(), "refused is not entered");
}

#[test]
fn a_lower_limit_is_reached_at_the_next_login() {
    let registry = Registry::new(1000);
    for n in 1..=5 {
        assert!(log_in(&registry, "ada", &format!("s{n}"), n, 9).beyond.is_empty());
    }
    assert_eq!(ids(&log_in(&registry, "ada", "s6", 6, 2).beyond), ["s1", "s2", "s3", "s4"]);
    let oldest = log_in(&registry, "ada", "s0", 0, 2);
    assert!(oldest.refused);
    assert_eq!(ids(&oldest.beyond), ["s1", "s2", "s3", "s4"], "still there, for nobody has taken them out");
}

#[test]
fn a_limit_is_exact_when_many_log_in_at_once() {
    let registry = Registry::new(100_000);
    let survivors: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..8_u64)
            .map(|thread| {
                let registry = &registry;
                scope.spawn(move || {
                    for n in 0..50 {
                        let opening = log_in(registry, "ada", &format!("{thread}-{n}"), n, 3);
                        opening.beyond.iter().for_each(|it| registry.remove("ada", &it.session));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|it| it.join().unwrap());
        registry.of_subject("ada", after(60)).len()
    });
    assert_eq!(survivors, 3);
}

#[test]
fn a_page_shows_what_fits_in_the_order_of_ids() {
    let registry = Registry::new(100_000);
    for n in 0..10 {
        registry.meet(open("ada", &format!("s{n}"), 0, 0), NOW);
        registry.meet(open("bob", &format!("t{n}"), 0, 0), NOW);
    }
    let wanted = Wanted { subject: Some("ada"), ..Wanted::default() };
    let (first, more) = registry.page(wanted, None, 4, NOW);
    assert_eq!((ids(&first), more), (vec!["s0", "s1", "s2", "s3"], true));
    let (rest, more) = registry.page(wanted, Some("s3"), 6, NOW);
    assert_eq!((rest.len(), more), (6, false));
    assert_eq!(registry.page(Wanted::default(), None, 100, NOW).0.len(), 20);
    let foreign = Wanted { opened_with: Some("https://accounts.example/"), ..Wanted::default() };
    assert!(registry.page(foreign, None, 100, NOW).0.is_empty());
}

#[test]
fn memory_is_bounded_and_what_was_unused_for_longest_is_forgotten() {
    let registry = Registry::new(64 * 20);
    for n in 0..5_000 {
        registry.meet(open(&format!("user-{n}"), &format!("s{n}"), 0, n), after(n));
    }
    assert!(registry.len() <= 64 * 20 && registry.len() > 32 * 20, "{}", registry.len());
    assert!(registry.find("user-4999", "s4999").is_some(), "the newest is there");
    assert!(registry.find("user-0", "s0").is_none());
}

#[test]
fn who_logs_in_without_end_pushes_out_nobody_else() {
    let registry = Registry::new(64 * 3000);
    registry.meet(open("bob", "b", 0, 0), NOW);
    for n in 0..3_000 {
        registry.meet(open("ada", &format!("s{n}"), 0, 1 + n), after(1 + n));
    }
    assert_eq!(registry.of_subject("ada", after(10)).len(), PER_SUBJECT_MAX);
    assert!(registry.find("ada", "s2999").is_some() && registry.find("ada", "s1999").is_none());
    assert!(registry.find("bob", "b").is_some());
}

#[test]
fn what_is_over_is_forgotten_before_what_was_unused_for_longer() {
    // All sessions of one subject are in one shard, which may hold two.
    let registry = Registry::new(64 * 2);
    registry.meet(open("ada", "lives", 0, 0), NOW);
    registry.meet(open("ada", "over", 0, 5), after(5)).touch(after(3700));
    registry.find("ada", "lives").unwrap().prolong(after(9000));
    registry.meet(open("ada", "new", 0, 4000), after(4000));
    assert!(registry.find("ada", "lives").is_some() && registry.find("ada", "over").is_none());
}

#[test]
fn what_is_written_is_read_back_and_only_what_changed_is_written() {
    let registry = Registry::new(1000);
    registry.meet(open("ada", "a1", 0, 1), after(1));
    registry.meet(open("bob", "b1", 0, 1), after(1));
    let unwritten = registry.unwritten(false, after(2));
    assert_eq!(unwritten.len(), 2);
    assert_eq!(registry.unwritten(false, after(2)).len(), 2, "nobody has said that they are written");
    let other = Registry::new(1000);
    for it in unwritten {
        assert_eq!(it.forget_at(), after(3601));
        assert_eq!(it.revision, after(2).millis().cast_unsigned());
        other.restore(it.session(), &it.body, it.revision, after(3)).unwrap();
        it.is_written();
    }
    assert!(registry.unwritten(true, after(3)).is_empty());
    assert_eq!(ids(&other.of_subject("ada", after(3))), ["a1"]);
    assert!(other.unwritten(true, after(3)).is_empty(), "it was read from there");
    other.find("ada", "a1").unwrap().touch(after(30));
    assert!(other.unwritten(false, after(31)).is_empty(), "not yet");
    let mut last = other.unwritten(true, after(31));
    assert_eq!((last.len(), last[0].session()), (1, "a1"));
    last.remove(0).is_behind(u64::MAX - 1);
    assert_eq!(other.unwritten(true, after(31))[0].revision, u64::MAX, "the next try is newer");
    assert!(other.restore("x", "{}", 1, NOW).is_err());
    other.restore("late", &other.unwritten(true, after(31))[0].body, 1, after(9_999)).unwrap();
    assert_eq!(other.len(), 2, "what is over is not taken in");
    assert_eq!(other.find("ada", "a1").unwrap().how(), How::Grant);
}

#[test]
fn a_session_that_comes_is_told_once_and_one_in_use_is_not() {
    use futures_util::FutureExt;

    let clock = Clock::manual(after(1));
    let registry = Registry::new(1000);
    let told = || {
        let fresh = registry.fresh(&clock).now_or_never().unwrap_or_default();
        let mut sessions: Vec<_> = fresh.iter().map(|it| it.session().to_owned()).collect();
        fresh.into_iter().for_each(Unwritten::is_written);
        sessions.sort();
        sessions
    };
    assert!(told().is_empty(), "who asks waits");
    registry.meet(open("ada", "a1", 0, 1), after(1));
    log_in(&registry, "bob", "b1", 1, 5);
    assert_eq!(told(), ["a1", "b1"]);
    registry.meet(open("ada", "a1", 0, 2), after(2));
    registry.find("ada", "a1").unwrap().touch(after(50));
    assert!(told().is_empty(), "being used is not told");
    // A wave of them is bounded; what is beyond it is found by the next pass over all.
    let registry = Registry::new(usize::MAX);
    for number in 0..FRESH_MAX + 10 {
        registry.meet(open(&format!("user-{number}"), "s", 0, 1), after(1));
    }
    assert_eq!(registry.fresh(&clock).now_or_never().unwrap().len(), FRESH_MAX);
    assert_eq!(registry.unwritten(false, after(2)).len(), FRESH_MAX + 10);
}
