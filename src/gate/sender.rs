//! Tokens that are bound to their holder: who else has one gets nowhere with it.
//!
//! A token says what its holder has: a key that signs a proof for each request (DPoP, RFC 9449), or a
//! certificate that it connects with (RFC 8705). What the cache remembers of a token is that it is bound;
//! what a request shows of its sender is judged for that request alone, and asked for of bound tokens only.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use super::replay::{NotNew, REPLAYS_MAX, Replays};
use super::{Constraint, Denial, Gate, Verified};
use crate::keys::VerifyingKey;
use crate::time::Timestamp;
use crate::token::present::{Scheme, Unread};
use crate::token::{Algorithm, Confirmation, Proof, digest_of};

/// What a request can show of who sends it.
pub trait Sender {
    /// Its one proof of possession (RFC 9449 §4.1).
    ///
    /// # Errors
    ///
    /// [`ProofFault::Missing`], [`ProofFault::Several`] or [`ProofFault::Malformed`].
    fn proof(&self) -> Result<&str, ProofFault>;

    /// Whether `htm` is its method.
    fn is_method(&self, htm: &str) -> bool;

    /// Whether its method is safe: nothing is changed by it (RFC 9110 §9.2.1).
    fn is_safe(&self) -> bool;

    /// Whether `htu` is its URL as its client saw it, query and fragment aside.
    fn is_target(&self, htu: &str) -> bool;

    /// The SHA-256 of the certificate, DER, that its client connected with.
    fn certificate(&self) -> Option<[u8; 32]>;
}

/// A token as a request presents it, with what the request can show of its sender.
#[derive(Clone, Copy)]
pub struct Presentation<'r> {
    /// The token.
    pub token: Unread<'r>,
    /// Who sends it.
    pub sender: &'r dyn Sender,
}

impl std::fmt::Debug for Presentation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Presentation").field("scheme", &self.token.scheme()).finish_non_exhaustive()
    }
}

/// A token by itself, of whom nothing is known: enough for one that is not bound.
impl<'r> From<&'r str> for Presentation<'r> {
    fn from(text: &'r str) -> Self {
        Self { token: text.into(), sender: &Nobody }
    }
}

/// Nothing is known of the sender.
struct Nobody;

impl Sender for Nobody {
    fn proof(&self) -> Result<&str, ProofFault> {
        Err(ProofFault::Missing)
    }

    fn is_method(&self, _: &str) -> bool {
        false
    }

    fn is_safe(&self) -> bool {
        false
    }

    fn is_target(&self, _: &str) -> bool {
        false
    }

    fn certificate(&self) -> Option<[u8; 32]> {
        None
    }
}

/// What is wrong with a proof of possession (RFC 9449 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProofFault {
    /// There is none.
    Missing,
    /// There are several.
    Several,
    /// Not a proof that we read.
    Malformed,
    /// Its algorithm is not one of those allowed.
    Algorithm,
    /// Its key is not fit to be trusted with signatures, or not of its algorithm.
    Key,
    /// Its key does not verify it.
    Signature,
    /// It was made for another method.
    Method,
    /// It was made for another URL.
    Target,
    /// It was made too long ago, has not been made yet, or was made before this process began.
    Age,
    /// It was made for another token.
    Token,
    /// The token is bound to another key.
    Binding,
    /// It was used before.
    Used,
}

/// The rules for tokens that are bound to their holder.
#[derive(Clone, Debug)]
pub struct Senders {
    /// Algorithms that proofs may be signed with; never HMAC.
    pub algorithms: Vec<Algorithm>,
    /// For how long a proof is good.
    pub proof_max_age: Duration,
    /// Tolerance between the clocks of clients and ours.
    pub clock_skew: Duration,
    /// Proofs that were used.
    pub replays: Arc<Replays>,
    /// By issuer of the gate: how all of its tokens must be bound.
    pub demanded: Vec<Option<Constraint>>,
}

impl Senders {
    /// What is allowed unless configured otherwise.
    pub const ALGORITHMS: [Algorithm; 5] =
        [Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA, Algorithm::PS256, Algorithm::RS256];
}

impl Default for Senders {
    fn default() -> Self {
        Self {
            algorithms: Self::ALGORITHMS.to_vec(),
            proof_max_age: Duration::from_secs(60),
            clock_skew: Duration::from_secs(5),
            replays: Arc::new(Replays::new(REPLAYS_MAX, Duration::from_secs(65), Timestamp::MIN)),
            demanded: Vec::new(),
        }
    }
}

/// A proof that passed every check but whether it was used before.
#[must_use]
#[derive(Debug)]
struct Unspent {
    key: String,
    id: String,
    issued: Timestamp,
}

impl Gate {
    /// Whether the sender of a request is whom its token is bound to, and presents it as what it is. A
    /// proof is used up by this.
    ///
    /// # Errors
    ///
    /// What is lacking.
    pub fn confirm(&self, verified: &Verified, presented: Presentation<'_>, now: Timestamp) -> Result<(), Denial> {
        let Some(proof) = self.examine_sender(verified, presented, now)? else { return Ok(()) };
        self.spend(&proof, now)
    }

