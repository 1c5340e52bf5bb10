//! The steps of the decision, in their order.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::cache::Remembered;
use super::credential::{held_by_claim, subject_signer};
use super::issuer::{Kind, TrustedIssuer};
use super::requirement::Facts;
use super::verified::{self, Held, Verified};
use super::{Demand, Denial, Need, OnStale, Presentation, Senders, TokenCache, Unenforced, Unsettled};
use crate::keys::VerifyingKey;
use crate::keys::subject::Binding;
use crate::revocation::{Freshness, RevocationMap, Standing, Target, TargetKind};
use crate::session::Open;
use crate::time::Timestamp;
use crate::token::present::Scheme;
use crate::token::{Algorithm, Compact, Confirmation, Lineage, ParseError, PolicyError};

/// What tokens are judged by: one snapshot, replaced whole at a reload.
#[derive(Debug)]
pub struct Gate {
    issuers: Vec<TrustedIssuer>,
    max_token_bytes: usize,
    revocations: Arc<RevocationMap>,
    senders: Senders,
    /// How old the revocations may be; none where nobody else makes any.
    freshness: Option<Arc<Freshness>>,
}

/// Proof of one positive decision. Forwarding consumes it, so that a request without a decision does
/// not reach an upstream.
#[must_use]
#[derive(Debug)]
pub struct Permit(Holder);

#[derive(Debug)]
enum Holder {
    Nobody,
    Bearer(Rc<Remembered>),
}

impl Permit {
    /// The permit of a route that says `auth: none`.
    pub const fn public() -> Self {
        Self(Holder::Nobody)
    }

    /// The token it was given for; `None` on a public route.
    #[must_use]
    pub const fn bearer(&self) -> Option<&Rc<Remembered>> {
        match &self.0 {
            Holder::Nobody => None,
            Holder::Bearer(entry) => Some(entry),
        }
    }
}

/// What forwarding consumes: a decision that was positive, or one that was only reported.
#[must_use]
#[derive(Debug)]
pub enum Passage {
    /// The request may pass.
    Permitted(Permit),
    /// Nothing was enforced: the request is nobody's, whatever token it carries.
    Unenforced(Unenforced),
}

impl Passage {
    /// The token that the permit was given for; `None` on a public route and where nothing is enforced.
    #[must_use]
    pub const fn bearer(&self) -> Option<&Rc<Remembered>> {
        match self {
            Self::Permitted(permit) => permit.bearer(),
            Self::Unenforced(_) => None,
        }
    }
}

/// A positive decision, and how it came about.
#[derive(Debug)]
pub struct Admission {
    /// What forwarding needs.
    pub permit: Permit,
    /// Index of the token's issuer.
    pub issuer: usize,
    /// Whether the signature had been verified before.
    pub cached: bool,
    /// Whether it was admitted although what is known of revocations elsewhere is too old.
    pub stale: bool,
    /// The algorithm whose signature was verified just now.
    pub verified: Option<Algorithm>,
}

/// How far a refused token came: what `explain` shows, and which issuer a refusal is counted under.
#[derive(Debug)]
pub struct Stage {
    /// Why it was refused.
    pub denial: Denial,
    /// Its issuer, once it was known to be configured.
    pub issuer: Option<usize>,
}

impl From<Denial> for Stage {
    fn from(denial: Denial) -> Self {
        Self { denial, issuer: None }
    }
}

impl Gate {
    /// A gate for these issuers; tokens longer than `max_token_bytes` are not looked at.
    #[must_use]
    pub fn new(issuers: Vec<TrustedIssuer>, max_token_bytes: usize, revocations: Arc<RevocationMap>) -> Self {
        Self { issuers, max_token_bytes, revocations, senders: Senders::default(), freshness: None }
    }

    /// The same where others revoke as well, and it must be known how old what is known of that is.
    #[must_use]
    pub fn with_freshness(self, freshness: Option<Arc<Freshness>>) -> Self {
        Self { freshness, ..self }
    }

    /// The same with these rules for tokens that are bound to their holder.
    #[must_use]
    pub fn with_senders(self, senders: Senders) -> Self {
        Self { senders, ..self }
    }

    /// The rules for tokens that are bound to their holder.
    #[must_use]
    pub const fn senders(&self) -> &Senders {
        &self.senders
    }

    /// The issuers, by index.
    #[must_use]
    pub fn issuers(&self) -> &[TrustedIssuer] {
        &self.issuers
    }

