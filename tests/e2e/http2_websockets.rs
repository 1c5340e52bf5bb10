//! WebSockets on the streams of an HTTP/2 connection (RFC 8441), before a server that knows HTTP/1.1 alone.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use h2::ext::Protocol;
use http::Request;
use serde_json::json;

use crate::http2::site;
use crate::streams::{service, with_upgrades};
use crate::support::http2::{Answer, Call};
use crate::support::{Gateway, Http2, Upstream, bearer, until};

/// Asks for a WebSocket at `path`.
pub(crate) fn ask(client: &mut Http2, path: &str, headers: &[(&str, &str)]) -> Call {
    let mut request = Request::builder().method("CONNECT").uri(format!("http://shop.example{path}"));
    for (name, value) in [&[("sec-websocket-version", "13")], headers].concat() {
        request = request.header(name, value);
    }
    client.start(request.extension(Protocol::from_static("websocket")).body(()).unwrap(), false)
}

/// An open WebSocket, through which something has passed already.
pub(crate) fn open(client: &mut Http2, token: &str) -> Call {
    let mut call = ask(client, "/ws", &[("authorization", token)]);
    let answer = call.begin().unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    say(&mut call, "hello");
    call
}

/// Sends a short text, masked with zeros, and gets it back.
fn say(call: &mut Call, text: &str) {
    let length = u8::try_from(text.len()).unwrap();
    let frame = [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat();
    call.upload.send_data(Bytes::from(frame), false).unwrap();
    let wanted = [&[0x81, length], text.as_bytes()].concat();
    let mut got = Vec::new();
    while got.len() < wanted.len() {
        got.extend_from_slice(&call.piece().unwrap().expect("a frame"));
    }
    assert_eq!(got, wanted);
}

/// The code and the reason of the Close that comes, after which the stream ends.
pub(crate) fn closed(call: &mut Call) -> (u16, String) {
    let mut got = Vec::new();
    loop {
        match call.piece() {
            Ok(Some(piece)) => got.extend_from_slice(&piece),
            Ok(None) => break,
            Err(error) => {
                assert_eq!(error.reason(), Some(Reason::NO_ERROR));
                break;
            }
        }
    }
    assert_eq!(got[0], 0x88, "{got:?}");
    (u16::from_be_bytes([got[2], got[3]]), String::from_utf8(got[4..].to_vec()).unwrap())
}

fn refused(client: &mut Http2, path: &str, headers: &[(&str, &str)]) -> Answer {
    let answer = ask(client, path, headers).answer().unwrap();
    assert_ne!(answer.status, 200);
    answer
}

fn opened(gateway: &Gateway, count: usize) {
    until(&format!("{count} streams to be open"), || {
        (gateway.admin().metric("portcullis_streams_open", &[]) == count as f64).then_some(())
    });
}

#[test]
fn a_websocket_opens_on_a_stream_and_ends_with_its_token() {
    let (upstream, ends) = service();
    let site = with_upgrades(site(&upstream));
    let gateway = site.start();
    let mut client = Http2::open(&gateway);
    let token = |subject| bearer(&site.accounts.token_of(subject));
    let mut bob = ask(
        &mut client,
        "/ws",
        &[("authorization", &token("bob")), ("sec-websocket-protocol", "chat"), ("sec-websocket-key", "mine")],
    );
    let answer = bob.begin().unwrap();
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (200, Some("chat")));
    assert_eq!(answer.header("x-served-by"), Some("shop"));
    for name in ["sec-websocket-accept", "upgrade", "connection"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    say(&mut bob, "hello");
    let recorded = upstream.take_one();
    assert_eq!((recorded.method.as_str(), recorded.target.as_str()), ("GET", "/ws"));
    assert_eq!(recorded.all("upgrade"), ["websocket"]);
    assert_eq!(recorded.all("connection"), ["Upgrade"]);
    assert_eq!(recorded.all("sec-websocket-version"), ["13"]);
    assert_eq!(recorded.all("sec-websocket-key").len(), 1);
    assert_ne!(recorded.header("sec-websocket-key"), Some("mine"));
    assert_eq!(recorded.all("x-auth-request-user"), ["bob"]);

    let mut ada = open(&mut client, &token("ada"));
    opened(&gateway, 2);
    let began = Instant::now();
    gateway.admin().revoke(&json!({
        "target": {"kind": "subject", "issuer": "accounts", "value": "bob"}, "block": true, "reason": "admin"
    }));
    assert_eq!(closed(&mut bob), (4001, "revoked_subject".to_owned()));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    until("the upstream to hear of it", || (ends.lock().unwrap().as_slice() == [Some(1001)]).then_some(()));
    say(&mut ada, "still here");
    opened(&gateway, 1);
    // One that its client ends is over on both sides.
    ada.upload.send_data(Bytes::from_static(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]), true).unwrap();
    while let Ok(Some(_)) = ada.piece() {}
    opened(&gateway, 0);
    assert_eq!(client.get("/public/", &[]).status, 200, "on the same connection");
}

