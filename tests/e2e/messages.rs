//! HTTP/1.1 messages that must not pass: request smuggling, ambiguous framing, odd methods, oversized parts. Each goes to
//! an open route with a good token, so that nothing but the message itself can be the reason for the refusal.

use std::fmt::Write as _;

use crate::support::{Gateway, Response, Site, Upstream, bearer, request, until};

struct Scene {
    upstream: Upstream,
    gateway: Gateway,
    token: String,
}

fn scene() -> Scene {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let token = site.accounts.token_of("bob");
    Scene { gateway: site.start(), upstream, token }
}

impl Scene {
    /// A request head with these lines after a good request line and a good token.
    fn head(&self, lines: &str) -> Vec<u8> {
        format!("POST /orders HTTP/1.1\r\nAuthorization: Bearer {}\r\n{lines}", self.token).into_bytes()
    }

    /// The answer, which must be one of these statuses, end the connection, and leave the upstream alone.
    fn refused(&self, name: &str, bytes: &[u8], statuses: &[u16]) {
        let mut connection = self.gateway.connect();
        let response = connection.send(bytes).try_response();
        let response = response.unwrap_or_else(|problem| panic!("{name}: no answer, {problem:?}"));
        assert!(statuses.contains(&response.status), "{name}: {response:?}");
        assert!(connection.is_closed(), "{name}: the connection goes on");
        assert_eq!(self.upstream.bytes(), 0, "{name}: forwarded {:#?}", self.upstream.take());
    }
}

