//! Failures that every engine has.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::BrokerError;

/// The most that is repeated of what a server says.
const TEXT_BYTES_MAX: usize = 300;

impl BrokerError {
    /// No answer in time.
    pub(super) fn late(after: Duration) -> Self {
        Self::failed(format!("no answer within {} ms", after.as_millis()))
    }

    /// It is there and did not do it now.
    pub(super) fn failed(text: impl Into<String>) -> Self {
        Self::Unavailable(Arc::new(io::Error::other(text.into())))
    }

    /// An answer that is none.
    pub(super) fn odd() -> Self {
        Self::failed("its answer cannot be understood")
    }

    /// What an error of the way there means: that one of the two does not believe the other is no passing trouble.
    pub(super) fn of_connection(error: impl Error + Send + Sync + 'static) -> Self {
        match disbelief(&error) {
            Some(why) => Self::Refused(format!("TLS with it fails: {}", short(&why.to_string()))),
            None => Self::Unavailable(Arc::new(error)),
        }
    }
}

/// The TLS error within an error, when it says that a certificate is not believed.
fn disbelief<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            let why = matches!(
                found,
                rustls::Error::InvalidCertificate(_)
                    | rustls::Error::AlertReceived(_)
                    | rustls::Error::NoCertificatesPresented
            );
            return why.then_some(found);
        }
        // Its source would be that of the error it shares.
        if let Some(shared) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
            next = Some(&**shared);
            continue;
        }
        // What an I/O error wraps is not its source, but has the place of it.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

/// A text of a peer's, as much of it as fits a line.
pub(super) fn short(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
