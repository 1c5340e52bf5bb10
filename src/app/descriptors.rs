//! How many file descriptors the process may have: as many as it is allowed to allow itself.
//!
//! Distributions leave the soft limit at 1024 for programs that use `select`, which breaks beyond that, and the hard
//! one high for those that do not. This one does not, and each of its connections is a descriptor.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one, and logs both.
pub(super) fn raise() {
    let found = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: found.maximum, maximum: found.maximum };
    let raised = setrlimit(Resource::Nofile, wanted);
    let now = getrlimit(Resource::Nofile);
    let said = |limit: Option<u64>| limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
    let (soft, hard, before) = (said(now.current), said(now.maximum), said(found.current));
    match raised {
        Ok(()) => tracing::info!(soft, hard, before, "file descriptors are limited"),
        Err(error) => tracing::warn!(soft, hard, %error, "the limit of file descriptors cannot be raised"),
    }
}
