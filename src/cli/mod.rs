//! The `portcullis` command line.

pub mod token;
