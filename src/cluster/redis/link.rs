//! A connection to whoever takes writes: found, kept, and made again when it is lost.
//!
//! Which server that is, is asked anew for each connection: the first of the URLs that is one, or the one
//! that Sentinels name. A server that is part of a Redis Cluster says itself who has the keys (`MOVED`), and
//! since all of them are in one slot, one connection is all that a cluster asks for.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    ProtocolVersion, RedisConnectionInfo, RedisError, TlsCertificates, Value,
};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::reply::{array, meaning, text};
use super::{Options, Sentinel};
use crate::cluster::{BrokerError, Tls};

/// Servers that send on to another one, in a row.
const HOPS_MAX: usize = 4;
/// Between an attempt that failed and the next. Who asks in between is told of the one before.
const PAUSE: Duration = Duration::from_millis(50);

/// The text is not one or more URLs of Redis servers. What it is, is not repeated: it has a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`redis://user:password@host:6379` or `rediss://…` is needed, or several, separated by spaces")]
pub struct InvalidUrl;

/// The servers in a text.
pub(super) fn servers(text: &str) -> Result<Vec<ConnectionInfo>, InvalidUrl> {
    let server = |text| {
        let url = redis::parse_redis_url(text).ok_or(InvalidUrl)?;
        // `#insecure` would mean TLS with anybody.
        if url.fragment().is_some() {
            return Err(InvalidUrl);
        }
        let info = url.into_connection_info().map_err(|_| InvalidUrl)?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
        Ok(info.set_redis_settings(settings))
    };
    let servers = text.split_whitespace().map(server).collect::<Result<Vec<_>, _>>()?;
    if servers.is_empty() { Err(InvalidUrl) } else { Ok(servers) }
}

/// Where servers are, and how they are spoken to.
pub(super) struct Finder {
    servers: Vec<ConnectionInfo>,
    /// The server that was good last.
    first: AtomicUsize,
    sentinel: Option<(String, RedisConnectionInfo)>,
    tls: Tls,
    timeout: Duration,
    /// A key, to learn who has it.
    probe: String,
}

impl Finder {
    pub(super) fn new(options: &Options, probe: String) -> Result<Self, InvalidUrl> {
        let text = std::str::from_utf8(options.url.expose()).map_err(|_| InvalidUrl)?;
        Ok(Self {
            servers: servers(text)?,
            first: AtomicUsize::new(0),
            sentinel: options.sentinel.as_ref().map(|sentinel| (sentinel.master.clone(), credentials(sentinel))),
            tls: options.tls.clone(),
            timeout: options.timeout,
            probe,
        })
    }

