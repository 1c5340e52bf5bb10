//! Against servers of raw bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;

const BOUNDS: Bounds = Bounds { timeout: Duration::from_secs(5), body_bytes: 1000, idle_connections: 0 };
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nkeys";

/// Answers each connection with the bytes for its number; the thread ends with the last of them.
fn serve(address: &str, answers: Vec<String>) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        for answer in answers {
            let Ok((mut stream, _)) = listener.accept() else { return };
            read_head(&mut stream);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    at
}

fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn at(address: SocketAddr, path: &str) -> Endpoint {
    format!("http://{address}{path}").parse().unwrap()
}

fn plain(bounds: Bounds) -> Client {
    Client::new(&Trust::nobody(), bounds)
}

async fn get(answers: Vec<String>) -> Result<Answer, FetchError> {
    plain(BOUNDS).get(&at(serve("127.0.0.1:0", answers), "/keys"), "application/json").await
}

fn told(result: Result<Answer, FetchError>) -> String {
    match result {
        Ok(answer) => String::from_utf8(answer.body.to_vec()).unwrap(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_small_whole_answer_is_read_and_nothing_else() {
    let redirect = |to: &str| format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
    let elsewhere = "the server redirects to another one, or in circles";
    let large = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(1001));
    let announced = "HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n".to_owned() + &"x".repeat(1001);
    let coded = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nkeys".to_owned();
    for (answers, wanted) in [
        (vec![OK.to_owned()], "keys"),
        (vec!["HTTP/1.1 200 OK\r\n\r\nkeys".to_owned()], "keys"),
        (vec![redirect("/moved"), OK.to_owned()], "keys"),
        (vec![redirect("http://127.0.0.2:1/keys")], elsewhere),
        (vec![redirect("https://127.0.0.1/keys")], elsewhere),
        (vec![redirect("file:///etc/passwd")], elsewhere),
        (vec![redirect("")], elsewhere),
        (vec!["HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n".to_owned()], elsewhere),
        (vec![redirect("/a"), redirect("/b"), redirect("/a"), redirect("/b")], elsewhere),
        (vec!["HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned()], "the server answered with status 500"),
        (vec!["HTTP/1.1 304 No\r\n\r\n".to_owned()], "the server answered with status 304"),
        (vec![large], "the answer is larger than 1000 bytes"),
        (vec![announced], "the answer is larger than 1000 bytes"),
        (vec![coded], "the answer has a content coding"),
        (vec![OK.replace('4', "40")], "the answer broke off or is malformed"),
        (vec!["<html>".to_owned()], "the answer broke off or is malformed"),
        (vec![String::new()], "the answer broke off or is malformed"),
    ] {
        assert_eq!(told(get(answers.clone()).await), wanted, "{answers:?}");
    }
}

#[tokio::test]
async fn a_server_that_drips_gets_no_more_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n").unwrap();
        // Until the other side is gone, which a peek with a timeout tells without reading.
        stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        while stream.write_all(b"x").is_ok() && !stream.peek(&mut [0]).is_ok_and(|count| count == 0) {}
    });
    let client = plain(Bounds { timeout: Duration::from_millis(200), body_bytes: 1 << 20, ..BOUNDS });
    let before = std::time::Instant::now();
    assert_eq!(told(client.get(&at(address, "/"), "*/*").await), "no whole answer within 200ms");
    assert!(before.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_the_message_has_no_query() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = plain(BOUNDS).get(&at(address, "/keys?key=secret"), "*/*").await.unwrap_err();
    let mut text = format!("{error} {error:?}");
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(&format!(" {cause}"));
        source = cause.source();
    }
    assert!(matches!(error, FetchError::Unreachable(_)), "{text}");
    assert!(text.contains("refused") && !text.contains("secret"), "{text}");
    let unknown: Endpoint = "http://nowhere.invalid/keys".parse().unwrap();
    assert!(matches!(plain(BOUNDS).get(&unknown, "*/*").await, Err(FetchError::Unreachable(_))));
}

#[tokio::test]
async fn both_address_families_are_reached() {
    for listening in ["127.0.0.1:0", "[::1]:0"] {
        let address = serve(listening, vec![OK.to_owned()]);
        assert_eq!(told(plain(BOUNDS).get(&at(address, "/"), "*/*").await), "keys", "{listening}");
    }
}

#[tokio::test]
async fn what_is_sent_is_what_was_said() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let head = read_head(&mut stream);
        let mut body = vec![0; 7];
        stream.read_exact(&mut body).unwrap();
        stream.write_all(b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        (head, body)
    });
    let secret = HeaderValue::from_static("Bearer abc");
    let answer =
        plain(BOUNDS).post_json(&at(address, "/q?a=b"), Some(&secret), Bytes::from_static(b"{\"a\":1}")).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::NOT_FOUND, &b"{}"[..]));
    let (head, body) = server.join().unwrap();
    assert!(head.starts_with("POST /q?a=b HTTP/1.1\r\n"), "{head}");
    for field in [
        "content-type: application/json",
        "accept-encoding: identity",
        "user-agent: portcullis/",
        "authorization: Bearer abc",
    ] {
        assert!(head.contains(field), "{field}: {head}");
    }
    assert_eq!(body, b"{\"a\":1}");
}

/// A certificate for `localhost` by an authority of its own: the authority's PEM and the server's side.
fn authority() -> (String, Arc<ServerConfig>) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    (pem, Arc::new(config.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key).unwrap()))
}

fn serve_tls(config: Arc<ServerConfig>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let mut stream: StreamOwned<_, TcpStream> =
                StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
            if read_head(&mut stream).is_empty() {
                continue;
            }
            let _ = stream.write_all(OK.as_bytes());
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    at
}

#[tokio::test]
async fn only_the_given_authority_is_believed_and_only_for_the_name_it_vouches_for() {
    let (pem, config) = authority();
    let (other, _) = authority();
    let address = serve_tls(config);
    for (host, pem, good) in [("localhost", &pem, true), ("localhost", &other, false), ("127.0.0.1", &pem, false)] {
        let client = Client::new(&Trust::only(pem).unwrap(), BOUNDS);
        let endpoint: Endpoint = format!("https://{host}:{}/keys", address.port()).parse().unwrap();
        let result = client.get(&endpoint, "*/*").await;
        assert_eq!(result.is_ok(), good, "{host}: {result:?}");
        assert!(good || matches!(result, Err(FetchError::Unreachable(_))), "{host}");
    }
    let nobody = Client::new(&Trust::nobody(), BOUNDS);
    let endpoint: Endpoint = format!("https://localhost:{}/keys", address.port()).parse().unwrap();
    assert!(nobody.get(&endpoint, "*/*").await.is_err());
}

#[test]
fn an_authority_is_a_certificate() {
    let key = rcgen::KeyPair::generate().unwrap();
    for text in ["", "no PEM", &key.public_key_pem(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
    {
        assert_eq!(Trust::only(text).map(drop), Err(TrustError::Malformed), "{text}");
    }
}
