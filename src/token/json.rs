//! JSON objects (RFC 8259), read so that no two readers can understand them differently.
//!
//! A member that occurs twice is refused at every level, however its name is spelled: one parser
//! would take the first and another the last. Depth is bounded, so nothing recurses further than
//! [`DEPTH_MAX`]. Lone surrogates, numbers beyond an `f64`, a byte order mark and anything after the
//! object are refused by the reader below.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Objects and arrays within one another, the outermost included.
pub(crate) const DEPTH_MAX: u8 = 16;

/// How many members the outermost object is made room for at once; more are taken all the same.
const MEMBERS_USUAL: usize = 8;

/// Why bytes are not an object we read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonError {
    /// Not UTF-8 (RFC 8259 §8.1).
    #[error("not UTF-8")]
    NotUtf8,
    /// Not one JSON object, or one that we do not read: the reader says what and where.
    #[error(transparent)]
    Syntax(#[from] serde_json::Error),
}

/// Reads `bytes` as one JSON object and nothing else; white space around it is part of the grammar.
pub(crate) fn object(bytes: &[u8]) -> Result<Map<String, Value>, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|_| JsonError::NotUtf8)?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let object = reader.deserialize_map(Object { depth: DEPTH_MAX })?;
    reader.end()?;
    Ok(object)
}

/// One object, with `depth` levels left, its own included.
struct Object {
    depth: u8,
}

impl<'de> Visitor<'de> for Object {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let depth = self.depth.checked_sub(1).ok_or_else(too_deep)?;
        // The outermost object is a header or a set of claims; what is within is mostly absent or small.
        let mut object = Map::with_capacity(if self.depth == DEPTH_MAX { MEMBERS_USUAL } else { 0 });
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(Any { depth })?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a member occurs twice"));
            }
        }
        Ok(object)
    }
}

/// One value of any kind, within which `depth` levels are left.
#[derive(Clone, Copy)]
struct Any {
    depth: u8,
}

impl<'de> DeserializeSeed<'de> for Any {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let depth = self.depth.checked_sub(1).ok_or_else(too_deep)?;
        let mut array = Vec::new();
        while let Some(value) = elements.next_element_seed(Self { depth })? {
            array.push(value);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Value, A::Error> {
        Object { depth: self.depth }.visit_map(members).map(Value::Object)
    }
}

fn too_deep<E: Error>() -> E {
    E::custom(format_args!("more than {DEPTH_MAX} levels deep"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_reads_as_serde_reads_it() {
        let text = r#" {"a":1,"b":[true,null,-2,2.5,"x\u00e9"],"c":{"d":{}},"e":18446744073709551615} "#;
        let expected: Value = serde_json::from_str(text).unwrap();
        assert_eq!(Value::Object(object(text.as_bytes()).unwrap()), expected);
    }

    #[test]
    fn what_two_readers_could_understand_differently_is_refused() {
        for text in [
            "",
            "null",
            "[]",
            "\"{}\"",
            "{} {}",
            "{}x",
            "{}\0",
            "\u{feff}{}",
            "{\"a\":1,\"a\":1}",
            "{\"a\":1,\"\\u0061\":2}",
            "{\"o\":{\"a\":1,\"b\":2,\"a\":3}}",
            "{\"o\":[{\"a\":1,\"\\u0061\":3}]}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":\"\\udc00x\"}",
            "{\"\\ud800\":1}",
            "{\"a\":1e400}",
            "{\"a\":-1e400}",
            "{\"a\":NaN}",
            "{\"a\":01}",
            "{\"a\":1,}",
            "{'a':1}",
            "{\"a\":\"\n\"}",
        ] {
            assert!(object(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(object(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn sixteen_levels_are_read_and_seventeen_are_not() {
        let objects = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        let arrays = |levels: usize| format!("{{\"a\":{}1{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        for (levels, read) in [(1, true), (2, true), (16, true), (17, false), (200, false), (100_000, false)] {
            assert_eq!(object(objects(levels).as_bytes()).is_ok(), read, "{levels} objects");
            assert_eq!(object(arrays(levels).as_bytes()).is_ok(), read, "{levels} levels of arrays");
        }
    }
}
