//! One JSON Web Key (RFC 7517, RFC 7518 §6, RFC 8037 §2), read and judged.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::Unfit;
use super::fit::{Curve, Material};
use crate::secret::Secret;
use crate::token::Algorithm;

/// Members of a private key (RFC 7518 §6.2.2, §6.3.2).
const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

/// A key that was published, and what its owner says it is for. Members that carry or point to
/// certificates (`x5c`, `x5u`, `x5t`) say nothing that counts here.
pub(super) struct Jwk {
    pub(super) material: Material,
    /// `alg`, when it is there; it fits the material.
    pub(super) algorithm: Option<Algorithm>,
}

impl Jwk {
    /// Reads one member of `keys`. With `symmetric`, `kty: oct` is a key like any other.
    pub(super) fn read(members: &Map<String, Value>, symmetric: bool) -> Result<Self, Unfit> {
        let kty = text(members, "kty")?.ok_or(Unfit::Member("kty"))?;
        key_id(members)?;
        for_signatures(members)?;
        let algorithm = match text(members, "alg")? {
            None => None,
            Some(name) => Some(name.parse::<Algorithm>().map_err(|_| Unfit::AlgorithmUnknown)?),
        };
        let material = match kty {
            "oct" if symmetric => Material::Secret(Secret::new(bytes(members, "k")?)),
            "oct" => return Err(Unfit::Symmetric),
            "EC" | "OKP" | "RSA" if PRIVATE.iter().any(|name| members.contains_key(*name)) => {
                return Err(Unfit::Private);
            }
            "EC" => ec(members)?,
            "OKP" => ed(members)?,
            "RSA" => Material::Rsa { n: number(members, "n")?, e: number(members, "e")? },
            _ => return Err(Unfit::Type),
        };
        if algorithm.is_some_and(|algorithm| !material.suits(algorithm)) {
            return Err(Unfit::AlgorithmMismatch);
        }
        material.judge()?;
        Ok(Self { material, algorithm })
    }
}

/// The `kid`, when there is one.
pub(super) fn key_id(members: &Map<String, Value>) -> Result<Option<&str>, Unfit> {
    text(members, "kid")
}

/// Whether `use` and `key_ops` (RFC 7517 §4.2, §4.3) let the key verify.
fn for_signatures(members: &Map<String, Value>) -> Result<(), Unfit> {
    if text(members, "use")?.is_some_and(|usage| usage != "sig") {
        return Err(Unfit::NotForSignatures);
    }
    match members.get("key_ops") {
        None => Ok(()),
        Some(Value::Array(operations)) => {
            if operations.iter().any(|operation| operation == "verify") {
                return Ok(());
            }
            Err(Unfit::NotForSignatures)
        }
        Some(_) => Err(Unfit::Member("key_ops")),
    }
}

fn ec(members: &Map<String, Value>) -> Result<Material, Unfit> {
    let curve = match text(members, "crv")?.ok_or(Unfit::Member("crv"))? {
        "P-256" => Curve::P256,
        "P-384" => Curve::P384,
        _ => return Err(Unfit::Curve),
    };
    let mut point = vec![4];
    for name in ["x", "y"] {
        // Every coordinate has the full length of the field (RFC 7518 §6.2.1.2).
        let coordinate = bytes(members, name)?;
        if coordinate.len() != curve.coordinate_bytes() {
            return Err(Unfit::Member(name));
        }
        point.extend(coordinate);
    }
    Ok(Material::Ec { curve, point })
}

fn ed(members: &Map<String, Value>) -> Result<Material, Unfit> {
    if text(members, "crv")?.ok_or(Unfit::Member("crv"))? != "Ed25519" {
        return Err(Unfit::Curve);
    }
    Ok(Material::Ed { point: bytes(members, "x")? })
}

fn text<'a>(members: &'a Map<String, Value>, name: &'static str) -> Result<Option<&'a str>, Unfit> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Unfit::Member(name)),
    }
}

fn bytes(members: &Map<String, Value>, name: &'static str) -> Result<Vec<u8>, Unfit> {
    let text = text(members, name)?.ok_or(Unfit::Member(name))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Unfit::Member(name))
}

/// A number in as few bytes as it needs (RFC 7518 §2, Base64urlUInt). A leading zero would give one
/// key two thumbprints.
fn number(members: &Map<String, Value>, name: &'static str) -> Result<Vec<u8>, Unfit> {
    let bytes = bytes(members, name)?;
    if bytes.first().is_none_or(|first| *first == 0) { Err(Unfit::Member(name)) } else { Ok(bytes) }
}
