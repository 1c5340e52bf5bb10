//! From a configuration to what the request path reads.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use super::credentials::{self, CredentialSupplier};
use super::keys;
use crate::cli::Exit;
use crate::config::{Config, Issuer, KeySource, Upstream};
use crate::gate::{Gate, Kind, Replays, Senders, TrustedIssuer};
use crate::intake::Ledger;
use crate::keys::Published;
use crate::keys::fetch::TrustError;
use crate::keys::subject::OpenError;
use crate::keys::{KeySet, KeySetError};
use crate::proxy::{RateLimits, Snapshot, Sources, Supplier, UpstreamTls, UpstreamTlsError};
use crate::revocation::Freshness;
use crate::revocation::{Horizons, IssuerHorizon, OWN_ISSUER, RevocationMap};
use crate::server::{CertificateError, Entrances, Identity};
use crate::session::{self, Sessions};
use crate::telemetry::{AccessLog, Metrics};
use crate::time::{Clock, Timestamp};
use crate::token::Policy;

/// What every generation of configuration is built around.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub(super) metrics: Arc<Metrics>,
    pub(super) map: Arc<RevocationMap>,
    pub(super) clock: Clock,
    /// Where traffic comes in.
    pub(super) entrances: Arc<Entrances>,
    /// Proofs of possession that were used.
    pub(super) replays: Arc<Replays>,
    /// How old what is known of the other nodes may be, where there are any.
    pub(super) freshness: Option<Arc<Freshness>>,
    /// The way to the store, once it is open.
    pub(super) ledger: Arc<OnceLock<Arc<Ledger>>>,
}

/// Why a configuration that reads well cannot be put into force.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    /// An issuer's keys are no good.
    #[error("the keys of issuer `{issuer}` cannot be used")]
    Keys {
        /// The issuer's config name.
        issuer: String,
        /// Why.
        #[source]
        source: KeySetError,
    },
    /// None of an issuer's keys can be used.
    #[error("issuer `{issuer}` has no usable key: {why}")]
    NoKeys {
        /// The issuer's config name.
        issuer: String,
        /// Why each was refused.
        why: String,
    },
    /// The credentials of an issuer's subjects cannot be asked for.
    #[error("the credentials of issuer `{issuer}` cannot be asked for")]
    Credentials {
        /// The issuer's config name.
        issuer: String,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// An issuer's keys are to be fetched, and nobody's certificates can be believed.
    #[error("the keys of issuer `{issuer}` cannot be fetched")]
    Trust {
        /// The issuer's config name.
        issuer: String,
        /// Why.
        #[source]
        source: TrustError,
    },
    /// A listener's certificate is no good.
    #[error("the certificate {}of listener {listener} cannot be used", nth(*.certificate))]
    Certificate {
        /// Where it listens.
        listener: String,
        /// Which of several, counted from one.
        certificate: Option<usize>,
        /// Why.
        #[source]
        source: CertificateError,
    },
    /// An upstream's servers cannot be spoken to over TLS.
    #[error("the TLS of upstream `{upstream}` cannot be set up")]
    UpstreamTls {
        /// The upstream's config name.
        upstream: String,
        /// Why.
        #[source]
        source: UpstreamTlsError,
    },
    /// The gateway's own keys cannot be had.
    #[error("the session keys cannot be used")]
    Sessions(#[from] session::OpenError),
    /// A node has not got the keys that all nodes share.
    #[error(
        "there are no session keys in `{}`, and the nodes of a cluster share theirs: make them once, with \
         `portcullis keys generate FILE`, and give every node that folder",
        .0.display()
    )]
    NoSharedKeys(std::path::PathBuf),
    /// The access log cannot be opened.
    #[error("the access log cannot be opened")]
    AccessLog(#[source] std::io::Error),
}

impl BuildError {
    pub(super) const fn exit(&self) -> Exit {
        match self {
            Self::Keys { .. }
            | Self::NoKeys { .. }
            | Self::NoSharedKeys(_)
            | Self::Certificate { .. }
            | Self::Trust { .. }
            | Self::UpstreamTls { .. }
            | Self::Credentials { .. } => Exit::Config,
            Self::Sessions(_) | Self::AccessLog(_) => Exit::Failed,
        }
    }
}

