//! Keys that an issuer publishes: fetched, rotated, withdrawn, and served by everything but a key server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::issuer::Key;
use crate::support::{Gateway, Issuer, Recorded, Response, Site, Upstream, until};

/// What a key server does with a request.
#[derive(Clone)]
enum Says {
    Json(Value),
    /// Status, content type, body.
    Answer(u16, &'static str, Vec<u8>),
    Redirect(String),
    /// One byte at a time, for ever.
    Drip,
    /// Nothing at all.
    Hang,
}

/// A key server that can be made to do anything.
struct KeyServer {
    server: Upstream,
    says: Arc<Mutex<Says>>,
}

impl KeyServer {
    fn start(says: Says) -> Self {
        let says = Arc::new(Mutex::new(says));
        let script = Arc::clone(&says);
        let server = Upstream::scripted(move |exchange| {
            let says = script.lock().unwrap().clone();
            match says {
                Says::Json(value) => {
                    exchange.answer(200, &[("Content-Type", "application/json")], value.to_string().as_bytes())
                }
                Says::Answer(status, kind, body) => exchange.answer(status, &[("Content-Type", kind)], &body),
                Says::Redirect(to) => exchange.answer(302, &[("Location", &to)], b""),
                Says::Drip => {
                    exchange.close();
                    exchange.raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")?;
                    exchange.stream().set_read_timeout(Some(Duration::from_millis(20)))?;
                    while exchange.raw(b" ").is_ok() && !exchange.stream().peek(&mut [0]).is_ok_and(|n| n == 0) {}
                    Ok(())
                }
                Says::Hang => exchange.await_close(),
            }
        });
        Self { server, says }
    }

    fn of(issuers: &[&Issuer]) -> Self {
        Self::start(Says::Json(jwks(issuers)))
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    fn publish(&self, issuers: &[&Issuer]) {
        self.say(Says::Json(jwks(issuers)));
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server.url())
    }

    fn asked(&self) -> Vec<Recorded> {
        self.server.requests()
    }
}

fn jwks(issuers: &[&Issuer]) -> Value {
    json!({"keys": issuers.iter().map(|issuer| issuer.key.jwk(&issuer.kid)).collect::<Vec<_>>()})
}

/// Fetches every second.
fn eager(url: &str) -> Value {
    json!({"jwks_url": url, "refresh": "1s", "cooldown": "1s", "timeout": "500ms", "max_stale": "1h"})
}

fn site(upstream: &Upstream, keys: Value) -> Site {
    let mut site = Site::new(upstream);
    site.set("/issuers/accounts/keys", keys);
    site
}

fn successor(of: &Issuer, kid: &str) -> Issuer {
    Issuer::new(&of.url, kid, Key::es256())
}

fn fetches(gateway: &Gateway, result: &str) -> f64 {
    gateway.admin().metric("portcullis_jwks_fetches_total", &[("issuer", "accounts"), ("result", result)])
}

/// Waits until the token is answered like this; what was answered.
fn await_status(gateway: &Gateway, token: &str, status: u16) -> Response {
    until(&format!("status {status}"), || {
        let response = gateway.get_as("/orders", token);
        (response.status == status).then_some(response)
    })
}

#[test]
fn a_new_key_is_found_and_one_that_is_withdrawn_verifies_nothing_any_more() {
    let upstream = Upstream::start();
    let mut site = site(&upstream, json!({}));
    let keys = KeyServer::of(&[&site.accounts]);
    site.set("/issuers/accounts/keys", eager(&keys.url("/jwks.json?tenant=1")));
    let gateway = site.start();
    let old = site.accounts.token_of("bob");
    assert_eq!(gateway.get_as("/orders", &old).status, 200, "the first request waits for the first fetch");
    assert_eq!(gateway.get_as("/orders", &old).status, 200, "remembered");
    let next = successor(&site.accounts, "accounts-2");
    let unpublished = gateway.get_as("/orders", &next.token_of("bob"));
    assert_eq!((unpublished.status, unpublished.reason().as_str()), (401, "unknown_key"));
    keys.publish(&[&site.accounts, &next]);
    await_status(&gateway, &next.token_of("bob"), 200);
    assert_eq!(gateway.get_as("/orders", &old).status, 200);
    keys.publish(&[&next]);
    let dead = await_status(&gateway, &old, 401);
    assert_eq!(dead.reason(), "unknown_key", "also when the token was remembered");
    assert_eq!(gateway.get_as("/orders", &next.token_of("bob")).status, 200);
    let asked = keys.asked().remove(0);
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("GET", "/jwks.json?tenant=1"));
    assert!(!gateway.output().contains("tenant"), "no query in a log: {}", gateway.output());
    let age = gateway.admin().metric("portcullis_jwks_age_seconds", &[("issuer", "accounts")]);
    assert!(age <= 10.0, "{age}");
}

