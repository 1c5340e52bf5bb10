//! Portcullis: a reverse proxy that makes JWT sessions revocable before they expire.
//!
//! The modules are the nouns of the field; `ARCHITECTURE.md` walks one request and one revocation
//! through them. Lower modules do not name higher ones: `token`, `keys`, `revocation`, `session` and
//! `gate` see no HTTP client, no store and no metrics, so the decision can be tested as a function.

pub mod admin;
mod alarm;
pub mod app;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod demo;
pub mod gate;
pub mod intake;
pub mod keys;
pub mod proxy;
pub mod revocation;
pub mod secret;
pub mod server;
pub mod session;
pub mod store;
pub mod telemetry;
pub mod time;
pub mod token;