    /// A connection to the server that takes writes.
    async fn open(&self) -> Result<MultiplexedConnection, BrokerError> {
        let mut refused = None;
        let mut away = None;
        let first = self.first.load(Ordering::Relaxed);
        for place in (0..self.servers.len()).map(|step| (first + step) % self.servers.len()) {
            // Each has its share of the time, so that one that does not answer does not stand for all.
            let share = self.timeout / u32::try_from(self.servers.len()).unwrap_or(u32::MAX);
            let attempt = tokio::time::timeout(share, self.enter(&self.servers[place]));
            match attempt.await.unwrap_or_else(|_| Err(BrokerError::late(share))) {
                Ok(connection) => {
                    self.first.store(place, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error @ BrokerError::Refused(_)) => refused = Some(error),
                Err(error) => away = Some(error),
            }
        }
        Err(refused.or(away).unwrap_or_else(|| BrokerError::failed("no server is known")))
    }

    async fn enter(&self, server: &ConnectionInfo) -> Result<MultiplexedConnection, BrokerError> {
        let Some((master, credentials)) = &self.sentinel else { return self.follow(server.clone()).await };
        let sentinel = server.clone().set_redis_settings(credentials.clone());
        let mut connection = self.connect(&sentinel).await.map_err(meaning)?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        let answer: Vec<Value> = match question.query_async::<Value>(&mut connection).await.map_err(meaning)? {
            Value::Nil => return Err(BrokerError::Refused(format!("the Sentinel knows no master `{master}`"))),
            answer => array(answer)?,
        };
        let mut parts = answer.into_iter();
        let (Some(host), Some(port)) = (parts.next(), parts.next()) else { return Err(BrokerError::odd()) };
        let port = text(port)?.parse().map_err(|_| BrokerError::odd())?;
        self.follow(elsewhere(server, text(host)?, port)).await
    }

    /// Goes where a server sends, until one has the key and takes writes.
    async fn follow(&self, mut server: ConnectionInfo) -> Result<MultiplexedConnection, BrokerError> {
        for _ in 0..HOPS_MAX {
            let mut connection = self.connect(&server).await.map_err(meaning)?;
            let found: Result<Value, RedisError> =
                redis::cmd("GET").arg(&self.probe).query_async(&mut connection).await;
            match found {
                Ok(_) => {}
                Err(error) => match error.redirect_node().and_then(|(address, _)| address.rsplit_once(':')) {
                    Some((host, port)) => {
                        let port = port.parse().map_err(|_| BrokerError::odd())?;
                        server = elsewhere(&server, host.to_owned(), port);
                        continue;
                    }
                    None => return Err(meaning(error)),
                },
            }
            let info = redis::cmd("INFO").arg("replication").query_async(&mut connection).await.map_err(meaning)?;
            if !text(info)?.lines().any(|line| line.trim_end() == "role:master") {
                return Err(BrokerError::failed("the server is a replica"));
            }
            return Ok(connection);
        }
        Err(BrokerError::failed("the servers send each other's clients in circles"))
    }

    async fn connect(&self, server: &ConnectionInfo) -> Result<MultiplexedConnection, RedisError> {
        let client = match server.addr() {
            ConnectionAddr::TcpTls { .. } => Client::build_with_tls(
                server.clone(),
                TlsCertificates {
                    client_tls: self.tls.client.as_ref().map(|(certificate, key)| ClientTlsConfig {
                        client_cert: certificate.clone().into_bytes(),
                        client_key: key.expose().to_vec(),
                    }),
                    root_cert: self.tls.authorities.as_ref().map(|pem| pem.clone().into_bytes()),
                },
            )?,
            _ => Client::open(server.clone())?,
        };
        // How long anything may take is said where it is awaited: here it would be the same for all.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        client.get_multiplexed_async_connection_with_config(&config).await
    }
}

fn credentials(sentinel: &Sentinel) -> RedisConnectionInfo {
    let mut settings = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
    if let Some(user) = &sentinel.username {
        settings = settings.set_username(user);
    }
    if let Some(password) = sentinel.password.as_ref().and_then(|secret| std::str::from_utf8(secret.expose()).ok()) {
        settings = settings.set_password(password);
    }
    settings
}

/// The same way of speaking, with another server. An empty host: the one that said so.
fn elsewhere(server: &ConnectionInfo, host: String, port: u16) -> ConnectionInfo {
    let asked = match server.addr() {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host.clone(),
        _ => "127.0.0.1".to_owned(),
    };
    let host = if host.is_empty() { asked } else { host };
    let address = match server.addr() {
        ConnectionAddr::TcpTls { .. } => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        _ => ConnectionAddr::Tcp(host, port),
    };
    server.clone().set_addr(address)
}

/// One connection that many share.
pub(super) struct Link {
    finder: Arc<Finder>,
    /// Where connections live: whoever asks first may be gone before the others.
    runtime: Handle,
    held: std::sync::Mutex<Option<Held>>,
    /// Held by the one who opens a connection, for all who wait.
    opening: Mutex<Opening>,
}

#[derive(Default)]
struct Opening {
    opened: u64,
    failed: Option<(Instant, BrokerError)>,
}

/// A connection, and which one it is.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) connection: MultiplexedConnection,
    number: u64,
}

impl Link {
    pub(super) fn new(finder: Arc<Finder>, runtime: Handle) -> Self {
        Self { finder, runtime, held: std::sync::Mutex::default(), opening: Mutex::default() }
    }

    /// The connection, or a new one.
    pub(super) async fn held(&self) -> Result<Held, BrokerError> {
        if let Some(held) = self.slot().clone() {
            return Ok(held);
        }
        let mut opening = self.opening.lock().await;
        if let Some(held) = self.slot().clone() {
            return Ok(held);
        }
        if let Some((at, error)) = &opening.failed
            && at.elapsed() < PAUSE
        {
            return Err(error.clone());
        }
        match self.another().await {
            Ok(connection) => {
                opening.opened += 1;
                opening.failed = None;
                let held = Held { connection, number: opening.opened };
                *self.slot() = Some(held.clone());
                Ok(held)
            }
            Err(error) => {
                opening.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Lets a connection go that did not do what it should.
    pub(super) fn discard(&self, held: &Held) {
        let mut slot = self.slot();
        if slot.as_ref().is_some_and(|other| other.number == held.number) {
            *slot = None;
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that nobody else has.
    pub(super) async fn another(&self) -> Result<MultiplexedConnection, BrokerError> {
        let finder = Arc::clone(&self.finder);
        let timeout = finder.timeout;
        let mut opening = Abandoned(self.runtime.spawn(async move { finder.open().await }));
        match tokio::time::timeout(timeout, &mut opening.0).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(ended)) => Err(BrokerError::Unavailable(Arc::new(ended))),
            Err(_) => Err(BrokerError::late(timeout)),
        }
    }
}

/// A task that ends when nobody waits for it any more.
struct Abandoned<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Abandoned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the servers: they come with their passwords.
        f.debug_struct("Link").field("servers", &self.finder.servers.len()).finish_non_exhaustive()
    }
}
