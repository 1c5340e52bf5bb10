//! Redis, or Valkey, as the broker of a cluster.
//!
//! All keys have one hash tag, the name of the cluster, so that a Redis Cluster keeps them in one slot and a
//! script may use them together:
//!
//! | key | what |
//! | --- | --- |
//! | `{name}:epoch` | text: which life of what is kept this is |
//! | `{name}:log` | stream: the log, one field `m` an entry, of a bounded length |
//! | `{name}:b` | sorted set: the buckets there are |
//! | `{name}:r:<bucket>` | hash: records, by `origin:sequence`; gone two hours after its bucket has ended |
//! | `{name}:d` | hash: documents, by `kind:key`; 20 digits of revision, and then the sealed document |
//! | `{name}:de` | sorted set: when documents may be forgotten |
//! | `{name}:n` | hash: what nodes last said of themselves |
//!
//! What a user needs who may do only this:
//!
//! ```text
//! ACL SETUSER portcullis on >password resetkeys ~{name}:* resetchannels -@all
//!   +get +set +hget +hset +hdel +hscan +zadd +zrem +zrange +zrangebyscore +exists +unlink +expireat +time
//!   +xadd +xread +xrange +xinfo|stream +eval +evalsha +info +select +wait +waitaof
//! ```
//!
//! (`wait` with `min_replicas`, `waitaof` with `disk` on a server that has it, `select` with a database other
//! than 0.) The server must keep what it is given: `maxmemory-policy noeviction`, and a disk.

mod ask;
mod link;
mod read;
mod reply;
mod script;
#[cfg(test)]
mod tests;
mod write;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, BoxStream, StreamExt};
use redis::Value;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

pub use self::link::InvalidUrl;
use self::link::{Finder, Link};
use self::read::{Reading, Scan};
use self::reply::{array, bytes, number, position, text};
use self::script::{Argument, Scripts};
use super::broker::{Broker, BrokerError, Bucket, Delivered, Epoch, Exchanged, Head, Position, Publication, Wanted};
use super::tls::Tls;
use crate::secret::Secret;
use crate::store::DocumentKind;
use crate::time::Timestamp;

/// Digits before a document.
const REVISION_DIGITS: usize = 20;
/// Where Redis is, and what is asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The name of the cluster: 1 to 64 letters, digits, `-`, `_` and `.`. Nodes with the same name share a log.
    pub name: String,
    /// `redis://user:password@host:port/database`, `rediss://` for TLS, `unix:///path`; or several with spaces
    /// between, of which the first that takes writes is used: of a Redis Cluster any of its nodes, with
    /// `sentinel` the Sentinels. User, password and database are those of the servers.
    pub url: Secret,
    /// The URLs are those of Sentinels.
    pub sentinel: Option<Sentinel>,
    /// For `rediss://`.
    pub tls: Tls,
    /// Replicas that must have what is published before it counts as durable.
    pub min_replicas: u32,
    /// What is published counts as durable when it is on the disk of the server (`WAITAOF`: Redis 7.2) and of
    /// as many replicas. Without it the server's `appendfsync` decides.
    pub disk: bool,
    /// Entries that the log keeps, about. What is older is read out of what is kept.
    pub log_max: u64,
    /// What one call may take, beside what it is told to wait.
    pub timeout: Duration,
}

/// Sentinels, which know who the master is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentinel {
    /// The name of the master.
    pub master: String,
    /// The user at the Sentinels.
    pub username: Option<String>,
    /// The password at the Sentinels.
    pub password: Option<Secret>,
}

impl Options {
    /// With the defaults, for a cluster at a URL.
    #[must_use]
    pub fn new(name: impl Into<String>, url: Secret) -> Self {
        Self {
            name: name.into(),
            url,
            sentinel: None,
            tls: Tls::default(),
            min_replicas: 0,
            disk: false,
            log_max: 250_000,
            timeout: Duration::from_secs(2),
        }
    }
}

/// A [`Broker`] over Redis.
pub struct RedisBroker {
    keys: Keys,
    scripts: Scripts,
    min_replicas: u32,
    disk: bool,
    log_max: i64,
    timeout: Duration,
    link: Link,
    reading: Mutex<Option<Reading>>,
}

#[derive(Debug)]
struct Keys {
    prefix: String,
    epoch: String,
    log: String,
    buckets: String,
    documents: String,
    ends: String,
    nodes: String,
}

impl Keys {
    fn new(name: &str) -> Self {
        let key = |suffix| format!("{{{name}}}:{suffix}");
        Self {
            prefix: key("r:"),
            epoch: key("epoch"),
            log: key("log"),
            buckets: key("b"),
            documents: key("d"),
            ends: key("de"),
            nodes: key("n"),
        }
    }

    fn bucket(&self, bucket: Bucket) -> String {
        format!("{}{}", self.prefix, bucket.0)
    }
}

impl RedisBroker {
    /// Whether a text is what [`Options::url`] takes.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`].
    pub fn check_url(text: &str) -> Result<(), InvalidUrl> {
        link::servers(text).map(|_| ())
    }