#[test]
fn random_key_ids_do_not_hammer_the_key_server() {
    let upstream = Upstream::start();
    let mut site = site(&upstream, json!({}));
    let keys = KeyServer::of(&[&site.accounts]);
    site.set("/issuers/accounts/keys", json!({"jwks_url": keys.url("/"), "refresh": "1h", "cooldown": "1s"}));
    let gateway = site.start();
    assert_eq!(gateway.get_as("/orders", &site.accounts.token_of("bob")).status, 200);
    let began = Instant::now();
    let stop = AtomicBool::new(false);
    let sent: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (gateway, site, stop) = (&gateway, &site, &stop);
                scope.spawn(move || {
                    let mut sent = 0;
                    while !stop.load(Ordering::Acquire) {
                        let kid = json!({"kid": format!("{client}-{sent}")});
                        let refused = gateway.get_as("/orders", &site.accounts.token_with_header(kid));
                        assert_eq!((refused.status, refused.reason().as_str()), (401, "unknown_key"));
                        sent += 1;
                    }
                    sent
                })
            })
            .collect();
        until("three seconds of it", || (began.elapsed() > Duration::from_secs(3)).then_some(()));
        stop.store(true, Ordering::Release);
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    // The first, one for each second begun, and no more.
    let most = 2 + began.elapsed().as_secs();
    let asked = keys.asked().len() as u64;
    assert!(sent > 100 && (2..=most).contains(&asked), "{sent} tokens, {asked} fetches, at most {most}");
}

#[test]
fn whatever_else_is_served_the_last_good_keys_stay() {
    let upstream = Upstream::start();
    let mut site = site(&upstream, json!({}));
    let other = KeyServer::of(&[&site.accounts]);
    let keys = KeyServer::of(&[&site.accounts]);
    site.set("/issuers/accounts/keys", eager(&keys.url("/jwks.json")));
    let gateway = site.start();
    let token = site.accounts.token_of("bob");
    assert_eq!(gateway.get_as("/orders", &token).status, 200);
    let next = successor(&site.accounts, "accounts-2");
    let secret = Key::secret(b"0123456789abcdef0123456789abcdef").jwk("accounts-1");
    let mut private = next.jwks();
    private["keys"][0]["d"] = json!("AAAA");
    let mut twice = jwks(&[&next, &next]);
    twice["keys"][1]["alg"] = json!("ES256");
    let good = next.jwks().to_string().into_bytes();
    let huge = format!("{{\"keys\":[],\"x\":\"{}\"}}", "y".repeat(2 << 20)).into_bytes();
    for (name, says, result) in [
        ("HTML", Says::Answer(200, "text/html", b"<html>log in</html>".to_vec()), "malformed"),
        ("good keys as text", Says::Answer(200, "text/plain", good), "malformed"),
        ("two megabytes", Says::Answer(200, "application/json", huge), "malformed"),
        ("not UTF-8", Says::Answer(200, "application/json", vec![0xff, 0xfe]), "malformed"),
        ("an error", Says::Answer(500, "application/json", next.jwks().to_string().into_bytes()), "status"),
        ("an empty set", Says::Json(json!({"keys": []})), "no_usable_key"),
        ("a secret", Says::Json(json!({"keys": [secret]})), "no_usable_key"),
        ("a private key", Says::Json(private), "no_usable_key"),
        ("one kid twice", Says::Json(twice), "malformed"),
        ("another server", Says::Redirect(other.url("/jwks.json")), "redirected"),
        ("a circle", Says::Redirect("/jwks.json".to_owned()), "redirected"),
        ("silence", Says::Hang, "timeout"),
        ("a byte at a time", Says::Drip, "timeout"),
    ] {
        let before = fetches(&gateway, result);
        keys.say(says);
        until(name, || (fetches(&gateway, result) > before).then_some(()));
        assert_eq!(gateway.get_as("/orders", &token).status, 200, "{name}");
        let unknown = gateway.get_as("/orders", &next.token_of("bob"));
        // Whether the key exists cannot be told while its server is out of order.
        assert_eq!((unknown.status, unknown.reason().as_str()), (503, "keys_unavailable"), "{name}");
    }
    assert!(other.asked().is_empty(), "nothing is fetched from where a redirect points");
    assert!(gateway.output().contains("failed to refresh the keys"), "{}", gateway.output());
    keys.publish(&[&next]);
    await_status(&gateway, &next.token_of("bob"), 200);
}

