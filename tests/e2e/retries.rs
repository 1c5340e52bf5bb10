//! Requests that are sent again: which, how often, and that nobody notices a server that dies.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Gateway, Site, Upstream, bearer, request, until};

/// One worker, no ejection, and these retries.
fn site(servers: &[&Upstream], retries: Value) -> Site {
    let mut site = Site::new(servers[0]);
    let urls: Vec<_> = servers.iter().map(|server| server.url()).collect();
    site.set("/workers", json!(1))
        .set("/upstreams/shop/servers", json!(urls))
        .set("/upstreams/shop/ejection", json!({"after": "none"}))
        .set("/upstreams/shop/retries", retries);
    site
}

/// Reads a request and hangs up.
fn resetting() -> Upstream {
    Upstream::scripted(|exchange| {
        exchange.read_body(|_| ())?;
        exchange.close();
        Ok(())
    })
}

fn retried(gateway: &Gateway, result: &str) -> f64 {
    gateway.admin().metric("portcullis_upstream_retries_total", &[("upstream", "shop"), ("result", result)])
}

fn send(gateway: &Gateway, method: &str, body: &[u8]) -> u16 {
    gateway.send(method, "/public/", &[], body).status
}

#[test]
fn what_a_server_may_have_seen_goes_to_another_only_if_it_may_be_done_twice() {
    for (method, body, repeated) in [
        ("GET", &b""[..], true),
        ("PUT", b"", true),
        ("DELETE", b"", true),
        ("POST", b"", false),
        ("PATCH", b"", false),
        ("PUT", b"hello", false),
    ] {
        let (bad, good) = (resetting(), Upstream::start());
        let gateway = site(&[&bad, &good], json!({})).start();
        let statuses: Vec<_> = (0..6).map(|_| send(&gateway, method, body)).collect();
        let (seen, failed) = (bad.requests().len(), statuses.iter().filter(|status| **status == 502).count());
        assert!(seen > 0, "{method}");
        assert_eq!(failed, if repeated { 0 } else { seen }, "{method}: {statuses:?}");
        assert_eq!(good.requests().len(), if repeated { 6 } else { 6 - seen }, "{method}");
        assert_eq!(retried(&gateway, "answered"), if repeated { seen as f64 } else { 0.0 }, "{method}");
    }
}

#[test]
fn a_request_that_is_sent_again_says_the_same_again() {
    let (bad, good) = (resetting(), Upstream::start());
    let mut site = site(&[&bad, &good], json!({}));
    site.set("/trusted_proxies", json!(["127.0.0.1"]));
    let gateway = site.start();
    let token = bearer(&site.accounts.token_of("bob"));
    let fields =
        [("Authorization", token.as_str()), ("X-Forwarded-For", "192.0.2.1"), ("Via", "1.0 edge"), ("X-Own", "1")];
    while bad.requests().is_empty() {
        good.take();
        assert_eq!(gateway.get("/orders", &fields).status, 200);
    }
    let again = good.take_one();
    assert_eq!(again.headers, bad.take_one().headers);
    assert_eq!(again.header("x-auth-request-user"), Some("bob"));
    assert_eq!(again.all("x-forwarded-for"), ["192.0.2.1, 127.0.0.1"]);
    assert_eq!(again.all("via"), ["1.0 edge, 1.1 portcullis"]);
    assert_eq!(again.header("authorization"), None);
}

#[test]
fn a_kept_connection_that_ends_in_the_moment_of_the_next_request_costs_nothing() {
    let answered = Mutex::new(HashSet::new());
    let upstream = Upstream::scripted(move |exchange| {
        if answered.lock().unwrap().insert(exchange.recorded.connection) {
            return exchange.answer(200, &[], b"hello");
        }
        exchange.close();
        Ok(())
    });
    // The smallest budget, and more requests than the reserve has room for.
    let gateway = site(&[&upstream], json!({"budget": "1%", "on": []})).start();
    for _ in 0..40 {
        assert_eq!(send(&gateway, "GET", b""), 200);
    }
    assert!(retried(&gateway, "answered") >= 20.0);
    assert_eq!(retried(&gateway, "over_budget"), 0.0);
    let statuses = [send(&gateway, "POST", b""), send(&gateway, "POST", b"")];
    assert!(statuses.contains(&502), "who may have been heard is not repeated: {statuses:?}");
}

#[test]
fn the_budget_bounds_what_servers_in_trouble_are_asked() {
    const REQUESTS: usize = 200;
    let upstream = resetting();
    let gateway = site(&[&upstream], json!({"attempts": 3, "budget": "20%"})).start();
    let started = Instant::now();
    for _ in 0..REQUESTS {
        assert_eq!(send(&gateway, "GET", b""), 502);
    }
    let again = upstream.requests().len() - REQUESTS;
    let most = REQUESTS / 5 + 10 + usize::try_from(started.elapsed().as_secs()).unwrap() + 1;
    assert!((REQUESTS / 5..=most).contains(&again), "{again} of at most {most}");
    assert!(retried(&gateway, "over_budget") > 0.0);
    assert_eq!(retried(&gateway, "failed"), again as f64);
}

