//! The formula: from what the user database says of a subject to its key and its fingerprint.
//!
//! A login service computes the same from the same inputs (`docs/per-subject-keys.md`; test vectors in
//! `docs/per-subject-vectors.json`). Both results hang on the base secret, which is in no database: who
//! reads the user table can neither sign nor search for a password with a fingerprint.

use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Most columns of one credential; more are refused, for nobody means them.
pub const COLUMNS_MAX: usize = 16;

/// The longest column, in bytes; a longer one is refused. A password hash has some hundred.
pub const COLUMN_BYTES_MAX: usize = 16 * 1024;

/// The longest subject that is looked for, in bytes; a longer one is nobody's. No longer one fits into a
/// session either.
pub const SUBJECT_BYTES_MAX: usize = 1024;

/// The HKDF salt of keys: keeps them apart from whatever else the base secret is used for.
const KEY_SALT: &[u8] = b"portcullis/t5/1";

/// The HKDF salt of fingerprints: one says nothing of the key.
const FINGERPRINT_SALT: &[u8] = b"portcullis/t5/cfp/1";

/// Bytes of a derived key: those of HS256 (RFC 7518 §3.2).
const KEY_BYTES: usize = 32;

/// Bytes of a fingerprint: not to be met by chance, and short in a token.
const FINGERPRINT_BYTES: usize = 16;

/// What stands for the length of a column that is NULL, so that it is not the empty text.
const NULL: [u8; 4] = [0xFF; 4];

/// What the user database says of one subject: the text of each column, in order; `None` is NULL.
///
/// Wiped when dropped, and not to be printed.
pub struct Columns(Vec<Option<Zeroizing<String>>>);

impl Columns {
    /// Takes the columns.
    ///
    /// # Errors
    /// [`ColumnsError`] when there are none, too many, or one is too long.
    pub fn new(columns: Vec<Option<Zeroizing<String>>>) -> Result<Self, ColumnsError> {
        if columns.is_empty() || columns.len() > COLUMNS_MAX {
            return Err(ColumnsError::Count(columns.len()));
        }
        match columns.iter().flatten().any(|column| column.len() > COLUMN_BYTES_MAX) {
            true => Err(ColumnsError::TooLong),
            false => Ok(Self(columns)),
        }
    }

    /// Reads a JSON array of texts and nulls.
    ///
    /// # Errors
    /// [`ColumnsError`], which does not repeat what was read.
    pub fn from_json(json: &[u8]) -> Result<Self, ColumnsError> {
        Self::of_texts(serde_json::from_slice(json).map_err(|_| ColumnsError::Json)?)
    }

    /// As [`Self::new`], of texts that are wiped from now on.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(super) fn of_texts(columns: Vec<Option<String>>) -> Result<Self, ColumnsError> {
        Self::new(columns.into_iter().map(|column| column.map(Zeroizing::new)).collect())
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Columns({})", self.0.len())
    }
}

/// Why columns are not taken. Read as "failed to read the columns: {self}".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnsError {
    /// None, or more than [`COLUMNS_MAX`].
    #[error("{0} columns, and 1 to {COLUMNS_MAX} are needed")]
    Count(usize),
    /// Not an array of texts and nulls.
    #[error("not a JSON array of texts and nulls")]
    Json,
    /// One is longer than [`COLUMN_BYTES_MAX`].
    #[error("a column is longer than {COLUMN_BYTES_MAX} bytes")]
    TooLong,
}

/// How the key of a subject is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derive {
    /// HKDF-SHA256 (RFC 5869) over issuer, subject and columns.
    Hkdf,
    /// The base secret, and after it the one column: what login services have that were not made for this.
    Concat,
}

/// Why a subject has no key, although it is known. Read as "failed to derive the key: {self}".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeriveError {
    /// `concat` puts one column behind the secret, and which of several is not said.
    #[error("`derive: concat` needs exactly one column, and there are {0}")]
    NotOneColumn(usize),
    /// `concat` with nothing behind the secret: everybody without a password would have one key.
    #[error("the column is NULL or empty, which leaves the base secret alone")]
    NoPasswordHash,
    /// The library failed.
    #[error("HKDF failed")]
    Failed,
}

/// Derives the keys and fingerprints of one issuer's subjects.
pub struct Derivation {
    how: Derive,
    issuer: String,
    /// Kept for `concat` alone.
    base: Option<Secret>,
    keys: Prk,
    fingerprints: Prk,
}

