//! The rule, example by example, and held to a model that knows no hashes: who has which token, when it was used.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config;
use crate::session::fixture::{NOW, after, foreign, honour, parent, sessions_with};

const GRACE: Duration = Duration::from_secs(10);
const IDLE: u64 = 90;

fn sessions() -> (tempfile::TempDir, Sessions) {
    sessions_with(|config| {
        let delivery = Delivery::Header;
        let idle_timeout = Duration::from_secs(IDLE);
        config.refresh =
            Some(config::Refresh { idle_timeout, reuse_grace: GRACE, delivery, cookie: "__Host-refresh".to_owned() });
    })
}

fn opener(token: Option<&str>) -> Opener<'_> {
    Opener { token, client: Some("web"), delivery: Delivery::Header }
}

fn opened(sessions: &Sessions) -> (Family, RefreshToken) {
    let claims = foreign(json!({ "scope": "a b", "azp": "app", "auth_time": NOW.secs() - 5, "roles": [1, 2.5] }));
    let minted = sessions.exchange(parent(&claims), NOW).unwrap();
    sessions.open_family(&minted, opener(Some("parent")), NOW).unwrap()
}

fn rotated(sessions: &Sessions, family: &Family, token: &RefreshToken, at: Timestamp) -> (Family, RefreshToken) {
    let minted = sessions.refreshed(family, token, Timestamp::MIN, at).unwrap();
    sessions.next_generation(family, token, &minted, at).unwrap()
}

fn name(judgement: &Judgement) -> &'static str {
    match judgement {
        Judgement::Current => "current",
        Judgement::Repeated(_) => "repeated",
        Judgement::Reused => "reused",
        Judgement::Unknown => "unknown",
    }
}

#[test]
fn a_family_survives_being_stored_and_says_no_token() {
    let (_folder, sessions) = sessions();
    let (family, token) = opened(&sessions);
    let (family, next) = rotated(&sessions, &family, &token, after(5));
    let body = family.body();
    assert_eq!(Family::restored(&family.session, &body).unwrap(), family);
    for secret in [token.text(), next.text()] {
        assert!(!body.contains(&secret[..20]), "{body}");
    }
    for body in ["", "{}", "[]", &body.replace("orig_iat", "x")] {
        assert!(Family::restored("s", body).is_err(), "{body}");
    }
    assert_eq!((family.bound_to.as_deref(), family.client.as_deref()), (Some("web"), Some("app")));
}

#[test]
fn a_refreshed_access_token_differs_in_its_times_and_id_alone() {
    let (_folder, sessions) = sessions();
    let claims = foreign(json!({ "auth_time": 1_732_400_000.75, "azp": "web", "roles": [1, 2.5, null] }));
    let minted = sessions.exchange(parent(&claims), NOW).unwrap();
    let old = honour(&sessions, minted.token(), NOW);
    let (family, token) = sessions.open_family(&minted, opener(None), NOW).unwrap();
    let restored = Family::restored(&family.session, &family.body()).unwrap();
    let new = sessions.refreshed(&restored, &token, Timestamp::MIN, after(70)).unwrap();
    let new = honour(&sessions, new.token(), after(70));
    assert_eq!(new.of_the_session(), old.of_the_session());
    assert_eq!(new.claims.all["exp"], json!(NOW.secs() + 130));
    let again = sessions.refreshed(&restored, &token, Timestamp::MIN, after(71)).unwrap();
    assert_eq!(again.id, new.name, "who asks at once gets the same");
    let newer = sessions.refreshed(&restored, &token, again.expires.plus(GRACE), after(72)).unwrap();
    assert_ne!(newer.id, again.id, "one that was replaced is not handed out");
}

#[test]
fn a_family_ends_unused_and_with_its_session() {
    let (_folder, sessions) = sessions();
    let (family, token) = opened(&sessions);
    assert_eq!(family.ends, after(IDLE));
    let end = sessions.absolute_end(family.lineage.origin_issued);
    let (family, _) = rotated(&sessions, &family, &token, after(250));
    assert_eq!(family.ends, end);
    let late = sessions.refreshed(&family, &token, Timestamp::MIN, end.plus(Duration::from_secs(1)));
    assert!(matches!(late, Err(MintError::Ended)));
}