#[test]
fn ambiguous_framing_is_refused() {
    let scene = scene();
    let smuggled = "0\r\n\r\nGET /admin/ HTTP/1.1\r\nHost: x\r\n\r\n";
    for (name, lines) in [
        ("126 length, then coding", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"),
        ("126 coding, then length", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"),
        ("127 two lengths", "Content-Length: 4\r\nContent-Length: 5\r\n"),
        ("127 two lengths in one field", "Content-Length: 4, 5\r\n"),
        ("128 a plus", "Content-Length: +5\r\n"),
        ("128 a minus", "Content-Length: -1\r\n"),
        ("128 minus zero", "Content-Length: -0\r\n"),
        ("128 hexadecimal", "Content-Length: 0x5\r\n"),
        ("128 an exponent", "Content-Length: 5e0\r\n"),
        ("128 a point", "Content-Length: 5.0\r\n"),
        ("128 a space", "Content-Length: 5 5\r\n"),
        ("128 empty", "Content-Length:\r\n"),
        ("128 twenty digits", "Content-Length: 99999999999999999999\r\n"),
        ("129 xchunked", "Transfer-Encoding: xchunked\r\n"),
        ("129 identity", "Transfer-Encoding: identity\r\n"),
        ("129 chunked is not last", "Transfer-Encoding: chunked, identity\r\n"),
        ("129 empty", "Transfer-Encoding:\r\n"),
        ("129 a parameter", "Transfer-Encoding: chunked;q=1\r\n"),
        ("129 gzip, chunked", "Transfer-Encoding: gzip, chunked\r\n"),
        ("129 two fields", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"),
        ("129 chunked twice", "Transfer-Encoding: chunked, chunked\r\n"),
        ("131 a folded line", "X-A: 1\r\n 2\r\nContent-Length: 0\r\n"),
        ("131 a space before the colon", "Content-Length : 0\r\n"),
        ("131 no colon", "Nonsense\r\nContent-Length: 0\r\n"),
        ("131 no name", ": x\r\nContent-Length: 0\r\n"),
        ("132 a NUL", "X-A: a\0b\r\n"),
        ("132 a bare CR", "X-A: a\rb\r\n"),
        ("132 a control byte", "X-A: a\x01b\r\n"),
        ("132 DEL", "X-A: a\x7fb\r\n"),
        ("132 a name outside ASCII", "X-\u{e4}: b\r\n"),
        ("a bare LF", "X-A: 1\nX-B: 2\r\n"),
    ] {
        scene.refused(name, &scene.head(&format!("Host: shop.example\r\n{lines}\r\n{smuggled}")), &[400, 501]);
    }
    let old =
        request("POST", "/orders", &[("Authorization", &bearer(&scene.token)), ("Transfer-Encoding", "chunked")], b"");
    let old = String::from_utf8(old).unwrap().replace("HTTP/1.1", "HTTP/1.0");
    scene.refused("130 a coding in HTTP/1.0", old.as_bytes(), &[400]);
    let folded = format!("GET /orders HTTP/1.1\r\n X: 1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n", scene.token);
    scene.refused("131 a space before the first field", folded.as_bytes(), &[400]);
    let bare = format!("GET /orders HTTP/1.1\nHost: a\nAuthorization: Bearer {}\n\n", scene.token);
    scene.refused("a head of bare LFs", bare.as_bytes(), &[400]);
}

#[test]
fn bodies_with_broken_chunks_are_the_clients_fault() {
    let scene = scene();
    for (name, chunks) in [
        ("an overflow", "FFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n"),
        ("a minus", "-1\r\nabc\r\n0\r\n\r\n"),
        ("a plus", "+1\r\na\r\n0\r\n\r\n"),
        ("hexadecimal with a prefix", "0x1\r\na\r\n0\r\n\r\n"),
        ("an underscore", "1_0\r\na\r\n0\r\n\r\n"),
        ("a leading space", " 1\r\na\r\n0\r\n\r\n"),
        ("no line end after the data", "1\r\nab0\r\n\r\n"),
        ("more data than said", "3\r\nabcdef\r\n0\r\n\r\n"),
        ("a bare LF", "1\na\n0\n\n"),
        ("no size", "\r\na\r\n0\r\n\r\n"),
    ] {
        let head = scene.head("Host: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n");
        let mut connection = scene.gateway.connect();
        let response = connection.send(&[&head, chunks.as_bytes()].concat()).try_response();
        let status = response.map(|response| response.status).unwrap_or_else(|problem| panic!("{name}: {problem:?}"));
        assert_eq!(status, 400, "133 {name}");
        assert!(connection.is_closed(), "133 {name}: the connection goes on");
        // What the upstream got of it is not a whole request, and its connection is not used again.
        for recorded in scene.upstream.take() {
            assert!(recorded.body_length == 0 || recorded.header("content-length").is_none(), "{recorded:?}");
        }
        let again = scene.gateway.get_as("/orders", &scene.token);
        assert_eq!((again.status, again.text().as_str()), (200, "hello"), "133 after {name}");
        scene.upstream.take();
    }
    until("the upstream's connections to end", || (scene.upstream.open() <= 2).then_some(()));
}

#[test]
fn a_request_has_one_host_and_names_it_well() {
    let scene = scene();
    let token = format!("Authorization: Bearer {}\r\n", scene.token);
    for (name, lines) in [
        ("120 no Host", ""),
        ("121 two Hosts", "Host: a\r\nHost: b\r\n"),
        ("121 one Host twice", "Host: a\r\nHost: a\r\n"),
        ("122 empty", "Host:\r\n"),
        ("122 user information", "Host: user@a\r\n"),
        ("122 a path", "Host: a/b\r\n"),
        ("122 a space", "Host: a b\r\n"),
        ("122 a comma", "Host: a, b\r\n"),
        ("122 a query", "Host: a?b\r\n"),
        ("122 a port that is none", "Host: a:b\r\n"),
        ("122 a port too large", "Host: a:99999\r\n"),
        ("122 half an IPv6 address", "Host: [::1\r\n"),
    ] {
        scene.refused(name, format!("GET /orders HTTP/1.1\r\n{token}{lines}\r\n").as_bytes(), &[400]);
    }
    // HTTP/1.0 has no Host; what goes upstream is HTTP/1.1 and has one.
    assert_eq!(scene.gateway.raw(format!("GET /orders HTTP/1.0\r\n{token}\r\n").as_bytes()).status, 200);
    let own = scene.upstream.address().to_string();
    assert_eq!(scene.upstream.take_one().header("host"), Some(own.as_str()));
    let absolute = format!("GET http://other.example/orders HTTP/1.1\r\nHost: shop.example\r\n{token}\r\n");
    let response = scene.gateway.raw(absolute.as_bytes());
    // 123
    match response.status {
        400 => assert_eq!(scene.upstream.bytes(), 0),
        _ => {
            let recorded = scene.upstream.take_one();
            assert_eq!((recorded.target.as_str(), recorded.header("host")), ("/orders", Some("other.example")));
        }
    }
}

#[test]
fn methods_and_targets_that_are_no_resource_are_refused() {
    let scene = scene();
    let lines = format!("Host: shop.example\r\nAuthorization: Bearer {}\r\n\r\n", scene.token);
    for (name, line) in [
        ("124 CONNECT", "CONNECT shop.example:443 HTTP/1.1"),
        ("124 CONNECT to a path", "CONNECT /orders HTTP/1.1"),
        ("124 TRACE", "TRACE /orders HTTP/1.1"),
        ("124 OPTIONS *", "OPTIONS * HTTP/1.1"),
        ("124 GET *", "GET * HTTP/1.1"),
        ("124 an authority", "GET shop.example HTTP/1.1"),
        ("125 lower case", "get /orders HTTP/1.1"),
        ("125 PRI", "PRI * HTTP/2.0"),
        ("125 a quote", "GE'T /orders HTTP/1.1"),
        ("125 an unknown method", "BREW /orders HTTP/1.1"),
        ("134 HTTP/1.2", "GET /orders HTTP/1.2"),
        ("134 HTTP/2.0", "GET /orders HTTP/2.0"),
        ("134 a space in the version", "GET /orders HTTP/ 1.1"),
        ("134 a version in lower case", "GET /orders http/1.1"),
        ("134 no version", "GET /orders"),
        ("a TAB after the method", "GET\t/orders HTTP/1.1"),
        ("two spaces", "GET  /orders HTTP/1.1"),
        ("a space in the target", "GET /a b HTTP/1.1"),
    ] {
        let mut connection = scene.gateway.connect();
        let answer = connection.send(format!("{line}\r\n{lines}").as_bytes()).try_response();
        let status = answer.unwrap_or_else(|problem| panic!("{name}: no answer, {problem:?}")).status;
        assert!(matches!(status, 400 | 405 | 501 | 505), "{name}: {status}");
        assert_eq!(scene.upstream.bytes(), 0, "{name}");
    }
    let long = format!("{} /orders HTTP/1.1\r\n{lines}", "M".repeat(100_000));
    let status = scene.gateway.raw(long.as_bytes()).status;
    assert!(matches!(status, 400 | 405 | 414 | 431 | 501), "125 a long method: {status}");
    assert_eq!(scene.upstream.bytes(), 0);
}

#[test]
fn parts_that_are_too_large_are_refused_by_name() {
    let scene = scene();
    let authorization = bearer(&scene.token);
    let mut fields = String::new();
    for index in 0..10_000 {
        write!(fields, "X-{index}: 1\r\n").unwrap();
    }
    let head = String::from_utf8(request("GET", "/orders", &[("Authorization", &authorization)], b"")).unwrap();
    let with = |more: &str| head.replacen("\r\n\r\n", &format!("\r\n{more}\r\n"), 1);
    let long_target = head.replacen("/orders", &format!("/{}", "x".repeat(100_000)), 1);
    let longer_target = head.replacen("/orders", &format!("/{}", "x".repeat(9_000)), 1);
    for (name, text, status) in [
        ("135 a target of 100 KB", long_target, 414),
        ("135 a target of 9 KB", longer_target, 414),
        ("135 a field of 100 KB", with(&format!("X-A: {}\r\n", "x".repeat(100_000))), 431),
        ("135 a head over 32 KiB", with(&"X-A: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n".repeat(900)), 431),
        ("135 ten thousand fields", with(&fields), 431),
        ("135 a hundred and fifty fields", with(&"X-A: 1\r\n".repeat(150)), 431),
    ] {
        scene.refused(name, text.as_bytes(), &[status]);
    }
    assert_eq!(scene.gateway.raw(with(&format!("X-A: {}\r\n", "x".repeat(20_000))).as_bytes()).status, 200);
}

#[test]
fn a_body_over_the_limit_of_its_route_is_refused_before_it_is_read() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.route(serde_json::json!({
        "name": "small", "match": {"path": "/small/"}, "upstream": "shop", "auth": "none", "max_body": "1KiB",
    }));
    let gateway = site.start();
    let mut connection = gateway.connect();
    connection.send(b"POST /small/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1025\r\nExpect: 100-continue\r\n\r\n");
    let response = connection.response();
    assert_eq!((response.status, response.interim.len()), (413, 0), "137 {response:?}");
    assert_eq!(upstream.bytes(), 0, "136 forwarded");

    let exact = gateway.send("POST", "/small/", &[], &[b'x'; 1024]);
    assert_eq!((exact.status, upstream.take_one().body_length), (200, 1024));

    let mut connection = gateway.connect();
    connection.send(b"POST /small/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    connection.send(format!("800\r\n{}\r\n0\r\n\r\n", "x".repeat(2048)).as_bytes());
    assert_eq!(connection.response().status, 413, "136 chunked");
    for recorded in upstream.take() {
        assert!(recorded.body_length <= 1024, "136 {recorded:?}");
    }
}

#[test]
fn a_client_that_expects_to_be_asked_is_answered_at_once_when_refused() {
    let scene = scene();
    let mut connection = scene.gateway.connect();
    connection.send(b"POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let refused = connection.response();
    assert_eq!((refused.status, refused.interim.len()), (401, 0));
    assert_eq!(scene.upstream.bytes(), 0);

    for lines in ["Expect: nonsense\r\n", "Expect: 100-continue\r\nExpect: nonsense\r\n"] {
        scene.refused(lines, &scene.head(&format!("Host: a\r\nContent-Length: 5\r\n{lines}\r\n")), &[417]); // 137
    }

    let mut connection = scene.gateway.connect();
    connection.send(&scene.head("Host: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"));
    assert!(connection.read_head().unwrap().starts_with(b"HTTP/1.1 100"));
    assert_eq!(connection.send(b"hello").response().status, 200);
    let recorded = scene.upstream.take_one();
    assert_eq!((recorded.body.as_slice(), recorded.header("expect")), (b"hello".as_slice(), None));
}

#[test]
fn no_byte_of_a_body_is_left_for_the_next_request() {
    let scene = scene();
    let authorization = bearer(&scene.token);
    let mut connection = scene.gateway.connect();
    for method in ["GET", "OPTIONS", "DELETE", "POST"] {
        connection.send(&request(method, "/orders", &[("Authorization", &authorization)], b"GET /x HTTP/1.1\r\n\r\n"));
        assert_eq!(connection.response().status, 200, "138 {method}");
        let recorded = scene.upstream.take_one();
        assert_eq!((recorded.method.as_str(), recorded.body_length), (method, 19), "138 {method}");
    }
    for method in ["GET", "OPTIONS", "DELETE", "POST"] {
        let fields = [("Authorization", authorization.as_str()), ("Transfer-Encoding", "chunked")];
        connection.send(&request(method, "/orders", &fields, b"")).send(b"5\r\nhello\r\n0\r\n\r\n");
        assert_eq!(connection.response().status, 200, "138 {method} in chunks");
        let recorded = scene.upstream.take_one();
        assert_eq!((recorded.method.as_str(), recorded.body.as_slice()), (method, &b"hello"[..]), "138 in chunks");
    }
    connection.send(&request("HEAD", "/orders", &[("Authorization", &authorization)], b""));
    assert_eq!(connection.response_to_head().status, 200);
    let lengths: [(&str, Option<&str>); 3] = [("005", Some("5")), ("00", None), ("5", Some("5"))];
    for (sent, expected) in lengths {
        scene.upstream.take();
        let body = &b"hello"[..sent.parse().unwrap()];
        let head = scene.head(&format!("Host: a\r\nContent-Length: {sent}\r\n\r\n"));
        let status = scene.gateway.raw(&[&head, body].concat()).status;
        if status != 400 {
            let recorded = scene.upstream.take_one();
            let length = recorded.header("content-length").filter(|length| *length != "0");
            assert_eq!((status, length), (200, expected), "a length of {sent}");
        }
    }
}

#[test]
fn pipelined_requests_are_judged_one_by_one_and_answered_in_order() {
    let scene = scene();
    let authorization = bearer(&scene.token);
    let good = request("GET", "/orders", &[("Authorization", &authorization)], b"");
    let bad = request("GET", "/orders", &[("Authorization", "Bearer x.y.z")], b"");
    let open = request("GET", "/public/", &[], b"");
    let mut connection = scene.gateway.connect();
    connection.send(&[bad, good, request("GET", "/orders", &[], b""), open].concat());
    let statuses: Vec<u16> = (0..4).map(|_| connection.response()).map(|response: Response| response.status).collect();
    assert_eq!(statuses, [401, 200, 401, 200], "139");
    let targets: Vec<String> = scene.upstream.take().into_iter().map(|recorded| recorded.target).collect();
    assert_eq!(targets, ["/orders", "/public/"]);
}
