//! Records that only a later release understands. They are kept and passed on as they came, and what they
//! restrict is refused.

use serde::{Deserialize, Serialize};

use super::record::{Canonical, Unreadable, checksum, named, record_id, time};
use super::{Body, Entry};
use crate::revocation::{RecordId, Target, TargetKind};
use crate::time::Timestamp;

/// Longest name of the kind of an [`Other`], in bytes. A longer one is refused.
pub const MAX_OTHER_KIND_BYTES: usize = 64;
/// Longest text of an [`Other`], in bytes. A longer one is refused.
pub const MAX_OTHER_BYTES: usize = 64 * 1024;
/// Targets that an [`Other`] can restrict. More are refused.
pub const MAX_OTHER_TARGETS: usize = 16;
/// A record of a kind that a later release makes: kept and passed on as it came. What it restricts is
/// refused, for nobody here knows how far it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Its id.
    pub id: RecordId,
    /// The name that the later release has for the kind, 1 to [`MAX_OTHER_KIND_BYTES`] bytes.
    pub kind: String,
    /// What it says, JSON as it came, at most [`MAX_OTHER_BYTES`].
    pub says: String,
    /// What is refused because of it, at most [`MAX_OTHER_TARGETS`], each until lifted.
    pub restricts: Vec<Target>,
    /// When it was made.
    pub at: Timestamp,
    /// From when on it may be forgotten. `None`: never.
    pub forget_at: Option<Timestamp>,
}

/// One stored record of a later release, borrowed from wherever it stands; numbers as they are stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct OtherRow<'a> {
    pub(super) seq: i64,
    pub(super) origin: &'a str,
    pub(super) origin_seq: i64,
    pub(super) version: i64,
    pub(super) id: &'a str,
    pub(super) name: &'a str,
    pub(super) says: &'a str,
    /// See [`spell`].
    pub(super) restricts: &'a str,
    pub(super) at: i64,
    pub(super) forget_at: Option<i64>,
}

/// A target as it stands in a row: its kind by number.
#[derive(Deserialize, Serialize)]
struct Spelled<'a>(i64, std::borrow::Cow<'a, str>, std::borrow::Cow<'a, str>);

/// Targets as text, for a row.
pub(super) fn spell(targets: &[Target]) -> String {
    let spelled: Vec<_> =
        targets.iter().map(|it| Spelled(it.kind as i64, it.issuer.as_str().into(), it.value.as_str().into())).collect();
    // Numbers and texts always have JSON; if they had none, the row would read as damaged, not as nothing.
    serde_json::to_string(&spelled).unwrap_or_default()
}

impl<'a> OtherRow<'a> {
    /// `other` as it is stored under the number `seq`, with what it restricts as [`spell`] has it.
    pub(super) fn of(seq: i64, entry: &'a Entry, other: &'a Other, restricts: &'a str) -> Self {
        Self {
            seq,
            origin: &entry.origin,
            origin_seq: entry.origin_seq.cast_signed(),
            version: i64::from(entry.version),
            id: other.id.as_str(),
            name: &other.kind,
            says: &other.says,
            restricts,
            at: other.at.millis(),
            forget_at: other.forget_at.map(Timestamp::millis),
        }
    }

    /// The checksum over every field, its number included.
    pub(super) fn checksum(&self, scratch: &mut Vec<u8>) -> i64 {
        scratch.clear();
        let mut put = Canonical(scratch);
        put.text("other");
        put.number(self.seq);
        put.text(self.origin);
        put.number(self.origin_seq);
        put.number(self.version);
        put.text(self.id);
        put.text(self.name);
        put.text(self.says);
        put.text(self.restricts);
        put.number(self.at);
        put.optional(self.forget_at);
        checksum(scratch)
    }