    /// Whether what a URL names is spoken to unprotected, and is not on this machine.
    #[must_use]
    pub fn is_exposed(text: &str) -> bool {
        let exposed = |server: &redis::ConnectionInfo| match server.addr() {
            redis::ConnectionAddr::Tcp(host, _) => {
                host != "localhost" && !host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
            }
            _ => false,
        };
        link::servers(text).is_ok_and(|servers| servers.iter().any(exposed))
    }

    /// A broker at the servers in the options. One that cannot be reached is looked for again at each call.
    /// Must be called within a runtime, which its connections live on.
    ///
    /// # Errors
    ///
    /// [`BrokerError::Refused`] when a server is there that will never do, or nothing in the options names one.
    pub async fn connect(options: Options) -> Result<Self, BrokerError> {
        let keys = Keys::new(&options.name);
        let finder =
            Finder::new(&options, keys.epoch.clone()).map_err(|error| BrokerError::Refused(error.to_string()))?;
        let broker = Self {
            keys,
            scripts: Scripts::new(),
            min_replicas: options.min_replicas,
            disk: options.disk,
            log_max: i64::try_from(options.log_max.max(1)).unwrap_or(i64::MAX),
            timeout: options.timeout,
            link: Link::new(Arc::new(finder), Handle::current()),
            reading: Mutex::new(None),
        };
        match broker.head().await {
            Err(error @ BrokerError::Refused(_)) => Err(error),
            Ok(_) | Err(_) => Ok(broker),
        }
    }
}

impl Broker for RedisBroker {
    fn engine(&self) -> &'static str {
        "redis"
    }

    fn head(&self) -> BoxFuture<'_, Result<Head, BrokerError>> {
        async move {
            let keys = [self.keys.epoch.as_str(), self.keys.log.as_str()];
            let arguments = [Argument::Text(uuid::Uuid::now_v7().simple().to_string())];
            let answers = self.script(&self.scripts.head, keys.into_iter(), &arguments, &[]).await?;
            let mut answer = array(answers.into_iter().next().ok_or_else(BrokerError::odd)?)?.into_iter();
            let mut next = || answer.next().ok_or_else(BrokerError::odd);
            let (epoch, position) = (Epoch(text(next()?)?), position(next()?)?);
            let (seconds, micros) = (number(next()?)?, number(next()?)?);
            let now = Timestamp::from_millis(seconds.saturating_mul(1000).saturating_add(micros / 1000));
            Ok(Head { epoch, position, now })
        }
        .boxed()
    }

    fn publish<'a>(
        &'a self,
        epoch: &'a Epoch,
        messages: &'a [Publication],
    ) -> BoxFuture<'a, Result<Position, BrokerError>> {
        self.publish_all(epoch, messages).boxed()
    }

    fn compare_and_put<'a>(
        &'a self,
        epoch: &'a Epoch,
        message: &'a Publication,
        expects: u64,
    ) -> BoxFuture<'a, Result<Exchanged, BrokerError>> {
        self.exchange(epoch, message, expects).boxed()
    }

    fn document<'a>(
        &'a self,
        epoch: &'a Epoch,
        kind: DocumentKind,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Bytes>, BrokerError>> {
        async move {
            let mut command = redis::cmd("HGET");
            command.arg(&self.keys.documents).arg(field(kind, key));
            match self.read_in(epoch, command).await? {
                Value::Nil => Ok(None),
                value => {
                    let value = bytes(value)?;
                    if value.len() < REVISION_DIGITS {
                        Err(BrokerError::odd())
                    } else {
                        Ok(Some(value.slice(REVISION_DIGITS..)))
                    }
                }
            }
        }
        .boxed()
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
        let of = |hashes, skip| Scan { index: None, hashes, cursor: "0".to_owned(), skip };
        let scan = match wanted {
            Wanted::Records => Scan { index: Some(self.keys.buckets.clone()), ..of(VecDeque::new(), 0) },
            Wanted::Buckets(buckets) => of(buckets.into_iter().map(|bucket| self.keys.bucket(bucket)).collect(), 0),
            Wanted::Documents => of([self.keys.documents.clone()].into(), REVISION_DIGITS),
            Wanted::Nodes => of([self.keys.nodes.clone()].into(), 0),
        };
        let parts = stream::try_unfold(scan, move |mut scan| async move {
            Ok(self.part(epoch, &mut scan).await?.map(|part| (part, scan)))
        });
        parts.boxed()
    }

    fn forget<'a>(&'a self, epoch: &'a Epoch, before: Timestamp) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.drop_ended(epoch, before).boxed()
    }
}

impl fmt::Debug for RedisBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBroker").field("keys", &self.keys.prefix).field("link", &self.link).finish_non_exhaustive()
    }
}

/// A document's place in the hash of all.
fn field(kind: DocumentKind, key: &str) -> String {
    format!("{}:{key}", kind as u8)
}

/// A revision, as text in whose order revisions are.
fn digits(revision: u64) -> String {
    format!("{revision:0width$}", width = REVISION_DIGITS)
}

fn end(at: Option<Timestamp>) -> String {
    at.map_or_else(String::new, |at| at.millis().to_string())
}
