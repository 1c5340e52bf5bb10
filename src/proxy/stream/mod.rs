//! What goes on after a request was answered: tunnels, and answers that take their time.
//!
//! Whatever a token let in ends when the token's standing does. A tunnel is held from its first byte; an
//! answer only once it has gone on for [`GRACE`], so that short ones pay nothing: no registration, no
//! task, no timer beside the one that watches for an upstream's silence. What is revoked in that time is
//! found when the hold begins, before any more of the answer is handed on.

mod frames;
mod handover;
mod held;
mod pipes;
mod tunnel;
mod upgrade;
mod watch;

use std::time::Duration;

pub use self::handover::Handover;
pub(super) use self::held::Held;
pub use self::tunnel::Tunnel;
pub(super) use self::tunnel::Upgraded;
pub(super) use self::upgrade::Upgrade;

/// How long an answer may go on before it is held by its token. Half of the second within which
/// a revocation is to be felt; most answers are over long before.
pub(super) const GRACE: Duration = Duration::from_millis(500);
