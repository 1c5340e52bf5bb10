//! Dropping what has ended.
//!
//! Which documents have ended is said in their headers alone, so the stream is looked through, a part at a time.

use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::api::{self, Failure};
use super::feed::{self, Feed, Wish};
use super::{NatsBroker, REQUESTS, publish};
use crate::cluster::{BrokerError, Bucket, Epoch};
use crate::time::Timestamp;

/// Messages that one [`crate::cluster::Broker::forget`] looks at, and those that it drops, one by one.
const FORGET: (usize, usize) = (20_000, 1500);

/// What can be dropped.
enum Ended {
    Bucket(Bucket),
    Message,
}

impl NatsBroker {
    /// Looks through a part of the stream for what has ended.
    pub(super) async fn drop_ended(&self, epoch: &Epoch, before: Timestamp) -> Result<(), BrokerError> {
        let mut searched = self.searched.lock().await;
        let context = self.link.context().await?;
        let standing = self.standing_in(&context, epoch).await?;
        if *searched >= standing.last {
            *searched = 0;
        }
        let prefix = self.prefix(epoch)?;
        let wish =
            Wish { stream: &self.stream, filter: format!("{prefix}.>"), from: *searched + 1, headers_only: true };
        let (mut feed, there) = Feed::open(&context, &wish).await?;
        let (mut buckets, mut messages) = (Vec::new(), Vec::new());
        let until = Instant::now() + self.timeout;
        let (looked_at, dropped) = FORGET;
        let mut reached = if there == 0 { 0 } else { *searched };
        for _ in 0..looked_at.min(usize::try_from(there).unwrap_or(usize::MAX)) {
            let Some(item) = feed.next(until).await? else { break };
            match self.ended(&prefix, &item, before) {
                Some(Ended::Bucket(bucket)) if !buckets.contains(&bucket) => buckets.push(bucket),
                Some(Ended::Message) => messages.push(item.sequence),
                Some(Ended::Bucket(_)) | None => {}
            }
            reached = if item.pending == 0 { 0 } else { item.sequence };
            if item.pending == 0 || messages.len() >= dropped {
                break;
            }
        }
        drop(feed);
        for bucket in buckets {
            let filter = json!({ "filter": format!("{prefix}.r.{}.>", bucket.0) });
            let _: Value = api::ask(&context, &format!("STREAM.PURGE.{}", self.stream), &filter).await?;
        }
        // By sequence: one whose place was taken in between is not there any more, and its successor stays.
        let delete = |sequence: u64| {
            let (context, path) = (context.clone(), format!("STREAM.MSG.DELETE.{}", self.stream));
            async move {
                match api::ask::<Value>(&context, &path, &json!({ "seq": sequence, "no_erase": true })).await {
                    Err(failure @ (Failure::Nobody | Failure::Late | Failure::Away(_))) => Err(failure),
                    Ok(_) | Err(Failure::Refused(..)) => Ok(()),
                }
            }
        };
        let deleted = stream::iter(messages.into_iter().map(delete)).buffer_unordered(REQUESTS);
        deleted.try_for_each(|()| std::future::ready(Ok(()))).await?;
        *searched = reached;
        Ok(())
    }

    fn ended(&self, prefix: &str, item: &feed::Item, before: Timestamp) -> Option<Ended> {
        let mut tokens = item.subject.strip_prefix(prefix)?.strip_prefix('.')?.split('.');
        match tokens.next()? {
            "r" => {
                let bucket = Bucket(tokens.next()?.parse().ok()?);
                bucket.ends().is_some_and(|ends| ends <= before).then_some(Ended::Bucket(bucket))
            }
            "d" => publish::end(item.headers.as_ref()?).is_some_and(|end| end < before).then_some(Ended::Message),
            // Whoever was there has heard it.
            "p" => (item.at < before).then_some(Ended::Message),
            _ => None,
        }
    }
}