    /// What is no longer honoured.
    #[must_use]
    pub const fn revocations(&self) -> &Arc<RevocationMap> {
        &self.revocations
    }

    /// Judges what is `presented` for a route that makes `demand`, at `now`.
    ///
    /// # Errors
    ///
    /// The reason it is refused for, and its issuer if that was known; or what must be had first.
    pub fn admit(
        &self,
        cache: &TokenCache,
        presented: Presentation<'_>,
        demand: &Demand,
        now: Timestamp,
    ) -> Result<Admission, Unsettled> {
        // The epoch is read before anything is looked up: what is written after it was released is
        // seen by the next request at the latest.
        let epoch = self.revocations.epoch();
        let token = presented.token;
        let (entry, verified) = match cache.find(token.bytes()) {
            Some(entry) => (entry, None),
            None => {
                let text = token.text().map_err(|_| Stage::from(Denial::MultipleTokens))?;
                let verified = self.verify(text, now)?;
                let algorithm = verified.key.algorithm();
                let issuer = verified.issuer;
                self.standing(&verified).map_err(|denial| Stage { denial, issuer: Some(issuer) })?;
                let good_until = self.good_until(&verified);
                let entry = Rc::new(Remembered::new(verified, epoch, good_until));
                cache.insert(token.bytes(), &entry);
                (entry, Some(algorithm))
            }
        };
        let issuer = entry.verified.issuer;
        let refuse = |denial| Stage { denial, issuer: Some(issuer) };
        self.in_time(&entry.verified, now).map_err(|denial| {
            if denial == Denial::Expired {
                cache.remove(token.bytes());
            }
            refuse(denial)
        })?;
        self.credential(&entry.verified, now)?;
        if entry.judged_at.get() != epoch || now >= entry.good_until.get() {
            let good_until = self.judge_again(&entry.verified, now).inspect_err(|unsettled| {
                if matches!(unsettled, Unsettled::Denied(Stage { denial: Denial::UnknownKey, .. })) {
                    cache.remove(token.bytes());
                }
            })?;
            entry.good_until.set(good_until);
            entry.judged_at.set(epoch);
        }
        // Last of what is about the token itself, for a proof is used up by it. Nothing after it is lacking:
        // the question is not asked twice with one proof.
        if entry.verified.confirmation.is_some() || token.scheme() == Scheme::Dpop {
            self.confirm(&entry.verified, presented, now).map_err(refuse)?;
        }
        self.satisfies(&entry.verified, demand, now).map_err(refuse)?;
        // Whoever is refused in any case is told so; nobody is let in on what may be out of date.
        let stale = self.accept_staleness(demand, presented.sender.is_safe()).map_err(refuse)?;
        Ok(Admission { stale, issuer, cached: verified.is_none(), verified, permit: Permit(Holder::Bearer(entry)) })
    }

    /// Lets a request through as nobody's, on the word of a token that has expired and is good otherwise:
    /// who says goodbye need not be in time.
    ///
    /// # Errors
    ///
    /// The first step that fails; or what must be had first.
    pub fn admit_expired(
        &self,
        presented: Presentation<'_>,
        demand: &Demand,
        now: Timestamp,
    ) -> Result<Permit, Unsettled> {
        let text = presented.token.text().map_err(|_| Stage::from(Denial::MultipleTokens))?;
        let verified = self.authenticate(text, now)?;
        let refuse = |denial| Stage { denial, issuer: Some(verified.issuer) };
        self.standing(&verified).map_err(refuse)?;
        self.confirm(&verified, presented, now).map_err(refuse)?;
        self.satisfies(&verified, demand, now).map_err(refuse)?;
        Ok(Permit::public())
    }

    /// Whether a token that was honoured when its request came in still is, at `now`: asked again right
    /// before a fresh token is minted for it.
    ///
    /// # Errors
    ///
    /// The reason it is no longer honoured for; or what must be had first.
    pub fn still_honoured(&self, verified: &Verified, now: Timestamp) -> Result<(), Unsettled> {
        self.in_time(verified, now).map_err(|denial| Stage { denial, issuer: Some(verified.issuer) })?;
        self.credential(verified, now)?;
        self.judge_again(verified, now)?;
        self.up_to_date().map_err(|denial| Stage { denial, issuer: Some(verified.issuer) }.into())
    }