fn nth(certificate: Option<usize>) -> String {
    certificate.map_or_else(String::new, |place| format!("no. {place} "))
}

/// Judges the keys of every issuer, without putting anything into force.
///
/// # Errors
///
/// The first issuer whose keys cannot be used.
pub(super) fn judge_keys(config: &Config) -> Result<(), BuildError> {
    config.issuers.iter().try_for_each(|issuer| {
        keys::judge(issuer).map_err(|source| BuildError::Trust { issuer: issuer.name.clone(), source })?;
        trusted(issuer, None).map(drop)
    })
}

/// What the listeners are to show themselves as: judged, and not yet in force.
///
/// # Errors
///
/// The first listener whose certificate cannot be used.
pub(super) fn identities(
    config: &Config,
    in_force: &Entrances,
    now: Timestamp,
) -> Result<Vec<Option<Arc<Identity>>>, BuildError> {
    in_force.identities(&config.listeners, now).map_err(|unusable| BuildError::Certificate {
        listener: unusable.listener,
        certificate: unusable.certificate,
        source: unusable.error,
    })
}

/// How the `https` servers of each upstream are spoken to. Made anew with every generation: the system's
/// authorities may have changed too.
///
/// # Errors
///
/// The first upstream whose authorities, certificate or names cannot be used.
pub(super) fn upstream_tls(config: &Config) -> Result<Vec<Option<Arc<UpstreamTls>>>, BuildError> {
    let prepare = |upstream: &Upstream| {
        UpstreamTls::prepare(upstream)
            .map_err(|source| BuildError::UpstreamTls { upstream: upstream.name.clone(), source })
    };
    config.upstreams.iter().map(prepare).collect()
}

/// Builds a generation. What of `before` has not changed is taken over, so that sessions under way keep
/// their successors and a log keeps its file.
pub(super) fn snapshot(config: &Config, parts: &Parts, before: Option<&Snapshot>) -> Result<Snapshot, BuildError> {
    let sessions = match &config.session {
        None => None,
        Some(wanted) => {
            let same = |it: &&Arc<Sessions>| {
                *it.config() == *wanted && before.is_some_and(|it| it.config.token.max_bytes == config.token.max_bytes)
            };
            match before.and_then(|before| before.sessions.as_ref()).filter(same) {
                Some(sessions) => Some(Arc::clone(sessions)),
                None => {
                    // Nodes with keys of their own would refuse each other's sessions, and name them differently.
                    if config.cluster.is_some() && !Sessions::has_keys(&wanted.keys_dir) {
                        return Err(BuildError::NoSharedKeys(wanted.keys_dir.clone()));
                    }
                    let opened = Sessions::open(wanted, parts.clock.now())?;
                    Some(Arc::new(opened.with_token_bytes_max(config.token.max_bytes)))
                }
            }
        }
    };
    let mut issuers = Vec::with_capacity(config.issuers.len() + 1);
    let mut published = Vec::with_capacity(config.issuers.len() + 1);
    for issuer in &config.issuers {
        let fetched = keys::published(issuer, parts, before)
            .map_err(|source| BuildError::Trust { issuer: issuer.name.clone(), source })?;
        let credentials = credentials::open(issuer, parts, before)?;
        issuers.push(TrustedIssuer { credentials, ..trusted(issuer, fetched.as_deref())? });
        published.push(fetched);
    }
    if let Some(sessions) = &sessions {
        issuers.push(TrustedIssuer {
            name: OWN_ISSUER.to_owned(),
            url: sessions.issuer().to_owned(),
            kind: Kind::Own,
            policy: sessions.policy(),
            keys: sessions.key_set(),
            renewable: false,
            max_authentication_age: None,
            credentials: None,
        });
    }
    published.resize(issuers.len(), None);
    let suppliers = issuers.iter().zip(&published).map(|(issuer, keys)| supplier(issuer, keys.clone())).collect();
    let proofs = &config.token.proofs;
    let senders = Senders {
        algorithms: proofs.algorithms.clone(),
        proof_max_age: proofs.max_age,
        clock_skew: proofs.clock_skew,
        replays: Arc::clone(&parts.replays),
        demanded: config.issuers.iter().map(|issuer| issuer.sender).collect(),
    };
    let gate = Gate::new(issuers, config.token.max_bytes, Arc::clone(&parts.map))
        .with_senders(senders)
        .with_freshness(parts.freshness.clone());
    let access_log = match before.filter(|before| before.config.access_log == config.access_log) {
        Some(before) => Arc::clone(&before.access_log),
        None => {
            let lost = parts.metrics.access_log_lost.clone();
            Arc::new(AccessLog::open(&config.access_log, lost).map_err(BuildError::AccessLog)?)
        }
    };
    let rate_limits = RateLimits::new(config, &parts.metrics, before.map(|before| &before.rate_limits));
    let groups = before.map(|before| before.groups.clone()).unwrap_or_default();
    let sources = Sources { suppliers, published, upstream_tls: upstream_tls(config)?, rate_limits, groups };
    Ok(Snapshot::new(config.clone(), gate, sources, sessions, access_log, &parts.metrics))
}

