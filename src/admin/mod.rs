//! The control plane: who may do what, and the audit line of what was done.
mod gateway;
mod problem;

pub use gateway::{Explanation, Gateway, KeyInfo, Pending, Question, ReloadError, Reloaded, RotateError, Status, Step};
