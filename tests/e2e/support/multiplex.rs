//! Upstreams that speak HTTP/2: one that is well-behaved, and the frames to make others of.

use std::collections::HashSet;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::patience::DEADLINE;

type Done = Pin<Box<dyn Future<Output = ()> + Send>>;
type Script = dyn Fn(Request<RecvStream>, SendResponse<Bytes>) -> Done + Send + Sync;

/// An upstream that speaks HTTP/2 in clear; it listens until it is dropped.
pub(crate) struct Multiplex {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _alive: oneshot::Sender<()>,
}

struct Shared {
    script: Box<Script>,
    streams: Option<u32>,
    connections: AtomicUsize,
    heads: Mutex<Vec<Request<()>>>,
}

impl Multiplex {
    /// Answers with what the script does, at most `streams` requests at a time on a connection.
    pub(crate) fn scripted<F>(
        streams: Option<u32>,
        script: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (_alive, ended) = oneshot::channel::<()>();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let script: Box<Script> = Box::new(move |request, respond| Box::pin(script(request, respond)));
        let shared = Arc::new(Shared { script, streams, connections: AtomicUsize::new(0), heads: Mutex::default() });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serving.accept(listener) => {}
                    _ = ended => {}
                }
            });
        });
        Self { address, shared, _alive }
    }

    /// Answers every request with 200 and its own body.
    pub(crate) fn echo() -> Self {
        Self::scripted(None, |request, mut respond| async move {
            let body = read(request.into_body()).await;
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.reserve_capacity(body.len());
            stream.send_data(body, true).unwrap();
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connections that were made.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// The heads of all requests.
    pub(crate) fn heads(&self) -> Vec<Request<()>> {
        std::mem::take(&mut self.shared.heads.lock().unwrap())
    }

    /// How many requests have come since the last look at them.
    pub(crate) fn count(&self) -> usize {
        self.shared.heads.lock().unwrap().len()
    }
}

impl Shared {
    async fn accept(self: &Arc<Self>, listener: std::net::TcpListener) {
        let listener = TcpListener::from_std(listener).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            self.connections.fetch_add(1, Ordering::AcqRel);
            let shared = Arc::clone(self);
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                if let Some(streams) = shared.streams {
                    builder.max_concurrent_streams(streams);
                }
                let Ok(mut connection) = builder.handshake(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let mut head = Request::new(());
                    *head.uri_mut() = request.uri().clone();
                    *head.method_mut() = request.method().clone();
                    *head.headers_mut() = request.headers().clone();
                    shared.heads.lock().unwrap().push(head);
                    tokio::spawn((shared.script)(request, respond));
                }
            });
        }
    }
}

/// The whole of a body.
pub(crate) async fn read(mut body: RecvStream) -> Bytes {
    let mut all = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    all.into()
}

/// Waits until the other side gives the request up: why.
pub(crate) async fn given_up(mut respond: SendResponse<Bytes>) -> Option<Reason> {
    std::future::poll_fn(|cx| respond.poll_reset(cx)).await.ok()
}

/// A frame (RFC 9113 §4.1).
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
/// Of DATA and HEADERS.
pub(crate) const END_STREAM: u8 = 1;
/// Of HEADERS.
pub(crate) const END_HEADERS: u8 = 4;
/// `:status: 200` (RFC 7541, static table).
pub(crate) const OK: &[u8] = &[0x88];

/// A connection whose every frame the test makes.
pub(crate) struct Frames {
    stream: TcpStream,
    /// Pings that are answered before it stops doing so.
    pub(crate) pongs: usize,
    ended: HashSet<u32>,
}

impl Frames {
    /// Serves every connection with what the script does, on a thread each; an error ends it.
    pub(crate) fn serve(
        settings: &'static [u8],
        script: impl Fn(usize, Self) -> Option<()> + Send + Sync + 'static,
    ) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(script);
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let (mut stream, script) = (stream.unwrap(), Arc::clone(&script));
                thread::spawn(move || {
                    stream.set_read_timeout(Some(DEADLINE)).unwrap();
                    let mut preface = [0; 24];
                    stream.read_exact(&mut preface).ok()?;
                    let mut frames = Self { stream, pongs: usize::MAX, ended: HashSet::new() };
                    frames.send(SETTINGS, 0, 0, settings)?;
                    script(number, frames)
                });
            }
        });
        address
    }

    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Option<()> {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.stream.write_all(&frame).ok()
    }

    /// The next frame; settings and pings are answered on the way.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.stream.read_exact(&mut payload).ok()?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let frame = Frame { kind: head[3], flags: head[4], stream, payload };
            match frame.kind {
                SETTINGS if frame.flags == 0 => self.send(SETTINGS, 1, 0, &[])?,
                PING if frame.flags == 0 && self.pongs > 0 => {
                    self.pongs -= 1;
                    self.send(PING, 1, 0, &frame.payload)?;
                }
                SETTINGS | PING => {}
                _ => return Some(frame),
            }
        }
    }

    /// Waits for the end of the next request: its stream.
    pub(crate) fn request(&mut self) -> Option<u32> {
        loop {
            let frame = self.next()?;
            if matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 && self.ended.insert(frame.stream)
            {
                return Some(frame.stream);
            }
        }
    }

    /// Answers a request with 200 and `hello`.
    pub(crate) fn hello(&mut self, stream: u32) -> Option<()> {
        self.send(HEADERS, END_HEADERS, stream, OK)?;
        self.send(DATA, END_STREAM, stream, b"hello")
    }
}
