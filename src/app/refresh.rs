//! What is remembered of refresh tokens, from the store at the start.

use std::sync::Arc;

use crate::cli::{Exit, Failure};
use crate::config::Config;
use crate::intake::{DocumentKind, Ledger};
use crate::session::{Families, Family};
use crate::time::Timestamp;

/// The families in the store that have not ended.
///
/// # Errors
///
/// When the store cannot be read. One family that cannot is skipped: its session goes on until its access
/// token expires.
pub(super) async fn restore(config: &Config, ledger: Arc<Ledger>, now: Timestamp) -> Result<Arc<Families>, Failure> {
    let families = Arc::new(Families::new(config.session.as_ref().map_or(0, |session| session.devices.max)));
    let read = {
        let families = Arc::clone(&families);
        tokio::task::spawn_blocking(move || {
            ledger.documents(DocumentKind::Family, &mut |document| {
                if !document.is_live(now) {
                    return;
                }
                match Family::restored(&document.key, &document.body) {
                    Ok(family) => families.note(&family),
                    Err(error) => {
                        tracing::error!(%error, sid = document.key, "failed to read a family of refresh tokens");
                    }
                }
            })
        })
    };
    let failed = |error: &dyn std::error::Error| Failure::of(Exit::Failed, "cannot read the refresh tokens", error);
    read.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    Ok(families)
}
