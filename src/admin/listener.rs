//! The admin listener: few connections, each bounded in time.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::Api;
use super::auth::Peer;
use super::patience::Patience;
use crate::config::AdminAddress;

/// Open connections; at the bound no more are accepted.
const CONNECTIONS: usize = 128;
/// How long a request head may take, and how long a connection may stay idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to read any part of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a request head.
const HEADER_BYTES: usize = 64 * 1024;
/// How long running requests may take once the listener is closed.
const DRAIN: Duration = Duration::from_secs(5);

/// A bound admin listener.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket; its file is removed when it is closed.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Binds. A Unix socket gets the mode 0600 before anybody can connect; a file left by a process that
    /// is gone is replaced, a socket that answers and a file of another kind are not.
    ///
    /// # Errors
    ///
    /// When the address cannot be had.
    pub async fn bind(address: &AdminAddress) -> io::Result<Self> {
        match address {
            AdminAddress::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            AdminAddress::Unix(path) => Ok(Self::Unix(bind_unix(path)?, path.clone())),
        }
    }

    /// A socket that listens already, and was handed to this process.
    ///
    /// # Errors
    ///
    /// When the runtime cannot wait for it.
    pub fn inherited(socket: StdListener) -> io::Result<Self> {
        Ok(Self::Tcp(TcpListener::from_std(socket)?))
    }

    /// Where it listens: `127.0.0.1:9901`, or `unix:/run/portcullis/admin.sock`.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or_else(|_| "unknown".to_owned(), |it| it.to_string()),
            Self::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // It may be gone already, or its folder be read-only: the next start replaces it.
            drop(std::fs::remove_file(path));
        }
    }
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is not a socket"));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
        }
        Ok(_) => std::fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Bound under another name in a folder that is ours alone, narrowed, then moved to its place: there is
    // no moment at which others could connect.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let private = folder.join(format!(".{}", uuid::Uuid::now_v7().simple()));
    std::fs::DirBuilder::new().create(&private)?;
    let bound = bind_within(&private, path);
    drop(std::fs::remove_dir_all(&private));
    bound
}

fn bind_within(private: &Path, path: &Path) -> io::Result<UnixListener> {
    std::fs::set_permissions(private, std::fs::Permissions::from_mode(0o700))?;
    let socket = private.join("s");
    let listener = std::os::unix::net::UnixListener::bind(&socket)?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&socket, path)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Serves `api` on `listener` until `shutdown`, then lets running requests end within five seconds.
pub async fn serve(listener: Listener, api: Api, shutdown: CancellationToken) {
    let router = api.router();
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let tasks = TaskTracker::new();
    loop {
        let permit = tokio::select! {
            () = shutdown.cancelled() => break,
            // The semaphore is never closed.
            permit = Arc::clone(&connections).acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener) => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "an admin connection is not accepted");
                // Out of descriptors: wait for one instead of spinning.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (router, shutdown) = (router.clone(), shutdown.clone());
        tasks.spawn(async move {
            match stream {
                Stream::Tcp(stream) => connection(stream, peer, router, shutdown).await,
                Stream::Unix(stream) => connection(stream, peer, router, shutdown).await,
            }
            drop(permit);
        });
    }
    drop(listener);
    api.close();
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!(open = tasks.len(), "admin connections are cut off");
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

async fn accept(listener: &Listener) -> io::Result<(Stream, Peer)> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, address): (_, SocketAddr) = listener.accept().await?;
            Ok((Stream::Tcp(stream), Peer::Tcp(address.ip().to_canonical())))
        }
        Listener::Unix(listener, _) => Ok((Stream::Unix(listener.accept().await?.0), Peer::Unix)),
    }
}

async fn connection<S>(stream: S, peer: Peer, router: Router, shutdown: CancellationToken)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_header_size(HEADER_BYTES);
    let connection = builder.serve_connection(TokioIo::new(Patience::new(stream, WRITE_TIMEOUT)), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = &error as &dyn std::error::Error, "an admin connection ended early");
    }
}
