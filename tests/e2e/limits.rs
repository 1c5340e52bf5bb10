//! Limits: each bites where it says, by its own name in the metrics, and keeps nobody else from being served.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http2::{Frames, GOAWAY, HEADERS, PING, RST_STREAM, WHOLE, frame, get, head};
use crate::support::{Connection, Gateway, Http2, Latch, Site, Upstream, bearer, request, until};

/// Well beyond the limits configured here, well below the defaults.
const SOON: Duration = Duration::from_secs(8);

fn start(upstream: &Upstream, limits: Value) -> Gateway {
    let mut site = Site::new(upstream);
    site.set("/limits", limits);
    site.start()
}

fn hits(gateway: &Gateway, limit: &str) -> f64 {
    gateway.admin().metric("portcullis_limits_hit_total", &[("limit", limit)])
}

/// How long it takes until the other side ends the connection.
fn lifetime(mut connection: Connection) -> Duration {
    let started = Instant::now();
    let _ = connection.stream().read_to_end(&mut Vec::new());
    started.elapsed()
}

const OPEN: &[u8] = b"GET /public/ HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn an_idle_connection_may_wait_longer_than_a_head_may_take() {
    let upstream = Upstream::start();
    let gateway = start(&upstream, json!({"header_timeout": "1s", "idle_timeout": "1h"}));
    let mut idle = gateway.connect();
    assert_eq!(idle.send(OPEN).response().status, 200);
    let silent = gateway.connect();
    let mut half = gateway.connect();
    assert_eq!(half.send(OPEN).response().status, 200);
    half.send(&OPEN[..20]);
    assert!(lifetime(silent) < SOON, "153 a client that says nothing at all");
    assert!(lifetime(half) < SOON, "a second head that does not become whole");
    assert_eq!(hits(&gateway, "header_timeout"), 2.0);
    // It has been idle for longer than a head may take.
    assert_eq!(idle.send(OPEN).response().status, 200);

    let gateway = start(&upstream, json!({"header_timeout": "1h", "idle_timeout": "1s"}));
    let mut idle = gateway.connect();
    let mut half = gateway.connect();
    half.send(&OPEN[..20]);
    assert_eq!(idle.send(OPEN).response().status, 200);
    assert!(lifetime(idle) < SOON, "an idle connection");
    assert_eq!([hits(&gateway, "idle_timeout"), hits(&gateway, "header_timeout")], [1.0, 0.0]);
    assert_eq!(half.send(&OPEN[20..]).response().status, 200, "it was not idle");
}

/// Whoever has begun a head is told that it came too late; whoever has said nothing is not.
#[test]
fn a_head_that_has_begun_and_comes_too_late_is_answered() {
    let upstream = Upstream::start();
    let gateway = start(&upstream, json!({"header_timeout": "1s"}));
    let mut connection = gateway.connect();
    for piece in [&OPEN[..20], b"G"] {
        let response = connection.send(piece).response();
        assert_eq!((response.status, response.reason().as_str()), (408, "head_too_slow"), "{response:?}");
        assert_eq!(response.header("connection"), Some("close"));
        assert_eq!(response.header("x-request-id"), response.json()["request_id"].as_str());
        assert!(connection.is_closed());
        connection = gateway.connect();
        assert_eq!(connection.send(OPEN).response().status, 200, "the next one on this connection");
    }
    assert_eq!(hits(&gateway, "header_timeout"), 2.0);
    let mut silent = Vec::new();
    gateway.connect().stream().read_to_end(&mut silent).unwrap();
    assert_eq!(String::from_utf8_lossy(&silent), "");
    assert_eq!(upstream.take().len(), 2, "nothing of the others");
}

