//! How the servers of an upstream are watched, chosen and tried again.

use std::ops::RangeInclusive;
use std::time::Duration;

/// What is asked of each server now and then to see whether it is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Path and query.
    pub path: String,
    /// Between one check and the next.
    pub interval: Duration,
    /// How long a check may take, connecting included.
    pub timeout: Duration,
    /// Failed checks in a row that take a server out of use.
    pub unhealthy_after: u32,
    /// Good checks in a row that bring it back.
    pub healthy_after: u32,
    /// Statuses that are good.
    pub expect: RangeInclusive<u16>,
    /// `Host` of the checks; `None`: host and port of the server.
    pub host: Option<String>,
}

/// When a server that fails at traffic is taken out of use for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Failures in a row; `None`: never.
    pub after: Option<u32>,
    /// For how long at first; twice as long each time it comes to that again.
    pub time: Duration,
    /// For how long at most.
    pub max_time: Duration,
    /// The share of a group's servers that may be out of use because of it, in per mille.
    pub max_ejected: u32,
}

/// When a request is sent once more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How often a request that has been sent is sent again at most.
    pub attempts: u32,
    /// How long a try may take that another one can follow; `None`: as long as the last.
    pub per_try_timeout: Option<Duration>,
    /// After what.
    pub on: RetryOn,
    /// Retries for a thousand requests.
    pub budget: u32,
}

/// What a request is sent again after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// No connection could be made: nothing was sent, so this holds for every method.
    pub connect_failure: bool,
    /// The connection ended before anything of an answer came.
    pub reset_before_response: bool,
    /// A try took longer than it may.
    pub timeout: bool,
    /// The answer is 502, 503 or 504.
    pub gateway_errors: bool,
}
