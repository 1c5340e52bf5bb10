//! The decision: may this request pass?
//!
//! Synchronous: between the request head and [`Permit`] or [`Denial`] nothing is awaited.

mod denial;
mod requirement;

pub use denial::Denial;
pub use requirement::{ClaimRule, Demand, Requirement, Test};
