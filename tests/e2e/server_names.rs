//! Several certificates on one listener: chosen by server name, replaced while it runs, and never a way around
//! who may come.

use std::io::{Read, Write};

use rustls::HandshakeKind;
use serde_json::json;

use crate::support::{Gateway, Site, Upstream, request};
use crate::tls::{Authority, Certificate, Client, ask_for_certificates, protect};

const TLS12: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// What `client` is shown when it asks for `name`, how, and the status of `/public/` for `host`.
fn shown(client: &Client, gateway: &Gateway, name: &str, host: &str) -> Result<(Vec<u8>, HandshakeKind, u16), String> {
    let mut stream = client.connect_for(gateway, name);
    let headers = [("Host", host), ("Connection", "close")];
    stream.write_all(&request("GET", "/public/", &headers, b"")).map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
    let leaf = stream.conn.peer_certificates().map(|chain| chain[0].to_vec()).unwrap_or_default();
    Ok((leaf, stream.conn.handshake_kind().unwrap(), answer[9..12].parse().unwrap()))
}

fn names(site: &Site, authority: &Authority) -> [Certificate; 3] {
    let all = [
        authority.issue("first.example"),
        authority.issue_for(&["shop.example", "*.shop.example"], 2100),
        authority.issue_for(&["a.other.example", "b.other.example"], 2100),
    ];
    for (certificate, name) in all.iter().zip(["server", "shop", "other"]) {
        certificate.put_as(site, name);
    }
    all
}

fn served(site: &mut Site, strict: bool) {
    site.set(
        "/listeners/0/tls",
        json!({
            "certificate": "server.pem", "key": "server.key", "strict_sni": strict,
            "certificates": [
                {"certificate": "shop.pem", "key": "shop.key"},
                {"certificate": "other.pem", "key": "other.key", "names": ["a.other.example", "b.other.example"]},
            ],
        }),
    );
}

#[test]
fn the_name_a_client_asks_for_chooses_the_certificate() {
    let (upstream, authority) = (Upstream::start(), Authority::new());
    let mut site = Site::new(&upstream);
    let [first, shop, other] = names(&site, &authority);
    served(&mut site, false);
    let gateway = site.start();
    let client = || Client::new(&authority, None);
    for (name, certificate) in [
        ("first.example", &first),
        ("shop.example", &shop),
        ("www.shop.example", &shop),
        ("a.other.example", &other),
        ("b.other.example", &other),
    ] {
        let found = shown(&client(), &gateway, name, "shop.example").unwrap();
        assert_eq!((found.0, found.2), (certificate.der.to_vec(), 200), "{name}");
    }
    // Shown the first one, which is not for that name, a client goes away.
    for name in ["a.b.shop.example", "127.0.0.1"] {
        let refused = shown(&client(), &gateway, name, "shop.example").unwrap_err();
        assert!(refused.contains("not valid for name"), "{name}: {refused}");
    }
    let label = gateway.address.to_string();
    for name in ["first.example", "shop.example", "a.other.example"] {
        let labels = [("name", label.as_str()), ("certificate", name)];
        assert!(gateway.admin().metric("portcullis_certificate_expiry_seconds", &labels) > 1e9, "{name}");
    }

    // One is taken away, and nothing else changes.
    site.config["listeners"][0]["tls"]["certificates"].as_array_mut().unwrap().pop();
    site.write_config();
    assert_eq!(gateway.admin().post("/v1/reload", &json!({})).status, 200);
    assert!(shown(&client(), &gateway, "a.other.example", "shop.example").is_err());
    assert_eq!(shown(&client(), &gateway, "shop.example", "shop.example").unwrap().0, shop.der.to_vec());
    let labels = [("name", label.as_str()), ("certificate", "a.other.example")];
    assert_eq!(gateway.admin().metric("portcullis_certificate_expiry_seconds", &labels), 0.0, "not shown any more");
}

