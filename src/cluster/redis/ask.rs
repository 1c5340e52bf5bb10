//! Running commands and scripts within a time, and making what they write durable.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ServerErrorKind, Value};
use tokio::time::Instant;

use super::RedisBroker;
use super::link::Held;
use super::reply::{meaning, number};
use super::script::{Argument, Script};
use crate::cluster::{BrokerError, Epoch};

impl RedisBroker {
    /// Runs commands in a row, within the time of a call. A connection that fails is let go.
    pub(super) async fn run(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, BrokerError> {
        let started = Instant::now();
        let held = tokio::time::timeout(self.timeout, self.link.held())
            .await
            .unwrap_or_else(|_| Err(BrokerError::late(self.timeout)))?;
        let left = self.timeout.saturating_sub(started.elapsed());
        self.run_on(&held, commands, left).await
    }

    async fn run_on(&self, held: &Held, commands: Vec<Cmd>, left: Duration) -> Result<Vec<Value>, BrokerError> {
        let mut connection = held.connection.clone();
        let answer = tokio::time::timeout(left, pipeline(&mut connection, commands)).await;
        let answer = answer.unwrap_or_else(|_| Err(BrokerError::late(self.timeout)));
        match &answer {
            Err(error) if is_unknown_script(error) => {}
            Err(BrokerError::Refused(_) | BrokerError::Unavailable(_)) => self.link.discard(held),
            _ => {}
        }
        answer
    }

    /// Runs a script, and commands after it.
    pub(super) async fn script<'k>(
        &self,
        script: &Script,
        keys: impl ExactSizeIterator<Item = &'k str> + Clone,
        arguments: &[Argument<'_>],
        after: &[Cmd],
    ) -> Result<Vec<Value>, BrokerError> {
        let commands = |by_hash| {
            let mut commands = vec![script.command(by_hash, keys.clone(), arguments)];
            commands.extend_from_slice(after);
            commands
        };
        match self.run(commands(true)).await {
            Err(error) if is_unknown_script(&error) => self.run(commands(false)).await,
            answer => answer,
        }
    }

    /// What makes the last write durable, beyond what the server does by itself.
    pub(super) fn durably(&self) -> Vec<Cmd> {
        // Half of the time: the answer must be here before it is given up.
        let wait = i64::try_from(self.timeout.as_millis() / 2).unwrap_or(i64::MAX).max(1);
        if self.disk {
            let mut command = redis::cmd("WAITAOF");
            command.arg(1).arg(self.min_replicas).arg(wait);
            vec![command]
        } else if self.min_replicas > 0 {
            let mut command = redis::cmd("WAIT");
            command.arg(self.min_replicas).arg(wait);
            vec![command]
        } else {
            Vec::new()
        }
    }

    /// The first answer, when what came after it says that it is durable.
    pub(super) fn durable(&self, answers: Vec<Value>) -> Result<Value, BrokerError> {
        let mut answers = answers.into_iter();
        let first = answers.next().ok_or_else(BrokerError::odd)?;
        let replicas = match answers.next() {
            None => return Ok(first),
            Some(Value::Array(counts)) => {
                let mut counts = counts.into_iter();
                if number(counts.next().ok_or_else(BrokerError::odd)?)? < 1 {
                    return Err(BrokerError::failed("it is not on the server's disk in time"));
                }
                number(counts.next().ok_or_else(BrokerError::odd)?)?
            }
            Some(count) => number(count)?,
        };
        if replicas < i64::from(self.min_replicas) {
            return Err(BrokerError::failed(format!("{replicas} of {} replicas have it in time", self.min_replicas)));
        }
        Ok(first)
    }

    /// Runs a command that reads, and makes sure that what it read is of the epoch.
    pub(super) async fn read_in(&self, epoch: &Epoch, command: Cmd) -> Result<Value, BrokerError> {
        let mut check = redis::cmd("GET");
        check.arg(&self.keys.epoch);
        // The epoch is read last: what was read before it cannot be of a later one.
        let mut answers = self.run(vec![command, check]).await?.into_iter();
        let (Some(answer), Some(found)) = (answers.next(), answers.next()) else { return Err(BrokerError::odd()) };
        match found {
            Value::BulkString(found) if found == epoch.0.as_bytes() => Ok(answer),
            _ => Err(BrokerError::Epoch),
        }
    }
}

/// Sends commands in a row; the first that fails is what failed.
pub(super) async fn pipeline(
    connection: &mut MultiplexedConnection,
    commands: Vec<Cmd>,
) -> Result<Vec<Value>, BrokerError> {
    let mut pipe = redis::pipe();
    for command in commands {
        pipe.add_command(command);
    }
    let answers: Vec<Value> = pipe.ignore_errors().query_async(connection).await.map_err(meaning)?;
    let whole = |answer| match answer {
        Value::ServerError(error) => Err(meaning(error.into())),
        answer => Ok(answer),
    };
    answers.into_iter().map(whole).collect()
}

/// Whether the server does not know a script by its hash.
pub(super) fn is_unknown_script(error: &BrokerError) -> bool {
    let BrokerError::Unavailable(error) = error else { return false };
    let error = error.downcast_ref::<redis::RedisError>();
    error.is_some_and(|error| error.kind() == redis::ErrorKind::Server(ServerErrorKind::NoScript))
}
