//! Which certificate is for which server name (RFC 6066 §3, RFC 9525 §6.3).

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::identity::Shown;
use crate::proxy::Coverage;

/// The certificates of a listener by the names they are shown for.
#[derive(Debug)]
pub(super) struct ByName {
    certificates: Vec<Arc<Shown>>,
    /// Places in `certificates`, by whole name.
    exact: HashMap<String, Vec<usize>>,
    /// The same, by what follows `*.`.
    wildcards: HashMap<String, Vec<usize>>,
    /// Nothing is shown for a name that none of them is for.
    strict: bool,
}

impl ByName {
    pub(super) fn new(certificates: Vec<Arc<Shown>>, strict: bool) -> Self {
        let (mut exact, mut wildcards) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for (place, certificate) in certificates.iter().enumerate() {
            for name in &certificate.names {
                match name.strip_prefix("*.") {
                    Some(parent) => wildcards.entry(parent.to_owned()).or_default().push(place),
                    None => exact.entry(name.clone()).or_default().push(place),
                }
            }
        }
        Self { certificates, exact, wildcards, strict }
    }

    pub(super) fn certificates(&self) -> &[Arc<Shown>] {
        &self.certificates
    }

    /// The certificates for a name in lower case: one that names it before one that covers it.
    fn named(&self, name: &str) -> &[usize] {
        let covered = || self.wildcards.get(name.split_once('.')?.1);
        self.exact.get(name).or_else(covered).map_or(&[], Vec::as_slice)
    }

    /// What a client is shown that asks for `name`, if it can check the signature: it `fits`.
    fn choose(&self, name: Option<&str>, fits: impl Fn(&CertifiedKey) -> bool) -> Option<Arc<CertifiedKey>> {
        let named = name.map_or(&[][..], |name| self.named(name));
        let mut named = named.iter().filter_map(|place| self.certificates.get(*place)).peekable();
        if named.peek().is_none() {
            return if self.strict { None } else { self.certificates.first().map(|it| Arc::clone(&it.key)) };
        }
        named.find(|it| fits(&it.key)).map(|it| Arc::clone(&it.key))
    }

    /// The hosts that a connection for `server_name` is good for.
    pub(super) fn coverage(self: &Arc<Self>, server_name: &str) -> Arc<dyn Coverage> {
        Arc::new(OfConnection { by_name: Arc::clone(self), server_name: server_name.to_ascii_lowercase() })
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let name = hello.server_name().map(str::to_ascii_lowercase);
        self.choose(name.as_deref(), |key| key.key.choose_scheme(schemes).is_some())
    }
}

#[derive(Debug)]
struct OfConnection {
    by_name: Arc<ByName>,
    server_name: String,
}

impl Coverage for OfConnection {
    fn covers(&self, host: &str) -> bool {
        let mine = || self.by_name.named(&self.server_name);
        host == self.server_name || self.by_name.named(host).iter().any(|place| mine().contains(place))
    }
}

/// Whether a certificate with these names is good for `name`, which may begin with `*.` itself.
pub(super) fn is_covered(name: &str, names: &[String]) -> bool {
    let parent = name.split_once('.').map(|(_, parent)| parent);
    names.iter().any(|own| own == name || own.strip_prefix("*.").is_some_and(|covered| parent == Some(covered)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ListenerCertificate;
    use crate::secret::Secret;
    use crate::time::{Clock, Timestamp};

    fn shown(names: &[&str], algorithm: &'static rcgen::SignatureAlgorithm) -> Arc<Shown> {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let chain = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap().pem();
        let key = Secret::new(key.serialize_pem().into_bytes());
        let now: Timestamp = Clock::System.now();
        Arc::new(Shown::new(&ListenerCertificate { chain, key, names: None }, now).unwrap())
    }

    const P256: &rcgen::SignatureAlgorithm = &rcgen::PKCS_ECDSA_P256_SHA256;

    fn place(by_name: &ByName, name: Option<&str>, fits: impl Fn(&CertifiedKey) -> bool) -> Option<usize> {
        let chosen = by_name.choose(name, fits)?;
        by_name.certificates.iter().position(|it| Arc::ptr_eq(&it.key, &chosen))
    }

    #[test]
    fn a_name_chooses_and_a_wildcard_is_one_label() {
        let all = || {
            vec![
                shown(&["first.example"], P256),
                shown(&["*.shop.example", "shop.example"], P256),
                shown(&["Admin.shop.example"], P256),
            ]
        };
        let (lenient, strict) = (ByName::new(all(), false), ByName::new(all(), true));
        for (name, lenient_choice, strict_choice) in [
            (Some("first.example"), Some(0), Some(0)),
            (Some("shop.example"), Some(1), Some(1)),
            (Some("www.shop.example"), Some(1), Some(1)),
            (Some("admin.shop.example"), Some(2), Some(2)),
            (Some("a.b.shop.example"), Some(0), None),
            (Some(".shop.example"), Some(1), Some(1)),
            (Some("other.example"), Some(0), None),
            (Some("example"), Some(0), None),
            (Some(""), Some(0), None),
            (None, Some(0), None),
        ] {
            assert_eq!(place(&lenient, name, |_| true), lenient_choice, "{name:?}");
            assert_eq!(place(&strict, name, |_| true), strict_choice, "{name:?}");
        }
    }

    #[test]
    fn of_two_for_one_name_the_client_gets_what_it_can_check() {
        let all = vec![shown(&["shop.example"], P256), shown(&["shop.example"], &rcgen::PKCS_ED25519)];
        let by_name = ByName::new(all, false);
        let ed25519 = |key: &CertifiedKey| key.key.choose_scheme(&[rustls::SignatureScheme::ED25519]).is_some();
        assert_eq!(place(&by_name, Some("shop.example"), |_| true), Some(0));
        assert_eq!(place(&by_name, Some("shop.example"), ed25519), Some(1));
        assert_eq!(place(&by_name, Some("shop.example"), |_| false), None);
    }

    #[test]
    fn a_connection_is_good_for_what_its_certificate_is_for() {
        let all = vec![shown(&["a.example", "b.example"], P256), shown(&["*.shop.example"], P256)];
        let by_name = Arc::new(ByName::new(all, true));
        for (server_name, host, wanted) in [
            ("a.example", "a.example", true),
            ("A.example", "b.example", true),
            ("a.example", "x.shop.example", false),
            ("x.shop.example", "y.shop.example", true),
            ("x.shop.example", "b.example", false),
            ("x.shop.example", "", false),
        ] {
            assert_eq!(by_name.coverage(server_name).covers(host), wanted, "{server_name} {host}");
        }
    }

    #[test]
    fn names_are_those_of_the_certificate_or_fewer() {
        let own = ["*.example".to_owned(), "a.b.example".to_owned()];
        for (name, wanted) in [
            ("x.example", true),
            ("*.example", true),
            ("a.b.example", true),
            ("c.b.example", false),
            ("*.b.example", false),
            ("example", false),
        ] {
            assert_eq!(is_covered(name, &own), wanted, "{name}");
        }
    }
}
