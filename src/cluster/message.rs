//! What nodes say to each other, and the seal by which they know it from what others say.
//!
//! A message is JSON behind a seal. Whoever can write to the broker can repeat what nodes have said, which changes
//! nothing, and cannot say anything new. What a later release says is kept and passed on as it came.

mod record;
mod seal;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Bucket, Place, Position};
use crate::store::{Document, DocumentKind, Entry};
use crate::time::Timestamp;

pub use self::seal::{Forged, Seal};

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// A record of revocation state.
    Record(Entry),
    /// A document, by the node that wrote it.
    Document(Document),
    /// A node is there.
    Heartbeat(Heartbeat),
    /// What a node holds, at a place in the log that all can tell.
    Digest(Digest),
    /// What is remembered of a subject's credential is to be dropped.
    Credential(CredentialDrop),
    /// Proofs of possession that were used.
    Proofs(Vec<UsedProof>),
    /// A later release said it. Nothing here depends on it.
    Unknown,
}

/// A node says that it is there, and reads it back: what it reads is as old as that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The node's name.
    pub node: String,
    /// Its store: the origin of its records.
    pub store: String,
    /// Drawn when its process began.
    pub incarnation: String,
    /// Its release.
    pub version: String,
    /// Its number among those of this incarnation, from 1 on.
    pub number: u64,
    /// What its wall clock showed.
    pub sent: Timestamp,
    /// The latest time that it knows anything to have happened at.
    pub latest: Timestamp,
    /// The number of its last record that is in the log.
    pub sequence: u64,
    /// By origin, the number up to which its copy has every record.
    pub applied: BTreeMap<String, u64>,
    /// How far it has read.
    pub position: String,
    /// The session keys that it has loaded, by thumbprint.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Whether it serves.
    pub ready: bool,
    /// Whether everybody is to say what they hold at this place in the log.
    #[serde(default)]
    pub compare: bool,
    /// Whether it is the last one: the process ends.
    #[serde(default)]
    pub leaving: bool,
}

/// What a node holds when it has read up to a [`Heartbeat`] that asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// The node that says so.
    pub node: String,
    /// Its process.
    pub incarnation: String,
    /// Where that heartbeat is in the log.
    pub at: String,
    /// The sums over the records of each bucket.
    pub buckets: BTreeMap<u32, Sum>,
    /// The sum over the replacements of subjects.
    pub replacements: Sum,
}

/// A sum over a set, whatever its order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// How many there are.
    pub count: u64,
    /// The sum of their hashes.
    pub hash: u64,
}

impl Sum {
    /// Takes one in.
    pub const fn add(&mut self, hash: u64) {
        self.count = self.count.wrapping_add(1);
        self.hash = self.hash.wrapping_add(hash);
    }

    /// Takes one out.
    pub const fn remove(&mut self, hash: u64) {
        self.count = self.count.wrapping_sub(1);
        self.hash = self.hash.wrapping_sub(hash);
    }
}

/// The credential of a subject has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialDrop {
    /// The issuer, by URL.
    pub issuer: String,
    /// The subject.
    pub subject: String,
}

/// A proof that was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedProof {
    /// The thumbprint of the key that made it.
    pub key: String,
    /// Its `jti`.
    pub id: String,
    /// Its `iat`.
    pub issued: Timestamp,
}

/// Why a sealed message was not understood.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// No node of this cluster said it.
    #[error(transparent)]
    Forged(#[from] Forged),
    /// A node said it, and it makes no sense.
    #[error("the message is not one")]
    Malformed(#[from] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    /// What it is.
    is: std::borrow::Cow<'a, str>,
    /// What it says.
    #[serde(borrow)]
    says: &'a serde_json::value::RawValue,
}

#[derive(Serialize, Deserialize)]
struct DocumentWire {
    kind: u8,
    key: String,
    revision: u64,
    body: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    forget_at: Option<Timestamp>,
}

impl Message {
    /// Where it is kept.
    #[must_use]
    pub fn place(&self) -> Place {
        match self {
            Self::Record(entry) => Place::Record {
                bucket: Bucket::of(entry.body.forget_at()),
                origin: entry.origin.clone(),
                sequence: entry.origin_seq,
            },
            Self::Document(document) => Place::Document {
                kind: document.kind,
                key: document.key.clone(),
                revision: document.revision,
                forget_at: document.forget_at,
            },
            Self::Heartbeat(heartbeat) => Place::Node(heartbeat.node.clone()),
            Self::Digest(_) | Self::Credential(_) | Self::Proofs(_) | Self::Unknown => Place::Passing,
        }
    }

    /// The message as JSON.
    pub(super) fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        use serde_json::value::to_raw_value;
        let (is, says) = match self {
            Self::Record(entry) => ("record", record::write(entry)?),
            Self::Document(it) => {
                let Document { kind, key, revision, body, forget_at } = it.clone();
                ("document", to_raw_value(&DocumentWire { kind: kind as u8, key, revision, body, forget_at })?)
            }
            Self::Heartbeat(it) => ("heartbeat", to_raw_value(it)?),
            Self::Digest(it) => ("digest", to_raw_value(it)?),
            Self::Credential(it) => ("credential", to_raw_value(it)?),
            Self::Proofs(it) => ("proofs", to_raw_value(it)?),
            Self::Unknown => ("unknown", to_raw_value(&())?),
        };
        serde_json::to_vec(&Wire { is: is.into(), says: &says })
    }

    /// Reads what [`to_json`](Self::to_json) wrote, here or in another release.
    pub(super) fn from_json(json: &[u8]) -> serde_json::Result<Self> {
        let wire: Wire<'_> = serde_json::from_slice(json)?;
        let says = wire.says.get();
        Ok(match &*wire.is {
            "record" => Self::Record(record::read(says)?),
            "document" => {
                let it: DocumentWire = serde_json::from_str(says)?;
                let Some(kind) = DocumentKind::ALL.into_iter().find(|kind| *kind as u8 == it.kind) else {
                    return Ok(Self::Unknown);
                };
                let DocumentWire { key, revision, body, forget_at, .. } = it;
                Self::Document(Document { kind, key, revision, body, forget_at })
            }
            "heartbeat" => Self::Heartbeat(serde_json::from_str(says)?),
            "digest" => Self::Digest(serde_json::from_str(says)?),
            "credential" => Self::Credential(serde_json::from_str(says)?),
            "proofs" => Self::Proofs(serde_json::from_str(says)?),
            _ => Self::Unknown,
        })
    }
}

impl Heartbeat {
    /// How far its node has read; the start, when that cannot be told.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position.parse().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
