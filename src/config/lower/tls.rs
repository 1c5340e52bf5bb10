//! TLS on the listeners: the files are read here, and judged when they are put into force.

use super::{Lower, Place};
use crate::config::model::{ClientAuth, ListenerTls};
use crate::config::raw;
use crate::secret::Secret;

impl Lower<'_, '_> {
    pub(super) fn listener_tls(&mut self, raw: &raw::ListenerTls, place: &Place<'_>) -> Option<ListenerTls> {
        let certificate = raw.certificate.as_ref().and_then(|file| self.text_file(file, &place.key("certificate")));
        let key = raw.key.as_ref().and_then(|file| self.key_file(file, &place.key("key")));
        let clients = match (&raw.client_ca, raw.client_auth) {
            (None, None) => None,
            (None, Some(_)) => {
                let at = place.key("client_auth").at_key();
                self.error(&at, format!("`{}` has nothing to go by", at.path), "add `client_ca`");
                None
            }
            (Some(file), auth) => {
                let auth = match auth {
                    Some(raw::ClientAuth::Required) => ClientAuth::Required,
                    Some(raw::ClientAuth::Optional) | None => ClientAuth::Optional,
                };
                self.trusted(file, &place.key("client_ca")).map(|authorities| (authorities, auth))
            }
        };
        Some(ListenerTls { certificate: certificate?, key: key?, clients })
    }

    fn key_file(&mut self, file: &str, place: &Place<'_>) -> Option<Secret> {
        // Before anything repeats it in a message.
        if file.contains("-----") || file.contains('\n') {
            self.findings.hide(place.span.clone());
            self.error(
                &place.at_key(),
                format!("`{}` is written into the file", place.path),
                "name a file that holds it",
            );
            return None;
        }
        self.secret_file(file, place).map(|bytes| Secret::new(bytes.to_vec()))
    }
}
