//! The recorder and the client, against each other: what the other tests stand on must hold by itself.

use crate::support::client::NoAnswer;
use crate::support::{Connection, Upstream, request};

#[test]
fn the_upstream_records_bodies_and_answers_on_one_connection() {
    let upstream = Upstream::start();
    let mut connection = Connection::open(upstream.address());
    for body in ["", "one", "two and more"] {
        connection.send(&request("POST", "/a?b=c", &[("X-One", "1"), ("x-one", "2")], body.as_bytes()));
        assert_eq!((connection.response().status, upstream.requests().len()), (200, 1));
        let recorded = upstream.take_one();
        assert_eq!((recorded.method.as_str(), recorded.target.as_str()), ("POST", "/a?b=c"));
        assert_eq!(recorded.all("X-One"), ["1", "2"]);
        assert_eq!((recorded.body.as_slice(), recorded.connection), (body.as_bytes(), 1));
    }
    assert!(upstream.bytes() > 100);
}

#[test]
fn chunks_and_trailers_are_understood_in_both_directions() {
    let upstream = Upstream::scripted(|exchange| {
        exchange.read_body(|_| ())?;
        exchange.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n")
    });
    let mut connection = Connection::open(upstream.address());
    connection.send(&request("POST", "/", &[("Transfer-Encoding", "chunked")], b""));
    connection.send(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Trailer: yes\r\n\r\n");
    let response = connection.response();
    assert_eq!((response.text().as_str(), response.trailers), ("hello", vec!["X-T: 1".to_owned()]));
    let recorded = upstream.take_one();
    assert_eq!((recorded.body.as_slice(), recorded.trailers), (b"abcde".as_slice(), vec!["X-Trailer: yes".to_owned()]));
}

#[test]
fn an_answer_that_breaks_off_is_noticed() {
    let upstream = Upstream::scripted(|exchange| {
        exchange.close();
        exchange.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal")
    });
    let mut connection = Connection::open(upstream.address());
    assert_eq!(connection.send(&request("GET", "/", &[], b"")).try_response().unwrap_err(), NoAnswer::Truncated);
}
