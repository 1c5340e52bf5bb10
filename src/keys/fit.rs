//! Whether key material is fit to be trusted with signatures.
//!
//! Judged when loaded, because afterwards a weak key looks like any other.

use crate::secret::Secret;
use crate::token::{Algorithm, Family};

/// The curves of RFC 7518 that we know. Ed25519 has its own kind of [`Material`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
}

impl Curve {
    /// The `crv` value.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
        }
    }

    /// Bytes of one coordinate.
    pub(super) const fn coordinate_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }
}

/// The numbers a key consists of, whatever text they came from.
pub(super) enum Material {
    /// An uncompressed point (SEC 1 §2.3.3): `04`, x, y.
    Ec { curve: Curve, point: Vec<u8> },
    /// An Ed25519 public key (RFC 8032 §5.1.5).
    Ed { point: Vec<u8> },
    /// Modulus and exponent, big-endian, without leading zeros.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// An HMAC key.
    Secret(Secret),
}

/// Why a key is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// `alg` does not belong to the key's type and curve.
    #[error("its `alg` does not fit its type or curve")]
    AlgorithmMismatch,
    /// Its `alg`, or each algorithm that fits it, is not among those allowed.
    #[error("no allowed algorithm fits it")]
    AlgorithmNotAllowed,
    /// `alg` is none that we know.
    #[error("its `alg` is not known")]
    AlgorithmUnknown,
    /// `crv` is none that we know.
    #[error("its curve is not known")]
    Curve,
    /// The RSA exponent is even or below 65537 (FIPS 186-5 §5.1). With 1 anybody can sign.
    #[error("its RSA exponent is even or less than 65537")]
    Exponent,
    /// A member is absent, of the wrong type, or not in its canonical spelling.
    #[error("its `{0}` is missing or malformed")]
    Member(&'static str),
    /// The RSA modulus does not have 2048 to 8192 bits, or is even.
    #[error("its RSA modulus does not have 2048 to 8192 bits")]
    Modulus,
    /// `use` or `key_ops` say that it does not verify signatures.
    #[error("it is not meant for verifying signatures")]
    NotForSignatures,
    /// The point is not on the curve, or not in its canonical spelling.
    #[error("its point is not on its curve")]
    Point,
    /// The private half is there. Whoever published it has lost it.
    #[error("it contains its private half")]
    Private,
    /// The modulus was made by the broken generator of CVE-2017-15361, and can be factored.
    #[error("its RSA modulus bears the mark of ROCA (CVE-2017-15361)")]
    Roca,
    /// The secret is shorter than the algorithm's hash (RFC 7518 §3.2).
    #[error("it is shorter than the {0} bytes its algorithm needs")]
    SecretTooShort(usize),
    /// The Ed25519 point has small order: there are signatures that it verifies over anything.
    #[error("its point has small order")]
    SmallOrder,
    /// A secret where only public keys belong.
    #[error("a secret does not belong in a published key set")]
    Symmetric,
    /// `kty` is none that we know.
    #[error("its key type is not known")]
    Type,
}

impl Material {
    /// What kind of key it is.
    pub(super) fn family(&self) -> Family {
        match self {
            Self::Ec { .. } => Family::Ec,
            Self::Ed { .. } => Family::Ed,
            Self::Rsa { .. } => Family::Rsa,
            Self::Secret(_) => Family::Hmac,
        }
    }

    /// Whether keys of this type and curve are what the algorithm is made for.
    pub(super) fn suits(&self, algorithm: Algorithm) -> bool {
        match (self, algorithm) {
            (Self::Ec { curve, .. }, Algorithm::ES256) => *curve == Curve::P256,
            (Self::Ec { curve, .. }, Algorithm::ES384) => *curve == Curve::P384,
            _ => self.family() == algorithm.family(),
        }
    }

    /// Judges the numbers by themselves. Whether a point of an NIST curve is on it, the library
    /// judges when the key is parsed.
    pub(super) fn judge(&self) -> Result<(), Unfit> {
        match self {
            Self::Ec { .. } | Self::Secret(_) => Ok(()),
            Self::Ed { point } => judge_ed25519(point),
            Self::Rsa { n, e } => judge_rsa(n, e),
        }
    }

    /// Judges the length of a secret for one algorithm (RFC 7518 §3.2).
    pub(super) fn judge_for(&self, algorithm: Algorithm) -> Result<(), Unfit> {
        let needed = match algorithm {
            Algorithm::HS256 => 32,
            Algorithm::HS384 => 48,
            Algorithm::HS512 => 64,
            _ => return Ok(()),
        };
        match self {
            Self::Secret(secret) if secret.len() < needed => Err(Unfit::SecretTooShort(needed)),
            _ => Ok(()),
        }
    }
}

fn judge_rsa(n: &[u8], e: &[u8]) -> Result<(), Unfit> {
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
    if !(2048..=8192).contains(&bits) || !is_odd(n) {
        return Err(Unfit::Modulus);
    }
    // Two bytes are at most 65535, and the only odd number of three bytes below 65537 does not exist.
    if e.len() < 3 || e.first() == Some(&0) || !is_odd(e) {
        return Err(Unfit::Exponent);
    }
    if bears_roca_mark(n) { Err(Unfit::Roca) } else { Ok(()) }
}

/// The primes whose residues betray the generator of CVE-2017-15361.
const ROCA_PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109,
    113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];

/// Whether the modulus is a power of 65537 modulo every one of the primes: true of every modulus that
/// the broken generator made (Nemec et al., "The Return of Coppersmith's Attack", §3), and of another
/// one in about 2^27.
fn bears_roca_mark(n: &[u8]) -> bool {
    ROCA_PRIMES.iter().all(|prime| {
        let residue = n.iter().fold(0, |residue, byte| (residue * 256 + u32::from(*byte)) % prime);
        let mut power = 1;
        for _ in 0..*prime {
            if power == residue {
                return true;
            }
            power = power * 65537 % prime;
        }
        false
    })
}

/// The y coordinates, little-endian, of the eight Ed25519 points of small order: 0 (order 4), 1 (the
/// neutral element), p - 1 (order 2) and the two of order 8.
const SMALL_ORDER_Y: [[u8; 32]; 5] = [
    [0; 32],
    y_of(1, 0, 0),
    y_of(0xec, 0xff, 0x7f),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

/// 2^255 - 19, little-endian: the modulus of the field.
const FIELD: [u8; 32] = y_of(0xed, 0xff, 0x7f);

/// A number by its lowest byte, the thirty above it, and its highest.
const fn y_of(lowest: u8, middle: u8, highest: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    bytes[0] = lowest;
    bytes[31] = highest;
    bytes
}

/// Refuses points of small order and y coordinates that are not reduced, which are second spellings
/// of a point. A y coordinate that belongs to no point verifies nothing, so it is let be.
fn judge_ed25519(point: &[u8]) -> Result<(), Unfit> {
    let mut y: [u8; 32] = point.try_into().map_err(|_| Unfit::Member("x"))?;
    y[31] &= 0x7f;
    if y.iter().rev().ge(FIELD.iter().rev()) {
        return Err(Unfit::Point);
    }
    if SMALL_ORDER_Y.contains(&y) { Err(Unfit::SmallOrder) } else { Ok(()) }
}
