//! The credentials of issuers' subjects: opened with a configuration, and supplied to decisions.

use std::sync::Arc;

use super::build::{BuildError, Parts};
use crate::config::Issuer;
use crate::gate::{Denial, Need};
use crate::keys::subject::Credentials;
use crate::proxy::{Snapshot, Supplied, Supplier};
use crate::revocation::TargetKind;

/// Opens the credentials of an issuer's subjects, or takes over those of the configuration before, with
/// their connections and with what is known already.
pub(super) fn open(
    issuer: &Issuer,
    parts: &Parts,
    before: Option<&Snapshot>,
) -> Result<Option<Arc<Credentials>>, BuildError> {
    let Some(terms) = &issuer.credentials else { return Ok(None) };
    let known = before.map(|before| before.gate.issuers()).unwrap_or_default();
    let same = known.iter().filter_map(|it| it.credentials.as_ref()).find(|it| it.is_for(&issuer.url, terms));
    if let Some(credentials) = same {
        return Ok(Some(Arc::clone(credentials)));
    }
    let (map, url) = (Arc::clone(&parts.map), issuer.url.clone());
    // Of what is open, only what hangs on this subject asks again.
    let dropped = Box::new(move |subject: Option<&str>| match subject {
        Some(subject) => map.bump_for(TargetKind::Subject, &url, subject),
        None => map.bump_for(TargetKind::Issuer, &url, ""),
    });
    let opened = Credentials::open(&issuer.url, terms, parts.clock.clone(), dropped);
    opened.map(Some).map_err(|source| BuildError::Credentials { issuer: issuer.name.clone(), source })
}

/// Has the credentials of an issuer's subjects looked up.
#[derive(Debug)]
pub(super) struct CredentialSupplier {
    /// What is looked up.
    pub(super) credentials: Arc<Credentials>,
    /// Who gets the issuer's keys, where they can be had.
    pub(super) keys: Option<Arc<dyn Supplier>>,
}

impl Supplier for CredentialSupplier {
    fn supply(&self, need: Need) -> Supplied<'_> {
        match need {
            Need::Credential { subject, .. } => Box::pin(async move {
                self.credentials.look_up(&subject).await.map_err(|error| {
                    tracing::debug!(%error, "failed to look up a credential");
                    Denial::KeysUnavailable
                })
            }),
            Need::Keys { .. } => match &self.keys {
                Some(keys) => keys.supply(need),
                None => Box::pin(std::future::ready(Err(Denial::KeysUnavailable))),
            },
        }
    }
}
