//! Clients of HTTP/2: one that speaks it well, whose connection is driven in the background, and one that sends
//! exactly the frames it is told to.

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::RecvTimeoutError;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;

use super::Gateway;
use super::patience::DEADLINE;

/// A connection.
pub(crate) struct Http2 {
    sender: Option<SendRequest<Bytes>>,
    driver: Option<JoinHandle<Result<(), h2::Error>>>,
}

/// A request under way.
pub(crate) struct Call {
    response: Option<ResponseFuture>,
    pub(crate) upload: SendStream<Bytes>,
    body: Option<RecvStream>,
}

/// What came of a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// What `work` comes to, within the deadline.
fn wait<T>(work: impl Future<Output = T>) -> T {
    runtime().block_on(async { tokio::time::timeout(DEADLINE, work).await.expect("it took too long") })
}

impl Http2 {
    /// In clear, by prior knowledge.
    pub(crate) fn open(gateway: &Gateway) -> Self {
        Self::with(gateway, Builder::new())
    }

    pub(crate) fn with(gateway: &Gateway, builder: Builder) -> Self {
        let address = gateway.address;
        Self::over(builder, async move { tokio::net::TcpStream::connect(address).await.unwrap() })
    }

    /// Over whatever `connect` comes to.
    pub(crate) fn over<S>(builder: Builder, connect: impl Future<Output = S> + Send + 'static) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        Self::try_over(builder, async { Ok(connect.await) }).expect("a handshake")
    }

    /// The same; `None` when it comes to nothing.
    pub(crate) fn try_over<S>(
        builder: Builder,
        connect: impl Future<Output = std::io::Result<S>> + Send + 'static,
    ) -> Option<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (ready, opened) = std::sync::mpsc::channel();
        let driver = thread::spawn(move || {
            runtime().block_on(async {
                let Ok(stream) = connect.await else { return Ok(()) };
                let (sender, connection) = builder.handshake(stream).await?;
                let _ = ready.send(sender);
                connection.await
            })
        });
        match opened.recv_timeout(DEADLINE) {
            Ok(sender) => Some(Self { sender: Some(sender), driver: Some(driver) }),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no handshake in time"),
        }
    }

    /// Sends a head; what follows it is sent by hand unless it `ends`.
    pub(crate) fn start(&mut self, request: Request<()>, ends: bool) -> Call {
        self.try_start(request, ends).unwrap()
    }

    pub(crate) fn try_start(&mut self, request: Request<()>, ends: bool) -> Result<Call, h2::Error> {
        let sender = self.sender.as_mut().expect("an open connection");
        let (response, upload) = wait(async {
            let mut sender = sender.clone().ready().await?;
            sender.send_request(request, ends)
        })?;
        Ok(Call { response: Some(response), upload, body: None })
    }

    /// One request and its answer.
    pub(crate) fn send(&mut self, request: Request<()>, body: &[u8]) -> Answer {
        self.try_send(request, body).unwrap()
    }

    pub(crate) fn try_send(&mut self, request: Request<()>, body: &[u8]) -> Result<Answer, h2::Error> {
        let mut call = self.try_start(request, body.is_empty())?;
        if !body.is_empty() {
            call.upload.send_data(Bytes::copy_from_slice(body), true)?;
        }
        call.answer()
    }

    pub(crate) fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(head("GET", path, headers), b"")
    }

    /// Asks for nothing more: the connection ends once what is running has.
    pub(crate) fn let_go(&mut self) {
        self.sender = None;
    }

    /// How the connection ended.
    pub(crate) fn ended(&mut self) -> Result<(), h2::Error> {
        self.let_go();
        self.driver.take().expect("a connection").join().unwrap()
    }
}

/// A head as a browser would send it.
pub(crate) fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(format!("http://shop.example{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

impl Call {
    /// The head of the answer.
    pub(crate) fn begin(&mut self) -> Result<Answer, h2::Error> {
        let response = self.response.take().expect("no answer yet");
        let (head, body) = wait(response)?.into_parts();
        self.body = Some(body);
        let (body, trailers) = (Vec::new(), HeaderMap::new());
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, trailers })
    }

    /// The next piece of its body, which is given room for another.
    pub(crate) fn piece(&mut self) -> Result<Option<Bytes>, h2::Error> {
        let body = self.body.as_mut().expect("an answer that has begun");
        let piece = wait(body.data()).transpose()?;
        if let Some(piece) = &piece {
            let _ = body.flow_control().release_capacity(piece.len());
        }
        Ok(piece)
    }

    /// All of the answer.
    pub(crate) fn answer(&mut self) -> Result<Answer, h2::Error> {
        let mut answer = self.begin()?;
        while let Some(piece) = self.piece()? {
            answer.body.extend_from_slice(&piece);
        }
        let body = self.body.as_mut().expect("an answer that has begun");
        answer.trailers = wait(body.trailers())?.unwrap_or_default();
        Ok(answer)
    }

    /// Why the rest of the answer does not come.
    pub(crate) fn reset(&mut self) -> Reason {
        loop {
            match self.piece() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended as if it were whole"),
                Err(error) => return error.reason().expect("a reason"),
            }
        }
    }
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn reason(&self) -> String {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        problem["reason"].as_str().unwrap().to_owned()
    }
}

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// On HEADERS: neither a body nor a CONTINUATION follows.
pub(crate) const WHOLE: u8 = 0x5;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const END_STREAM: u8 = 0x1;

/// A frame that came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection on which frames are sent by hand.
pub(crate) struct Frames {
    stream: TcpStream,
}

impl Frames {
    /// A connection on which nothing was said yet.
    pub(crate) fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self { stream }
    }

    /// A connection that has begun.
    pub(crate) fn open(address: SocketAddr) -> Self {
        let mut frames = Self::silent(address);
        let begun = frames.raw(PREFACE) && frames.send(SETTINGS, 0, 0, &[]) && frames.send(SETTINGS, 1, 0, &[]);
        assert!(begun, "the connection broke");
        frames
    }

    /// Whether the bytes went out.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Whether the frame went out.
    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.raw(&frame(kind, flags, stream, payload))
    }

    /// The next frame; `None` once the connection has ended. Panics when neither comes in time.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let mut header = [0; 9];
        self.read(&mut header)?;
        let mut payload = vec![0; u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize];
        self.read(&mut payload)?;
        let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
        Some(Frame { kind: header[3], stream, payload })
    }

    fn read(&mut self, space: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(space) {
            Ok(()) => Some(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("nothing came"),
            Err(_) => None,
        }
    }

    /// The first frame that fits; `None` if the connection ends before.
    pub(crate) fn find(&mut self, mut fits: impl FnMut(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if fits(&frame) {
                return Some(frame);
            }
        }
    }

    /// Waits for the connection to end: the code of its GOAWAY, if one came through.
    pub(crate) fn ended(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next() {
            if frame.kind == GOAWAY {
                code = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
            }
        }
        code
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of literal fields, none of which is remembered (RFC 7541 §6.2.2).
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // A length in seven bits, continued in as many bytes as it takes (RFC 7541 §5.1).
            let mut left = text.len();
            if left < 127 {
                block.push(u8::try_from(left).unwrap());
            } else {
                block.push(127);
                left -= 127;
                while left >= 128 {
                    block.push(u8::try_from(left % 128).unwrap() | 128);
                    left /= 128;
                }
                block.push(u8::try_from(left).unwrap());
            }
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// The block of a `GET`.
pub(crate) fn get(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", "shop.example"), (":path", path)];
    block(&[&pseudo, more].concat())
}
