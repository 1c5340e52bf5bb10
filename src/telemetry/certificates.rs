//! Certificates that the gateway shows: until when they are good.

use std::collections::HashMap;
use std::time::Duration;

use prometheus::IntGauge;

use super::series::Series;

const NAME: &str = "certificate_expiry_seconds";

/// The series of all certificates.
#[derive(Debug, Default)]
pub(super) struct CertificateMetrics {
    /// By the listener's address, the certificate's first name, and which it is of those alike.
    shown: HashMap<(String, String, usize), IntGauge>,
}

impl CertificateMetrics {
    /// Says how long each is still good, and forgets those that are not there.
    pub(super) fn set<'c>(&mut self, series: &Series, shown: impl IntoIterator<Item = (&'c str, &'c str, Duration)>) {
        let mut before = std::mem::take(&mut self.shown);
        for (listener, name, left) in shown {
            let alike = |number: &usize| !self.shown.contains_key(&(listener.to_owned(), name.to_owned(), *number));
            let number = (1..).find(alike).unwrap_or_default();
            let key = (listener.to_owned(), name.to_owned(), number);
            let gauge = before.remove(&key).unwrap_or_else(|| made(series, listener, name, number));
            gauge.set(i64::try_from(left.as_secs()).unwrap_or(i64::MAX));
            self.shown.insert(key, gauge);
        }
        for gauge in before.into_values() {
            series.withdraw(NAME, gauge);
        }
    }
}

fn made(series: &Series, listener: &str, name: &str, number: usize) -> IntGauge {
    let help = "How long a certificate is still good; 0 once it has expired.";
    let certificate = if number == 1 { name.to_owned() } else { format!("{name} no. {number}") };
    series.gauge(NAME, help, &[("name", listener), ("certificate", &certificate)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn each_certificate_has_a_series_for_as_long_as_it_is_shown() {
        let metrics = Metrics::new();
        let at = "0.0.0.0:8443";
        let left = Duration::from_secs;
        metrics.set_certificates([(at, "a.example", left(5)), (at, "a.example", left(6)), (at, "", left(7))]);
        let line = |certificate: &str, left: u32| {
            format!("portcullis_certificate_expiry_seconds{{certificate=\"{certificate}\",name=\"{at}\"}} {left}\n")
        };
        let text = metrics.render();
        for (certificate, left) in [("a.example", 5), ("a.example no. 2", 6), ("", 7)] {
            assert!(text.contains(&line(certificate, left)), "{text}");
        }
        metrics.set_certificates([(at, "a.example", left(4))]);
        let text = metrics.render();
        assert!(text.contains(&line("a.example", 4)), "{text}");
        assert_eq!(text.matches("certificate_expiry_seconds{").count(), 1, "{text}");
        metrics.set_certificates([(at, "", left(9))]);
        assert!(metrics.render().contains(&line("", 9)));
    }
}
