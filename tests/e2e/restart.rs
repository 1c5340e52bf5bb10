//! A restart behind a socket that outlives the process costs nobody an answer (socket activation).

use std::net::{SocketAddr, TcpListener};

use serde_json::json;

use crate::support::{Connection, Gateway, Load, Site, Upstream, bearer, request, until};
use crate::tls::{Authority, Client, protect};

/// Restarts a gateway of `site` behind a socket that outlives it, as often as wanted, under a load of HTTP/2 or HTTP/1.1.
fn restart(mut site: Site, load: impl FnOnce(SocketAddr) -> Vec<Load>) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    site.set("/listeners/0/address", json!(address.to_string()));
    site.set("/shutdown", json!({"drain_delay": "0s", "drain_timeout": "20s"}));
    let rounds = std::env::var("PORTCULLIS_RESTARTS").ok().and_then(|it| it.parse().ok()).unwrap_or(2);
    let mut gateway = Gateway::start_with(&site, &socket);
    assert_eq!(gateway.address, address);
    let loads = load(address);
    let more = || loads.iter().for_each(|load| load.await_more(100));
    for round in 0..rounds {
        more();
        let name = format!("revoked in round {round}");
        let token = site.accounts.token(json!({"jti": name}));
        let is_clear = site.config["listeners"][0]["tls"].is_null();
        if is_clear {
            assert_eq!(gateway.get_as("/orders", &token).status, 200);
        }
        gateway.admin().revoke_of_accounts("token", &name, "admin");
        assert_eq!(gateway.stop().0, 0, "round {round}");
        // Whoever comes now waits for the next one, which knows what the last one has promised.
        let early = is_clear.then(|| {
            let mut early = Connection::open(address);
            early.send(&request("GET", "/orders", &[("Authorization", &bearer(&token))], b""));
            early
        });
        gateway = Gateway::start_with(&site, &socket);
        if let Some(mut early) = early {
            assert_eq!(early.response().reason(), "revoked_token", "round {round}");
        }
    }
    more();
    for load in loads {
        load.end();
    }
    assert!(!gateway.output().contains("inherited socket is for no listener"), "{}", gateway.output());
}

#[test]
fn a_restart_under_load_behind_an_inherited_socket_fails_no_request() {
    let upstream = Upstream::start();
    let site = crate::http2::site(&upstream);
    restart(site, |address| vec![Load::on(address, 8), Load::of_http2(address, None, 4)]);
}

#[test]
fn a_restart_under_a_load_of_http2_over_tls_fails_no_request() {
    let (upstream, authority) = (Upstream::start(), Authority::new());
    let mut site = Site::new(&upstream);
    protect(&mut site, &authority);
    let client = Client::speaking(&authority, None, &[&rustls::version::TLS13], &[b"h2"]);
    restart(site, |address| vec![Load::of_http2(address, Some(&client.0), 6)]);
}

#[test]
fn a_socket_that_is_for_no_listener_is_told() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = Gateway::start_with(&site, &socket);
    assert_ne!(gateway.address, socket.local_addr().unwrap());
    assert_eq!(gateway.get("/public/", &[]).status, 200);
    until("the warning", || gateway.output().contains("inherited socket is for no listener").then_some(()));
}

#[test]
fn a_client_with_a_connection_is_told_in_its_next_answer_before_it_is_closed() {
    let upstream = Upstream::start();
    let mut gateway = Site::new(&upstream).start();
    let ask = request("GET", "/public/", &[], b"");
    let mut kept: Vec<_> = (0..4).map(|_| gateway.connect()).collect();
    for connection in &mut kept {
        assert_eq!(connection.send(&ask).response().header("connection"), None);
    }
    let mut silent = gateway.connect();
    gateway.signal("TERM");
    until("new connections to be refused", || Connection::try_open(gateway.address).is_err().then_some(()));
    for connection in &mut kept {
        let response = connection.send(&ask).response();
        assert_eq!((response.status, response.header("connection")), (200, Some("close")));
        assert!(connection.is_closed());
    }
    assert!(silent.is_closed());
    assert_eq!(gateway.await_exit(), 0);
}
