//! Clients that take their time: each is ended by a limit of its own, and none keeps others from being served.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Connection, Gateway, Site, Upstream, request, until};

/// Well beyond the limits configured here, well below the defaults.
const SOON: Duration = Duration::from_secs(8);

fn gateway(upstream: &Upstream) -> Gateway {
    let mut site = Site::new(upstream);
    site.set(
        "/limits",
        json!({"header_timeout": "1s", "idle_timeout": "1s", "body_timeout": "1s", "write_timeout": "1s"}),
    );
    site.start()
}

/// How long it takes until the other side ends the connection.
fn lifetime(mut connection: Connection) -> Duration {
    let started = Instant::now();
    let mut rest = Vec::new();
    let _ = connection.stream().read_to_end(&mut rest);
    started.elapsed()
}

#[test]
fn a_head_that_does_not_come_ends_the_connection() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    for (name, bytes) in [
        ("153 nothing", &b""[..]),
        ("153 half a head", b"GET /public/ HTTP/1.1\r\nHost: a\r\nX-A"),
        ("153 an h2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ] {
        let mut connection = gateway.connect();
        connection.send(bytes);
        assert!(lifetime(connection) < SOON, "{name}");
    }
    let mut idle = gateway.connect();
    assert_eq!(idle.send(&request("GET", "/public/", &[], b"")).response().status, 200);
    assert!(lifetime(idle) < SOON, "an idle connection");
    until("the connections to be forgotten", || (gateway.descriptors() < 64).then_some(()));
}

#[test]
fn a_head_that_drips_ends_the_connection_in_total() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut connection = gateway.connect().patience(Duration::from_millis(100));
    let started = Instant::now();
    connection.send(b"GET /public/ HTTP/1.1\r\nHost: a\r\nX-A: ");
    // Each read waits for 100 ms, which is the drip's rhythm.
    let mut byte = [0];
    while started.elapsed() < SOON {
        let read = connection.stream().read(&mut byte);
        if matches!(read, Ok(0)) || connection.stream().write_all(b"x").is_err() {
            break;
        }
    }
    assert!(started.elapsed() < SOON, "154 still open after {:?}", started.elapsed());
    assert_eq!(upstream.bytes(), 0);
}

#[test]
fn a_body_that_stops_frees_the_upstream() {
    let upstream = Upstream::start();
    let gateway = gateway(&upstream);
    let mut connection = gateway.connect();
    connection.send(b"POST /public/ HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf");
    upstream.await_requests(1);
    let started = Instant::now();
    let status = connection.response().status;
    assert!(matches!(status, 400 | 408), "155 {status}");
    assert!(started.elapsed() < SOON && connection.is_closed(), "155");
    until("the upstream's connection to end", || (upstream.open() == 0).then_some(()));
    assert_eq!(gateway.get("/public/", &[]).status, 200);
}

#[test]
fn a_client_that_does_not_read_is_cut_and_costs_a_bounded_buffer() {
    let upstream = Upstream::scripted(|exchange| {
        exchange.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")?;
        let piece = vec![b'x'; 1 << 16];
        for _ in 0..(1 << 14) {
            exchange.raw(&piece)?;
        }
        Ok(())
    });
    let gateway = gateway(&upstream);
    assert_eq!(gateway.get("/healthz-of-nobody", &[]).status, 401);
    let before = gateway.memory("VmRSS");
    let mut connection = gateway.connect();
    connection.send(&request("GET", "/public/", &[], b""));
    upstream.await_requests(1);
    until("the upstream's connection to end", || (upstream.open() == 0).then_some(()));
    let grown = gateway.memory("VmHWM").saturating_sub(before);
    assert!(grown < 16 * 1024, "156 grew by {grown} KiB");
    drop(connection);
}

#[test]
fn slow_clients_do_not_keep_others_out() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.set("/limits", json!({"header_timeout": "30s"}));
    let gateway = site.start();
    let slow: Vec<Connection> = (0..200)
        .map(|_| {
            let mut connection = gateway.connect();
            connection.send(b"GET /public/ HTTP/1.1\r\nHost: a\r\nX-Slow: ");
            connection
        })
        .collect();
    for _ in 0..50 {
        assert_eq!(gateway.get("/public/", &[]).status, 200, "158");
    }
    drop(slow);
}