#[test]
fn a_try_that_takes_too_long_is_followed_by_another() {
    let (slow, good) = (Upstream::scripted(|exchange| exchange.await_close()), Upstream::start());
    let gateway = site(&[&slow, &good], json!({"on": ["timeout"], "per_try_timeout": "200ms"})).start();
    for _ in 0..4 {
        assert_eq!(send(&gateway, "GET", b""), 200);
    }
    assert!(!slow.requests().is_empty());
    until("the slow server's connections to end", || (slow.open() == 0).then_some(()));
}

#[test]
fn the_time_of_the_route_holds_for_all_tries() {
    let slow = Upstream::scripted(|exchange| exchange.await_close());
    let retries = json!({"on": ["timeout"], "per_try_timeout": "300ms", "attempts": 10});
    let mut site = site(&[&slow], retries);
    site.route(json!({
        "name": "quick", "match": {"path": "/quick/"}, "upstream": "shop", "auth": "none", "timeout": "1s",
    }));
    let gateway = site.start();
    let started = Instant::now();
    assert_eq!(gateway.get("/quick/", &[]).status, 504);
    assert!(started.elapsed() < Duration::from_secs(10));
    let tries = slow.requests().len();
    assert!((2..=4).contains(&tries), "{tries} tries");
}

#[test]
fn a_gateway_error_is_handed_on_unless_it_is_to_be_tried_again() {
    let unwilling = || Upstream::scripted(|exchange| exchange.answer(503, &[("Retry-After", "7")], b"busy"));
    let (bad, good) = (unwilling(), Upstream::start());
    let gateway = site(&[&bad, &good], json!({"on": ["gateway_errors"]})).start();
    for _ in 0..6 {
        assert_eq!(send(&gateway, "GET", b""), 200);
    }
    assert!(!bad.requests().is_empty());
    let posted: Vec<_> = (0..4).map(|_| send(&gateway, "POST", b"")).collect();
    assert!(posted.contains(&503), "{posted:?}");
    // By default; and when all of them say so, the last word is the server's.
    for retries in [json!({}), json!({"on": ["gateway_errors"]})] {
        let bad = unwilling();
        let gateway = site(&[&bad], retries).start();
        let response = gateway.get("/public/", &[]);
        assert_eq!((response.status, response.header("retry-after")), (503, Some("7")));
    }
}

#[test]
fn nothing_is_sent_again_for_a_client_that_is_gone() {
    let servers = [(); 2].map(|()| Upstream::scripted(|exchange| exchange.await_close()));
    let gateway = site(&[&servers[0], &servers[1]], json!({})).start();
    let mut connection = gateway.connect();
    connection.send(&request("GET", "/public/", &[], b""));
    let seen = || servers.iter().map(|server| server.requests().len()).sum::<usize>();
    until("the request to arrive", || (seen() == 1).then_some(()));
    drop(connection);
    until("the server's connection to end", || (servers.iter().all(|server| server.open() == 0)).then_some(()));
    assert_eq!(gateway.get("/health", &[]).status, 401, "the worker has gone on");
    assert_eq!(seen(), 1);
}

/// The whole of it: a server is killed and started again, with requests on their way all the time.
#[test]
fn a_server_dies_and_comes_back_and_no_request_fails() {
    let one = Upstream::start();
    let mut two = Upstream::start();
    let mut site = Site::new(&one);
    site.set("/upstreams/shop/servers", json!([one.url(), two.url()]))
        .set("/upstreams/shop/health", json!({"path": "/healthz", "interval": "100ms", "healthy_after": 1}))
        .set("/upstreams/shop/ejection", json!({"time": "1s", "max_time": "1s"}));
    let gateway = Arc::new(site.start());
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (gateway, stop, done) = (Arc::clone(&gateway), Arc::clone(&stop), Arc::clone(&done));
            thread::spawn(move || {
                let mut connection = gateway.connect();
                while !stop.load(Ordering::Acquire) {
                    let response = connection.send(&request("GET", "/public/", &[], b"")).response();
                    assert_eq!(response.status, 200, "{}", response.text());
                    done.fetch_add(1, Ordering::AcqRel);
                }
            })
        })
        .collect();
    let pass = |count: usize| {
        let from = done.load(Ordering::Acquire);
        until("requests to be answered", || (done.load(Ordering::Acquire) >= from + count).then_some(()));
    };
    for _ in 0..3 {
        pass(100);
        let address = two.address();
        two.kill();
        pass(200);
        two = Upstream::start_at(address);
        until("a request at the server that is back", || {
            two.requests().iter().any(|request| request.target == "/public/").then_some(())
        });
    }
    stop.store(true, Ordering::Release);
    for client in clients {
        client.join().unwrap();
    }
}
