//! Active checks: each server is asked now and then whether it is well.
//!
//! Once a process, on the control thread; workers read the outcome with every choice. A check is a whole
//! exchange over a connection of its own, made as those of requests are: accepting, and whatever is spoken
//! there, is checked with it. What comes back is bounded in time and size, and a redirect is an answer.

use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::ForwardError;
use super::connection::{Reached, is_http2, reach};
use super::standing::Seat;
use super::tls::UpstreamTls;
use crate::config::{self, Health, Protocol, Server};
use crate::proxy::snapshot::Snapshot;

/// The largest head of an answer, and how much is read of its body: more says nothing.
const HEAD_BYTES: u32 = 16 * 1024;
const BODY_BYTES: u64 = 64 * 1024;
/// Who asks.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION"), " health"));

/// The checks that are running. They end when this is dropped.
#[derive(Debug, Default)]
pub struct Checks(Mutex<Vec<Running>>);

/// The checks of one server.
#[derive(Debug)]
struct Running {
    target: Arc<Target>,
    /// Dropped to end them.
    _task: AbortOnDropHandle<()>,
}

/// What is checked, and how.
#[derive(Debug)]
struct Target {
    seat: Seat,
    server: Server,
    /// The settings that `secured` was made of.
    tls: config::UpstreamTls,
    secured: Option<Arc<UpstreamTls>>,
    protocol: Protocol,
    health: Health,
}

/// Why a check failed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum CheckError {
    #[error("no connection: {0}")]
    Unreachable(#[from] ForwardError),
    #[error("no valid answer")]
    Broken,
    #[error("status {}", .0.as_u16())]
    Status(StatusCode),
    #[error("no answer within {}ms", .0.as_millis())]
    Slow(Duration),
}

impl Checks {
    /// Has the servers of `snapshot` checked, and no others. Checks that stay the same go on undisturbed.
    pub fn follow(&self, snapshot: &Snapshot) {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Vec::new();
        let secured = snapshot.upstream_tls.iter().chain(std::iter::repeat(&None));
        for ((upstream, group), secured) in snapshot.config.upstreams.iter().zip(&snapshot.groups).zip(secured) {
            let Some(health) = &upstream.health else { continue };
            for (index, server) in upstream.servers.iter().enumerate() {
                let seat = Seat { group: Arc::clone(group), index };
                let (server, tls) = (server.clone(), upstream.tls.clone());
                let (secured, protocol) = (secured.clone(), upstream.protocol);
                let target = Target { seat, server, tls, secured, protocol, health: health.clone() };
                let same = running.iter().position(|it| it.target.is_same(&target));
                next.push(match same {
                    Some(at) => running.swap_remove(at),
                    None => Running::begin(target),
                });
            }
        }
        *running = next;
    }
}

impl Running {
    fn begin(target: Target) -> Self {
        let target = Arc::new(target);
        let task = tokio::spawn(watch(Arc::clone(&target)));
        Self { target, _task: AbortOnDropHandle::new(task) }
    }
}

impl Target {
    /// Whether the checks of one are those of the other.
    fn is_same(&self, other: &Self) -> bool {
        // Weights do not matter here.
        let place = |it: &Self| (it.server.tls, it.server.host.clone(), it.server.port);
        self.seat.is_same(&other.seat)
            && place(self) == place(other)
            && self.tls == other.tls
            && self.protocol == other.protocol
            && self.health == other.health
    }
}

