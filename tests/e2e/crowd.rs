//! Many who hold on and many who dawdle: who just asks does not notice them, and each is let go by itself.
//!
//! How many they are is taken from `PORTCULLIS_IDLE_WEBSOCKETS` and `PORTCULLIS_SLOW_HEADS`. What is printed are figures to
//! write down; what is asserted is that nobody is turned away, and that nobody is held who should be let go.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tungstenite::handshake::derive_accept_key;

use crate::support::patience::within;
use crate::support::{Gateway, Site, bearer, request, until};

/// Loopback addresses that clients come from: a bound for each address must not be what is measured.
const ADDRESSES: u8 = 100;
/// Requests whose times are compared.
const ASKED: usize = 2000;
/// For thousands of connections to be made, or to end, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the crowd has come to.
#[derive(Default)]
struct Crowd {
    /// WebSockets that are open.
    open: AtomicUsize,
    /// WebSockets that were open and have ended.
    ended: AtomicUsize,
    /// Heads that were begun.
    begun: AtomicUsize,
    /// Heads that were cut off.
    cut: AtomicUsize,
    /// Whether no new heads are begun.
    over: AtomicBool,
}

fn number(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |number| number.parse().unwrap())
}

#[test]
fn idle_websockets_and_slow_heads_do_not_keep_others_from_being_served() {
    let idle = number("PORTCULLIS_IDLE_WEBSOCKETS", 400);
    let slow = number("PORTCULLIS_SLOW_HEADS", 100);
    allow_descriptors(2 * (idle + slow) + 500);
    let (told, service) = std::sync::mpsc::channel();
    let crowd = Arc::new(Crowd::default());
    let (orders, mut taken) = tokio::sync::mpsc::unbounded_channel::<Order>();
    let theirs = Arc::clone(&crowd);
    // One thread is everybody but the gateway and those who are measured.
    let everybody = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            told.send(listener.local_addr().unwrap()).unwrap();
            tokio::spawn(serve(listener));
            while let Some(order) = taken.recv().await {
                let crowd = Arc::clone(&theirs);
                match order {
                    Order::Hold { gateway, number, token } => tokio::spawn(hold(gateway, number, token, crowd)),
                    Order::Dawdle { gateway, number } => tokio::spawn(dawdle(gateway, number, crowd)),
                };
            }
        });
    });
    let service = service.recv().unwrap();
    let mut site = Site::before(&format!("http://{service}"));
    site.set("/limits", json!({"header_timeout": "3s"}));
    site.set(
        "/routes",
        json!([{"match": {"path": "/"}, "upstream": "shop", "auth": "required", "upgrades": ["websocket"]}]),
    );
    let gateway = site.start();
    let (alone, before) = (asked(&gateway, &site), gateway.memory("VmRSS"));

    for number in 0..idle {
        let token = site.accounts.token_of(if number % 2 == 0 { "alice" } else { "bob" });
        // They come in quick succession, and not all at once: that would be a test of the service's backlog.
        within(PATIENCE, "earlier ones", || (number < crowd.open.load(Ordering::SeqCst) + 100).then_some(()));
        orders.send(Order::Hold { gateway: gateway.address, number, token }).unwrap();
    }
    within(PATIENCE, "the WebSockets to open", || (crowd.open.load(Ordering::SeqCst) == idle).then_some(()));
    let held = gateway.memory("VmRSS").saturating_sub(before) * 1024 / idle.max(1) as u64;
    for number in 0..slow {
        orders.send(Order::Dawdle { gateway: gateway.address, number }).unwrap();
    }
    within(PATIENCE, "the heads to begin", || (crowd.begun.load(Ordering::SeqCst) >= slow).then_some(()));
    let among = asked(&gateway, &site);
    eprintln!(
        "{idle} idle WebSockets, {slow} slow heads: p50 {:.2} x, p99 {:.2} x of the idle gateway's ({:?}); {held} bytes each",
        ratio(among.0, alone.0),
        ratio(among.1, alone.1),
        alone.1,
    );
    within(PATIENCE, "the slow heads to be cut off", || (crowd.cut.load(Ordering::SeqCst) >= slow).then_some(()));
    crowd.over.store(true, Ordering::SeqCst);
    assert_eq!(crowd.ended.load(Ordering::SeqCst), 0, "who is merely silent is not cut");

    gateway.admin().revoke_of_accounts("subject", "alice", "account_blocked");
    let revoked = idle.div_ceil(2);
    within(PATIENCE, "alice's to end", || (crowd.ended.load(Ordering::SeqCst) >= revoked).then_some(()));
    assert_eq!(gateway.get_as("/orders", &site.accounts.token_of("bob")).status, 200);
    assert_eq!(crowd.ended.load(Ordering::SeqCst), revoked, "bob's live on");
    until("what was held to be let go", || (gateway.descriptors() < 2 * (idle - revoked) + 100).then_some(()));
    drop(orders);
    drop(gateway);
    everybody.join().unwrap();
}

