//! TLS in front of an upstream that speaks in clear.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustls::ServerConfig;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

/// Ends TLS and hands on what is inside, until it is dropped.
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    shaken: Arc<AtomicUsize>,
    /// Dropped with it, which ends the thread.
    _alive: oneshot::Sender<()>,
}

impl Front {
    pub(crate) fn start(config: Arc<ServerConfig>, behind: SocketAddr) -> Self {
        let (_alive, ended) = oneshot::channel::<()>();
        let shaken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&shaken);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, config, behind, counter) => {}
                    _ = ended => {}
                }
            });
        });
        Self { address, shaken, _alive }
    }

    /// `https://localhost:port`.
    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Handshakes that were completed.
    pub(crate) fn shaken(&self) -> usize {
        self.shaken.load(Ordering::Acquire)
    }
}

async fn accept(
    listener: std::net::TcpListener,
    config: Arc<ServerConfig>,
    behind: SocketAddr,
    counter: Arc<AtomicUsize>,
) {
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, counter) = (TlsAcceptor::from(Arc::clone(&config)), Arc::clone(&counter));
        tokio::spawn(async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            counter.fetch_add(1, Ordering::AcqRel);
            let Ok(mut upstream) = TcpStream::connect(behind).await else { return };
            let _ = copy_bidirectional(&mut stream, &mut upstream).await;
        });
    }
}
