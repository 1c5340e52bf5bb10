//! What a token says, and whether what it says is well formed: pure, no I/O, no clock.
//!
//! A compact JWS (RFC 7515 §3.1) is split and parsed strictly once; nothing here believes a claim.
//! Whether the signature counts is [`crate::keys`]'s business, whether the token is honoured
//! [`crate::gate`]'s.

mod algorithm;
mod claims;
mod compact;
pub(crate) mod json;
mod lineage;
mod policy;
pub mod present;

pub use algorithm::{Algorithm, Family};
pub use claims::Claims;
pub use compact::{Compact, Header, ParseError, SignedParts};
pub use lineage::{Lineage, LineageError, Origin};
pub use policy::{Policy, PolicyError};
