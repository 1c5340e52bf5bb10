//! HTTP/2 to upstreams: many requests over one connection, and servers that refuse, go away, fall silent or
//! do not know what they are doing.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Response;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use crate::support::authority::Authority;
use crate::support::front::Front;
use crate::support::multiplex::{
    DATA, END_HEADERS, Frames, GOAWAY, HEADERS, Multiplex, OK, RST_STREAM, given_up, read,
};
use crate::support::{Connection, Gateway, Site, Upstream, request, until};

/// A site before servers at `url`, with one worker so that its connections can be counted.
fn before(url: &str, protocol: &str) -> Site {
    let mut site = Site::before(url);
    site.set("/workers", json!(1));
    site.set("/upstreams/shop/protocol", json!(protocol));
    site
}

fn before_frames(
    settings: &'static [u8],
    script: impl Fn(usize, Frames) -> Option<()> + Send + Sync + 'static,
) -> Site {
    before(&format!("http://{}", Frames::serve(settings, script)), "http2")
}

fn counted(gateway: &Gateway, result: &str) -> f64 {
    gateway.admin().metric("portcullis_upstream_requests_total", &[("upstream", "shop"), ("result", result)])
}

fn connections(gateway: &Gateway, state: &str) -> f64 {
    gateway.admin().metric("portcullis_upstream_connections", &[("upstream", "shop"), ("state", state)])
}

#[test]
fn a_request_over_http2_is_what_it_would_be_over_http1() {
    let upstream = Multiplex::echo();
    let gateway = before(&upstream.url(), "http2").start();
    let fields = [("Host", "shop.example"), ("X-A", "1"), ("Connection", "x-b"), ("X-B", "2"), ("TE", "trailers")];
    let response = gateway.send("POST", "/public/%61?q=1", &fields, b"hello");
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    let head = upstream.heads().remove(0);
    assert_eq!((head.method().as_str(), head.uri().to_string().as_str()), ("POST", "http://shop.example/public/a?q=1"));
    let field = |name: &str| head.headers().get(name).map(|value| value.to_str().unwrap());
    assert_eq!((field("x-a"), field("x-b"), field("te")), (Some("1"), None, None));
    assert_eq!((field("content-length"), field("x-forwarded-host")), (Some("5"), Some("shop.example")));
    for gone in ["host", "connection", "transfer-encoding", "upgrade"] {
        assert_eq!(field(gone), None, "{gone}");
    }
    // Without a length, and longer than any window.
    let body = vec![b'x'; 3_000_000];
    let mut connection = gateway.connect();
    connection.send(b"POST /public/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let sending = std::thread::spawn({
        let mut stream = connection.stream().try_clone().unwrap();
        let body = body.clone();
        move || {
            for piece in body.chunks(100_000) {
                let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
                stream.write_all(&chunk).unwrap();
            }
            stream.write_all(b"0\r\n\r\n").unwrap();
        }
    });
    let response = connection.response();
    sending.join().unwrap();
    assert_eq!((response.status, response.body.len()), (200, body.len()));
    assert_eq!(gateway.send("HEAD", "/public/", &[], b"").status, 200);
    assert_eq!((upstream.connections(), counted(&gateway, "answered")), (1, 3.0));
}

/// An upstream whose answers wait for the semaphore.
fn held(streams: Option<u32>) -> (Multiplex, Arc<Semaphore>) {
    let door = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&door);
    let upstream = Multiplex::scripted(streams, move |_, mut respond| {
        let waiting = Arc::clone(&waiting);
        async move {
            let _turn = waiting.acquire().await;
            if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
                let _ = stream.send_data("hello".into(), true);
            }
        }
    });
    (upstream, door)
}

fn ask(gateway: &Gateway, count: usize) -> Vec<Connection> {
    let ask = |_| {
        let mut connection = gateway.connect();
        connection.send(&request("GET", "/public/", &[], b""));
        connection
    };
    (0..count).map(ask).collect()
}

