//! How much and how often.

use std::time::Duration;

/// Bounds on what clients may send and how long they may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request head.
    pub header_bytes: usize,
    /// Fields of a request head.
    pub header_count: usize,
    /// Bytes of a request target.
    pub uri_bytes: usize,
    /// How long a request head may take from its first byte on, and a new connection until that.
    pub header_timeout: Duration,
    /// How long a connection may stay idle between requests.
    pub idle_timeout: Duration,
    /// How long a silence within a request body may be.
    pub body_timeout: Duration,
    /// Bytes that a request body must bring in a second while it is waited for; `None`: any.
    pub body_min_rate: Option<u64>,
    /// What the rate is averaged over.
    pub body_rate_window: Duration,
    /// How long a request body may take as a whole; `None`: as long as it likes.
    pub request_timeout: Option<Duration>,
    /// How long a client may take to read any part of an answer.
    pub write_timeout: Duration,
    /// How long a TLS handshake may take, waiting for its turn included.
    pub handshake_timeout: Duration,
    /// TLS handshakes of each worker at once; at the bound others wait.
    pub handshakes_per_worker: usize,
    /// How long a tunnel may be silent in both directions.
    pub tunnel_idle_timeout: Duration,
    /// Open client connections of each worker; at the bound no more are accepted.
    pub connections_per_worker: usize,
    /// Open client connections of the process; at the bound no more are served.
    pub connections: usize,
    /// Those of one client address, trusted proxies apart; at the bound another is closed.
    pub connections_per_client: usize,
    /// Requests on one connection; the last one's answer says that it ends.
    pub requests_per_connection: u64,
    /// Requests in flight in the process; each worker has its share of them.
    pub requests_in_flight: usize,
    /// Bounds on one HTTP/2 connection.
    pub http2: Http2Limits,
}

/// Bounds on one HTTP/2 connection of a client.
#[derive(Clone, Copy, Debug)]
pub struct Http2Limits {
    /// Requests at once.
    pub streams: u32,
    /// Streams that a client may reset: a burst, and as many again in each 30 seconds.
    pub resets: u32,
    /// Frames that are no part of a message and follow from none: a burst, and as many again in each 30 seconds.
    pub control_frames: u32,
    /// How long it may stay open without a request.
    pub idle_timeout: Duration,
    /// How often the client is asked whether it is still there.
    pub keep_alive: Option<Duration>,
    /// Bytes of a request's body that may come before they are passed on.
    pub stream_window: u32,
    /// The same of all its requests.
    pub connection_window: u32,
    /// Bytes of an answer that are held for a client that does not take them.
    pub send_buffer: usize,
}

/// One rule on how often something may be asked: `count` in each `period` on average, `burst` at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// The config name, in headers and as a metric label.
    pub name: String,
    /// What has a quota of its own.
    pub key: RateKey,
    /// Requests in each period; at least one.
    pub count: u32,
    /// The period; at least a second, at most a day.
    pub period: Duration,
    /// Requests at once; at least one.
    pub burst: u32,
    /// What uses the quota up.
    pub counts: RateCounts,
    /// Quotas remembered at most; beyond it newcomers share one.
    pub max_keys: usize,
}

/// What has a quota of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateKey {
    /// The client's address; of IPv6 the first 64 bits.
    Address,
    /// The route.
    Route,
    /// The subject of a verified token, with its issuer.
    Subject,
}

/// What uses a quota up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateCounts {
    /// Tokens that are refused, unless they have merely expired.
    Denials,
    /// Every request.
    Requests,
}