/// The limit holds for each connection of HTTP/2 too. Its client is told in time, and loses nothing of what it sent.
#[test]
fn a_connection_of_http2_ends_after_its_last_request_and_none_is_lost() {
    let upstream = Upstream::start();
    let mut site = crate::http2::site(&upstream);
    site.set("/limits", json!({"requests_per_connection": 10}));
    let gateway = site.start();
    let mut frames = Frames::open(gateway.address);
    // All at once, before the client can hear of the end.
    let asked: Vec<u8> = (0..15).flat_map(|it| frame(HEADERS, WHOLE, 2 * it + 1, &get("/public/", &[]))).collect();
    assert!(frames.raw(&asked));
    let mut answered = 0;
    let mut told = false;
    while let Some(frame) = frames.next() {
        match frame.kind {
            HEADERS => answered += 1,
            RST_STREAM => panic!("{frame:?}"),
            GOAWAY => told = true,
            // Whoever answers the ping has heard of the end.
            PING => drop(frames.send(PING, 1, 0, &frame.payload)),
            _ => {}
        }
    }
    assert_eq!((answered, told), (15, true));
    assert_eq!(hits(&gateway, "requests_per_connection"), 1.0);
    // A client of the field goes on over the next connection.
    let (mut connections, mut client) = (1, Http2::open(&gateway));
    for _ in 0..95 {
        let answer = loop {
            match client.try_send(head("GET", "/public/", &[]), b"") {
                Ok(answer) => break answer,
                Err(error) => {
                    assert!(error.is_go_away() || error.is_io() || error.is_library(), "{error:?}");
                    (connections, client) = (connections + 1, Http2::open(&gateway));
                }
            }
        };
        assert_eq!(answer.status, 200);
    }
    assert!(connections >= 9, "{connections}");
    assert_eq!(upstream.take().len(), 15 + 95, "each of them once");
}

/// A client that does not listen is not heard for ever either.
#[test]
fn a_client_that_goes_on_after_a_goaway_is_cut_off() {
    let upstream = Upstream::start();
    let mut site = crate::http2::site(&upstream);
    site.set("/limits", json!({"requests_per_connection": 1}));
    let gateway = site.start();
    let mut frames = Frames::open(gateway.address);
    let mut sent = 0;
    while sent < 5000 && frames.send(HEADERS, WHOLE, 2 * sent + 1, &get("/public/", &[])) {
        sent += 1;
        while frames.find(|frame| frame.kind == HEADERS || frame.kind == GOAWAY).is_some_and(|it| it.kind == GOAWAY) {}
    }
    assert!((1000..2000).contains(&sent), "{sent}");
    assert_eq!(gateway.get("/public/", &[]).status, 200);
}

/// What a connection needs is there without anybody's having asked for it.
#[test]
fn the_limit_of_descriptors_is_raised_as_far_as_it_may_be() {
    let upstream = Upstream::start();
    let gateway = Gateway::start_by(&Site::new(&upstream), "ulimit -S -n 200 && ulimit -H -n 700 && exec \"$@\"");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["700", "700"], "{files}");
    let line = until("the log line", || {
        let output = gateway.output();
        output.lines().find(|line| line.contains("file descriptors are limited")).map(str::to_owned)
    });
    assert!(line.contains("700") && line.contains("200"), "{line}");
    let held: Vec<_> = (0..300).map(|_| gateway.connect()).collect();
    assert_eq!(gateway.get("/public/", &[]).status, 200);
    drop(held);
}