#[test]
fn it_is_decided_like_every_websocket() {
    let (upstream, _) = service();
    let site = with_upgrades(site(&upstream));
    let gateway = site.start();
    let mut client = Http2::open(&gateway);
    assert_eq!(refused(&mut client, "/ws", &[]).reason(), "missing_token");
    let cookie = format!("__Host-session={}", site.accounts.token_of("bob"));
    let page = |origin| [("cookie", cookie.as_str()), ("origin", origin)];
    let answer = refused(&mut client, "/ws", &page("https://evil.example"));
    assert_eq!((answer.status, answer.reason().as_str()), (403, "cross_site"));
    assert!(upstream.take().is_empty());
    let mut call = ask(&mut client, "/ws", &page("http://shop.example"));
    assert_eq!(call.begin().unwrap().status, 200);
}

#[test]
fn what_is_no_websocket_is_no_tunnel() {
    let upstream = Upstream::scripted(|exchange| match exchange.recorded.target.as_str() {
        // A server that grants it without having read the key, and servers that do not grant it.
        "/public/blind" => {
            exchange.close();
            exchange.raw(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            )
        }
        "/public/plain" => exchange.answer(200, &[], b"no tunnel"),
        _ => exchange.answer(426, &[], b"no"),
    });
    let site = with_upgrades(site(&upstream));
    let gateway = site.start();
    let mut client = Http2::open(&gateway);
    for (path, status) in [("/public/blind", 502), ("/public/plain", 502), ("/public/other", 426)] {
        assert_eq!(refused(&mut client, path, &[]).status, status, "{path}");
    }
    drop((client, gateway));
    // Nor where the route does not say so.
    let mut site = site;
    site.set("/routes/0/upgrades", json!([]));
    let gateway = site.start();
    let mut client = Http2::open(&gateway);
    upstream.take();
    assert_eq!(refused(&mut client, "/public/other", &[]).status, 405);
    assert!(upstream.take().is_empty());
}

#[test]
fn sigterm_closes_it_in_order() {
    let (upstream, ends) = service();
    let site = with_upgrades(site(&upstream));
    let mut gateway = site.start();
    let mut client = Http2::open(&gateway);
    let mut call = open(&mut client, &bearer(&site.accounts.token_of("bob")));
    gateway.signal("TERM");
    assert_eq!(closed(&mut call), (1001, "going_away".to_owned()));
    call.upload.send_data(Bytes::from_static(&[0x88, 0x80, 0, 0, 0, 0]), true).unwrap_or_default();
    until("the upstream to hear of it", || (ends.lock().unwrap().as_slice() == [Some(1001)]).then_some(()));
    drop(call);
    client.let_go();
    assert_eq!(gateway.await_exit(), 0);
}