#[test]
fn a_new_signing_key_is_named_in_the_chain() {
    let (_folder, sessions) = sessions();
    let (family, token) = opened(&sessions);
    let old = family.key.clone();
    sessions.rotate(after(1), true).unwrap();
    let (family, token) = rotated(&sessions, &family, &token, after(2));
    assert_ne!(family.key, old);
    assert_eq!(family.lineage.keys, std::slice::from_ref(&old));
    sessions.rotate(after(3), true).unwrap();
    let (last, _) = rotated(&sessions, &family, &token, after(4));
    assert_eq!(last.lineage.keys, [old, family.key]);
}

#[test]
fn each_token_is_judged_by_its_place_and_its_time() {
    let (_folder, sessions) = sessions();
    let (family, first) = opened(&sessions);
    assert_eq!(name(&family.judge(&first, after(1), GRACE)), "current");
    let (family, second) = rotated(&sessions, &family, &first, after(1));
    for (secs, worth) in [(1, "repeated"), (11, "repeated"), (12, "reused"), (0, "repeated")] {
        assert_eq!(name(&family.judge(&first, after(secs), GRACE)), worth, "after {secs} s");
    }
    let Judgement::Repeated(again) = family.judge(&first, after(2), GRACE) else { panic!("within the grace") };
    assert_eq!(again.text(), second.text(), "to the byte");
    let (family, third) = rotated(&sessions, &family, &second, after(2));
    assert_eq!(name(&family.judge(&first, after(2), GRACE)), "reused", "a grandparent has no grace");
    assert_eq!(name(&family.judge(&second, after(2), GRACE)), "repeated");
    assert_eq!(name(&family.judge(&third, after(2), GRACE)), "current");
    // Another of the same place was never handed out by this store.
    let minted = sessions.refreshed(&family, &third, Timestamp::MIN, after(3)).unwrap();
    let (_, one) = sessions.next_generation(&family, &third, &minted, after(3)).unwrap();
    assert_eq!(name(&family.judge(&one, after(3), GRACE)), "unknown", "the store is older than the token");
    let (next, _) = sessions.next_generation(&family, &third, &minted, after(3)).unwrap();
    assert_eq!(name(&next.judge(&one, after(3), GRACE)), "reused");
    // A session opened anew has nothing to do with what it had before.
    let (later, _) = {
        let minted = sessions.exchange(parent(&foreign(json!({}))), after(100)).unwrap();
        sessions.open_family(&minted, opener(None), after(100)).unwrap()
    };
    assert_eq!(later.session, family.session);
    assert_eq!(name(&later.judge(&third, after(100), GRACE)), "unknown");
}

#[test]
fn the_opening_token_brings_the_first_refresh_token_again_within_the_grace() {
    let (_folder, sessions) = sessions();
    let (family, first) = opened(&sessions);
    let again = |with, secs| family.opened_again(with, after(secs), GRACE).map(|token| token.text());
    assert_eq!(again("parent", 10), Some(first.text()));
    assert_eq!((again("parent", 11), again("another", 1)), (None, None));
    let (family, _) = rotated(&sessions, &family, &first, after(1));
    assert!(family.opened_again("parent", after(1), GRACE).is_none());
}

#[test]
fn families_are_bounded_and_forgotten_when_they_end() {
    let (_folder, sessions) = sessions();
    let family = |sid: &str, subject: &str| {
        let (family, _) = opened(&sessions);
        Family { session: sid.into(), subject: subject.to_owned(), ..family }
    };
    let families = Families::new(3);
    for (sid, room) in [("1", true), ("2", true), ("3", true), ("4", false), ("2", true)] {
        assert_eq!(families.reserve(&family(sid, sid), NOW), room, "{sid}");
    }
    families.release("1");
    assert!(families.reserve(&family("5", "5"), NOW));
    assert_eq!(families.len(), 3);
    assert!(families.reserve(&family("6", "6"), after(IDLE)), "what has ended makes room");
    families.sweep(after(IDLE));
    assert!(families.is_empty());

    families.set_max(10_000);
    for n in 0..=crate::session::PER_SUBJECT_MAX {
        let room = families.reserve(&family(&n.to_string(), "ada"), NOW);
        assert_eq!(room, n < crate::session::PER_SUBJECT_MAX, "{n}");
    }
    assert!(families.reserve(&family("other", "bob"), NOW));
}

