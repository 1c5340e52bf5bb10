use serde_json::json;

use super::*;
use crate::revocation::{Form, Lift, Reason, Revocation, Source, Target, TargetKind};
use crate::secret::Secret;
use crate::store::Body;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs)
}

fn revocation(form: Form) -> Message {
    Message::Record(Entry {
        origin: "store-a".to_owned(),
        origin_seq: 7,
        version: Entry::VERSION,
        body: Body::Revocation(Revocation {
            id: "id-1".parse().unwrap(),
            target: Target::new(TargetKind::Subject, "https://a.example/", "42"),
            form,
            reason: Reason::PasswordChanged,
            source: Source::Admin,
            actor: "ops".to_owned(),
            note: Some("why".to_owned()),
            at: at(6),
            forget_at: Some(at(7205)),
        }),
    })
}

fn lift() -> Message {
    Message::Record(Entry {
        origin: "store-a".to_owned(),
        origin_seq: 8,
        version: Entry::VERSION,
        body: Body::Lift(Lift {
            id: "id-2".parse().unwrap(),
            of: "id-1".parse().unwrap(),
            target: Target::new(TargetKind::All, "", ""),
            leaves: Some(at(8)),
            actor: "ops".to_owned(),
            note: None,
            at: at(8),
            forget_at: None,
        }),
    })
}

fn heartbeat() -> Heartbeat {
    Heartbeat {
        node: "gate-1".to_owned(),
        store: "store-a".to_owned(),
        incarnation: "i".to_owned(),
        version: "0.1.0".to_owned(),
        number: 3,
        sent: at(9),
        latest: at(10),
        sequence: 8,
        applied: BTreeMap::from([("store-b".to_owned(), 4)]),
        position: "12-1".to_owned(),
        keys: vec!["k".to_owned()],
        ready: true,
        compare: true,
        leaving: false,
    }
}

fn all() -> Vec<Message> {
    vec![
        revocation(Form::Block),
        revocation(Form::Before { issued: Some(at(5)), authenticated: None }),
        revocation(Form::Before { issued: Some(at(5)), authenticated: Some(at(6)) }),
        lift(),
        Message::Document(Document {
            kind: DocumentKind::Family,
            key: "a \"key\"".to_owned(),
            revision: 3,
            body: "{\"a\":1}".to_owned(),
            forget_at: None,
        }),
        Message::Heartbeat(heartbeat()),
        Message::Digest(Digest {
            node: "gate-1".to_owned(),
            incarnation: "i".to_owned(),
            at: "12-1".to_owned(),
            buckets: BTreeMap::from([(u32::MAX, Sum { count: 1, hash: u64::MAX })]),
            replacements: Sum::default(),
        }),
        Message::Credential(CredentialDrop { issuer: "https://a.example/".to_owned(), subject: "42".to_owned() }),
        Message::Proofs(vec![UsedProof { key: "k".to_owned(), id: "j".to_owned(), issued: at(3) }]),
    ]
}

fn seal() -> Seal {
    Seal::new("portcullis", &Secret::new(vec![7; 32]))
}

#[test]
fn what_was_said_is_what_is_heard() {
    for message in all() {
        let sealed = seal().close(&message).unwrap();
        assert_eq!(seal().open(&sealed).unwrap(), message);
    }
}

#[test]
fn nobody_else_can_say_anything() {
    for message in all() {
        let sealed = seal().close(&message).unwrap();
        for place in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[place] ^= 1;
            assert!(matches!(seal().open(&changed), Err(Unreadable::Forged(_))), "byte {place}");
        }
        for end in 0..sealed.len() {
            assert!(matches!(seal().open(&sealed[..end]), Err(Unreadable::Forged(_))), "cut at {end}");
        }
        let others =
            [Seal::new("portculli", &Secret::new(vec![7; 32])), Seal::new("portcullis", &Secret::new(vec![8; 32]))];
        for other in others {
            assert!(matches!(other.open(&sealed), Err(Unreadable::Forged(_))));
        }
    }
}

