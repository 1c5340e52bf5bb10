//! Clients of the field over HTTP/2: curl and h2load, in clear and over TLS; and what the handshake chooses.

use std::process::Command;

use h2::client::Builder;
use rustls_pki_types::ServerName;
use serde_json::json;

use crate::http2::site;
use crate::support::http2::head;
use crate::support::{Gateway, Http2, Site, Upstream, bearer};
use crate::tls::{Authority, Client, protect};

/// What a command printed, which must be there and succeed.
fn run(name: &str, arguments: &[&str]) -> String {
    let output = Command::new(name).args(arguments).output().unwrap_or_else(|error| panic!("{name}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name} {arguments:?}: {text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

const WRITE: [&str; 4] = ["-sS", "-w", " %{http_version} %{http_code}", "--max-time"];

fn secured(upstream: &Upstream) -> (Site, Authority) {
    let authority = Authority::new();
    let mut site = Site::new(upstream);
    protect(&mut site, &authority);
    (site, authority)
}

#[test]
fn curl_is_admitted_and_refused() {
    let upstream = Upstream::scripted(|exchange| {
        exchange.read_body(|_| {})?;
        let length = exchange.recorded.body_length.to_string();
        exchange.answer(200, &[], length.as_bytes())
    });
    let site = site(&upstream);
    let gateway = site.start();
    let token = format!("Authorization: {}", bearer(&site.accounts.token_of("bob")));
    let url = |path: &str| format!("http://{}{path}", gateway.address);
    let curl = |more: &[&str]| run("curl", &[&WRITE[..], &["20", "--http2-prior-knowledge"], more].concat());
    assert_eq!(curl(&["-H", &token, &url("/orders")]), "0 2 200");
    assert_eq!(curl(&["-o", "/dev/null", &url("/orders")]), " 2 401");
    assert_eq!(curl(&["-I", "-o", "/dev/null", &url("/orders")]), " 2 401");
    site.write("upload", &"x".repeat(3_000_000));
    let upload = format!("@{}", site.file("upload").display());
    assert_eq!(curl(&["-H", &token, "--data-binary", &upload, &url("/orders")]), "3000000 2 200");
    // What asks for h2c by `Upgrade` gets HTTP/1.1.
    let upgraded = run("curl", &[&WRITE[..], &["20", "--http2", "-H", &token, &url("/orders")]].concat());
    assert_eq!(upgraded, "0 1.1 200");
    for recorded in upstream.take() {
        assert!(recorded.header("upgrade").is_none() && recorded.header("http2-settings").is_none());
    }
}

#[test]
fn curl_chooses_http2_behind_tls() {
    let upstream = Upstream::start();
    let (site, _) = secured(&upstream);
    let gateway = site.start();
    let token = format!("Authorization: {}", bearer(&site.accounts.token_of("bob")));
    let port = gateway.address.port();
    let resolve = format!("shop.example:{port}:127.0.0.1");
    let url = format!("https://shop.example:{port}/orders");
    for (version, wanted) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let more = ["20", version, "--insecure", "--resolve", &resolve];
        let answer = run("curl", &[&WRITE[..], &more, &["-o", "/dev/null", "-H", &token, &url]].concat());
        assert_eq!(answer, format!(" {wanted} 200"));
        assert_eq!(upstream.take_one().header("x-forwarded-proto"), Some("https"));
    }
}

/// Many requests over a few connections, all of which must be answered well.
fn load(url: &str, more: &[&str]) {
    let output = run("h2load", &[&["-n", "2000", "-c", "4", "-m", "50"], more, &[url]].concat());
    assert!(output.contains("2000 succeeded, 0 failed, 0 errored"), "{output}");
    assert!(output.contains("status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{output}");
}

#[test]
fn h2load_is_served_in_clear_and_behind_tls() {
    let upstream = Upstream::start();
    let clear = site(&upstream);
    let gateway = clear.start();
    let token = format!("authorization: {}", bearer(&clear.accounts.token_of("bob")));
    load(&format!("http://{}/orders", gateway.address), &["-H", &token]);
    drop(gateway);
    let (site, _) = secured(&upstream);
    let gateway = site.start();
    let token = format!("authorization: {}", bearer(&site.accounts.token_of("bob")));
    load(&format!("https://127.0.0.1:{}/orders", gateway.address.port()), &["-H", &token]);
}

fn over_tls(client: &Client, gateway: &Gateway) -> Http2 {
    let (config, address) = (client.0.clone(), gateway.address);
    Http2::over(Builder::new(), async move {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("shop.example").unwrap();
        tokio_rustls::TlsConnector::from(config).connect(name, stream).await.unwrap()
    })
}

#[test]
fn the_handshake_chooses_and_silence_after_it_is_not_waited_for() {
    let upstream = Upstream::start();
    let (mut site, authority) = secured(&upstream);
    site.set("/limits", json!({"header_timeout": "1s"}));
    let gateway = site.start();
    let versions = [&rustls::version::TLS13];
    let client = Client::speaking(&authority, None, &versions, &[b"h2"]);
    let token = bearer(&site.accounts.token_of("bob"));
    let mut connection = over_tls(&client, &gateway);
    assert_eq!(connection.send(head("GET", "/orders", &[("authorization", &token)]), b"").status, 200);
    assert_eq!(upstream.take_one().header("x-forwarded-proto"), Some("https"));
    // Whoever chose HTTP/2 and says nothing is let go.
    let mut silent = client.connect_for(&gateway, "shop.example");
    while silent.conn.is_handshaking() {
        silent.conn.complete_io(&mut silent.sock).unwrap();
    }
    assert_eq!(silent.conn.alpn_protocol(), Some(&b"h2"[..]));
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut silent, &mut rest);
    // Whoever chose HTTP/1.1 does not get to speak HTTP/2.
    let other = Client::speaking(&authority, None, &versions, &[b"http/1.1"]);
    let mut stream = other.connect_for(&gateway, "shop.example");
    std::io::Write::write_all(&mut stream, crate::support::http2::PREFACE).unwrap();
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&answer));
}
