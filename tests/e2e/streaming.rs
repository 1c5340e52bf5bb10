//! Bodies of any size pass in both directions in constant memory, byte for byte.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::{Gateway, Latch, Site, Upstream, bearer, request, until};

const PIECE: usize = 1 << 16;

/// How large the bodies are.
fn size() -> u64 {
    let mib: u64 = std::env::var("PORTCULLIS_BODY_MIB").map_or(64, |mib| mib.parse().unwrap());
    mib << 20
}

/// 64 KiB of a body, from this offset on: no two neighbours are alike, and no two pieces.
fn piece(offset: u64) -> Vec<u8> {
    (0..PIECE as u64).map(|index| (((offset + index) * 0x9E37_79B9) >> 13) as u8).collect()
}

/// Compares a body with what it should be, as it comes.
#[derive(Default)]
struct Checker {
    offset: u64,
    expected: Vec<u8>,
}

impl Checker {
    fn look(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let place = (self.offset % PIECE as u64) as usize;
            if place == 0 {
                self.expected = piece(self.offset);
            }
            assert_eq!(*byte, self.expected[place], "at {}", self.offset);
            self.offset += 1;
        }
    }
}

/// The highest memory since the start may exceed what was used before by this much, whatever passes through.
fn assert_bounded(gateway: &Gateway, before: u64) {
    let grown = gateway.memory("VmHWM").saturating_sub(before);
    assert!(grown < 64 * 1024, "grew by {grown} KiB while {} MiB passed", size() >> 20);
}

#[test]
fn a_large_upload_is_streamed() {
    let checker = Arc::new(Mutex::new(Checker::default()));
    let seen = Arc::clone(&checker);
    let upstream = Upstream::scripted(move |exchange| {
        exchange.read_body(|bytes| seen.lock().unwrap().look(bytes))?;
        exchange.answer(200, &[], b"thanks")
    });
    let gateway = Site::new(&upstream).start();
    let before = gateway.memory("VmRSS");
    for chunked in [false, true] {
        *checker.lock().unwrap() = Checker::default();
        let mut connection = gateway.connect();
        let framing =
            if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {}", size()) };
        connection.send(format!("PUT /public/ HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n").as_bytes());
        let mut offset = 0;
        while offset < size() {
            let piece = piece(offset);
            if chunked {
                connection.send(format!("{PIECE:x}\r\n").as_bytes()).send(&piece).send(b"\r\n");
            } else {
                connection.send(&piece);
            }
            offset += PIECE as u64;
        }
        if chunked {
            connection.send(b"0\r\n\r\n");
        }
        let response = connection.response();
        assert_eq!((response.status, response.text().as_str()), (200, "thanks"));
        assert_eq!(checker.lock().unwrap().offset, size());
        assert_eq!(upstream.take_one().body_length, size());
    }
    assert_bounded(&gateway, before);
}

