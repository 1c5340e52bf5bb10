//! The decision: may this request pass?
//!
//! Synchronous: between the request head and [`Permit`] or [`Denial`] nothing is awaited, and `now` is
//! an argument. The order is: read the token, check who may have signed it, check the signature, and
//! only then believe a claim; then standing, then what the route demands. A cache may remember that a
//! signature was good; it never remembers standing, time or a route's demand.

mod cache;
mod decide;
mod denial;
mod issuer;
mod requirement;
mod verified;

pub use cache::{Remembered, TokenCache};
pub use decide::{Admission, Gate, Permit, Stage};
pub use denial::Denial;
pub use issuer::{Kind, TrustedIssuer};
pub use requirement::{ClaimRule, Demand, Requirement, Test};
pub use verified::Verified;
