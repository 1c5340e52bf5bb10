//! Where the gateway meets the outside: listeners, limits, the control plane, logs, shutdown, state.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Bound, Duration, Either, ListenerTls, Secret, Size};

/// One traffic listener.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Listener {
    /// Address and port; port 0 takes a free one.
    #[schemars(with = "String", extend("examples" = ["0.0.0.0:8080", "[::]:8080"]))]
    pub(in crate::config) address: Option<String>,
    /// TLS. Absent: in clear.
    pub(in crate::config) tls: Option<ListenerTls>,
    /// Without `tls`: whether clients may begin with HTTP/2, as those do that know of it. Absent: `false`.
    pub(in crate::config) h2c: Option<bool>,
}

/// Bounds on what clients may send and how long they may take.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Limits {
    /// A request head.
    #[schemars(extend("default" = "32KiB"))]
    pub(in crate::config) header_bytes: Option<Size>,
    /// Fields of a request head.
    #[schemars(range(min = 8, max = 1000), extend("default" = 100))]
    pub(in crate::config) header_count: Option<u64>,
    /// A request target.
    #[schemars(extend("default" = "8KiB"))]
    pub(in crate::config) uri_bytes: Option<Size>,
    /// A request body, on routes that do not say otherwise, or `none`.
    #[schemars(extend("default" = "none"))]
    pub(in crate::config) max_body: Option<Size>,
    /// How long a request head may take, from its first byte on; a new connection has as long for that byte.
    #[schemars(extend("default" = "10s"))]
    pub(in crate::config) header_timeout: Option<Duration>,
    /// How long a connection may stay idle between requests.
    #[schemars(extend("default" = "60s"))]
    pub(in crate::config) idle_timeout: Option<Duration>,
    /// How long a silence within a request body may be.
    #[schemars(extend("default" = "30s"))]
    pub(in crate::config) body_timeout: Option<Duration>,
    /// What a request body must bring in a second while it is waited for, or `none`.
    #[schemars(extend("default" = "240B"))]
    pub(in crate::config) body_min_rate: Option<Size>,
    /// What `body_min_rate` is averaged over.
    #[schemars(extend("default" = "5s"))]
    pub(in crate::config) body_rate_window: Option<Duration>,
    /// How long a request body may take to come as a whole, or `none`.
    #[schemars(extend("default" = "none"))]
    pub(in crate::config) request_timeout: Option<Duration>,
    /// How long a client may take to read any part of an answer.
    #[schemars(extend("default" = "30s"))]
    pub(in crate::config) write_timeout: Option<Duration>,
    /// How long a TLS handshake may take, waiting for its turn included.
    #[schemars(extend("default" = "10s"))]
    pub(in crate::config) handshake_timeout: Option<Duration>,
    /// TLS handshakes of each worker at once; others wait for their turn.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 1000))]
    pub(in crate::config) handshakes_per_worker: Option<u64>,
    /// How long a tunnel may be silent: a WebSocket connection, or another upgrade.
    #[schemars(extend("default" = "10m"))]
    pub(in crate::config) tunnel_idle_timeout: Option<Duration>,
    /// Open client connections of each worker.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 10_000))]
    pub(in crate::config) connections_per_worker: Option<u64>,
    /// Open client connections of the process, or `none`.
    #[schemars(extend("default" = 20_000))]
    pub(in crate::config) connections: Option<Bound>,
    /// Those of one client address (an IPv6 network of 64 bits), trusted proxies apart, or `none`.
    #[schemars(extend("default" = 5_000))]
    pub(in crate::config) connections_per_client: Option<Bound>,
    /// Requests on one connection, or `none`.
    #[schemars(extend("default" = 10_000))]
    pub(in crate::config) requests_per_connection: Option<Bound>,
    /// Requests in flight, from their head to the end of their answer, or `none`.
    #[schemars(extend("default" = 10_000))]
    pub(in crate::config) requests_in_flight: Option<Bound>,
    /// What is bounded of HTTP/2 connections besides.
    #[schemars(extend("default" = {}))]
    pub(in crate::config) http2: Option<Http2Limits>,
}

