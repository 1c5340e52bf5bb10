//! From a configuration to what the request path reads.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::cli::Exit;
use crate::config::{Config, Issuer, KeySource};
use crate::gate::{Gate, Kind, TrustedIssuer};
use crate::keys::{KeySet, KeySetError};
use crate::proxy::Snapshot;
use crate::revocation::{Horizons, IssuerHorizon, OWN_ISSUER, RevocationMap};
use crate::session::{self, Sessions};
use crate::telemetry::{AccessLog, Metrics};
use crate::time::Clock;
use crate::token::Policy;

/// What every generation of configuration is built around.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub(super) metrics: Arc<Metrics>,
    pub(super) map: Arc<RevocationMap>,
    pub(super) clock: Clock,
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
    /// The gateway's own keys cannot be had.
    #[error("the session keys cannot be used")]
    Sessions(#[from] session::OpenError),
    /// The access log cannot be opened.
    #[error("the access log cannot be opened")]
    AccessLog(#[source] std::io::Error),
}

impl BuildError {
    pub(super) const fn exit(&self) -> Exit {
        match self {
            Self::Keys { .. } | Self::NoKeys { .. } => Exit::Config,
            Self::Sessions(_) | Self::AccessLog(_) => Exit::Failed,
        }
    }
}

/// Judges the keys of every issuer, without putting anything into force.
///
/// # Errors
///
/// The first issuer whose keys cannot be used.
pub(super) fn judge_keys(config: &Config) -> Result<(), BuildError> {
    config.issuers.iter().try_for_each(|issuer| trusted(issuer).map(drop))
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
                    let opened = Sessions::open(wanted, parts.clock.now())?;
                    Some(Arc::new(opened.with_token_bytes_max(config.token.max_bytes)))
                }
            }
        }
    };
    let mut issuers = Vec::with_capacity(config.issuers.len() + 1);
    for issuer in &config.issuers {
        issuers.push(trusted(issuer)?);
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
        });
    }
    let suppliers = issuers.iter().map(|_| None).collect();
    let gate = Gate::new(issuers, config.token.max_bytes, Arc::clone(&parts.map));
    let access_log = match before.filter(|before| before.config.access_log == config.access_log) {
        Some(before) => Arc::clone(&before.access_log),
        None => {
            let lost = parts.metrics.access_log_lost.clone();
            Arc::new(AccessLog::open(&config.access_log, lost).map_err(BuildError::AccessLog)?)
        }
    };
    Ok(Snapshot::new(config.clone(), gate, suppliers, sessions, access_log, &parts.metrics))
}

fn trusted(issuer: &Issuer) -> Result<TrustedIssuer, BuildError> {
    let algorithms = &issuer.algorithms;
    let loaded = match &issuer.keys {
        KeySource::Secret(secret) => KeySet::from_secret(secret, algorithms),
        KeySource::PublicKey { pem, .. } => KeySet::from_pem(pem, algorithms),
        KeySource::Jwks { json, .. } => KeySet::from_jwks(json, algorithms, false),
    };
    let keys = loaded.map_err(|source| BuildError::Keys { issuer: issuer.name.clone(), source })?;
    for refused in keys.refused() {
        let key_id = refused.key_id.as_deref().unwrap_or("none");
        tracing::warn!(issuer = issuer.name, key_id, why = %refused.why, "a key is not used");
    }
    if keys.keys().is_empty() {
        let why: Vec<_> = keys.refused().iter().map(|refused| refused.why.to_string()).collect();
        let why = if why.is_empty() { "the set is empty".to_owned() } else { why.join("; ") };
        return Err(BuildError::NoKeys { issuer: issuer.name.clone(), why });
    }
    Ok(TrustedIssuer {
        name: issuer.name.clone(),
        url: issuer.url.clone(),
        kind: Kind::Foreign,
        policy: Policy {
            algorithms: algorithms.clone(),
            types: issuer.types.clone(),
            audiences: issuer.audiences.clone(),
            clock_skew: issuer.clock_skew,
            max_lifetime: issuer.max_lifetime,
            require: issuer.require.clone(),
        },
        keys: Arc::new(ArcSwap::from_pointee(keys)),
        renewable: false,
        max_authentication_age: issuer.max_authentication_age,
    })
}

/// The limits that say for how long a revocation must be remembered.
pub(super) fn horizons(config: &Config) -> Horizons {
    let exchange = config.session.as_ref().map_or(&[][..], |session| &session.exchange);
    let issuers = config.issuers.iter().enumerate().map(|(index, issuer)| IssuerHorizon {
        name: issuer.name.clone(),
        url: issuer.url.clone(),
        max_lifetime: issuer.max_lifetime,
        skew: issuer.clock_skew,
        exchangeable: exchange.contains(&index),
        cutoff_margin: issuer.cutoff_margin,
        max_authentication_age: issuer.max_authentication_age,
    });
    Horizons {
        issuers: issuers.collect(),
        session_absolute: config.session.as_ref().map(|it| (it.issuer.clone(), it.absolute_timeout)),
    }
}