#[test]
fn a_connection_carries_as_many_requests_as_the_server_allows_and_then_there_is_another() {
    for (streams, expected) in [(None, 1), (Some(4), 3)] {
        let (upstream, door) = held(streams);
        let gateway = before(&upstream.url(), "http2").start();
        let asked = ask(&gateway, 12);
        until("all requests at the upstream", || (upstream.count() == 12).then_some(()));
        assert_eq!(upstream.connections(), expected, "{streams:?}");
        assert_eq!(connections(&gateway, "active"), expected as f64);
        door.add_permits(12);
        for mut connection in asked {
            assert_eq!(connection.response().status, 200, "{streams:?}");
        }
        until("the connections to be idle", || (connections(&gateway, "idle") == expected as f64).then_some(()));
        assert_eq!(connections(&gateway, "active"), 0.0);
    }
}

#[test]
fn of_the_connections_of_an_earlier_configuration_those_in_use_live_on() {
    let upstream = Multiplex::scripted(Some(1), |request, mut respond| async move {
        let goes_on = request.uri().path().ends_with("long");
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.send_data("x".into(), !goes_on).unwrap();
        if goes_on {
            std::future::pending::<()>().await;
        }
    });
    let mut site = before(&upstream.url(), "http2");
    let gateway = site.start();
    let mut long = gateway.connect();
    long.send(&request("GET", "/public/long", &[], b""));
    assert!(long.read_head().unwrap().starts_with(b"HTTP/1.1 200"));
    assert_eq!(gateway.get("/public/", &[]).status, 200);
    until("one of each", || {
        (connections(&gateway, "active") == 1.0 && connections(&gateway, "idle") == 1.0).then_some(())
    });
    site.set("/limits", json!({"header_count": 99}));
    site.write_config();
    assert_eq!(gateway.admin().post("/v1/reload", &json!({})).status, 200);
    until("the configuration before to be gone", || {
        (gateway.admin().metric("portcullis_config_generations", &[]) == 1.0).then_some(())
    });
    assert_eq!((connections(&gateway, "active"), connections(&gateway, "idle")), (1.0, 0.0));
    drop(long);
    until("the last one to end", || (connections(&gateway, "active") == 0.0).then_some(()));
    assert_eq!(connections(&gateway, "idle"), 0.0);
    assert_eq!(gateway.get("/public/", &[]).status, 200);
}

#[test]
fn tls_agrees_on_the_protocol() {
    let authority = Authority::new();
    let certificate = authority.issue("localhost");
    let (two, one) = (Multiplex::echo(), Upstream::start());
    for (protocol, offered, behind, status) in [
        ("http2", &["h2", "http/1.1"][..], two.address, 200),
        ("auto", &["h2", "http/1.1"], two.address, 200),
        ("auto", &["http/1.1"], one.address(), 200),
        ("auto", &[], one.address(), 200),
        ("http1", &["h2", "http/1.1"], one.address(), 200),
        ("http2", &["http/1.1"], one.address(), 502),
        ("http2", &[], one.address(), 502),
        ("http1", &["h2"], two.address, 502),
    ] {
        let front = Front::start(certificate.server(None, offered), behind);
        let mut site = before(&front.url(), protocol);
        site.write("ca.pem", &authority.pem);
        site.set("/upstreams/shop/tls", json!({"ca_file": "ca.pem"}));
        let gateway = site.start();
        for _ in 0..3 {
            let response = gateway.send("POST", "/public/", &[], b"hello");
            assert_eq!(response.status, status, "{protocol} {offered:?}: {}", response.text());
        }
        let failed = if status == 502 { 3.0 } else { 0.0 };
        assert_eq!(counted(&gateway, "tls_failed"), failed, "{protocol} {offered:?}");
    }
    assert!(two.heads().iter().all(|head| head.uri().scheme_str() == Some("https")));
}

#[test]
fn a_request_that_was_not_looked_at_goes_out_again_with_its_body() {
    const REFUSED: &[u8] = &7_u32.to_be_bytes();
    for (name, body) in [("without a body", &b""[..]), ("with one", b"hello")] {
        // The second request of the first connection is refused by a GOAWAY that names the first.
        let away = before_frames(&[], |number, mut frames| {
            loop {
                let stream = frames.request()?;
                if number == 0 && stream > 1 {
                    frames.send(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])?;
                } else {
                    frames.hello(stream)?;
                }
            }
        });
        // Every other request is refused by itself.
        let refused = before_frames(&[], |_, mut frames| {
            loop {
                let stream = frames.request()?;
                if stream % 4 == 3 { frames.send(RST_STREAM, 0, stream, REFUSED)? } else { frames.hello(stream)? }
            }
        });
        for (how, site) in [("GOAWAY", away), ("RST_STREAM", refused)] {
            let gateway = site.start();
            for _ in 0..4 {
                let response = gateway.send("POST", "/public/", &[], body);
                assert_eq!((response.status, response.text().as_str()), (200, "hello"), "{how} {name}");
            }
        }
    }
}

