//! What must hold over whole chains of tokens, and when many ask at once.

use std::collections::HashSet;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::KeyState;
use super::fixture::{Honoured, NOW, after, foreign, honour, parent, sessions, sessions_with};
use super::{Grant, Minted, Sessions};
use crate::time::Timestamp;
use crate::token::Claims;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// Time passes.
    Advance(u64),
    /// A client comes with one of three parents.
    Exchange(usize),
    /// Somebody logs in, with a request that took this long.
    Grant(u64),
    /// A new key signs.
    Rotate,
    /// A client comes with one of the tokens handed out so far.
    Slide(usize),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u64..70_000).prop_map(Step::Advance),
        3 => (0_usize..3).prop_map(Step::Exchange),
        1 => (0_u64..2_000).prop_map(Step::Grant),
        1 => Just(Step::Rotate),
        8 => (0_usize..1_000).prop_map(Step::Slide),
        1 => Just(Step::Sweep),
    ]
}

/// A token handed out, with the keys that have signed in its chain.
struct Handed {
    text: String,
    token: Honoured,
    chain_keys: HashSet<String>,
}

struct World {
    sessions: Sessions,
    now: Timestamp,
    parents: Vec<Claims>,
    handed: Vec<Handed>,
}

impl World {
    /// Checks what must hold for every token, whoever it was minted for.
    fn receive(&mut self, minted: &Minted, mut chain_keys: HashSet<String>) {
        let token = honour(&self.sessions, minted.token(), self.now);
        let end = self.sessions.absolute_end(token.lineage.origin_issued);
        assert!(token.claims.expires <= end, "{} is past the end {end}", token.claims.expires);
        assert!(token.claims.expires > self.now);
        assert!(token.claims.expires <= self.now.plus(self.sessions.config().idle_timeout));
        assert_eq!(token.current().authenticated(), minted.authenticated);
        assert_eq!((&token.name, &token.lineage), (&minted.id, &minted.lineage));
        assert_eq!(token.claims.subject.as_ref(), Some(&minted.subject));
        assert_eq!(token.claims.session.as_ref(), Some(&minted.session));
        assert_eq!(token.claims.client, minted.client);
        assert_eq!((token.claims.issued, token.claims.expires), (minted.issued, minted.expires));
        assert_eq!(token.key, *minted.key_thumbprint);
        chain_keys.insert(token.key.clone());
        let named: HashSet<_> = token.lineage.keys.iter().chain([&token.key]).cloned().collect();
        assert_eq!(named, chain_keys, "a key of the chain is not named, or one is that is not of it");
        self.handed.push(Handed { text: minted.token().to_owned(), token, chain_keys });
    }

