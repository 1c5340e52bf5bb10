//! What the operating system tells the process: SIGTERM and SIGINT to stop, SIGHUP to reload.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Control;
use crate::admin::Gateway as _;

/// The signals that mean something. To be made before the gateway says that it is ready.
#[derive(Debug)]
pub(super) struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Reloads on SIGHUP, and returns on SIGTERM or SIGINT.
    pub(super) async fn until_told_to_stop(&mut self, control: &Arc<Control>) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    control.reopen_logs();
                    // What came of it is in the log and the metrics.
                    drop(control.reload().await);
                }
            }
        }
    }

    /// Returns on another SIGTERM or SIGINT: whoever sends it does not want to wait.
    pub(super) async fn told_again(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
