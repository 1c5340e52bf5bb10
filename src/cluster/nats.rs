//! NATS JetStream as the broker of a cluster.
//!
//! One stream is log and kept state at once: of each subject it keeps the last message, and what it keeps is
//! in the order in which it came. So what was superseded is not read, and the log needs no other bound.
//!
//! The stream has the name of the cluster, a dot in it written `%2E`, and the subjects `<name>.<epoch>.>`. The
//! epoch is made with the stream, and is part of every subject: what is meant for another life of the stream
//! reaches nobody.
//!
//! | subject, after `<name>.<epoch>.` | what |
//! | --- | --- |
//! | `r.<bucket>.<origin>.<sequence>` | a record |
//! | `d.<kind>.<SHA-256 of the key>` | a document; its revision and its end are in headers |
//! | `n.<node>` | what a node last said of itself |
//! | `p.<process>.<number>` | in passing: each process goes round in 4096 subjects |
//!
//! What a user needs who may do only this:
//!
//! ```text
//! publish:   <name>.>  $JS.FC.<name>.>
//!            $JS.API.STREAM.INFO.<name>  $JS.API.STREAM.CREATE.<name>  $JS.API.STREAM.PURGE.<name>
//!            $JS.API.STREAM.MSG.GET.<name>  $JS.API.STREAM.MSG.DELETE.<name>
//!            $JS.API.CONSUMER.CREATE.<name>  $JS.API.CONSUMER.DELETE.<name>.>
//! subscribe: _INBOX.>
//! ```
//!
//! A server that has acknowledged a message has it on its disk two minutes later, unless it is told
//! `sync_interval: always`.

mod api;
mod feed;
mod forget;
mod link;
mod publish;
mod read;
mod standing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use self::link::InvalidServer;
use self::link::Link;
use self::read::{Reading, Scan};
use super::broker::{Broker, BrokerError, Delivered, Epoch, Exchanged, Head, Position, Publication, Wanted};
use super::tls::Tls;
use crate::secret::Secret;
use crate::store::DocumentKind;
use crate::time::Timestamp;

/// Requests under way at the same time.
const REQUESTS: usize = 64;

/// Where NATS is, and what is asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The name of the cluster: 1 to 64 letters, digits, `-`, `_` and `.`. Nodes with the same name share a log.
    pub name: String,
    /// `nats://host:4222`, or `tls://` for TLS; at least one. Others of the same cluster are heard of.
    pub servers: Vec<String>,
    /// Who we are.
    pub login: Login,
    /// Whom TLS believes. Anything here asks for TLS, whatever the servers' addresses say.
    pub tls: Tls,
    /// Servers that keep the stream, when it is made here: 1 to 5.
    pub replicas: u8,
    /// What one call may take, beside what it is told to wait.
    pub timeout: Duration,
}

/// Who a server is told we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Login {
    /// Nobody.
    #[default]
    None,
    /// A user, and the password.
    User {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token.
    Token(Secret),
    /// The seed of an NKey, `SU…`.
    NKey(Secret),
    /// What is in a `.creds` file: a JWT and a seed.
    Credentials(Secret),
}

impl Options {
    /// With the defaults, for a cluster at a server.
    #[must_use]
    pub fn new(name: impl Into<String>, server: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            servers: vec![server.into()],
            login: Login::None,
            tls: Tls::default(),
            replicas: 1,
            timeout: Duration::from_secs(2),
        }
    }
}

/// A [`Broker`] over NATS JetStream.
pub struct NatsBroker {
    /// The stream, and what its subjects begin with.
    stream: String,
    replicas: u8,
    timeout: Duration,
    link: Link,
    /// This process, among those that speak in passing, and how often it did.
    process: String,
    passed: AtomicU64,
    reading: Mutex<Option<Reading>>,
    /// How far the search for what has ended has come.
    searched: Mutex<u64>,
}

impl NatsBroker {
    /// Whether a text is one of what [`Options::servers`] takes.
    ///
    /// # Errors
    ///
    /// [`InvalidServer`].
    pub fn check_server(text: &str) -> Result<(), InvalidServer> {
        link::server(text).map(|_| ())
    }

    /// Whether a server is spoken to unprotected, and is not on this machine.
    #[must_use]
    pub fn is_exposed(text: &str) -> bool {
        link::server(text).is_ok_and(|server| {
            let host = server.host();
            let here =
                host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
            !server.tls_required() && !here
        })
    }

