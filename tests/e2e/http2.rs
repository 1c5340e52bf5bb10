//! HTTP/2 on the listeners: what is admitted, refused, cut and drained, as the field's clients see it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use h2::client::Builder;
use serde_json::json;

use crate::support::http2::{self, head};
use crate::support::{Gateway, Http2, Site, Upstream, bearer, until};

/// A listener in clear that takes HTTP/2.
pub(crate) fn site(upstream: &Upstream) -> Site {
    let mut site = Site::new(upstream);
    site.set("/listeners/0/h2c", json!(true));
    site
}

/// Answers below `/events` go on; everything else is short.
fn service() -> Upstream {
    Upstream::scripted(|exchange| {
        if exchange.recorded.target.contains("/events") {
            exchange
                .raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            exchange.raw(b"9\r\ndata: 1\n\n\r\n")?;
            return exchange.await_close();
        }
        exchange.read_body(|_| {})?;
        exchange.answer(200, &[("X-Served-By", "shop")], b"hello")
    })
}

#[test]
fn requests_are_decided_and_forwarded_as_over_http1() {
    let upstream = service();
    let site = site(&upstream);
    let gateway = site.start();
    let mut client = Http2::open(&gateway);
    let token = bearer(&site.accounts.token_of("bob"));
    let answer = client.get("/orders?page=2", &[("authorization", &token), ("x-auth-request-user", "eve")]);
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert_eq!(answer.header("x-served-by"), Some("shop"));
    assert!(answer.header("x-request-id").is_some() && answer.header("connection").is_none());
    let recorded = upstream.take_one();
    assert_eq!((recorded.method.as_str(), recorded.target.as_str()), ("GET", "/orders?page=2"));
    assert_eq!(recorded.all("x-auth-request-user"), ["bob"]);
    assert_eq!(recorded.header("authorization"), None);
    assert_eq!(recorded.header("via"), Some("2.0 portcullis"));
    assert_eq!(recorded.header("x-forwarded-host"), Some("shop.example"));
    assert_eq!(recorded.header("x-forwarded-proto"), Some("http"));

    let answer = client.send(head("POST", "/orders", &[("authorization", &token)]), b"two of them");
    assert_eq!(answer.status, 200);
    assert_eq!(upstream.take_one().body, b"two of them");
    let length = [("authorization", token.as_str()), ("content-length", "011")];
    assert_eq!(client.send(head("POST", "/orders", &length), b"two of them").status, 200);
    let recorded = upstream.take_one();
    assert_eq!((recorded.header("content-length"), recorded.body.as_slice()), (Some("11"), &b"two of them"[..]));

    let answer = client.get("/orders", &[]);
    assert_eq!((answer.status, answer.reason().as_str()), (401, "missing_token"));
    assert!(answer.header("www-authenticate").is_some());
    let answer = client.send(head("HEAD", "/orders", &[]), b"");
    assert_eq!((answer.status, answer.body.len()), (401, 0));
    assert!(answer.header("content-length").is_some_and(|length| length != "0"));
    gateway.admin().revoke(&json!({
        "target": {"kind": "subject", "issuer": "accounts", "value": "bob"}, "block": true, "reason": "admin"
    }));
    let answer = client.get("/orders", &[("authorization", &token)]);
    assert_eq!((answer.status, answer.reason().as_str()), (401, "revoked_subject"));
    assert!(upstream.take().is_empty());
}

