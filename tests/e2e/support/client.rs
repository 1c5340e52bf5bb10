//! An HTTP/1.1 client that sends the bytes it is given and reads answers strictly.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::patience::DEADLINE;

/// The bytes of a request; `Host` and, for a body, `Content-Length` are added.
pub(crate) fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str("Host: shop.example\r\n");
    }
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    if !body.is_empty() {
        write!(head, "Content-Length: {}\r\n", body.len()).unwrap();
    }
    head.push_str("\r\n");
    [head.as_bytes(), body].concat()
}

/// The value of an `Authorization` header.
pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// One connection; requests may follow one another on it.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// The connection ended before the first byte of an answer.
    Closed,
    /// The connection ended within an answer.
    Truncated,
    /// Nothing came in time.
    TimedOut,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        Self::try_open(address).unwrap()
    }

    pub(crate) fn try_open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// How long reads wait from now on.
    pub(crate) fn patience(self, limit: Duration) -> Self {
        self.stream.set_read_timeout(Some(limit)).unwrap();
        self
    }

    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// What was read and belongs to no answer yet.
    pub(crate) fn take_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// Sends what it can: a gateway that refuses early may have closed its side already.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> &mut Self {
        let _ = self.stream.write_all(bytes);
        self
    }

    pub(crate) fn response(&mut self) -> Response {
        self.read_response(false).expect("an answer")
    }

    pub(crate) fn try_response(&mut self) -> Result<Response, NoAnswer> {
        self.read_response(false)
    }

    /// The answer to a `HEAD` request has no body, whatever its headers say.
    pub(crate) fn response_to_head(&mut self) -> Response {
        self.read_response(true).expect("an answer")
    }

    /// Whether the other side ends the connection without sending anything more.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !self.fill().unwrap_or(false)
    }

    fn read_response(&mut self, to_head: bool) -> Result<Response, NoAnswer> {
        let mut interim = Vec::new();
        loop {
            let head = self.read_head()?;
            let mut response = Response::parse(&head);
            if (100..200).contains(&response.status) && response.status != 101 {
                interim.push(response.status);
                continue;
            }
            response.interim = interim;
            if !to_head && !matches!(response.status, 101 | 204 | 304) {
                self.read_body(&mut response)?;
            }
            return Ok(response);
        }
    }

    pub(crate) fn read_head(&mut self) -> Result<Vec<u8>, NoAnswer> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                return Ok(self.buffer.drain(..end + 4).collect());
            }
            if !self.fill()? {
                return Err(if self.buffer.is_empty() { NoAnswer::Closed } else { NoAnswer::Truncated });
            }
        }
    }

    fn read_body(&mut self, response: &mut Response) -> Result<(), NoAnswer> {
        if response.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            assert!(response.header("content-length").is_none(), "two framings: {response:?}");
            return self.read_chunks(response);
        }
        if let Some(length) = response.header("content-length") {
            let length: usize = length.parse().expect("a length");
            while self.buffer.len() < length {
                if !self.fill()? {
                    return Err(NoAnswer::Truncated);
                }
            }
            response.body = self.buffer.drain(..length).collect();
        } else {
            while self.fill()? {}
            response.body = std::mem::take(&mut self.buffer);
        }
        Ok(())
    }

    fn read_chunks(&mut self, response: &mut Response) -> Result<(), NoAnswer> {
        loop {
            let line = self.read_line()?;
            let size = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16).expect("a chunk size");
            if size == 0 {
                loop {
                    let line = self.read_line()?;
                    if line.is_empty() {
                        return Ok(());
                    }
                    response.trailers.push(line);
                }
            }
            while self.buffer.len() < size + 2 {
                if !self.fill()? {
                    return Err(NoAnswer::Truncated);
                }
            }
            response.body.extend(self.buffer.drain(..size));
            assert_eq!(self.buffer.drain(..2).collect::<Vec<_>>(), b"\r\n");
        }
    }

    fn read_line(&mut self) -> Result<String, NoAnswer> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(String::from_utf8(line[..end].to_vec()).expect("text"));
            }
            if !self.fill()? {
                return Err(NoAnswer::Truncated);
            }
        }
    }

    /// Whether more bytes came; `false` is the end of the connection, a reset included.
    fn fill(&mut self) -> Result<bool, NoAnswer> {
        let mut piece = [0; 65_536];
        match self.stream.read(&mut piece) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.buffer.extend_from_slice(&piece[..count]);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(NoAnswer::TimedOut)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => self.fill(),
            Err(_) => Ok(false),
        }
    }
}

/// One answer, whole.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<String>,
    /// Statuses of the interim answers before it.
    pub(crate) interim: Vec<u16>,
}

impl Response {
    fn parse(head: &[u8]) -> Self {
        let text = String::from_utf8_lossy(head);
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default();
        assert!(line.starts_with("HTTP/1.1 ") || line.starts_with("HTTP/1.0 "), "not an answer: {line:?}");
        let status = line[9..12].parse().expect("a status");
        let headers = lines
            .take_while(|line| !line.is_empty())
            .map(|line| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned())))
            .map(|field| field.expect("a header field"))
            .collect();
        Self { status, headers, body: Vec::new(), trailers: Vec::new(), interim: Vec::new() }
    }

    /// The one value of a field; panics when there are several.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() <= 1, "{name} came {} times: {self:?}", values.len());
        values.first().copied()
    }

    /// Every value of a field, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON, {error}: {self:?}"))
    }

    /// `reason` of a problem document.
    pub(crate) fn reason(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        self.json()["reason"].as_str().unwrap_or_else(|| panic!("no reason: {self:?}")).to_owned()
    }

    /// The new token of a slid or opened session, if there is one.
    pub(crate) fn session_token(&self) -> Option<String> {
        self.header("x-session-token").map(str::to_owned)
    }
}