    fn play(&mut self, step: &Step) {
        match *step {
            Step::Advance(millis) => self.now = self.now.plus(Duration::from_millis(millis)),
            Step::Sweep => self.sessions.sweep(self.now),
            Step::Rotate => {
                self.sessions.rotate(self.now, true).unwrap();
            }
            Step::Grant(millis) => {
                let requested_at = self.now.minus(Duration::from_millis(millis));
                let grant = Grant::parse(br#"{"sub":"ada","plan":{"seats":3}}"#).unwrap();
                let minted = self.sessions.grant(grant, requested_at, self.now).unwrap();
                self.receive(&minted, HashSet::new());
                let token = &self.handed.last().unwrap().token;
                assert_eq!(token.lineage.origin_issued, requested_at);
                assert_eq!(token.lineage.origin, None);
            }
            Step::Exchange(index) => {
                let claims = self.parents[index].clone();
                let Ok(minted) = self.sessions.exchange(parent(&claims), self.now) else {
                    let end = self.sessions.absolute_end(claims.issued);
                    assert!(end <= self.now.plus(Duration::from_secs(1)), "refused before the end");
                    return;
                };
                self.receive(&minted, HashSet::new());
                let token = &self.handed.last().unwrap().token;
                assert_eq!(token.lineage.origin_issued, claims.issued);
                let of_parent = |it: &&Handed| it.token.lineage.origin == token.lineage.origin;
                let first = self.handed.iter().find(of_parent).unwrap();
                assert_eq!(first.token.of_the_session(), token.of_the_session(), "one parent, one session");
            }
            Step::Slide(index) => {
                let Some(count) = self.handed.len().checked_sub(1) else { return };
                let old = &self.handed[index % (count + 1)];
                if old.token.claims.expires <= self.now {
                    return;
                }
                let Some(minted) = self.sessions.slide(&old.token.current(), self.now).unwrap() else {
                    let end = self.sessions.absolute_end(old.token.lineage.origin_issued);
                    let newest = self.now.plus(self.sessions.config().idle_timeout).min(end).floor_to_second();
                    assert!(newest <= old.token.claims.expires || newest <= self.now, "not slid though it could be");
                    return;
                };
                let (expires, before) = (old.token.claims.expires, old.token.of_the_session());
                self.receive(&minted, old.chain_keys.clone());
                let new = &self.handed.last().unwrap().token;
                assert!(new.claims.expires > expires, "the expiry must grow");
                assert_eq!(new.of_the_session(), before, "what belongs to the session must not change");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_moves_a_session_past_its_origin(steps in prop::collection::vec(step(), 1..50)) {
        let (_folder, sessions) = sessions();
        let parents = vec![
            foreign(json!({ "jti": "a", "auth_time": NOW.secs() - 3600, "scope": "read write", "azp": "web" })),
            foreign(json!({ "jti": "b", "sub": "43", "sid": "s", "cfp": "x", "roles": ["admin"], "iat": NOW.secs() - 100 })),
            foreign(json!({ "jti": null, "sub": "44", "iat": NOW.secs() + 3, "cnf": { "jkt": "k" } })),
        ];
        let mut world = World { sessions, now: NOW, parents, handed: Vec::new() };
        for step in &steps {
            world.play(step);
        }
        let names: HashSet<_> = world.handed.iter().map(|it| &it.token.name).collect();
        let texts: HashSet<_> = world.handed.iter().map(|it| &it.text).collect();
        prop_assert_eq!(texts.len(), names.len(), "one id, one token");
    }
}

#[test]
fn a_hundred_threads_with_one_old_token_get_one_successor() {
    let (_folder, sessions) = sessions();
    let claims = foreign(json!({}));
    let first = sessions.exchange(parent(&claims), NOW).unwrap();
    let old = honour(&sessions, first.token(), NOW);
    let start = Barrier::new(100);
    let names: HashSet<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..100)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let minted = sessions.slide(&old.current(), after(40)).unwrap().unwrap();
                    minted.id.clone()
                })
            })
            .collect();
        threads.into_iter().map(|it| it.join().unwrap()).collect()
    });
    assert_eq!(names.len(), 1);
}

#[test]
fn a_hundred_threads_with_one_parent_get_one_token() {
    let (_folder, sessions) = sessions();
    let claims = foreign(json!({}));
    let start = Barrier::new(100);
    let names: HashSet<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..100)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    sessions.exchange(parent(&claims), NOW).unwrap().id.clone()
                })
            })
            .collect();
        threads.into_iter().map(|it| it.join().unwrap()).collect()
    });
    assert_eq!(names.len(), 1);
}

#[test]
fn rotation_under_load_leaves_every_token_verifiable() {
    let (_folder, sessions) = sessions();
    let claims: Vec<_> = (0..4).map(|n| foreign(json!({ "jti": format!("j{n}") }))).collect();
    thread::scope(|scope| {
        for claims in &claims {
            scope.spawn(|| {
                for _ in 0..25 {
                    let minted = sessions.exchange(parent(claims), NOW).unwrap();
                    honour(&sessions, minted.token(), NOW);
                }
            });
        }
        for _ in 0..5 {
            sessions.rotate(NOW, true).unwrap();
        }
    });
    assert_eq!(sessions.keys().len(), 6);
}

#[test]
fn nothing_shows_a_token() {
    let (_folder, sessions) = sessions_with(|config| config.reissue_every = Some(3));
    let minted = sessions.exchange(parent(&foreign(json!({}))), NOW).unwrap();
    let signature = minted.token().rsplit('.').next().unwrap();
    let answer = super::ExchangeAnswer::new(&minted, NOW);
    for shown in
        [format!("{minted:?}"), format!("{:?}", minted.header_value()), format!("{answer:?}"), format!("{sessions:?}")]
    {
        assert!(!shown.contains(signature), "{shown}");
    }
}