    /// A broker at the servers in the options. One that cannot be reached is looked for again at each call.
    /// Must be called within a runtime, which its connection lives on.
    ///
    /// # Errors
    ///
    /// [`BrokerError::Refused`] when a server is there that will never do, or the options cannot be used.
    pub async fn connect(options: Options) -> Result<Self, BrokerError> {
        let broker = Self {
            stream: token(&options.name),
            replicas: options.replicas.clamp(1, 5),
            timeout: options.timeout,
            link: Link::new(&options, Handle::current())?,
            process: uuid::Uuid::now_v7().simple().to_string(),
            passed: AtomicU64::new(0),
            reading: Mutex::new(None),
            searched: Mutex::new(0),
        };
        match broker.head().await {
            Err(error @ BrokerError::Refused(_)) => Err(error),
            Ok(_) | Err(_) => Ok(broker),
        }
    }

    /// Bounds what is done, and says why it took too long.
    async fn bounded<T>(&self, work: impl Future<Output = Result<T, BrokerError>>) -> Result<T, BrokerError> {
        let started = Instant::now();
        match tokio::time::timeout(self.timeout, work).await {
            Ok(Err(BrokerError::Unavailable(why))) => match self.link.late(started) {
                refused @ BrokerError::Refused(_) => Err(refused),
                _ => Err(BrokerError::Unavailable(why)),
            },
            Ok(done) => done,
            Err(_) => Err(self.link.late(started)),
        }
    }

    /// What the subjects of an epoch begin with. An epoch that can be no part of one is none of ours.
    fn prefix(&self, epoch: &Epoch) -> Result<String, BrokerError> {
        if is_token(&epoch.0) { Ok(format!("{}.{}", self.stream, epoch.0)) } else { Err(BrokerError::Epoch) }
    }

    /// The next subject for what is said in passing.
    fn passing(&self) -> String {
        /// What one process has said of late: readers are seldom further behind.
        const ROUND: u64 = 4096;
        format!("p.{}.{}", self.process, self.passed.fetch_add(1, Ordering::Relaxed) % ROUND)
    }
}

impl Broker for NatsBroker {
    fn engine(&self) -> &'static str {
        "nats"
    }

    fn head(&self) -> BoxFuture<'_, Result<Head, BrokerError>> {
        self.bounded(self.begin()).boxed()
    }

    fn publish<'a>(
        &'a self,
        epoch: &'a Epoch,
        messages: &'a [Publication],
    ) -> BoxFuture<'a, Result<Position, BrokerError>> {
        self.bounded(self.publish_all(epoch, messages)).boxed()
    }

    fn compare_and_put<'a>(
        &'a self,
        epoch: &'a Epoch,
        message: &'a Publication,
        expects: u64,
    ) -> BoxFuture<'a, Result<Exchanged, BrokerError>> {
        self.bounded(self.exchange(epoch, message, expects)).boxed()
    }

    fn document<'a>(
        &'a self,
        epoch: &'a Epoch,
        kind: DocumentKind,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Bytes>, BrokerError>> {
        self.bounded(self.kept_document(epoch, kind, key)).boxed()
    }

    fn read<'a>(
        &'a self,
        epoch: &'a Epoch,
        after: Position,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Vec<Delivered>, BrokerError>> {
        self.tail(epoch, after, wait).boxed()
    }

    fn kept<'a>(&'a self, epoch: &'a Epoch, wanted: Wanted) -> BoxStream<'a, Result<Vec<Bytes>, BrokerError>> {
        let prefix = match self.prefix(epoch) {
            Ok(prefix) => prefix,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        let filters = match wanted {
            Wanted::Records => [format!("{prefix}.r.>")].into(),
            Wanted::Buckets(buckets) => buckets.iter().map(|bucket| format!("{prefix}.r.{}.>", bucket.0)).collect(),
            Wanted::Documents => [format!("{prefix}.d.>")].into(),
            Wanted::Nodes => [format!("{prefix}.n.>")].into(),
        };
        let parts = stream::try_unfold(Scan { filters, feed: None }, move |mut scan| async move {
            Ok(self.bounded(self.part(epoch, &mut scan)).await?.map(|part| (part, scan)))
        });
        parts.boxed()
    }

    fn forget<'a>(&'a self, epoch: &'a Epoch, before: Timestamp) -> BoxFuture<'a, Result<(), BrokerError>> {
        // It looks at a lot, and whoever asks is in no hurry.
        tokio::time::timeout(5 * self.timeout, self.drop_ended(epoch, before))
            .map(|done| done.unwrap_or_else(|_| Err(BrokerError::late(5 * self.timeout))))
            .boxed()
    }
}

impl fmt::Debug for NatsBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBroker").field("stream", &self.stream).field("link", &self.link).finish_non_exhaustive()
    }
}

/// Whether a text can be one token of a subject, in which nothing is to be escaped.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// A name as one token of a subject.
fn token(name: &str) -> String {
    name.replace('%', "%25").replace('.', "%2E")
}
