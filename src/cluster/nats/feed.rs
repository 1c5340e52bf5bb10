//! Messages of a stream, pushed by the server, with a sign of life every second.
//!
//! A consumer of its own for each feed, which ends with it. The server counts what it delivers, so a message
//! that was lost on the way is noticed by the next one, and a server that has gone, and came back without the
//! consumer, by its silence: nothing else would tell.

use std::time::Duration;

use async_nats::jetstream::{self, Context};
use async_nats::{HeaderMap, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::StreamExt;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::api::{self, Failure};
use crate::cluster::BrokerError;
use crate::time::Timestamp;

/// How often a server says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A silence after which it is not.
const SILENCE: Duration = Duration::from_millis(3500);

/// What a feed hands out.
pub(super) struct Item {
    pub(super) subject: String,
    pub(super) headers: Option<HeaderMap>,
    pub(super) payload: Bytes,
    pub(super) sequence: u64,
    pub(super) at: Timestamp,
    /// How many there are after it, as the server knew then.
    pub(super) pending: u64,
}

pub(super) struct Feed {
    subscriber: Subscriber,
    context: Context,
    delivered: u64,
    sign: Instant,
}

/// What is delivered.
pub(super) struct Wish<'a> {
    pub(super) stream: &'a str,
    pub(super) filter: String,
    /// From this sequence on.
    pub(super) from: u64,
    pub(super) headers_only: bool,
}

#[derive(Deserialize)]
struct Created {
    num_pending: u64,
}

impl Feed {
    /// A feed, and how many messages there are for it.
    pub(super) async fn open(context: &Context, wish: &Wish<'_>) -> Result<(Self, u64), Failure> {
        let client = context.client();
        let inbox = client.new_inbox();
        let subscriber = client.subscribe(inbox.clone()).await.map_err(|error| Failure::Away(error.into()))?;
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let config = json!({
            "stream_name": wish.stream,
            "config": {
                "deliver_subject": inbox,
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": wish.from.max(1),
                "filter_subject": wish.filter,
                "ack_policy": "none",
                "max_deliver": 1,
                "replay_policy": "instant",
                "flow_control": true,
                "idle_heartbeat": nanos(HEARTBEAT),
                "headers_only": wish.headers_only,
                "mem_storage": true,
                "num_replicas": 1,
            }
        });
        let created: Created = api::ask(context, &format!("CONSUMER.CREATE.{}", wish.stream), &config).await?;
        let feed = Self { subscriber, context: context.clone(), delivered: 0, sign: Instant::now() };
        Ok((feed, created.num_pending))
    }

    /// The next message; `None` when there was none until then.
    pub(super) async fn next(&mut self, until: Instant) -> Result<Option<Item>, BrokerError> {
        loop {
            // What has come is looked at first, however long ago it was asked for. A timer would take a
            // millisecond to say that no time is left.
            let message = match self.subscriber.next().now_or_never() {
                Some(message) => message,
                None => {
                    let silent = self.sign + SILENCE;
                    let now = Instant::now();
                    if now >= silent {
                        return Err(BrokerError::failed("the server has gone silent"));
                    }
                    if now >= until {
                        return Ok(None);
                    }
                    match tokio::time::timeout_at(until.min(silent), self.subscriber.next()).await {
                        Ok(message) => message,
                        Err(_) => continue,
                    }
                }
            };
            let Some(message) = message else { return Err(BrokerError::failed("the connection was lost")) };
            self.sign = Instant::now();
            match message.status {
                None | Some(StatusCode::OK) => return self.item(message).map(Some),
                Some(StatusCode::IDLE_HEARTBEAT) => self.heartbeat(&message).await?,
                Some(_) => return Err(BrokerError::failed("the server has ended the delivery")),
            }
        }
    }

    fn item(&mut self, message: async_nats::Message) -> Result<Item, BrokerError> {
        let message = jetstream::Message { message, context: self.context.clone() };
        let info = message.info().map_err(|_| BrokerError::odd())?;
        if info.consumer_sequence != self.delivered + 1 {
            return Err(BrokerError::failed("a message was lost on its way"));
        }
        self.delivered = info.consumer_sequence;
        let at = i64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        let (sequence, pending) = (info.stream_sequence, info.pending);
        let message = message.message;
        Ok(Item {
            subject: message.subject.to_string(),
            headers: message.headers,
            payload: message.payload,
            sequence,
            at: Timestamp::from_millis(at),
            pending,
        })
    }

    /// A server that has sent as much as it wants to have under way asks whether it came.
    async fn heartbeat(&mut self, message: &async_nats::Message) -> Result<(), BrokerError> {
        let stalled = message.headers.as_ref().and_then(|headers| headers.get("Nats-Consumer-Stalled"));
        let reply = message.reply.as_ref().map(ToString::to_string);
        if let Some(subject) = reply.or_else(|| stalled.map(ToString::to_string)) {
            let client = self.context.client();
            client.publish(subject, Bytes::new()).await.map_err(BrokerError::of_connection)?;
        }
        // A message that was lost would not be missed before the next one.
        let last = message.headers.as_ref().and_then(|headers| headers.get("Nats-Last-Consumer"));
        match last.and_then(|last| last.as_str().parse::<u64>().ok()) {
            Some(last) if last != self.delivered => Err(BrokerError::failed("a message was lost on its way")),
            _ => Ok(()),
        }
    }
}
