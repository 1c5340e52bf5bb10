//! What is asked of a broker: to keep what nodes say, in one order, and to hand it out again.
//!
//! A broker is fast and forgetful: it may lose everything, be put back to how it was a week ago, or not be
//! there. So each node has its own durable copy, and a broker is trusted with two things only: the order of
//! what it takes, and that one document takes the place of another once.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::store::DocumentKind;
use crate::time::Timestamp;

/// Messages that one [`Broker::read`] hands out at most.
pub const MAX_READ: usize = 1000;
/// Messages that one [`Broker::publish`] takes at most.
pub const MAX_PUBLISH: usize = 256;

/// A place in the log. Later messages have higher ones, within one [`Epoch`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Of a Redis stream the milliseconds of an entry's id, of a JetStream stream the sequence.
    pub major: u64,
    /// Of a Redis stream the number within the millisecond; otherwise 0.
    pub minor: u64,
}

impl Position {
    /// Before the first message.
    pub const START: Self = Self { major: 0, minor: 0 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.major, self.minor)
    }
}

/// The text is not a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a position in a log")]
pub struct InvalidPosition;

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (major, minor) = text.split_once('-').ok_or(InvalidPosition)?;
        match (major.parse(), minor.parse()) {
            (Ok(major), Ok(minor)) => Ok(Self { major, minor }),
            _ => Err(InvalidPosition),
        }
    }
}

/// Names one life of what a broker keeps: a broker that lost everything begins another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub String);

/// Records that end within one hour, or never: they are kept, compared and forgotten together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(pub u32);

impl Bucket {
    /// Of records that stay until lifted.
    pub const NEVER: Self = Self(u32::MAX);
    const HOUR: i64 = 3_600_000;

    /// The bucket of a record that may be forgotten from `forget_at` on.
    #[must_use]
    pub fn of(forget_at: Option<Timestamp>) -> Self {
        let hour = |at: Timestamp| u32::try_from(at.millis() / Self::HOUR).unwrap_or(u32::MAX - 1);
        forget_at.map_or(Self::NEVER, |at| Self(hour(at)))
    }

    /// When its hour begins; `None` for [`Self::NEVER`].
    #[must_use]
    pub fn begins(self) -> Option<Timestamp> {
        (self != Self::NEVER).then(|| Timestamp::from_millis(i64::from(self.0) * Self::HOUR))
    }

    /// When its hour is over: all its records have lapsed.
    #[must_use]
    pub fn ends(self) -> Option<Timestamp> {
        (self != Self::NEVER).then(|| Timestamp::from_millis((i64::from(self.0) + 1) * Self::HOUR))
    }
}

/// Where a message is kept beside the log, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A record, for as long as its bucket. It never changes.
    Record {
        /// When it may be forgotten.
        bucket: Bucket,
        /// The node that made it.
        origin: String,
        /// Its number among the records of that node.
        sequence: u64,
    },
    /// A document, in the place of every earlier revision. One whose revision is not higher than the kept
    /// one's is not taken, and is no error.
    Document {
        /// What it is about.
        kind: DocumentKind,
        /// Which one of its kind.
        key: String,
        /// Which revision.
        revision: u64,
        /// When it may be forgotten.
        forget_at: Option<Timestamp>,
    },
    /// What a node says of itself: the latest only, by node.
    Node(String),
    /// Nowhere: who is there hears it.
    Passing,
}

/// A message on its way to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Where it is kept.
    pub place: Place,
    /// The message, sealed. A broker does not look into it.
    pub sealed: Bytes,
}

/// A message out of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Where it is in the log.
    pub position: Position,
    /// When the broker took it, by its own clock.
    pub at: Timestamp,
    /// The message, sealed.
    pub sealed: Bytes,
}

/// Where a log stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its life.
    pub epoch: Epoch,
    /// The position of its last message.
    pub position: Position,
    /// What the broker's clock shows.
    pub now: Timestamp,
}

/// Which of the kept messages are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Every record.
    Records,
    /// The records of these buckets.
    Buckets(Vec<Bucket>),
    /// Every document.
    Documents,
    /// What nodes last said of themselves.
    Nodes,
}

/// What became of a [`Broker::compare_and_put`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchanged {
    /// The document is there now, durably, at this position of the log.
    Written(Position),
    /// Another one is there (sealed), or none: nothing was written.
    Conflict(Option<Bytes>),
}

