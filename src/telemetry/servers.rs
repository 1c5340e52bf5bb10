//! How the servers of an upstream group stand, and what became of requests that were sent again.

use prometheus::{IntCounter, IntGauge};

use super::series::Series;

/// How a server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(usize)]
pub enum ServerState {
    /// Requests go to it.
    Healthy,
    /// Its checks fail.
    Unhealthy,
    /// It failed at requests, and is left out for a while.
    Ejected,
}

impl ServerState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Unhealthy, Self::Ejected];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
        }
    }
}

/// What became of a request that was to be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum RetryResult {
    /// It was sent again, and the answer was handed on.
    Answered,
    /// It was sent again, in vain.
    Failed,
    /// The budget was used up: it was not sent again.
    OverBudget,
}

impl RetryResult {
    /// Every result.
    pub const ALL: [Self; 3] = [Self::Answered, Self::Failed, Self::OverBudget];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::OverBudget => "over_budget",
        }
    }
}

/// These series of one upstream group.
#[derive(Debug)]
pub struct ServerMetrics {
    servers: [IntGauge; ServerState::ALL.len()],
    retries: [IntCounter; RetryResult::ALL.len()],
}

impl ServerMetrics {
    pub(super) fn new(series: &Series, upstream: &str) -> Self {
        let servers = ServerState::ALL.map(|state| {
            let labels = [("upstream", upstream), ("state", state.name())];
            series.gauge("upstream_servers", "Servers of an upstream, by how they stand.", &labels)
        });
        let retries = RetryResult::ALL.map(|result| {
            let labels = [("upstream", upstream), ("result", result.name())];
            series.counter("upstream_retries_total", "Requests to be sent upstream again, by how that ended.", &labels)
        });
        Self { servers, retries }
    }

    /// Says how many servers stand like that.
    pub fn set(&self, state: ServerState, count: usize) {
        self.servers[state as usize].set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts one retry.
    pub fn retried(&self, result: RetryResult) {
        self.retries[result as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn each_retry_has_its_own_series() {
        let metrics = Metrics::new();
        let shop = metrics.upstream("shop");
        for (times, result) in RetryResult::ALL.into_iter().enumerate() {
            (0..=times).for_each(|_| shop.servers.retried(result));
        }
        let text = metrics.render();
        for (times, result) in RetryResult::ALL.into_iter().enumerate() {
            let line = format!(r#"retries_total{{result="{}",upstream="shop"}} {}"#, result.name(), times + 1);
            assert!(text.contains(&line), "{line}");
        }
    }
}
