//! Clients that never cease to ask, and to whom every answer counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use h2::client::Builder;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use super::http2::head;
use super::{Connection, Http2, request, until};

/// What is asked for, which is there for everybody.
const TARGET: &str = "/public/";

/// A crowd of them.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Clients of HTTP/1.1, of which half keep their connections for as long as they may.
    pub(crate) fn on(address: SocketAddr, clients: usize) -> Self {
        Self::of(clients, move |number, goes_on, served| {
            let headers: &[(&str, &str)] = if number.is_multiple_of(2) { &[] } else { &[("Connection", "close")] };
            let bytes = request("GET", TARGET, headers, b"");
            let mut connection = Connection::open(address);
            while goes_on() {
                let response = connection.send(&bytes).try_response().expect("every request to be answered");
                assert_eq!(response.status, 200);
                served();
                if response.header("connection").is_some() {
                    connection = Connection::open(address);
                }
            }
        })
    }

    /// Clients of HTTP/2, in clear or over TLS, which ask over another connection once they are told to.
    pub(crate) fn of_http2(address: SocketAddr, tls: Option<&Arc<ClientConfig>>, clients: usize) -> Self {
        Self::http2(address, tls, clients, false)
    }

    /// The same, until nobody listens any more.
    pub(crate) fn of_http2_until_the_end(address: SocketAddr, tls: Option<&Arc<ClientConfig>>, clients: usize) -> Self {
        Self::http2(address, tls, clients, true)
    }

    fn http2(address: SocketAddr, tls: Option<&Arc<ClientConfig>>, clients: usize, may_end: bool) -> Self {
        let tls = tls.cloned();
        Self::of(clients, move |_, goes_on, served| {
            let mut client = connect(address, tls.clone()).expect("a connection");
            let mut is_new = true;
            while goes_on() {
                let answer = match client.try_start(head("GET", TARGET, &[]), true) {
                    Ok(mut call) => call.answer(),
                    Err(error) => Err(error),
                };
                match answer {
                    Ok(answer) => {
                        assert_eq!(answer.status, 200);
                        served();
                        is_new = false;
                        continue;
                    }
                    // A request that cannot be sent, or of which the gateway says that it has not looked at it
                    // (RFC 9113 §8.7), is no failed one: it goes over the next connection.
                    Err(error) if error.reason() == Some(h2::Reason::NO_ERROR) => {}
                    // One that the kernel took for a listener that was being closed.
                    Err(error) if may_end && is_new && error.is_io() => {}
                    Err(error) => panic!("every request to be answered: {error:?}"),
                }
                client = match connect(address, tls.clone()) {
                    Some(client) => client,
                    None if may_end => return,
                    None => panic!("nobody listens"),
                };
                is_new = true;
            }
        })
    }

    fn of(clients: usize, work: impl Fn(usize, &dyn Fn() -> bool, &dyn Fn()) + Clone + Send + 'static) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |number: usize| {
            let (stop, served, work) = (Arc::clone(&stop), Arc::clone(&served), work.clone());
            thread::spawn(move || {
                work(number, &|| !stop.load(Ordering::Acquire), &|| {
                    served.fetch_add(1, Ordering::Relaxed);
                });
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { stop, served, clients }
    }

    /// Answers so far.
    pub(crate) fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    /// Waits for `count` more answers.
    pub(crate) fn await_more(&self, count: usize) {
        let wanted = self.served() + count;
        until("more answers", || {
            let dead = self.clients.iter().any(JoinHandle::is_finished);
            (dead || self.served() >= wanted).then_some(())
        });
    }

    /// Ends it, and fails if any of them has failed: how many answers there were.
    pub(crate) fn end(self) -> usize {
        self.stop.store(true, Ordering::Release);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
        self.served.load(Ordering::Relaxed)
    }
}

/// `None`: nobody is there.
fn connect(address: SocketAddr, tls: Option<Arc<ClientConfig>>) -> Option<Http2> {
    let stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_nonblocking(true).unwrap();
    let stream = move || tokio::net::TcpStream::from_std(stream).unwrap();
    match tls {
        None => Http2::try_over(Builder::new(), async move { Ok(stream()) }),
        Some(config) => Http2::try_over(Builder::new(), async move {
            let name = ServerName::try_from("shop.example").unwrap();
            tokio_rustls::TlsConnector::from(config).connect(name, stream()).await
        }),
    }
}