#[test]
fn the_shape_of_a_record_is_what_other_releases_read() {
    let json: serde_json::Value = serde_json::from_slice(
        &revocation(Form::Before { issued: Some(at(5)), authenticated: None }).to_json().unwrap(),
    )
    .unwrap();
    let expected = json!({"is": "record", "says": {
        "origin": "store-a", "sequence": 7, "version": 1, "id": "id-1", "at": "1970-01-01T00:00:06Z",
        "forget_at": "1970-01-01T02:00:05Z", "kind": "revocation", "says": {
            "target": {"kind": "subject", "issuer": "https://a.example/", "value": "42"},
            "issued_before": "1970-01-01T00:00:05Z", "reason": "password_changed", "source": "admin", "actor": "ops",
            "note": "why",
        },
    }});
    assert_eq!(json, expected);
}

fn later(edit: impl FnOnce(&mut serde_json::Value)) -> Message {
    let mut json: serde_json::Value = serde_json::from_slice(&revocation(Form::Block).to_json().unwrap()).unwrap();
    edit(&mut json["says"]);
    Message::from_json(json.to_string().as_bytes()).unwrap()
}

fn restricted(message: &Message) -> Vec<Target> {
    match message {
        Message::Record(Entry { body: Body::Other(other), .. }) => other.restricts.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_later_release_restricts_is_refused_and_passed_on_as_it_came() {
    let subject = Target::new(TargetKind::Subject, "https://a.example/", "42");
    let issuer = Target::new(TargetKind::Issuer, "https://a.example/", "");
    for (message, expected) in [
        // A revocation with more to it than this release can read: what it names.
        (later(|it| it["version"] = json!(2)), vec![subject.clone()]),
        (later(|it| it["says"]["not_before_device"] = json!("x")), vec![subject.clone()]),
        (later(|it| it["says"]["reason"] = json!("device_lost")), vec![subject.clone()]),
        // A kind of target that is not known: all of its issuer; with no issuer, everything.
        (later(|it| it["says"]["target"]["kind"] = json!("device")), vec![issuer]),
        (
            later(|it| it["says"]["target"] = json!({"kind": "region", "value": "eu"})),
            vec![Target::new(TargetKind::All, "", "")],
        ),
        // A kind of record that is not known: what it says that it restricts.
        (
            later(|it| {
                it["kind"] = json!("quarantine");
                it["restricts"] = json!([{"kind": "subject", "issuer": "https://a.example/", "value": "42"}]);
            }),
            vec![subject],
        ),
        (later(|it| it["kind"] = json!("remark")), vec![]),
    ] {
        assert_eq!(restricted(&message), expected);
        let passed_on = Message::from_json(&message.to_json().unwrap()).unwrap();
        assert_eq!(passed_on, message);
    }
}

#[test]
fn a_lift_that_says_more_lifts_nothing() {
    let mut json: serde_json::Value = serde_json::from_slice(&lift().to_json().unwrap()).unwrap();
    json["says"]["says"]["only_from"] = json!("eu");
    let message = Message::from_json(json.to_string().as_bytes()).unwrap();
    assert_eq!(restricted(&message), []);
}

#[test]
fn an_unknown_message_is_no_error_and_a_senseless_one_is() {
    let unknown = Message::from_json(br#"{"is":"gossip","says":{"a":1}}"#).unwrap();
    assert_eq!(unknown, Message::Unknown);
    for json in [
        "",
        "{}",
        r#"{"is":"record","says":{}}"#,
        r#"{"is":"record","says":{"origin":"","sequence":1,"version":1,"id":"a","at":"1970-01-01T00:00:06Z","kind":"x","says":1}}"#,
        r#"{"is":"record","says":{"origin":"a","sequence":0,"version":1,"id":"a","at":"1970-01-01T00:00:06Z","kind":"x","says":1}}"#,
        r#"{"is":"record","says":{"origin":"a","sequence":1,"version":1,"id":"a b","at":"1970-01-01T00:00:06Z","kind":"x","says":1}}"#,
    ] {
        assert!(Message::from_json(json.as_bytes()).is_err(), "{json}");
    }
}

#[test]
fn a_record_is_kept_by_its_end_and_its_place_in_history() {
    let place = revocation(Form::Block).place();
    assert_eq!(place, Place::Record { bucket: Bucket(2), origin: "store-a".to_owned(), sequence: 7 });
    assert_eq!(Message::Heartbeat(heartbeat()).place(), Place::Node("gate-1".to_owned()));
}
