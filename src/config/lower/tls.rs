//! TLS on the listeners: the files are read here, and judged when they are put into force.

use super::{Lower, Place};
use crate::config::model::{ClientAuth, ListenerCertificate, ListenerTls, TlsVersion};
use crate::config::raw;
use crate::secret::Secret;

impl Lower<'_, '_> {
    pub(super) fn listener_tls(&mut self, raw: &raw::ListenerTls, place: &Place<'_>) -> Option<ListenerTls> {
        let certificates = self.certificates(raw, place);
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
        let min_version = match raw.min_version {
            Some(raw::TlsVersion::Tls13) => TlsVersion::Tls13,
            Some(raw::TlsVersion::Tls12) | None => TlsVersion::Tls12,
        };
        let (strict_sni, http2) = (raw.strict_sni.unwrap_or(false), raw.http2.unwrap_or(true));
        Some(ListenerTls { certificates, strict_sni, min_version, clients, http2 })
    }

    /// The PEM texts of the gateway's own certificate and its key, where it has one to show: `certificate` and `key`.
    pub(super) fn client_certificate(
        &mut self,
        certificate: Option<&str>,
        key: Option<&str>,
        place: &Place<'_>,
    ) -> Option<(String, Secret)> {
        match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                let certificate = self.text_file(certificate, &place.key("certificate"));
                certificate.zip(self.key_file(key, &place.key("key")))
            }
            (Some(_), None) | (None, Some(_)) => {
                let message = format!("`{}` has half of a client certificate", place.path);
                self.error(&place.at_key(), message, "`certificate` and `key` go together");
                None
            }
        }
    }

    /// Whatever it may show itself as, the pair first.
    fn certificates(&mut self, raw: &raw::ListenerTls, place: &Place<'_>) -> Vec<ListenerCertificate> {
        let mut certificates = Vec::new();
        let at = |key| place.key(key);
        match (&raw.certificate, &raw.key) {
            (Some(certificate), Some(key)) => {
                certificates.extend(self.certificate((certificate, &at("certificate")), (key, &at("key")), None));
            }
            (None, None) => {}
            (Some(_), None) => self.error(place, "`key` is missing", "of the certificate"),
            (None, Some(_)) => self.error(place, "`certificate` is missing", "for the key"),
        }
        let pair = raw.certificate.is_some() || raw.key.is_some();
        if !pair && raw.certificates.is_none() && !place.is_damaged() {
            self.error(
                place,
                format!("`{}` has no certificate", place.path),
                "`certificate` and `key`, or `certificates`",
            );
        }
        for (index, one) in raw.certificates.iter().flatten().enumerate() {
            let place = at("certificates").item(index);
            let names = one.names.as_ref().map(|names| self.server_names(names, &place.key("names")));
            if let (Some(certificate), Some(key)) = (&one.certificate, &one.key) {
                let certificate = (certificate.as_str(), &place.key("certificate"));
                certificates.extend(self.certificate(certificate, (key, &place.key("key")), names));
            }
        }
        certificates
    }

    fn certificate(
        &mut self,
        chain: (&str, &Place<'_>),
        key: (&str, &Place<'_>),
        names: Option<Vec<String>>,
    ) -> Option<ListenerCertificate> {
        let chain = self.text_file(chain.0, chain.1);
        let key = self.key_file(key.0, key.1);
        Some(ListenerCertificate { chain: chain?, key: key?, names })
    }

    fn server_names(&mut self, names: &[String], place: &Place<'_>) -> Vec<String> {
        let mut all = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let bare = name.strip_prefix("*.").unwrap_or(name);
            let is_label = |label: &str| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            };
            let fits =
                bare.len() <= 253 && bare.split('.').all(is_label) && bare.parse::<std::net::Ipv4Addr>().is_err();
            if fits {
                all.push(name.to_ascii_lowercase());
            } else {
                let place = place.item(index);
                let message = format!("`{}` is not a server name", place.path);
                self.error(&place, message, "such as `shop.example.com` or `*.example.com`");
            }
        }
        all
    }

    /// Reads a private key, which cannot be written into the configuration itself.
    pub(super) fn key_file(&mut self, file: &str, place: &Place<'_>) -> Option<Secret> {
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
