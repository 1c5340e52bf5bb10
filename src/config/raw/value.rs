//! Values that have more than one spelling.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use crate::token::Algorithm;

/// A signature algorithm (RFC 7518 §3.1, RFC 8037).
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(in crate::config) struct AlgorithmName(pub(in crate::config) String);

impl JsonSchema for AlgorithmName {
    fn schema_name() -> Cow<'static, str> {
        "Algorithm".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names = Algorithm::ALL.map(Algorithm::name);
        json_schema!({
            "description": "A signature algorithm (RFC 7518 §3.1, RFC 8037).",
            "type": "string",
            "enum": names
        })
    }
}

/// A time span with its units, such as `500ms`, `30s`, `15m` or `1h 30m`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("examples" = ["30s", "15m", "1h 30m"]))]
pub(in crate::config) struct Duration(pub(in crate::config) String);

/// A size in bytes: a whole number, or one with a unit such as `8KiB`, `1MiB` or `100MB`.
#[derive(Debug)]
pub(in crate::config) enum Size {
    Bytes(u64),
    Text(String),
}

/// A number of worker threads, or `auto`.
#[derive(Debug)]
pub(in crate::config) enum Workers {
    Count(u64),
    Auto,
}

/// A number from 2 on, or `none`.
#[derive(Debug)]
pub(in crate::config) enum Count {
    Of(u64),
    None,
}

/// A number from 1 on, or `none`.
#[derive(Debug)]
pub(in crate::config) enum Limit {
    Of(u64),
    None,
}

/// A number from 1 on, up to many, or `none`.
#[derive(Debug)]
pub(in crate::config) enum Bound {
    Of(u64),
    None,
}

impl JsonSchema for Bound {
    fn schema_name() -> Cow<'static, str> {
        "Bound".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How many at most, or `none`: as many as come.",
            "anyOf": [
                { "type": "string", "const": "none" },
                { "type": "integer", "minimum": 1, "maximum": 1_000_000_000 }
            ]
        })
    }
}

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(_) => Ok(Self::None),
            value => u64::deserialize(value).map(Self::Of).map_err(serde::de::Error::custom),
        }
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A size in bytes: a whole number, or one with a unit.",
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "examples": ["8KiB", "1MiB", "100MB"] }
            ]
        })
    }
}

impl JsonSchema for Workers {
    fn schema_name() -> Cow<'static, str> {
        "Workers".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of worker threads, or `auto`.",
            "anyOf": [{ "type": "string", "const": "auto" }, { "type": "integer", "minimum": 1, "maximum": 1024 }]
        })
    }
}

impl JsonSchema for Count {
    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of requests, or `none`.",
            "anyOf": [
                { "type": "string", "const": "none" },
                { "type": "integer", "minimum": 2, "maximum": 4_294_967_295_u64 }
            ]
        })
    }
}

impl JsonSchema for Limit {
    fn schema_name() -> Cow<'static, str> {
        "Limit".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How many at most, or `none`.",
            "anyOf": [
                { "type": "string", "const": "none" },
                { "type": "integer", "minimum": 1, "maximum": 1000 }
            ]
        })
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(_) => Ok(Self::None),
            value => u64::deserialize(value).map(Self::Of).map_err(serde::de::Error::custom),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Self::Text(text)),
            value => u64::deserialize(value).map(Self::Bytes).map_err(serde::de::Error::custom),
        }
    }
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(_) => Ok(Self::Auto),
            value => u64::deserialize(value).map(Self::Count).map_err(serde::de::Error::custom),
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(_) => Ok(Self::None),
            value => u64::deserialize(value).map(Self::Of).map_err(serde::de::Error::custom),
        }
    }
}

/// Text in a short form, or a mapping in the long form.
#[derive(Debug)]
pub(in crate::config) enum Either<Short, Long> {
    Short(Short),
    Long(Long),
}

impl<Short: JsonSchema, Long: JsonSchema> JsonSchema for Either<Short, Long> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}Or{}", Short::schema_name(), Long::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [generator.subschema_for::<Short>(), generator.subschema_for::<Long>()] })
    }
}

impl<'de, Short, Long> Deserialize<'de> for Either<Short, Long>
where
    Short: for<'any> Deserialize<'any>,
    Long: for<'any> Deserialize<'any>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let value = serde_json::Value::deserialize(deserializer)?;
        if value.is_object() {
            Long::deserialize(value).map(Self::Long).map_err(D::Error::custom)
        } else {
            Short::deserialize(value).map(Self::Short).map_err(D::Error::custom)
        }
    }
}
