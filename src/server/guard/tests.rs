//! What the watch finds, and how the stream ends.

use super::*;

/// Shows `bytes` to a watch in pieces of `step`, telling it `framings` as heads end.
fn watch(bytes: &[u8], step: usize, framings: &[Framing]) -> (Vec<Option<Violation>>, State) {
    let mut watch = Watch::new(64);
    let mut framings = framings.iter();
    let mut found = Vec::new();
    for piece in bytes.chunks(step) {
        watch.see(piece);
        while watch.state == State::Undecided || watch.violation.is_some() {
            let Some(framing) = framings.next() else { break };
            found.push(watch.head_read(*framing));
        }
    }
    (found, watch.state)
}

const NONE: Framing = Framing::Nothing;

#[test]
fn good_heads_and_bodies_pass_however_they_are_cut() {
    let bytes = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n\
        POST /p HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\na\nb#c\
        POST /c HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
        3;x=\"y\"\r\n\n#\n\r\n1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nt: 1\r\n\r\n\
        \r\nGET /last HTTP/1.1\r\nhost: a\r\n\r\n";
    for step in 1..=bytes.len() {
        let (found, state) = watch(bytes, step, &[NONE, Framing::Length(5), Framing::Chunked, NONE]);
        assert_eq!(found, [None, None, None, None], "in pieces of {step}");
        assert_eq!(state, START, "in pieces of {step}");
    }
}

#[test]
fn violations_are_found_in_the_head_they_are_in() {
    for (bytes, wanted) in [
        (&b"GET / HTTP/1.1\nhost: a\r\n\r\n"[..], Violation::BareLineFeed),
        (b"GET / HTTP/1.1\r\nhost: a\n\r\n", Violation::BareLineFeed),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\n", Violation::BareLineFeed),
        (b"GET /public#/../admin HTTP/1.1\r\nhost: a\r\n\r\n", Violation::Fragment),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
            Violation::TwoFramings,
        ),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding:x\r\nCONTENT-LENGTH:\r\n\r\n", Violation::TwoFramings),
    ] {
        for step in 1..=bytes.len() {
            let (found, _) = watch(bytes, step, &[NONE]);
            assert_eq!(found, [Some(wanted)], "{:?} in pieces of {step}", String::from_utf8_lossy(bytes));
        }
    }
    let long = [b"GET /".as_slice(), &[b'a'; 200], b" HTTP/1.1\r\nhost: a\r\n\r\n"].concat();
    assert_eq!(watch(&long, 16, &[NONE]).0, [Some(Violation::TargetTooLong)]);
    let framed_once = b"POST / HTTP/1.1\r\ncontent-length: 0\r\nx-transfer-encoding: a\r\ncontent-lengths: 1\r\n\r\n\
        POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encodings: a\r\n\r\n0\r\n\r\n";
    for step in 1..=framed_once.len() {
        assert_eq!(watch(framed_once, step, &[NONE, Framing::Chunked]).0, [None, None], "in {step}");
    }
    let second = b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\nhost: a\r\n\r\n";
    for step in 1..=second.len() {
        assert_eq!(watch(second, step, &[NONE, NONE]).0, [None, Some(Violation::BareLineFeed)], "in {step}");
    }
}
