//! What HTTP/1.1 carries besides plain bodies, each as it came: no body where there is none, parts of one, bodies that
//! say no length, interim answers.

use crate::support::{Gateway, Site, Upstream, request};

fn before(answer: &'static [u8], closes: bool) -> (Upstream, Gateway) {
    let upstream = Upstream::scripted(move |exchange| {
        if closes {
            exchange.close();
        }
        exchange.raw(answer)
    });
    let gateway = Site::new(&upstream).start();
    (upstream, gateway)
}

#[test]
fn answers_without_a_body_have_none_and_the_connection_goes_on() {
    for (name, method, answer, status, length) in [
        ("HEAD with a length", "HEAD", &b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n"[..], 200, Some("12345")),
        ("HEAD in chunks", "HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, None),
        ("204", "DELETE", b"HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        (
            "304 with a length",
            "GET",
            b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 7\r\n\r\n",
            304,
            Some("7"),
        ),
        ("an empty 200", "GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, Some("0")),
    ] {
        let (_upstream, gateway) = before(answer, false);
        let mut connection = gateway.connect();
        for _ in 0..2 {
            let response = match method {
                "HEAD" => connection.send(&request(method, "/public/", &[], b"")).response_to_head(),
                _ => connection.send(&request(method, "/public/", &[], b"")).response(),
            };
            assert_eq!((response.status, response.body.len()), (status, 0), "{name}");
            let said = response.header("content-length");
            assert!(said == length || status == 304 && said.is_none(), "{name}: {response:?}");
        }
        assert!(connection.take_buffer().is_empty(), "{name}");
    }
}

#[test]
fn a_part_of_a_body_is_asked_for_and_answered_as_it_is() {
    let upstream = Upstream::scripted(|exchange| {
        assert_eq!(exchange.recorded.header("range"), Some("bytes=1-3"));
        exchange.answer(206, &[("Content-Range", "bytes 1-3/5"), ("Accept-Ranges", "bytes")], b"ell")
    });
    let gateway = Site::new(&upstream).start();
    let response = gateway.get("/public/", &[("Range", "bytes=1-3"), ("If-Range", "\"a\"")]);
    assert_eq!((response.status, response.text().as_str()), (206, "ell"));
    assert_eq!(response.header("content-range"), Some("bytes 1-3/5"));
    assert_eq!(upstream.take_one().header("if-range"), Some("\"a\""));
}

#[test]
fn a_body_without_a_length_ends_where_the_upstream_ends_it() {
    let (_upstream, gateway) = before(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", true);
    let mut connection = gateway.connect();
    for _ in 0..2 {
        let response = connection.send(&request("GET", "/public/", &[], b"")).response();
        assert_eq!((response.status, response.text().as_str()), (200, "until the end"));
        assert_eq!(response.header("transfer-encoding"), Some("chunked"), "the client's connection goes on");
    }
    // HTTP/1.0 knows no chunks: there the end of the connection ends the body.
    let response = gateway.raw(b"GET /public/ HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!((response.text().as_str(), response.header("transfer-encoding")), ("until the end", None));
}

#[test]
fn interim_answers_of_the_upstream_end_here_and_the_final_one_passes() {
    let (_upstream, gateway) = before(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        false,
    );
    let mut connection = gateway.connect();
    for _ in 0..2 {
        let response = connection.send(&request("GET", "/public/", &[], b"")).response();
        assert_eq!((response.status, response.text().as_str()), (200, "ok"));
        assert_eq!((response.interim.len(), response.header("link")), (0, None));
    }
}
