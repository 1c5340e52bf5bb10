//! What the gateway says about itself: every exported series in one struct, the access log, the audit
//! log, and the set-up of `tracing`.
//!
//! A hot path holds prepared handles: it formats nothing, hashes nothing and takes no lock. Label values
//! come from the configuration or from closed lists in this program, never from a client.

mod access;
mod audit;
mod buckets;
mod certificates;
mod cluster;
mod decision;
mod keys;
mod limits;
mod metrics;
mod route;
mod series;
mod servers;
mod streams;
mod upstream;
mod writer;

pub use access::{AccessLog, Line};
pub use audit::{Audit, AuditError, AuditEvent, AuditTrail};
pub use cluster::ClusterMetrics;
pub use decision::DecisionMetrics;
pub use keys::KeysMetrics;
pub use limits::{Limit, LimitMetrics};
pub use metrics::{Metrics, RefreshResult, ReissueResult, SessionOpening, StoreOperation};
pub use route::RouteMetrics;
pub use series::Counted;
pub use servers::{RetryResult, ServerMetrics, ServerState};
pub use streams::StreamMetrics;
pub use upstream::{UpstreamMetrics, UpstreamResult};

/// The label value of a request that matched no route, or of a token whose issuer is not configured.
pub const NONE: &str = "none";

/// Sends `tracing` events to standard error, one JSON object a line, filtered by `PORTCULLIS_LOG`
/// (`info` unless set; a directive that cannot be read is left out). Later calls change nothing.
pub fn init_tracing() {
    use tracing_subscriber::EnvFilter;
    use tracing_subscriber::filter::LevelFilter;

    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var("PORTCULLIS_LOG")
        .from_env_lossy();
    // Below that it repeats what servers answer, documents included.
    let filter = match "async_nats=warn".parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    let subscriber = tracing_subscriber::fmt().json().with_writer(std::io::stderr).with_env_filter(filter).finish();
    // An embedding program that has set its own subscriber keeps it.
    drop(tracing::subscriber::set_global_default(subscriber));
}
