//! Certificates that the gateway shows: until when they are good.

use std::time::Duration;

use prometheus::IntGauge;

use super::series::Series;

/// The series of one certificate.
#[derive(Debug)]
pub struct CertificateMetrics {
    expiry: IntGauge,
}

impl CertificateMetrics {
    pub(super) fn new(series: &Series, name: &str) -> Self {
        let help = "How long a certificate is still good; 0 once it has expired.";
        Self { expiry: series.gauge("certificate_expiry_seconds", help, &[("name", name)]) }
    }

    /// Says how long it is still good.
    pub fn set_remaining(&self, left: Duration) {
        self.expiry.set(i64::try_from(left.as_secs()).unwrap_or(i64::MAX));
    }
}
