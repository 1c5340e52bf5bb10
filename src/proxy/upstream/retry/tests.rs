use http::{HeaderMap, header};

use super::*;
use crate::config::RetryOn;
use crate::telemetry::Metrics;

const ALL: RetryOn =
    RetryOn { connect_failure: true, reset_before_response: true, timeout: true, gateway_errors: true };
const SECOND: Duration = Duration::from_secs(1);

fn rules(attempts: u32, on: RetryOn) -> Retries {
    Retries { attempts, per_try_timeout: Some(SECOND), on, budget: 200 }
}

fn retrying(rules: Retries) -> Retrying {
    Retrying::new(rules, &Metrics::new().upstream("shop"), Instant::now())
}

fn request(method: &str) -> Request<RequestBody> {
    let mut request = Request::new(RequestBody::empty());
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = Uri::from_static("/a?b=c");
    for (name, value) in [("accept", "x/y"), ("x-twice", "1"), ("x-twice", "2"), ("host", "shop")] {
        request.headers_mut().append(name, HeaderValue::from_static(value));
    }
    request
}

const RESET: Setback = Setback::NoAnswer(ForwardError::Broken);
const KEPT: Setback = Setback::KeptEnded(ForwardError::Broken);

const ANY: Terms<'_> = Terms { keeps_host: true, upgrades: false, still: &|| true, complete: &|_| {} };

#[test]
fn what_is_sent_again_is_what_was_sent() {
    let retrying = retrying(rules(2, ALL));
    let mut first = request("GET");
    // As what adds to a list does: said twice, it would say something else.
    let complete = |fields: &mut HeaderMap| assert!(!fields.append("x-own", HeaderValue::from_static("said")));
    let mut tries = retrying.begin(&mut first, Terms { complete: &complete, ..ANY });
    for _ in 0..2 {
        let again = tries.again(0, RESET, Instant::now()).unwrap();
        assert_eq!((again.method(), again.uri()), (first.method(), first.uri()));
        assert_eq!(again.headers(), first.headers());
        assert_eq!(again.headers()["x-own"], "said");
        assert!(again.headers().contains_key(header::HOST));
    }
    drop(tries);
    assert_eq!(retrying.spares.borrow().len(), 1, "its room is kept for the next");
    let next = retrying.begin(&mut request("GET"), ANY).copy.unwrap().fields.len();
    assert_eq!(next, 4, "and holds nothing of the last");
}

#[test]
fn only_idempotent_requests_are_repeated_and_only_so_often() {
    for (method, attempts, wanted) in [
        ("GET", 2, 2),
        ("HEAD", 1, 1),
        ("OPTIONS", 1, 1),
        ("PUT", 1, 1),
        ("DELETE", 1, 1),
        ("POST", 2, 0),
        ("PATCH", 2, 0),
        ("GET", 0, 0),
    ] {
        let retrying = retrying(rules(attempts, ALL));
        let mut tries = retrying.begin(&mut request(method), ANY);
        let made = (0..5).filter(|_| tries.again(0, RESET, Instant::now()).is_some()).count();
        assert_eq!(made, wanted, "{method} of {attempts}");
    }
}

#[test]
fn a_kept_connection_that_ends_is_free_once_whatever_the_rules_are() {
    let none = RetryOn::default();
    for (attempts, on, setbacks, wanted) in [
        (1, none, &[KEPT, KEPT][..], 1),
        (1, none, &[RESET], 0),
        (1, ALL, &[KEPT, RESET, RESET], 2),
        (1, ALL, &[KEPT, KEPT, RESET], 2),
        (0, ALL, &[KEPT], 0),
    ] {
        let retrying = retrying(rules(attempts, on));
        let mut tries = retrying.begin(&mut request("GET"), ANY);
        let made = setbacks.iter().take_while(|setback| tries.again(0, **setback, Instant::now()).is_some()).count();
        assert_eq!(made, wanted, "{attempts} {on:?} {setbacks:?}");
    }
}

#[test]
fn it_is_sent_again_after_what_the_rules_name() {
    let only = |set: fn(&mut RetryOn)| {
        let mut on = RetryOn::default();
        set(&mut on);
        on
    };
    let (reset, timeout, gateway) =
        (only(|on| on.reset_before_response = true), only(|on| on.timeout = true), only(|on| on.gateway_errors = true));
    let slow = Setback::NoAnswer(ForwardError::TimedOut);
    let answer = |status| Setback::Answer(StatusCode::from_u16(status).unwrap());
    for (on, setback, upgrades, wanted) in [
        (reset, RESET, false, true),
        (reset, slow, false, false),
        (reset, answer(503), false, false),
        (timeout, slow, false, true),
        (timeout, RESET, false, false),
        (gateway, answer(502), false, true),
        (gateway, answer(503), false, true),
        (gateway, answer(504), false, true),
        (gateway, answer(500), false, false),
        (gateway, answer(101), true, false),
        (gateway, answer(503), true, false),
        (gateway, slow, false, false),
        (ALL, Setback::NoAnswer(ForwardError::NoServer), false, false),
    ] {
        let retrying = retrying(rules(1, on));
        let again = retrying.begin(&mut request("GET"), Terms { upgrades, ..ANY }).again(0, setback, Instant::now());
        assert_eq!(again.is_some(), wanted, "{on:?} {setback:?} {upgrades}");
    }
}

#[test]
fn nothing_is_sent_again_in_the_name_of_a_token_that_is_no_longer_honoured() {
    let retrying = retrying(rules(2, ALL));
    let ended = Terms { still: &|| false, ..ANY };
    for setback in [RESET, KEPT] {
        assert!(retrying.begin(&mut request("GET"), ended).again(0, setback, Instant::now()).is_none());
    }
}

#[test]
fn the_budget_is_a_share_of_the_requests_and_a_few() {
    let now = Instant::now();
    let budget = Budget::new(200, now);
    let spend = |at: Instant| (0..1000).filter(|_| budget.withdraw(at)).count();
    assert_eq!(spend(now), 10, "to begin with");
    for (requests, wanted) in [(4, 0), (1, 1), (100, 20), (10_000, 100)] {
        (0..requests).for_each(|_| budget.deposit());
        assert_eq!(spend(now), wanted, "after {requests}");
    }
    for (seconds, wanted) in [(1, 1), (4, 3), (1000, 10)] {
        assert_eq!(spend(now + seconds * SECOND), wanted, "in second {seconds}");
    }
}

#[test]
fn only_a_try_that_another_can_follow_has_its_own_time() {
    let (now, whole) = (Instant::now(), 60 * SECOND);
    let retrying = retrying(rules(1, ALL));
    let mut tries = retrying.begin(&mut request("GET"), ANY);
    assert_eq!(tries.patience(whole, now), SECOND);
    tries.again(0, Setback::NoAnswer(ForwardError::TimedOut), now).unwrap();
    assert_eq!(tries.patience(whole, now), whole, "the last one");
    assert_eq!(retrying.begin(&mut request("POST"), ANY).patience(whole, now), whole);
    let now = Instant::now();
    while retrying.budget.withdraw(now) {}
    assert_eq!(retrying.begin(&mut request("GET"), ANY).patience(whole, now), whole, "there will be no other");
}
