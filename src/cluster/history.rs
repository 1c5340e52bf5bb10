//! What this node has of every node's records, and sums by which two nodes find out that they differ.

use std::collections::{BTreeMap, HashMap, VecDeque};

use siphasher::sip::SipHasher13;

use super::message::{Digest, Sum};
use super::{Bucket, Position};
use crate::store::Document;
use crate::time::Timestamp;

/// Places in the log that are remembered with what was held there, for nodes that answer late.
const REMEMBERED: usize = 16;

/// Whether a record continues what was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Continuity {
    /// It was there, or came before what is.
    Known,
    /// It is the next one of its node.
    Next,
    /// Records before it are missing.
    Gap,
}

/// The copy of this node, in numbers.
#[derive(Debug, Default)]
pub(super) struct History {
    /// By origin, the number up to which every record has been seen in the log or in what is kept beside it.
    applied: BTreeMap<String, u64>,
    /// By origin, the number up to which nothing is looked for in what is kept: it was looked for there.
    waived: BTreeMap<String, u64>,
    held: Held,
    /// The hashes of the replacements that count, by key.
    replacements: HashMap<String, u64>,
    /// What was held at places that others may name.
    remembered: VecDeque<(Position, Held)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    buckets: BTreeMap<Bucket, Sum>,
    replacements: Sum,
}

impl History {
    /// The history of a node that had come as far as `applied`, before anything is counted.
    pub(super) fn new(applied: BTreeMap<String, u64>) -> Self {
        Self { applied, ..Self::default() }
    }

    /// By origin, how far it has come.
    pub(super) const fn applied(&self) -> &BTreeMap<String, u64> {
        &self.applied
    }

    /// How far it has come with the records of `origin`.
    pub(super) fn applied_of(&self, origin: &str) -> u64 {
        self.applied.get(origin).copied().unwrap_or(0)
    }

    /// Notes that a record was seen. One behind a gap does not count before the gap is [closed](Self::close).
    pub(super) fn see(&mut self, origin: &str, sequence: u64) -> Continuity {
        advance(&mut self.applied, origin, sequence)
    }

    /// Notes that there is nothing more to be had of the records of `origin` up to `sequence`.
    pub(super) fn close(&mut self, origin: &str, sequence: u64) {
        let applied = self.applied.entry(origin.to_owned()).or_default();
        *applied = sequence.max(*applied);
    }

    /// Notes that everything that is kept was read after a node had said that its records up to these are there:
    /// what is not has lapsed, or is lost and given back by whoever has it.
    pub(super) fn waive(&mut self, said: BTreeMap<String, u64>) {
        self.waived = said;
    }

    /// Whether records of `origin` up to `sequence` are missing that may be among what is kept.
    pub(super) fn lacks(&self, origin: &str, sequence: u64) -> bool {
        self.applied_of(origin).max(self.waived.get(origin).copied().unwrap_or(0)) < sequence
    }

    /// Counts a record that is held.
    pub(super) fn count(&mut self, bucket: Bucket, origin: &str, sequence: u64) {
        self.held.buckets.entry(bucket).or_default().add(identity(origin, sequence));
    }

    /// Counts the replacement of a subject in the place of an earlier revision. One that was taken back does not
    /// count.
    pub(super) fn count_replacement(&mut self, document: &Document) {
        let hash = document.forget_at.is_none().then(|| of_document(document));
        let before = match hash {
            Some(hash) => self.replacements.insert(document.key.clone(), hash),
            None => self.replacements.remove(&document.key),
        };
        if let Some(before) = before {
            self.held.replacements.remove(before);
        }
        if let Some(hash) = hash {
            self.held.replacements.add(hash);
        }
    }

    /// Remembers what is held at a place in the log, and says it. Buckets that begin before `now` are left out:
    /// some have forgotten of them already.
    pub(super) fn remember(&mut self, at: Position, now: Timestamp) -> (BTreeMap<u32, Sum>, Sum) {
        let lapsed = |bucket: &Bucket| bucket.begins().is_some_and(|begins| begins <= now);
        self.held.buckets.retain(|bucket, sum| !lapsed(bucket) && sum.count > 0);
        if self.remembered.len() == REMEMBERED {
            self.remembered.pop_front();
        }
        self.remembered.push_back((at, self.held.clone()));
        (self.held.buckets.iter().map(|(bucket, sum)| (bucket.0, *sum)).collect(), self.held.replacements)
    }

    /// Whether another node held the same as this one; `None`: what was held there is not known.
    pub(super) fn compare(&self, digest: &Digest) -> Option<bool> {
        let at = digest.at.parse().ok()?;
        let (_, here) = self.remembered.iter().find(|(place, _)| *place == at)?;
        let there = digest.buckets.iter().map(|(bucket, sum)| (Bucket(*bucket), *sum)).collect();
        Some(*here == Held { buckets: there, replacements: digest.replacements })
    }
}

