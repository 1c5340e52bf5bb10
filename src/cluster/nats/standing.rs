//! The stream: whether it is there, whose it is, and how it stands.

use async_nats::jetstream::Context;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{self, Failure};
use super::{NatsBroker, is_token};
use crate::cluster::{BrokerError, Epoch, Head, Position};
use crate::time::Timestamp;

/// How the stream stands.
pub(super) struct Standing {
    pub(super) epoch: Epoch,
    pub(super) last: u64,
    now: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Info {
    config: Config,
    state: State,
    /// Since 2.10.
    #[serde(default)]
    ts: Option<String>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    subjects: Vec<String>,
    #[serde(default)]
    max_msgs_per_subject: i64,
    #[serde(default)]
    max_msgs: i64,
    #[serde(default)]
    max_bytes: i64,
    #[serde(default)]
    max_age: i64,
    #[serde(default)]
    discard: String,
}

#[derive(Deserialize)]
struct State {
    last_seq: u64,
}

impl NatsBroker {
    /// How the stream stands; `None`: there is none.
    pub(super) async fn standing(&self, context: &Context) -> Result<Option<Standing>, BrokerError> {
        let info: Info = match api::ask(context, &format!("STREAM.INFO.{}", self.stream), &Value::Null).await {
            Ok(info) => info,
            Err(Failure::Refused(api::STREAM_NOT_FOUND, _)) => return Ok(None),
            Err(failure) => return Err(failure.into()),
        };
        let epoch = match info.config.subjects.as_slice() {
            [subject] => subject.strip_prefix(&self.stream).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".>")),
            _ => None,
        };
        let Some(epoch) = epoch.filter(|epoch| is_token(epoch)) else {
            let text = format!("the stream `{}` has other subjects than `{0}.<epoch>.>`", self.stream);
            return Err(BrokerError::Refused(text));
        };
        let config = &info.config;
        let drops = (config.max_msgs > 0 || config.max_bytes > 0) && config.discard != "new";
        if config.max_msgs_per_subject != 1 || config.max_age > 0 || drops {
            let text = "must have `max_msgs_per_subject` 1, no `max_age`, and `discard` new with any other limit";
            return Err(BrokerError::Refused(format!("the stream `{}` {text}", self.stream)));
        }
        let now = info.ts.as_deref().and_then(|text| text.parse().ok());
        Ok(Some(Standing { epoch: Epoch(epoch.to_owned()), last: info.state.last_seq, now }))
    }

    /// How the stream stands, if it is the one of the epoch.
    pub(super) async fn standing_in(&self, context: &Context, epoch: &Epoch) -> Result<Standing, BrokerError> {
        self.standing(context).await?.filter(|standing| standing.epoch == *epoch).ok_or(BrokerError::Epoch)
    }

    pub(super) async fn begin(&self) -> Result<Head, BrokerError> {
        let context = self.link.context().await?;
        let standing = match self.standing(&context).await? {
            Some(standing) => standing,
            None => {
                let epoch = uuid::Uuid::now_v7().simple();
                let config = json!({
                    "name": self.stream,
                    "subjects": [format!("{}.{epoch}.>", self.stream)],
                    "description": "What the nodes of a Portcullis cluster tell each other",
                    "retention": "limits",
                    "storage": "file",
                    "discard": "old",
                    "max_msgs_per_subject": 1,
                    "max_msgs": -1,
                    "max_bytes": -1,
                    "max_age": 0,
                    "max_consumers": -1,
                    "num_replicas": self.replicas,
                });
                match api::ask::<Value>(&context, &format!("STREAM.CREATE.{}", self.stream), &config).await {
                    // Somebody else was faster.
                    Ok(_) | Err(Failure::Refused(api::STREAM_NAME_IN_USE, _)) => {}
                    Err(failure) => return Err(failure.into()),
                }
                let standing = self.standing(&context).await?;
                standing.ok_or_else(|| BrokerError::failed("the stream is not there yet"))?
            }
        };
        let now = match standing.now {
            Some(now) => now,
            None => self.clock(&context).await?,
        };
        Ok(Head { epoch: standing.epoch, position: Position { major: standing.last, minor: 0 }, now })
    }

    /// What the clock of a server shows that does not say it by itself: it says when it made a consumer.
    async fn clock(&self, context: &Context) -> Result<Timestamp, BrokerError> {
        #[derive(Deserialize)]
        struct Made {
            name: String,
            created: String,
        }
        let consumer = json!({
            "stream_name": self.stream,
            "config": { "deliver_policy": "new", "ack_policy": "none", "mem_storage": true, "num_replicas": 1 }
        });
        let made: Made = api::ask(context, &format!("CONSUMER.CREATE.{}", self.stream), &consumer).await?;
        // One that is not deleted goes by itself.
        let path = format!("CONSUMER.DELETE.{}.{}", self.stream, made.name);
        let _: Result<Value, Failure> = api::ask(context, &path, &Value::Null).await;
        made.created.parse().map_err(|_| BrokerError::odd())
    }
}