    /// What it restricts, each target once.
    pub(super) fn restricts(&self) -> Result<Vec<Target>, Unreadable> {
        let spelled: Vec<Spelled<'_>> = serde_json::from_str(self.restricts).map_err(|_| Unreadable)?;
        let target = |Spelled(kind, issuer, value)| Ok(Target::new(kind_numbered(kind)?, issuer, value));
        let mut targets = spelled.into_iter().map(target).collect::<Result<Vec<_>, Unreadable>>()?;
        targets.sort_unstable();
        targets.dedup();
        Ok(targets)
    }

    /// The record in the words of the domain.
    pub(super) fn read(&self) -> Result<Entry, Unreadable> {
        let spelled: Vec<Spelled<'_>> = serde_json::from_str(self.restricts).map_err(|_| Unreadable)?;
        let target = |Spelled(kind, issuer, value)| {
            Ok(Target { kind: kind_numbered(kind)?, issuer: issuer.into_owned(), value: value.into_owned() })
        };
        let body = Body::Other(Other {
            id: record_id(self.id)?,
            kind: self.name.to_owned(),
            says: self.says.to_owned(),
            restricts: spelled.into_iter().map(target).collect::<Result<_, Unreadable>>()?,
            at: Timestamp::from_millis(self.at),
            forget_at: time(self.forget_at),
        });
        Ok(Entry {
            origin: self.origin.to_owned(),
            origin_seq: self.origin_seq.cast_unsigned(),
            version: u16::try_from(self.version).map_err(|_| Unreadable)?,
            body,
        })
    }
}

fn kind_numbered(number: i64) -> Result<TargetKind, Unreadable> {
    named(TargetKind::ALL, number, |kind| kind as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let target = Target::new(TargetKind::Subject, "https://a.example/", "42");
        let body = Body::Other(Other {
            id: "id-1".parse().unwrap(),
            kind: "quota".to_owned(),
            says: "{}".to_owned(),
            restricts: vec![target.clone(), Target::new(TargetKind::All, "", ""), target],
            at: Timestamp::from_secs(6),
            forget_at: Some(Timestamp::from_secs(7)),
        });
        Entry { origin: "node".to_owned(), origin_seq: 7, version: 9, body }
    }

    fn with_row<T>(entry: &Entry, look: impl FnOnce(OtherRow<'_>) -> T) -> T {
        let Body::Other(other) = &entry.body else { panic!("{entry:?}") };
        look(OtherRow::of(3, entry, other, &spell(&other.restricts)))
    }

    #[test]
    fn it_is_kept_as_it_came() {
        let entry = entry();
        with_row(&entry, |row| {
            assert_eq!(row.read(), Ok(entry.clone()));
            assert_eq!(row.restricts().unwrap().len(), 2);
        });
    }

    #[test]
    fn every_field_counts() {
        with_row(&entry(), |row| {
            let mut seen = vec![row.checksum(&mut Vec::new())];
            let changed = [
                OtherRow { seq: 4, ..row },
                OtherRow { origin: "edon", ..row },
                OtherRow { origin_seq: 8, ..row },
                OtherRow { version: 2, ..row },
                OtherRow { id: "id-2", ..row },
                OtherRow { name: "quot", ..row },
                OtherRow { says: "a{}", ..row },
                OtherRow { restricts: "[]", ..row },
                OtherRow { at: 6_001, ..row },
                OtherRow { forget_at: None, ..row },
                OtherRow { forget_at: Some(0), ..row },
            ];
            for row in changed {
                let sum = row.checksum(&mut Vec::new());
                assert!(!seen.contains(&sum), "{row:?}");
                seen.push(sum);
            }
        });
    }

    #[test]
    fn what_cannot_be_read_restricts_not_nothing() {
        with_row(&entry(), |row| {
            for restricts in ["", "{}", "[[8,\"\",\"\"]]", "[[1,\"\"]]"] {
                let row = OtherRow { restricts, ..row };
                assert_eq!((row.read(), row.restricts()), (Err(Unreadable), Err(Unreadable)), "{restricts}");
            }
        });
    }
}