#[test]
fn a_strict_listener_serves_each_name_on_its_own_connections() {
    let (upstream, authority) = (Upstream::start(), Authority::new());
    let mut site = Site::new(&upstream);
    names(&site, &authority);
    served(&mut site, true);
    let gateway = site.start();
    let client = || Client::new(&authority, None);
    for (name, host, status) in [
        ("shop.example", "shop.example", 200),
        ("shop.example", "SHOP.example:8443", 200),
        ("shop.example", "www.shop.example", 200),
        ("a.other.example", "b.other.example", 200),
        ("shop.example", "a.other.example", 421),
        ("shop.example", "nobody.example", 421),
        ("first.example", "shop.example", 421),
    ] {
        assert_eq!(shown(&client(), &gateway, name, host).unwrap().2, status, "{name} {host}");
    }
    for name in ["nobody.example", "127.0.0.1"] {
        assert!(shown(&client(), &gateway, name, "shop.example").unwrap_err().contains("AccessDenied"), "{name}");
    }
    upstream.take();
}

#[test]
fn the_oldest_version_is_chosen() {
    let (upstream, authority) = (Upstream::start(), Authority::new());
    let mut site = Site::new(&upstream);
    protect(&mut site, &authority);
    site.set("/listeners/0/tls/min_version", json!("1.3"));
    let gateway = site.start();
    let ask = |versions| {
        let client = Client::speaking(&authority, None, versions, &[b"http/1.1"]);
        shown(&client, &gateway, "shop.example", "shop.example").is_ok()
    };
    assert!(ask(TLS13) && !ask(TLS12));
    site.set("/listeners/0/tls/min_version", json!("1.2"));
    site.write_config();
    assert_eq!(gateway.admin().post("/v1/reload", &json!({})).status, 200);
    assert!(ask(TLS13) && ask(TLS12));
}

/// Otherwise a session begun while nobody asked for a certificate would come in where one is needed.
#[test]
fn a_session_is_resumed_until_it_changes_who_may_come() {
    for versions in [TLS12, TLS13] {
        let (upstream, authority, others) = (Upstream::start(), Authority::new(), Authority::new());
        let mut site = Site::new(&upstream);
        protect(&mut site, &authority);
        ask_for_certificates(&mut site, &authority, "required");
        let gateway = site.start();
        let mine = authority.issue("client");
        let client = Client::speaking(&authority, Some(&mine), versions, &[b"http/1.1"]);
        let how = || shown(&client, &gateway, "shop.example", "shop.example").map(|found| found.1);
        let reload = |site: &Site| {
            site.write_config();
            assert_eq!(gateway.admin().post("/v1/reload", &json!({})).status, 200);
        };
        assert_eq!(how(), Ok(HandshakeKind::Full));
        assert_eq!(how(), Ok(HandshakeKind::Resumed));
        authority.issue("shop.example").put_as(&site, "server");
        reload(&site);
        assert_eq!(how(), Ok(HandshakeKind::Resumed), "another certificate of ours is not about clients");

        // The authority that vouched for this client is gone.
        site.write("clients.pem", &others.pem);
        reload(&site);
        let refused = how();
        assert!(refused.is_err(), "{refused:?}");

        // Now nobody needs a certificate; a session begun so does not serve where one is needed again.
        let tls = site.config["listeners"][0]["tls"].as_object_mut().unwrap();
        tls.retain(|key, _| !key.starts_with("client"));
        reload(&site);
        let client = Client::speaking(&authority, None, versions, &[b"http/1.1"]);
        let how = || shown(&client, &gateway, "shop.example", "shop.example").map(|found| found.1);
        assert_eq!((how(), how()), (Ok(HandshakeKind::Full), Ok(HandshakeKind::Resumed)));
        ask_for_certificates(&mut site, &authority, "required");
        reload(&site);
        let refused = how();
        assert!(refused.is_err(), "{refused:?}");
    }
}
