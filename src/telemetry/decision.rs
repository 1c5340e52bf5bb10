//! Decisions by issuer, outcome and reason.

use std::sync::OnceLock;

use prometheus::IntCounter;

use super::series::Series;
use crate::gate::Denial;
use crate::revocation::TargetKind;

/// Every reason of [`Denial::reason`], at the place that [`place`] gives it.
const REASONS: [&str; 37] = [
    "missing_token",
    "multiple_tokens",
    "malformed_token",
    "token_too_large",
    "alg_not_allowed",
    "typ_not_allowed",
    "crit_not_supported",
    "issuer_not_allowed",
    "unknown_key",
    "bad_signature",
    "missing_claim",
    "malformed_claim",
    "audience_not_allowed",
    "expired",
    "not_yet_valid",
    "issued_in_future",
    "lifetime_too_long",
    "revoked_token",
    "revoked_session",
    "revoked_subject",
    "revoked_client",
    "revoked_key",
    "revoked_issuer",
    "revoked_all",
    "session_too_old",
    "insufficient_scope",
    "claim_mismatch",
    "cross_site",
    "keys_unavailable",
    "insufficient_user_authentication",
    "credential_changed",
    "invalid_dpop_proof",
    "bound_token_as_bearer",
    "token_not_bound",
    "certificate_mismatch",
    "proofs_exhausted",
    "revocation_state_stale",
];

/// The decisions about tokens of one issuer, or about requests without a known one.
#[derive(Debug)]
pub struct DecisionMetrics {
    series: Series,
    issuer: String,
    permitted: IntCounter,
    denied: [IntCounter; REASONS.len()],
    /// Made when first counted: most deployments report nothing.
    would_deny: [OnceLock<IntCounter>; REASONS.len()],
}

impl DecisionMetrics {
    pub(super) fn new(series: &Series, issuer: &str) -> Self {
        Self {
            permitted: counter(series, issuer, "permit", "none"),
            denied: REASONS.map(|reason| counter(series, issuer, "deny", reason)),
            would_deny: [const { OnceLock::new() }; REASONS.len()],
            series: series.clone(),
            issuer: issuer.to_owned(),
        }
    }

    /// Counts a request that may pass.
    pub fn permitted(&self) {
        self.permitted.inc();
    }

    /// Counts a request that was refused.
    pub fn denied(&self, denial: &Denial) {
        self.denied[place(denial)].inc();
    }

    /// Counts a request that would have been refused, had the route not merely reported it.
    pub fn would_deny(&self, denial: &Denial) {
        let place = place(denial);
        let make = || counter(&self.series, &self.issuer, "would_deny", REASONS[place]);
        self.would_deny[place].get_or_init(make).inc();
    }
}

fn counter(series: &Series, issuer: &str, outcome: &str, reason: &str) -> IntCounter {
    let labels = [("issuer", issuer), ("outcome", outcome), ("reason", reason)];
    series.counter("decisions_total", "Decisions about requests that need a token.", &labels)
}

const fn place(denial: &Denial) -> usize {
    match denial {
        Denial::MissingToken => 0,
        Denial::MultipleTokens => 1,
        Denial::MalformedToken => 2,
        Denial::TokenTooLarge => 3,
        Denial::AlgNotAllowed => 4,
        Denial::TypNotAllowed => 5,
        Denial::CritNotSupported => 6,
        Denial::IssuerNotAllowed => 7,
        Denial::UnknownKey => 8,
        Denial::BadSignature => 9,
        Denial::MissingClaim => 10,
        Denial::MalformedClaim => 11,
        Denial::AudienceNotAllowed => 12,
        Denial::Expired => 13,
        Denial::NotYetValid => 14,
        Denial::IssuedInFuture => 15,
        Denial::LifetimeTooLong => 16,
        Denial::Revoked(TargetKind::Token) => 17,
        Denial::Revoked(TargetKind::Session) => 18,
        Denial::Revoked(TargetKind::Subject) => 19,
        Denial::Revoked(TargetKind::Client) => 20,
        Denial::Revoked(TargetKind::Key) => 21,
        Denial::Revoked(TargetKind::Issuer) => 22,
        Denial::Revoked(TargetKind::All) => 23,
        Denial::SessionTooOld => 24,
        Denial::InsufficientScope(_) => 25,
        Denial::ClaimMismatch => 26,
        Denial::CrossSite => 27,
        Denial::KeysUnavailable => 28,
        Denial::InsufficientUserAuthentication { .. } => 29,
        Denial::CredentialChanged => 30,
        Denial::InvalidProof(_) => 31,
        Denial::BoundTokenAsBearer => 32,
        Denial::TokenNotBound => 33,
        Denial::CertificateMismatch => 34,
        Denial::ProofsExhausted => 35,
        Denial::StateStale => 36,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::ProofFault;
    use crate::telemetry::Metrics;

    fn every_denial() -> Vec<Denial> {
        let mut all = vec![
            Denial::MissingToken,
            Denial::MultipleTokens,
            Denial::MalformedToken,
            Denial::TokenTooLarge,
            Denial::AlgNotAllowed,
            Denial::TypNotAllowed,
            Denial::CritNotSupported,
            Denial::IssuerNotAllowed,
            Denial::UnknownKey,
            Denial::BadSignature,
            Denial::MissingClaim,
            Denial::MalformedClaim,
            Denial::AudienceNotAllowed,
            Denial::Expired,
            Denial::NotYetValid,
            Denial::IssuedInFuture,
            Denial::LifetimeTooLong,
            Denial::SessionTooOld,
            Denial::InsufficientScope("secret scope".to_owned()),
            Denial::ClaimMismatch,
            Denial::CrossSite,
            Denial::KeysUnavailable,
            Denial::InsufficientUserAuthentication { max_age: Some(60), acr_values: "secret level".to_owned() },
            Denial::CredentialChanged,
            Denial::InvalidProof(ProofFault::Used),
            Denial::BoundTokenAsBearer,
            Denial::TokenNotBound,
            Denial::CertificateMismatch,
            Denial::ProofsExhausted,
            Denial::StateStale,
        ];
        all.extend(TargetKind::ALL.map(Denial::Revoked));
        all
    }

    #[test]
    fn every_reason_is_counted_under_its_own_name() {
        let metrics = Metrics::new();
        let accounts = metrics.issuer("accounts");
        let denials = every_denial();
        assert_eq!(denials.len(), REASONS.len());
        for denial in &denials {
            assert_eq!(REASONS[place(denial)], denial.reason());
            accounts.denied(denial);
        }
        assert!(!metrics.render().contains("would_deny"), "nothing was reported");
        denials.iter().for_each(|denial| accounts.would_deny(denial));
        accounts.permitted();
        let text = metrics.render();
        for reason in REASONS {
            let line = format!(r#"portcullis_decisions_total{{issuer="accounts",outcome="deny",reason="{reason}"}} 1"#);
            assert!(text.contains(&line), "{line}");
            let line =
                format!(r#"portcullis_decisions_total{{issuer="accounts",outcome="would_deny",reason="{reason}"}} 1"#);
            assert!(text.contains(&line), "{line}");
        }
        assert!(text.contains(r#"{issuer="accounts",outcome="permit",reason="none"} 1"#));
        assert!(!text.contains("secret"));
    }
}
