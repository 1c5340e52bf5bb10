//! Publishing, and documents in each other's place.
//!
//! A document is published with the sequence of the one it replaces, which JetStream compares: nobody comes in
//! between. Of those who expect the same one comes through, and the others look again.

use std::collections::HashMap;
use std::error::Error;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::{NatsBroker, api, token};
use crate::cluster::failure::short;
use crate::cluster::{BrokerError, Epoch, Exchanged, MAX_PUBLISH, Place, Position, Publication};
use crate::store::DocumentKind;
use crate::time::Timestamp;

const REVISION: &str = "Portcullis-Revision";
const END: &str = "Portcullis-Forget-At";

/// Where a document stands.
#[derive(Clone, Default)]
struct There {
    /// 0: there is none.
    revision: u64,
    sequence: u64,
    sealed: Option<Bytes>,
}

/// Why a message was not taken.
enum Rejected {
    /// Another document is there by now.
    Superseded,
    Failed(BrokerError),
}

/// When a document may be forgotten.
pub(super) fn end(headers: &HeaderMap) -> Option<Timestamp> {
    headers.get(END).and_then(|text| text.as_str().parse().ok()).map(Timestamp::from_millis)
}

/// A document's subject, after the prefix. Keys may be anything, subjects may not.
fn subject(kind: DocumentKind, key: &str) -> String {
    let hash = digest::digest(&digest::SHA256, key.as_bytes());
    format!("d.{}.{}", kind as u8, URL_SAFE_NO_PAD.encode(hash))
}

