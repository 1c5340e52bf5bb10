//! What Redis answers, and what its refusals mean.

use bytes::Bytes;
use redis::{ErrorKind, RedisError, Value};

use crate::cluster::failure::short;
use crate::cluster::{BrokerError, Delivered, Position};
use crate::time::Timestamp;

/// Replies that say "not now": a server that starts, was demoted, is full, or is being moved.
const NOT_NOW: [&str; 14] = [
    "LOADING",
    "BUSY",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MOVED",
    "ASK",
    "OOM",
    "MISCONF",
    "NOREPLICAS",
    "UNKILLABLE",
    "EXECABORT",
    "NOSCRIPT",
];

/// What an error means for who asked.
pub(super) fn meaning(error: RedisError) -> BrokerError {
    match error.code() {
        Some("EPOCH") => return BrokerError::Epoch,
        Some("TRIMMED") => return BrokerError::Trimmed,
        Some("NOAUTH") => return BrokerError::Refused("it wants a user and a password".to_owned()),
        Some("WRONGPASS") => return BrokerError::Refused("it does not take the user and the password".to_owned()),
        Some(code) if !NOT_NOW.contains(&code) => {
            let detail = error.detail().unwrap_or_default();
            if !detail.contains("max number of clients") {
                return BrokerError::Refused(format!("it says `{}`", short(&format!("{code} {detail}"))));
            }
        }
        _ => {}
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => {
            BrokerError::Refused("it does not take the user and the password".to_owned())
        }
        ErrorKind::InvalidClientConfig => BrokerError::Refused(short(&error.to_string())),
        _ => BrokerError::of_connection(error),
    }
}

/// The elements of an array; none of nothing.
pub(super) fn array(value: Value) -> Result<Vec<Value>, BrokerError> {
    match value {
        Value::Array(values) | Value::Set(values) => Ok(values),
        Value::Nil => Ok(Vec::new()),
        _ => Err(BrokerError::odd()),
    }
}

pub(super) fn bytes(value: Value) -> Result<Bytes, BrokerError> {
    match value {
        Value::BulkString(bytes) => Ok(bytes.into()),
        Value::SimpleString(text) => Ok(text.into_bytes().into()),
        _ => Err(BrokerError::odd()),
    }
}

pub(super) fn text(value: Value) -> Result<String, BrokerError> {
    String::from_utf8(bytes(value)?.into()).map_err(|_| BrokerError::odd())
}

pub(super) fn number(value: Value) -> Result<i64, BrokerError> {
    match value {
        Value::Int(number) => Ok(number),
        value => text(value)?.parse().map_err(|_| BrokerError::odd()),
    }
}

pub(super) fn position(value: Value) -> Result<Position, BrokerError> {
    text(value)?.parse().map_err(|_| BrokerError::odd())
}

/// Entries of the log: each its position, and its fields.
pub(super) fn entries(value: Value) -> Result<Vec<Delivered>, BrokerError> {
    let entry = |value| {
        let mut parts = array(value)?.into_iter();
        let position = position(parts.next().ok_or_else(BrokerError::odd)?)?;
        let mut fields = array(parts.next().ok_or_else(BrokerError::odd)?)?.into_iter();
        // An entry that somebody else wrote is handed out as well: that it is not sealed is noticed there.
        let sealed = match (fields.next(), fields.next()) {
            (Some(_), Some(sealed)) => bytes(sealed)?,
            _ => Bytes::new(),
        };
        let at = Timestamp::from_millis(i64::try_from(position.major).unwrap_or(i64::MAX));
        Ok(Delivered { position, at, sealed })
    };
    array(value)?.into_iter().map(entry).collect()
}

/// The entries in a reply to XREAD of one stream.
pub(super) fn read(value: Value) -> Result<Vec<Delivered>, BrokerError> {
    let Some(stream) = array(value)?.into_iter().next() else { return Ok(Vec::new()) };
    entries(array(stream)?.into_iter().nth(1).ok_or_else(BrokerError::odd)?)
}