impl Derivation {
    /// The derivation of the issuer whose `iss` is `issuer`.
    #[must_use]
    pub fn new(base: &Secret, how: Derive, issuer: &str) -> Self {
        let extract = |salt| Salt::new(HKDF_SHA256, salt).extract(base.expose());
        Self {
            how,
            issuer: issuer.to_owned(),
            base: (how == Derive::Concat).then(|| base.clone()),
            keys: extract(KEY_SALT),
            fingerprints: extract(FINGERPRINT_SALT),
        }
    }

    /// The HMAC key of a subject.
    ///
    /// # Errors
    /// See [`DeriveError`].
    pub fn key(&self, subject: &str, columns: &Columns) -> Result<Secret, DeriveError> {
        let Some(base) = &self.base else { return self.expand(&self.keys, subject, columns, KEY_BYTES) };
        match columns.0.as_slice() {
            [Some(hash)] if !hash.is_empty() => Ok(Secret::new([base.expose(), hash.as_bytes()].concat())),
            [_] => Err(DeriveError::NoPasswordHash),
            several => Err(DeriveError::NotOneColumn(several.len())),
        }
    }

    /// The credential fingerprint (`cfp`) of a subject: changes whenever a column does, and says nothing
    /// about any. The same for both ways to make a key.
    ///
    /// # Errors
    /// [`DeriveError::Failed`].
    pub fn fingerprint(&self, subject: &str, columns: &Columns) -> Result<Box<str>, DeriveError> {
        let bytes = self.expand(&self.fingerprints, subject, columns, FINGERPRINT_BYTES)?;
        Ok(URL_SAFE_NO_PAD.encode(bytes.expose()).into())
    }

    fn expand(&self, prk: &Prk, subject: &str, columns: &Columns, length: usize) -> Result<Secret, DeriveError> {
        let info = self.info(subject, columns);
        let mut bytes = Zeroizing::new(vec![0; length]);
        prk.expand(&[&info], Length(length))
            .and_then(|material| material.fill(&mut bytes))
            .map_err(|_| DeriveError::Failed)?;
        Ok(Secret::new(std::mem::take(&mut *bytes)))
    }

    /// Issuer, subject and columns, each behind its length, so that no two lists run together into one
    /// text: ("ab", "c") is not ("a", "bc").
    fn info(&self, subject: &str, columns: &Columns) -> Zeroizing<Vec<u8>> {
        let texts = || [Some(self.issuer.as_str()), Some(subject)].into_iter().chain(columns.texts());
        let mut info = Zeroizing::new(Vec::with_capacity(texts().map(|it| 4 + it.map_or(0, str::len)).sum()));
        for text in texts() {
            match text {
                // Far below 2^32 by the bounds above; an issuer's length is that of a line of configuration.
                Some(text) => {
                    info.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX - 1).to_be_bytes());
                    info.extend_from_slice(text.as_bytes());
                }
                None => info.extend_from_slice(&NULL),
            }
        }
        info
    }
}

impl Columns {
    fn texts(&self) -> impl Iterator<Item = Option<&str>> {
        self.0.iter().map(|column| column.as_ref().map(|text| text.as_str()))
    }
}

