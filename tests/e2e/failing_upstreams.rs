//! Upstreams that fail, and clients that leave: the right status or a clean close, nothing left behind, everything counted.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::NoAnswer;
use crate::support::{Gateway, Latch, Site, Upstream, request, until};

/// The gateway is at rest: nothing in flight, no connection to an upstream in use.
fn assert_at_rest(gateway: &Gateway) {
    until("the gateway to be at rest", || {
        let admin = gateway.admin();
        let in_flight = admin.metric("portcullis_requests_in_flight", &[]);
        let active = admin.metric("portcullis_upstream_connections", &[("state", "active")]);
        (in_flight == 0.0 && active == 0.0).then_some(())
    });
}

fn counted(gateway: &Gateway, result: &str) -> f64 {
    gateway.admin().metric("portcullis_upstream_requests_total", &[("upstream", "shop"), ("result", result)])
}

#[test]
fn an_upstream_that_is_not_there_is_a_bad_gateway() {
    let gone = Upstream::start().url();
    // The listener above is closed by now; nobody listens on its port.
    let gateway = Site::before(&gone).start();
    let response = until("the port to be closed", || {
        let response = gateway.get("/public/", &[]);
        (response.status != 200).then_some(response)
    });
    assert_eq!((response.status, response.header("www-authenticate")), (502, None));
    assert_eq!(response.header("content-type"), Some("application/problem+json"));
    assert!(!response.text().contains("127.0.0.1"), "the answer names the upstream: {}", response.text());
    assert!(counted(&gateway, "refused") >= 1.0);
    assert_at_rest(&gateway);
}

#[test]
fn an_upstream_that_is_slow_is_a_gateway_timeout() {
    let upstream = Upstream::scripted(|exchange| exchange.await_close());
    let mut site = Site::new(&upstream);
    site.set("/upstreams/shop/response_timeout", json!("300ms"));
    let gateway = site.start();
    let started = Instant::now();
    assert_eq!(gateway.get("/public/", &[]).status, 504);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(counted(&gateway, "timed_out"), 1.0);
    until("the upstream's connection to end", || (upstream.open() == 0).then_some(()));
    assert_at_rest(&gateway);
}

#[test]
fn a_route_has_a_time_limit_of_its_own() {
    let upstream = Upstream::scripted(|exchange| exchange.await_close());
    let mut site = Site::new(&upstream);
    site.route(json!({
        "name": "quick", "match": {"path": "/quick/"}, "upstream": "shop", "auth": "none", "timeout": "300ms",
    }));
    let gateway = site.start();
    let started = Instant::now();
    assert_eq!(gateway.get("/quick/", &[]).status, 504);
    assert!(started.elapsed() < Duration::from_secs(5));
    until("the upstream's connection to end", || (upstream.open() == 0).then_some(()));
}

