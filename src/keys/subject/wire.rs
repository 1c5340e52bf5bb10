//! How a subject goes into a query, and how a column comes out of it.

use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, Kind, ToSql, Type, to_sql_checked};
use uuid::Uuid;
use zeroize::Zeroizing;

/// A subject as a bind parameter, of whatever type the query compares it with.
#[derive(Debug)]
pub(super) enum Subject<'a> {
    Int2(i16),
    Int4(i32),
    Int8(i64),
    Text(&'a str),
    Uuid(Uuid),
}

impl<'a> Subject<'a> {
    /// Whether a parameter of this type can be a subject.
    pub(super) fn is_taken_by(kind: &Type) -> bool {
        matches!(*kind, Type::INT2 | Type::INT4 | Type::INT8 | Type::UUID) || Text::is_in(kind)
    }

    /// The subject as a value of this type; `None` when it is not the one spelling of one, so that `42` and
    /// `042` are not both the subject of a row.
    pub(super) fn new(subject: &'a str, kind: &Type) -> Option<Self> {
        let found = match *kind {
            Type::INT2 => Self::Int2(subject.parse().ok()?),
            Type::INT4 => Self::Int4(subject.parse().ok()?),
            Type::INT8 => Self::Int8(subject.parse().ok()?),
            Type::UUID => Self::Uuid(subject.parse().ok()?),
            // PostgreSQL has no text with a NUL in it.
            _ if subject.contains('\0') => return None,
            _ => return Some(Self::Text(subject)),
        };
        let spelled = match &found {
            Self::Int2(number) => number.to_string(),
            Self::Int4(number) => number.to_string(),
            Self::Int8(number) => number.to_string(),
            Self::Uuid(id) => id.hyphenated().to_string(),
            Self::Text(text) => (*text).to_owned(),
        };
        (spelled == subject).then_some(found)
    }
}

impl ToSql for Subject<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Int2(number) => number.to_sql(kind, out),
            Self::Int4(number) => number.to_sql(kind, out),
            Self::Int8(number) => number.to_sql(kind, out),
            Self::Text(text) => {
                out.extend_from_slice(text.as_bytes());
                Ok(IsNull::No)
            }
            Self::Uuid(id) => {
                out.extend_from_slice(id.as_bytes());
                Ok(IsNull::No)
            }
        }
    }

    fn accepts(kind: &Type) -> bool {
        Self::is_taken_by(kind)
    }

    to_sql_checked!();
}

/// A column that is text, wiped when dropped.
pub(super) struct Text(pub(super) Zeroizing<String>);

impl Text {
    /// Whether a column of this type is text and has one spelling: of the others, how a value is written
    /// hangs on who asks.
    pub(super) fn is_in(kind: &Type) -> bool {
        match kind.kind() {
            Kind::Enum(_) => true,
            Kind::Domain(base) => Self::is_in(base),
            _ => {
                matches!(*kind, Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN)
                    || kind.name() == "citext"
            }
        }
    }
}

impl<'a> FromSql<'a> for Text {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(Zeroizing::new(std::str::from_utf8(raw)?.to_owned())))
    }

    fn accepts(kind: &Type) -> bool {
        Self::is_in(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_the_one_spelling_of_a_value_or_nobody() {
        let id = "6f1c0b3a-58a5-4a0e-8d7e-3b0f1f6a9d21";
        for (kind, subject, good) in [
            (Type::TEXT, "42", true),
            (Type::TEXT, "'; DROP TABLE users; --", true),
            (Type::TEXT, "", true),
            (Type::VARCHAR, "J\u{fc}rgen", true),
            (Type::TEXT, "a\0b", false),
            (Type::INT8, "42", true),
            (Type::INT8, "-42", true),
            (Type::INT8, "042", false),
            (Type::INT8, "+42", false),
            (Type::INT8, " 42", false),
            (Type::INT8, "42 OR 1=1", false),
            (Type::INT8, "9223372036854775808", false),
            (Type::INT4, "2147483648", false),
            (Type::INT4, "2147483647", true),
            (Type::INT2, "32768", false),
            (Type::INT2, "7", true),
            (Type::UUID, id, true),
            (Type::UUID, "6F1C0B3A-58A5-4A0E-8D7E-3B0F1F6A9D21", false),
            (Type::UUID, "6f1c0b3a58a54a0e8d7e3b0f1f6a9d21", false),
            (Type::UUID, "42", false),
        ] {
            assert_eq!(Subject::new(subject, &kind).is_some(), good, "{kind} {subject:?}");
        }
    }

    #[test]
    fn only_types_with_one_spelling_are_taken() {
        for (kind, column, parameter) in [
            (Type::TEXT, true, true),
            (Type::VARCHAR, true, true),
            (Type::BPCHAR, true, true),
            (Type::INT8, false, true),
            (Type::UUID, false, true),
            (Type::BYTEA, false, false),
            (Type::TIMESTAMPTZ, false, false),
            (Type::FLOAT8, false, false),
            (Type::BOOL, false, false),
            (Type::JSONB, false, false),
            (Type::TEXT_ARRAY, false, false),
        ] {
            assert_eq!(Text::is_in(&kind), column, "{kind}");
            assert_eq!(Subject::is_taken_by(&kind), parameter, "{kind}");
        }
    }
}