#[test]
fn a_large_download_is_streamed() {
    let upstream = Upstream::scripted(|exchange| {
        let chunked = exchange.recorded.target.ends_with("chunked");
        let framing =
            if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {}", size()) };
        exchange.raw(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n").as_bytes())?;
        let mut offset = 0;
        while offset < size() {
            let piece = piece(offset);
            if chunked {
                exchange.raw(&[format!("{PIECE:x}\r\n").as_bytes(), &piece, b"\r\n"].concat())?;
            } else {
                exchange.raw(&piece)?;
            }
            offset += PIECE as u64;
        }
        if chunked { exchange.raw(b"0\r\n\r\n") } else { Ok(()) }
    });
    let gateway = Site::new(&upstream).start();
    let before = gateway.memory("VmRSS");
    let mut connection = gateway.connect();
    connection.send(&request("GET", "/public/plain", &[], b""));
    assert!(connection.read_head().unwrap().starts_with(b"HTTP/1.1 200"));
    let mut checker = Checker::default();
    checker.look(&connection.take_buffer());
    let mut bytes = vec![0; PIECE];
    while checker.offset < size() {
        let count = connection.stream().read(&mut bytes).unwrap();
        assert_ne!(count, 0, "ended at {}", checker.offset);
        checker.look(&bytes[..count]);
    }
    let mut checker = Checker::default();
    let response = connection.send(&request("GET", "/public/chunked", &[], b"")).response();
    checker.look(&response.body);
    assert_eq!(checker.offset, size());
    assert_bounded(&gateway, before);
}

/// Neither side has to finish before the other may go on: each piece is passed on when it comes.
#[test]
fn pieces_are_passed_on_when_they_come() {
    let upstream = Upstream::scripted(|exchange| {
        exchange.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let stream = Mutex::new(exchange.stream().try_clone()?);
        exchange.read_body(|bytes| {
            let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
            stream.lock().unwrap().write_all(&chunk).unwrap();
        })?;
        exchange.raw(b"0\r\n\r\n")
    });
    let gateway = Site::new(&upstream).start();
    let mut connection = gateway.connect();
    connection.send(b"POST /public/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
    assert!(connection.read_head().unwrap().starts_with(b"HTTP/1.1 200"));
    for word in ["first", "again", "third"] {
        let mut echoed = String::from_utf8(connection.take_buffer()).unwrap();
        let mut bytes = [0; 256];
        while !echoed.contains(word) {
            let count = connection.stream().read(&mut bytes).unwrap();
            echoed.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
        let next = match word {
            "first" => "again",
            _ => "third",
        };
        connection.send(format!("5\r\n{next}\r\n").as_bytes());
    }
}

#[test]
fn a_thousand_clients_at_the_same_time_are_all_served() {
    let count: usize = std::env::var("PORTCULLIS_CLIENTS").map_or(1000, |count| count.parse().unwrap());
    raise_descriptor_limit(4 * count as u64 + 1000);
    let arrived = Arc::new(AtomicU64::new(0));
    let gate = Arc::new(Latch::default());
    let (here, door) = (Arc::clone(&arrived), Arc::clone(&gate));
    let upstream = Upstream::scripted(move |exchange| {
        here.fetch_add(1, Ordering::AcqRel);
        door.wait();
        let user = exchange.recorded.header("x-auth-request-user").unwrap_or_default().to_owned();
        exchange.answer(200, &[], user.as_bytes())
    });
    let site = Site::new(&upstream);
    let gateway = site.start();
    let clients: Vec<_> = (0..count)
        .map(|index| {
            let user = format!("user-{index}");
            let token = bearer(&site.accounts.token_of(&user));
            let mut connection = gateway.connect();
            let run = move || {
                connection.send(&request("GET", "/orders", &[("Authorization", &token)], b""));
                let response = connection.response();
                assert_eq!((response.status, response.text()), (200, user));
            };
            thread::Builder::new().stack_size(256 * 1024).spawn(run).unwrap()
        })
        .collect();
    let everybody = u64::try_from(count).unwrap();
    until("every request to be at the upstream", || (arrived.load(Ordering::Acquire) == everybody).then_some(()));
    assert_eq!(gateway.admin().metric("portcullis_requests_in_flight", &[]), count as f64);
    gate.open();
    for client in clients {
        client.join().unwrap();
    }
    until("no request to be in flight", || {
        (gateway.admin().metric("portcullis_requests_in_flight", &[]) == 0.0).then_some(())
    });
    let answered = gateway.admin().metric("portcullis_upstream_requests_total", &[("result", "answered")]);
    assert_eq!(answered, count as f64);
    until("the clients' connections to be closed", || (gateway.descriptors() < count).then_some(()));
}

/// Two descriptors a request in this process, two in the gateway, which inherits the limit.
fn raise_descriptor_limit(wanted: u64) {
    let id = std::process::id().to_string();
    let limit = format!("--nofile={wanted}:");
    let raised = std::process::Command::new("prlimit").args(["--pid", &id, &limit]).status().unwrap();
    assert!(raised.success(), "{wanted} file descriptors are not allowed here");
}