#[test]
fn an_answer_that_breaks_off_is_not_completed_quietly() {
    for (name, answer) in [
        ("a length", &b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it"[..]),
        ("chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nwo"),
        ("no last chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        ("a broken chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n"),
    ] {
        let upstream = Upstream::scripted(move |exchange| {
            exchange.close();
            exchange.raw(answer)
        });
        let gateway = Site::new(&upstream).start();
        let mut connection = gateway.connect();
        match connection.send(&request("GET", "/public/", &[], b"")).try_response() {
            // Nothing of it may have been handed on yet.
            Err(problem) => assert_ne!(problem, NoAnswer::TimedOut, "{name}"),
            Ok(response) => assert_eq!(response.status, 502, "{name}: {response:?}"),
        }
        assert_eq!(counted(&gateway, "broken"), 1.0, "{name}");
        assert_at_rest(&gateway);
    }
}

#[test]
fn an_upstream_that_hangs_up_before_it_answers_is_a_bad_gateway() {
    let upstream = Upstream::scripted(|exchange| {
        exchange.close();
        Ok(())
    });
    let gateway = Site::new(&upstream).start();
    assert_eq!(gateway.send("POST", "/public/", &[], b"hello").status, 502);
    assert_eq!(upstream.take().len(), 1, "a request that may have had an effect is not repeated");
    assert_eq!(counted(&gateway, "broken"), 1.0);
    assert_at_rest(&gateway);
}

/// A kept connection may have been closed by the upstream the moment it is used again: not the client's trouble.
#[test]
fn a_kept_connection_that_has_ended_is_replaced() {
    let upstream = Upstream::scripted(|exchange| {
        exchange.answer(200, &[], b"hello")?;
        exchange.close();
        Ok(())
    });
    let gateway = Site::new(&upstream).start();
    let statuses: Vec<_> = (0..50).map(|_| gateway.get("/public/", &[]).status).collect();
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_at_rest(&gateway);
}

#[test]
fn an_early_answer_does_not_wait_for_the_rest_of_the_request() {
    let upstream = Upstream::scripted(|exchange| {
        exchange.raw(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")?;
        exchange.close();
        Ok(())
    });
    let gateway = Site::new(&upstream).start();
    let mut connection = gateway.connect();
    connection.send(b"POST /public/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegin");
    let response = connection.response();
    assert_eq!((response.status, response.text().as_str()), (403, "no"));
    drop(connection);
    assert_at_rest(&gateway);
}

#[test]
fn a_refusal_reaches_a_client_that_is_still_sending() {
    let upstream = Upstream::start();
    let gateway = Site::new(&upstream).start();
    for _ in 0..20 {
        let mut connection = gateway.connect();
        connection.send(&request("POST", "/orders", &[], &[b'x'; 60_000]));
        assert_eq!(connection.response().status, 401);
    }
    assert_eq!(upstream.bytes(), 0);
}

#[test]
fn a_client_that_hangs_up_frees_its_upstream() {
    let upstream = Upstream::scripted(|exchange| exchange.await_close());
    let gateway = Site::new(&upstream).start();
    let connections: Vec<_> = (0..20)
        .map(|_| {
            let mut connection = gateway.connect();
            connection.send(&request("GET", "/public/", &[], b""));
            connection
        })
        .collect();
    upstream.await_requests(20);
    assert_eq!(gateway.admin().metric("portcullis_requests_in_flight", &[]), 20.0);
    drop(connections);
    until("the upstream's connections to end", || (upstream.open() == 0).then_some(()));
    assert_at_rest(&gateway);
    assert_eq!(counted(&gateway, "client_gone"), 20.0);
}

#[test]
fn a_client_that_hangs_up_within_an_answer_frees_its_upstream() {
    let upstream = Upstream::scripted(|exchange| {
        exchange.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")?;
        exchange.await_close()
    });
    let gateway = Site::new(&upstream).start();
    let mut connection = gateway.connect();
    connection.send(&request("GET", "/public/", &[], b""));
    let head = connection.read_head().unwrap();
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
    drop(connection);
    until("the upstream's connection to end", || (upstream.open() == 0).then_some(()));
    assert_at_rest(&gateway);
}

#[test]
fn the_server_with_the_fewest_requests_is_chosen() {
    let gate = Arc::new(Latch::default());
    let door = Arc::clone(&gate);
    let busy = Upstream::scripted(move |exchange| {
        door.wait();
        exchange.answer(200, &[], b"busy")
    });
    let free = Upstream::start();
    let mut site = Site::before(&busy.url());
    site.set("/workers", json!(1));
    site.set("/upstreams/shop/servers", json!([busy.url(), free.url()]));
    let gateway = site.start();
    // One request is stuck at the busy server; it may take a turn of the free one to get it there.
    let mut stuck = Vec::new();
    until("a request at the busy server", || {
        let mut connection = gateway.connect();
        connection.send(&request("GET", "/public/", &[], b""));
        stuck.push(connection);
        until("the request to arrive", || (busy.requests().len() + free.requests().len() == stuck.len()).then_some(()));
        (busy.requests().len() == 1).then_some(())
    });
    free.take();
    for _ in 0..8 {
        assert_eq!(gateway.get("/public/", &[]).text(), "hello");
    }
    assert_eq!((busy.requests().len(), free.requests().len()), (1, 8));
    gate.open();
    for mut connection in stuck {
        assert_eq!(connection.response().status, 200);
    }
}

#[test]
fn without_retries_a_server_that_hangs_up_on_everybody_is_asked_once_a_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            counter.fetch_add(1, Ordering::AcqRel);
            drop(connection);
        }
    });
    let mut site = Site::before(&url);
    site.set("/upstreams/shop/retries", json!({"attempts": 0}));
    let gateway = site.start();
    for _ in 0..20 {
        assert_eq!(gateway.get("/public/", &[]).status, 502);
    }
    assert_eq!(connections.load(Ordering::Acquire), 20);
    assert_at_rest(&gateway);
}