impl NatsBroker {
    pub(super) async fn publish_all(&self, epoch: &Epoch, messages: &[Publication]) -> Result<Position, BrokerError> {
        if messages.len() > MAX_PUBLISH {
            return Err(BrokerError::Refused(format!("more than {MAX_PUBLISH} messages in one go")));
        }
        let context = self.link.context().await?;
        let prefix = self.prefix(epoch)?;
        let mut documents = self.documents(&context, &prefix, messages).await?;
        let mut batch = Batch::default();
        let mut superseded = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            let subject = match &message.place {
                Place::Record { bucket, origin, sequence } => format!("r.{}.{}.{sequence}", bucket.0, token(origin)),
                Place::Node(node) => format!("n.{}", token(node)),
                Place::Passing => self.passing(),
                Place::Document { kind, key, revision, .. } => {
                    let subject = subject(*kind, key);
                    // One that is on its way must have come, to be replaced.
                    if batch.documents.contains_key(&subject) {
                        superseded.extend(self.settle(epoch, &mut batch, &mut documents).await?);
                    }
                    let there = documents.get(&subject).cloned().unwrap_or_default();
                    if *revision <= there.revision {
                        continue;
                    }
                    let ack = self.send(&context, format!("{prefix}.{subject}"), message, Some(there.sequence)).await?;
                    batch.documents.insert(subject.clone(), (index, *revision));
                    batch.acks.push((Some(subject), ack));
                    continue;
                }
            };
            batch.acks.push((None, self.send(&context, format!("{prefix}.{subject}"), message, None).await?));
        }
        superseded.extend(self.settle(epoch, &mut batch, &mut documents).await?);
        for index in superseded {
            if let Some(sequence) = self.replace(&context, epoch, &messages[index]).await? {
                batch.last = batch.last.max(sequence);
            }
        }
        if batch.last == 0 {
            batch.last = self.standing_in(&context, epoch).await?.last;
        }
        Ok(Position { major: batch.last, minor: 0 })
    }

    pub(super) async fn exchange(
        &self,
        epoch: &Epoch,
        message: &Publication,
        expects: u64,
    ) -> Result<Exchanged, BrokerError> {
        let Place::Document { kind, key, revision, .. } = &message.place else {
            return Err(BrokerError::Refused("only documents are put in each other's place".to_owned()));
        };
        let context = self.link.context().await?;
        let subject = format!("{}.{}", self.prefix(epoch)?, subject(*kind, key));
        loop {
            let there = self.there(&context, &subject).await?;
            if there.revision != expects || *revision <= expects {
                if there.sealed.is_none() {
                    self.standing_in(&context, epoch).await?;
                }
                return Ok(Exchanged::Conflict(there.sealed));
            }
            let ack = self.send(&context, subject.clone(), message, Some(there.sequence)).await?;
            match self.taken(epoch, ack).await {
                Ok(sequence) => return Ok(Exchanged::Written(Position { major: sequence, minor: 0 })),
                Err(Rejected::Superseded) => {}
                Err(Rejected::Failed(error)) => return Err(error),
            }
        }
    }

    pub(super) async fn kept_document(
        &self,
        epoch: &Epoch,
        kind: DocumentKind,
        key: &str,
    ) -> Result<Option<Bytes>, BrokerError> {
        let context = self.link.context().await?;
        let there = self.there(&context, &format!("{}.{}", self.prefix(epoch)?, subject(kind, key))).await?;
        if there.sealed.is_none() {
            self.standing_in(&context, epoch).await?;
        }
        Ok(there.sealed)
    }

    /// Puts a document in the place of every lower revision; `None`: there is none.
    async fn replace(
        &self,
        context: &Context,
        epoch: &Epoch,
        message: &Publication,
    ) -> Result<Option<u64>, BrokerError> {
        let Place::Document { kind, key, revision, .. } = &message.place else { return Ok(None) };
        let subject = format!("{}.{}", self.prefix(epoch)?, subject(*kind, key));
        loop {
            let there = self.there(context, &subject).await?;
            if *revision <= there.revision {
                return Ok(None);
            }
            let ack = self.send(context, subject.clone(), message, Some(there.sequence)).await?;
            match self.taken(epoch, ack).await {
                Ok(sequence) => return Ok(Some(sequence)),
                Err(Rejected::Superseded) => {}
                Err(Rejected::Failed(error)) => return Err(error),
            }
        }
    }

    /// Where the documents stand that messages are about.
    async fn documents(
        &self,
        context: &Context,
        prefix: &str,
        messages: &[Publication],
    ) -> Result<HashMap<String, There>, BrokerError> {
        let mut subjects: Vec<String> = messages
            .iter()
            .filter_map(|message| match &message.place {
                Place::Document { kind, key, .. } => Some(subject(*kind, key)),
                _ => None,
            })
            .collect();
        subjects.sort_unstable();
        subjects.dedup();
        let look = |subject: String| async move {
            let there = self.there(context, &format!("{prefix}.{subject}")).await?;
            Ok::<_, BrokerError>((subject, there))
        };
        stream::iter(subjects.into_iter().map(look)).buffer_unordered(super::REQUESTS).try_collect().await
    }

    async fn there(&self, context: &Context, subject: &str) -> Result<There, BrokerError> {
        let stream = context.get_stream_no_info(&self.stream).await;
        let stream = stream.map_err(|error| BrokerError::Refused(short(&error.to_string())))?;
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => {
                let revision = message.headers.get(REVISION).and_then(|text| text.as_str().parse().ok());
                Ok(There { revision: revision.unwrap_or(0), sequence: message.sequence, sealed: Some(message.payload) })
            }
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(There::default()),
                LastRawMessageErrorKind::JetStream(refusal) => match refusal.error_code().0 {
                    api::NO_MESSAGE => Ok(There::default()),
                    api::STREAM_NOT_FOUND => Err(BrokerError::Epoch),
                    code => Err(api::Failure::Refused(code, refusal.to_string()).into()),
                },
                LastRawMessageErrorKind::InvalidSubject | LastRawMessageErrorKind::Other => {
                    Err(BrokerError::of_connection(error))
                }
            },
        }
    }

    async fn send(
        &self,
        context: &Context,
        subject: String,
        message: &Publication,
        replaces: Option<u64>,
    ) -> Result<PublishAckFuture, BrokerError> {
        let mut publication = PublishMessage::build().payload(message.sealed.clone());
        if let Place::Document { revision, forget_at, .. } = &message.place {
            publication = publication.header(REVISION, revision.to_string());
            if let Some(at) = forget_at {
                publication = publication.header(END, at.millis().to_string());
            }
        }
        if let Some(sequence) = replaces {
            publication = publication.expected_last_subject_sequence(sequence);
        }
        context.send_publish(subject, publication).await.map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => {
                BrokerError::Refused("its `max_payload` is too small for the message".to_owned())
            }
            _ => BrokerError::of_connection(error),
        })
    }

    /// Waits until all of a batch is there; returns the indices of documents in whose way another one came.
    async fn settle(
        &self,
        epoch: &Epoch,
        batch: &mut Batch,
        documents: &mut HashMap<String, There>,
    ) -> Result<Vec<usize>, BrokerError> {
        let mut superseded = Vec::new();
        for (subject, ack) in std::mem::take(&mut batch.acks) {
            let published = subject.as_ref().and_then(|subject| batch.documents.get(subject).copied());
            match (self.taken(epoch, ack).await, subject, published) {
                (Ok(sequence), subject, published) => {
                    batch.last = batch.last.max(sequence);
                    if let (Some(subject), Some((_, revision))) = (subject, published) {
                        documents.insert(subject, There { revision, sequence, sealed: None });
                    }
                }
                (Err(Rejected::Superseded), _, Some((index, _))) => superseded.push(index),
                (Err(Rejected::Superseded), ..) => return Err(BrokerError::odd()),
                (Err(Rejected::Failed(error)), ..) => return Err(error),
            }
        }
        batch.documents.clear();
        Ok(superseded)
    }

    /// The sequence that a message was given.
    async fn taken(&self, epoch: &Epoch, ack: PublishAckFuture) -> Result<u64, Rejected> {
        let error: PublishError = match ack.await {
            Ok(ack) => return Ok(ack.sequence),
            Err(error) => error,
        };
        Err(match error.kind() {
            PublishErrorKind::WrongLastSequence => Rejected::Superseded,
            // Nobody listens on the subjects of this epoch: the stream has gone, or the server is about to.
            PublishErrorKind::StreamNotFound => Rejected::Failed(match self.link.context().await {
                Ok(context) => match self.standing_in(&context, epoch).await {
                    Ok(_) => BrokerError::of_connection(error),
                    Err(why) => why,
                },
                Err(why) => why,
            }),
            _ => match code(&error) {
                Some((code, _)) if api::WRONG_LAST.contains(&code) => Rejected::Superseded,
                Some((code, text)) => Rejected::Failed(api::Failure::Refused(code, text).into()),
                None => Rejected::Failed(BrokerError::of_connection(error)),
            },
        })
    }
}

/// What JetStream has against a message.
fn code(error: &PublishError) -> Option<(u64, String)> {
    let refusal = error.source()?.downcast_ref::<async_nats::jetstream::Error>()?;
    Some((refusal.error_code().0, refusal.to_string()))
}

/// Messages on their way.
#[derive(Default)]
struct Batch {
    acks: Vec<(Option<String>, PublishAckFuture)>,
    /// Documents among them: which message, and which revision.
    documents: HashMap<String, (usize, u64)>,
    last: u64,
}
