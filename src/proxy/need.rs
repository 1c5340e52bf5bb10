//! What a decision lacked, and where it is had: the one place that waits for it.
//!
//! The gate decides without waiting. When it cannot ([`Unsettled::Needs`]), what it lacks is had from the
//! issuer's [`Supplier`] within [`PATIENCE`], and the question is asked again with a fresh `now`.
//! What is lacking still is a refusal. A decision may lack two things, one after the other: an issuer's
//! keys, and then the credential of a subject.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::timeout;

use super::snapshot::Snapshot;
use crate::gate::{Denial, Gate, Need, Stage, Unsettled};
use crate::keys::{Published, Renewed};
use crate::time::{Clock, Timestamp};

/// How long a request waits for what its decision lacks; afterwards it is refused with 503, and whatever
/// was under way goes on for those who come later. Suppliers have shorter limits of their own.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often one decision may lack something: its keys, its credential, and that again when it was dropped
/// just after it was had, because it has changed. Whoever is still not done then comes again.
const NEEDS_MAX: usize = 4;

/// Gets what decisions about one issuer's tokens lack.
///
/// Asked for each request that lacks something, also when strangers send ten thousand of them a second:
/// it is up to the supplier that they share one look-up, and that one which has just been made is not
/// made again.
pub trait Supplier: Send + Sync + fmt::Debug {
    /// Gets it, or finds that it is as it was. `Ok` says that asking the gate again is worth while; what
    /// it lacks then does not exist.
    ///
    /// # Errors
    ///
    /// [`Denial::KeysUnavailable`] when it cannot be had.
    fn supply(&self, need: Need) -> Supplied<'_>;
}

/// What [`Supplier::supply`] is on the way to.
pub type Supplied<'a> = Pin<Box<dyn Future<Output = Result<(), Denial>> + Send + 'a>>;

/// An issuer's published keys: fetched anew, or found to be the latest.
impl Supplier for Published {
    fn supply(&self, need: Need) -> Supplied<'_> {
        Box::pin(async move {
            match need {
                Need::Keys { .. } => match self.renew().await {
                    Renewed::Current => Ok(()),
                    Renewed::Unavailable => Err(Denial::KeysUnavailable),
                },
                // Nobody's tokens are bound to anything else here.
                Need::Credential { .. } => Err(Denial::KeysUnavailable),
            }
        })
    }
}

/// Gets what a decision lacked.
///
/// # Errors
///
/// [`Denial::KeysUnavailable`] when it cannot be had, or not in time.
async fn supply(snapshot: &Snapshot, need: Need) -> Result<(), Denial> {
    let Some(Some(supplier)) = snapshot.suppliers.get(need.issuer()) else { return Err(Denial::KeysUnavailable) };
    timeout(PATIENCE, supplier.supply(need)).await.unwrap_or(Err(Denial::KeysUnavailable))
}

/// Asks the gate, and again for each thing it lacks that can be had.
///
/// # Errors
///
/// Why the answer is no.
pub async fn settle<T>(
    snapshot: &Snapshot,
    clock: &Clock,
    now: Timestamp,
    ask: impl Fn(&Gate, Timestamp) -> Result<T, Unsettled>,
) -> Result<T, Stage> {
    let gate = &snapshot.gate;
    let mut now = now;
    let mut answer = ask(gate, now);
    let mut had_keys = false;
    for _ in 0..NEEDS_MAX {
        let need = match answer {
            // Keys that were had and do not fit do not exist.
            Err(Unsettled::Needs(need)) if !(had_keys && matches!(need, Need::Keys { .. })) => need,
            settled => {
                answer = settled;
                break;
            }
        };
        had_keys |= matches!(need, Need::Keys { .. });
        let issuer = Some(need.issuer());
        // In a box: it is rare, and must not make every request's future larger.
        Box::pin(supply(snapshot, need)).await.map_err(|denial| Stage { denial, issuer })?;
        now = clock.now();
        answer = ask(gate, now);
    }
    answer.map_err(|unsettled| gate.refusal(unsettled, now))
}
