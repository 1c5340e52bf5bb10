//! Published keys within the running gateway: what hears of them, and where the last good ones are kept.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::build::Parts;
use crate::config::{Issuer, KeySource};
use crate::intake::{Document, DocumentKind, DocumentWrite, Ledger, Put};
use crate::keys::fetch::{Trust, TrustError};
use crate::keys::{self, LastGood, Listener, Publication, Published, RefreshError};
use crate::proxy::Snapshot;
use crate::revocation::{RevocationMap, TargetKind};
use crate::telemetry::KeysMetrics;
use crate::time::Timestamp;

/// Members of a published key that say nothing that counts, and may be long.
const DEAD_WEIGHT: [&str; 4] = ["x5c", "x5t", "x5t#S256", "x5u"];

/// Hears of one issuer's published keys.
#[derive(Debug)]
struct Herald {
    issuer: String,
    source: String,
    max_stale: std::time::Duration,
    metrics: Arc<KeysMetrics>,
    map: Arc<RevocationMap>,
    /// Open before the first fetch is made.
    ledger: Arc<OnceLock<Arc<Ledger>>>,
}

/// A set that was put away, as the store holds it.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// Where it was fetched: another place's keys are not these.
    source: String,
    fetched_at: Timestamp,
    jwks: Value,
}

/// The published keys of an issuer, when it has any: those of `before` if nothing about them has changed.
///
/// # Errors
///
/// When no certificate authorities can be had.
pub(super) fn published(
    issuer: &Issuer,
    parts: &Parts,
    before: Option<&Snapshot>,
) -> Result<Option<Arc<Published>>, TrustError> {
    let Some(wanted) = of(issuer) else { return Ok(None) };
    let known = before.into_iter().flat_map(|before| before.published.iter().flatten());
    if let Some(same) = known.into_iter().find(|it| *it.issuer() == wanted) {
        return Ok(Some(Arc::clone(same)));
    }
    let trust = trust(&wanted)?;
    let herald = Herald {
        issuer: wanted.url.clone(),
        source: source(&wanted.publication),
        max_stale: wanted.schedule.max_stale,
        metrics: parts.metrics.keys(&wanted.name),
        map: Arc::clone(&parts.map),
        ledger: Arc::clone(&parts.ledger),
    };
    Ok(Some(Arc::new(Published::new(wanted, &trust, parts.clock.clone(), Arc::new(herald)))))
}

/// Whether an issuer's published keys could be fetched, as far as this machine is concerned.
///
/// # Errors
///
/// When no certificate authorities can be had.
pub(super) fn judge(issuer: &Issuer) -> Result<(), TrustError> {
    of(issuer).map_or(Ok(()), |wanted| trust(&wanted).map(drop))
}

fn of(issuer: &Issuer) -> Option<keys::Issuer> {
    let KeySource::Published { publication, authority, allow_http, schedule } = &issuer.keys else { return None };
    Some(keys::Issuer {
        name: issuer.name.clone(),
        url: issuer.url.clone(),
        algorithms: issuer.algorithms.clone(),
        publication: publication.clone(),
        allow_http: *allow_http,
        schedule: *schedule,
        authority: authority.clone(),
    })
}

/// Begins to fetch what is new in `snapshot`, with what is known of it from `before` or the store. To be
/// called before requests are judged by it.
pub(super) async fn start(snapshot: &Snapshot, before: Option<&Snapshot>, ledger: &Ledger, now: Timestamp) {
    for published in snapshot.published.iter().flatten().filter(|it| !it.is_started()) {
        let issuer = published.issuer();
        let known = before.into_iter().flat_map(|before| before.published.iter().flatten());
        let mut same =
            known.filter(|it| it.issuer().url == issuer.url && it.issuer().publication == issuer.publication);
        let kept = match same.next().and_then(|it| it.last_good()) {
            Some(good) => Some(good),
            None => read(issuer, ledger, now).await,
        };
        published.start(kept);
    }
}

async fn read(issuer: &keys::Issuer, ledger: &Ledger, now: Timestamp) -> Option<LastGood> {
    match ledger.document(DocumentKind::Key, &key(&issuer.url)).await {
        Ok(found) => {
            let document = found.filter(|document| document.is_live(now))?;
            let kept: Kept = serde_json::from_str(&document.body).ok()?;
            let is_same = kept.source == source(&issuer.publication);
            is_same.then(|| LastGood { text: kept.jwks.to_string(), fetched: kept.fetched_at })
        }
        Err(error) => {
            tracing::error!(issuer = issuer.name, %error, "failed to read the keys that were kept");
            None
        }
    }
}

/// Believes whom the issuer's configuration says; nobody where nothing is protected anyway.
fn trust(issuer: &keys::Issuer) -> Result<Trust, TrustError> {
    match &issuer.authority {
        Some(pem) => Trust::only(pem),
        None if issuer.publication.endpoint().is_https() || issuer.allow_http => Trust::system(),
        None => Ok(Trust::system().unwrap_or_else(|_| Trust::nobody())),
    }
}

/// The document's key: apart from other documents about keys.
fn key(issuer: &str) -> String {
    // A URL longer than a key may be is cut: two that only differ after it would share a place, and each
    // reads its own source only.
    let issuer = issuer.char_indices().take_while(|(at, _)| *at < 480).map(|(_, character)| character);
    std::iter::once("published ").flat_map(str::chars).chain(issuer).collect()
}

fn source(publication: &Publication) -> String {
    match publication {
        Publication::Jwks(at) => format!("jwks {at}"),
        Publication::Discovery(at) => format!("discovery {at}"),
    }
}

impl Listener for Herald {
    fn changed(&self) {
        self.map.bump_for(TargetKind::Issuer, &self.issuer, "");
    }

    fn ended(&self, outcome: Result<(), &RefreshError>) {
        self.metrics.fetched(outcome.map_or_else(RefreshError::result, |()| "ok"));
    }

    fn keep<'a>(&'a self, good: &'a LastGood) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(async {
            self.write(good).await.unwrap_or_else(|error| {
                tracing::error!(issuer = self.issuer, error, "failed to keep the published keys for a restart");
                false
            })
        })
    }
}

impl Herald {
    async fn write(&self, good: &LastGood) -> Result<bool, String> {
        let Some(ledger) = self.ledger.get() else { return Ok(false) };
        let mut jwks: Value = serde_json::from_str(&good.text).map_err(|error| error.to_string())?;
        for key in jwks.get_mut("keys").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(members) = key.as_object_mut() {
                members.retain(|name, _| !DEAD_WEIGHT.contains(&name.as_str()));
            }
        }
        let kept = Kept { source: self.source.clone(), fetched_at: good.fetched, jwks };
        let body = serde_json::to_string(&kept).map_err(|error| error.to_string())?;
        let key = key(&self.issuer);
        let before = ledger.document(DocumentKind::Key, &key).await.map_err(|error| error.to_string())?;
        let before = before.map_or(0, |document| document.revision);
        let document = Document {
            kind: DocumentKind::Key,
            key,
            revision: before + 1,
            body,
            forget_at: Some(good.fetched.plus(self.max_stale)),
        };
        match ledger.put(vec![DocumentWrite { document, expects: Some(before) }]).await {
            Ok(Put::Written) => Ok(true),
            Ok(Put::Conflict(_)) => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }
}
