//! Listeners come and go by reload, and the others do not notice.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::NoAnswer;
use crate::support::http2::{Frames, HEADERS, WHOLE, get};
use crate::support::{Connection, Gateway, Latch, Response, Site, Upstream, bearer, request, until};

fn reload(site: &Site, gateway: &Gateway) -> Response {
    site.write_config();
    gateway.admin().post("/v1/reload", &json!({}))
}

/// Where it listens, in the order of the configuration.
fn listeners(gateway: &Gateway) -> Vec<SocketAddr> {
    let status = gateway.admin().get("/v1/status").json();
    let listeners = status["gateway"]["listeners"].as_array().unwrap_or_else(|| panic!("{status}"));
    listeners.iter().map(|address| address.as_str().unwrap().parse().unwrap()).collect()
}

fn ask(address: SocketAddr) -> u16 {
    let bytes = request("GET", "/public/", &[("Connection", "close")], b"");
    Connection::open(address).send(&bytes).response().status
}

#[test]
fn a_listener_comes_and_goes_and_finishes_what_it_began() {
    let gate = Arc::new(Latch::default());
    let door = Arc::clone(&gate);
    let upstream = Upstream::scripted(move |exchange| {
        if exchange.recorded.target.contains("slow") {
            door.wait();
        }
        exchange.answer(200, &[], b"finished")
    });
    let mut site = Site::new(&upstream);
    let gateway = site.start();
    let mut kept = gateway.connect();
    assert_eq!(kept.send(&request("GET", "/public/", &[], b"")).response().status, 200);

    site.config["listeners"] = json!([{"address": "127.0.0.1:0"}, {"address": "127.0.0.1:0"}]);
    assert_eq!(reload(&site, &gateway).status, 200);
    let open = listeners(&gateway);
    assert_eq!((open.len(), open[0]), (2, gateway.address));
    // The kernel spreads connections over the workers.
    for _ in 0..20 {
        assert_eq!((ask(open[0]), ask(open[1])), (200, 200));
    }
    let (mut idle, mut running) = (Connection::open(open[1]), Connection::open(open[1]));
    assert_eq!(idle.send(&request("GET", "/public/", &[], b"")).response().status, 200);
    upstream.take();
    running.send(&request("GET", "/public/slow", &[], b""));
    upstream.await_requests(1);

    site.config["listeners"] = json!([{"address": "127.0.0.1:0"}]);
    assert_eq!(reload(&site, &gateway).status, 200);
    assert_eq!(listeners(&gateway), [gateway.address]);
    until("the listener to be gone", || Connection::try_open(open[1]).is_err().then_some(()));
    assert!(idle.is_closed());
    gate.open();
    let response = running.response();
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    assert_eq!(kept.send(&request("GET", "/public/", &[], b"")).response().status, 200, "the other one goes on");
}

/// What would go on for ever has as long as it has at a restart; nothing of another listener ends with it.
#[test]
fn what_is_left_of_a_listener_that_went_ends_in_time() {
    let (upstream, _) = crate::streams::service();
    let mut site = crate::streams::with_upgrades(Site::new(&upstream));
    site.set("/shutdown/drain_timeout", json!("1s"));
    site.config["listeners"] =
        json!([{"address": "127.0.0.1:0", "h2c": true}, {"address": "127.0.0.1:0", "h2c": true}]);
    let gateway = site.start();
    let open = listeners(&gateway);
    let token = bearer(&site.accounts.token_of("bob"));
    let events = |address| {
        let mut connection = Connection::open(address);
        connection.send(&request("GET", "/events", &[("Authorization", &token)], b""));
        assert!(connection.read_head().unwrap().starts_with(b"HTTP/1.1 200"));
        connection
    };
    let (mut stays, mut goes) = (events(open[0]), events(open[1]));
    let mut frames = Frames::open(open[1]);
    assert!(frames.send(HEADERS, WHOLE, 1, &get("/events", &[("authorization", &token)])));
    assert!(frames.find(|frame| frame.kind == HEADERS).is_some());
    let held = |count: f64| {
        let open = || (gateway.admin().metric("portcullis_streams_open", &[]) == count).then_some(());
        until(&format!("{count} streams to be open"), open);
    };
    held(3.0);
    let began = Instant::now();
    site.config["listeners"] = json!([{"address": "127.0.0.1:0", "h2c": true}]);
    assert_eq!(reload(&site, &gateway).status, 200);
    let mut rest = Vec::new();
    let _ = goes.stream().read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"), "cut, and not ended");
    while frames.next().is_some() {}
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
    held(1.0);
    stays.stream().set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let mut piece = [0; 256];
    let end = std::iter::repeat_with(|| stays.stream().read(&mut piece)).find(|read| !matches!(read, Ok(1..)));
    assert_eq!(end.unwrap().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "the other one goes on");
}

#[test]
fn an_address_that_cannot_be_had_changes_nothing() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    let gateway = site.start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    site.config["listeners"] = json!([{"address": "127.0.0.1:0"}, {"address": "127.0.0.1:0"}, {"address": address}]);
    site.route(json!({"name": "new", "match": {"path": "/new/"}, "upstream": "shop", "auth": "none"}));
    let answer = reload(&site, &gateway);
    assert_eq!((answer.status, answer.reason().as_str()), (500, "reload_failed"), "{}", answer.text());
    assert!(answer.text().contains(&address), "{}", answer.text());
    assert_eq!(listeners(&gateway), [gateway.address]);
    assert_eq!(gateway.get("/new/", &[]).status, 401);
    drop(taken);
    assert_eq!(reload(&site, &gateway).status, 200);
    assert_eq!(listeners(&gateway).len(), 3);
    assert_eq!((ask(address.parse().unwrap()), gateway.get("/new/", &[]).status), (200, 200));
}

#[test]
fn bounds_of_workers_follow_the_configuration_and_their_number_is_said_to_stay() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.set("/workers", json!(1));
    site.set("/limits", json!({"connections_per_worker": 1}));
    let gateway = site.start();
    let mut first = gateway.connect();
    assert_eq!(first.send(&request("GET", "/public/", &[], b"")).response().status, 200);
    let mut second = gateway.connect().patience(Duration::from_millis(300));
    second.send(&request("GET", "/public/", &[], b""));
    assert_eq!(second.try_response().unwrap_err(), NoAnswer::TimedOut, "there is no place for it");
    let mut second = second.patience(Duration::from_secs(20));
    site.set("/limits/connections_per_worker", json!(2));
    site.set("/workers", json!(2));
    let answer = reload(&site, &gateway).json();
    assert_eq!(answer["warnings"], json!(["`workers` stays 1 until a restart"]), "{answer}");
    assert_eq!(second.response().status, 200);

    site.set("/workers", json!(1));
    site.set("/admin/address", json!("127.0.0.1:1"));
    let answer = reload(&site, &gateway).json();
    assert_eq!(answer["warnings"], json!(["`admin.address` stays what it is until a restart"]), "{answer}");
    site.set("/admin/address", json!("127.0.0.1:0"));
    assert_eq!(reload(&site, &gateway).json()["warnings"], Value::Null);
}