impl fmt::Debug for Derivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derivation").field("how", &self.how).field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// How many bytes HKDF is asked for.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    const VECTORS: &str = include_str!("../../../docs/per-subject-vectors.json");

    #[derive(Deserialize)]
    struct Vectors {
        vectors: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        name: String,
        derive: String,
        base_secret_hex: String,
        issuer: String,
        subject: String,
        columns: Vec<Option<String>>,
        key_hex: String,
        cfp: String,
    }

    fn columns(texts: &[Option<&str>]) -> Columns {
        Columns::new(texts.iter().map(|text| text.map(|text| Zeroizing::new(text.to_owned()))).collect()).unwrap()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    fn derivation(how: Derive) -> Derivation {
        Derivation::new(&Secret::new(vec![7; 32]), how, "https://a.example/")
    }

    #[test]
    fn keys_and_fingerprints_are_those_of_the_published_vectors() {
        let vectors: Vectors = serde_json::from_str(VECTORS).unwrap();
        assert!(vectors.vectors.len() >= 6);
        for vector in vectors.vectors {
            let how = match vector.derive.as_str() {
                "hkdf" => Derive::Hkdf,
                "concat" => Derive::Concat,
                other => panic!("{other}"),
            };
            let base = Secret::new(unhex(&vector.base_secret_hex));
            let derivation = Derivation::new(&base, how, &vector.issuer);
            let columns = Columns::new(vector.columns.into_iter().map(|it| it.map(Zeroizing::new)).collect()).unwrap();
            let key = derivation.key(&vector.subject, &columns).unwrap();
            assert_eq!(hex(key.expose()), vector.key_hex, "{}", vector.name);
            assert_eq!(*derivation.fingerprint(&vector.subject, &columns).unwrap(), *vector.cfp, "{}", vector.name);
        }
    }

    #[test]
    fn whatever_differs_gives_another_key_and_another_fingerprint() {
        let one = derivation(Derive::Hkdf);
        let other = Derivation::new(&Secret::new(vec![7; 32]), Derive::Hkdf, "https://b.example/");
        let mut seen = std::collections::HashSet::new();
        let cases: [(&Derivation, &str, &[Option<&str>]); 11] = [
            (&one, "ada", &[Some("hash")]),
            (&other, "ada", &[Some("hash")]),
            (&one, "bob", &[Some("hash")]),
            (&one, "ada", &[Some("hash2")]),
            (&one, "ada", &[Some("hash"), None]),
            (&one, "ada", &[Some("hash"), Some("")]),
            (&one, "ada", &[None, Some("hash")]),
            (&one, "ada", &[Some("ha"), Some("sh")]),
            (&one, "ada", &[None]),
            (&one, "ada", &[Some("")]),
            (&one, "adahash", &[Some("")]),
        ];
        for (derivation, subject, texts) in cases {
            let columns = columns(texts);
            let key = derivation.key(subject, &columns).unwrap();
            let fingerprint = derivation.fingerprint(subject, &columns).unwrap();
            assert!(seen.insert(hex(key.expose())), "{subject} {texts:?}");
            assert!(seen.insert(fingerprint.to_string()), "{subject} {texts:?}");
            assert_eq!(fingerprint.len(), 22);
        }
    }

    #[test]
    fn concat_is_the_secret_and_one_hash_behind_it_or_nothing() {
        let concat = derivation(Derive::Concat);
        let key = concat.key("ada", &columns(&[Some("$2b$12$x")])).unwrap();
        assert_eq!(key.expose(), [&[7; 32][..], b"$2b$12$x"].concat());
        for (texts, error) in [
            (&[None][..], DeriveError::NoPasswordHash),
            (&[Some("")], DeriveError::NoPasswordHash),
            (&[Some("a"), Some("b")], DeriveError::NotOneColumn(2)),
            (&[Some("a"), None], DeriveError::NotOneColumn(2)),
        ] {
            assert_eq!(concat.key("ada", &columns(texts)).unwrap_err(), error, "{texts:?}");
        }
    }

    #[test]
    fn columns_are_bounded_and_not_printed() {
        let text = |length: usize| Some(Zeroizing::new("x".repeat(length)));
        assert_eq!(Columns::new(Vec::new()).unwrap_err(), ColumnsError::Count(0));
        assert!(Columns::new(vec![None; COLUMNS_MAX]).is_ok());
        assert_eq!(Columns::new(vec![None; COLUMNS_MAX + 1]).unwrap_err(), ColumnsError::Count(COLUMNS_MAX + 1));
        let longest = Columns::new(vec![text(COLUMN_BYTES_MAX)]).unwrap();
        assert!(derivation(Derive::Hkdf).key("ada", &longest).is_ok());
        assert_eq!(Columns::new(vec![text(COLUMN_BYTES_MAX + 1)]).unwrap_err(), ColumnsError::TooLong);
        assert_eq!(format!("{:?}", columns(&[Some("secret"), None])), "Columns(2)");
        assert_eq!(Columns::from_json(br#"["a", null, ""]"#).unwrap().count(), 3);
        for bad in [r#"{"a": 1}"#, r#"["a", 1]"#, r#""a""#, "[", "[[]]"] {
            assert_eq!(Columns::from_json(bad.as_bytes()).unwrap_err(), ColumnsError::Json, "{bad}");
        }
    }
}
