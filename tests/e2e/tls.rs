//! TLS on the traffic listener, and tokens that are bound to the certificate of their holder (RFC 8705).

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;

use crate::sessions::{service, sliding};
use crate::support::command::portcullis;
use crate::support::holder::Holder;
use crate::support::issuer::{base64url, claims_of, sha256};
use crate::support::patience::DEADLINE;
use crate::support::{Connection, Gateway, Site, Upstream, bearer, request, until};

/// An authority that vouches for servers and clients.
pub(crate) struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub(crate) pem: String,
    der: CertificateDer<'static>,
}

/// A certificate and its key.
pub(crate) struct Certificate {
    pub(crate) pem: String,
    pub(crate) key_pem: String,
    pub(crate) der: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = ca.self_signed(&key).unwrap();
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Self { issuer: rcgen::Issuer::new(ca, key), pem, der }
    }

    pub(crate) fn issue(&self, name: &str) -> Certificate {
        self.issue_until(name, 2100)
    }

    fn issue_until(&self, name: &str, year: i32) -> Certificate {
        self.issue_for(&[name], year)
    }

    pub(crate) fn issue_for(&self, names: &[&str], year: i32) -> Certificate {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut leaf = rcgen::CertificateParams::new(names).unwrap();
        leaf.not_after = rcgen::date_time_ymd(year, 1, 1);
        let leaf = leaf.signed_by(&key, &self.issuer).unwrap();
        let (pem, der) = (leaf.pem(), leaf.der().clone());
        Certificate { pem, key_pem: key.serialize_pem(), der, key: key.serialize_der() }
    }
}

impl Certificate {
    /// What a token that is bound to it has as `cnf`.
    fn cnf(&self) -> serde_json::Value {
        json!({"x5t#S256": base64url(sha256(&self.der))})
    }

    fn put(&self, site: &Site) {
        self.put_as(site, "server");
    }

    pub(crate) fn put_as(&self, site: &Site, name: &str) {
        site.write(&format!("{name}.pem"), &self.pem);
        site.write_secret(&format!("{name}.key"), self.key_pem.as_bytes());
    }
}

/// A client that believes one authority.
pub(crate) struct Client(pub(crate) Arc<ClientConfig>);

const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

impl Client {
    pub(crate) fn new(authority: &Authority, own: Option<&Certificate>) -> Self {
        Self::speaking(authority, own, BOTH, &[b"http/1.1"])
    }

