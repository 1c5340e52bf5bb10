//! HTTP/2 connections that mean no good: each ends in time, and nobody else notices.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::http2::site;
use crate::support::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, PRIORITY, RST_STREAM, SETTINGS, WHOLE,
    WINDOW_UPDATE, block, frame, get,
};
use crate::support::{Frames, Gateway, Http2, Upstream, until};

const ENHANCE_YOUR_CALM: u32 = 11;

/// That the gateway serves as if nothing had happened.
fn serves(gateway: &Gateway) {
    assert_eq!(Http2::open(gateway).get("/public/", &[]).status, 200);
    assert_eq!(gateway.get("/public/", &[]).status, 200);
}

#[test]
fn floods_of_frames_end_the_connection() {
    let upstream = Upstream::start();
    let gateway = site(&upstream).start();
    let post = block(&[(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/public/")]);
    // What comes once, and what comes again and again.
    for (name, first, flood, limit) in [
        ("ping", vec![], frame(PING, 0, 0, &[0; 8]), "http2_control_frames"),
        ("settings", vec![], frame(SETTINGS, 0, 0, &[]), "http2_control_frames"),
        ("priority", vec![], frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]), "http2_control_frames"),
        ("window", vec![], frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), "http2_control_frames"),
        ("unknown", vec![], frame(99, 0, 0, &[]), "http2_control_frames"),
        ("empty data", frame(HEADERS, END_HEADERS, 1, &post), frame(DATA, 0, 1, &[]), "http2_control_frames"),
    ] {
        let hits = || gateway.admin().metric("portcullis_limits_hit_total", &[("limit", limit)]);
        let before = hits();
        let mut frames = Frames::open(gateway.address);
        assert!(frames.raw(&first));
        for _ in 0..100 {
            if !frames.raw(&flood.repeat(100)) {
                break;
            }
        }
        let code = frames.ended();
        assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{name}: {code:?}");
        // The library has a bound of its own for empty DATA, which may come first.
        if name != "empty data" {
            until(name, || (hits() == before + 1.0).then_some(()));
        }
    }
    serves(&gateway);
}

#[test]
fn requests_that_are_taken_back_end_the_connection() {
    let upstream = Upstream::start();
    let gateway = site(&upstream).start();
    let mut frames = Frames::open(gateway.address);
    let head = get("/public/", &[]);
    for stream in (1..20_001).step_by(2) {
        let both = [frame(HEADERS, WHOLE, stream, &head), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat();
        if !frames.raw(&both) {
            break;
        }
    }
    let code = frames.ended();
    assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{code:?}");
    assert!(upstream.take().len() <= 400, "most of them reached nobody");
    serves(&gateway);
}

#[test]
fn resets_that_the_gateway_is_made_to_send_end_the_connection() {
    let upstream = Upstream::scripted(|exchange| exchange.await_close());
    let gateway = site(&upstream).start();
    let mut frames = Frames::open(gateway.address);
    let head = get("/public/", &[]);
    // Each of them is a good request until a window is opened for it that cannot be.
    for stream in (1..20_001).step_by(2) {
        let both =
            [frame(HEADERS, WHOLE, stream, &head), frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff])].concat();
        if !frames.raw(&both) {
            break;
        }
    }
    let code = frames.ended();
    assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{code:?}");
    drop(frames);
}

#[test]
fn heads_that_do_not_end_or_are_too_large_are_not_kept() {
    let upstream = Upstream::start();
    let gateway = site(&upstream).start();
    let before = gateway.memory("VmRSS");
    for (name, flags, piece) in
        [("fields", 0, block(&[("x-field", &"x".repeat(1000))]).repeat(10)), ("nothing", 0, Vec::new())]
    {
        let mut frames = Frames::open(gateway.address);
        assert!(frames.send(HEADERS, END_STREAM, 1, &get("/public/", &[])), "{name}");
        for _ in 0..20_000 {
            if !frames.send(CONTINUATION, flags, 1, &piece) {
                break;
            }
        }
        frames.ended();
    }
    // One field that is remembered, and then named a thousand times in a byte each.
    let large = "x".repeat(3900);
    let mut bomb = get("/public/", &[]);
    bomb.push(0x40);
    bomb.extend_from_slice(&block(&[("x-bomb", &large)])[1..]);
    bomb.extend_from_slice(&[0xbe; 1000]);
    let mut frames = Frames::open(gateway.address);
    frames.send(HEADERS, WHOLE, 1, &bomb);
    let answer = frames.find(|frame| frame.stream == 1 || frame.kind == 7).expect("an answer");
    assert!([HEADERS, RST_STREAM, 7].contains(&answer.kind), "{answer:?}");
    let grown = gateway.memory("VmRSS").saturating_sub(before);
    assert!(grown < 20 * 1024, "{grown} KiB");
    assert!(upstream.take().is_empty());
    serves(&gateway);
}

#[test]
fn no_more_than_so_many_requests_run_at_once() {
    let upstream = Upstream::scripted(|exchange| exchange.await_close());
    let mut site = site(&upstream);
    site.set("/limits", json!({"http2": {"streams": 3}}));
    let gateway = site.start();
    let mut frames = Frames::open(gateway.address);
    for stream in [1, 3, 5, 7] {
        assert!(frames.send(HEADERS, WHOLE, stream, &get("/public/", &[])));
    }
    let refused = frames.find(|frame| frame.kind == RST_STREAM).expect("a reset");
    assert_eq!((refused.stream, refused.payload.as_slice()), (7, &[0, 0, 0, 7][..]), "REFUSED_STREAM");
    upstream.await_requests(3);
    assert_eq!(gateway.admin().metric("portcullis_limits_hit_total", &[("limit", "http2_streams")]), 1.0);
}

#[test]
fn who_says_nothing_is_let_go_in_time() {
    let upstream = Upstream::start();
    let mut site = site(&upstream);
    site.set("/limits", json!({"header_timeout": "1s", "http2": {"idle_timeout": "1s"}}));
    let gateway = site.start();
    let began = Instant::now();
    for (name, bytes) in [
        ("nothing", &b""[..]),
        ("half a preface", &PREFACE[..10]),
        ("half of HTTP/1.1", b"PRI * HTTP/1.1\r\nHost: a\r\n"),
        ("a preface", PREFACE),
        ("settings", &[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()),
        ("half a head", &[PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, 1, 1, &get("/public/", &[]))].concat()),
    ] {
        let mut frames = Frames::silent(gateway.address);
        assert!(frames.raw(bytes), "{name}");
        frames.ended();
    }
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert!(upstream.take().is_empty());
    // One that has made a request is told, and may leave in order.
    let mut client = Http2::open(&gateway);
    assert_eq!(client.get("/public/", &[]).status, 200);
    assert!(client.ended().is_ok());
    // One that answers to nothing is closed.
    let mut frames = Frames::open(gateway.address);
    assert!(frames.send(HEADERS, WHOLE, 1, &get("/public/", &[])));
    assert_eq!(frames.ended(), Some(0));
    let hits = |limit| gateway.admin().metric("portcullis_limits_hit_total", &[("limit", limit)]);
    assert_eq!(hits("header_timeout"), 6.0, "each that has made no request");
    assert!(hits("idle_timeout") >= 1.0);
}
