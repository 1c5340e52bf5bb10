//! An upstream that writes down every byte it receives and answers as a script says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use super::patience::{DEADLINE, until};

/// Bytes of a request body that are kept; longer ones are only counted.
const KEPT: usize = 256 * 1024;

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded {
    /// Request line and header section, byte for byte.
    pub(crate) head: String,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    /// The body without its framing.
    pub(crate) body: Vec<u8>,
    /// How long the whole body was.
    pub(crate) body_length: u64,
    /// Trailer fields, as lines.
    pub(crate) trailers: Vec<String>,
    /// Which connection brought it, counted from 1.
    pub(crate) connection: usize,
    serial: u64,
}

impl Recorded {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() <= 1, "{name} came {} times:\n{}", values.len(), self.head);
        values.first().copied()
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }
}

type Script = dyn Fn(&mut Exchange) -> std::io::Result<()> + Send + Sync;

/// The upstream; it listens until it is dropped.
pub(crate) struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    script: Box<Script>,
    requests: Mutex<Vec<Recorded>>,
    bytes: AtomicU64,
    connections: AtomicUsize,
    open: AtomicUsize,
    serial: AtomicU64,
    stopped: AtomicBool,
    /// Connections that are open, and some that were.
    streams: Mutex<Vec<Weak<TcpStream>>>,
}

impl Upstream {
    /// Answers every request with 200 and `hello`.
    pub(crate) fn start() -> Self {
        Self::scripted(|exchange| exchange.answer(200, &[], b"hello"))
    }

    /// Answers with what the script does; it is called once the head of a request is there.
    pub(crate) fn scripted(script: impl Fn(&mut Exchange) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        Self::listening(TcpListener::bind("127.0.0.1:0").unwrap(), script)
    }

    /// Answers like [`Self::start`] at an address where one was before.
    pub(crate) fn start_at(address: SocketAddr) -> Self {
        let listener = until("the address to be free", || TcpListener::bind(address).ok());
        Self::listening(listener, |exchange| exchange.answer(200, &[], b"hello"))
    }

