//! What a token says, and whether what it says is well formed: pure, no I/O, no clock.
//!
//! A compact JWS (RFC 7515 §3.1) is split and parsed strictly once; nothing here believes a claim.
//! Whether the signature counts is [`crate::keys`]'s business, whether the token is honoured
//! [`crate::gate`]'s.

mod algorithm;
mod claims;
mod compact;
mod confirmation;
pub(crate) mod json;
mod lineage;
mod policy;
pub mod present;
mod proof;

pub use algorithm::{Algorithm, Family};
pub use claims::Claims;
pub use compact::{Compact, Header, ParseError, SignedParts};
pub use confirmation::{Confirmation, ConfirmationError, digest_of};
pub use lineage::{Lineage, LineageError, Origin};
pub use policy::{Policy, PolicyError};
pub use proof::{PROOF_BYTES_MAX, Proof, ProofError};
