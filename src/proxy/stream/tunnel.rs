//! A connection that has changed its protocol: bytes both ways, until either side, its token, the drain or
//! a long silence ends it.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::held::Held;
use super::pipes::{Over, Pipes};
use crate::gate::Denial;
use crate::proxy::record::Record;
use crate::proxy::upstream::Lease;
use crate::telemetry::Limit;

/// Closed because its token is no longer honoured: of the codes that applications may use
/// (RFC 6455 §7.4.2).
const NOT_HONOURED: u16 = 4001;
/// Closed because this endpoint goes away (RFC 6455 §7.4.1).
const GOING_AWAY: u16 = 1001;
/// How long the upstream's connection may take to be handed over: it has answered already.
const HANDOVER: Duration = Duration::from_secs(5);

/// The upstream's side of a tunnel, as it is when it has answered.
#[derive(Debug)]
pub(in crate::proxy) struct Upgraded {
    /// Its connection, once hyper lets go of it.
    pub(in crate::proxy) connection: OnUpgrade,
    /// Counts it as used.
    pub(in crate::proxy) lease: Lease,
    /// Whether it speaks WebSocket.
    pub(in crate::proxy) websocket: bool,
}

/// A tunnel that is to begin when the client has its answer.
#[derive(Debug)]
pub struct Tunnel {
    record: Box<Record>,
    upgraded: Upgraded,
}

/// Why a tunnel ended.
enum End {
    Cut(Denial),
    Leaving,
    Over(Over),
}

impl End {
    /// The name in metric and log; `None` where either side ended it.
    const fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Cut(denial) => Some(denial.reason()),
            Self::Leaving => Some("going_away"),
            Self::Over(Over::Idle) => Some("idle"),
            Self::Over(Over::Stalled) => Some("stalled"),
            Self::Over(Over::Broken | Over::Closed) => None,
        }
    }
}

impl Tunnel {
    pub(in crate::proxy) fn new(record: Box<Record>, upgraded: Upgraded) -> Self {
        Self { record, upgraded }
    }

    /// Runs it, over a client's connection from which `early` was read already, until it ends. `leaving`
    /// ends when the gateway wants to: a WebSocket connection can be told.
    pub async fn run<C>(self: Box<Self>, client: C, early: &[u8], leaving: impl Future<Output = ()>)
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let Self { mut record, upgraded: Upgraded { connection, lease, websocket } } = *self;
        let Ok(Ok(upstream)) = timeout(HANDOVER, connection).await else {
            record.reason = Some("upstream_broken");
            return;
        };
        let (idle, stall) = (record.journal.tunnel_idle_timeout, record.journal.write_timeout);
        let shared = Arc::clone(&record.journal.shared);
        let open = shared.metrics.streams.opened();
        let mut pipes = Pipes::new(client, TokioIo::new(upstream), early, websocket);
        let held = record.bearer.as_ref().map(|bearer| Held::new(&shared, bearer));
        let dishonoured = async {
            match &held {
                Some(held) => held.ended().await,
                None => pending().await,
            }
        };
        let leaving = async {
            if websocket {
                leaving.await;
            } else {
                pending().await
            }
        };
        let end = tokio::select! {
            // In this order: the token is asked about before the first byte passes.
            biased;
            denial = dishonoured => End::Cut(denial),
            () = leaving => End::Leaving,
            over = pipes.copy(idle, stall) => End::Over(over),
        };
        if let Some(reason) = end.reason() {
            shared.metrics.streams.cut(reason);
            if matches!(end, End::Over(Over::Idle)) {
                shared.metrics.limits.hit(Limit::TunnelIdleTimeout);
            }
            record.reason = Some(reason);
            let code = if matches!(end, End::Cut(_)) { NOT_HONOURED } else { GOING_AWAY };
            pipes.close(code, reason).await;
        }
        (record.tunnel_in, record.bytes_out) = pipes.bytes();
        drop((open, lease));
    }
}
