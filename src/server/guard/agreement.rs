//! The watch and the parser agree on where each message ends, however the bytes are cut and whatever is in them.

use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRng, TestRunner};
use tokio::io::AsyncWriteExt;

use super::*;
use crate::server::http1::framing;

/// What the parser has handed over: the target and the body.
type Seen = (String, Vec<u8>);

/// Shows `bytes`, cut into pieces of these sizes in turn, to the parser under a watch. Gives what the parser handed
/// over, and what the watch said of each.
fn serve(bytes: &[u8], cuts: &[usize]) -> (Vec<Seen>, Vec<Option<Violation>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let said = Rc::new(RefCell::new(Vec::new()));
    runtime.block_on(async {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let watch = Rc::new(RefCell::new(Watch::new(4096)));
        let patient = Patient::new(ours, Vec::new(), Duration::from_secs(60));
        let guarded = Guarded::new(patient, Rc::clone(&watch));
        let service = service_fn(|request: Request<Incoming>| {
            let violation = watch.borrow_mut().head_read(framing(&request));
            said.borrow_mut().push(violation);
            let seen = Rc::clone(&seen);
            async move {
                let target = request.uri().to_string();
                // Half a body is none: the parser has refused the rest of it.
                let body = request.into_body().collect().await?.to_bytes().to_vec();
                seen.borrow_mut().push((target, body));
                Ok::<_, hyper::Error>(Response::new(Empty::<bytes::Bytes>::new()))
            }
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(guarded), service);
        let sending = async {
            let (mut rest, mut cuts) = (bytes, cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(cuts.next().map_or(1, |cut| *cut).min(rest.len()));
                if theirs.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
                rest = after;
            }
            let _ = theirs.shutdown().await;
            // The answers are read, so that nobody waits for room.
            let _ = tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await;
        };
        // The parser ends with an error where it refuses something: that is its part.
        let (_served, ()) = tokio::join!(serving, sending);
    });
    (seen.take(), said.take())
}

/// Bytes that look like something else.
fn tempting() -> impl Strategy<Value = Vec<u8>> {
    let texts = prop::sample::select(vec![
        &b"GET /x HTTP/1.1\r\nHost: b\r\n\r\n"[..],
        b"0\r\n\r\n",
        b"\r\n\r\n",
        b"\n\n#",
        b"5\r\nhello\r\n",
        b"Content-Length: 9\r\n",
    ]);
    prop_oneof![texts.prop_map(<[u8]>::to_vec), vec(any::<u8>(), 0..40)]
}

#[derive(Clone, Debug)]
enum Sent {
    Nothing,
    Length(Vec<u8>),
    Chunks(Vec<Vec<u8>>, bool, bool),
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        Just(Sent::Nothing),
        tempting().prop_map(Sent::Length),
        (vec(tempting(), 0..4), any::<bool>(), any::<bool>())
            .prop_map(|(chunks, extended, trailers)| Sent::Chunks(chunks, extended, trailers)),
    ]
}

/// The bytes of a request for `/place`, and the body that is in them.
fn spell(place: usize, sent: &Sent) -> (Vec<u8>, Vec<u8>) {
    let head = |more: &str| format!("POST /{place} HTTP/1.1\r\nHost: a\r\n{more}\r\n").into_bytes();
    match sent {
        Sent::Nothing => (head(""), Vec::new()),
        Sent::Length(body) => {
            ([head(&format!("Content-Length: {}\r\n", body.len())), body.clone()].concat(), body.clone())
        }
        Sent::Chunks(chunks, extended, trailers) => {
            let mut bytes = head("Transfer-Encoding: chunked\r\n");
            for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                let extension = if *extended { ";a=\"b c\"" } else { "" };
                bytes.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(if *trailers { b"0\r\nX-T: 0\r\nX-U: 1\r\n\r\n" } else { b"0\r\n\r\n" });
            (bytes, chunks.concat())
        }
    }
}

fn runner() -> TestRunner {
    let config = Config { cases: 400, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(Default::default()))
}

/// The last request of each is one that only the watch refuses: were it out of step, it would see it elsewhere.
#[test]
fn good_messages_end_where_both_say_and_a_violation_is_found_in_its_own() {
    let requests = (vec(sent(), 0..6), vec(1..50_usize, 1..6));
    let outcome = runner().run(&requests, |(requests, cuts)| {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for (place, sent) in requests.iter().enumerate() {
            let (spelled, body) = spell(place, sent);
            bytes.extend_from_slice(&spelled);
            expected.push((format!("/{place}"), body));
        }
        bytes.extend_from_slice(b"GET /last#fragment HTTP/1.1\r\nHost: a\r\n\r\n");
        let (seen, said) = serve(&bytes, &cuts);
        prop_assert_eq!(&seen[..seen.len().min(expected.len())], &expected[..]);
        let mut wanted = vec![None; expected.len()];
        wanted.push(Some(Violation::Fragment));
        prop_assert_eq!(said, wanted);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

/// Whatever is broken in it: the parser hands over no request whose head the watch has not seen end.
#[test]
fn nothing_that_is_broken_brings_the_two_out_of_step() {
    let broken =
        (vec(sent(), 1..5), vec(1..50_usize, 1..6), vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..4));
    let outcome = runner().run(&broken, |(requests, cuts, changes)| {
        let mut bytes: Vec<u8> = requests.iter().enumerate().flat_map(|(place, sent)| spell(place, sent).0).collect();
        for (at, byte, how) in changes {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, *b"\r\n0: #".get(usize::from(byte) % 7).unwrap_or(&byte)),
                _ if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => {}
            }
        }
        let (_, said) = serve(&bytes, &cuts);
        prop_assert!(!said.contains(&Some(Violation::OutOfStep)), "{:?}", String::from_utf8_lossy(&bytes));
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