    fn listening(
        listener: TcpListener,
        script: impl Fn(&mut Exchange) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            requests: Mutex::default(),
            bytes: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            serial: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            streams: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.stopped.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let stream = Arc::new(stream);
                accepting.streams.lock().unwrap().push(Arc::downgrade(&stream));
                let serving = Arc::clone(&accepting);
                thread::Builder::new().stack_size(512 * 1024).spawn(move || serving.serve(stream)).unwrap();
            }
        });
        Self { address, shared }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request whose head has arrived, in order.
    pub(crate) fn requests(&self) -> Vec<Recorded> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Forgets and returns what was recorded.
    pub(crate) fn take(&self) -> Vec<Recorded> {
        std::mem::take(&mut self.shared.requests.lock().unwrap())
    }

    /// The one request that was recorded since the last look.
    pub(crate) fn take_one(&self) -> Recorded {
        let mut requests = self.take();
        assert_eq!(requests.len(), 1, "{requests:#?}");
        requests.remove(0)
    }

    /// How many bytes have arrived: what was not forwarded does not change this number.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Acquire)
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Ends as a process does that is killed: nobody listens any more, and every connection is closed.
    pub(crate) fn kill(self) {
        self.shared.stopped.store(true, Ordering::Release);
        until("the listener to be closed", || TcpStream::connect(self.address).is_err().then_some(()));
        for stream in self.shared.streams.lock().unwrap().drain(..).filter_map(|stream| stream.upgrade()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Waits until `count` requests have arrived.
    pub(crate) fn await_requests(&self, count: usize) {
        until(&format!("{count} requests at the upstream"), || {
            (self.shared.requests.lock().unwrap().len() >= count).then_some(())
        });
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

impl Shared {
    fn serve(self: Arc<Self>, stream: Arc<TcpStream>) {
        let connection = self.connections.fetch_add(1, Ordering::AcqRel) + 1;
        self.open.fetch_add(1, Ordering::AcqRel);
        let counted = Counted { stream: stream.try_clone().unwrap(), shared: Arc::clone(&self) };
        let mut reader = BufReader::with_capacity(65_536, counted);
        while let Some(mut recorded) = read_head(&mut reader) {
            recorded.connection = connection;
            recorded.serial = self.serial.fetch_add(1, Ordering::AcqRel);
            self.requests.lock().unwrap().push(recorded.clone());
            let shared = Arc::clone(&self);
            let stream = stream.try_clone().unwrap();
            let mut exchange = Exchange { recorded, stream, reader, shared, body_read: false, keep: true };
            let outcome = (self.script)(&mut exchange);
            let Exchange { reader: back, keep, .. } = exchange;
            reader = back;
            if outcome.is_err() || !keep {
                break;
            }
        }
        let _ = stream.shutdown(Shutdown::Both);
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Counted {
    stream: TcpStream,
    shared: Arc<Shared>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.shared.bytes.fetch_add(count as u64, Ordering::AcqRel);
        Ok(count)
    }
}

fn read_head(reader: &mut BufReader<Counted>) -> Option<Recorded> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head).ok()? == 0 {
            return None;
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.split("\r\n");
    let mut line = lines.next()?.split(' ');
    let (method, target) = (line.next()?.to_owned(), line.next()?.to_owned());
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    Some(Recorded { head: head.clone(), method, target, headers, ..Recorded::default() })
}

/// One request and the way to answer it.
pub(crate) struct Exchange {
    pub(crate) recorded: Recorded,
    stream: TcpStream,
    reader: BufReader<Counted>,
    shared: Arc<Shared>,
    body_read: bool,
    keep: bool,
}

impl Exchange {
    /// Reads the whole request body, each piece shown to `look`; an error when the other side gave up.
    pub(crate) fn read_body(&mut self, mut look: impl FnMut(&[u8])) -> std::io::Result<()> {
        if std::mem::replace(&mut self.body_read, true) {
            return Ok(());
        }
        let read = self.read_framed(&mut look);
        let mut requests = self.shared.requests.lock().unwrap();
        if let Some(entry) = requests.iter_mut().find(|entry| entry.serial == self.recorded.serial) {
            entry.clone_from(&self.recorded);
        }
        read
    }

    fn read_framed(&mut self, look: &mut dyn FnMut(&[u8])) -> std::io::Result<()> {
        if let Some(length) = self.recorded.header("content-length") {
            let length = length.parse().map_err(std::io::Error::other)?;
            return self.read_exactly(length, look);
        }
        if self.recorded.header("transfer-encoding").is_none() {
            return Ok(());
        }
        loop {
            let line = self.read_line()?;
            let size =
                u64::from_str_radix(line.split(';').next().unwrap_or_default(), 16).map_err(std::io::Error::other)?;
            if size == 0 {
                break;
            }
            self.read_exactly(size, look)?;
            self.read_line()?;
        }
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                return Ok(());
            }
            self.recorded.trailers.push(line);
        }
    }

    /// Sends a whole answer after the whole request was read.
    pub(crate) fn answer(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) -> std::io::Result<()> {
        self.read_body(|_| ())?;
        let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !matches!(status, 204 | 304) {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let body = if self.recorded.method == "HEAD" { &[] } else { body };
        self.stream.write_all(&[head.as_bytes(), body].concat())
    }

    /// Sends these bytes, without reading anything first.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Ends the connection once the script is done.
    pub(crate) fn close(&mut self) {
        self.keep = false;
    }

    /// Waits for the other side to end the connection; an error when it does not in time.
    pub(crate) fn await_close(&mut self) -> std::io::Result<()> {
        self.keep = false;
        self.stream.set_read_timeout(Some(DEADLINE))?;
        std::io::copy(&mut self.reader, &mut std::io::sink()).map(|_| ())
    }

    fn read_exactly(&mut self, length: u64, look: &mut dyn FnMut(&[u8])) -> std::io::Result<()> {
        let mut left = length;
        while left > 0 {
            let piece = self.reader.fill_buf()?;
            if piece.is_empty() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let count = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            look(&piece[..count]);
            let room = KEPT.saturating_sub(self.recorded.body.len()).min(count);
            self.recorded.body.extend_from_slice(&piece[..room]);
            self.recorded.body_length += count as u64;
            left -= count as u64;
            self.reader.consume(count);
        }
        Ok(())
    }

    fn read_line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}