    /// Whether it is known what was revoked elsewhere. Nothing is minted while it is not.
    ///
    /// # Errors
    ///
    /// [`Denial::StateStale`].
    pub fn up_to_date(&self) -> Result<(), Denial> {
        match &self.freshness {
            Some(freshness) if freshness.is_stale() => Err(Denial::StateStale),
            _ => Ok(()),
        }
    }

    /// Whether what is known is too old, where a route lets that pass.
    ///
    /// # Errors
    ///
    /// [`Denial::StateStale`], where it does not.
    pub fn accept_staleness(&self, demand: &Demand, is_safe: bool) -> Result<bool, Denial> {
        let stale = self.up_to_date();
        match demand.on_stale {
            OnStale::Allow => Ok(stale.is_err()),
            OnStale::RejectUnsafeMethods if is_safe => Ok(stale.is_err()),
            OnStale::Reject | OnStale::RejectUnsafeMethods => stale.map(|()| false),
        }
    }

    /// Everything but standing and demand: whether `token` is authentic and well formed, and its times
    /// are right at `now`.
    ///
    /// # Errors
    ///
    /// The first step that fails; or what must be had first.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Verified, Unsettled> {
        self.examine(token, now, Times::Right)
    }

    /// Whether `token` is authentic, whatever its times: what logout and `explain` need to know of a
    /// token that may have expired.
    ///
    /// # Errors
    ///
    /// The first step that fails; or what must be had first.
    pub fn authenticate(&self, token: &str, now: Timestamp) -> Result<Verified, Unsettled> {
        self.examine(token, now, Times::Any)
    }

    /// Whether a revocation in force names `verified`.
    ///
    /// # Errors
    ///
    /// The narrowest target that does.
    pub fn standing(&self, verified: &Verified) -> Result<(), Denial> {
        match self.revocations.standing(&verified.references, verified.origin_issued, verified.authenticated()) {
            Standing::Good => Ok(()),
            Standing::Revoked(kind) => Err(Denial::Revoked(kind)),
            Standing::AuthenticationTooOld => Err(Denial::SessionTooOld),
        }
    }

    /// The account that the holder of `verified` goes by: the first id of the chain that its subject is in
    /// now, or else the subject. `None` when it has no subject.
    ///
    /// A session that was opened with another issuer's token follows the chain of that token's subject, and
    /// keeps the prefix that its own subject has.
    #[must_use]
    pub fn account<'v>(&self, verified: &'v Verified) -> Option<Cow<'v, str>> {
        let subject = verified.claims.subject.as_deref()?;
        let replacements = self.revocations.replacements();
        if !replacements.any() {
            return Some(Cow::Borrowed(subject));
        }
        let own = replacements.account(&verified.claims.issuer, subject);
        if let Some(account) = own.filter(|account| **account != *subject) {
            return Some(Cow::Owned(account.to_string()));
        }
        let of_parent = || {
            let origin = verified.lineage.as_ref()?.origin.as_ref()?;
            let named = origin.subject.as_deref()?;
            let account = replacements.account(&origin.issuer, named)?;
            Some(format!("{}{account}", subject.strip_suffix(named)?))
        };
        Some(of_parent().map_or(Cow::Borrowed(subject), Cow::Owned))
    }

    /// Whether a revocation in force names the session `open`, whichever of its tokens is presented.
    ///
    /// # Errors
    ///
    /// The narrowest target that does; a session of an issuer that is no longer the gateway's is nobody's.
    pub fn session_standing(&self, open: &Open) -> Result<(), Denial> {
        let own = self.issuers.iter().find(|issuer| issuer.kind == Kind::Own).ok_or(Denial::IssuerNotAllowed)?;
        let targets = verified::targets_of_session(&own.url, open);
        let references = verified::references(&self.revocations, &targets);
        match self.revocations.standing(&references, open.lineage.origin_issued, open.authenticated) {
            Standing::Good => Ok(()),
            Standing::Revoked(kind) => Err(Denial::Revoked(kind)),
            Standing::AuthenticationTooOld => Err(Denial::SessionTooOld),
        }
    }

    /// What a logout of the session `open` revokes: it, and the token that opened it.
    #[must_use]
    pub fn logout_targets(&self, open: &Open) -> Vec<Target> {
        let own = self.issuers.iter().find(|issuer| issuer.kind == Kind::Own);
        let session = own.map(|own| Target::new(TargetKind::Session, own.url.as_str(), &*open.session));
        let parent = open.lineage.origin.as_ref().map(|it| Target::new(TargetKind::Token, &it.issuer, &it.token));
        session.into_iter().chain(parent).collect()
    }

    /// Whether `verified` meets what a route demands, at `now`.
    ///
    /// # Errors
    ///
    /// What it lacks.
    pub fn satisfies(&self, verified: &Verified, demand: &Demand, now: Timestamp) -> Result<(), Denial> {
        let name = |index: usize| self.issuers.get(index).map(|issuer| issuer.name.as_str());
        let authority = self.issuers.get(verified.origin_issuer.unwrap_or(verified.issuer));
        let facts = Facts {
            claims: &verified.claims,
            lineage: verified.lineage.as_ref(),
            confirmation: verified.confirmation.as_deref(),
            authenticated: verified.authenticated(),
            skew: authority.map_or(Duration::ZERO, |issuer| issuer.policy.clock_skew),
            comes_from: &|wanted| {
                name(verified.issuer) == Some(wanted) || verified.origin_issuer.and_then(name) == Some(wanted)
            },
        };
        demand.check(&facts, now)
    }

    /// Whether the times of `verified` are right at `now`.
    ///
    /// # Errors
    ///
    /// Which of them is not.
    pub fn in_time(&self, verified: &Verified, now: Timestamp) -> Result<(), Denial> {
        if now >= verified.until {
            return Err(Denial::Expired);
        }
        if now < verified.from {
            return Err(Denial::NotYetValid);
        }
        match verified.authentication_until {
            Some(until) if now >= until => Err(Denial::SessionTooOld),
            _ => Ok(()),
        }
    }

    /// What must be asked again of a remembered token once the epoch has moved, or what it rests on may
    /// be too old: whether its key still counts, and its standing. Returns from when on that is.
    fn judge_again(&self, verified: &Verified, now: Timestamp) -> Result<Timestamp, Unsettled> {
        let index = verified.issuer;
        let refuse = |denial| Stage { denial, issuer: Some(index) };
        let Some(issuer) = self.issuers.get(index) else { return Err(refuse(Denial::IssuerNotAllowed).into()) };
        let keys = issuer.keys.load();
        if now >= keys.until() {
            return Err(Unsettled::Needs(Need::Keys { issuer: index }));
        }
        // The key of a subject is in no set; whether it counts is what its credential says.
        let of_subject = matches!(issuer.credentials.as_ref().map(|it| it.binding()), Some(Binding::Key(_)));
        if !of_subject && !keys.contains(&verified.key) {
            return Err(refuse(Denial::UnknownKey).into());
        }
        self.standing(verified).map_err(refuse)?;
        Ok(keys.until())
    }

    /// From when on what a token rests on may be too old.
    fn good_until(&self, verified: &Verified) -> Timestamp {
        self.issuers.get(verified.issuer).map_or(Timestamp::MIN, |issuer| issuer.keys.load().until())
    }

    fn examine(&self, token: &str, now: Timestamp, times: Times) -> Result<Verified, Unsettled> {
        let jws = Compact::parse(token, self.max_token_bytes).map_err(|error| Stage::from(Denial::from(error)))?;
        // Unverified from here to the signature: these claims may choose a key and may refuse, never admit.
        let found = self.issuers.iter().enumerate().find(|(_, issuer)| issuer.url == jws.claims.issuer);
        let Some((index, issuer)) = found else { return Err(Denial::IssuerNotAllowed.into()) };
        let refuse = |denial| Stage { denial, issuer: Some(index) };
        issuer.policy.check_header(&jws.header).map_err(|error| refuse(error.into()))?;
        if times == Times::Right {
            issuer.policy.check_times(&jws.claims, now).map_err(|error| refuse(error.into()))?;
        }
        let (key, held) = match &issuer.credentials {
            Some(credentials) if matches!(credentials.binding(), Binding::Key(_)) => {
                let (key, held) = subject_signer(index, credentials, &jws, now)?;
                (key, Some(held))
            }
            _ => (signer(index, issuer, &jws, now)?, None),
        };
        // The signature is good: claims may be believed.
        issuer.policy.check_claims(&jws.claims).map_err(|error| refuse(error.into()))?;
        let name = jws.name();
        Ok(self.describe(index, issuer, jws.claims, name, (key, held)).map_err(refuse)?)
    }

    fn describe(
        &self,
        index: usize,
        issuer: &TrustedIssuer,
        claims: crate::token::Claims,
        name: String,
        (key, held): (Arc<VerifyingKey>, Option<Held>),
    ) -> Result<Verified, Denial> {
        let lineage = match issuer.kind {
            Kind::Foreign => None,
            Kind::Own => Some(Lineage::read(&claims.all).map_err(|_| Denial::MalformedClaim)?),
        };
        let origin = lineage.as_ref().and_then(|lineage| lineage.origin.as_ref());
        let origin_issuer = match origin {
            None => None,
            // What a session may do hangs on its parent's issuer: without that one it is nobody's.
            Some(origin) => Some(
                self.issuers.iter().position(|issuer| issuer.url == origin.issuer).ok_or(Denial::IssuerNotAllowed)?,
            ),
        };
        let skew = issuer.policy.clock_skew;
        let authority = origin_issuer.and_then(|index| self.issuers.get(index)).unwrap_or(issuer);
        let authentication_until = match (authority.max_authentication_age, claims.authenticated) {
            (None, _) => None,
            (Some(age), Some(at)) => Some(at.plus(age).plus(authority.policy.clock_skew)),
            (Some(_), None) => return Err(Denial::MissingClaim),
        };
        let held = match (held, &lineage, origin_issuer) {
            (Some(held), _, _) => Some(held),
            (None, Some(lineage), Some(origin)) => self.held_by_session(lineage, origin)?,
            (None, Some(_), None) => None,
            (None, None, _) => held_by_claim(index, issuer, &claims)?,
        };
        let confirmation = Confirmation::read(&claims.all).map_err(|_| Denial::MalformedClaim)?;
        let bound_enough = |index| self.is_bound_enough(index, confirmation.as_ref());
        if !bound_enough(index) || origin_issuer.is_some_and(|origin| !bound_enough(origin)) {
            return Err(Denial::TokenNotBound);
        }
        let targets = verified::targets(&claims, lineage.as_ref(), &name, key.thumbprint());
        Ok(Verified {
            issuer: index,
            origin_issuer,
            origin_issued: lineage.as_ref().map_or(claims.issued, |lineage| lineage.origin_issued),
            from: claims.not_before.unwrap_or(claims.issued).max(claims.issued).minus(skew),
            until: claims.expires.plus(skew),
            authentication_until,
            confirmation: confirmation.map(Box::new),
            held,
            references: verified::references(&self.revocations, &targets),
            claims,
            lineage,
            name,
            key,
        })
    }
}

