//! The JSON Schema of the file: what editors complete and check with, and what `check` walks.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use serde_json::Value;

use super::raw::Root;

/// The JSON Schema (draft 2020-12) of a configuration file.
#[must_use]
pub fn schema() -> Value {
    SchemaSettings::draft2020_12()
        .with_transform(RecursiveTransform(WithoutNull))
        .into_generator()
        .into_root_schema_for::<Root>()
        .to_value()
}

/// Takes `null` out of every type: a key without a value is a mistake, the way to leave something
/// unsaid is to leave the key out.
#[derive(Clone, Debug)]
struct WithoutNull;

impl Transform for WithoutNull {
    fn transform(&mut self, schema: &mut Schema) {
        let Some(object) = schema.as_object_mut() else { return };
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|name| name != "null");
            if let [one] = types.as_slice() {
                let one = one.clone();
                object.insert("type".to_owned(), one);
            }
        }
        if let Some(Value::Array(alternatives)) = object.get_mut("anyOf") {
            alternatives.retain(|alternative| alternative.get("type").is_none_or(|name| name != "null"));
            if alternatives.len() == 1
                && let Some(Value::Object(one)) = alternatives.pop()
            {
                object.remove("anyOf");
                for (key, value) in one {
                    object.entry(key).or_insert(value);
                }
            }
        }
        // The width of an integer is ours, not the reader's; `minimum` and `maximum` say it all.
        if object.get("type").is_some_and(|name| name == "integer") {
            object.remove("format");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `visit` with every schema object within `schema`.
    fn walk(schema: &Value, visit: &mut impl FnMut(&Value)) {
        match schema {
            Value::Object(members) => {
                visit(schema);
                members.values().for_each(|value| walk(value, visit));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(value, visit)),
            _ => {}
        }
    }

    #[test]
    fn nothing_may_be_null_and_nothing_may_be_unknown() {
        let schema = schema();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert!(!schema.to_string().contains("null"), "{schema:#}");
        walk(&schema, &mut |part| {
            if part.get("properties").is_some_and(|properties| properties.get("type").is_none()) {
                assert_eq!(part["additionalProperties"], false, "{part:#}");
            }
        });
    }

    #[test]
    fn the_committed_schema_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/portcullis.schema.json");
        let fresh = format!("{:#}\n", schema());
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(path, &fresh).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == fresh, "config/portcullis.schema.json is stale; run the test with UPDATE_SCHEMA=1");
    }
}
