//! Records as they are stored, and the checksum by which damage to one is noticed.

use siphasher::sip::SipHasher13;

use super::{Body, Entry};
use crate::revocation::{Form, InForce, Lift, Reason, RecordId, Revocation, Source, Target, TargetKind};
use crate::time::Timestamp;

/// One stored record, borrowed from wherever it stands. Numbers are as they are stored: what they
/// mean is only asked once the checksum fits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) seq: i64,
    pub(super) origin: &'a str,
    pub(super) origin_seq: i64,
    pub(super) version: i64,
    pub(super) id: &'a str,
    pub(super) kind: i64,
    pub(super) issuer: &'a str,
    pub(super) value: &'a str,
    pub(super) body: RecordBody<'a>,
    pub(super) actor: &'a str,
    pub(super) note: Option<&'a str>,
    pub(super) at: i64,
    pub(super) forget_at: Option<i64>,
}

/// What only one of the two has.
#[derive(Clone, Copy, Debug)]
pub(super) enum RecordBody<'a> {
    /// No cutoff at all is a block.
    Revocation {
        issued: Option<i64>,
        authenticated: Option<i64>,
        reason: i64,
        source: i64,
    },
    Lift {
        of: &'a str,
        leaves: Option<i64>,
    },
}

/// The checksum fits, and yet the record says nothing this release understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record was written by a later release")]
pub(super) struct Unreadable;

impl<'a> Record<'a> {
    /// The revocation `it` of `entry` as it is stored under the number `seq`.
    pub(super) fn revocation(seq: i64, entry: &'a Entry, it: &'a Revocation) -> Self {
        let (issued, authenticated) = match it.form {
            Form::Block => (None, None),
            Form::Before { issued, authenticated } => (issued, authenticated),
        };
        let body = RecordBody::Revocation {
            issued: issued.map(Timestamp::millis),
            authenticated: authenticated.map(Timestamp::millis),
            reason: it.reason as i64,
            source: it.source as i64,
        };
        let (said, ends) = ((&*it.actor, it.note.as_deref()), (it.at, it.forget_at));
        Self::of(seq, entry, &it.id, &it.target, body, said, ends)
    }

    /// The lift `it` of `entry` as it is stored under the number `seq`.
    pub(super) fn lift(seq: i64, entry: &'a Entry, it: &'a Lift) -> Self {
        let body = RecordBody::Lift { of: it.of.as_str(), leaves: it.leaves.map(Timestamp::millis) };
        let (said, ends) = ((&*it.actor, it.note.as_deref()), (it.at, it.forget_at));
        Self::of(seq, entry, &it.id, &it.target, body, said, ends)
    }

    fn of(
        seq: i64,
        entry: &'a Entry,
        id: &'a RecordId,
        target: &'a Target,
        body: RecordBody<'a>,
        (actor, note): (&'a str, Option<&'a str>),
        (at, forget_at): (Timestamp, Option<Timestamp>),
    ) -> Self {
        Self {
            seq,
            origin: &entry.origin,
            origin_seq: entry.origin_seq.cast_signed(),
            version: i64::from(entry.version),
            id: id.as_str(),
            kind: target.kind as i64,
            issuer: &target.issuer,
            value: &target.value,
            body,
            actor,
            note,
            at: at.millis(),
            forget_at: forget_at.map(Timestamp::millis),
        }
    }

    /// The checksum over every field, its number included. The key is fixed: it tells damage from
    /// data, and keeps out nobody who may write the file.
    pub(super) fn checksum(&self, scratch: &mut Vec<u8>) -> i64 {
        scratch.clear();
        let mut put = Canonical(scratch);
        put.number(self.seq);
        put.text(self.origin);
        put.number(self.origin_seq);
        put.number(self.version);
        put.text(self.id);
        put.number(self.kind);
        put.text(self.issuer);
        put.text(self.value);
        match self.body {
            RecordBody::Revocation { issued, authenticated, reason, source } => {
                put.number(1);
                put.optional(issued);
                put.optional(authenticated);
                put.number(reason);
                put.number(source);
            }
            RecordBody::Lift { of, leaves } => {
                put.number(2);
                put.text(of);
                put.optional(leaves);
            }
        }
        put.text(self.actor);
        put.number(i64::from(self.note.is_some()));
        put.text(self.note.unwrap_or_default());
        put.number(self.at);
        put.optional(self.forget_at);
        checksum(scratch)
    }

