//! What stays open: WebSockets and other upgrades, event streams. Each lives as long as its token is honoured.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::handshake::client::Response as Handshake;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{CloseFrame, Role};
use tungstenite::{Message, WebSocket};

use crate::credentials::{BASE, HASH, PEOPLE, token};
use crate::http2::endless;
use crate::sessions::{exchanged, log_in, slide};
use crate::support::issuer::ACCOUNTS;
use crate::support::patience::DEADLINE;
use crate::support::upstream::Exchange;
use crate::support::{Admin, Connection, Gateway, Latch, Site, Upstream, bearer, now, request, until};

/// How an upstream's own end of a WebSocket ended: its Close, or `None` when the connection just broke.
pub(crate) type Ends = Arc<Mutex<Vec<Option<u16>>>>;

/// Echoes below `/ws`, streams events below `/events`, opens a session at `/login/NAME`.
pub(crate) fn service() -> (Upstream, Ends) {
    let ends = Ends::default();
    let seen = Arc::clone(&ends);
    let upstream = Upstream::scripted(move |exchange| {
        let target = exchange.recorded.target.clone();
        if let Some(name) = target.strip_prefix("/login/") {
            let grant = json!({"sub": name}).to_string();
            return exchange.answer(200, &[("X-Session-Grant", &grant)], b"welcome");
        }
        if target.ends_with("/events") {
            exchange
                .raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            exchange.raw(b"9\r\ndata: 1\n\n\r\n")?;
            return exchange.await_close();
        }
        if exchange.recorded.header("upgrade").is_none() {
            return exchange.answer(200, &[], b"hello");
        }
        let end = echo(exchange)?;
        seen.lock().unwrap().push(end);
        Ok(())
    });
    (upstream, ends)
}

fn accept(exchange: &mut Exchange) -> std::io::Result<WebSocket<TcpStream>> {
    exchange.close();
    let key = exchange.recorded.header("sec-websocket-key").expect("a key").to_owned();
    let protocol = exchange.recorded.header("sec-websocket-protocol");
    let protocol = protocol.map_or_else(String::new, |it| format!("Sec-WebSocket-Protocol: {it}\r\n"));
    exchange.raw(
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {}\r\nX-Served-By: shop\r\n{protocol}\r\n",
            derive_accept_key(key.as_bytes())
        )
        .as_bytes(),
    )?;
    Ok(WebSocket::from_raw_socket(exchange.stream().try_clone()?, Role::Server, None))
}

fn echo(exchange: &mut Exchange) -> std::io::Result<Option<u16>> {
    let mut socket = accept(exchange)?;
    loop {
        match socket.read() {
            Ok(Message::Close(frame)) => return Ok(Some(frame.map_or(1005, |frame| frame.code.into()))),
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                let _ = socket.send(message);
            }
            Ok(_) => {}
            Err(_) => return Ok(None),
        }
    }
}

fn site(upstream: &Upstream) -> Site {
    with_upgrades(Site::new(upstream))
}

pub(crate) fn with_upgrades(mut site: Site) -> Site {
    for route in site.config["routes"].as_array_mut().unwrap() {
        route["upgrades"] = json!(["websocket", "chat/2"]);
    }
    site
}

type Refused = Box<http::Response<Option<Vec<u8>>>>;

