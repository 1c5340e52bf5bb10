//! What is written here, on its way to the others.

use std::sync::Arc;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::message::Message;
use super::node::{Cause, MAX_OUTGOING, Node, Observation, StepError};
use super::{BrokerError, Epoch, MAX_PUBLISH, Publication};
use crate::intake::{DocumentKind, WrittenWhat};

/// How long is waited before a broker that failed is asked again.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

/// Publishes for as long as the gateway runs.
pub(super) async fn run(node: &Arc<Node>) {
    let mut beat = interval(node.settings.heartbeat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut compared = Instant::now();
    loop {
        let due = tokio::select! {
            // What is due is said, however much there is to be published.
            biased;
            _ = beat.tick() => true,
            () = node.wake.notified() => false,
        };
        let epoch = {
            let state = node.state();
            state.epoch.clone().filter(|_| state.speaks)
        };
        let Some(epoch) = epoch else { continue };
        if due && compared.elapsed() >= node.settings.compare {
            node.state().compare = true;
            compared = Instant::now();
        }
        if let Err(error) = node.publish(&epoch, due, false).await {
            if let StepError::Broker(BrokerError::Epoch) = error {
                node.ask_for_resync(Cause::Epoch);
            }
            if matches!(error, StepError::Broker(_)) {
                node.published.send_if_modified(|published| std::mem::replace(&mut published.reachable, false));
            }
            node.failed(&error);
            sleep(PAUSE).await;
        }
    }
}

impl Node {
    /// Publishes what is there to be published, for a part of the time between two heartbeats, and a heartbeat if
    /// one is due. What is left has its turn later.
    pub(super) async fn publish(&self, epoch: &Epoch, beat: bool, leaving: bool) -> Result<(), StepError> {
        let until = Instant::now() + self.settings.heartbeat / 4;
        loop {
            if Instant::now() >= until {
                self.wake.notify_one();
                break;
            }
            let after = self.state().outbox;
            let written = self.ledger.written(after, MAX_PUBLISH).await?;
            let Some(last) = written.last().map(|it| it.seq) else { break };
            let mut sequence = 0;
            let messages: Vec<_> = written
                .into_iter()
                .filter_map(|it| match it.what {
                    WrittenWhat::Entry(entry) => {
                        sequence = sequence.max(entry.origin_seq);
                        self.seal(&Message::Record(entry))
                    }
                    // What is known of keys is everybody's own to find out.
                    WrittenWhat::Document(document) if document.kind == DocumentKind::Key => None,
                    WrittenWhat::Document(document) => self.seal(&Message::Document(document)),
                })
                .collect();
            if !messages.is_empty() {
                self.broker.publish(epoch, &messages).await?;
            }
            self.state().outbox = last;
            self.have_published(sequence);
        }
        let until = Instant::now() + self.settings.heartbeat / 4;
        loop {
            if Instant::now() >= until {
                self.wake.notify_one();
                break;
            }
            let outgoing: Vec<_> = {
                let mut state = self.state();
                let count = state.outgoing.len().min(MAX_PUBLISH);
                state.outgoing.drain(..count).collect()
            };
            if outgoing.is_empty() {
                break;
            }
            let messages: Vec<_> = outgoing.iter().filter_map(|message| self.seal(message)).collect();
            if let Err(error) = self.broker.publish(epoch, &messages).await {
                self.put_back(outgoing);
                return Err(error.into());
            }
        }
        if beat {
            let heartbeat = self.heartbeat(leaving);
            if let Some(message) = self.seal(&Message::Heartbeat(heartbeat)) {
                self.broker.publish(epoch, &[message]).await?;
            }
            self.have_published(0);
        }
        Ok(())
    }

    /// What could not be said is said later, before what has come since; the oldest have no room then.
    fn put_back(&self, outgoing: Vec<Message>) {
        let mut state = self.state();
        let room = MAX_OUTGOING.saturating_sub(state.outgoing.len());
        for message in outgoing.into_iter().rev().take(room) {
            state.outgoing.push_front(message);
        }
    }

    /// Says how far the log has this node's records.
    pub(super) fn have_published(&self, sequence: u64) {
        self.published.send_if_modified(|published| {
            let before = *published;
            published.sequence = published.sequence.max(sequence);
            published.reachable = true;
            *published != before
        });
    }

    /// The message, ready for the broker.
    pub(super) fn seal(&self, message: &Message) -> Option<Publication> {
        match self.seal.close(message) {
            Ok(sealed) => Some(Publication { place: message.place(), sealed }),
            Err(error) => {
                self.audience.observe(Observation::Malformed);
                tracing::error!(%error, "a message cannot be said, and is not");
                None
            }
        }
    }
}