/// Checks one server for as long as it is asked to.
async fn watch(target: Arc<Target>) {
    let Target { seat, server, health, .. } = &*target;
    let host = health.host.clone().unwrap_or_else(|| server.authority());
    let (mut good, mut bad) = (0, 0);
    loop {
        let outcome = timeout(health.timeout, check(&target, &host)).await;
        let outcome = outcome.unwrap_or(Err(CheckError::Slow(health.timeout)));
        let first = seat.is_unchecked();
        match outcome {
            Ok(()) => (good, bad) = (good + 1, 0),
            Err(_) => (good, bad) = (0, bad + 1),
        }
        match outcome {
            Ok(()) if first || good >= health.healthy_after => seat.checked(Ok(()), Instant::now()),
            Err(error) if first || bad >= health.unhealthy_after => {
                seat.checked(Err(&error.to_string()), Instant::now());
            }
            Ok(()) | Err(_) => {}
        }
        // Not all servers, and not all gateways, at once.
        sleep(health.interval.mul_f64(0.9 + 0.2 * rand::random::<f64>())).await;
    }
}

/// One check.
async fn check(target: &Target, host: &str) -> Result<(), CheckError> {
    let Target { server, secured, protocol, health, .. } = target;
    match reach(server, secured.as_ref()).await? {
        Reached::Clear(stream) if *protocol == Protocol::Http2 => exchange_http2(stream, "http", host, health).await,
        Reached::Clear(stream) => exchange(stream, host, health).await,
        Reached::Secured(stream) if is_http2(&stream) => exchange_http2(stream, "https", host, health).await,
        Reached::Secured(_) if *protocol == Protocol::Http2 => Err(CheckError::Unreachable(ForwardError::TlsFailed)),
        Reached::Secured(stream) => exchange(stream, host, health).await,
    }
}

async fn exchange_http2<S>(stream: S, scheme: &str, host: &str, health: &Health) -> Result<(), CheckError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let uri = Uri::builder().scheme(scheme).authority(host).path_and_query(health.path.as_str()).build();
    let request = Request::get(uri.map_err(|_| CheckError::Broken)?).header(header::USER_AGENT, AGENT).body(());
    let request = request.map_err(|_| CheckError::Broken)?;
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false).max_header_list_size(HEAD_BYTES);
    let broken = |_| CheckError::Broken;
    let (sender, connection) = builder.handshake::<_, Bytes>(stream).await.map_err(broken)?;
    let exchange = async {
        let mut sender = sender.ready().await.map_err(broken)?;
        let (response, _) = sender.send_request(request, true).map_err(broken)?;
        let (head, mut body) = response.await.map_err(broken)?.into_parts();
        let mut read = 0;
        while read <= BODY_BYTES
            && let Some(data) = body.data().await
        {
            let data = data.map_err(broken)?;
            read += data.len() as u64;
            body.flow_control().release_capacity(data.len()).map_err(broken)?;
        }
        if health.expect.contains(&head.status.as_u16()) { Ok(()) } else { Err(CheckError::Status(head.status)) }
    };
    // What went wrong with it, the exchange is told.
    let carry = async {
        drop(connection.await);
        pending::<Infallible>().await
    };
    tokio::select! {
        outcome = exchange => outcome,
        never = carry => match never {},
    }
}

async fn exchange<S>(stream: S, host: &str, health: &Health) -> Result<(), CheckError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let request = Request::get(&health.path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, AGENT)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| CheckError::Broken)?;
    let handshake = http1::Builder::new().max_buf_size(HEAD_BYTES as usize).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|_| CheckError::Broken)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|_| CheckError::Broken)?;
        let status = response.status();
        drain(response.into_body()).await?;
        if health.expect.contains(&status.as_u16()) { Ok(()) } else { Err(CheckError::Status(status)) }
    };
    // What went wrong with it, the exchange is told.
    let carry = async {
        drop(connection.await);
        pending::<Infallible>().await
    };
    tokio::select! {
        outcome = exchange => outcome,
        never = carry => match never {},
    }
}

/// Reads a body to its end, or to where it is long enough.
async fn drain(mut body: Incoming) -> Result<(), CheckError> {
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| CheckError::Broken)?;
        read += frame.data_ref().map_or(0, |data| data.len() as u64);
        if read > BODY_BYTES {
            break;
        }
    }
    Ok(())
}
