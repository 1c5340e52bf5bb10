//! A public key from a PEM file: a `PUBLIC KEY` (RFC 7468 §13), an `RSA PUBLIC KEY` (RFC 8017 A.1.1)
//! or the key of a `CERTIFICATE`, whose dates and issuer say nothing here: the operator chose the file.

use x509_parser::der_parser::oid::Oid;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::{PublicKey, RSAPublicKey};
use x509_parser::x509::SubjectPublicKeyInfo;

use super::Unfit;
use super::fit::{Curve, Material};

/// Reads the one key that the text holds.
pub(super) fn read(pem: &str) -> Result<Material, Unfit> {
    let mut blocks = Pem::iter_from_buffer(pem.as_bytes());
    let (Some(Ok(block)), None) = (blocks.next(), blocks.next()) else {
        return Err(Unfit::Member("PEM block"));
    };
    let material = match block.label.as_str() {
        "PUBLIC KEY" => spki(&block.contents),
        "RSA PUBLIC KEY" => match RSAPublicKey::from_der(&block.contents) {
            Ok(([], key)) => rsa(&key),
            _ => Err(Unfit::Member("RSAPublicKey")),
        },
        "CERTIFICATE" => match X509Certificate::from_der(&block.contents) {
            Ok(([], certificate)) => from_info(certificate.public_key()),
            _ => Err(Unfit::Member("certificate")),
        },
        label if label.ends_with("PRIVATE KEY") => Err(Unfit::Private),
        _ => Err(Unfit::Type),
    }?;
    material.judge()?;
    Ok(material)
}

/// Reads a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
pub(super) fn spki(der: &[u8]) -> Result<Material, Unfit> {
    match SubjectPublicKeyInfo::from_der(der) {
        Ok(([], info)) => from_info(&info),
        _ => Err(Unfit::Member("SubjectPublicKeyInfo")),
    }
}

fn from_info(info: &SubjectPublicKeyInfo<'_>) -> Result<Material, Unfit> {
    let kind = &info.algorithm.algorithm;
    let key = info.subject_public_key.data.as_ref();
    if *kind == OID_SIG_ED25519 {
        return Ok(Material::Ed { point: key.to_vec() });
    }
    if *kind == OID_PKCS1_RSAENCRYPTION {
        return match info.parsed() {
            Ok(PublicKey::RSA(key)) => rsa(&key),
            _ => Err(Unfit::Member("RSAPublicKey")),
        };
    }
    if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
        return ec(info.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok()).as_ref(), key);
    }
    Err(Unfit::Type)
}

fn ec(curve: Option<&Oid<'_>>, point: &[u8]) -> Result<Material, Unfit> {
    let curve = match curve {
        Some(oid) if *oid == OID_EC_P256 => Curve::P256,
        Some(oid) if *oid == OID_NIST_EC_P384 => Curve::P384,
        _ => return Err(Unfit::Curve),
    };
    // Uncompressed only: the thumbprint needs both coordinates.
    if point.len() != 1 + 2 * curve.coordinate_bytes() || point.first() != Some(&4) {
        return Err(Unfit::Point);
    }
    Ok(Material::Ec { curve, point: point.to_vec() })
}

fn rsa(key: &RSAPublicKey<'_>) -> Result<Material, Unfit> {
    // DER puts a zero before a number whose first bit is set.
    let minimal = |number: &[u8]| {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        number.get(zeros..).unwrap_or_default().to_vec()
    };
    Ok(Material::Rsa { n: minimal(key.modulus), e: minimal(key.exponent) })
}
