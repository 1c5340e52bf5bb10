//! Keys that are fetched: how often with what result, and how old they are.

use std::sync::OnceLock;
use std::time::Duration;

use prometheus::{IntCounter, IntGauge};

use super::series::Series;
use crate::keys::RefreshError;

/// The series of one issuer's published keys.
#[derive(Debug)]
pub struct KeysMetrics {
    issuer: String,
    series: Series,
    fetches: [IntCounter; RefreshError::RESULTS.len()],
    /// Not there before there is an age.
    age: OnceLock<IntGauge>,
}

impl KeysMetrics {
    pub(super) fn new(series: &Series, issuer: &str) -> Self {
        let fetches = RefreshError::RESULTS.map(|result| {
            let labels = [("issuer", issuer), ("result", result)];
            series.counter("jwks_fetches_total", "Fetches of an issuer's published keys.", &labels)
        });
        Self { issuer: issuer.to_owned(), series: series.clone(), fetches, age: OnceLock::new() }
    }

    /// Counts one fetch: `ok`, or [`RefreshError::result`].
    pub fn fetched(&self, result: &str) {
        if let Some(place) = RefreshError::RESULTS.iter().position(|known| *known == result) {
            self.fetches[place].inc();
        }
    }

    /// Says how old the keys in force are.
    pub fn set_age(&self, age: Duration) {
        let gauge = self.age.get_or_init(|| {
            let help = "How long ago the keys in force were fetched.";
            self.series.gauge("jwks_age_seconds", help, &[("issuer", &self.issuer)])
        });
        gauge.set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn fetches_are_counted_by_result_and_an_age_is_told_once_there_is_one() {
        let metrics = Metrics::new();
        let keys = metrics.keys("accounts");
        for result in RefreshError::RESULTS {
            keys.fetched(result);
        }
        let text = metrics.render();
        for result in RefreshError::RESULTS {
            let line = format!("portcullis_jwks_fetches_total{{issuer=\"accounts\",result=\"{result}\"}} 1");
            assert!(text.contains(&line), "{line}\n{text}");
        }
        assert!(!text.contains("jwks_age_seconds"), "{text}");
        metrics.keys("accounts").set_age(Duration::from_millis(61_900));
        assert!(metrics.render().contains("portcullis_jwks_age_seconds{issuer=\"accounts\"} 61"));
    }
}