    /// What the record does to its target; `None` for a lift that leaves nothing.
    pub(super) fn effect(&self) -> Result<Option<InForce>, Unreadable> {
        self.known_version()?;
        let form = match self.body {
            RecordBody::Revocation { issued, authenticated, .. } => form(issued, authenticated),
            RecordBody::Lift { leaves: None, .. } => return Ok(None),
            RecordBody::Lift { leaves, .. } => form(leaves, None),
        };
        Ok(Some(InForce::new(form, time(self.forget_at))))
    }

    const fn known_version(&self) -> Result<(), Unreadable> {
        if self.version > Entry::VERSION as i64 { Err(Unreadable) } else { Ok(()) }
    }

    /// The kind of its target.
    pub(super) fn target_kind(&self) -> Result<TargetKind, Unreadable> {
        named(TargetKind::ALL, self.kind, |kind| kind as i64)
    }

    /// The record with its place in the history of its node.
    pub(super) fn entry(&self) -> Result<Entry, Unreadable> {
        Ok(Entry {
            origin: self.origin.to_owned(),
            origin_seq: self.origin_seq.cast_unsigned(),
            version: u16::try_from(self.version).map_err(|_| Unreadable)?,
            body: self.read()?,
        })
    }

    /// The record in the words of the domain.
    pub(super) fn read(&self) -> Result<Body, Unreadable> {
        self.known_version()?;
        let id = record_id(self.id)?;
        let target = Target::new(self.target_kind()?, self.issuer, self.value);
        let (actor, note) = (self.actor.to_owned(), self.note.map(ToOwned::to_owned));
        let (at, forget_at) = (Timestamp::from_millis(self.at), time(self.forget_at));
        Ok(match self.body {
            RecordBody::Revocation { issued, authenticated, reason, source } => Body::Revocation(Revocation {
                id,
                target,
                form: form(issued, authenticated),
                reason: named(Reason::ALL, reason, |reason| reason as i64)?,
                source: named(Source::ALL, source, |source| source as i64)?,
                actor,
                note,
                at,
                forget_at,
            }),
            RecordBody::Lift { of, leaves } => {
                Body::Lift(Lift { id, of: record_id(of)?, target, leaves: time(leaves), actor, note, at, forget_at })
            }
        })
    }
}

/// No cutoff at all is a block.
fn form(issued: Option<i64>, authenticated: Option<i64>) -> Form {
    match (time(issued), time(authenticated)) {
        (None, None) => Form::Block,
        (issued, authenticated) => Form::Before { issued, authenticated },
    }
}

pub(super) fn record_id(text: &str) -> Result<RecordId, Unreadable> {
    text.parse().map_err(|_| Unreadable)
}

pub(super) fn time(millis: Option<i64>) -> Option<Timestamp> {
    millis.map(Timestamp::from_millis)
}

pub(super) fn named<T: Copy, const N: usize>(
    all: [T; N],
    number: i64,
    number_of: fn(T) -> i64,
) -> Result<T, Unreadable> {
    all.into_iter().find(|it| number_of(*it) == number).ok_or(Unreadable)
}

/// The checksum of bytes.
pub(super) fn checksum(bytes: &[u8]) -> i64 {
    SipHasher13::new_with_key(b"portcullis/row/1").hash(bytes).cast_signed()
}

/// Writes fields so that no two lists of them read the same.
pub(super) struct Canonical<'a>(pub(super) &'a mut Vec<u8>);

