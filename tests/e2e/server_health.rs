//! Servers that are not well: found by checks and by what becomes of requests, left out, and taken back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};

use crate::support::authority::Authority;
use crate::support::command::portcullis_with;
use crate::support::front::Front;
use crate::support::multiplex::Multiplex;
use crate::support::site::OPS;
use crate::support::{Gateway, Site, Upstream, until};

/// A server that says `name`, and answers its checks, and everything else, with these statuses.
struct Server {
    upstream: Upstream,
    checks: Arc<AtomicU16>,
    requests: Arc<AtomicU16>,
}

impl Server {
    fn start(name: &'static str) -> Self {
        let (checks, requests) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(200)));
        let (check, request) = (Arc::clone(&checks), Arc::clone(&requests));
        let upstream = Upstream::scripted(move |exchange| {
            let status = if exchange.recorded.target.starts_with("/healthz") { &check } else { &request };
            exchange.answer(status.load(Ordering::Acquire), &[("Location", "/elsewhere")], name.as_bytes())
        });
        Self { upstream, checks, requests }
    }

    fn name(&self) -> String {
        self.upstream.address().to_string()
    }

    /// Requests that were no checks.
    fn traffic(&self) -> usize {
        self.upstream.requests().iter().filter(|request| !request.target.starts_with("/healthz")).count()
    }
}

fn site(servers: &[&Server], more: &[(&str, Value)]) -> Site {
    let mut site = Site::new(&servers[0].upstream);
    let urls: Vec<_> = servers.iter().map(|server| server.upstream.url()).collect();
    site.set("/upstreams/shop/servers", json!(urls));
    for (pointer, value) in more {
        site.set(&format!("/upstreams/shop/{pointer}"), value.clone());
    }
    site
}

fn checked() -> (&'static str, Value) {
    ("health", json!({"path": "/healthz?deep=1", "interval": "100ms", "host": "checks.example", "unhealthy_after": 2}))
}

fn state(gateway: &Gateway, server: &Server) -> String {
    let status = gateway.admin().get("/v1/status").json();
    let state = &status["gateway"]["upstreams"]["shop"][server.name()]["state"];
    state.as_str().unwrap_or_else(|| panic!("{status:#}")).to_owned()
}

fn await_state(gateway: &Gateway, server: &Server, wanted: &str) {
    until(&format!("{} to be {wanted}", server.name()), || (state(gateway, server) == wanted).then_some(()));
}

fn servers(gateway: &Gateway, state: &str) -> f64 {
    gateway.admin().metric("portcullis_upstream_servers", &[("upstream", "shop"), ("state", state)])
}

#[test]
fn a_server_whose_checks_fail_gets_no_requests_until_they_succeed() {
    let (one, two) = (Server::start("one"), Server::start("two"));
    let gateway = site(&[&one, &two], &[checked()]).start();
    one.upstream.await_requests(1);
    let check = one.upstream.requests().remove(0);
    assert_eq!((check.method.as_str(), check.target.as_str()), ("GET", "/healthz?deep=1"));
    assert_eq!(check.header("host"), Some("checks.example"));
    assert_eq!(servers(&gateway, "healthy"), 2.0);
    for (name, status) in [("an error", 500), ("a redirect, which is not followed", 302)] {
        two.checks.store(status, Ordering::Release);
        await_state(&gateway, &two, "unhealthy");
        let before = two.traffic();
        for _ in 0..10 {
            assert_eq!(gateway.get("/public/", &[]).text(), "one", "{name}");
        }
        assert_eq!(two.traffic(), before, "{name}");
        assert_eq!((servers(&gateway, "healthy"), servers(&gateway, "unhealthy")), (1.0, 1.0));
        two.checks.store(204, Ordering::Release);
        await_state(&gateway, &two, "healthy");
        until("a request at the server that is back", || {
            gateway.get("/public/", &[]);
            (two.traffic() > before).then_some(())
        });
    }
    assert!(two.upstream.requests().iter().all(|request| request.target != "/elsewhere"));
    let (_, output, _) = gateway.stop();
    for said in ["its checks fail", "its checks succeed"] {
        let lines: Vec<_> = output.lines().filter(|line| line.contains(said)).collect();
        assert_eq!(lines.len(), 2, "once a change:\n{}", lines.join("\n"));
    }
}