/// Whether an examined token must be within its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    Any,
    Right,
}

/// The key that verifies `jws`, among the issuer's keys that fit its `kid` and `alg`.
fn signer(
    index: usize,
    issuer: &TrustedIssuer,
    jws: &Compact<'_>,
    now: Timestamp,
) -> Result<Arc<VerifyingKey>, Unsettled> {
    let keys = issuer.keys.load();
    if now >= keys.until() {
        return Err(Unsettled::Needs(Need::Keys { issuer: index }));
    }
    let mut fitting = false;
    for key in keys.candidates(jws.header.key_id.as_deref(), jws.header.algorithm) {
        fitting = true;
        if key.verify(jws.signing_input.as_bytes(), &jws.signature) {
            return Ok(Arc::clone(key));
        }
    }
    if !fitting && issuer.renewable {
        return Err(Unsettled::Needs(Need::Keys { issuer: index }));
    }
    let denial = if fitting { Denial::BadSignature } else { Denial::UnknownKey };
    Err(Stage { denial, issuer: Some(index) }.into())
}

impl From<ParseError> for Denial {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::TooLarge => Self::TokenTooLarge,
            ParseError::Malformed => Self::MalformedToken,
            ParseError::AlgNotAllowed => Self::AlgNotAllowed,
            ParseError::CritNotSupported => Self::CritNotSupported,
            ParseError::MissingClaim => Self::MissingClaim,
            ParseError::MalformedClaim => Self::MalformedClaim,
        }
    }
}

impl From<PolicyError> for Denial {
    fn from(error: PolicyError) -> Self {
        match error {
            PolicyError::AlgNotAllowed => Self::AlgNotAllowed,
            PolicyError::TypNotAllowed => Self::TypNotAllowed,
            PolicyError::MissingClaim => Self::MissingClaim,
            PolicyError::MalformedClaim => Self::MalformedClaim,
            PolicyError::AudienceNotAllowed => Self::AudienceNotAllowed,
            PolicyError::Expired => Self::Expired,
            PolicyError::NotYetValid => Self::NotYetValid,
            PolicyError::IssuedInFuture => Self::IssuedInFuture,
            PolicyError::LifetimeTooLong => Self::LifetimeTooLong,
        }
    }
}
