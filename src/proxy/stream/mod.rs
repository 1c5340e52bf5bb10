//! What goes on after a request was answered: tunnels, and answers that take their time.
//!
//! Whatever a token let in ends when the token's standing does. A tunnel is held from its first byte; an
//! answer only once it has gone on for [`GRACE`], so that short ones pay nothing: no registration, no
//! task, no timer beside the one that watches for an upstream's silence. What is revoked in that time is
//! found when the hold begins, before any more of the answer is handed on.

mod frames;
mod held;
mod pipes;
mod tunnel;
mod upgrade;
mod watch;

use std::cell::{Cell, RefCell};
use std::time::Duration;

pub(super) use self::held::Held;
pub use self::tunnel::Tunnel;
pub(super) use self::tunnel::Upgraded;
pub(super) use self::upgrade::Upgrade;
pub(super) use self::watch::Watch;

/// How long an answer may go on before it is held by its token. Half of the second within which
/// a revocation is to be felt; most answers are over long before.
pub(super) const GRACE: Duration = Duration::from_millis(500);

/// What a connection comes to besides its next request. One for each HTTP/1.1 connection.
#[derive(Debug, Default)]
pub struct Handover {
    tunnel: RefCell<Option<Box<Tunnel>>>,
    cut: Cell<bool>,
    leaving: Cell<bool>,
}

impl Handover {
    /// The tunnel that the connection becomes, once its answer is out.
    #[must_use]
    pub fn take_tunnel(&self) -> Option<Box<Tunnel>> {
        self.tunnel.take()
    }

    /// Whether the connection must end now, whatever is still to be written.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut.get()
    }

    /// Says that the connection is to end with the answer to its next request, which tells the client so.
    pub fn leave(&self) {
        self.leaving.set(true);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    pub(super) fn put_tunnel(&self, tunnel: Tunnel) {
        self.tunnel.replace(Some(Box::new(tunnel)));
    }

    pub(super) fn cut(&self) {
        self.cut.set(true);
    }
}