#[test]
fn a_body_that_drips_is_cut_by_its_rate_and_one_that_takes_too_long_by_its_time() {
    let upstream = Upstream::start();
    for (limit, limits) in [
        ("body_min_rate", json!({"body_min_rate": "1KiB", "body_rate_window": "1s"})),
        ("request_timeout", json!({"body_min_rate": "none", "request_timeout": "1s"})),
        ("body_timeout", json!({"body_min_rate": "none", "body_timeout": "10ms"})),
    ] {
        let gateway = start(&upstream, limits);
        let mut connection = gateway.connect().patience(Duration::from_millis(50));
        connection.send(b"POST /public/ HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
        let started = Instant::now();
        let mut answer = Vec::new();
        // Each read waits for 50 ms, which is the drip's rhythm.
        while started.elapsed() < SOON && !answer.ends_with(b"}") {
            let mut piece = [0; 4096];
            match connection.stream().read(&mut piece) {
                Ok(0) => break,
                Ok(count) => answer.extend_from_slice(&piece[..count]),
                Err(_) => drop(connection.stream().write_all(b"x")),
            }
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("body_too_slow"), "155 {limit}: {answer}");
        until("the upstream's connection to end", || (upstream.open() == 0).then_some(()));
        assert_eq!(hits(&gateway, limit), 1.0, "155 {limit}");
        assert_eq!(gateway.get("/public/", &[]).status, 200, "155 {limit}");
    }
}

/// An upstream that takes nothing for a while makes no client slow.
#[test]
fn a_client_that_is_held_up_by_the_upstream_is_not_to_blame() {
    let latch = Arc::new(Latch::default());
    let waiting = Arc::clone(&latch);
    let upstream = Upstream::scripted(move |exchange| {
        waiting.wait();
        exchange.answer(200, &[], b"all")
    });
    let gateway = start(&upstream, json!({"body_min_rate": "1MiB", "body_rate_window": "1s", "body_timeout": "1s"}));
    let mut connection = gateway.connect();
    let body = vec![b'x'; 32 << 20];
    let head = format!("POST /public/ HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    connection.send(head.as_bytes());
    let mut writer = connection.stream().try_clone().unwrap();
    let sending = std::thread::spawn(move || writer.write_all(&body));
    upstream.await_requests(1);
    // Longer than a silence of the client may be: a third request has to wait for a limit of its own.
    let mut other = gateway.connect();
    other.send(b"POST /public/ HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
    assert_eq!(other.response().status, 408);
    latch.open();
    assert_eq!(connection.response().status, 200);
    sending.join().unwrap().unwrap();
}

#[test]
fn a_connection_ends_after_its_last_request_and_says_so() {
    let upstream = Upstream::start();
    let gateway = start(&upstream, json!({"requests_per_connection": 3}));
    let mut connection = gateway.connect();
    for last in [false, false, true] {
        let response = connection.send(OPEN).response();
        assert_eq!((response.status, response.header("connection") == Some("close")), (200, last));
    }
    assert!(connection.is_closed());
    assert_eq!(hits(&gateway, "requests_per_connection"), 1.0);
}

#[test]
fn a_client_address_has_so_many_connections_and_a_trusted_proxy_as_many_as_it_needs() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.set("/limits", json!({"connections_per_client": 2}));
    {
        let gateway = site.start();
        let mut held = [gateway.connect(), gateway.connect()];
        for connection in &mut held {
            assert_eq!(connection.send(OPEN).response().status, 200);
        }
        assert!(gateway.connect().send(OPEN).try_response().is_err(), "a third one");
        assert!(hits(&gateway, "connections_per_client") >= 1.0);
        drop(held);
        until("the connections to be forgotten", || gateway.connect().send(OPEN).try_response().is_ok().then_some(()));
    }
    site.set("/trusted_proxies", json!(["127.0.0.1"]));
    let gateway = site.start();
    let mut held: Vec<_> = (0..4).map(|_| gateway.connect()).collect();
    assert!(held.iter_mut().all(|it| it.send(OPEN).response().status == 200));
}

#[test]
fn beyond_the_connections_of_the_process_one_waits_for_its_turn() {
    let upstream = Upstream::start();
    let gateway = start(&upstream, json!({"connections": 3}));
    let mut held: Vec<_> = (0..3).map(|_| gateway.connect()).collect();
    assert!(held.iter_mut().all(|it| it.send(OPEN).response().status == 200));
    let mut waiting = gateway.connect().patience(Duration::from_millis(200));
    assert!(waiting.send(OPEN).try_response().is_err(), "it is served before its turn");
    assert_eq!(hits(&gateway, "connections"), 1.0);
    held.pop();
    let mut waiting = waiting.patience(SOON);
    assert_eq!(waiting.response().status, 200);
}

/// Shed, and not queued: what is turned away is turned away at once, and the next is served.
#[test]
fn requests_in_flight_are_bounded_in_all_and_at_each_upstream() {
    for (name, reason, limit) in
        [("all", "overloaded", "requests_in_flight"), ("upstream", "upstream_overloaded", "max_requests")]
    {
        let latch = Arc::new(Latch::default());
        let waiting = Arc::clone(&latch);
        let upstream = Upstream::scripted(move |exchange| {
            if exchange.recorded.target.contains("slow") {
                waiting.wait();
            }
            exchange.answer(200, &[], b"hello")
        });
        let other = Upstream::start();
        let mut site = Site::new(&upstream);
        // One worker: the kernel chooses among several, and each has its share.
        site.set("/workers", json!(1));
        site.set("/upstreams/other", json!({"servers": [other.url()]}));
        site.route(json!({"name": "other", "match": {"path": "/other/"}, "upstream": "other", "auth": "none"}));
        match name {
            "all" => site.set("/limits", json!({"requests_in_flight": 2})),
            _ => site.set("/upstreams/shop/max_requests", json!(2)),
        };
        let gateway = site.start();
        let mut held = [gateway.connect(), gateway.connect()];
        for connection in &mut held {
            connection.send(&request("GET", "/public/slow", &[], b""));
        }
        upstream.await_requests(2);
        let shed = gateway.get("/public/", &[]);
        assert_eq!((shed.status, shed.reason().as_str()), (503, reason), "{name}");
        assert_eq!(shed.header("retry-after"), Some("1"), "{name}");
        assert_eq!(upstream.requests().len(), 2, "{name}: it was forwarded");
        let elsewhere = if name == "all" { 503 } else { 200 };
        assert_eq!(gateway.get("/other/", &[]).status, elsewhere, "{name}");
        assert!(hits(&gateway, limit) >= 1.0, "{name}");
        latch.open();
        for connection in &mut held {
            assert_eq!(connection.response().status, 200, "{name}");
        }
        until("the requests to be over", || (gateway.get("/public/", &[]).status == 200).then_some(()));
    }
}

#[test]
fn a_body_is_bounded_everywhere_unless_its_route_says_otherwise() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.set("/limits", json!({"max_body": "1KiB"})).set("/routes/1/max_body", json!("none"));
    let gateway = site.start();
    assert_eq!(gateway.send("POST", "/public/", &[], &[b'x'; 1025]).status, 413);
    assert_eq!(upstream.bytes(), 0);
    assert_eq!(gateway.send("POST", "/public/", &[], &[b'x'; 1024]).status, 200);
    let admin = bearer(&site.accounts.token(json!({"scope": "admin"})));
    assert_eq!(gateway.send("POST", "/admin/", &[("Authorization", &admin)], &[b'x'; 9000]).status, 200);
    assert_eq!(hits(&gateway, "max_body"), 1.0);
}

#[test]
fn what_is_too_large_in_a_head_is_counted_by_name() {
    let upstream = Upstream::start();
    let gateway = start(&upstream, json!({"header_bytes": "16KiB", "header_count": 20, "uri_bytes": "1KiB"}));
    let line = |text: String| format!("GET /public/ HTTP/1.1\r\nHost: a\r\n{text}\r\n");
    for (limit, text, status) in [
        ("uri_bytes", format!("GET /public/{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(2000)), 414),
        ("header_bytes", line(format!("X-A: {}\r\n", "x".repeat(20_000))), 431),
        ("header_count", line("X-A: 1\r\n".repeat(25)), 431),
    ] {
        assert_eq!(gateway.raw(text.as_bytes()).status, status, "{limit}");
        until("it to be counted", || (hits(&gateway, limit) == 1.0).then_some(()));
    }
    let long = bearer(&format!("{}.x.y", "x".repeat(9000)));
    assert_eq!(gateway.get("/orders", &[("Authorization", &long)]).reason(), "token_too_large");
    assert_eq!(hits(&gateway, "token_bytes"), 1.0);
}

#[test]
fn a_thousand_idle_connections_cost_little_and_keep_nobody_out() {
    let upstream = Upstream::start();
    let gateway = start(&upstream, json!({}));
    assert_eq!(gateway.get("/public/", &[]).status, 200);
    let before = gateway.memory("VmRSS");
    let mut idle: Vec<_> = (0..1000).map(|_| gateway.connect()).collect();
    for connection in &mut idle {
        assert_eq!(connection.send(OPEN).response().status, 200);
    }
    for _ in 0..20 {
        assert_eq!(gateway.get("/public/", &[]).status, 200, "157");
    }
    let each = gateway.memory("VmRSS").saturating_sub(before) * 1024 / 1000;
    assert!(each < 64 * 1024, "157 an idle connection costs {each} bytes");
}
