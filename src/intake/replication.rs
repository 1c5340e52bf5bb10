//! How far a record has come on its way to the other nodes.

use std::fmt;
use std::str::FromStr;

use futures_util::future::BoxFuture;

use crate::store::{Document, DocumentKind, DocumentWrite, Put};
use crate::time::Timestamp;

/// How many survive the loss of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// In force and on disk here: it survives this process. Without a cluster there is nothing more.
    #[default]
    Local,
    /// Taken by the broker as well: it survives this node, and others hear of it at once.
    Bus,
    /// In force and on disk at every node that is there.
    All,
}

impl Level {
    /// Every level, the lowest first.
    pub const ALL: [Self; 3] = [Self::Local, Self::Bus, Self::All];

    /// The name in the configuration and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Bus => "bus",
            Self::All => "all",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name is not one of [`Level::ALL`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown level; one of local, bus, all")]
pub struct UnknownLevel;

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|level| level.name() == name).ok_or(UnknownLevel)
    }
}

/// The place that all nodes agree on could not be asked. Nothing was written, or it is not known whether.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cluster's broker could not be asked")]
pub struct Unreachable;

/// What the ledger asks of a cluster.
pub trait Replication: Send + Sync + fmt::Debug {
    /// Something was written here that others are to hear of.
    fn written(&self);

    /// Waits until this node's record `sequence` has come as far as `level`, for a bounded time; how far it
    /// has come then. `None`: as far as the configuration says.
    fn reached(&self, sequence: u64, level: Option<Level>) -> BoxFuture<'_, Reached>;

    /// Puts a document in the place of the one it expects, where all nodes agree. When this returns
    /// [`Put::Written`], it is there for good, and the caller writes it here.
    fn compare_and_put<'a>(&'a self, write: &'a DocumentWrite) -> BoxFuture<'a, Result<Put, Unreachable>>;

    /// The document where all nodes agree, as good as the last [`compare_and_put`](Self::compare_and_put).
    fn agreed<'a>(&'a self, kind: DocumentKind, key: &'a str) -> BoxFuture<'a, Result<Option<Document>, Unreachable>>;

    /// The time for a cutoff made now, when the clock here shows `now`: not before anything that is known to
    /// have happened elsewhere.
    fn time(&self, now: Timestamp) -> Timestamp;
}

/// How far a record has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The level it has reached.
    pub level: Level,
    /// Whether that is all that was asked for.
    pub enough: bool,
    /// The record's number among those of this node, to ask for it later; 0 without a cluster.
    pub sequence: u64,
}

impl Reached {
    /// All there is without a cluster.
    pub const ALONE: Self = Self { level: Level::Local, enough: true, sequence: 0 };
}
