//! Whose signatures count.
//!
//! Keys are judged once, when they are loaded: a weak or ambiguous one is refused then, with its
//! reason, and never looked at again. Each loaded key is bound to one algorithm and parsed for good,
//! so that checking a signature parses nothing. Nothing here believes a token: a token may name a key
//! and nothing else.
//!
//! Keys that an issuer publishes are fetched in the background ([`Published`]): a decision reads what is in
//! memory, and says so when that is not enough.

mod credential;
mod endpoint;
pub mod fetch;
mod fit;
mod jwk;
mod pem;
mod publication;
mod published;
mod set;
mod signing;
pub mod subject;
mod thumbprint;
mod verifying;

pub use credential::{Credential, DEAF_TTL, FLIGHTS_MAX, Known, Lifetimes};
pub use endpoint::{Endpoint, EndpointError};
pub use fit::Unfit;
pub use publication::{Publication, RefreshError};
pub use published::{Issuer, LastGood, Listener, Published, Renewed, Schedule, Standing};
pub use set::{JSON_BYTES_MAX, KEYS_MAX, KeySet, KeySetError, Refused};
pub use signing::{SignError, SigningKey, SigningKeyError};
pub use verifying::VerifyingKey;

#[cfg(test)]
mod tests;
