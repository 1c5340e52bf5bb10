//! TLS to upstreams: whom the gateway believes, what it shows of itself, and that nothing goes to anybody else.

use serde_json::json;

use crate::support::authority::{Authority, Certificate};
use crate::support::front::Front;
use crate::support::{Gateway, Site, Upstream, until};

/// A site whose upstream is believed if `authority` vouches for it.
fn before(url: &str, authority: &Authority) -> Site {
    let mut site = Site::before(url);
    site.write("ca.pem", &authority.pem);
    site.set("/upstreams/shop/tls", json!({"ca_file": "ca.pem"}));
    site
}

fn show(site: &mut Site, certificate: &Certificate) {
    site.write("client.pem", &certificate.pem);
    site.write_secret("client.key", certificate.key.as_bytes());
    site.set("/upstreams/shop/tls/certificate", json!("client.pem"));
    site.set("/upstreams/shop/tls/key", json!("client.key"));
}

fn counted(gateway: &Gateway, result: &str) -> f64 {
    gateway.admin().metric("portcullis_upstream_requests_total", &[("upstream", "shop"), ("result", result)])
}

#[test]
fn a_server_that_is_verified_is_asked_over_connections_that_are_kept() {
    let (upstream, authority) = (Upstream::start(), Authority::new());
    let front = Front::start(authority.issue("localhost").server(None, &[]), upstream.address());
    let mut site = before(&front.url(), &authority);
    site.set("/workers", json!(1));
    let gateway = site.start();
    for _ in 0..5 {
        let response = gateway.get("/public/", &[]);
        assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    }
    assert_eq!(gateway.send("POST", "/public/", &[], &[b'x'; 100_000]).status, 200);
    assert_eq!(upstream.take().len(), 6);
    assert_eq!((front.shaken(), counted(&gateway, "answered")), (1, 6.0));
}

#[test]
fn nothing_is_sent_to_a_server_that_cannot_be_verified() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for (what, certificate, name) in [
        ("an unknown authority", stranger.issue("localhost"), None),
        ("another name", authority.issue("other.example"), None),
        ("an expired certificate", authority.issue_until("localhost", 2001), None),
        ("another name than the configured", authority.issue("localhost"), Some("shop.internal")),
    ] {
        let upstream = Upstream::start();
        let front = Front::start(certificate.server(None, &[]), upstream.address());
        let mut site = before(&front.url(), &authority);
        if let Some(name) = name {
            site.set("/upstreams/shop/tls/server_name", json!(name));
        }
        let gateway = site.start();
        let response = gateway.get("/public/", &[]);
        assert_eq!((response.status, response.reason().as_str()), (502, "upstream_tls_failed"), "{what}");
        assert_eq!((upstream.bytes(), counted(&gateway, "tls_failed")), (0, 1.0), "{what}");
    }
    // The system's authorities do not know this one either.
    let upstream = Upstream::start();
    let front = Front::start(authority.issue("localhost").server(None, &[]), upstream.address());
    let gateway = Site::before(&front.url()).start();
    assert_eq!(gateway.get("/public/", &[]).reason(), "upstream_tls_failed");
    // Nor does a server in clear get anything.
    let mut site = before(&upstream.url().replace("http:", "https:"), &authority);
    site.set("/upstreams/shop/connect_timeout", json!("1s"));
    assert!(matches!(site.start().get("/public/", &[]).status, 502 | 504));
    assert!(upstream.requests().is_empty());
}

#[test]
fn a_server_may_be_known_by_another_name_than_its_host() {
    let (upstream, authority) = (Upstream::start(), Authority::new());
    let front = Front::start(authority.issue("shop.internal").server(None, &[]), upstream.address());
    let mut site = before(&front.url(), &authority);
    site.set("/upstreams/shop/tls/server_name", json!("shop.internal"));
    assert_eq!(site.start().get("/public/", &[]).status, 200);
    // An address is a name as well.
    let front = Front::start(authority.issue("127.0.0.1").server(None, &[]), upstream.address());
    let gateway = before(&format!("https://{}", front.address), &authority).start();
    assert_eq!(gateway.get("/public/", &[]).status, 200);
}

#[test]
fn a_server_may_ask_who_the_gateway_is() {
    let (upstream, authority, stranger) = (Upstream::start(), Authority::new(), Authority::new());
    let front = Front::start(authority.issue("localhost").server(Some(&authority), &[]), upstream.address());
    let mut site = before(&front.url(), &authority);
    for (certificate, status) in
        [(None, 502), (Some(stranger.issue("gate")), 502), (Some(authority.issue("gate")), 200)]
    {
        if let Some(certificate) = &certificate {
            show(&mut site, certificate);
        }
        let gateway = site.start();
        let response = gateway.get("/public/", &[]);
        assert_eq!(response.status, status, "{}", response.text());
        if status == 502 {
            assert_eq!((response.reason().as_str(), counted(&gateway, "tls_failed")), ("upstream_tls_failed", 1.0));
            assert_eq!(upstream.bytes(), 0);
        }
    }
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_reload_reads_the_files_again() {
    let (upstream, first, second) = (Upstream::start(), Authority::new(), Authority::new());
    let front = Front::start(second.issue("localhost").server(None, &[]), upstream.address());
    let site = before(&front.url(), &first);
    let gateway = site.start();
    assert_eq!(gateway.get("/public/", &[]).status, 502);
    site.write("ca.pem", &second.pem);
    gateway.signal("HUP");
    until("the new authority to be believed", || (gateway.get("/public/", &[]).status == 200).then_some(()));
}

#[test]
fn a_silent_server_does_not_hold_up_a_handshake_for_long() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let mut site = before(&url, &Authority::new());
    site.set("/upstreams/shop/connect_timeout", json!("300ms"));
    let gateway = site.start();
    let response = gateway.get("/public/", &[]);
    assert_eq!((response.status, response.reason().as_str()), (504, "upstream_slow"));
    assert_eq!(counted(&gateway, "connect_timed_out"), 1.0);
}

#[test]
fn what_cannot_be_used_is_told_before_anything_starts() {
    let authority = Authority::new();
    let (one, other) = (authority.issue("gate"), authority.issue("gate"));
    let mixed = Certificate { pem: one.pem.clone(), key: other.key };
    let none = Certificate { pem: one.key.clone(), key: one.key.clone() };
    for (certificate, wanted) in [(mixed, "does not belong to the certificate"), (none, "no PEM certificate")] {
        let mut site = before("https://localhost", &authority);
        show(&mut site, &certificate);
        let (code, said) = Gateway::refuse(&site);
        assert!(code == 78 && said.contains("upstream `shop`") && said.contains(wanted), "{wanted}: {code} {said}");
    }
    let mut site = before("https://localhost", &authority);
    site.set("/upstreams/shop/tls/server_name", json!("not a name"));
    let (code, said) = Gateway::refuse(&site);
    assert!(code == 78 && said.contains("no certificate can be for `not a name`"), "{code} {said}");
}