#[test]
fn keys_that_are_too_old_refuse_with_503_and_nobody_is_signed_out() {
    let upstream = Upstream::start();
    let mut site = site(&upstream, json!({}));
    let keys = KeyServer::of(&[&site.accounts]);
    let mut source = eager(&keys.url("/"));
    source["max_stale"] = json!("3s");
    site.set("/issuers/accounts/keys", source);
    let partners = Issuer::new("https://partners.example/", "partners-1", Key::es256());
    site.trust("partners", &partners);
    let gateway = site.start();
    let token = site.accounts.token_of("bob");
    assert_eq!(gateway.get_as("/orders", &token).status, 200);
    keys.say(Says::Answer(503, "application/json", Vec::new()));
    let began = Instant::now();
    let refused = await_status(&gateway, &token, 503);
    assert_eq!(refused.reason(), "keys_unavailable");
    assert!(refused.header("retry-after").is_some() && refused.header("www-authenticate").is_none(), "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(gateway.get_as("/orders", &partners.token_of("bob")).status, 200, "other issuers are served");
    assert_eq!(gateway.admin().explain(&token)["reason"], "keys_unavailable");
    keys.publish(&[&site.accounts]);
    await_status(&gateway, &token, 200);
}

#[test]
fn a_start_without_the_key_server_serves_what_was_kept() {
    let upstream = Upstream::start();
    let mut site = site(&upstream, json!({}));
    let keys = KeyServer::of(&[&site.accounts]);
    let partners = Issuer::new("https://partners.example/", "partners-1", Key::es256());
    site.trust("partners", &partners);
    site.set("/issuers/accounts/keys", eager(&keys.url("/")));
    keys.say(Says::Answer(404, "application/json", Vec::new()));
    let gateway = site.start();
    let token = site.accounts.token_of("bob");
    let refused = gateway.get_as("/orders", &token);
    assert_eq!((refused.status, refused.reason().as_str()), (503, "keys_unavailable"), "none were ever had");
    assert_eq!(gateway.get_as("/orders", &partners.token_of("bob")).status, 200);
    assert_eq!(gateway.get("/public/", &[]).status, 200);
    keys.publish(&[&site.accounts]);
    await_status(&gateway, &token, 200);
    assert_eq!(gateway.stop().0, 0);
    keys.say(Says::Hang);
    let gateway = site.start();
    assert_eq!(gateway.get_as("/orders", &token).status, 200, "kept in the store");
    assert_eq!(gateway.get_as("/orders", &token).status, 200);
    assert_eq!(gateway.stop().0, 0);
    // Another place's keys are not this one's.
    site.set("/issuers/accounts/keys", eager(&keys.url("/other")));
    let gateway = site.start();
    assert_eq!(gateway.get_as("/orders", &token).status, 503);
}

#[test]
fn keys_are_found_through_the_metadata_of_the_very_issuer() {
    let upstream = Upstream::start();
    let mut site = site(&upstream, json!({}));
    let metadata = Arc::new(Mutex::new(json!({})));
    let (told, set) = (Arc::clone(&metadata), site.accounts.jwks());
    let server = Upstream::scripted(move |exchange| {
        let body = match exchange.recorded.target.as_str() {
            "/.well-known/oauth-authorization-server/shop" => told.lock().unwrap().clone(),
            "/keys" => set.clone(),
            _ => return exchange.answer(404, &[], b""),
        };
        exchange.answer(200, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    });
    let keys = json!({"discovery": format!("{}/shop", server.url()), "refresh": "1s", "cooldown": "1s"});
    site.set("/issuers/accounts/keys", keys);
    let gateway = site.start();
    let token = site.accounts.token_of("bob");
    let (issuer, there) = (site.accounts.url.clone(), format!("{}/keys", server.url()));
    for wrong in [
        json!({}),
        json!({"issuer": issuer}),
        json!({"issuer": issuer.trim_end_matches('/'), "jwks_uri": there}),
        json!({"issuer": issuer, "jwks_uri": "file:///etc/passwd"}),
        json!({"issuer": issuer, "jwks_uri": "http://169.254.169.254/keys"}),
        json!({"issuer": issuer, "jwks_uri": format!("http://{}/metrics", gateway.admin_address)}),
    ] {
        let before = fetches(&gateway, "metadata");
        *metadata.lock().unwrap() = wrong.clone();
        until("a refused fetch", || (fetches(&gateway, "metadata") > before + 1.0).then_some(()));
        assert_eq!(gateway.get_as("/orders", &token).status, 503, "{wrong}");
    }
    *metadata.lock().unwrap() = json!({"issuer": issuer, "jwks_uri": there});
    await_status(&gateway, &token, 200);
    let targets: Vec<_> = server.take().into_iter().map(|request| request.target).collect();
    assert_eq!(targets[0], "/shop/.well-known/openid-configuration", "{targets:?}");
}

/// A key server behind TLS: its address, and the authority that vouches for it.
fn tls_server(jwks: &Value) -> (SocketAddr, String) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let body = jwks.to_string();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream);
            if stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    (address, pem)
}

