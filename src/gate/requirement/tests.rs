use serde_json::json;

use super::*;
use crate::token::Compact;

const NOW: Timestamp = Timestamp::from_secs(1_000_000);

fn claims(extra: &Value) -> Claims {
    use base64::Engine as _;
    let encode = |value: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    let mut all = json!({"iss": "a", "iat": 1, "exp": 2});
    all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let token = format!("{}.{}.AA", encode(&json!({"alg": "ES256"})), encode(&all));
    Compact::parse(&token, 8192).unwrap().claims
}

fn judge(demand: &Demand, extra: &Value, authenticated: Option<Timestamp>) -> Result<(), Denial> {
    let claims = claims(extra);
    let skew = Duration::from_secs(5);
    let facts =
        Facts { claims: &claims, lineage: None, confirmation: None, authenticated, skew, comes_from: &|_| true };
    demand.check(&facts, NOW)
}

fn holds(claim: &str, test: Test, extra: &Value) -> bool {
    let demand = Demand { claims: vec![ClaimRule { claim: claim.to_owned(), test }], ..Demand::default() };
    match judge(&demand, extra, None) {
        Ok(()) => true,
        Err(denial) => {
            assert_eq!(denial, Denial::ClaimMismatch, "{extra}");
            false
        }
    }
}

#[test]
fn values_are_compared_by_type_and_numbers_by_what_they_amount_to() {
    for (wanted, held, same) in [
        (json!("blue"), json!("blue"), true),
        (json!("blue"), json!("Blue"), false),
        (json!("1"), json!(1), false),
        (json!(true), json!("true"), false),
        (json!(1), json!(true), false),
        (json!(null), json!(null), true),
        (json!(1), json!(1.0), true),
        (json!(1.0), json!(1), true),
        (json!(-1), json!(-1.0), true),
        (json!(0), json!(-0.0), true),
        (json!(1), json!(1.5), false),
        (json!(1.5), json!(1.5), true),
        // 2^53 + 1 has no double of its own: it is not the one that stands for 2^53.
        (json!(9_007_199_254_740_993_u64), json!(9_007_199_254_740_992.0), false),
        (json!(u64::MAX), json!(u64::MAX), true),
        (json!(u64::MAX), json!(1.8446744073709552e19), false),
        (json!([1, {"a": 2}]), json!([1.0, {"a": 2.0}]), true),
        (json!([1, 2]), json!([2, 1]), false),
        (json!({"a": 1, "b": 2}), json!({"b": 2, "a": 1}), true),
        (json!({"a": 1}), json!({"a": 1, "b": 2}), false),
        // A list is not its only member.
        (json!("a"), json!(["a"]), false),
    ] {
        assert_eq!(holds("c", Test::Equals(wanted.clone()), &json!({"c": held})), same, "{wanted} {held}");
        assert_eq!(
            holds("c", Test::In(vec![json!("x"), wanted.clone()]), &json!({"c": held})),
            same,
            "{wanted} {held}"
        );
        assert_eq!(holds("c", Test::Contains(wanted.clone()), &json!({"c": ["x", held]})), same, "{wanted} {held}");
    }
    assert!(!holds("c", Test::Equals(json!(null)), &json!({})), "an absent claim is nothing, not null");
    assert!(!holds("c", Test::In(Vec::new()), &json!({"c": 1})));
    assert!(!holds("c", Test::Contains(json!("a")), &json!({"c": "abc"})), "a text has no members");
}

#[test]
fn a_rule_finds_a_claim_by_its_whole_name_before_its_path() {
    let roles = |name: &str, extra: Value| holds(name, Test::Contains(json!("admin")), &extra);
    assert!(roles("realm_access.roles", json!({"realm_access": {"roles": ["admin"]}})));
    assert!(!roles("realm_access.roles", json!({"realm_access": {"roles": ["user"]}})));
    assert!(roles("https://shop.example/roles", json!({"https://shop.example/roles": ["admin"]})));
    assert!(!roles("a.b", json!({"a.b": ["user"], "a": {"b": ["admin"]}})), "the whole name wins");
}

