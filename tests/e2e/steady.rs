//! A steady load while everything that can change by reload does: no request fails.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Load, Site, Upstream, request, until};
use crate::tls::{Authority, Client, protect};

/// One answer on a connection that is kept; its status, and whether it was the last.
fn exchange(stream: &mut (impl Read + Write), bytes: &[u8]) -> (u16, bool) {
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "the connection ended without an answer");
        answer.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return (head[9..12].parse().unwrap(), head.contains("connection: close"));
        }
    }
}

#[test]
fn certificates_configuration_and_upstreams_change_under_a_load_and_nobody_notices() {
    let (first, second, authority) = (Upstream::start(), Upstream::start(), Authority::new());
    let mut site = Site::new(&first);
    protect(&mut site, &authority);
    site.set("/reload", json!({"watch": true, "debounce": "50ms"}));
    let gateway = Arc::new(site.start());
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let client = Arc::new(Client::new(&authority, None));
    let token = site.accounts.token_of("bob");
    let clients: Vec<_> = (0..4)
        .map(|number| {
            let (gateway, client, token) = (Arc::clone(&gateway), Arc::clone(&client), token.clone());
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            thread::spawn(move || {
                let bearer = format!("Bearer {token}");
                let headers = [("Authorization", bearer.as_str()), ("Connection", "close")];
                let bytes = request("GET", "/orders", &headers[..1 + number % 2], b"");
                let mut stream = client.connect_for(&gateway, "shop.example");
                while !stop.load(Ordering::Acquire) {
                    let (status, last) = exchange(&mut stream, &bytes);
                    assert_eq!(status, 200);
                    served.fetch_add(1, Ordering::Relaxed);
                    if last {
                        stream = client.connect_for(&gateway, "shop.example");
                    }
                }
            })
        })
        .collect();
    let tls = Client::speaking(&authority, None, &[&rustls::version::TLS13], &[b"h2"]);
    let http2 = Load::of_http2(gateway.address, Some(&tls.0), 2);
    let (one, other) = (first.url(), second.url());
    let servers = [json!([one, other]), json!([other]), json!([other, one]), json!([one])];
    // Where it is said how many there are to be, one a second; else as fast as can be.
    let wanted = std::env::var("PORTCULLIS_STEADY").ok().and_then(|it| it.parse().ok());
    let (rounds, pace) = wanted.map_or((6, Duration::ZERO), |rounds| (rounds, Duration::from_secs(1)));
    let in_force = || gateway.admin().get("/v1/status").json()["gateway"]["config_digest"].clone();
    let began = Instant::now();
    for round in 0..rounds {
        let due = pace * u32::try_from(round).unwrap();
        until("the next change to be due", || (began.elapsed() >= due).then_some(()));
        let (before, asked) = (in_force(), served.load(Ordering::Relaxed));
        authority.issue("shop.example").put_as(&site, "server");
        site.set("/upstreams/shop/servers", servers[round % servers.len()].clone());
        let more = if round.is_multiple_of(2) { json!([{"address": "127.0.0.1:0"}]) } else { json!([]) };
        let tls = site.config["listeners"][0].clone();
        site.config["listeners"] = Value::Array([vec![tls], more.as_array().unwrap().clone()].concat());
        site.set("/limits", json!({"header_count": 100 + round}));
        site.write_config();
        until("the change", || (in_force() != before).then_some(()));
        until("answers after it", || {
            let dead = clients.iter().any(thread::JoinHandle::is_finished);
            (dead || served.load(Ordering::Relaxed) > asked + 50).then_some(())
        });
        http2.await_more(10);
    }
    eprintln!(
        "{rounds} changes in {:?}: {} answers, and {}",
        began.elapsed(),
        served.load(Ordering::Relaxed),
        http2.served()
    );
    http2.end();
    stop.store(true, Ordering::Release);
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert!(!first.take().is_empty() && !second.take().is_empty());
}