#[test]
fn a_private_authority_is_believed_and_no_other() {
    let upstream = Upstream::start();
    let mut site = site(&upstream, json!({}));
    let (address, authority) = tls_server(&site.accounts.jwks());
    let (_, other) = tls_server(&json!({}));
    site.write("authority.pem", &authority);
    site.write("other.pem", &other);
    let token = site.accounts.token_of("bob");
    for (file, host, status) in
        [("authority.pem", "localhost", 200), ("other.pem", "localhost", 503), ("authority.pem", "127.0.0.1", 503)]
    {
        let mut keys = eager(&format!("https://{host}:{}/jwks.json", address.port()));
        keys["ca_file"] = json!(file);
        site.set("/issuers/accounts/keys", keys);
        site.set("/revocation/store/path", json!(format!("data-{file}-{host}")));
        let gateway = site.start();
        assert_eq!(gateway.get_as("/orders", &token).status, status, "{file} {host}");
    }
}

#[test]
fn a_reload_keeps_the_keys_that_are_known() {
    let upstream = Upstream::start();
    let mut site = site(&upstream, json!({}));
    let keys = KeyServer::of(&[&site.accounts]);
    site.set("/issuers/accounts/keys", json!({"jwks_url": keys.url("/"), "refresh": "1h"}));
    let gateway = site.start();
    let token = site.accounts.token_of("bob");
    assert_eq!(gateway.get_as("/orders", &token).status, 200);
    keys.say(Says::Hang);
    for (pointer, value) in [
        ("/issuers/accounts/clock_skew", json!("6s")),
        ("/issuers/accounts/algorithms", json!(["ES256", "ES384"])),
        ("/issuers/accounts/keys/refresh", json!("2h")),
    ] {
        site.set(pointer, value);
        site.write_config();
        assert_eq!(gateway.admin().post("/v1/reload", &json!({})).status, 200);
        assert_eq!(gateway.get_as("/orders", &token).status, 200, "{pointer}");
    }
}
