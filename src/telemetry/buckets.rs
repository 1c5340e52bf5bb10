//! Histogram bounds, in seconds. Twelve at most: an observation scans them.

/// From a refusal in well under a millisecond to a slow upstream.
pub(super) const REQUEST: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// Signature checks: HMAC takes about a microsecond, P-384 some hundreds.
pub(super) const VERIFICATION: [f64; 9] = [2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 2e-3];