#[test]
fn a_request_that_may_have_been_looked_at_does_not_go_out_again() {
    const INTERNAL: &[u8] = &2_u32.to_be_bytes();
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    let gateway = before_frames(&[], move |_, mut frames| {
        loop {
            let stream = frames.request()?;
            counter.fetch_add(1, Ordering::AcqRel);
            match counter.load(Ordering::Acquire) {
                1 => frames.send(RST_STREAM, 0, stream, INTERNAL)?,
                // It is among those that are said to be done, and is not.
                _ => return frames.send(GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 0]),
            }
        }
    })
    .start();
    for expected in 1..=2 {
        let response = gateway.send("POST", "/public/", &[], b"hello");
        assert_eq!((response.status, response.reason().as_str()), (502, "upstream_broken"));
        assert_eq!(requests.load(Ordering::Acquire), expected);
    }
}

#[test]
fn a_server_that_always_refuses_is_not_asked_for_ever() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    let gateway = before_frames(&[], move |_, mut frames| {
        loop {
            let stream = frames.request()?;
            counter.fetch_add(1, Ordering::AcqRel);
            frames.send(RST_STREAM, 0, stream, &7_u32.to_be_bytes())?;
        }
    })
    .start();
    assert_eq!(gateway.get("/public/", &[]).status, 502);
    assert_eq!(requests.load(Ordering::Acquire), 4);
}

#[test]
fn an_answer_that_is_reset_breaks_off_and_harms_no_other() {
    // Also with the reasons that say that nothing went wrong: it was not whole.
    for reason in [0_u32, 2, 8] {
        let made = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&made);
        let gateway = before_frames(&[], move |_, mut frames| {
            counter.fetch_add(1, Ordering::AcqRel);
            loop {
                let stream = frames.request()?;
                if stream == 1 {
                    frames.send(HEADERS, END_HEADERS, stream, OK)?;
                    frames.send(DATA, 0, stream, b"half of it")?;
                    frames.send(RST_STREAM, 0, stream, &reason.to_be_bytes())?;
                } else {
                    frames.hello(stream)?;
                }
            }
        })
        .start();
        let mut connection = gateway.connect();
        let answer = connection.send(&request("GET", "/public/", &[], b"")).try_response();
        assert!(answer.is_err() || answer.is_ok_and(|it| it.status == 502), "{reason}: completed quietly");
        assert_eq!(counted(&gateway, "broken"), 1.0, "{reason}");
        assert_eq!(gateway.get("/public/", &[]).text(), "hello");
        assert_eq!(made.load(Ordering::Acquire), 1, "{reason}");
    }
}

#[test]
fn servers_that_cannot_be_talked_to_are_bad_gateways() {
    // SETTINGS_MAX_CONCURRENT_STREAMS: 0.
    let none = before_frames(&[0, 3, 0, 0, 0, 0], |_, mut frames| frames.request().map(drop));
    let garbage = before_frames(&[], |_, mut frames| {
        frames.send(200, 0xff, 0, b"\xff\xff").and_then(|()| frames.send(HEADERS, END_HEADERS, 2, b"\xff\xff\xff"))
    });
    let one = Upstream::scripted(|exchange| exchange.answer(200, &[], b"hello"));
    for (name, site) in [("no streams", none), ("garbage", garbage), ("HTTP/1.1", before(&one.url(), "http2"))] {
        let mut site = site;
        site.set("/upstreams/shop/connect_timeout", json!("3s"));
        let gateway = site.start();
        for _ in 0..2 {
            let response = gateway.get("/public/", &[]);
            assert!(matches!(response.status, 502 | 504), "{name}: {}", response.status);
        }
    }
}

