//! What JetStream is asked, and what its refusals mean.

use async_nats::jetstream::Context;
use async_nats::{RequestError, RequestErrorKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

use crate::cluster::BrokerError;
use crate::cluster::failure::short;

/// There is no such stream.
pub(super) const STREAM_NOT_FOUND: u64 = 10_059;
/// There is one with that name and another configuration.
pub(super) const STREAM_NAME_IN_USE: u64 = 10_058;
/// There is no such message.
pub(super) const NO_MESSAGE: u64 = 10_037;
/// Another message is the last one of the subject.
pub(super) const WRONG_LAST: [u64; 2] = [10_071, 10_164];

/// What will not pass: not enabled, limits of the account, replicas without a cluster, overlapping subjects,
/// a configuration that is not taken.
const FOR_GOOD: [u64; 10] = [10_076, 10_039, 10_026, 10_028, 10_074, 10_065, 10_052, 10_003, 10_025, 10_005];

/// Why a question was not answered.
#[derive(Debug)]
pub(super) enum Failure {
    /// JetStream says no: a code, and what it means.
    Refused(u64, String),
    /// Nobody listens where JetStream does.
    Nobody,
    /// No answer in time.
    Late,
    /// Something else.
    Away(async_nats::Error),
}

impl From<Failure> for BrokerError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(code, text) if FOR_GOOD.contains(&code) => {
                Self::Refused(format!("JetStream says `{}` ({code})", short(&text)))
            }
            Failure::Refused(code, text) => Self::failed(format!("JetStream says `{}` ({code})", short(&text))),
            Failure::Nobody => Self::failed("JetStream is not there; is it enabled, for this account?"),
            Failure::Late => Self::failed("no answer in time"),
            Failure::Away(error) => Self::Unavailable(Arc::from(error)),
        }
    }
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Asks the API of JetStream.
pub(super) async fn ask<T: DeserializeOwned>(context: &Context, subject: &str, body: &Value) -> Result<T, Failure> {
    let answer = context.client().request(format!("$JS.API.{subject}"), body.to_string().into()).await;
    let answer = answer.map_err(|error: RequestError| match error.kind() {
        RequestErrorKind::NoResponders => Failure::Nobody,
        RequestErrorKind::TimedOut => Failure::Late,
        _ => Failure::Away(error.into()),
    })?;
    read(&answer.payload)
}

/// An answer of JetStream's, or its refusal.
pub(super) fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, Failure> {
    let mut value: Value = serde_json::from_slice(answer).map_err(|error| Failure::Away(error.into()))?;
    if let Some(error) = value.get_mut("error").map(Value::take) {
        let refusal: Refusal = serde_json::from_value(error).map_err(|error| Failure::Away(error.into()))?;
        return Err(Failure::Refused(refusal.err_code, refusal.description));
    }
    serde_json::from_value(value).map_err(|error| Failure::Away(error.into()))
}
