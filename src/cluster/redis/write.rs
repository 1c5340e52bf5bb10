//! What changes what is kept.

use std::time::Duration;

use super::reply::{array, bytes, number, position, text};
use super::script::Argument;
use super::{RedisBroker, digits, end, field};
use crate::cluster::{BrokerError, Bucket, Epoch, Exchanged, MAX_PUBLISH, Place, Position, Publication};
use crate::time::Timestamp;

/// For how long a bucket that has ended stays: clocks differ.
const GRACE: Duration = Duration::from_secs(2 * 3600);
/// Buckets that one [`crate::cluster::Broker::forget`] drops at most.
const FORGET_BUCKETS: usize = 64;
/// Documents that are dropped in one step, and steps that one [`crate::cluster::Broker::forget`] takes at most.
const FORGET_DOCUMENTS: (i64, usize) = (500, 20);

impl RedisBroker {
    pub(super) async fn publish_all(&self, epoch: &Epoch, messages: &[Publication]) -> Result<Position, BrokerError> {
        if messages.len() > MAX_PUBLISH {
            return Err(BrokerError::Refused(format!("more than {MAX_PUBLISH} messages in one go")));
        }
        let mut buckets: Vec<String> = Vec::new();
        let mut arguments = vec![Argument::Bytes(epoch.0.as_bytes()), Argument::Number(self.log_max)];
        for message in messages {
            let sealed = Argument::Bytes(&message.sealed);
            match &message.place {
                Place::Record { bucket, origin, sequence } => {
                    let key = self.keys.bucket(*bucket);
                    let place = buckets.iter().position(|other| *other == key).unwrap_or_else(|| {
                        buckets.push(key);
                        buckets.len() - 1
                    });
                    // The keys before the buckets are six, and the first of all is the first.
                    let place = i64::try_from(place + 7).unwrap_or(i64::MAX);
                    let expires = bucket.ends().map_or(0, |ends| ends.plus(GRACE).secs());
                    arguments.extend([
                        Argument::Bytes(b"r"),
                        sealed,
                        Argument::Number(place),
                        Argument::Text(format!("{origin}:{sequence}")),
                        Argument::Number(i64::from(bucket.0)),
                        Argument::Number(expires),
                    ]);
                }
                Place::Document { kind, key, revision, forget_at } => arguments.extend([
                    Argument::Bytes(b"d"),
                    sealed,
                    Argument::Text(field(*kind, key)),
                    Argument::Text(digits(*revision)),
                    Argument::Text(end(*forget_at)),
                ]),
                Place::Node(node) => {
                    arguments.extend([Argument::Bytes(b"n"), sealed, Argument::Bytes(node.as_bytes())])
                }
                Place::Passing => arguments.extend([Argument::Bytes(b"p"), sealed]),
            }
        }
        let keys = &self.keys;
        let mut all: Vec<&str> = vec![&keys.epoch, &keys.log, &keys.buckets, &keys.documents, &keys.ends, &keys.nodes];
        all.extend(buckets.iter().map(String::as_str));
        let answers = self.script(&self.scripts.publish, all.into_iter(), &arguments, &self.durably()).await?;
        position(self.durable(answers)?)
    }

    pub(super) async fn exchange(
        &self,
        epoch: &Epoch,
        message: &Publication,
        expects: u64,
    ) -> Result<Exchanged, BrokerError> {
        let Place::Document { kind, key, revision, forget_at } = &message.place else {
            return Err(BrokerError::Refused("only documents are put in each other's place".to_owned()));
        };
        let arguments = [
            Argument::Bytes(epoch.0.as_bytes()),
            Argument::Number(self.log_max),
            Argument::Text(field(*kind, key)),
            Argument::Text(digits(expects)),
            Argument::Text(digits(*revision)),
            Argument::Text(end(*forget_at)),
            Argument::Bytes(&message.sealed),
        ];
        let keys = [&self.keys.epoch, &self.keys.log, &self.keys.documents, &self.keys.ends].map(String::as_str);
        let answers = self.script(&self.scripts.exchange, keys.into_iter(), &arguments, &self.durably()).await?;
        // A document that is in the way must be durable as well: the caller goes by it.
        let mut answer = array(self.durable(answers)?)?.into_iter();
        let written = number(answer.next().ok_or_else(BrokerError::odd)?)? == 1;
        match (written, answer.next()) {
            (true, Some(at)) => Ok(Exchanged::Written(position(at)?)),
            (true, None) => Err(BrokerError::odd()),
            (false, there) => Ok(Exchanged::Conflict(there.map(bytes).transpose()?)),
        }
    }

    pub(super) async fn drop_ended(&self, epoch: &Epoch, before: Timestamp) -> Result<(), BrokerError> {
        let hour = Bucket::of(Some(before));
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(&self.keys.buckets).arg("-inf").arg(format!("({}", hour.0));
        command.arg("LIMIT").arg(0).arg(FORGET_BUCKETS);
        let ended = array(self.read_in(epoch, command).await?)?;
        let mut ended = ended.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let (count, steps) = FORGET_DOCUMENTS;
        for _ in 0..steps {
            let hashes: Vec<String> = ended.iter().map(|bucket| format!("{}{bucket}", self.keys.prefix)).collect();
            let mut keys = vec![
                self.keys.epoch.as_str(),
                self.keys.buckets.as_str(),
                self.keys.documents.as_str(),
                self.keys.ends.as_str(),
            ];
            keys.extend(hashes.iter().map(String::as_str));
            let mut arguments =
                vec![Argument::Bytes(epoch.0.as_bytes()), Argument::Number(before.millis()), Argument::Number(count)];
            arguments.extend(ended.iter().map(|bucket| Argument::Bytes(bucket.as_bytes())));
            let answers = self.script(&self.scripts.forget, keys.into_iter(), &arguments, &[]).await?;
            if number(answers.into_iter().next().ok_or_else(BrokerError::odd)?)? < count {
                break;
            }
            ended.clear();
        }
        Ok(())
    }
}
