//! The log, and what is kept.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::NatsBroker;
use super::feed::{Feed, Wish};
use crate::cluster::{BrokerError, Delivered, Epoch, MAX_READ, Position};

/// Bytes after which a read or a part of what is kept is full.
const PART_BYTES: usize = 4 << 20;
/// Messages in a part of what is kept.
const PART_COUNT: usize = 500;

/// Between a feed that failed and the next.
const PAUSE: Duration = Duration::from_millis(20);

/// A feed of everything, and how far it has come.
pub(super) struct Reading {
    feed: Feed,
    epoch: Epoch,
    reached: u64,
}

/// How far the reading of what is kept has come.
pub(super) struct Scan {
    pub(super) filters: VecDeque<String>,
    pub(super) feed: Option<Feed>,
}

impl NatsBroker {
    /// What comes after a sequence, and how much of it is there.
    async fn feed(&self, epoch: &Epoch, after: u64) -> Result<(Feed, u64), BrokerError> {
        let context = self.link.context().await?;
        let standing = self.standing_in(&context, epoch).await?;
        if standing.last < after {
            return Err(BrokerError::Epoch);
        }
        let wish = Wish {
            stream: &self.stream,
            filter: format!("{}.>", self.prefix(epoch)?),
            from: after.saturating_add(1),
            headers_only: false,
        };
        Ok(Feed::open(&context, &wish).await?)
    }

    pub(super) async fn tail(
        &self,
        epoch: &Epoch,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<Delivered>, BrokerError> {
        let mut slot = self.reading.lock().await;
        let until = Instant::now() + wait;
        // Taken: what a read that is dropped half-way has got is not lost with it, but asked for again.
        let mut taken = slot.take();
        loop {
            let (mut reading, until) = match taken.take() {
                Some(reading) if reading.epoch == *epoch && reading.reached == after.major => (reading, until),
                _ => {
                    let (feed, there) = self.bounded(self.feed(epoch, after.major)).await?;
                    // What is there is on its way.
                    let arrived = if there > 0 { Instant::now() + self.timeout } else { until };
                    (Reading { feed, epoch: epoch.clone(), reached: after.major }, until.max(arrived))
                }
            };
            match reading.next(until).await {
                Ok(found) => {
                    *slot = Some(reading);
                    return Ok(found);
                }
                // The next feed says why, if it cannot be had.
                Err(_) if Instant::now() + PAUSE < until => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// The next part of what is kept.
    pub(super) async fn part(&self, epoch: &Epoch, scan: &mut Scan) -> Result<Option<Vec<Bytes>>, BrokerError> {
        let until = Instant::now() + self.timeout;
        let mut feed = match scan.feed.take() {
            Some(feed) => feed,
            None => {
                let Some(filter) = scan.filters.pop_front() else { return Ok(None) };
                let context = self.link.context().await?;
                self.standing_in(&context, epoch).await?;
                let wish = Wish { stream: &self.stream, filter, from: 1, headers_only: false };
                match Feed::open(&context, &wish).await? {
                    (_, 0) => return Ok(Some(Vec::new())),
                    (feed, _) => feed,
                }
            }
        };
        let (mut part, mut bytes) = (Vec::new(), 0);
        while part.len() < PART_COUNT && bytes < PART_BYTES {
            let item = feed.next(until).await?.ok_or_else(|| BrokerError::late(self.timeout))?;
            bytes += item.payload.len();
            part.push(item.payload);
            if item.pending == 0 {
                return Ok(Some(part));
            }
        }
        scan.feed = Some(feed);
        Ok(Some(part))
    }
}

impl Reading {
    /// What comes next, as far as it is there.
    async fn next(&mut self, until: Instant) -> Result<Vec<Delivered>, BrokerError> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        let mut until = until;
        while found.len() < MAX_READ && bytes < PART_BYTES {
            let item = match self.feed.next(until).await {
                Ok(Some(item)) => item,
                Ok(None) => break,
                // What was found is good; the next read finds out what is wrong.
                Err(_) if !found.is_empty() => break,
                Err(error) => return Err(error),
            };
            bytes += item.payload.len();
            self.reached = item.sequence;
            let position = Position { major: item.sequence, minor: 0 };
            found.push(Delivered { position, at: item.at, sealed: item.payload });
            // Nobody waits for more, once there is something.
            until = Instant::now();
        }
        Ok(found)
    }
}
