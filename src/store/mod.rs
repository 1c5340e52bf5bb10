//! Where revocation state survives: an append-only set of immutable records, behind one trait.

use crate::revocation::{Lift, Revocation};

/// What one entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A revocation.
    Revocation(Revocation),
    /// A tombstone.
    Lift(Lift),
}

/// One record with its place in the history of the node that made it.
///
/// `(origin, origin_seq)` is contiguous per origin, so that a cluster log can notice gaps; the
/// version lets a later format be told apart without guessing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node that made it.
    pub origin: String,
    /// Its number among the entries of that node, from 1 on.
    pub origin_seq: u64,
    /// The version of the record's shape; [`Entry::VERSION`] is the one written here.
    pub version: u16,
    /// What it says.
    pub body: Body,
}

impl Entry {
    /// The version written by this release.
    pub const VERSION: u16 = 1;
}