#[test]
fn with_no_healthy_server_the_answer_is_at_once_and_says_when_to_come_back() {
    let one = Server::start("one");
    let gateway = site(&[&one], &[checked()]).start();
    assert_eq!(gateway.get("/public/", &[]).status, 200);
    one.checks.store(503, Ordering::Release);
    await_state(&gateway, &one, "unhealthy");
    let before = one.traffic();
    let response = gateway.get("/public/", &[]);
    assert_eq!((response.status, response.reason().as_str()), (503, "upstream_unhealthy"));
    assert_eq!(response.header("retry-after"), Some("5"));
    assert_eq!(one.traffic(), before);
    let counted = |result| {
        gateway.admin().metric("portcullis_upstream_requests_total", &[("upstream", "shop"), ("result", result)])
    };
    assert_eq!((counted("no_server"), counted("refused"), counted("timed_out")), (1.0, 0.0, 0.0));
    let status = gateway.admin().get("/v1/status").json();
    let server = &status["gateway"]["upstreams"]["shop"][one.name()];
    assert_eq!(server["why"], "its checks fail: status 503");
    assert!(server["since"].is_string() && server["weight"] == 1, "{server}");
    one.checks.store(200, Ordering::Release);
    until("the server to be used again", || (gateway.get("/public/", &[]).status == 200).then_some(()));
}

