//! What is no longer honoured.
//!
//! Answers one question, for every request, without waiting: is this token still in good standing?
//! Durability is [`crate::store`]'s business; this module forgets everything when the process ends.
//!
//! Invariant: the effect on a token is the maximum over all records of all its targets that are not
//! lifted, so records may arrive twice, late, or in any order. A subject that replaced another answers for
//! that one's records too.

mod effect;
mod freshness;
mod horizon;
mod live;
mod map;
mod record;
mod reference;
mod replacement;
mod target;

pub use effect::{InForce, Standing};
pub use freshness::Freshness;
pub use horizon::{Horizons, IssuerHorizon, OWN_ISSUER, UnknownIssuer};
pub use live::{Handle, Live};
pub use map::{Effect, Full, RevocationMap};
pub use record::{Form, InvalidRecordId, Lift, Reason, RecordId, Revocation, Source, UnknownReason};
pub use reference::TargetRef;
pub use replacement::{CHAIN_MAX, InvalidReplacement, InvalidUndo, LINKS_MAX, Replacement, Replacements};
pub use target::{Target, TargetKind, UnknownTargetKind};