#[test]
fn keys_are_listed_published_and_pruned() {
    let (_folder, sessions) = sessions();
    let first = sessions.keys();
    let signer = sessions.rotate(after(10), true).unwrap();
    let keys = sessions.keys();
    assert_eq!((keys.len(), &keys[0], &keys[1].key_id), (2, &signer, &first[0].key_id));
    let shown = serde_json::to_value(&keys).unwrap();
    assert_eq!((&shown[0]["state"], &shown[1]["state"]), (&json!("signing"), &json!("verifying")));
    assert_eq!((&shown[0]["algorithm"], &shown[0]["created"]), (&json!("ES256"), &json!("2024-11-24T00:00:10.25Z")));
    let jwks = sessions.jwks();
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 2);
    assert_eq!(jwks["keys"][0]["kid"], signer.key_id.as_str());
    assert!(jwks["keys"][0].get("d").is_none(), "no private part is published");
    assert_eq!(sessions.jwks_bytes(), jwks.to_string());
    // It signed until second 10; a token of then may live 300 s, and the margin is 60 s.
    for (secs, pruned) in [(11, 0), (369, 0), (370, 1), (371, 0)] {
        assert_eq!(sessions.prune(after(secs)).unwrap(), pruned, "after {secs} s");
    }
    assert_eq!(sessions.keys(), [signer]);
}

#[test]
fn a_key_is_published_before_it_signs_and_no_more_once_it_is_retired() {
    let (_folder, sessions) = sessions_with(|config| config.publish_before = Duration::from_secs(120));
    let claims = foreign(json!({}));
    let first = sessions.keys()[0].key_id.clone();
    let staged = sessions.rotate(after(0), false).unwrap();
    assert_eq!((staged.state, staged.signs_from), (KeyState::Staged, Some(after(120))));
    let published = |sessions: &Sessions| {
        let jwks = sessions.jwks();
        let keys = jwks["keys"].as_array().unwrap().iter();
        keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(published(&sessions), [first.clone(), staged.key_id.clone()]);
    let signed_by = |now| {
        let minted = sessions.exchange(parent(&claims), now).unwrap();
        honour(&sessions, minted.token(), now).key
    };
    assert_eq!(signed_by(after(1)), first);
    assert_eq!((sessions.next_activation(), sessions.activate(after(119)).unwrap()), (Some(after(120)), false));
    assert!(sessions.activate(after(120)).unwrap());
    assert_eq!((sessions.next_activation(), signed_by(after(121))), (None, staged.key_id.clone()));
    assert!(sessions.retire(&staged.key_id, after(122)).unwrap());
    assert!(!sessions.retire("nobody", after(122)).unwrap());
    let keys = sessions.keys();
    let state = |id: &str| keys.iter().find(|it| it.key_id == id).map(|it| it.state);
    assert_eq!((state(&first), state(&staged.key_id)), (Some(KeyState::Verifying), Some(KeyState::Retired)));
    assert!(!published(&sessions).contains(&staged.key_id));
    let next = signed_by(after(123));
    assert!(next != first && next != staged.key_id, "and the retired token is not handed out again");
}

#[test]
fn the_policy_covers_every_algorithm_in_the_folder() {
    let (folder, sessions) = sessions();
    let claims = foreign(json!({}));
    let old = honour(&sessions, sessions.exchange(parent(&claims), NOW).unwrap().token(), NOW);
    let mut config = super::fixture::config(&folder.path().join("keys"));
    config.algorithm = crate::token::Algorithm::EdDSA;
    config.absolute_timeout = Duration::from_millis(300_500);
    let reopened = Sessions::open(&config, after(1)).unwrap();
    let policy = reopened.policy();
    assert_eq!(policy.algorithms, [crate::token::Algorithm::EdDSA, crate::token::Algorithm::ES256]);
    assert_eq!(policy.max_lifetime, Duration::from_secs(301));
    let slid = reopened.slide(&old.current(), after(31)).unwrap().unwrap();
    let new = honour(&reopened, slid.token(), after(31));
    assert_eq!(new.lineage.keys, [old.key]);
}