#[test]
fn a_token_in_a_cookie_that_comes_in_pieces_is_found_and_the_rest_goes_on_as_one() {
    let upstream = service();
    let site = site(&upstream);
    let gateway = site.start();
    let mut client = Http2::open(&gateway);
    let token = site.accounts.token_of("bob");
    let session = format!("__Host-session={token}");
    let answer = client.get("/orders", &[("cookie", "theme=dark"), ("cookie", &session), ("cookie", "lang=en")]);
    assert_eq!(answer.status, 200);
    assert_eq!(upstream.take_one().all("cookie"), ["theme=dark; lang=en"]);
    let other = format!("__Host-session={}", site.accounts.token_of("eve"));
    let answer = client.get("/orders", &[("cookie", &session), ("cookie", &other)]);
    assert_eq!((answer.status, answer.reason().as_str()), (400, "multiple_tokens"));
    // As many pieces as a browser has cookies are one field; as many fields are too many.
    let crumbs = [("cookie", "a=b"); 150];
    assert_eq!(client.get("/public/", &crumbs).status, 200);
    assert_eq!(upstream.take_one().all("cookie").len(), 1);
    let fields: Vec<_> = (0..101).map(|n| format!("x-{n}")).collect();
    let fields: Vec<_> = fields.iter().map(|name| (name.as_str(), "1")).collect();
    let answer = client.get("/public/", &fields);
    assert_eq!((answer.status, answer.reason().as_str()), (431, "too_many_fields"));
    assert_eq!(gateway.admin().metric("portcullis_limits_hit_total", &[("limit", "header_count")]), 1.0);
}

#[test]
fn a_request_that_two_servers_could_read_differently_is_refused() {
    let upstream = service();
    let site = site(&upstream);
    let gateway = site.start();
    let get = [(":method", "GET"), (":scheme", "http")];
    let host = [(":authority", "shop.example"), (":path", "/public/")];
    // What a client says, and the status it gets; 0 where the stream is reset.
    for (fields, status) in [
        (vec![(":authority", "shop.example"), (":path", "/public/"), ("host", "shop.example")], 200),
        (vec![(":authority", "shop.example"), (":path", "/public/"), ("host", "SHOP.example.:80")], 200),
        (vec![(":authority", "shop.example"), (":path", "/public/"), ("host", "admin.example")], 400),
        (vec![(":authority", "shop.example"), (":path", "/public/"), ("host", "shop.example:81")], 400),
        (vec![(":authority", "shop.example"), (":path", "/public/"), ("host", "shop.example"), ("host", "a")], 400),
        (vec![(":authority", "bob@shop.example"), (":path", "/public/")], 400),
        (vec![(":authority", "shop.example, a"), (":path", "/public/")], 0),
        (vec![(":path", "/public/"), ("host", "shop.example")], 200),
        (vec![(":path", "/public/")], 400),
        (vec![(":authority", "shop.example"), (":path", "*")], 400),
        (vec![(":authority", "shop.example"), (":path", "/public/..%2fadmin/")], 400),
        (vec![(":authority", "shop.example"), (":path", "/public/%00")], 400),
        (vec![(":authority", "shop.example"), (":path", "/public/../admin/")], 401),
        (vec![(":authority", "shop.example"), (":path", "/public/ x")], 0),
        (vec![(":authority", "shop.example"), (":path", "")], 0),
        ([&host[..], &[("connection", "x-auth-request-user")]].concat(), 0),
        ([&host[..], &[("transfer-encoding", "chunked")]].concat(), 0),
        ([&host[..], &[("upgrade", "websocket")]].concat(), 0),
        ([&host[..], &[("keep-alive", "1")]].concat(), 0),
        ([&host[..], &[("te", "gzip")]].concat(), 0),
        ([&host[..], &[("te", "trailers")]].concat(), 200),
        ([&host[..], &[("X-Upper", "1")]].concat(), 0),
        ([&host[..], &[("x-line", "a\r\nb: c")]].concat(), 0),
        ([&host[..], &[("expect", "nonsense")]].concat(), 417),
    ] {
        let (got, told) = asked(&gateway, &[&get[..], &fields].concat());
        assert_eq!(got, status, "{fields:?}: {told:?}");
    }
    for (method, status) in [("CONNECT", 405), ("TRACE", 405), ("get", 501), ("PRI", 501), ("PROPFIND", 200)] {
        let mut fields = vec![(":method", method), (":authority", "shop.example")];
        if method != "CONNECT" {
            fields.extend([(":scheme", "http"), (":path", "/public/")]);
        }
        assert_eq!(asked(&gateway, &fields).0, status, "{method}");
    }
    let long = format!("/public/{}", "x".repeat(9000));
    let fields = [&get[..], &[(":authority", "shop.example"), (":path", &long)]].concat();
    assert_eq!(asked(&gateway, &fields).0, 414);
    assert_eq!(gateway.admin().metric("portcullis_limits_hit_total", &[("limit", "uri_bytes")]), 1.0);
    for recorded in upstream.take() {
        assert!(recorded.target == "/public/" && recorded.all("host").len() == 1, "{}", recorded.head);
        assert!(recorded.header("te").is_none_or(|te| te == "trailers"));
    }
}