/// Bounds on one HTTP/2 connection of a client.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Http2Limits {
    /// Requests at once.
    #[schemars(range(min = 1, max = 10_000), extend("default" = 100))]
    pub(in crate::config) streams: Option<u64>,
    /// Requests that a client may take back: so many at once, and as many again in each 30 seconds.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 200))]
    pub(in crate::config) resets: Option<u64>,
    /// Frames that bring no part of a request and follow from none of an answer: so many at once, and as many
    /// again in each 30 seconds.
    #[schemars(range(min = 100, max = 1_000_000), extend("default" = 1000))]
    pub(in crate::config) control_frames: Option<u64>,
    /// How long a connection may stay open without a request. The first one has `header_timeout`.
    #[schemars(extend("default" = "60s"))]
    pub(in crate::config) idle_timeout: Option<Duration>,
    /// How often a client is asked whether it is still there, or `none`.
    #[schemars(extend("default" = "none"))]
    pub(in crate::config) keep_alive: Option<Duration>,
    /// Bytes of a request's body that may come before they are passed on.
    #[schemars(extend("default" = "256KiB"))]
    pub(in crate::config) stream_window: Option<Size>,
    /// The same of all requests of a connection together.
    #[schemars(extend("default" = "1MiB"))]
    pub(in crate::config) connection_window: Option<Size>,
    /// Bytes of an answer that are held for a client that does not take them.
    #[schemars(extend("default" = "128KiB"))]
    pub(in crate::config) send_buffer: Option<Size>,
}

/// When a changed configuration is taken up.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Reload {
    /// Whether this file and all that it names are watched; otherwise on SIGHUP and `POST /v1/reload` alone.
    #[schemars(extend("default" = true))]
    pub(in crate::config) watch: Option<bool>,
    /// How long they must have been left alone before they are read.
    #[schemars(extend("default" = "500ms"))]
    pub(in crate::config) debounce: Option<Duration>,
}

/// What happens on SIGTERM.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Shutdown {
    /// How long `/readyz` says 503 before the listeners close.
    #[schemars(extend("default" = "0s"))]
    pub(in crate::config) drain_delay: Option<Duration>,
    /// How long running requests may take after that.
    #[schemars(extend("default" = "30s"))]
    pub(in crate::config) drain_timeout: Option<Duration>,
}

/// The control plane.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Admin {
    /// Address and port, or `unix:` and a path.
    #[schemars(extend("default" = "127.0.0.1:9901", "examples" = ["unix:/run/portcullis/admin.sock"]))]
    pub(in crate::config) address: Option<String>,
    /// Who may use it. May be empty on a Unix socket only, which then trusts whoever may open it.
    #[schemars(extend("default" = []))]
    pub(in crate::config) tokens: Option<Vec<AdminToken>>,
    /// Where audit lines go.
    #[schemars(extend("default" = "stdout"))]
    pub(in crate::config) audit_log: Option<Either<LogWord, LogFile>>,
}

/// One admin credential.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct AdminToken {
    /// The name in audit lines.
    #[schemars(with = "String", length(min = 1))]
    pub(in crate::config) name: Option<String>,
    /// What it may do.
    #[schemars(with = "Role")]
    pub(in crate::config) role: Option<Role>,
    /// The bearer secret.
    #[schemars(with = "Secret")]
    pub(in crate::config) secret: Option<Secret>,
}

/// What an admin credential may do: read, or read and change.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Role {
    Viewer,
    Operator,
}

/// `stdout`, or `off`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum LogWord {
    Stdout,
    Off,
}

/// A file that lines are appended to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct LogFile {
    /// The file; its folder must be there.
    #[schemars(with = "String", length(min = 1))]
    pub(in crate::config) file: Option<String>,
}

/// Where revocations survive.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Revocation {
    /// The store.
    #[schemars(extend("default" = { "path": "data" }))]
    pub(in crate::config) store: Option<Store>,
    /// How often what has lapsed is swept out.
    #[schemars(extend("default" = "60s"))]
    pub(in crate::config) sweep_interval: Option<Duration>,
    /// Revocations held at most; beyond it new ones are refused, never old ones dropped.
    #[schemars(range(min = 1), extend("default" = 20_000_000))]
    pub(in crate::config) max_entries: Option<u64>,
}

/// The store: exactly one of the two.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Store {
    /// A folder for the database; made on first start.
    #[schemars(length(min = 1))]
    pub(in crate::config) path: Option<String>,
    /// `true`: nothing survives the process.
    pub(in crate::config) memory: Option<bool>,
}
