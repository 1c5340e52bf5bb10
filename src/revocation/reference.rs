//! How the map names a target: a keyed digest instead of a text of any length.

use std::hash::{BuildHasherDefault, Hasher};

use siphasher::sip128::{Hasher128, SipHasher13};

use super::{Target, TargetKind};

/// The kind takes the lowest three bits of a reference; the digest has the other 125.
const KIND_BITS: u64 = 0b111;

/// A target, as the map that made it knows it: 16 bytes, worth nothing to another process.
///
/// The digest is keyed with a secret drawn when the map was made, so nobody can prepare two
/// identifiers that share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetRef {
    digest: u64,
    digest_and_kind: u64,
}

impl TargetRef {
    /// What kind of target this is.
    #[must_use]
    pub const fn kind(self) -> TargetKind {
        match self.digest_and_kind & KIND_BITS {
            1 => TargetKind::Token,
            2 => TargetKind::Session,
            3 => TargetKind::Subject,
            4 => TargetKind::Client,
            5 => TargetKind::Key,
            6 => TargetKind::Issuer,
            _ => TargetKind::All,
        }
    }

    /// Its place among `parts` equal ones.
    pub(super) fn spread(self, parts: usize) -> usize {
        // Below `parts`, which fits.
        usize::try_from(self.digest % parts as u64).unwrap_or_default()
    }
}

/// The digest is uniform already: its first word is the hash.
impl std::hash::Hash for TargetRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest);
    }
}

/// Hands a [`TargetRef`]'s own digest through as its hash.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PassThrough(u64);

/// Builds [`PassThrough`] hashers.
pub(super) type BuildPassThrough = BuildHasherDefault<PassThrough>;

impl Hasher for PassThrough {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The secret under which one map names its targets.
#[derive(Clone)]
pub(super) struct Key(SipHasher13);

impl Key {
    /// A key nobody knows.
    pub(super) fn random() -> Self {
        Self(SipHasher13::new_with_key(&rand::random()))
    }

    /// The reference of a target. Parts that the kind does not have are left out, as in
    /// [`Target::new`]; each part is preceded by its length, so that moving a byte from one to the
    /// other makes another name.
    pub(super) fn reference(&self, kind: TargetKind, issuer: &str, value: &str) -> TargetRef {
        let (issuer, value) = Target::parts(kind, issuer, value);
        let mut hasher = self.0;
        hasher.write_u64(((issuer.len() as u64) << 8) | kind as u64);
        hasher.write(issuer.as_bytes());
        hasher.write_u64(value.len() as u64);
        hasher.write(value.as_bytes());
        let (digest, rest) = hasher.finish128().as_u64();
        TargetRef { digest, digest_and_kind: (rest & !KIND_BITS) | kind as u64 }
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, Hash};

    use super::*;

    #[test]
    fn every_kind_is_kept_and_every_part_counts() {
        let key = Key::random();
        let mut seen = Vec::new();
        for kind in TargetKind::ALL {
            let reference = key.reference(kind, "https://a.example/", "42");
            assert_eq!(reference.kind(), kind);
            assert_eq!(reference, key.reference(kind, "https://a.example/", "42"));
            assert!(!seen.contains(&reference));
            seen.push(reference);
        }
    }

    #[test]
    fn a_byte_that_moves_between_the_parts_makes_another_name() {
        let key = Key::random();
        let one = key.reference(TargetKind::Subject, "ab", "c");
        assert_ne!(one, key.reference(TargetKind::Subject, "a", "bc"));
        assert_ne!(one, key.reference(TargetKind::Subject, "abc", ""));
    }

    #[test]
    fn parts_a_kind_does_not_have_are_left_out() {
        let key = Key::random();
        assert_eq!(key.reference(TargetKind::Key, "x", "thumb"), key.reference(TargetKind::Key, "", "thumb"));
        assert_eq!(key.reference(TargetKind::All, "x", "y"), key.reference(TargetKind::All, "", ""));
        assert_eq!(key.reference(TargetKind::Issuer, "x", "y"), key.reference(TargetKind::Issuer, "x", ""));
    }

    #[test]
    fn two_maps_name_one_target_differently() {
        let name = |key: &Key| key.reference(TargetKind::Subject, "https://a.example/", "42");
        assert_ne!(name(&Key::random()), name(&Key::random()));
    }

    #[test]
    fn the_hash_is_the_digest_itself() {
        let reference = Key::random().reference(TargetKind::Token, "i", "t");
        assert_eq!(BuildPassThrough::default().hash_one(reference), reference.digest);
        let mut spelled = PassThrough::default();
        reference.hash(&mut spelled);
        assert_eq!(spelled.finish(), reference.digest);
    }
}
