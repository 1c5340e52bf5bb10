//! Starting and stopping: no listener before the state is there, no request lost when it ends.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::support::{Connection, Gateway, Latch, Load, Site, Upstream, request, until};
use crate::tls::{Authority, Client, protect};

#[test]
fn sigterm_finishes_what_is_running_and_takes_nothing_new() {
    let gate = Arc::new(Latch::default());
    let door = Arc::clone(&gate);
    let upstream = Upstream::scripted(move |exchange| {
        door.wait();
        exchange.answer(200, &[], b"finished")
    });
    let mut site = Site::new(&upstream);
    site.set("/shutdown", json!({"drain_delay": "3s", "drain_timeout": "20s"}));
    let mut gateway = site.start();
    assert_eq!(gateway.admin().get("/readyz").status, 200);
    let mut running: Vec<Connection> = (0..10)
        .map(|_| {
            let mut connection = gateway.connect();
            connection.send(&request("GET", "/public/", &[], b""));
            connection
        })
        .collect();
    upstream.await_requests(10);
    let idle = gateway.connect();

    gateway.signal("TERM");
    until("/readyz to say no", || (gateway.admin().get("/readyz").status == 503).then_some(()));
    // Within the delay the listeners are still open: a balancer needs that time to look.
    assert!(Connection::try_open(gateway.address).is_ok(), "the listener closed before the delay was over");
    until("new connections to be refused", || Connection::try_open(gateway.address).is_err().then_some(()));
    assert!(gateway.is_running(), "it ended with requests running");
    gate.open();
    for connection in &mut running {
        let response = connection.response();
        assert_eq!((response.status, response.text().as_str()), (200, "finished"));
        assert_eq!(response.header("connection"), Some("close"));
    }
    assert_eq!(gateway.await_exit(), 0);
    drop(idle);
}

#[test]
fn a_request_that_does_not_finish_is_cut_at_the_limit() {
    let upstream = Upstream::scripted(|exchange| exchange.await_close());
    let mut site = Site::new(&upstream);
    site.set("/shutdown", json!({"drain_delay": "0s", "drain_timeout": "500ms"}));
    let gateway = site.start();
    let mut connection = gateway.connect();
    connection.send(&request("GET", "/public/", &[], b""));
    upstream.await_requests(1);
    let (_, _, took) = gateway.stop();
    assert!(took >= Duration::from_millis(450) && took < Duration::from_secs(8), "{took:?}");
    assert!(connection.try_response().is_err());
}

#[test]
fn an_idle_gateway_stops_at_once_and_says_so_by_zero() {
    let upstream = Upstream::start();
    let gateway = Site::new(&upstream).start();
    let mut kept = gateway.connect();
    assert_eq!(kept.send(&request("GET", "/public/", &[], b"")).response().status, 200);
    let (code, _, took) = gateway.stop();
    assert_eq!(code, 0);
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(kept.is_closed());
}

#[test]
fn a_second_signal_does_not_wait() {
    let upstream = Upstream::scripted(|exchange| exchange.await_close());
    let mut site = Site::new(&upstream);
    site.set("/shutdown", json!({"drain_delay": "0s", "drain_timeout": "60s"}));
    let mut gateway = site.start();
    let mut connection = gateway.connect();
    connection.send(&request("GET", "/public/", &[], b""));
    upstream.await_requests(1);
    gateway.signal("TERM");
    until("new connections to be refused", || Connection::try_open(gateway.address).is_err().then_some(()));
    gateway.signal("TERM");
    assert_ne!(gateway.await_exit(), 0, "it must not look like a clean end");
}

#[test]
fn under_load_a_stop_costs_nobody_an_answer() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.set("/shutdown", json!({"drain_delay": "500ms", "drain_timeout": "10s"}));
    let gateway = site.start();
    let address = gateway.address;
    let clients: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                let mut served = 0;
                // Until the listener is closed: every connection that was taken gets its answer.
                while let Ok(mut connection) = Connection::try_open(address) {
                    loop {
                        match connection.send(&request("GET", "/public/", &[], b"")).try_response() {
                            Ok(response) => {
                                assert_eq!(response.status, 200);
                                served += 1;
                                if response.header("connection").is_some() {
                                    break;
                                }
                            }
                            Err(problem) => {
                                // An idle connection may be closed; a request that was read may not go unanswered.
                                assert_eq!(problem, crate::support::client::NoAnswer::Closed);
                                break;
                            }
                        }
                    }
                }
                served
            })
        })
        .collect();
    upstream.await_requests(200);
    let (code, _, _) = gateway.stop();
    let served: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert_eq!(code, 0);
    assert_eq!(served, upstream.requests().len(), "requests the upstream has seen, and answers the clients have");
}

/// The same of HTTP/2: every request that went out is answered, or was not looked at, until nobody listens any more.
#[test]
fn under_a_load_of_http2_a_stop_costs_nobody_an_answer() {
    let upstream = Upstream::start();
    let authority = Authority::new();
    let mut clear = crate::http2::site(&upstream);
    clear.set("/shutdown", json!({"drain_delay": "500ms", "drain_timeout": "10s"}));
    let mut secured = Site::new(&upstream);
    secured.set("/shutdown", clear.config["shutdown"].clone());
    protect(&mut secured, &authority);
    let client = Client::speaking(&authority, None, &[&rustls::version::TLS13], &[b"h2"]);
    for (site, tls) in [(clear, None), (secured, Some(&client.0))] {
        upstream.take();
        let gateway = site.start();
        let load = Load::of_http2_until_the_end(gateway.address, tls, 8);
        load.await_more(200);
        let (code, _, _) = gateway.stop();
        assert_eq!(code, 0);
        let served = load.end();
        assert_eq!(served, upstream.take().len(), "requests the upstream has seen, and answers the clients have");
    }
}

#[test]
fn no_listener_opens_before_the_state_is_loaded() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    let token = site.accounts.token(json!({"jti": "old"}));
    {
        let gateway = site.start();
        gateway.admin().revoke_of_accounts("token", "old", "admin");
        for batch in 0..5 {
            let lines: String = (0..2000)
                .map(|index| {
                    let target = json!({"kind": "token", "issuer": "accounts", "value": format!("{batch}-{index}")});
                    format!("{}\n", json!({"target": target, "reason": "admin"}))
                })
                .collect();
            let headers = [("Content-Type", "application/x-ndjson")];
            let response = gateway.admin().send("POST", "/v1/revocations:batch", &headers, lines.as_bytes());
            assert!(matches!(response.status, 200 | 201 | 207), "{response:?}");
        }
        assert_eq!(gateway.stop().0, 0);
    }
    // A port that is known before the start: whoever connects early gets a refused token or no connection.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    site.set("/listeners/0/address", json!(port.to_string()));
    let hammer = std::thread::spawn(move || {
        let bytes = request(
            "GET",
            "/orders",
            &[("Authorization", &crate::support::bearer(&token)), ("Connection", "close")],
            b"",
        );
        until("the first answer", || Connection::try_open(port).ok()?.send(&bytes).try_response().ok())
    });
    let gateway: Gateway = site.start();
    let first = hammer.join().unwrap();
    assert_eq!((first.status, first.reason().as_str()), (401, "revoked_token"));
    assert_eq!(upstream.bytes(), 0);
    assert_eq!(gateway.admin().metric("portcullis_revocations", &[("kind", "token")]), 10_001.0);
}