/// Why a broker could not do what was asked. Read as "the broker failed: {self}".
#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    /// What it keeps is of another life than the one that was named.
    #[error("it does not keep what it kept before")]
    Epoch,
    /// Messages after the position are no longer in the log: what is kept must be read as a whole.
    #[error("the log no longer reaches back to where this node has come")]
    Trimmed,
    /// It is there, and will not do it: wrong credentials, a missing permission, a missing feature.
    #[error("{0}")]
    Refused(String),
    /// It cannot be reached, or did not answer in time. What was asked may have been done.
    #[error("it cannot be reached")]
    Unavailable(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

/// An engine that nodes hear of each other through.
///
/// Every call is bounded in time by the engine, and may be dropped half-way. Calls may be made at the same
/// time; those of one caller who waits for each take effect in that order.
pub trait Broker: Send + Sync + fmt::Debug {
    /// `redis` or `nats`.
    fn engine(&self) -> &'static str;

    /// Where the log stands; begins a new epoch where there is none.
    fn head(&self) -> BoxFuture<'_, Result<Head, BrokerError>>;

    /// Takes at most [`MAX_PUBLISH`] messages, in this order, keeps them where they belong and appends them
    /// to the log. Durable, as far as the broker can be, when it returns. Returns the position of the last.
    /// After an error some of them may have been taken; all of them may be published again.
    fn publish<'a>(
        &'a self,
        epoch: &'a Epoch,
        messages: &'a [Publication],
    ) -> BoxFuture<'a, Result<Position, BrokerError>>;

    /// Puts a document where one of revision `expects` is kept (0: where none is), and appends it to the log.
    /// Linearizable: of two calls that expect the same, one is told of the other.
    ///
    /// `message.place` must be a [`Place::Document`].
    fn compare_and_put<'a>(
        &'a self,
        epoch: &'a Epoch,
        message: &'a Publication,
        expects: u64,
    ) -> BoxFuture<'a, Result<Exchanged, BrokerError>>;

    /// The document that is kept, sealed: as good as the last [`compare_and_put`](Self::compare_and_put).
    fn document<'a>(
        &'a self,
        epoch: &'a Epoch,
        kind: DocumentKind,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Bytes>, BrokerError>>;

    /// At most [`MAX_READ`] messages after a position, in the order of the log. Waits up to `wait` while there
    /// is none, and then returns none. For one caller at a time.
    ///
    /// Fails with [`BrokerError::Trimmed`] when it can tell that some are missing; it cannot always.
    fn read<'a>(
        &'a self,
        epoch: &'a Epoch,
        after: Position,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Vec<Delivered>, BrokerError>>;

    /// Hands out what is kept, sealed, in parts and in no order. What is kept from before the call to its end
    /// is handed out at least once.
    fn kept<'a>(&'a self, epoch: &'a Epoch, wanted: Wanted) -> BoxStream<'a, Result<Vec<Bytes>, BrokerError>>;

    /// Drops buckets and documents that ended before `before`, a bounded number at a time.
    fn forget<'a>(&'a self, epoch: &'a Epoch, before: Timestamp) -> BoxFuture<'a, Result<(), BrokerError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_in_the_order_of_their_numbers_and_survive_as_text() {
        let (early, late) = (Position { major: 9, minor: 70 }, Position { major: 10, minor: 0 });
        assert!(Position::START < early && early < late);
        assert_eq!(early.to_string().parse(), Ok(early));
        for text in ["", "9", "9-", "-1", "9-7-1", "x-1"] {
            assert_eq!(text.parse::<Position>(), Err(InvalidPosition), "{text}");
        }
    }

    #[test]
    fn a_bucket_is_an_hour() {
        let hour = Bucket::of(Some(Timestamp::from_secs(7200)));
        assert_eq!(hour, Bucket(2));
        assert_eq!(hour, Bucket::of(Some(Timestamp::from_millis(10_799_999))));
        assert_eq!(hour.begins(), Some(Timestamp::from_secs(7200)));
        assert_eq!(hour.ends(), Some(Timestamp::from_secs(10_800)));
        assert_eq!((Bucket::of(None).begins(), Bucket::of(None).ends()), (None, None));
        assert!(Bucket::of(Some(Timestamp::MAX)) < Bucket::NEVER);
    }
}