/// Who gets what decisions about an issuer's tokens lack.
fn supplier(issuer: &TrustedIssuer, published: Option<Arc<Published>>) -> Option<Arc<dyn Supplier>> {
    let keys = published.map(|it| -> Arc<dyn Supplier> { it });
    match &issuer.credentials {
        None => keys,
        Some(credentials) => Some(Arc::new(CredentialSupplier { credentials: Arc::clone(credentials), keys })),
    }
}

fn trusted(issuer: &Issuer, published: Option<&Published>) -> Result<TrustedIssuer, BuildError> {
    let keys = match published {
        Some(published) => published.keys(),
        None => Arc::new(ArcSwap::from_pointee(loaded(issuer)?)),
    };
    Ok(TrustedIssuer {
        name: issuer.name.clone(),
        url: issuer.url.clone(),
        kind: Kind::Foreign,
        policy: Policy {
            algorithms: issuer.algorithms.clone(),
            types: issuer.types.clone(),
            audiences: issuer.audiences.clone(),
            clock_skew: issuer.clock_skew,
            max_lifetime: issuer.max_lifetime,
            require: issuer.require.clone(),
        },
        keys,
        renewable: published.is_some(),
        max_authentication_age: issuer.max_authentication_age,
        credentials: None,
    })
}

/// The keys of an issuer that came with the configuration.
fn loaded(issuer: &Issuer) -> Result<KeySet, BuildError> {
    let algorithms = &issuer.algorithms;
    let loaded = match &issuer.keys {
        KeySource::PerSubject => Ok(KeySet::from_keys(Vec::new())),
        KeySource::Secret(secret) => KeySet::from_secret(secret, algorithms),
        KeySource::PublicKey { pem, .. } => KeySet::from_pem(pem, algorithms),
        KeySource::Jwks { json, .. } => KeySet::from_jwks(json, algorithms, false),
        KeySource::Published { .. } => return Ok(KeySet::unknown()),
    };
    let keys = loaded.map_err(|source| BuildError::Keys { issuer: issuer.name.clone(), source })?;
    for refused in keys.refused() {
        let key_id = refused.key_id.as_deref().unwrap_or("none");
        tracing::warn!(issuer = issuer.name, key_id, why = %refused.why, "a key is not used");
    }
    if keys.keys().is_empty() && !matches!(issuer.keys, KeySource::PerSubject) {
        let why: Vec<_> = keys.refused().iter().map(|refused| refused.why.to_string()).collect();
        let why = if why.is_empty() { "the set is empty".to_owned() } else { why.join("; ") };
        return Err(BuildError::NoKeys { issuer: issuer.name.clone(), why });
    }
    Ok(keys)
}

/// The limits that say for how long a revocation must be remembered.
pub(super) fn horizons(config: &Config) -> Horizons {
    let issuers = config.issuers.iter().map(|issuer| IssuerHorizon {
        name: issuer.name.clone(),
        url: issuer.url.clone(),
        max_lifetime: issuer.max_lifetime,
        skew: issuer.clock_skew,
        // Not only those in `session.exchange`: sessions live on that were opened when it listed more.
        exchangeable: config.session.is_some(),
        cutoff_margin: issuer.cutoff_margin,
        max_authentication_age: issuer.max_authentication_age,
    });
    Horizons {
        issuers: issuers.collect(),
        session_absolute: config.session.as_ref().map(|it| (it.issuer.clone(), it.absolute_timeout)),
    }
}