/// The status of the answer to a head made of exactly these fields, on a connection of its own; 0 when the
/// stream or the connection is ended instead.
fn asked(gateway: &Gateway, fields: &[(&str, &str)]) -> (u16, Option<http2::Frame>) {
    let mut frames = http2::Frames::open(gateway.address);
    frames.send(http2::HEADERS, http2::WHOLE, 1, &http2::block(fields));
    let found = frames.find(|frame| {
        frame.stream == 1 && [http2::HEADERS, http2::RST_STREAM].contains(&frame.kind) || frame.kind == http2::GOAWAY
    });
    let status = match &found {
        Some(frame) if frame.kind == http2::HEADERS => status_in(&frame.payload),
        _ => 0,
    };
    (status, found)
}

/// The status that a header block begins with: an entry of the static table, or a literal with its name
/// (RFC 7541 §6, appendix A).
fn status_in(block: &[u8]) -> u16 {
    match block[0] {
        indexed @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        _ => {
            let mut decoder = [0; 3];
            decoder.copy_from_slice(&huffman_digits(&block[1..]));
            decoder.iter().fold(0, |sum, digit| sum * 10 + u16::from(*digit))
        }
    }
}

/// Three digits, as they are or in the Huffman code: five bits for 0 to 2, six for the others (RFC 7541,
/// appendix B).
fn huffman_digits(text: &[u8]) -> [u8; 3] {
    if text[0] & 0x80 == 0 {
        return [text[1] - b'0', text[2] - b'0', text[3] - b'0'];
    }
    let length = usize::from(text[0] & 0x7f);
    let bits: Vec<bool> =
        text[1..=length].iter().flat_map(|byte| (0..8).map(move |bit| byte >> (7 - bit) & 1 == 1)).collect();
    let number = |bits: &[bool]| bits.iter().fold(0, |sum, bit| sum << 1 | u8::from(*bit));
    let (mut at, mut digits) = (0, [0; 3]);
    for digit in &mut digits {
        let short = number(&bits[at..at + 5]);
        (*digit, at) = if short < 3 { (short, at + 5) } else { (number(&bits[at..at + 6]) - 0x19 + 3, at + 6) };
    }
    digits
}

#[test]
fn a_cut_ends_the_one_stream_and_the_others_of_its_connection_live_on() {
    let upstream = service();
    let site = site(&upstream);
    let gateway = site.start();
    let mut client = Http2::open(&gateway);
    let token = |subject| bearer(&site.accounts.token_of(subject));
    let mut open = |subject| {
        let mut call = client.start(head("GET", "/events", &[("authorization", &token(subject))]), true);
        assert_eq!(call.begin().unwrap().status, 200);
        assert_eq!(call.piece().unwrap().unwrap(), "data: 1\n\n");
        call
    };
    let (mut bob, mut ada) = (open("bob"), open("ada"));
    until("both to be held", || (gateway.admin().metric("portcullis_streams_open", &[]) == 2.0).then_some(()));
    let began = Instant::now();
    gateway.admin().revoke(&json!({
        "target": {"kind": "subject", "issuer": "accounts", "value": "bob"}, "block": true, "reason": "admin"
    }));
    assert_eq!(bob.reset(), Reason::CANCEL);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    until("the upstream to be let go", || {
        (gateway.admin().metric("portcullis_streams_open", &[]) == 1.0).then_some(())
    });
    // On the same connection.
    assert_eq!(client.get("/orders", &[("authorization", &token("ada"))]).status, 200);
    gateway.admin().revoke(&json!({
        "target": {"kind": "subject", "issuer": "accounts", "value": "ada"}, "block": true, "reason": "admin"
    }));
    assert_eq!(ada.reset(), Reason::CANCEL);
    assert_eq!(client.get("/public/", &[]).status, 200);
    let cut = |reason| gateway.admin().metric("portcullis_streams_cut_total", &[("reason", reason)]);
    assert_eq!(cut("revoked_subject"), 2.0);
    until("the log to say why", || {
        (site.read("access.jsonl").matches("\"reason\":\"revoked_subject\"").count() == 2).then_some(())
    });
}

