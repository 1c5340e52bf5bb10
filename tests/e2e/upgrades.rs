//! Upgrades that nobody asked the gateway to support: the request goes on without them, and an upstream that switches
//! protocols unasked is an upstream that is broken.

use serde_json::json;

use crate::support::{Site, Upstream, bearer, request, until};

#[test]
fn upgrades_are_not_forwarded() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let token = bearer(&site.accounts.token_of("bob"));
    for (name, method, fields) in [
        (
            "160 h2c",
            "GET",
            &[("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABk")][..],
        ),
        ("161 made up", "GET", &[("Connection", "Upgrade"), ("Upgrade", "totally-made-up/1.0")][..]),
        ("162 by POST", "POST", &[("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Content-Length", "0")][..]),
        ("162 without Connection", "GET", &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")][..]),
    ] {
        let fields = [fields, &[("Authorization", token.as_str())]].concat();
        let response = gateway.connect().send(&request(method, "/orders", &fields, b"")).response();
        assert_eq!(response.status, 200, "{name}");
        let recorded = upstream.take_one();
        for field in ["upgrade", "http2-settings", "connection"] {
            assert_eq!(recorded.header(field), None, "{name}: {}", recorded.head);
        }
        let refused = gateway.connect().send(&request(method, "/orders", &fields[..fields.len() - 1], b"")).response();
        assert_eq!((refused.status, upstream.take().len()), (401, 0), "{name}, without a token");
    }
}

#[test]
fn a_protocol_switch_that_nobody_asked_for_is_a_bad_gateway() {
    let upstream = Upstream::scripted(|exchange| {
        exchange.close();
        exchange.raw(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: evil\r\n\r\nhello")
    });
    let gateway = Site::new(&upstream).start();
    let response = gateway.get("/public/", &[]);
    assert_eq!((response.status, response.header("upgrade")), (502, None));
    until("the upstream's connection to end", || (upstream.open() == 0).then_some(()));
}

#[test]
fn what_an_upstream_says_about_its_connection_stays_there() {
    let upstream = Upstream::scripted(|exchange| {
        exchange.answer(
            200,
            &[
                ("Connection", "X-Hop"),
                ("X-Hop", "1"),
                ("Keep-Alive", "timeout=9"),
                ("Proxy-Authenticate", "Basic"),
                ("Trailer", "X-T"),
                ("Upgrade", "h2c"),
                ("X-Kept", "1"),
            ],
            b"hello",
        )
    });
    let gateway = Site::new(&upstream).start();
    let mut connection = gateway.connect();
    let response = connection.send(&request("GET", "/public/", &[], b"")).response();
    assert_eq!((response.status, response.header("x-kept")), (200, Some("1")));
    for field in ["x-hop", "keep-alive", "proxy-authenticate", "trailer", "upgrade"] {
        assert_eq!(response.header(field), None, "{field}");
    }
}

#[test]
fn answers_with_broken_framing_do_not_pass() {
    for (name, answer) in [
        ("two lengths", &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"[..]),
        (
            "a length and a coding",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("an unknown coding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello"),
        ("no HTTP", b"hello, I am not a web server\r\n\r\n"),
        ("a NUL", b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n"),
        ("nothing", b""),
    ] {
        let upstream = Upstream::scripted(move |exchange| {
            exchange.close();
            exchange.raw(answer)
        });
        let gateway = Site::new(&upstream).start();
        let response = gateway.get("/public/", &[]);
        assert_eq!(response.status, 502, "{name}: {response:?}");
    }
}

#[test]
fn bytes_after_an_answer_do_not_become_the_next_answer() {
    let upstream = Upstream::scripted(|exchange| {
        exchange
            .raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirstHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    });
    let gateway = Site::new(&upstream).start();
    let mut connection = gateway.connect();
    for _ in 0..10 {
        let response = connection.send(&request("GET", "/public/", &[], b"")).response();
        assert_eq!((response.status, response.text().as_str()), (200, "first"));
    }
}

#[test]
fn a_refusal_of_a_body_that_comes_with_an_upgrade_is_read_before_the_end() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.set("/routes/0/max_body", json!("1KiB"));
    let gateway = site.start();
    let fields = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Content-Length", "60000")];
    let mut connection = gateway.connect();
    connection.send(&request("POST", "/public/", &fields, b""));
    let head = String::from_utf8(connection.read_head().unwrap()).unwrap();
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    // What is still under way does not reset the connection.
    connection.send(&[b'x'; 30_000]);
    connection.send(&[b'x'; 30_000]);
    let mut rest = Vec::new();
    std::io::Read::read_to_end(connection.stream(), &mut rest).unwrap();
    assert!(upstream.take().is_empty());
}