fn try_open(
    gateway: &Gateway,
    path: &str,
    fields: &[(&str, &str)],
) -> Result<(WebSocket<TcpStream>, Handshake), Refused> {
    let mut wanted = http::Request::builder()
        .uri(format!("ws://shop.example{path}"))
        .header("Host", "shop.example")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", tungstenite::handshake::client::generate_key());
    for (name, value) in fields {
        wanted = wanted.header(*name, *value);
    }
    let stream = TcpStream::connect(gateway.address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    match tungstenite::client::client(wanted.body(()).unwrap(), stream) {
        Ok(opened) => Ok(opened),
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => Err(response),
        Err(error) => panic!("{error}"),
    }
}

/// An open WebSocket, through which something has passed already.
fn open(gateway: &Gateway, token: &str) -> WebSocket<TcpStream> {
    let (mut socket, _) = try_open(gateway, "/ws", &[("Authorization", &bearer(token))]).unwrap();
    assert_eq!(say(&mut socket, "hello"), "hello");
    socket
}

fn say(socket: &mut WebSocket<TcpStream>, text: &str) -> String {
    socket.send(Message::text(text)).unwrap();
    match socket.read().unwrap() {
        Message::Text(text) => text.to_string(),
        other => panic!("{other:?}"),
    }
}

/// The Close that comes, which must be there within a second of `since`; ten times that is the deadline.
fn closed(socket: &mut WebSocket<TcpStream>, since: Instant) -> (u16, String) {
    loop {
        match socket.read() {
            Ok(Message::Close(Some(CloseFrame { code, reason }))) => {
                assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
                return (code.into(), reason.to_string());
            }
            Ok(Message::Text(_) | Message::Binary(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// An event stream of which the first event has come, and which is old enough to be held.
fn listen(gateway: &Gateway, token: &str) -> Connection {
    let mut connection = gateway.connect();
    connection.send(&request("GET", "/events", &[("Authorization", &bearer(token))], b""));
    assert!(connection.read_head().unwrap().starts_with(b"HTTP/1.1 200"));
    let mut seen = connection.take_buffer();
    while !seen.ends_with(b"data: 1\n\n\r\n") {
        let mut piece = [0; 256];
        let count = connection.stream().read(&mut piece).unwrap();
        assert_ne!(count, 0);
        seen.extend_from_slice(&piece[..count]);
    }
    connection
}

/// That a stream of events ends without the last chunk.
fn is_cut(connection: &mut Connection) {
    let mut rest = Vec::new();
    let _ = connection.stream().read_to_end(&mut rest);
    assert_eq!(String::from_utf8_lossy(&rest), "", "not even the end of the body");
}

fn cut(admin: &Admin, target: Value) {
    admin.revoke(&json!({"target": target, "block": true, "reason": "admin"}));
}

fn opened(gateway: &Gateway, count: usize) {
    until(&format!("{count} streams to be open"), || {
        (gateway.admin().metric("portcullis_streams_open", &[]) == count as f64).then_some(())
    });
}

#[test]
fn messages_of_any_size_pass_both_ways() {
    let (upstream, ends) = service();
    let site = site(&upstream);
    let gateway = site.start();
    let token = bearer(&site.accounts.token_of("bob"));
    let fields =
        [("Authorization", token.as_str()), ("Sec-WebSocket-Protocol", "chat"), ("X-Auth-Request-User", "eve")];
    let (mut socket, handshake) = try_open(&gateway, "/ws", &fields).unwrap();
    assert_eq!(handshake.headers()["x-served-by"], "shop");
    assert!(handshake.headers().contains_key("x-request-id"));
    let recorded = upstream.take_one();
    assert_eq!(recorded.header("connection"), Some("Upgrade"));
    assert_eq!(recorded.header("upgrade"), Some("websocket"));
    assert_eq!(recorded.header("sec-websocket-protocol"), Some("chat"));
    assert_eq!(recorded.header("x-auth-request-user"), Some("bob"));
    assert_eq!(recorded.header("authorization"), None);
    for length in [0, 1, 125, 126, 65_535, 65_536, 3_000_000] {
        let sent: Vec<u8> = (0..length).map(|n: u32| (n.wrapping_mul(0x9E37_79B9) >> 13) as u8).collect();
        socket.send(Message::binary(sent.clone())).unwrap();
        assert!(socket.read().unwrap().into_data() == sent, "{length} bytes");
    }
    opened(&gateway, 1);
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    // Each side ends for itself.
    drop(socket);
    opened(&gateway, 0);
    assert_eq!(*ends.lock().unwrap(), [Some(1005)]);
    let line = until("the access-log line", || {
        site.read("access.jsonl").lines().find(|line| line.contains("\"status\":101")).map(str::to_owned)
    });
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["path"], &line["reason"]), (&json!("/ws"), &Value::Null));
    for direction in ["bytes_in", "bytes_out"] {
        assert!(line[direction].as_u64().unwrap() > 3_131_000, "{line}");
    }
}

/// What goes on holds nothing of the configuration it began under, however often that changes: no caches of tokens, and
/// of its connections to upstreams the one that it uses.
#[test]
fn what_goes_on_lets_go_of_the_configuration_it_began_under() {
    let (upstream, _) = service();
    let mut site = site(&upstream);
    site.set("/workers", json!(1));
    let gateway = site.start();
    let (admin, token) = (gateway.admin(), site.accounts.token(json!({"sub": "bob", "sid": "s-1"})));
    let mut socket = open(&gateway, &token);
    let mut events = listen(&gateway, &token);
    opened(&gateway, 2);
    let connections = |state| admin.metric("portcullis_upstream_connections", &[("state", state)]);
    for round in 0..3 {
        let (mut one, mut other) = (gateway.connect(), gateway.connect());
        let plain = request("GET", "/orders", &[("Authorization", &bearer(&token))], b"");
        assert_eq!(one.send(&plain).response().status, 200);
        assert_eq!(other.send(&plain).response().status, 200);
        assert!(connections("idle") >= 1.0, "{round}");
        let path = format!("/new/{round}/");
        site.route(
            json!({"name": format!("new-{round}"), "match": {"path": path}, "upstream": "shop", "auth": "none"}),
        );
        site.write_config();
        assert_eq!(admin.post("/v1/reload", &json!({})).json()["changed"], json!(true));
        until("the generation before to be gone", || {
            (admin.metric("portcullis_config_generations", &[]) == 1.0).then_some(())
        });
        assert_eq!((connections("idle"), connections("active")), (0.0, 2.0), "{round}");
        assert_eq!(say(&mut socket, "still here"), "still here", "{round}");
    }
    until("the upstream's connections but two to end", || (upstream.open() == 2).then_some(()));
    let since = Instant::now();
    cut(&admin, json!({"kind": "session", "issuer": ACCOUNTS, "value": "s-1"}));
    assert_eq!(closed(&mut socket, since), (4001, "revoked_session".to_owned()));
    is_cut(&mut events);
    until("both lines of the log, by the names of then", || {
        let log = site.read("access.jsonl");
        let lines = log.lines().filter(|line| line.contains("revoked_session"));
        let named = lines.filter(|line| line.contains(r#""route":"shop""#) && line.contains(r#""issuer":"accounts""#));
        (named.count() == 2).then_some(())
    });
}

#[test]
fn one_side_may_end_before_the_other() {
    let upstream = Upstream::scripted(|exchange| {
        exchange.raw(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat/2\r\n\r\nfirst")?;
        let mut all = Vec::new();
        exchange.close();
        exchange.stream().read_to_end(&mut all)?;
        exchange.raw(&[b"all: ", all.as_slice()].concat())
    });
    let site = site(&upstream);
    let gateway = site.start();
    let mut connection = gateway.connect();
    let fields = [("Connection", "keep-alive, upgrade"), ("Upgrade", "other/1, CHAT/2")];
    let response = connection.send(&request("GET", "/public/chat", &fields, b"")).response();
    assert_eq!((response.status, response.header("upgrade")), (101, Some("CHAT/2")));
    assert_eq!(response.header("connection"), Some("Upgrade"));
    connection.stream().write_all(b"one two").unwrap();
    connection.stream().shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = connection.take_buffer();
    connection.stream().read_to_end(&mut rest).unwrap();
    assert_eq!(String::from_utf8_lossy(&rest), "firstall: one two");
    assert_eq!(upstream.take_one().header("upgrade"), Some("CHAT/2"), "only what is allowed");
}

#[test]
fn an_upgrade_is_decided_like_any_request() {
    let (upstream, _) = service();
    let site = site(&upstream);
    let gateway = site.start();
    assert_eq!(try_open(&gateway, "/ws", &[]).unwrap_err().status(), 401, "159");
    assert_eq!(upstream.bytes(), 0, "159");
    let token = site.accounts.token_of("bob");
    assert_eq!(try_open(&gateway, "/admin/ws", &[("Authorization", &bearer(&token))]).unwrap_err().status(), 403);
    // A page of another site makes the browser send the cookie.
    let cookie = format!("__Host-session={token}");
    let from = |origin| try_open(&gateway, "/ws", &[("Cookie", cookie.as_str()), ("Origin", origin)]);
    let refused = from("https://evil.example").unwrap_err();
    assert_eq!(refused.status(), 403);
    let body: Value = serde_json::from_slice(refused.body().as_deref().unwrap()).unwrap();
    assert_eq!(body["reason"], "cross_site");
    assert_eq!(try_open(&gateway, "/ws", &[("Cookie", &cookie)]).unwrap_err().status(), 403, "nor from nowhere");
    assert_eq!(upstream.take().len(), 0);
    let (mut socket, _) = from("https://shop.example").unwrap();
    assert_eq!(say(&mut socket, "hi"), "hi");
    let (mut public, _) = try_open(&gateway, "/public/ws", &[]).unwrap();
    assert_eq!(say(&mut public, "hi"), "hi");
}

#[test]
fn an_upgrade_that_was_not_asked_for_is_a_bad_gateway() {
    let upstream = Upstream::scripted(|exchange| {
        exchange.close();
        exchange.raw(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: evil\r\n\r\nhello")
    });
    let gateway = site(&upstream).start();
    assert_eq!(gateway.get("/public/", &[]).status, 502, "none");
    assert_eq!(try_open(&gateway, "/public/", &[]).unwrap_err().status(), 502, "another");
    let mut connection = gateway.connect();
    let fields = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Content-Length", "2")];
    let response = connection.send(&request("GET", "/public/", &fields, b"")).send(b"hi").response();
    assert_eq!(response.status, 502, "with a body it is a request like any other");
    until("the upstream's connections to end", || (upstream.open() == 0).then_some(()));
}

#[test]
fn a_revocation_of_each_target_closes_what_its_tokens_opened() {
    let (upstream, ends) = service();
    let site = site(&upstream);
    for (kind, value, reason) in [
        ("token", "t-1", "revoked_token"),
        ("session", "s-1", "revoked_session"),
        ("subject", "bob", "revoked_subject"),
        ("client", "web", "revoked_client"),
        ("issuer", "", "revoked_issuer"),
        ("all", "", "revoked_all"),
    ] {
        let gateway = site.start();
        let claims = json!({"sub": "bob", "jti": "t-1", "sid": "s-1", "azp": "web"});
        let token = site.accounts.token(claims);
        let other = site.accounts.token(json!({"sub": "ada", "sid": "s-2", "azp": "app"}));
        let [mut socket, mut others] = [&token, &other].map(|token| open(&gateway, token));
        let mut events = listen(&gateway, &token);
        opened(&gateway, 3);
        let admin = gateway.admin();
        let mut target = json!({"kind": kind, "issuer": ACCOUNTS, "value": value});
        match kind {
            "issuer" => drop(target.as_object_mut().unwrap().shift_remove("value")),
            "all" => target = json!({"kind": "all"}),
            _ => {}
        }
        let since = Instant::now();
        let made = admin.revoke(&json!({"target": target, "block": true, "reason": "admin"}));
        assert_eq!(closed(&mut socket, since), (4001, reason.to_owned()), "{kind}");
        is_cut(&mut events);
        assert!(since.elapsed() < Duration::from_secs(10), "{kind}: {:?}", since.elapsed());
        if matches!(kind, "issuer" | "all") {
            assert_eq!(closed(&mut others, since), (4001, reason.to_owned()));
        } else {
            assert_eq!(say(&mut others, "still here"), "still here", "{kind}");
        }
        until("the upstream to be told", || ends.lock().unwrap().contains(&Some(1001)).then_some(()));
        let cuts = if matches!(kind, "issuer" | "all") { 3.0 } else { 2.0 };
        until("the cuts to be counted", || {
            (admin.metric("portcullis_streams_cut_total", &[("reason", reason)]) == cuts).then_some(())
        });
        let logged = || site.read("access.jsonl").lines().filter(|line| line.contains(reason)).count();
        until("both lines of the log", || (logged() >= 2).then_some(()));
        ends.lock().unwrap().clear();
        let lifted =
            admin.send("DELETE", &format!("/v1/revocations/{}?restore=true", made["id"].as_str().unwrap()), &[], b"");
        assert!(lifted.status < 300, "{lifted:?}");
        drop(gateway.stop());
    }
}

#[test]
fn a_logout_and_an_expiry_close_what_they_concern() {
    let (upstream, _) = service();
    let mut site = with_upgrades(Site::with_sessions(&upstream));
    site.set("/issuers/accounts/clock_skew", json!("0s"));
    let gateway = site.start();
    let session = log_in(&gateway, "ada");
    let other = log_in(&gateway, "ada");
    let [mut socket, mut others] = [&session, &other].map(|token| open(&gateway, token));
    let since = Instant::now();
    assert!(gateway.post_as("/session/logout", &session).status < 300);
    assert_eq!(closed(&mut socket, since), (4001, "revoked_session".to_owned()));
    assert_eq!(say(&mut others, "still here"), "still here", "another session of the same person");

    let short = site.accounts.token(json!({"sub": "bob", "exp": now() + 3}));
    let mut socket = open(&gateway, &short);
    let mut events = listen(&gateway, &short);
    assert_eq!(closed(&mut socket, Instant::now()), (4001, "expired".to_owned()));
    is_cut(&mut events);
}

#[test]
fn a_session_that_goes_on_keeps_its_streams() {
    let (upstream, _) = service();
    let mut site = with_upgrades(Site::with_sessions(&upstream));
    site.set("/session/idle_timeout", json!("6s")).set("/session/reissue", json!({"after": "20%"}));
    let gateway = site.start();
    let first = log_in(&gateway, "ada");
    let mut socket = open(&gateway, &first);
    let opened_at = now();
    let mut token = first;
    until("the first token to be long gone", || {
        token = slide(&gateway, &token);
        (now() > opened_at + 9).then_some(())
    });
    assert_eq!(say(&mut socket, "still here"), "still here");
    // From here on nobody uses the session.
    assert_eq!(closed(&mut socket, Instant::now()), (4001, "expired".to_owned()));
}

#[test]
fn a_session_dies_with_the_token_that_opened_it() {
    let (upstream, _) = service();
    let site = with_upgrades(Site::with_sessions(&upstream));
    let gateway = site.start();
    let parent = site.accounts.token(json!({"sub": "bob", "sid": "idp-1"}));
    let session = exchanged(&gateway, &parent);
    let mut socket = open(&gateway, &session);
    let since = Instant::now();
    cut(&gateway.admin(), json!({"kind": "session", "issuer": ACCOUNTS, "value": "idp-1"}));
    assert_eq!(closed(&mut socket, since), (4001, "revoked_session".to_owned()));
}

#[test]
fn a_reload_that_drops_the_issuer_cuts_and_another_does_not() {
    let (upstream, _) = service();
    let mut site = site(&upstream);
    let partner = crate::support::Issuer::new("https://partner.example/", "p-1", crate::support::issuer::Key::es256());
    site.trust("partner", &partner);
    let gateway = site.start();
    let mut socket = open(&gateway, &partner.token_of("bob"));
    let mut others = open(&gateway, &site.accounts.token_of("ada"));
    site.config["issuers"].as_object_mut().unwrap().shift_remove("partner");
    site.write_config();
    let since = Instant::now();
    gateway.signal("HUP");
    assert_eq!(closed(&mut socket, since), (4001, "issuer_not_allowed".to_owned()));
    assert_eq!(say(&mut others, "still here"), "still here");
    // Its key is taken away.
    let rotated = crate::support::Issuer::accounts();
    site.write("accounts.jwks.json", &rotated.jwks().to_string().replace("accounts-1", "accounts-2"));
    let since = Instant::now();
    gateway.signal("HUP");
    assert_eq!(closed(&mut others, since), (4001, "unknown_key".to_owned()));
}

#[test]
fn a_drain_says_goodbye() {
    let (upstream, ends) = service();
    let site = site(&upstream);
    let mut gateway = site.start();
    let mut socket = open(&gateway, &site.accounts.token_of("bob"));
    let (mut public, _) = try_open(&gateway, "/public/ws", &[]).unwrap();
    let since = Instant::now();
    gateway.signal("TERM");
    assert_eq!(closed(&mut socket, since), (1001, "going_away".to_owned()));
    assert_eq!(closed(&mut public, since), (1001, "going_away".to_owned()));
    drop((socket, public));
    assert_eq!(gateway.await_exit(), 0);
    until("the upstream to be told", || (*ends.lock().unwrap() == [Some(1001), Some(1001)]).then_some(()));
}

#[test]
fn a_silent_tunnel_is_closed() {
    let (upstream, _) = service();
    let mut site = site(&upstream);
    site.set("/limits/tunnel_idle_timeout", json!("2s"));
    let gateway = site.start();
    let (mut socket, _) = try_open(&gateway, "/public/ws", &[]).unwrap();
    assert_eq!(say(&mut socket, "hi"), "hi");
    assert_eq!(closed(&mut socket, Instant::now()), (1001, "idle".to_owned()));
}

#[test]
fn a_changed_credential_closes_what_hangs_on_it() {
    let (upstream, _) = service();
    let mut site = with_upgrades(Site::with_sessions(&upstream));
    site.write_secret("secrets/base", BASE);
    site.config["issuers"]["people"] = json!({
        "issuer": PEOPLE, "audiences": ["shop"], "algorithms": ["HS256"],
        "keys": {"per_subject": {"base_secret": {"file": "secrets/base"}, "pushed": true}},
    });
    site.config["session"]["exchange"] = json!([{"issuer": "people", "subject_prefix": "people:"}]);
    let gateway = site.start();
    let admin = gateway.admin();
    let push = |name: &str, hash: &str| {
        let body = json!({"columns": [hash, null]}).to_string();
        let path = format!("/v1/subjects/people/{name}/credential");
        assert_eq!(admin.send("PUT", &path, &[("Content-Type", "application/json")], body.as_bytes()).status, 200);
    };
    push("ada", HASH);
    push("bob", HASH);
    let [ada, bob] = ["ada", "bob"].map(|name| token(name, &[Some(HASH), None]));
    let mut socket = open(&gateway, &ada);
    let mut session = open(&gateway, &exchanged(&gateway, &ada));
    let mut others = open(&gateway, &bob);
    let since = Instant::now();
    push("ada", "another");
    for socket in [&mut socket, &mut session] {
        assert_eq!(closed(socket, since), (4001, "credential_changed".to_owned()));
    }
    assert_eq!(say(&mut others, "still here"), "still here");
}

/// A client that reads nothing is cut as well: nobody asks for more of its answer.
#[test]
fn a_download_that_nobody_reads_is_cut() {
    let upstream = Upstream::scripted(|exchange| {
        exchange.close();
        exchange.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")?;
        let piece = vec![b'x'; 1 << 16];
        loop {
            exchange.raw(&piece)?;
        }
    });
    let site = Site::new(&upstream);
    let gateway = site.start();
    let mut connection = gateway.connect();
    connection.send(&request("GET", "/big", &[("Authorization", &bearer(&site.accounts.token_of("bob")))], b""));
    assert!(connection.read_head().unwrap().starts_with(b"HTTP/1.1 200"));
    // Reads a little after the half second, so that it is noticed that it goes on.
    let mut piece = vec![0; 1 << 20];
    until("the download to be held", || {
        let count = connection.stream().read(&mut piece).unwrap();
        assert_ne!(count, 0);
        (gateway.admin().metric("portcullis_streams_open", &[]) == 1.0).then_some(())
    });
    cut(&gateway.admin(), json!({"kind": "subject", "issuer": ACCOUNTS, "value": "bob"}));
    until("the connections to end", || (upstream.open() == 0).then_some(()));
    opened(&gateway, 0);
}

/// What a long poll has waited for is not for whoever is out by then; the answer to a request with an effect is told,
/// for that request may be what has ended the session.
#[test]
fn a_long_poll_brings_nothing_once_its_token_is_revoked() {
    let door = Arc::new(Latch::default());
    let waiting = Arc::clone(&door);
    let upstream = Upstream::scripted(move |exchange| {
        if exchange.recorded.target == "/poll" {
            waiting.wait();
        }
        exchange.answer(200, &[], b"the news")
    });
    let site = Site::new(&upstream);
    let gateway = site.start();
    let (ada, bob) = (site.accounts.token_of("ada"), site.accounts.token_of("bob"));
    let (polled, posted, others) = thread::scope(|scope| {
        let polled = scope.spawn(|| gateway.get_as("/poll", &ada));
        let posted = scope.spawn(|| gateway.post_as("/poll", &ada));
        let others = scope.spawn(|| gateway.get_as("/poll", &bob));
        upstream.await_requests(3);
        // Longer than an answer may take that is not looked at again.
        let begun = Instant::now();
        until("a long wait", || (begun.elapsed() > Duration::from_millis(700)).then_some(()));
        cut(&gateway.admin(), json!({"kind": "subject", "issuer": "accounts", "value": "ada"}));
        door.open();
        (polled.join().unwrap(), posted.join().unwrap(), others.join().unwrap())
    });
    assert_eq!((polled.status, polled.reason().as_str()), (401, "revoked_subject"));
    assert!(!polled.text().contains("news"));
    assert_eq!([posted.text(), others.text()], ["the news", "the news"]);
}

#[test]
fn an_answer_of_which_nothing_is_ever_read_is_cut_as_well() {
    let upstream = endless();
    let site = Site::new(&upstream);
    let gateway = site.start();
    let mut connection = gateway.connect();
    connection.send(&request("GET", "/", &[("Authorization", &bearer(&site.accounts.token_of("bob")))], b""));
    opened(&gateway, 1);
    cut(&gateway.admin(), json!({"kind": "subject", "issuer": "accounts", "value": "bob"}));
    opened(&gateway, 0);
    until("the upstream to be let go", || (upstream.open() == 0).then_some(()));
}
