//! What is no longer honoured.
//!
//! Answers one question, for every request, without waiting: is this token still in good standing?
//! Durability is [`crate::store`]'s business; this module forgets everything when the process ends.
//!
//! Invariant: the effect on a token is the maximum over all records of all its targets that are not
//! lifted, so records may arrive twice, late, or in any order.

mod record;
mod target;

pub use record::{Form, Lift, Reason, RecordId, Revocation, Source};
pub use target::{Target, TargetKind};
