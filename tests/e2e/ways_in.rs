//! The same over every way in: HTTP/1.1 and HTTP/2, in clear and over TLS, requests, event streams and WebSockets.
//! Admitted with a good token, refused without, cut when it is revoked, and brought to a good end by SIGTERM.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use bytes::Bytes;
use h2::Reason;
use h2::client::Builder;
use rustls_pki_types::ServerName;
use serde_json::json;
use tungstenite::{Message, WebSocket};

use crate::http2_websockets as stream;
use crate::streams::{service, with_upgrades};
use crate::support::http2::head;
use crate::support::issuer::ACCOUNTS;
use crate::support::patience::DEADLINE;
use crate::support::{Gateway, Http2, Site, bearer, request, until};
use crate::tls::{Authority, Client, protect};

trait Duplex: Read + Write {}

impl<T: Read + Write> Duplex for T {}

/// A gateway's door, and who may come through it.
struct Door<'a> {
    gateway: &'a Gateway,
    tls: Option<&'a Client>,
    name: String,
}

impl Door<'_> {
    fn http1(&self) -> Box<dyn Duplex> {
        match self.tls {
            Some(client) => Box::new(client.connect_for(self.gateway, "shop.example")),
            None => {
                let stream = TcpStream::connect(self.gateway.address).unwrap();
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                Box::new(stream)
            }
        }
    }

    fn http2(&self) -> Http2 {
        let address = self.gateway.address;
        let stream = async move { tokio::net::TcpStream::connect(address).await.unwrap() };
        match self.tls.map(|client| Arc::clone(&client.0)) {
            None => Http2::over(Builder::new(), stream),
            Some(config) => Http2::over(Builder::new(), async move {
                let name = ServerName::try_from("shop.example").unwrap();
                tokio_rustls::TlsConnector::from(config).connect(name, stream.await).await.unwrap()
            }),
        }
    }

    fn opened(&self, count: usize) {
        until(&format!("{}: {count} streams to be open", self.name), || {
            (self.gateway.admin().metric("portcullis_streams_open", &[]) == count as f64).then_some(())
        });
    }

    fn revoke(&self) {
        let target = json!({"kind": "session", "issuer": ACCOUNTS, "value": "s-1"});
        self.gateway.admin().revoke(&json!({"target": target, "block": true, "reason": "admin"}));
    }
}

/// What comes until it ends with `end`.
fn read_until(stream: &mut impl Read, end: &[u8]) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(end) && stream.read(&mut byte).unwrap() == 1 {
        seen.push(byte[0]);
    }
    String::from_utf8(seen).unwrap()
}

/// What comes until the connection ends, however it does.
fn rest(stream: &mut impl Read) -> String {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    String::from_utf8_lossy(&rest).into_owned()
}

fn handshake(stream: Box<dyn Duplex>, token: Option<&str>) -> Result<WebSocket<Box<dyn Duplex>>, u16> {
    let mut wanted = http::Request::builder()
        .uri("ws://shop.example/ws")
        .header("Host", "shop.example")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", tungstenite::handshake::client::generate_key());
    if let Some(token) = token {
        wanted = wanted.header("Authorization", token);
    }
    match tungstenite::client::client(wanted.body(()).unwrap(), stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => {
            Err(response.status().as_u16())
        }
        Err(_) => panic!("no handshake"),
    }
}

fn open(stream: Box<dyn Duplex>, token: &str) -> WebSocket<Box<dyn Duplex>> {
    let mut socket = handshake(stream, Some(token)).unwrap();
    socket.send(Message::text("hello")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text("hello"));
    socket
}

fn closed(socket: &mut WebSocket<Box<dyn Duplex>>) -> (u16, String) {
    match socket.read().unwrap() {
        Message::Close(Some(close)) => (close.code.into(), close.reason.to_string()),
        other => panic!("{other:?}"),
    }
}

fn http1(door: &Door<'_>, token: &str) {
    let name = &door.name;
    let get = |target, fields: &[(&str, &str)]| request("GET", target, fields, b"");
    let mut plain = door.http1();
    plain.write_all(&get("/orders", &[("Authorization", token)])).unwrap();
    assert!(read_until(&mut plain, b"hello").starts_with("HTTP/1.1 200"), "{name}");
    plain.write_all(&get("/orders", &[("Connection", "close")])).unwrap();
    let answer = rest(&mut plain);
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("missing_token"), "{name}: {answer}");
    assert_eq!(handshake(door.http1(), None).err(), Some(401), "{name}");

    let mut events = door.http1();
    events.write_all(&get("/events", &[("Authorization", token)])).unwrap();
    assert!(read_until(&mut events, b"data: 1\n\n\r\n").starts_with("HTTP/1.1 200"), "{name}");
    let mut socket = open(door.http1(), token);
    door.opened(2);
    door.revoke();
    assert_eq!(closed(&mut socket), (4001, "revoked_session".to_owned()), "{name}");
    assert_eq!(rest(&mut events), "", "{name}: not even the end of the body");
}