/// Answers that are much longer than any window.
pub(crate) fn endless() -> Upstream {
    Upstream::scripted(|exchange| {
        exchange.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let chunk = [b"10000\r\n".as_slice(), &[b'x'; 1 << 16], b"\r\n"].concat();
        loop {
            exchange.raw(&chunk)?;
        }
    })
}

#[test]
fn an_answer_that_its_client_does_not_read_is_cut_as_well() {
    let upstream = endless();
    let site = site(&upstream);
    let gateway = site.start();
    let mut client = Http2::with(&gateway, Builder::new().initial_window_size(1).to_owned());
    let token = bearer(&site.accounts.token_of("bob"));
    let mut call = client.start(head("GET", "/", &[("authorization", &token)]), true);
    assert_eq!(call.begin().unwrap().status, 200);
    until("it to be held", || (gateway.admin().metric("portcullis_streams_open", &[]) == 1.0).then_some(()));
    gateway.admin().revoke(&json!({
        "target": {"kind": "subject", "issuer": "accounts", "value": "bob"}, "block": true, "reason": "admin"
    }));
    until("it to be cut", || (gateway.admin().metric("portcullis_streams_open", &[]) == 0.0).then_some(()));
    until("the upstream to be let go", || (upstream.open() == 0).then_some(()));
    assert_eq!(call.reset(), Reason::CANCEL);
}

#[test]
fn a_stream_whose_client_takes_nothing_ends_alone() {
    let upstream = endless();
    let mut site = site(&upstream);
    site.set("/limits", json!({"write_timeout": "1s"}));
    let gateway = site.start();
    let mut client = Http2::with(&gateway, Builder::new().initial_window_size(1).to_owned());
    let mut call = client.start(head("GET", "/public/", &[]), true);
    assert_eq!(call.begin().unwrap().status, 200);
    until("the upstream to be let go", || (upstream.open() == 0).then_some(()));
    assert_eq!(call.reset(), Reason::CANCEL);
    assert_eq!(gateway.admin().metric("portcullis_limits_hit_total", &[("limit", "write_timeout")]), 1.0);
}

#[test]
fn sigterm_lets_streams_finish_and_takes_no_new_ones() {
    let upstream = service();
    let mut site = site(&upstream);
    site.set("/shutdown", json!({"drain_delay": "0s", "drain_timeout": "20s"}));
    let mut gateway = site.start();
    let mut client = Http2::open(&gateway);
    let mut call = client.start(head("POST", "/public/", &[]), false);
    call.upload.send_data(Bytes::from_static(b"half of it, "), false).unwrap();
    upstream.await_requests(0);
    let mut idle = Http2::open(&gateway);
    assert_eq!(idle.get("/public/", &[]).status, 200);
    gateway.signal("TERM");
    assert!(idle.ended().is_ok(), "without a request it is closed in order");
    assert!(gateway.is_running(), "a request is running");
    until("the client to be told", || client.try_start(head("GET", "/public/", &[]), true).is_err().then_some(()));
    call.upload.send_data(Bytes::from_static(b"and the rest"), true).unwrap();
    let answer = call.answer().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert_eq!(gateway.await_exit(), 0);
    let uploads: Vec<_> = upstream.take().into_iter().filter(|recorded| recorded.method == "POST").collect();
    assert_eq!(uploads.len(), 1, "{uploads:?}");
    assert_eq!(uploads[0].body, b"half of it, and the rest");
    assert!(client.ended().is_ok());
}