#[test]
fn a_silent_server_is_given_up_and_told_so() {
    let (given, mut reasons) = mpsc::unbounded_channel();
    let upstream = Multiplex::scripted(None, move |request, mut respond| {
        let given = given.clone();
        async move {
            if request.uri().path().ends_with("half") {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data("half".into(), false).unwrap();
                let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
                given.send(reason.ok()).unwrap();
            } else {
                given.send(given_up(respond).await).unwrap();
            }
        }
    });
    let mut site = before(&upstream.url(), "http2");
    site.set("/upstreams/shop/response_timeout", json!("300ms"));
    let gateway = site.start();
    let mut reason = || reasons.blocking_recv().unwrap();
    let started = Instant::now();
    assert_eq!(gateway.get("/public/", &[]).status, 504);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!((reason(), counted(&gateway, "timed_out")), (Some(h2::Reason::CANCEL), 1.0));
    // Within the answer.
    let mut connection = gateway.connect();
    assert!(connection.send(&request("GET", "/public/half", &[], b"")).try_response().is_err());
    assert_eq!((reason(), counted(&gateway, "timed_out")), (Some(h2::Reason::CANCEL), 2.0));
    // A client that goes away.
    drop(site);
    drop(gateway);
    let mut site = before(&upstream.url(), "http2");
    site.set("/upstreams/shop/response_timeout", json!("1h"));
    let gateway = site.start();
    let mut asked = ask(&gateway, 1);
    until("the request", || (upstream.count() == 3).then_some(()));
    asked.clear();
    assert_eq!(reason(), Some(h2::Reason::CANCEL));
    until("it to be counted", || (counted(&gateway, "client_gone") == 1.0).then_some(()));
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn a_server_that_answers_no_ping_is_given_up() {
    let mut site = before_frames(&[], |_, mut frames| {
        frames.pongs = 1;
        frames.request()?;
        frames.next().map(drop)
    });
    site.set("/upstreams/shop/ping_interval", json!("1s"));
    site.set("/upstreams/shop/connect_timeout", json!("1s"));
    site.set("/upstreams/shop/response_timeout", json!("1h"));
    let response = site.start().get("/public/", &[]);
    assert_eq!((response.status, response.reason().as_str()), (502, "upstream_broken"));
}

#[test]
fn trailers_do_not_keep_a_client_of_http1_from_the_body() {
    let upstream = Multiplex::scripted(None, |request, mut respond| async move {
        let body = read(request.into_body()).await;
        let announced = Response::builder().header("trailer", "grpc-status").body(()).unwrap();
        let mut stream = respond.send_response(announced, false).unwrap();
        stream.send_data(body, false).unwrap();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    });
    let gateway = before(&upstream.url(), "http2").start();
    for _ in 0..2 {
        let response = gateway.send("POST", "/public/", &[], b"hello");
        assert_eq!((response.text().as_str(), response.trailers.len()), ("hello", 0));
    }
    let takes = [("TE", "trailers"), ("Connection", "TE")];
    let response = gateway.send("POST", "/public/", &takes, b"hello");
    assert_eq!((response.text().as_str(), response.trailers), ("hello", vec!["grpc-status: 0".to_owned()]));
    assert_eq!(counted(&gateway, "answered"), 3.0);
}

#[test]
fn an_upgrade_goes_over_http1_and_not_to_an_upstream_that_has_none() {
    let mut site = Site::before("http://127.0.0.1:1");
    site.set("/upstreams/shop/protocol", json!("http2"));
    site.set("/routes/0/upgrades", json!(["websocket"]));
    let (code, said) = Gateway::refuse(&site);
    assert!(code == 78 && said.contains("speaks HTTP/2 alone"), "{code} {said}");
}

#[test]
fn trailers_of_a_request_are_cleaned_as_its_head_is() {
    let (given, mut trailers) = mpsc::unbounded_channel();
    let upstream = Multiplex::scripted(None, move |request, mut respond| {
        let given = given.clone();
        async move {
            let mut body = request.into_body();
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            given.send(body.trailers().await.unwrap()).unwrap();
            respond.send_response(Response::new(()), true).unwrap();
        }
    });
    let gateway = before(&upstream.url(), "http2").start();
    let mut connection = gateway.connect();
    connection.send(
        b"POST /public/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\n\
          X-Sum: 1\r\nX-Auth-Request-User: root\r\nx_auth_request_user: root\r\nX-Forwarded-For: 1.1.1.1\r\n\
          Cookie: a=b\r\nX-Real-IP: 1.1.1.1\r\n\r\n",
    );
    assert_eq!(connection.response().status, 200);
    let came = trailers.blocking_recv().unwrap().expect("trailers");
    assert_eq!(came.keys().map(http::HeaderName::as_str).collect::<Vec<_>>(), ["x-sum"]);
}
