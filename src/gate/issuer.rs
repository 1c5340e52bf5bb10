//! One issuer whose tokens are honoured: what they must look like, and whose signatures count, now.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::keys::KeySet;
use crate::keys::subject::Credentials;
use crate::token::Policy;

/// Whose tokens an issuer's are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Somebody else's: nothing it says about lineage is read.
    Foreign,
    /// The gateway's own sessions: lineage is read, and believed once the signature is good.
    Own,
}

/// What the gate knows of one issuer.
#[derive(Debug)]
pub struct TrustedIssuer {
    /// The config name; `session` for the gateway's own.
    pub name: String,
    /// The `iss` value, compared byte by byte.
    pub url: String,
    /// Whose tokens they are.
    pub kind: Kind,
    /// What they must look like.
    pub policy: Policy,
    /// The keys that count at this moment. Whoever swaps them bumps the revocation epoch afterwards,
    /// so that cached verifications are judged again.
    pub keys: Arc<ArcSwap<KeySet>>,
    /// Whether newer ones can be had: a key that is not among them may have been published since.
    pub renewable: bool,
    /// The oldest authentication honoured; sessions opened with its tokens are held to it too.
    pub max_authentication_age: Option<Duration>,
    /// The current credentials of its subjects, when its tokens hang on them. Whoever drops one bumps the
    /// revocation epoch afterwards.
    pub credentials: Option<Arc<Credentials>>,
}
