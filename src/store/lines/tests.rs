use proptest::prelude::*;

use super::*;
use crate::revocation::TargetKind;
use crate::store::{MAX_DOCUMENT_BYTES, MAX_OTHER_BYTES};

fn text() -> impl Strategy<Value = String> {
    // With what has to be escaped.
    prop::string::string_regex("[ -~é\\n\"\\\\\u{2028}]{0,12}").unwrap()
}

fn name() -> impl Strategy<Value = String> {
    prop::string::string_regex("[!-~]{1,20}").unwrap()
}

fn time() -> impl Strategy<Value = Timestamp> {
    (0..=Timestamp::MAX.millis()).prop_map(Timestamp::from_millis)
}

fn maybe_time() -> impl Strategy<Value = Option<Timestamp>> {
    prop::option::of(time())
}

fn target() -> impl Strategy<Value = Target> {
    (prop::sample::select(TargetKind::ALL.to_vec()), text(), text())
        .prop_map(|(kind, issuer, value)| Target::new(kind, issuer, value))
}

fn form() -> impl Strategy<Value = Form> {
    (maybe_time(), maybe_time()).prop_map(|it| match it {
        (None, None) => Form::Block,
        (issued, authenticated) => Form::Before { issued, authenticated },
    })
}

fn record_id() -> impl Strategy<Value = RecordId> {
    name().prop_map(|it| it.parse().unwrap())
}

fn body() -> impl Strategy<Value = Body> {
    let said = || (text(), prop::option::of(text()), time(), maybe_time());
    let reasons = (prop::sample::select(Reason::ALL.to_vec()), prop::sample::select(Source::ALL.to_vec()));
    let revocation = (record_id(), target(), form(), reasons, said()).prop_map(
        |(id, target, form, (reason, source), (actor, note, at, forget_at))| {
            Body::Revocation(Revocation { id, target, form, reason, source, actor, note, at, forget_at })
        },
    );
    let lift = (record_id(), record_id(), target(), maybe_time(), said()).prop_map(
        |(id, of, target, leaves, (actor, note, at, forget_at))| {
            Body::Lift(Lift { id, of, target, leaves, actor, note, at, forget_at })
        },
    );
    let other = (record_id(), name(), text(), prop::collection::vec(target(), 0..4), time(), maybe_time()).prop_map(
        |(id, kind, says, restricts, at, forget_at)| Body::Other(Other { id, kind, says, restricts, at, forget_at }),
    );
    prop_oneof![revocation, lift, other]
}

fn line() -> impl Strategy<Value = Line> {
    let entry = (name(), 1..=u64::MAX >> 1, body())
        .prop_map(|(origin, origin_seq, body)| Line::Entry(Entry { origin, origin_seq, version: 1, body }));
    let kind = prop::sample::select(DocumentKind::ALL.to_vec());
    let document = (name(), kind, text(), 1..=u64::MAX >> 1, text(), maybe_time()).prop_map(
        |(origin, kind, key, revision, body, forget_at)| {
            Line::Document(Adopted { origin, document: Document { kind, key, revision, body, forget_at } })
        },
    );
    let header = (name(), any::<i64>(), any::<u64>(), prop::option::of(any::<u64>())).prop_map(
        |(store_id, format, sequence, lines)| {
            Line::Header(Header { version: LINES_VERSION, store_id, format, sequence, lines })
        },
    );
    prop_oneof![8 => entry, 3 => document, 1 => header]
}

proptest! {
    #[test]
    fn a_line_says_all_there_is(line in line()) {
        let text = line.to_json().unwrap();
        prop_assert!(!text.contains('\n'));
        prop_assert_eq!(Line::parse(&text).unwrap(), line);
    }
}

#[test]
fn the_longest_there_is_fits() {
    let at = Timestamp::MAX;
    let (says, id) = ("\u{1}".repeat(MAX_OTHER_BYTES), "x".parse().unwrap());
    let other = Other { id, kind: "x".to_owned(), says, restricts: Vec::new(), at, forget_at: None };
    let entry = Entry { origin: "x".to_owned(), origin_seq: 1, version: 1, body: Body::Other(other) };
    let body = "\u{1}".repeat(MAX_DOCUMENT_BYTES);
    let document = Document { kind: DocumentKind::Key, key: "x".to_owned(), revision: 1, body, forget_at: None };
    for line in [Line::Entry(entry), Line::Document(Adopted { origin: "x".to_owned(), document })] {
        assert!(line.to_json().unwrap().len() < MAX_LINE_BYTES);
    }
}

#[test]
fn what_is_no_line_is_refused() {
    let good = r#"{"type":"revocation","origin":"n","number":1,"version":1,"id":"a","target":{"kind":"token","issuer":"i","value":"v"},"block":true,"reason":"logout","source":"admin","actor":"ops","at":"2026-01-01T00:00:00Z"}"#;
    Line::parse(good).unwrap();
    let document = r#"{"type":"document","origin":"n","kind":"family","key":"k","revision":1,"body":"{}"}"#;
    Line::parse(document).unwrap();
    for (from, to, says) in [
        ("\"revocation\"", "\"quota\"", "not a line"),
        ("\"block\":true", "\"block\":true,\"colour\":1", "not a line"),
        ("\"block\":true", "\"block\":true,\"issued_before\":\"2026-01-01T00:00:00Z\"", "a cutoff and a block"),
        ("\"block\":true", "\"block\":false", "a cutoff and a block"),
        ("\"token\"", "\"tok\"", "the kind of target `tok`"),
        ("\"logout\"", "\"because\"", "the reason `because`"),
        ("\"admin\"", "\"door\"", "the source `door`"),
        ("\"id\":\"a\"", "\"id\":\"a b\"", "the id"),
        ("\"number\":1", "\"number\":0", "the number"),
        ("\"origin\":\"n\"", "\"origin\":\"\"", "the origin"),
        ("\"version\":1", "\"version\":2", "the version"),
        ("T00:00:00Z", "", "not a line"),
        (",\"actor\":\"ops\"", "", "not a line"),
    ] {
        let text = good.replace(from, to);
        assert_ne!(text, good);
        let error = Line::parse(&text).unwrap_err();
        assert!(error.to_string().starts_with(says), "{error}: {text}");
    }
    for (from, to, says) in [
        ("\"family\"", "\"house\"", "the kind of document `house`"),
        ("\"revision\":1", "\"revision\":0", "the revision"),
        ("\"origin\":\"n\"", "\"origin\":\"\"", "the origin"),
    ] {
        let error = Line::parse(&document.replace(from, to)).unwrap_err();
        assert!(error.to_string().starts_with(says), "{error}");
    }
}