#[test]
fn a_node_knows_how_far_a_family_has_come() {
    let (_folder, sessions) = sessions();
    let (family, first) = opened(&sessions);
    let (second_family, second) = rotated(&sessions, &family, &first, after(1));
    let (third_family, third) = rotated(&sessions, &second_family, &second, after(2));
    let families = Families::new(10);
    for (known, past) in [(&family, false), (&third_family, true), (&second_family, true)] {
        families.note(known);
        assert_eq!(families.is_past(&first), past, "{}", known.generation);
    }
    assert!(!families.is_past(&second) && !families.is_past(&third));
    let session = &*family.session;
    assert!(families.begin_ending(session) && !families.begin_ending(session), "one theft, one line");
    families.end_turn(session);
    assert!(families.begin_ending(session));
}

#[derive(Clone, Debug)]
enum Step {
    /// Somebody reads the family with one of the tokens handed out, counted from the latest.
    Come(usize),
    /// One who has come goes on, with what was read then.
    GoOn(usize),
    Pass(u64),
    Revoke,
    /// The session is opened again.
    Open,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..6_usize).prop_map(Step::Come),
        6 => (0..4_usize).prop_map(Step::GoOn),
        3 => (0..25_u64).prop_map(Step::Pass),
        1 => Just(Step::Pass(IDLE)),
        1 => Just(Step::Open),
    ];
    let ending = prop_oneof![8 => Just(None), 1 => Just(Some(Step::Revoke))];
    proptest::collection::vec((step, ending), 1..60)
        .prop_map(|pairs| pairs.into_iter().flat_map(|(step, ending)| [Some(step), ending]).flatten().collect())
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// The text of the token that it brought.
    Token(String),
    Nothing,
    /// The session has ended with it.
    Theft,
}

/// What the gateway does, with the store as one document.
struct Real {
    sessions: Sessions,
    document: Option<(Family, u64)>,
    revoked: bool,
}

/// Who has read the family, and found its token to be the current one.
struct Underway {
    token: usize,
    family: Family,
    revision: u64,
    at: Timestamp,
}

impl Real {
    fn come(&mut self, token: &RefreshToken, now: Timestamp) -> Result<(Family, u64), Outcome> {
        let live = self.document.as_ref().filter(|(family, _)| now < family.ends);
        let Some((family, revision)) = live else { return Err(Outcome::Nothing) };
        if self.revoked {
            return Err(Outcome::Nothing);
        }
        match family.judge(token, now, GRACE) {
            Judgement::Current => Ok((Family::restored(&family.session, &family.body()).unwrap(), *revision)),
            Judgement::Repeated(next) => Err(Outcome::Token(next.text().to_string())),
            Judgement::Unknown => Err(Outcome::Nothing),
            Judgement::Reused => {
                self.revoked = true;
                Err(Outcome::Theft)
            }
        }
    }

    fn put(&mut self, family: Family, expects: u64) -> bool {
        let revision = self.document.as_ref().map_or(0, |(_, revision)| *revision);
        if revision == expects {
            self.document = Some((family, revision + 1));
        }
        revision == expects
    }
}

/// What ought to happen: tokens are numbers, in the order in which they were handed out.
#[derive(Default)]
struct Model {
    /// Of each token: its family.
    families: Vec<usize>,
    /// When the latest was handed out for its predecessor.
    rotated: Option<Timestamp>,
    ends: Timestamp,
    revoked: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Rotates,
    Latest,
    Nothing,
    Theft,
}