/// Notes in `applied` that a record was seen: see [`History::see`].
pub(super) fn advance(applied: &mut BTreeMap<String, u64>, origin: &str, sequence: u64) -> Continuity {
    let applied = applied.entry(origin.to_owned()).or_default();
    if sequence <= *applied {
        return Continuity::Known;
    }
    if sequence > *applied + 1 {
        return Continuity::Gap;
    }
    *applied = sequence;
    Continuity::Next
}

/// Both nodes must come to the same.
fn identity(origin: &str, sequence: u64) -> u64 {
    let mut bytes = sequence.to_be_bytes().to_vec();
    bytes.extend_from_slice(origin.as_bytes());
    hash(&bytes)
}

fn of_document(document: &Document) -> u64 {
    let mut bytes = document.revision.to_be_bytes().to_vec();
    bytes.extend_from_slice(&(document.key.len() as u64).to_be_bytes());
    bytes.extend_from_slice(document.key.as_bytes());
    bytes.extend_from_slice(document.body.as_bytes());
    hash(&bytes)
}

/// The key is fixed: it finds differences, and keeps out nobody who has the seal.
fn hash(bytes: &[u8]) -> u64 {
    SipHasher13::new_with_key(b"portcullis/sum/1").hash(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::DocumentKind;

    const AT: Position = Position { major: 5, minor: 0 };

    fn digest(history: &mut History, at: Position, now: Timestamp) -> Digest {
        let (buckets, replacements) = history.remember(at, now);
        Digest { node: "n".to_owned(), incarnation: "i".to_owned(), at: at.to_string(), buckets, replacements }
    }

    fn replacement(revision: u64, forget_at: Option<Timestamp>) -> Document {
        Document { kind: DocumentKind::Replacement, key: "k".to_owned(), revision, body: "{}".to_owned(), forget_at }
    }

    #[test]
    fn a_missing_record_is_noticed_until_the_gap_is_closed() {
        let mut history = History::new(BTreeMap::from([("a".to_owned(), 3)]));
        for (origin, sequence, expected) in [
            ("a", 3, Continuity::Known),
            ("a", 4, Continuity::Next),
            ("a", 4, Continuity::Known),
            ("b", 1, Continuity::Next),
            ("b", 3, Continuity::Gap),
            ("b", 4, Continuity::Gap),
            ("c", 2, Continuity::Gap),
        ] {
            assert_eq!(history.see(origin, sequence), expected, "{origin} {sequence}");
        }
        assert_eq!((history.applied_of("b"), history.applied_of("d")), (1, 0));
        history.close("b", 4);
        history.close("b", 2);
        assert_eq!((history.see("b", 5), history.applied_of("b")), (Continuity::Next, 5));
    }

    #[test]
    fn order_does_not_matter_and_every_record_does() {
        let (mut one, mut other) = (History::default(), History::default());
        let records = [(Bucket(9), "a", 1), (Bucket(9), "b", 1), (Bucket::NEVER, "a", 2)];
        records.iter().for_each(|(bucket, origin, sequence)| one.count(*bucket, origin, *sequence));
        records.iter().rev().for_each(|(bucket, origin, sequence)| other.count(*bucket, origin, *sequence));
        let said = digest(&mut other, AT, Timestamp::MIN);
        assert_eq!(one.compare(&said), None, "nothing was held there yet");
        one.remember(AT, Timestamp::MIN);
        assert_eq!(one.compare(&said), Some(true));
        other.count(Bucket(10), "c", 1);
        let later = Position { major: 6, minor: 0 };
        let said = digest(&mut other, later, Timestamp::MIN);
        one.remember(later, Timestamp::MIN);
        assert_eq!(one.compare(&said), Some(false));
    }

    #[test]
    fn what_some_have_forgotten_is_not_compared() {
        let (mut one, mut other) = (History::default(), History::default());
        one.count(Bucket(1), "a", 1);
        let now = Timestamp::from_secs(3600);
        let said = digest(&mut other, AT, now);
        one.remember(AT, now);
        assert_eq!(one.compare(&said), Some(true));
    }

    #[test]
    fn a_replacement_counts_in_its_latest_revision_until_it_is_taken_back() {
        let (mut one, mut other) = (History::default(), History::default());
        let equal = |one: &mut History, other: &mut History, major| {
            let at = Position { major, minor: 0 };
            let said = digest(other, at, Timestamp::MIN);
            one.remember(at, Timestamp::MIN);
            one.compare(&said).unwrap()
        };
        one.count_replacement(&replacement(1, None));
        assert!(!equal(&mut one, &mut other, 1));
        other.count_replacement(&replacement(1, None));
        other.count_replacement(&replacement(1, None));
        assert!(equal(&mut one, &mut other, 2));
        other.count_replacement(&replacement(2, Some(Timestamp::from_secs(9))));
        assert!(!equal(&mut one, &mut other, 3));
        one.count_replacement(&replacement(2, Some(Timestamp::from_secs(99))));
        assert!(equal(&mut one, &mut other, 4));
    }

    #[test]
    fn only_the_last_places_are_remembered() {
        let mut history = History::default();
        for major in 0..100 {
            history.remember(Position { major, minor: 0 }, Timestamp::MIN);
        }
        assert_eq!(history.remembered.len(), REMEMBERED);
    }
}