    /// Whether the sender of a refresh is whom its session is bound to: a refresh token is bound as the access
    /// tokens that it brings (RFC 9449 §5, RFC 8705 §4). A proof is used up by this.
    ///
    /// # Errors
    ///
    /// What is lacking.
    pub fn confirm_refresh(&self, bound: &Confirmation, sender: &dyn Sender, now: Timestamp) -> Result<(), Denial> {
        if bound.certificate.is_some_and(|wanted| sender.certificate() != Some(wanted)) {
            return Err(Denial::CertificateMismatch);
        }
        let Some(key) = &bound.key else { return Ok(()) };
        let proof = self.examine_proof(None, key, sender, now).map_err(Denial::InvalidProof)?;
        self.spend(&proof, now)
    }

    fn spend(&self, proof: &Unspent, now: Timestamp) -> Result<(), Denial> {
        self.senders().replays.use_up(&proof.key, &proof.id, proof.issued, now).map_err(|not_new| match not_new {
            NotNew::Used => Denial::InvalidProof(ProofFault::Used),
            NotNew::Full => Denial::ProofsExhausted,
        })
    }

    /// The same, of a request that is only talked about: nothing is used up.
    ///
    /// # Errors
    ///
    /// What is lacking.
    pub fn would_confirm(
        &self,
        verified: &Verified,
        presented: Presentation<'_>,
        now: Timestamp,
    ) -> Result<(), Denial> {
        match self.examine_sender(verified, presented, now)? {
            Some(proof) if self.senders().replays.is_used(&proof.key, &proof.id) => {
                Err(Denial::InvalidProof(ProofFault::Used))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn examine_sender(
        &self,
        verified: &Verified,
        Presentation { token, sender }: Presentation<'_>,
        now: Timestamp,
    ) -> Result<Option<Unspent>, Denial> {
        let bound = verified.confirmation.as_ref();
        let key = bound.and_then(|bound| bound.key);
        match (key, token.scheme()) {
            // RFC 9449 §7.2: a bound token is no bearer token, whatever else comes with it.
            (Some(_), Scheme::Bearer) => return Err(Denial::BoundTokenAsBearer),
            // RFC 9449 §7.1: the scheme says that it is bound, so whoever sends it believes it is.
            (None, Scheme::Dpop) => return Err(Denial::TokenNotBound),
            (Some(_), Scheme::Dpop | Scheme::None) | (None, Scheme::Bearer | Scheme::None) => {}
        }
        if let Some(wanted) = bound.and_then(|bound| bound.certificate)
            && sender.certificate() != Some(wanted)
        {
            return Err(Denial::CertificateMismatch);
        }
        key.map(|key| self.examine_proof(Some(token), &key, sender, now).map_err(Denial::InvalidProof)).transpose()
    }

    /// RFC 9449 §4.3, what costs least first. Without a `token` it may have been made for none.
    fn examine_proof(
        &self,
        token: Option<Unread<'_>>,
        bound_to: &[u8; 32],
        sender: &dyn Sender,
        now: Timestamp,
    ) -> Result<Unspent, ProofFault> {
        let senders = self.senders();
        let proof = Proof::parse(sender.proof()?).map_err(|_| ProofFault::Malformed)?;
        if !senders.algorithms.contains(&proof.algorithm) {
            return Err(ProofFault::Algorithm);
        }
        if !sender.is_method(&proof.method) {
            return Err(ProofFault::Method);
        }
        if !sender.is_target(&proof.target) {
            return Err(ProofFault::Target);
        }
        let until = proof.issued.plus(senders.proof_max_age).plus(senders.clock_skew);
        if proof.issued > now.plus(senders.clock_skew) || now >= until || proof.issued < senders.replays.since() {
            return Err(ProofFault::Age);
        }
        if token.is_some_and(|it| proof.token.is_none_or(|said| said != digest(&SHA256, it.bytes()).as_ref())) {
            return Err(ProofFault::Token);
        }
        let key = VerifyingKey::of_proof(&proof.key, proof.algorithm).map_err(|_| ProofFault::Key)?;
        if digest_of(key.thumbprint()).as_ref() != Some(bound_to) {
            return Err(ProofFault::Binding);
        }
        if !key.verify(proof.signing_input.as_bytes(), &proof.signature) {
            return Err(ProofFault::Signature);
        }
        Ok(Unspent { key: key.thumbprint().to_owned(), id: proof.id, issued: proof.issued })
    }

    /// Whether a token of the issuer at `index` is bound as all of that issuer's must be.
    pub(super) fn is_bound_enough(&self, index: usize, confirmation: Option<&Confirmation>) -> bool {
        let demanded = self.senders().demanded.get(index).copied().flatten();
        demanded.is_none_or(|demanded| demanded.is_met_by(confirmation))
    }
}

#[cfg(test)]
mod tests;