/// Whatever an upstream answers: the right status, and the next request gets what is meant for it.
#[test]
fn an_upstream_that_misbehaves_harms_no_other_request() {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let many = |count: usize| {
        let fields: String = (0..count).map(|at| format!("X-{at}: y\r\n")).collect();
        format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok").into_bytes()
    };
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 2\r\n\r\nok", "y".repeat(1 << 20));
    let evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for (name, answer, status) in [
        ("garbage", b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec(), 502),
        ("TLS", b"\x15\x03\x01\x00\x02\x02\x46".to_vec(), 502),
        ("another version", b"HTTP/2.7 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(), 502),
        ("no status", b"HTTP/1.1 OK\r\n\r\n".to_vec(), 502),
        ("half a head", b"HTTP/1.1 200 OK\r\nContent-".to_vec(), 502),
        ("nothing", Vec::new(), 502),
        ("very many fields", many(5000), 502),
        ("a very long field", long.into_bytes(), 502),
        ("a 101 nobody asked for", b"HTTP/1.1 101 Go\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\nhi".to_vec(), 502),
        ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 4\r\n\r\nokok".to_vec(), 502),
        ("a negative length", b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok".to_vec(), 502),
        ("some interim answers", [&b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(50)[..], OK].concat(), 200),
        ("an answer too many", [OK, evil].concat(), 200),
        ("more than its length", [OK, b"evil"].concat(), 200),
    ] {
        let upstream = Upstream::scripted(move |exchange| {
            if exchange.recorded.target.ends_with("good") {
                return exchange.answer(200, &[], b"good");
            }
            exchange.raw(&answer)?;
            // What is kept open is not to be used again either.
            if status == 502 {
                exchange.close();
            }
            Ok(())
        });
        let mut site = Site::new(&upstream);
        site.set("/workers", json!(1)).set("/upstreams/shop/response_timeout", json!("10s"));
        let gateway = site.start();
        for _ in 0..3 {
            let response = gateway.get("/public/bad", &[]);
            assert_eq!(response.status, status, "{name}: {}", response.text());
            assert!(status != 200 || response.text() == "ok", "{name}: {}", response.text());
            let next = gateway.get("/public/good", &[]);
            assert_eq!((next.status, next.text().as_str()), (200, "good"), "after {name}");
        }
        assert_at_rest(&gateway);
    }
}

#[test]
fn an_upstream_that_only_ever_says_that_it_is_about_to_answer_is_too_slow() {
    let upstream = Upstream::scripted(|exchange| {
        if exchange.recorded.target.ends_with("good") {
            return exchange.answer(200, &[], b"good");
        }
        loop {
            exchange.raw(&b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(100))?;
        }
    });
    let mut site = Site::new(&upstream);
    site.set("/workers", json!(1)).set("/upstreams/shop/response_timeout", json!("500ms"));
    let gateway = site.start();
    for _ in 0..2 {
        assert_eq!(gateway.get("/public/bad", &[]).status, 504);
        assert_eq!(gateway.get("/public/good", &[]).text(), "good");
    }
    assert_at_rest(&gateway);
}
