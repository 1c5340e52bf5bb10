//! Records in the words of the log: what another release of this gateway must be able to read.

use std::collections::HashMap;

use serde::de::Error as _;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::revocation::{Form, Lift, RecordId, Revocation, Source, Target, TargetKind};
use crate::store::{Body, Entry, Other};
use crate::time::Timestamp;

/// Restrictions of one record of a later release, at most: as many as a store keeps.
const MAX_RESTRICTS: usize = 16;

/// What is the same for every kind of record, also for those of a later release.
#[derive(Serialize, Deserialize)]
struct Envelope {
    origin: String,
    sequence: u64,
    version: u16,
    id: String,
    at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    forget_at: Option<Timestamp>,
    /// What a release that does not know the kind has to refuse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    restricts: Vec<TargetWire>,
    kind: String,
    says: Box<RawValue>,
}

#[derive(Clone, Serialize, Deserialize)]
struct TargetWire {
    kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    issuer: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    value: String,
}

#[derive(Serialize, Deserialize)]
struct RevocationWire {
    target: TargetWire,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_before: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authenticated_before: Option<Timestamp>,
    reason: String,
    source: String,
    actor: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// Of a later release: a revocation with more to it is no plain one.
    #[serde(flatten)]
    more: HashMap<String, serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct LiftWire {
    of: String,
    target: TargetWire,
    #[serde(skip_serializing_if = "Option::is_none")]
    leaves: Option<Timestamp>,
    actor: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(flatten)]
    more: HashMap<String, serde_json::Value>,
}

impl From<&Target> for TargetWire {
    fn from(target: &Target) -> Self {
        let Target { kind, issuer, value } = target.clone();
        Self { kind: kind.name().to_owned(), issuer, value }
    }
}

impl TargetWire {
    fn read(self) -> Option<Target> {
        Some(Target::new(self.kind.parse().ok()?, self.issuer, self.value))
    }
}

pub(super) fn write(entry: &Entry) -> serde_json::Result<Box<RawValue>> {
    let (kind, says, restricts) = match &entry.body {
        Body::Revocation(it) => {
            let (issued_before, authenticated_before) = match it.form {
                Form::Block => (None, None),
                Form::Before { issued, authenticated } => (issued, authenticated),
            };
            let says = RevocationWire {
                target: (&it.target).into(),
                issued_before,
                authenticated_before,
                reason: it.reason.name().to_owned(),
                source: it.source.name().to_owned(),
                actor: it.actor.clone(),
                note: it.note.clone(),
                more: HashMap::new(),
            };
            ("revocation".to_owned(), to_raw_value(&says)?, Vec::new())
        }
        Body::Lift(it) => {
            let says = LiftWire {
                of: it.of.as_str().to_owned(),
                target: (&it.target).into(),
                leaves: it.leaves,
                actor: it.actor.clone(),
                note: it.note.clone(),
                more: HashMap::new(),
            };
            ("lift".to_owned(), to_raw_value(&says)?, Vec::new())
        }
        Body::Other(it) => (
            it.kind.clone(),
            RawValue::from_string(it.says.clone())?,
            it.restricts.iter().map(TargetWire::from).collect(),
        ),
    };
    to_raw_value(&Envelope {
        origin: entry.origin.clone(),
        sequence: entry.origin_seq,
        version: entry.version,
        id: entry.body.id().as_str().to_owned(),
        at: entry.body.at(),
        forget_at: entry.body.forget_at(),
        restricts,
        kind,
        says,
    })
}

pub(super) fn read(json: &str) -> serde_json::Result<Entry> {
    let envelope: Envelope = serde_json::from_str(json)?;
    let id: RecordId = envelope.id.parse().map_err(serde_json::Error::custom)?;
    if envelope.origin.is_empty() || envelope.sequence == 0 || i64::try_from(envelope.sequence).is_err() {
        return Err(serde_json::Error::custom("a record without a place in the history of its node"));
    }
    let known = match envelope.kind.as_str() {
        "revocation" => revocation(&envelope, &id),
        "lift" => lift(&envelope, &id),
        _ => None,
    };
    let body = match known {
        Some(body) => body,
        None => Body::Other(Other {
            id,
            restricts: restricts(&envelope),
            says: envelope.says.get().to_owned(),
            kind: envelope.kind,
            at: envelope.at,
            forget_at: envelope.forget_at,
        }),
    };
    Ok(Entry { origin: envelope.origin, origin_seq: envelope.sequence, version: envelope.version, body })
}

/// A revocation in the words of this release; `None` when it says more than they can.
fn revocation(envelope: &Envelope, id: &RecordId) -> Option<Body> {
    let says: RevocationWire = serde_json::from_str(envelope.says.get()).ok()?;
    if envelope.version > Entry::VERSION || !says.more.is_empty() {
        return None;
    }
    let form = match (says.issued_before, says.authenticated_before) {
        (None, None) => Form::Block,
        (issued, authenticated) => Form::Before { issued, authenticated },
    };
    Some(Body::Revocation(Revocation {
        id: id.clone(),
        target: says.target.read()?,
        form,
        reason: says.reason.parse().ok()?,
        source: Source::ALL.into_iter().find(|source| source.name() == says.source)?,
        actor: says.actor,
        note: says.note,
        at: envelope.at,
        forget_at: envelope.forget_at,
    }))
}

/// A lift; `None` when it says more than this release understands. It then lifts nothing here.
fn lift(envelope: &Envelope, id: &RecordId) -> Option<Body> {
    let says: LiftWire = serde_json::from_str(envelope.says.get()).ok()?;
    if envelope.version > Entry::VERSION || !says.more.is_empty() {
        return None;
    }
    Some(Body::Lift(Lift {
        id: id.clone(),
        of: says.of.parse().ok()?,
        target: says.target.read()?,
        leaves: says.leaves,
        actor: says.actor,
        note: says.note,
        at: envelope.at,
        forget_at: envelope.forget_at,
    }))
}

/// What is to be refused on account of a record that cannot be read. A target of a kind that is not known is
/// all of its issuer; one without an issuer is everything.
fn restricts(envelope: &Envelope) -> Vec<Target> {
    // A revocation that says more than this release can read restricts what it names, whether or not it says so.
    let named = match envelope.kind.as_str() {
        "revocation" => serde_json::from_str::<Named>(envelope.says.get()).ok().map(|it| it.target),
        _ => None,
    };
    let wider = |wire: TargetWire| {
        let TargetWire { issuer, .. } = wire.clone();
        let whole = if issuer.is_empty() { TargetKind::All } else { TargetKind::Issuer };
        wire.read().unwrap_or_else(|| Target::new(whole, issuer, ""))
    };
    let mut all = Vec::new();
    for target in envelope.restricts.iter().cloned().chain(named).map(wider) {
        if all.len() == MAX_RESTRICTS {
            return vec![Target::new(TargetKind::All, "", "")];
        }
        if !all.contains(&target) {
            all.push(target);
        }
    }
    all
}

#[derive(Deserialize)]
struct Named {
    target: TargetWire,
}
