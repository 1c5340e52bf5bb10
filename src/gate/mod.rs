//! The decision: may this request pass?
//!
//! Synchronous: between the request head and [`Permit`] or [`Denial`] nothing is awaited, and `now` is
//! an argument. What is not here is asked for instead ([`Need`]), and the decision made again. The order is: read the token, check who may have signed it, check the signature, and
//! only then believe a claim; then standing, then what the route demands. A cache may remember that a
//! signature was good; it never remembers standing, time or a route's demand.

mod cache;
mod credential;
mod decide;
mod denial;
mod issuer;
mod need;
mod replay;
mod requirement;
mod sender;
mod stream;
mod verified;

pub use cache::{Remembered, TokenCache};
pub use decide::{Admission, Gate, Passage, Permit, Stage};
pub use denial::Denial;
pub use issuer::{Kind, TrustedIssuer};
pub use need::{Need, Unsettled};
pub use replay::{NotNew, REPLAYS_MAX, Replays, Told};
pub use requirement::{ClaimRule, Constraint, Demand, OnStale, Pattern, PatternError, Requirement, Test, Unenforced};
pub use sender::{Presentation, ProofFault, Sender, Senders};
pub use verified::Verified;
