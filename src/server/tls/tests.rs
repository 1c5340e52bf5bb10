use super::*;
use crate::config::{ClientAuth, ListenerCertificate, ListenerTls, TlsVersion};
use crate::secret::Secret;

/// A certificate that is valid in the seconds between two instants.
fn made(from: i64, to: i64) -> (String, Secret) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut certificate = rcgen::CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
    let at = |secs| std::time::UNIX_EPOCH + Duration::from_secs(u64::try_from(secs).unwrap());
    certificate.not_before = at(from).into();
    certificate.not_after = at(to).into();
    (certificate.self_signed(&key).unwrap().pem(), Secret::new(key.serialize_pem().into_bytes()))
}

fn spec((certificate, key): (String, Secret)) -> ListenerTls {
    let certificates = vec![ListenerCertificate { chain: certificate, key, names: None }];
    ListenerTls { certificates, strict_sni: false, min_version: TlsVersion::Tls12, clients: None, http2: true }
}

fn listener(tls: Option<ListenerTls>) -> Listener {
    Listener { address: "127.0.0.1:0".parse().unwrap(), tls, h2c: false }
}

fn judged(spec: &ListenerTls, secs: i64) -> String {
    let made = prepare(&[], &[listener(Some(spec.clone()))], Timestamp::from_secs(secs));
    made.map_or_else(|unusable| unusable.error.to_string(), |_| "good".to_owned())
}

#[test]
fn a_certificate_is_good_from_its_first_second_to_its_last() {
    let spec = spec(made(1_000_000, 2_000_000));
    for (secs, wanted) in [
        (999_999, "it is not valid before 1970-01-12T13:46:40Z"),
        (1_000_000, "good"),
        (2_000_000, "good"),
        (2_000_001, "it expired at 1970-01-24T03:33:21Z"),
    ] {
        assert_eq!(judged(&spec, secs), wanted, "{secs}");
    }
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let (one, other) = (made(1, 100), made(1, 100));
    let text = |text: &str| Secret::new(text.as_bytes().to_vec());
    let mismatch = "the key does not belong to the certificate, or is of no use with it";
    let clients = |pem: &str| Some((pem.to_owned(), ClientAuth::Required));
    let authorities = "the authorities in `client_ca` cannot be used";
    for (spec, wanted) in [
        (spec((one.0.clone(), other.1.clone())), mismatch),
        (spec((String::new(), one.1.clone())), "the certificate file has no PEM certificate"),
        (
            spec(("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(), one.1.clone())),
            "the certificate file has no PEM certificate",
        ),
        (spec((one.0.clone(), text(&one.0))), "the key file has no unencrypted PEM private key"),
        (ListenerTls { clients: clients(""), ..spec(one.clone()) }, authorities),
        (ListenerTls { clients: clients(&other.0), ..spec(one.clone()) }, "good"),
    ] {
        assert_eq!(judged(&spec, 50), wanted);
    }
}

#[test]
fn a_certificate_is_shown_for_its_own_names_alone() {
    let mut spec = spec(made(1, 100));
    for (name, wanted) in
        [("shop.example", "good"), ("other.example", "it is not for `other.example`, which is in `names`")]
    {
        spec.certificates[0].names = Some(vec![name.to_owned()]);
        assert_eq!(judged(&spec, 50), wanted);
    }
}

#[test]
fn what_is_in_force_is_taken_over_whatever_its_age() {
    let (first, second) = (spec(made(1, 100)), spec(made(1, 100)));
    let at = Timestamp::from_secs;
    let made = prepare(&[], &[listener(None), listener(Some(first.clone()))], at(50)).unwrap();
    assert!(made[0].is_none());
    let in_force = [made[1].clone().unwrap()];
    let kept = prepare(&in_force, &[listener(Some(first.clone()))], at(500)).unwrap();
    assert!(Arc::ptr_eq(kept[0].as_ref().unwrap(), &in_force[0]));
    let stricter = ListenerTls { strict_sni: true, ..first.clone() };
    assert!(prepare(&in_force, &[listener(Some(stricter))], at(500)).is_ok());
    let both = ListenerTls { certificates: [first.certificates, second.certificates].concat(), ..second };
    let refused = prepare(&in_force, &[listener(Some(both))], at(500)).unwrap_err();
    assert!(matches!((refused.error, refused.certificate), (CertificateError::Expired(_), Some(2))));
}

/// Sessions are resumed with the key of the tickets: whether it is kept is whether they are.
#[test]
fn sessions_outlive_a_new_certificate_and_no_change_of_who_may_come() {
    let (first, second, authority) = (spec(made(1, 100)), spec(made(1, 100)), made(1, 100).0);
    let asking = |auth| ListenerTls { clients: Some((authority.clone(), auth)), ..first.clone() };
    let mut in_force: Vec<Arc<Identity>> = Vec::new();
    for (spec, kept) in [
        (first.clone(), false),
        (second, true),
        (ListenerTls { strict_sni: true, ..first.clone() }, true),
        (asking(ClientAuth::Optional), false),
        (asking(ClientAuth::Required), false),
        (first.clone(), false),
    ] {
        let made = prepare(&in_force, &[listener(Some(spec.clone()))], Timestamp::from_secs(50)).unwrap();
        let made = made[0].clone().unwrap();
        let same = |before: &Arc<Identity>| Arc::ptr_eq(&before.config().ticketer, &made.config().ticketer);
        assert_eq!(in_force.first().is_some_and(same), kept, "{spec:?}");
        in_force = vec![made];
    }
}
