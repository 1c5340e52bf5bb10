//! Streams: tunnels, and answers that a token has held open for long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{IntCounter, IntGauge};

use super::series::{Counted, Series};

/// The series of streams.
#[derive(Debug)]
pub struct StreamMetrics {
    open: IntGauge,
    series: Series,
    cut: Mutex<HashMap<&'static str, Arc<IntCounter>>>,
}

impl StreamMetrics {
    pub(super) fn new(series: &Series) -> Self {
        let help = "Open tunnels, and answers that their token has held open for half a second.";
        Self { open: series.gauge("streams_open", help, &[]), series: series.clone(), cut: Mutex::default() }
    }

    /// Counts one stream as open.
    #[must_use]
    pub fn opened(&self) -> Counted {
        Counted::new(&self.open)
    }

    /// Counts one stream that the gateway ended. `reason` is one of ours.
    pub fn cut(&self, reason: &'static str) {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        let counter = cut.entry(reason).or_insert_with(|| {
            let help = "Streams that the gateway ended.";
            Arc::new(self.series.counter("streams_cut_total", help, &[("reason", reason)]))
        });
        counter.inc();
    }
}
