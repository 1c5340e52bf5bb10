//! How many connections there are to an upstream, for how long, and to which of its addresses.

use serde_json::json;

use crate::support::{Gateway, Latch, Site, Upstream, request, until};

fn metric(gateway: &Gateway, name: &str, labels: &[(&str, &str)]) -> f64 {
    gateway.admin().metric(name, &[labels, &[("upstream", "shop")]].concat())
}

#[test]
fn requests_beyond_the_connections_wait_in_line_and_beyond_that_are_told_to_come_back() {
    let door = std::sync::Arc::new(Latch::default());
    let waiting = std::sync::Arc::clone(&door);
    let upstream = Upstream::scripted(move |exchange| {
        waiting.wait();
        exchange.answer(200, &[], b"hello")
    });
    let mut site = Site::new(&upstream);
    site.set("/workers", json!(1));
    site.set("/upstreams/shop/max_connections", json!(2));
    site.set("/upstreams/shop/max_queued", json!(3));
    site.set("/upstreams/shop/queue_timeout", json!("1h"));
    let gateway = site.start();
    let mut asked = Vec::new();
    let queued = |gateway: &Gateway| metric(gateway, "portcullis_upstream_queued", &[]);
    for (count, in_line) in [(2, 0.0), (3, 3.0)] {
        for _ in 0..count {
            let mut connection = gateway.connect();
            connection.send(&request("GET", "/public/", &[], b""));
            asked.push(connection);
        }
        upstream.await_requests(2);
        until("the others in line", || (queued(&gateway) == in_line).then_some(()));
    }
    let response = gateway.get("/public/", &[]);
    assert_eq!((response.status, response.reason().as_str()), (503, "upstream_busy"));
    assert_eq!(response.header("retry-after"), Some("1"));
    // One that leaves the line makes room in it.
    drop(asked.pop());
    until("the line to be shorter", || (queued(&gateway) == 2.0).then_some(()));
    assert_eq!(upstream.requests().len(), 2);
    door.open();
    for mut connection in asked {
        assert_eq!(connection.response().status, 200);
    }
    assert_eq!(upstream.take().iter().map(|it| it.connection).max(), Some(2));
    let counted = |result| metric(&gateway, "portcullis_upstream_requests_total", &[("result", result)]);
    assert_eq!((counted("queue_full"), counted("answered"), queued(&gateway)), (1.0, 4.0, 0.0));
}

#[test]
fn nobody_waits_in_line_for_longer_than_allowed() {
    let upstream = Upstream::scripted(|exchange| exchange.await_close());
    let mut site = Site::new(&upstream);
    site.set("/workers", json!(1));
    site.set("/upstreams/shop/max_connections", json!(1));
    site.set("/upstreams/shop/queue_timeout", json!("200ms"));
    let gateway = site.start();
    let mut first = gateway.connect();
    first.send(&request("GET", "/public/", &[], b""));
    upstream.await_requests(1);
    let response = gateway.get("/public/", &[]);
    assert_eq!((response.status, response.reason().as_str()), (503, "upstream_busy"));
    assert_eq!(metric(&gateway, "portcullis_upstream_requests_total", &[("result", "queue_timed_out")]), 1.0);
    drop(first);
    until("room", || (upstream.open() == 0).then_some(()));
}

#[test]
fn a_server_that_is_full_is_passed_over_for_one_that_is_not() {
    let busy = Upstream::scripted(|exchange| exchange.await_close());
    let free = Upstream::start();
    let mut site = Site::before(&busy.url());
    site.set("/workers", json!(1));
    site.set("/upstreams/shop/servers", json!([busy.url(), free.url()]));
    site.set("/upstreams/shop/max_connections", json!(1));
    let gateway = site.start();
    let mut stuck = Vec::new();
    until("a request at the busy server", || {
        let mut connection = gateway.connect();
        connection.send(&request("GET", "/public/", &[], b""));
        stuck.push(connection);
        until("the request", || (busy.requests().len() + free.requests().len() == stuck.len()).then_some(()));
        (busy.requests().len() == 1).then_some(())
    });
    for _ in 0..5 {
        assert_eq!(gateway.get("/public/", &[]).status, 200);
    }
}

#[test]
fn a_connection_that_is_old_is_replaced() {
    let upstream = Upstream::start();
    let mut site = Site::new(&upstream);
    site.set("/workers", json!(1));
    site.set("/upstreams/shop/max_age", json!("1s"));
    let gateway = site.start();
    until("a new connection", || {
        assert_eq!(gateway.get("/public/", &[]).status, 200);
        (upstream.take_one().connection == 2).then_some(())
    });
}

#[test]
fn a_server_may_be_named_and_its_name_is_looked_up_again() {
    let upstream = Upstream::start();
    let mut site = Site::before(&format!("http://localhost:{}", upstream.address().port()));
    site.set("/workers", json!(1));
    site.set("/upstreams/shop/resolve_interval", json!("100ms"));
    site.set("/routes/0/preserve_host", json!(false));
    let gateway = site.start();
    let found = || metric(&gateway, "portcullis_upstream_lookups_total", &[("result", "ok")]);
    assert_eq!((gateway.get("/public/", &[]).status, found()), (200, 1.0));
    let host = format!("localhost:{}", upstream.address().port());
    assert_eq!(upstream.take_one().header("host"), Some(host.as_str()));
    until("another look-up", || (found() > 1.0).then_some(()));
    // The connection goes to an address that is still the name's.
    assert_eq!(gateway.get("/public/", &[]).status, 200);
    assert_eq!(upstream.take_one().connection, 1);
}

#[test]
fn a_name_without_an_address_is_a_bad_gateway_of_its_own_cause() {
    let gateway = Site::before("http://nowhere.invalid:80").start();
    let response = gateway.get("/public/", &[]);
    assert_eq!((response.status, response.reason().as_str()), (502, "upstream_unreachable"));
    assert_eq!(metric(&gateway, "portcullis_upstream_requests_total", &[("result", "unresolved")]), 1.0);
    assert_eq!(metric(&gateway, "portcullis_upstream_lookups_total", &[("result", "failed")]), 1.0);
}
