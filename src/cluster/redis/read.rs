//! The log, and what is kept beside it.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use super::RedisBroker;
use super::ask::{is_unknown_script, pipeline};
use super::reply::{self, array, bytes, text};
use super::script::Argument;
use crate::cluster::{BrokerError, Delivered, Epoch, MAX_READ, Position};

/// Messages that one read takes: a document may be 64 KiB.
const READ_COUNT: usize = if MAX_READ < 500 { MAX_READ } else { 500 };
/// What one step of a scan looks at.
const SCAN_COUNT: usize = 200;
/// For how long a read trusts that the log is the one it was.
const TRUST: Duration = Duration::from_secs(1);

/// The connection that waits for entries, and how far it can be believed.
pub(super) struct Reading {
    connection: MultiplexedConnection,
    /// What was handed out last.
    reached: Position,
    /// When it was made sure that nothing before that is missing.
    checked: Option<Instant>,
}

/// How far the reading of what is kept has come.
pub(super) struct Scan {
    /// The sorted set that names the buckets, while it was not read.
    pub(super) index: Option<String>,
    pub(super) hashes: VecDeque<String>,
    pub(super) cursor: String,
    /// Bytes before what is sealed.
    pub(super) skip: usize,
}

impl RedisBroker {
    pub(super) async fn tail(
        &self,
        epoch: &Epoch,
        after: Position,
        wait: Duration,
    ) -> Result<Vec<Delivered>, BrokerError> {
        let mut slot = self.reading.lock().await;
        let until = Instant::now() + wait;
        // Taken, so that a read that is dropped half-way leaves no connection behind that still waits.
        let mut reading = match slot.take() {
            Some(reading) => reading,
            None => Reading { connection: self.link.another().await?, reached: after, checked: None },
        };
        if reading.reached != after {
            reading.checked = None;
        }
        let entries = loop {
            let left = until.saturating_duration_since(Instant::now());
            let trusted = reading.checked.map_or(Duration::ZERO, |at| TRUST.saturating_sub(at.elapsed()));
            let (entries, waited) = if trusted.is_zero() {
                let entries = self.checked(&mut reading.connection, epoch, after).await?;
                reading.checked = Some(Instant::now());
                (entries, Duration::ZERO)
            } else {
                let block = left.min(trusted);
                (self.next(&mut reading.connection, after, block).await?, block)
            };
            if !entries.is_empty() || left <= waited {
                break entries;
            }
        };
        if let Some(last) = entries.last() {
            reading.reached = last.position;
        }
        if entries.len() >= READ_COUNT {
            reading.checked = None;
        }
        *slot = Some(reading);
        Ok(entries)
    }

    /// What is there after a position, having made sure that nothing is missing.
    async fn checked(
        &self,
        connection: &mut MultiplexedConnection,
        epoch: &Epoch,
        after: Position,
    ) -> Result<Vec<Delivered>, BrokerError> {
        let keys = [self.keys.epoch.as_str(), self.keys.log.as_str()];
        let arguments = [
            Argument::Bytes(epoch.0.as_bytes()),
            Argument::Text(after.to_string()),
            Argument::Number(i64::try_from(READ_COUNT).unwrap_or(i64::MAX)),
            Argument::Number(self.log_max),
        ];
        let mut answer = Err(BrokerError::odd());
        for by_hash in [true, false] {
            let command = self.scripts.tail.command(by_hash, keys.into_iter(), &arguments);
            answer = tokio::time::timeout(self.timeout, pipeline(connection, vec![command]))
                .await
                .unwrap_or_else(|_| Err(BrokerError::late(self.timeout)));
            if !matches!(&answer, Err(error) if is_unknown_script(error)) {
                break;
            }
        }
        reply::entries(answer?.into_iter().next().ok_or_else(BrokerError::odd)?)
    }

    /// What comes after a position, waiting for it.
    async fn next(
        &self,
        connection: &mut MultiplexedConnection,
        after: Position,
        block: Duration,
    ) -> Result<Vec<Delivered>, BrokerError> {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(READ_COUNT);
        // 0 would be for ever.
        if block.as_millis() > 0 {
            command.arg("BLOCK").arg(i64::try_from(block.as_millis()).unwrap_or(i64::MAX));
        }
        command.arg("STREAMS").arg(&self.keys.log).arg(after.to_string());
        let answer = tokio::time::timeout(block + self.timeout, pipeline(connection, vec![command]))
            .await
            .unwrap_or_else(|_| Err(BrokerError::late(self.timeout)))?;
        reply::read(answer.into_iter().next().ok_or_else(BrokerError::odd)?)
    }

    /// The next part of what is kept.
    pub(super) async fn part(&self, epoch: &Epoch, scan: &mut Scan) -> Result<Option<Vec<Bytes>>, BrokerError> {
        if let Some(index) = scan.index.take() {
            let mut command = redis::cmd("ZRANGE");
            command.arg(index).arg(0).arg(-1);
            for bucket in array(self.read_in(epoch, command).await?)? {
                scan.hashes.push_back(format!("{}{}", self.keys.prefix, text(bucket)?));
            }
        }
        let Some(hash) = scan.hashes.front() else { return Ok(None) };
        let mut command = redis::cmd("HSCAN");
        command.arg(hash).arg(&scan.cursor).arg("COUNT").arg(SCAN_COUNT);
        let mut answer = array(self.read_in(epoch, command).await?)?.into_iter();
        let (Some(cursor), Some(pairs)) = (answer.next(), answer.next()) else { return Err(BrokerError::odd()) };
        scan.cursor = text(cursor)?;
        if scan.cursor == "0" {
            scan.hashes.pop_front();
        }
        let values = array(pairs)?.into_iter().skip(1).step_by(2);
        let part = values.map(|value| {
            let value = bytes(value)?;
            if value.len() < scan.skip { Err(BrokerError::odd()) } else { Ok(value.slice(scan.skip..)) }
        });
        part.collect::<Result<Vec<_>, _>>().map(Some)
    }
}
