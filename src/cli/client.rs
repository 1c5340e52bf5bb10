//! A small client of the admin API, over TCP or a Unix socket.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};

use super::exit::{Exit, Failure};
use crate::secret::Secret;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(60);
/// The largest answer read, in bytes.
const LARGEST: usize = 32 * 1024 * 1024;

/// Where the admin API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// `http://127.0.0.1:9901`.
    Tcp(String),
    /// `unix:/run/portcullis/admin.sock`.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err("unix: needs a path".to_owned()) } else { Ok(Self::Unix(path.into())) };
        }
        let expected = || "expected http://HOST:PORT or unix:PATH".to_owned();
        let authority = text.strip_prefix("http://").ok_or_else(expected)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let parsed: http::uri::Authority = authority.parse().map_err(|_| expected())?;
        if parsed.port_u16().is_none() || authority.contains('@') {
            return Err(expected());
        }
        Ok(Self::Tcp(authority.to_owned()))
    }
}

/// One admin API and the credential for it.
pub(super) struct Client {
    address: Address,
    token: Option<Secret>,
}

/// An answer that was not a refusal.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Value,
}

impl Client {
    pub(super) fn new(address: Address, token: Option<Secret>) -> Self {
        Self { address, token }
    }

    /// Asks, and reads the whole answer. `path` is already encoded.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Reply, Failure> {
        let response = self.send(method, path, body, key).await?;
        let status = response.status();
        let bytes = match tokio::time::timeout(ANSWER, Limited::new(response.into_body(), LARGEST).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) | Err(_) => return Err(unavailable("the answer broke off")),
        };
        let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if status.is_success() {
            return Ok(Reply { status, body });
        }
        Err(refusal(status, &body))
    }

    /// Asks for a stream of events; the caller reads its body.
    pub(super) async fn follow(&self, path: &str) -> Result<Incoming, Failure> {
        let response = self.send(Method::GET, path, None, None).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let bytes = Limited::new(response.into_body(), LARGEST).collect().await.map(|body| body.to_bytes());
        let body: Value = bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Err(refusal(status, &body))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Response<Incoming>, Failure> {
        let mut sender = tokio::time::timeout(CONNECT, self.connect())
            .await
            .map_err(|_| unavailable("connecting to the admin API took too long"))??;
        let host = match &self.address {
            Address::Tcp(authority) => authority,
            Address::Unix(_) => "localhost",
        };
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
        if let Some(token) = &self.token {
            let mut value = http::HeaderValue::from_bytes(&[b"Bearer ", token.expose()].concat())
                .map_err(|_| Failure::new(Exit::Usage, "the admin token has characters that no token has"))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(bytes))
            .map_err(|_| Failure::new(Exit::Usage, "an argument does not fit into a request"))?;
        match tokio::time::timeout(ANSWER, sender.send_request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Failure::of(Exit::Unavailable, "the admin API did not answer", &error)),
            Err(_) => Err(unavailable("the admin API took too long to answer")),
        }
    }

    async fn connect(&self) -> Result<http1::SendRequest<Full<Bytes>>, Failure> {
        match &self.address {
            Address::Tcp(authority) => {
                let stream = TcpStream::connect(authority.as_str()).await;
                handshake(stream.map_err(|error| unreachable(authority, &error))?).await
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await;
                handshake(stream.map_err(|error| unreachable(&path.display().to_string(), &error))?).await
            }
        }
    }
}

async fn handshake<S>(stream: S) -> Result<http1::SendRequest<Full<Bytes>>, Failure>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Failure::of(Exit::Unavailable, "the admin API did not answer", &error))?;
    // An error of the connection is also the answer's error.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

fn unavailable(message: &str) -> Failure {
    Failure::new(Exit::Unavailable, message)
}

fn unreachable(place: &str, error: &std::io::Error) -> Failure {
    let exit = if error.kind() == std::io::ErrorKind::PermissionDenied { Exit::Denied } else { Exit::Unavailable };
    Failure::of(exit, &format!("cannot reach the admin API at {place}"), error)
}

fn refusal(status: StatusCode, body: &Value) -> Failure {
    let exit = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::Denied,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Exit::Unavailable,
        _ => Exit::Failed,
    };
    let mut message = super::show::printable(body["detail"].as_str().unwrap_or("the admin API refused"));
    if let Some(reason) = body["reason"].as_str() {
        // Writing to a String does not fail.
        let _ = write!(message, " ({}, status {})", super::show::printable(reason), status.as_u16());
    }
    Failure::new(exit, message)
}

/// The admin token in a file, without the line end that editors leave behind.
pub(super) fn token_file(path: &Path) -> Result<Secret, Failure> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(4096).read_to_end(&mut bytes))
        .map_err(|error| Failure::of(Exit::Usage, &format!("cannot read {}", path.display()), &error))?;
    let length = bytes.trim_ascii_end().len();
    bytes.truncate(length);
    Ok(Secret::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_http_or_unix() {
        for (text, address) in [
            ("http://127.0.0.1:9901", Some(Address::Tcp("127.0.0.1:9901".to_owned()))),
            ("http://[::1]:9901/", Some(Address::Tcp("[::1]:9901".to_owned()))),
            ("unix:/run/p.sock", Some(Address::Unix("/run/p.sock".into()))),
            ("unix:", None),
            ("https://127.0.0.1:9901", None),
            ("http://user:secret@127.0.0.1:9901", None),
            ("http://127.0.0.1", None),
            ("127.0.0.1:9901", None),
            ("http://127.0.0.1:9901/v1", None),
        ] {
            assert_eq!(text.parse::<Address>().ok(), address, "{text}");
        }
    }

    #[test]
    fn refusals_have_their_exit_status_and_show_no_control_characters() {
        let body = serde_json::json!({"detail": "no\u{1b}[2J", "reason": "unauthorized"});
        for (status, exit) in [(401, Exit::Denied), (403, Exit::Denied), (503, Exit::Unavailable), (404, Exit::Failed)]
        {
            let failure = refusal(StatusCode::from_u16(status).unwrap(), &body);
            assert_eq!(failure.exit(), exit, "{status}");
            let mut text = Vec::new();
            failure.report(&mut text);
            assert_eq!(
                String::from_utf8(text).unwrap(),
                format!("error: no\\u{{1b}}[2J (unauthorized, status {status})\n")
            );
        }
    }
}
