//! TLS with a broker.

use crate::secret::Secret;

/// Whom TLS believes, and as whom it comes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The PEM text of the authorities that may vouch for the server; `None`: those of the system.
    pub authorities: Option<String>,
    /// The PEM texts of our certificate and its key.
    pub client: Option<(String, Secret)>,
}