fn http2(door: &Door<'_>, token: &str) {
    let name = &door.name;
    let mut client = door.http2();
    assert_eq!(client.get("/orders", &[("authorization", token)]).status, 200, "{name}");
    assert_eq!(client.get("/orders", &[]).reason(), "missing_token", "{name}");
    assert_eq!(stream::ask(&mut client, "/ws", &[]).answer().unwrap().status, 401, "{name}");

    let mut events = client.start(head("GET", "/events", &[("authorization", token)]), true);
    assert_eq!(events.begin().unwrap().status, 200, "{name}");
    let mut socket = stream::open(&mut client, token);
    door.opened(2);
    door.revoke();
    assert_eq!(stream::closed(&mut socket), (4001, "revoked_session".to_owned()), "{name}");
    assert_eq!(events.reset(), Reason::CANCEL, "{name}");
    assert_eq!(client.get("/public/", &[]).status, 200, "{name}: the connection goes on");
}

/// A request that is half there when the end is announced, and a WebSocket.
fn drained(mut gateway: Gateway, tls: Option<&Client>, speaks_http2: bool, token: &str) {
    let name = format!("HTTP/2: {speaks_http2}, TLS: {}", tls.is_some());
    let door = Door { gateway: &gateway, tls, name: name.clone() };
    if speaks_http2 {
        let mut client = door.http2();
        let mut socket = stream::open(&mut client, token);
        let mut call = client.start(head("POST", "/public/", &[]), false);
        call.upload.send_data(Bytes::from_static(b"half"), false).unwrap();
        until("both to be there", || {
            (gateway.admin().metric("portcullis_requests_in_flight", &[]) == 1.0).then_some(())
        });
        gateway.signal("TERM");
        assert_eq!(stream::closed(&mut socket), (1001, "going_away".to_owned()), "{name}");
        socket.upload.send_data(Bytes::from_static(&[0x88, 0x80, 0, 0, 0, 0]), true).unwrap_or_default();
        call.upload.send_data(Bytes::from_static(b"rest"), true).unwrap();
        let answer = call.answer().unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{name}");
        client.let_go();
    } else {
        let mut socket = open(door.http1(), token);
        let mut upload = door.http1();
        upload.write_all(b"POST /public/ HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 8\r\n\r\nhalf").unwrap();
        until("both to be there", || {
            (gateway.admin().metric("portcullis_requests_in_flight", &[]) == 1.0).then_some(())
        });
        gateway.signal("TERM");
        assert_eq!(closed(&mut socket), (1001, "going_away".to_owned()), "{name}");
        upload.write_all(b"rest").unwrap();
        let answer = rest(&mut upload);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{name}: {answer}");
        assert!(answer.to_ascii_lowercase().contains("connection: close"), "{name}: {answer}");
        while socket.read().is_ok() {}
    }
    assert_eq!(gateway.await_exit(), 0, "{name}");
}

#[test]
fn every_way_in_admits_refuses_cuts_and_drains() {
    let (upstream, _) = service();
    let authority = Authority::new();
    for secured in [false, true] {
        let mut site = with_upgrades(Site::new(&upstream));
        site.set("/shutdown/drain_timeout", json!("30s"));
        if secured {
            protect(&mut site, &authority);
        } else {
            site.set("/listeners/0/h2c", json!(true));
        }
        for speaks_http2 in [false, true] {
            let protocol: &[&[u8]] = if speaks_http2 { &[b"h2"] } else { &[b"http/1.1"] };
            let client = Client::speaking(&authority, None, &[&rustls::version::TLS13], protocol);
            let tls = secured.then_some(&client);
            let token = bearer(&site.accounts.token(json!({"sub": "bob", "sid": "s-1"})));
            let gateway = site.start();
            let door = Door { gateway: &gateway, tls, name: format!("HTTP/2: {speaks_http2}, TLS: {secured}") };
            if speaks_http2 {
                http2(&door, &token)
            } else {
                http1(&door, &token)
            }
            // Nobody has revoked this one.
            let other = bearer(&site.accounts.token(json!({"sub": "ann", "sid": "s-2"})));
            drained(gateway, tls, speaks_http2, &other);
            std::fs::remove_dir_all(site.file("data")).unwrap();
        }
    }
}