impl Canonical<'_> {
    pub(super) fn number(&mut self, number: i64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(super) fn optional(&mut self, number: Option<i64>) {
        self.0.push(u8::from(number.is_some()));
        self.number(number.unwrap_or_default());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.0.extend_from_slice(&(text.len() as u64).to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revocation() -> Entry {
        Entry {
            origin: "node".to_owned(),
            origin_seq: 7,
            version: Entry::VERSION,
            body: Body::Revocation(Revocation {
                id: "id-1".parse().unwrap(),
                target: Target::new(TargetKind::Subject, "https://a.example/", "42"),
                form: Form::Before { issued: Some(Timestamp::from_secs(5)), authenticated: None },
                reason: Reason::PasswordChanged,
                source: Source::Admin,
                actor: "ops".to_owned(),
                note: Some("why".to_owned()),
                at: Timestamp::from_secs(6),
                forget_at: Some(Timestamp::from_secs(700)),
            }),
        }
    }

    fn record(entry: &Entry) -> Record<'_> {
        match &entry.body {
            Body::Revocation(it) => Record::revocation(3, entry, it),
            Body::Lift(it) => Record::lift(3, entry, it),
            Body::Other(_) => panic!("{entry:?}"),
        }
    }

    fn lift() -> Entry {
        Entry {
            body: Body::Lift(Lift {
                id: "id-2".parse().unwrap(),
                of: "id-1".parse().unwrap(),
                target: Target::new(TargetKind::Subject, "https://a.example/", "42"),
                leaves: Some(Timestamp::from_secs(8)),
                actor: "ops".to_owned(),
                note: None,
                at: Timestamp::from_secs(8),
                forget_at: None,
            }),
            ..revocation()
        }
    }

    #[test]
    fn what_is_stored_reads_as_what_was_said() {
        for entry in [revocation(), lift()] {
            assert_eq!(record(&entry).entry(), Ok(entry.clone()));
        }
        let cut = record(&lift()).effect().map(|it| it.map(|it| it.form));
        assert_eq!(cut, Ok(Some(Form::Before { issued: Some(Timestamp::from_secs(8)), authenticated: None })));
    }

    #[test]
    fn every_field_counts() {
        let entry = revocation();
        let record = record(&entry);
        let mut seen = vec![record.checksum(&mut Vec::new())];
        let body =
            |issued, authenticated, reason, source| RecordBody::Revocation { issued, authenticated, reason, source };
        let changed = [
            Record { seq: 4, ..record },
            Record { origin: "edon", ..record },
            Record { origin_seq: 8, ..record },
            Record { version: 2, ..record },
            Record { id: "id-3", ..record },
            Record { kind: 4, ..record },
            Record { issuer: "https://a.example", ..record },
            Record { value: "43", ..record },
            Record { body: body(None, Some(5_000), 2, 1), ..record },
            Record { body: body(Some(5_000), Some(5_000), 2, 1), ..record },
            Record { body: body(None, None, 2, 1), ..record },
            Record { body: body(Some(5_000), None, 3, 1), ..record },
            Record { body: body(Some(5_000), None, 2, 2), ..record },
            Record { body: RecordBody::Lift { of: "id-1", leaves: None }, ..record },
            Record { body: RecordBody::Lift { of: "id-1", leaves: Some(0) }, ..record },
            Record { actor: "", note: Some("opswhy"), ..record },
            Record { note: None, ..record },
            Record { note: Some(""), ..record },
            Record { at: 6_001, ..record },
            Record { forget_at: None, ..record },
            Record { forget_at: Some(0), ..record },
        ];
        for record in changed {
            let sum = record.checksum(&mut Vec::new());
            assert!(!seen.contains(&sum), "{record:?}");
            seen.push(sum);
        }
    }

    #[test]
    fn a_later_format_is_not_guessed_at() {
        let entry = revocation();
        let record = record(&entry);
        assert_eq!(Record { version: 2, ..record }.read(), Err(Unreadable));
        assert_eq!(Record { version: 2, ..record }.effect(), Err(Unreadable));
        assert_eq!(Record { kind: 8, ..record }.read(), Err(Unreadable));
        assert_eq!(Record { kind: 8, ..record }.target_kind(), Err(Unreadable));
    }
}