    pub(crate) fn speaking(
        authority: &Authority,
        own: Option<&Certificate>,
        versions: &[&'static SupportedProtocolVersion],
        protocols: &[&[u8]],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::try_from(own.key.clone()).unwrap();
                builder.with_client_auth_cert(vec![own.der.clone()], key).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Self(Arc::new(config))
    }

    fn connect(&self, gateway: &Gateway) -> StreamOwned<ClientConnection, TcpStream> {
        self.connect_for(gateway, "shop.example")
    }

    /// A connection that asks for a server name; for an address, it asks for none.
    pub(crate) fn connect_for(&self, gateway: &Gateway, name: &str) -> StreamOwned<ClientConnection, TcpStream> {
        let stream = TcpStream::connect(gateway.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        StreamOwned::new(ClientConnection::new(Arc::clone(&self.0), name).unwrap(), stream)
    }

    /// The whole answer as text, or why there is none.
    pub(crate) fn ask(&self, gateway: &Gateway, target: &str, headers: &[(&str, &str)]) -> Result<String, String> {
        self.send(gateway, "GET", target, headers)
    }

    fn send(&self, gateway: &Gateway, method: &str, target: &str, headers: &[(&str, &str)]) -> Result<String, String> {
        let mut stream = self.connect(gateway);
        let headers = [headers, &[("Connection", "close")]].concat();
        let say = |error: std::io::Error| error.to_string();
        stream.write_all(&request(method, target, &headers, b"")).map_err(say)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(say)?;
        Ok(String::from_utf8(answer).unwrap())
    }

    /// The status and, when the gateway refuses, its reason.
    fn outcome(&self, gateway: &Gateway, target: &str, token: &str) -> (u16, String) {
        outcome(&self.ask(gateway, target, &[("Authorization", &bearer(token))]).unwrap())
    }
}

fn outcome(answer: &str) -> (u16, String) {
    let status = answer[9..12].parse().unwrap();
    let reason = answer.split_once("\"reason\":\"").map_or("", |(_, rest)| rest.split('"').next().unwrap());
    (status, reason.to_owned())
}

/// A field of an answer's head.
fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let (head, _) = answer.split_once("\r\n\r\n").unwrap();
    let mut fields = head.split("\r\n").filter_map(|line| line.split_once(": "));
    fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Makes the listener of `site` speak TLS as `shop.example`.
pub(crate) fn protect(site: &mut Site, authority: &Authority) {
    authority.issue("shop.example").put(site);
    site.set("/listeners/0/tls", json!({"certificate": "server.pem", "key": "server.key"}));
}

pub(crate) fn ask_for_certificates(site: &mut Site, authority: &Authority, auth: &str) {
    site.write("clients.pem", &authority.pem);
    site.set("/listeners/0/tls/client_ca", json!("clients.pem"));
    site.set("/listeners/0/tls/client_auth", json!(auth));
}

#[test]
fn both_versions_are_spoken_and_nothing_else() {
    let (upstream, authority) = (Upstream::start(), Authority::new());
    let mut site = Site::new(&upstream);
    protect(&mut site, &authority);
    site.set("/listeners/0/tls/http2", json!(false));
    let gateway = site.start();
    let token = site.accounts.token_of("bob");
    for version in BOTH {
        let client = Client::speaking(&authority, None, &[*version], &[b"h2", b"http/1.1"]);
        let mut stream = client.connect(&gateway);
        let headers = [("Authorization", bearer(&token)), ("Connection", "close".to_owned())];
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        stream.write_all(&request("GET", "/orders", &headers, b"")).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(stream.conn.protocol_version(), Some(version.version));
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(upstream.take_one().header("x-forwarded-proto"), Some("https"));
    }
    assert!(Client::speaking(&authority, None, BOTH, &[]).ask(&gateway, "/public/", &[]).is_ok(), "no ALPN");
    assert!(Client::speaking(&authority, None, BOTH, &[b"h2"]).ask(&gateway, "/public/", &[]).is_err());
    assert!(Client::new(&Authority::new(), None).ask(&gateway, "/public/", &[]).is_err(), "another authority");
    let clear = gateway.connect().send(&request("GET", "/public/", &[], b"")).try_response();
    assert!(clear.is_err(), "{clear:?}");
    upstream.take();
    // A proof is for the URL as the client saw it.
    let holder = Holder::new();
    let bound = site.accounts.token(json!({"cnf": holder.cnf()}));
    for (scheme, status) in [("https", 200), ("http", 401)] {
        let url = format!("{scheme}://shop.example/orders");
        let proof = holder.proof("GET", "", &bound, json!({"htu": url}));
        let headers = [("Authorization", format!("DPoP {bound}")), ("DPoP", proof)];
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = Client::new(&authority, None).ask(&gateway, "/orders", &headers).unwrap();
        assert_eq!(outcome(&answer).0, status, "{url}");
    }
}

#[test]
fn a_certificate_that_cannot_be_used_is_told_before_anything_starts() {
    let (upstream, authority) = (Upstream::start(), Authority::new());
    let mut site = Site::new(&upstream);
    protect(&mut site, &authority);
    site.write_config();
    let check = || {
        let found = portcullis(site.path(), &["check", "portcullis.yaml"]);
        (found.code, found.stdout + &found.stderr)
    };
    assert_eq!(check().0, 0, "{:?}", check());
    let (good, other) = (authority.issue("shop.example"), authority.issue("shop.example"));
    let expired = authority.issue_until("shop.example", 2001);
    for (certificate, key, mode, wanted) in [
        (&good.pem, &other.key_pem, 0o600, "does not belong to the certificate"),
        (&expired.pem, &expired.key_pem, 0o600, "it expired at 2001-01-01T00:00:01Z"),
        (&good.key_pem, &good.key_pem, 0o600, "no PEM certificate"),
        (&good.pem, &good.pem, 0o600, "no unencrypted PEM private key"),
        (&good.pem, &good.key_pem, 0o666, "every user of this machine may change this secret"),
    ] {
        site.write("server.pem", certificate);
        site.write("server.key", key);
        fs::set_permissions(site.file("server.key"), Permissions::from_mode(mode)).unwrap();
        let (code, said) = check();
        assert!(code == 78 && said.contains(wanted), "{wanted}: {code} {said}");
        let (code, said) = Gateway::refuse(&site);
        assert!(code == 78 && said.contains(wanted), "{wanted}: {code} {said}");
    }
    good.put(&site);
    fs::set_permissions(site.file("server.key"), Permissions::from_mode(0o644)).unwrap();
    let (code, said) = check();
    assert!(code == 0 && said.contains("every user of this machine may read this secret"), "{said}");
    fs::remove_file(site.file("server.key")).unwrap();
    assert!(check().1.contains("cannot read"), "{}", check().1);
}

#[test]
fn a_reload_shows_the_new_certificate_and_a_bad_one_changes_nothing() {
    let (upstream, authority) = (Upstream::start(), Authority::new());
    let mut site = Site::new(&upstream);
    protect(&mut site, &authority);
    let gateway = site.start();
    let admin = gateway.admin();
    let shown = || {
        let mut stream = Client::new(&authority, None).connect(&gateway);
        stream.write_all(&request("GET", "/public/", &[("Connection", "close")], b"")).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let first = shown();
    let mut old = Client::new(&authority, None).connect(&gateway);
    old.write_all(&request("GET", "/public/", &[], b"")).unwrap();
    assert!(old.read(&mut [0; 4096]).unwrap() > 0);

    let second = authority.issue_until("shop.example", 2050);
    second.put(&site);
    gateway.signal("HUP");
    until("the new certificate", || (shown() == second.der).then_some(()));
    assert_ne!(first, second.der);
    let in_force = second.der.clone();
    old.write_all(&request("GET", "/public/", &[("Connection", "close")], b"")).unwrap();
    assert!(old.read_to_end(&mut Vec::new()).unwrap() > 0, "who was connected goes on");
    let label = gateway.address.to_string();
    let left = admin.metric("portcullis_certificate_expiry_seconds", &[("name", &label)]);
    assert!((600e6..800e6).contains(&left), "until 2050: {left}");

    for bad in [authority.issue_until("shop.example", 2001), Certificate { key_pem: a_key(), ..second }] {
        bad.put(&site);
        let answer = admin.post("/v1/reload", &json!({}));
        assert_eq!((answer.status, answer.reason().as_str()), (500, "reload_failed"), "{}", answer.text());
        assert!(answer.text().contains(&label.replace(&gateway.address.port().to_string(), "0")), "{}", answer.text());
        assert_eq!(shown(), in_force);
    }
    assert_eq!(admin.metric("portcullis_config_last_reload_successful", &[]), 0.0);
}

/// A key that belongs to nothing.
fn a_key() -> String {
    rcgen::KeyPair::generate().unwrap().serialize_pem()
}

#[test]
fn who_does_not_finish_a_handshake_is_dropped_and_keeps_nobody_out() {
    let (upstream, authority) = (Upstream::start(), Authority::new());
    let mut site = Site::new(&upstream);
    protect(&mut site, &authority);
    site.set("/workers", json!(1));
    site.set("/limits", json!({"handshake_timeout": "1s", "handshakes_per_worker": 2}));
    let gateway = site.start();
    let mut silent: Vec<Connection> = (0..4).map(|_| gateway.connect()).collect();
    silent[0].send(b"\x16\x03\x01");
    let client = Client::new(&authority, None);
    // Its turn comes when the silent ones have had their time.
    let answer = until("an answer", || client.ask(&gateway, "/public/", &[]).ok());
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(silent.iter_mut().all(Connection::is_closed));
    let hits = |limit| gateway.admin().metric("portcullis_limits_hit_total", &[("limit", limit)]);
    assert!(hits("handshakes_per_worker") >= 2.0 && hits("handshake_timeout") >= 4.0);
}

#[test]
fn a_client_shows_a_certificate_where_one_is_asked_for() {
    let (upstream, authority, strangers) = (Upstream::start(), Authority::new(), Authority::new());
    let mut site = Site::new(&upstream);
    protect(&mut site, &authority);
    ask_for_certificates(&mut site, &authority, "required");
    let (known, stranger) = (authority.issue("client"), strangers.issue("client"));
    let ask = |gateway: &Gateway, own| Client::new(&authority, own).ask(gateway, "/public/", &[]).is_ok();
    let gateway = site.start();
    assert!(ask(&gateway, Some(&known)));
    assert!(!ask(&gateway, Some(&stranger)) && !ask(&gateway, None));
    drop(gateway);
    ask_for_certificates(&mut site, &authority, "optional");
    let gateway = site.start();
    assert!(ask(&gateway, Some(&known)) && ask(&gateway, None));
    assert!(!ask(&gateway, Some(&stranger)), "one that nobody vouches for is worse than none");
}

#[test]
fn a_token_that_is_bound_to_a_certificate_is_honoured_with_it_alone_and_so_is_its_session() {
    let (upstream, authority) = (service(), Authority::new());
    let mut site = sliding(&upstream);
    protect(&mut site, &authority);
    ask_for_certificates(&mut site, &authority, "optional");
    site.route(json!({"match": {"path": "/vault/"}, "upstream": "shop", "auth": {"sender_constrained": "mtls"}}));
    let gateway = site.start();
    let (mine, other) = (authority.issue("mine"), authority.issue("other"));
    let me = Client::new(&authority, Some(&mine));
    let thieves = [Client::new(&authority, Some(&other)), Client::new(&authority, None)];
    let token = site.accounts.token(json!({"cnf": mine.cnf()}));
    let mismatch = (401, "certificate_mismatch".to_owned());
    assert_eq!(me.outcome(&gateway, "/vault/", &token).0, 200);
    let unbound = site.accounts.token_of("bob");
    assert_eq!(me.outcome(&gateway, "/vault/", &unbound), (401, "token_not_bound".to_owned()));

    let exchanged = |client: &Client| {
        let headers = [("Authorization", bearer(&token)), ("Content-Length", "0".to_owned())];
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        client.send(&gateway, "POST", "/session/exchange", &headers).unwrap()
    };
    let answer = exchanged(&me);
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["token_type"], "Bearer");
    let mut session = body["access_token"].as_str().unwrap().to_owned();
    for thief in &thieves {
        assert_eq!(thief.outcome(&gateway, "/orders", &token), mismatch);
        assert_eq!(outcome(&exchanged(thief)), mismatch);
    }
    for _ in 0..2 {
        assert_eq!(claims_of(&session)["cnf"], mine.cnf());
        for thief in &thieves {
            assert_eq!(thief.outcome(&gateway, "/orders", &session), mismatch);
            assert_eq!(thief.outcome(&gateway, "/session", &session), mismatch);
            let cookie = format!("__Host-session={session}");
            assert_eq!(outcome(&thief.ask(&gateway, "/orders", &[("Cookie", &cookie)]).unwrap()), mismatch);
        }
        session = until("a successor", || {
            let answer = me.ask(&gateway, "/orders", &[("Authorization", &bearer(&session))]).unwrap();
            assert_eq!(outcome(&answer).0, 200, "{answer}");
            field(&answer, "x-session-token").map(str::to_owned)
        });
    }
}

#[test]
fn a_certificate_that_a_trusted_proxy_hands_on_counts_and_anybody_elses_word_does_not() {
    let (upstream, authority) = (Upstream::start(), Authority::new());
    let mut site = Site::new(&upstream);
    let mine = authority.issue("mine");
    let handed = format!(":{}:", standard_base64(&mine.der));
    let token = site.accounts.token(json!({"cnf": mine.cnf()}));
    let ask = |gateway: &Gateway, fields: &[(&str, &str)]| {
        let authorization = bearer(&token);
        gateway.get("/orders", &[&[("Authorization", authorization.as_str())], fields].concat())
    };
    let gateway = site.start();
    let refused = ask(&gateway, &[("Client-Cert", &handed)]);
    assert_eq!((refused.status, refused.reason().as_str()), (401, "certificate_mismatch"));
    let challenge = refused.header("www-authenticate").unwrap();
    assert!(challenge.starts_with(r#"Bearer realm="shop", error="invalid_token""#), "{challenge}");
    assert_eq!(gateway.get("/public/", &[("Client-Cert", &handed), ("client_cert", "x")]).status, 200);
    let request = upstream.take_one();
    assert_eq!((request.header("client-cert"), request.header("client_cert")), (None, None));
    drop(gateway);
    site.set("/trusted_proxies", json!(["127.0.0.1"]));
    let gateway = site.start();
    assert_eq!(ask(&gateway, &[("Client-Cert", &handed)]).status, 200);
    assert_eq!(upstream.take_one().header("client-cert"), Some(handed.as_str()), "as the proxy sent it");
    let other = format!(":{}:", standard_base64(&authority.issue("other").der));
    for fields in [&[("Client-Cert", other.as_str())][..], &[], &[("Client-Cert", &handed), ("Client-Cert", &other)]] {
        assert_eq!(ask(&gateway, fields).status, 401, "{fields:?}");
    }
}

fn standard_base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
