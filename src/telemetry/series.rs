//! One series for each label set, made with constant labels.
//!
//! The vectors of `prometheus` tell label sets apart by a hash without separators, so that ("a", "bc")
//! and ("ab", "c") become one series. Constant labels are hashed with separators; and a handle made once
//! is also the fastest way to count.

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry};

/// Label names and values of one series.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

/// One of what a gauge counts, until this is dropped.
#[derive(Debug)]
pub struct Counted(IntGauge);

impl Counted {
    pub(super) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Makes series and registers them. Clones share one registry.
#[derive(Clone, Debug)]
pub(super) struct Series {
    registry: Registry,
}

impl Series {
    pub(super) fn new() -> Self {
        Self { registry: Registry::new() }
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    #[expect(clippy::expect_used, reason = "names are constants of this module, and a test makes every series")]
    pub(super) fn counter(&self, name: &'static str, help: &'static str, labels: Labels<'_>) -> IntCounter {
        let counter = IntCounter::with_opts(options(name, help, labels)).expect("a valid name");
        self.register(name, counter.clone());
        counter
    }

    #[expect(clippy::expect_used, reason = "names are constants of this module, and a test makes every series")]
    pub(super) fn gauge(&self, name: &'static str, help: &'static str, labels: Labels<'_>) -> IntGauge {
        let gauge = IntGauge::with_opts(options(name, help, labels)).expect("a valid name");
        self.register(name, gauge.clone());
        gauge
    }

    #[expect(clippy::expect_used, reason = "names are constants of this module, and a test makes every series")]
    pub(super) fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        labels: Labels<'_>,
        buckets: &[f64],
    ) -> Histogram {
        let options = HistogramOpts { common_opts: options(name, help, labels), buckets: buckets.to_vec() };
        let histogram = Histogram::with_opts(options).expect("a valid name and rising bounds");
        self.register(name, histogram.clone());
        histogram
    }

    /// Exports a series no more.
    pub(super) fn withdraw(&self, name: &str, collector: impl Collector + 'static) {
        if let Err(error) = self.registry.unregister(Box::new(collector)) {
            tracing::error!(series = name, error = &error as &dyn std::error::Error, "a series is exported for ever");
        }
    }

    pub(super) fn register(&self, name: &str, collector: impl Collector + 'static) {
        if let Err(error) = self.registry.register(Box::new(collector)) {
            tracing::error!(series = name, error = &error as &dyn std::error::Error, "a series is not exported");
        }
    }
}

fn options(name: &str, help: &str, labels: Labels<'_>) -> Opts {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Opts::new(name, help).namespace("portcullis").const_labels(labels.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_sets_that_concatenate_alike_stay_apart() {
        let series = Series::new();
        let one = series.counter("sets_total", "Sets.", &[("x", "a"), ("y", "bc")]);
        let other = series.counter("sets_total", "Sets.", &[("x", "ab"), ("y", "c")]);
        one.inc();
        other.inc_by(2);
        let families = series.registry().gather();
        assert_eq!(families.len(), 1);
        assert_eq!(families[0].get_metric().len(), 2);
        assert_eq!((one.get(), other.get()), (1, 2));
    }
}
