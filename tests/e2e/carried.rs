//! What HTTP/1.1 carries besides plain bodies, each as it came: no body where there is none, parts of one, bodies that
//! say no length, interim answers.

use crate::support::http2::head;
use crate::support::{Gateway, Http2, Site, Upstream, request};

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

const TRAILING: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Count, Set-Cookie\r\n\r\n\
                          2\r\nok\r\n0\r\nX-Count: 2\r\nSet-Cookie: a=b\r\nX-Unsaid: 1\r\n\r\n";

/// An upstream that answers with trailers once it has those of the request, and a gateway before it that speaks HTTP/2 too.
fn trailing() -> (Upstream, Gateway) {
    let upstream = Upstream::scripted(|exchange| {
        exchange.read_body(|_| {})?;
        exchange.raw(TRAILING)
    });
    let gateway = crate::http2::site(&upstream).start();
    (upstream, gateway)
}

#[test]
fn trailers_pass_both_ways_where_they_were_announced() {
    let (upstream, gateway) = trailing();
    let mut connection = gateway.connect();
    for (takes, said, came) in [
        (&[("TE", "trailers"), ("Connection", "TE")][..], Some("trailers"), &["x-count: 2".to_owned()][..]),
        (&[("TE", "trailers")], None, &[]),
        (&[("TE", "gzip"), ("Connection", "TE")], None, &[]),
        (&[], None, &[]),
    ] {
        let announces = [("Transfer-Encoding", "chunked"), ("Trailer", "X-Sum, Authorization, X_Forwarded_For")];
        connection.send(&request("POST", "/public/", &[&announces, takes].concat(), b""));
        let response = connection
            .send(
                b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nAuthorization: Bearer x\r\nX_Forwarded_For: 1.1.1.1\r\n\
                  X-Unsaid: 1\r\n\r\n",
            )
            .response();
        assert_eq!((response.status, response.text().as_str()), (200, "ok"), "{takes:?}");
        assert_eq!(response.trailers, came, "{takes:?}");
        assert_eq!(response.header("trailer"), came.first().map(|_| "x-count"), "{takes:?}");
        let recorded = upstream.take_one();
        assert_eq!(recorded.body.as_slice(), b"hello", "{takes:?}");
        assert_eq!(recorded.trailers, ["x-sum: 1"], "{takes:?}");
        assert_eq!(recorded.header("trailer"), Some("x-sum"), "{takes:?}");
        let connection = said.map(|_| "TE");
        assert_eq!((recorded.header("te"), recorded.header("connection")), (said, connection), "{takes:?}");
    }
}

#[test]
fn trailers_pass_between_a_client_of_http2_and_an_upstream_of_http1() {
    let (upstream, gateway) = trailing();
    let mut client = Http2::open(&gateway);
    for (fields, said) in
        [(&[("trailer", "x-sum"), ("te", "trailers")][..], Some("trailers")), (&[("trailer", "x-sum")], None)]
    {
        let mut call = client.start(head("POST", "/public/", fields), false);
        call.upload.send_data("hello".into(), false).unwrap();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        trailers.insert("x-auth-request-user", "root".parse().unwrap());
        call.upload.send_trailers(trailers).unwrap();
        let answer = call.answer().unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{said:?}");
        let came: Vec<_> = answer.trailers.keys().map(http::HeaderName::as_str).collect();
        assert_eq!(came, ["x-count", "x-unsaid"], "{said:?}");
        let recorded = upstream.take_one();
        assert_eq!((recorded.body.as_slice(), recorded.header("te")), (&b"hello"[..], said));
        assert_eq!(recorded.trailers, ["x-sum: 1"], "{said:?}");
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
