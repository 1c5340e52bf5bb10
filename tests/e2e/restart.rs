//! A restart behind a socket that outlives the process costs nobody an answer (socket activation).

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use serde_json::json;

use crate::support::{Connection, Gateway, Site, Upstream, bearer, request, until};

/// Clients that never cease to ask, and to whom every answer counts.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Half of the clients keep their connections for as long as they may.
    fn on(address: SocketAddr, clients: usize) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |number: usize| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            thread::spawn(move || {
                let headers: &[(&str, &str)] = if number.is_multiple_of(2) { &[] } else { &[("Connection", "close")] };
                let bytes = request("GET", "/public/", headers, b"");
                let mut connection = Connection::open(address);
                while !stop.load(Ordering::Acquire) {
                    let response = connection.send(&bytes).try_response().expect("every request to be answered");
                    assert_eq!(response.status, 200);
                    served.fetch_add(1, Ordering::Relaxed);
                    if response.header("connection").is_some() {
                        connection = Connection::open(address);
                    }
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { stop, served, clients }
    }

    fn await_more(&self, count: usize) {
        let wanted = self.served.load(Ordering::Relaxed) + count;
        until("more answers", || {
            let dead = self.clients.iter().any(JoinHandle::is_finished);
            (dead || self.served.load(Ordering::Relaxed) >= wanted).then_some(())
        });
    }

    fn end(self) {
        self.stop.store(true, Ordering::Release);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
    }
}

#[test]
fn a_restart_under_load_behind_an_inherited_socket_fails_no_request() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    site.set("/listeners/0/address", json!(address.to_string()));
    site.set("/shutdown", json!({"drain_delay": "0s", "drain_timeout": "20s"}));
    let rounds = std::env::var("PORTCULLIS_RESTARTS").ok().and_then(|it| it.parse().ok()).unwrap_or(2);
    let mut gateway = Gateway::start_with(&site, &socket);
    assert_eq!(gateway.address, address);
    let load = Load::on(address, 8);
    for round in 0..rounds {
        load.await_more(200);
        let name = format!("revoked in round {round}");
        let token = site.accounts.token(json!({"jti": name}));
        assert_eq!(gateway.get_as("/orders", &token).status, 200);
        gateway.admin().revoke_of_accounts("token", &name, "admin");
        assert_eq!(gateway.stop().0, 0, "round {round}");
        // Whoever comes now waits for the next one, which knows what the last one has promised.
        let mut early = Connection::open(address);
        early.send(&request("GET", "/orders", &[("Authorization", &bearer(&token))], b""));
        gateway = Gateway::start_with(&site, &socket);
        assert_eq!(early.response().reason(), "revoked_token", "round {round}");
    }
    load.await_more(200);
    load.end();
    assert!(!gateway.output().contains("inherited socket is for no listener"), "{}", gateway.output());
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