#[test]
fn a_pattern_matches_a_whole_text_and_nothing_else() {
    for (pattern, held, matches) in [
        ("[^@]+@example\\.com", json!("ada@example.com"), true),
        ("[^@]+@example\\.com", json!("ada@example.com.evil.net"), false),
        ("[^@]+@example\\.com", json!("x ada@example.com"), true),
        ("a|b", json!("a"), true),
        ("a|b", json!("ab"), false),
        ("a|ab", json!("ab"), true),
        ("a", json!("a\n"), false),
        ("(?m)^a$", json!("b\na"), false),
        ("team-.*", json!("team-\u{e9}"), true),
        ("(?i)ADMIN", json!("admin"), true),
        ("\\d+", json!(42), false),
        ("a", json!(["a"]), false),
        ("null", json!(null), false),
        ("", json!(""), true),
        ("", json!("a"), false),
    ] {
        let test = Test::Pattern(Pattern::new(pattern).unwrap());
        assert_eq!(holds("c", test, &json!({"c": held})), matches, "{pattern} {held}");
    }
    for (pattern, why) in [
        ("a)|(b", "unopened group"),
        ("(a", "unclosed group"),
        ("[z-a]", "invalid character class range, the start must be <= the end"),
        ("(?=a)b", "look-around, including look-ahead and look-behind, is not supported"),
        ("(?:\\w{500}){500}", "it takes more than 1048576 bytes when compiled"),
        (&"a".repeat(1025), "it is longer than 1024 bytes"),
    ] {
        assert_eq!(Pattern::new(pattern).unwrap_err().to_string(), why, "{pattern:.40}");
    }
}

#[test]
fn an_old_or_weak_authentication_asks_for_a_better_one() {
    let step_up = |max_age: Option<u64>, acr: &str| {
        Err(Denial::InsufficientUserAuthentication { max_age, acr_values: acr.to_owned() })
    };
    let recent = Demand { max_age: Some(Duration::from_secs(300)), ..Demand::default() };
    for (seconds_ago, met) in
        [(0, true), (300, true), (304, true), (305, false), (100_000, false), (-5, true), (-6, false)]
    {
        let at = Timestamp::from_secs(NOW.secs() - seconds_ago);
        let wanted = if met { Ok(()) } else { step_up(Some(300), "") };
        assert_eq!(judge(&recent, &json!({}), Some(at)), wanted, "{seconds_ago} s ago");
    }
    assert_eq!(judge(&recent, &json!({}), None), step_up(Some(300), ""), "nobody knows when");

    let strong = Demand { acr: vec!["phr".to_owned(), "mfa".to_owned()], ..Demand::default() };
    for (acr, met) in [
        (json!({"acr": "mfa"}), true),
        (json!({"acr": "phr"}), true),
        (json!({"acr": "pwd"}), false),
        (json!({"acr": "phr mfa"}), false),
        (json!({"acr": ["mfa"]}), false),
        (json!({"acr": 2}), false),
        (json!({}), false),
    ] {
        let wanted = if met { Ok(()) } else { step_up(None, "phr mfa") };
        assert_eq!(judge(&strong, &acr, None), wanted, "{acr}");
    }
    let both = Demand { max_age: recent.max_age, ..strong };
    assert_eq!(
        judge(&both, &json!({"acr": "mfa"}), None),
        step_up(Some(300), "phr mfa"),
        "all that is demanded is named"
    );
    assert_eq!(judge(&both, &json!({"acr": "mfa"}), Some(NOW)), Ok(()));
}

#[test]
fn a_client_that_lacks_a_scope_is_not_sent_to_log_in() {
    let demand =
        Demand { scopes_all: vec!["admin".to_owned()], max_age: Some(Duration::from_secs(1)), ..Demand::default() };
    assert_eq!(judge(&demand, &json!({}), None), Err(Denial::InsufficientScope("admin".to_owned())));
}

#[test]
fn only_a_route_that_reports_gives_a_way_past_the_decision() {
    assert!(Requirement::Public.unenforced().is_none());
    assert!(Requirement::Token(Demand::default()).unenforced().is_none());
    assert!(Requirement::Reported(Demand::default()).unenforced().is_some());
}
