//! The API through its router, over a real ledger and a gateway that only answers.

mod access;
mod batch;
mod credentials;
mod failing;
mod fixture;
mod keys;
mod operations;
mod revocations;
mod sessions;
mod subjects;
mod watch;

pub(crate) use failing::FailingStore;
pub(crate) use fixture::{Fixture, OPERATOR};
