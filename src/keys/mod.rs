//! Whose signatures count.
//!
//! Keys are judged once, when they are loaded: a weak or ambiguous one is refused then, with its
//! reason, and never looked at again. Each loaded key is bound to one algorithm and parsed for good,
//! so that checking a signature parses nothing. Nothing here believes a token: a token may name a key
//! and nothing else.

mod fit;
mod jwk;
mod pem;
mod set;
mod signing;
mod thumbprint;
mod verifying;

pub use fit::Unfit;
pub use set::{JSON_BYTES_MAX, KEYS_MAX, KeySet, KeySetError, Refused};
pub use signing::{SignError, SigningKey, SigningKeyError};
pub use verifying::VerifyingKey;

#[cfg(test)]
mod tests;