enum Order {
    Hold { gateway: SocketAddr, number: usize, token: String },
    Dawdle { gateway: SocketAddr, number: usize },
}

fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}

/// Median and 99th percentile of requests one after the other; every one of them must be answered well.
fn asked(gateway: &Gateway, site: &Site) -> (Duration, Duration) {
    let token = bearer(&site.accounts.token_of("carol"));
    let mut connection = gateway.connect();
    let mut times = Vec::with_capacity(ASKED);
    for _ in 0..ASKED {
        let started = Instant::now();
        let response = connection.send(&request("GET", "/orders", &[("Authorization", &token)], b"")).response();
        times.push(started.elapsed());
        assert_eq!(response.status, 200);
    }
    times.sort();
    (times[ASKED / 2], times[ASKED * 99 / 100])
}

/// Both this process and the gateway, which inherits it, need more descriptors than is usual.
fn allow_descriptors(wanted: usize) {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let [allowed, most] = [0, 1].map(|at| line.split_whitespace().nth(at).unwrap().parse().unwrap_or(usize::MAX));
    if allowed >= wanted {
        return;
    }
    let limit = format!("--nofile={wanted}:{}", most.max(wanted));
    let raised = Command::new("prlimit").args(["--pid", &std::process::id().to_string(), &limit]).status();
    assert!(raised.unwrap().success(), "descriptors for {wanted}");
}

/// Switches protocols when asked to, and is silent then; otherwise answers.
async fn serve(listener: TcpListener) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut stream = stream;
            while let Some(head) = read_head(&mut stream).await {
                let key = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim().to_owned())
                });
                let answer = match &key {
                    Some(key) => format!(
                        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Accept: {}\r\n\r\n",
                        derive_accept_key(key.as_bytes())
                    ),
                    None => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
                };
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
                if key.is_some() {
                    return await_end(&mut stream).await;
                }
            }
        });
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

async fn await_end(stream: &mut TcpStream) {
    let mut bytes = [0; 256];
    while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
}

async fn connect(gateway: SocketAddr, number: usize) -> TcpStream {
    let last = u8::try_from(number % usize::from(ADDRESSES)).unwrap() + 2;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
    socket.connect(gateway).await.unwrap()
}

/// Opens a WebSocket, and is silent until it ends.
async fn hold(gateway: SocketAddr, number: usize, token: String, crowd: Arc<Crowd>) {
    let mut stream = connect(gateway, number).await;
    let asked = request(
        "GET",
        "/ws",
        &[
            ("Authorization", &bearer(&token)),
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ],
        b"",
    );
    stream.write_all(&asked).await.unwrap();
    let head = read_head(&mut stream).await.unwrap_or_default();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    crowd.open.fetch_add(1, Ordering::SeqCst);
    await_end(&mut stream).await;
    crowd.ended.fetch_add(1, Ordering::SeqCst);
}

/// Sends a byte of a head a second; cut off, it begins another.
async fn dawdle(gateway: SocketAddr, number: usize, crowd: Arc<Crowd>) {
    while !crowd.over.load(Ordering::SeqCst) {
        let mut stream = connect(gateway, number).await;
        let mut sent = stream.write_all(b"GET /orders HTTP/1.1\r\nHost: shop.example\r\nX-Slow: ").await;
        crowd.begun.fetch_add(1, Ordering::SeqCst);
        let mut byte = [0];
        while sent.is_ok() {
            tokio::select! {
                read = stream.read(&mut byte) => if !read.is_ok_and(|read| read > 0) { break },
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            sent = stream.write_all(b"x").await;
        }
        crowd.cut.fetch_add(1, Ordering::SeqCst);
    }
}