impl Model {
    fn expect(&mut self, token: usize, now: Timestamp) -> Expected {
        let latest = self.families.len() - 1;
        if self.revoked || now >= self.ends || self.families[token] != self.families[latest] {
            return Expected::Nothing;
        }
        if token == latest {
            return Expected::Rotates;
        }
        let lately = self.rotated.is_some_and(|at| now <= at.plus(GRACE));
        if token + 1 == latest && lately {
            return Expected::Latest;
        }
        self.revoked = true;
        Expected::Theft
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_order_a_token_brings_one_successor_or_the_end(steps in steps()) {
        let (_folder, sessions) = sessions_with(|config| {
            config.absolute_timeout = Duration::from_secs(100_000);
            config.refresh = Some(config::Refresh {
                idle_timeout: Duration::from_secs(IDLE),
                reuse_grace: GRACE,
                delivery: Delivery::Header,
                cookie: "__Host-refresh".to_owned(),
            });
        });
        let claims = foreign(json!({}));
        let minted = sessions.exchange(parent(&claims), NOW).unwrap();
        let (family, first) = sessions.open_family(&minted, opener(None), NOW).unwrap();
        let mut real = Real { sessions, document: Some((family, 1)), revoked: false };
        let mut model = Model { families: vec![0], ends: after(IDLE), ..Model::default() };
        let mut tokens = vec![first];
        let mut underway: Vec<Underway> = Vec::new();
        let mut now = NOW;
        for step in steps {
            match step {
                Step::Pass(secs) => now = now.plus(Duration::from_secs(secs)),
                Step::Revoke => {
                    real.revoked = true;
                    model.revoked = true;
                }
                Step::Open => {
                    if real.revoked || now < model.ends {
                        continue;
                    }
                    let revision = real.document.as_ref().map_or(0, |(_, revision)| *revision);
                    let (family, token) = real.sessions.open_family(&minted, opener(None), now).unwrap();
                    assert!(real.put(family, revision));
                    tokens.push(token);
                    model.families.push(model.families.last().unwrap() + 1);
                    (model.rotated, model.ends) = (None, now.plus(Duration::from_secs(IDLE)));
                }
                Step::Come(back) => {
                    let Some(token) = tokens.len().checked_sub(back + 1) else { continue };
                    let expected = model.expect(token, now);
                    match real.come(&tokens[token], now) {
                        Ok((family, revision)) => {
                            prop_assert_eq!(expected, Expected::Rotates);
                            underway.push(Underway { token, family, revision, at: now });
                        }
                        Err(outcome) => compare(&expected, &outcome, &tokens)?,
                    }
                }
                Step::GoOn(which) => {
                    if underway.is_empty() {
                        continue;
                    }
                    let Underway { token, family, revision, at } = underway.remove(which % underway.len());
                    let presented = tokens[token].clone();
                    let access = real.sessions.refreshed(&family, &presented, Timestamp::MIN, at).unwrap();
                    let (next_family, next) = real.sessions.next_generation(&family, &presented, &access, at).unwrap();
                    if real.put(next_family, revision) {
                        prop_assert_eq!(token, tokens.len() - 1, "only the latest may rotate");
                        tokens.push(next);
                        model.families.push(*model.families.last().unwrap());
                        (model.rotated, model.ends) = (Some(at), at.plus(Duration::from_secs(IDLE)));
                        continue;
                    }
                    // Another was first: it is as if it came now.
                    let expected = model.expect(token, now);
                    match real.come(&presented, now) {
                        Ok(_) => prop_assert!(false, "a token that was taken is current again"),
                        Err(outcome) => compare(&expected, &outcome, &tokens)?,
                    }
                }
            }
            prop_assert_eq!(real.revoked, model.revoked);
        }
    }
}

fn compare(expected: &Expected, outcome: &Outcome, tokens: &[RefreshToken]) -> Result<(), TestCaseError> {
    let latest = tokens.last().unwrap().text().to_string();
    let wanted = match expected {
        Expected::Latest => Outcome::Token(latest),
        Expected::Nothing => Outcome::Nothing,
        Expected::Theft => Outcome::Theft,
        Expected::Rotates => return Err(TestCaseError::fail(format!("the latest brought {outcome:?}"))),
    };
    prop_assert_eq!(outcome, &wanted);
    Ok(())
}