/// Whatever answers a check has no more time and no more room than a check has.
#[test]
fn an_answer_to_a_check_that_does_not_end_is_none() {
    for (name, script) in [
        ("silence", &b""[..]),
        ("a body that does not end", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx"),
        ("garbage", b"SSH-2.0-OpenSSH_9.2\r\n"),
        ("half a head", b"HTTP/1.1 200 OK\r\nX: "),
    ] {
        let upstream = Upstream::scripted(move |exchange| {
            exchange.raw(script)?;
            exchange.await_close()
        });
        let mut site = Site::new(&upstream);
        site.set("/upstreams/shop/health", json!({"path": "/", "interval": "100ms", "timeout": "200ms"}));
        let gateway = site.start();
        until(name, || (servers(&gateway, "unhealthy") == 1.0).then_some(()));
    }
}

#[test]
fn a_server_that_fails_at_requests_is_ejected_and_comes_back() {
    let (one, two) = (Server::start("one"), Server::start("two"));
    let ejection = ("ejection", json!({"after": 3, "time": "1s", "max_time": "1s"}));
    let mut site = site(&[&one, &two], &[ejection]);
    site.set("/workers", json!(2));
    let gateway = site.start();
    two.requests.store(503, Ordering::Release);
    await_ejected(&gateway, &two);
    // All workers know: none sends anything there while it lasts. A moment later it may be back on probation.
    let answers: Vec<_> = (0..20).map(|_| gateway.get("/public/", &[]).status).collect();
    assert!(answers.iter().filter(|status| **status == 200).count() >= 18, "{answers:?}");
    two.requests.store(200, Ordering::Release);
    let before = two.traffic();
    until("the server to be back", || {
        gateway.get("/public/", &[]);
        (two.traffic() > before + 1 && state(&gateway, &two) == "healthy").then_some(())
    });
}

fn await_ejected(gateway: &Gateway, server: &Server) {
    until("an ejection", || {
        gateway.get("/public/", &[]);
        (state(gateway, server) == "ejected").then_some(())
    });
}

#[test]
fn no_more_are_ejected_than_may_be_and_the_only_one_never_is() {
    let all = [Server::start("one"), Server::start("two"), Server::start("three")];
    all.iter().for_each(|server| server.requests.store(502, Ordering::Release));
    let ejection = || ("ejection", json!({"after": 2, "time": "1h", "max_time": "1h", "max_ejected": "67%"}));
    for count in [3, 1] {
        let chosen: Vec<_> = all.iter().take(count).collect();
        let gateway = site(&chosen, &[ejection()]).start();
        let statuses: Vec<_> = (0..40).map(|_| gateway.get("/public/", &[]).status).collect();
        assert!(statuses.iter().all(|status| *status == 502), "{statuses:?}");
        assert_eq!(servers(&gateway, "ejected"), (count - 1) as f64, "of {count}");
        let (_, output, _) = gateway.stop();
        assert_eq!(output.matches("it is not ejected").count(), 1, "said once");
    }
}

#[test]
fn a_reload_keeps_what_is_known_of_servers_that_stay() {
    let (one, two, three) = (Server::start("one"), Server::start("two"), Server::start("three"));
    let ejection = ("ejection", json!({"after": 2, "time": "1h", "max_time": "1h"}));
    let mut site = site(&[&one, &two], &[ejection]);
    let gateway = site.start();
    two.requests.store(504, Ordering::Release);
    await_ejected(&gateway, &two);
    let urls = json!([three.upstream.url(), two.upstream.url(), one.upstream.url()]);
    site.set("/upstreams/shop/servers", urls);
    site.write_config();
    assert_eq!(gateway.admin().post("/v1/reload", &json!({})).status, 200);
    assert_eq!((state(&gateway, &two), state(&gateway, &three)), ("ejected".to_owned(), "healthy".to_owned()));
    for _ in 0..10 {
        assert_eq!(gateway.get("/public/", &[]).status, 200);
    }
    assert!(three.traffic() > 0);
}

#[test]
fn weights_are_kept() {
    let (one, two) = (Server::start("one"), Server::start("two"));
    let weighted = json!([one.upstream.url(), {"url": two.upstream.url(), "weight": 3}]);
    let mut site = site(&[&one], &[("servers", weighted)]);
    site.set("/workers", json!(1));
    let gateway = site.start();
    for _ in 0..40 {
        assert_eq!(gateway.get("/public/", &[]).status, 200);
    }
    assert_eq!((one.traffic(), two.traffic()), (10, 30));
}

#[test]
fn a_person_sees_how_servers_stand() {
    let one = Server::start("one");
    let site = site(&[&one], &[checked()]);
    let gateway = site.start();
    one.checks.store(500, Ordering::Release);
    await_state(&gateway, &one, "unhealthy");
    let admin = format!("http://{}", gateway.admin_address);
    let env = [("PORTCULLIS_ADMIN", admin.as_str()), ("PORTCULLIS_ADMIN_TOKEN", OPS)];
    let status = portcullis_with(site.path(), &["status"], &env, "");
    let wanted = format!("      {}:\n        state: unhealthy\n        weight: 1\n", one.name());
    assert!(
        status.stdout.contains(&wanted) && status.stdout.contains("why: its checks fail: status 500"),
        "{status:?}"
    );
}

/// Checks go as requests do: over HTTP/2 by prior knowledge, and over TLS where the server agrees to it.
#[test]
fn servers_of_http2_are_checked_over_http2() {
    let status = Arc::new(AtomicU16::new(200));
    let answers = Arc::clone(&status);
    let upstream = Multiplex::scripted(None, move |request, mut respond| {
        let is_check = request.uri().path() == "/healthz";
        let status = if is_check { answers.load(Ordering::Acquire) } else { 200 };
        async move {
            let head = http::Response::builder().status(status).body(()).unwrap();
            // What is read of a check is bounded.
            let mut body = respond.send_response(head, false).unwrap();
            let _ = body.send_data(vec![b'x'; if is_check { 1 << 20 } else { 1 }].into(), true);
        }
    });
    let authority = Authority::new();
    let front = Front::start(authority.issue("localhost").server(None, &["h2"]), upstream.address);
    for (url, protocol) in [(upstream.url(), "http2"), (front.url(), "http2"), (front.url(), "auto")] {
        let mut site = Site::before(&url);
        site.write("ca.pem", &authority.pem);
        site.set("/upstreams/shop/protocol", json!(protocol));
        site.set("/upstreams/shop/health", json!({"path": "/healthz", "interval": "100ms", "host": "checks.example"}));
        if url.starts_with("https:") {
            site.set("/upstreams/shop/tls", json!({"ca_file": "ca.pem"}));
        }
        upstream.heads();
        let gateway = site.start();
        let await_servers = |state| {
            until(&format!("the server to be {state}"), || (servers(&gateway, state) == 1.0).then_some(()));
        };
        let check = until("a check", || upstream.heads().into_iter().next());
        await_servers("healthy");
        let scheme = url.split(':').next().unwrap();
        assert_eq!(check.method(), "GET", "{url} {protocol}");
        assert_eq!(check.uri().to_string(), format!("{scheme}://checks.example/healthz"), "{url} {protocol}");
        assert!(check.headers()["user-agent"].to_str().unwrap().contains("health"));
        assert_eq!(gateway.get("/public/", &[]).status, 200, "{url} {protocol}");
        status.store(500, Ordering::Release);
        await_servers("unhealthy");
        assert_eq!(gateway.get("/public/", &[]).reason(), "upstream_unhealthy", "{url} {protocol}");
        status.store(200, Ordering::Release);
        await_servers("healthy");
        assert_eq!(gateway.get("/public/", &[]).status, 200, "{url} {protocol}");
    }
    // A server that does not speak it, though it accepts, is not well.
    let other = Upstream::start();
    let mut site = Site::new(&other);
    site.set("/upstreams/shop/protocol", json!("http2"));
    site.set("/upstreams/shop/health", json!({"path": "/healthz", "interval": "100ms"}));
    let gateway = site.start();
    until("the server to be unhealthy", || (servers(&gateway, "unhealthy") == 1.0).then_some(()));
}
