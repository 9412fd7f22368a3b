//! JSON schemas of the configurations, for editors and for the comments that `init` writes. Both come from the configuration
//! structs, so a key is described once, by its doc comment.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value;

/// The schema of a configuration file for `C`, in draft 7, which editors' TOML plugins read.
pub(crate) fn of<C: JsonSchema>() -> Value {
    let mut schema = SchemaGenerator::new(SchemaSettings::draft07()).into_root_schema_for::<C>().to_value();
    clean(&mut schema);
    schema
}

/// Removes rustdoc links from descriptions.
fn clean(node: &mut Value) {
    match node {
        Value::Object(fields) => {
            if let Some(Value::String(text)) = fields.get_mut("description") {
                *text = text.replace("[`", "`").replace("`]", "`").replace("crate::", "");
            }
            fields.values_mut().for_each(clean);
        }
        Value::Array(items) => items.iter_mut().for_each(clean),
        _ => {}
    }
}

/// The schema from which a configuration file is written. It describes the serialized form, because its `required`
/// lists every key in the order of the code; the schema for reading a file has no such order.
pub(crate) struct Guide(Value);

impl Guide {
    /// The guide of configuration `C`.
    pub(crate) fn of<C: JsonSchema>() -> Self {
        let settings = SchemaSettings::draft07().for_serialize();
        let mut schema = SchemaGenerator::new(settings).into_root_schema_for::<C>().to_value();
        clean(&mut schema);
        Self(schema)
    }

    /// The schema of the whole configuration.
    pub(crate) fn root(&self) -> &Value {
        &self.0
    }

    /// Follows references, and the type inside an `Option`.
    pub(crate) fn resolve<'a>(&'a self, node: &'a Value) -> &'a Value {
        let one = |list: &'a Value| list.as_array()?.iter().find(|item| item["type"] != "null");
        // `Option<T>` is anyOf T and null.
        let is_option = |list: &Value| list.as_array().is_some_and(|all| all.iter().any(|item| item["type"] == "null"));
        let inner = match node["$ref"].as_str() {
            Some(path) => self.0.pointer(path.trim_start_matches('#')),
            None if node["allOf"].is_array() => one(&node["allOf"]),
            None if is_option(&node["anyOf"]) => one(&node["anyOf"]),
            None => None,
        };
        inner.map_or(node, |inner| self.resolve(inner))
    }

    /// The keys of a table with their schemas, in the order of the code; empty if `node` is not a table.
    pub(crate) fn keys<'a>(&'a self, node: &'a Value) -> Vec<(&'a str, &'a Value)> {
        let node = self.resolve(node);
        let Some(fields) = node["properties"].as_object() else { return Vec::new() };
        let ordered: Vec<&str> = node["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let rest = fields.keys().map(String::as_str).filter(|key| !ordered.contains(key));
        ordered.iter().copied().chain(rest).filter_map(|key| Some((key, fields.get(key)?))).collect()
    }

    /// The variants of an enum, or of a list's items; empty if `node` is neither.
    pub(crate) fn alternatives<'a>(&'a self, node: &'a Value) -> &'a [Value] {
        let node = self.resolve(node);
        match (node["oneOf"].as_array(), &node["items"]) {
            (Some(all), _) => all,
            (None, Value::Null) => &[],
            (None, items) => self.resolve(items)["oneOf"].as_array().map_or(&[], Vec::as_slice),
        }
    }
}

#[cfg(test)]
mod tests {
    use gafi_core::ImageSpec;
    use serde_json::json;

    use super::*;
    use crate::Registry;
    use gafi_pipeline::PipelineConfig;

    /// Visits every key of every table.
    fn each(node: &Value, seen: &mut impl FnMut(&str, &Value)) {
        if let Some(fields) = node["properties"].as_object() {
            fields.iter().for_each(|(key, schema)| seen(key, schema));
        }
        match node {
            Value::Object(fields) => fields.values().for_each(|field| each(field, seen)),
            Value::Array(items) => items.iter().for_each(|item| each(item, seen)),
            _ => {}
        }
    }

    #[test]
    fn every_key_of_every_configuration_is_described() {
        let registry = Registry::standard();
        let mut schemas = vec![("pipeline", of::<PipelineConfig>()), ("import", of::<gafi_data::ImportConfig>())];
        schemas.extend(registry.stages().map(|kind| (kind.name, kind.schema.clone().expect(kind.name))));
        for (name, schema) in &schemas {
            let mut keys = 0;
            each(schema, &mut |key, schema| {
                keys += 1;
                let text = schema["description"].as_str().unwrap_or_default();
                assert!(!text.is_empty() || schema["const"].is_string(), "{name}: {key} has no description");
                assert!(!text.contains("[`"), "{name}: {key}: {text}");
            });
            assert!(keys > 0 || *name == "evaluate", "{name}");
        }
    }

    #[test]
    fn keys_keep_the_order_of_the_code() {
        let guide = Guide::of::<PipelineConfig>();
        let keys = |node| guide.keys(node).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(guide.root())[..5], ["seed", "data", "teacher", "gan", "student"]);
        let gan = &guide.root()["properties"]["gan"];
        assert_eq!(keys(gan)[..4], ["architecture", "seed", "length", "checkpoints"]);
        let architecture = &guide.resolve(gan)["properties"]["architecture"];
        let variants = guide.alternatives(architecture);
        assert_eq!(keys(&variants[0]), ["name", "ch", "depth", "z", "shared"]);
    }

    /// The ends of each key's range below `node`: (path, value, whether the value is allowed).
    fn ends(guide: &Guide, node: &Value, path: &str, found: &mut Vec<(String, Value, bool)>) {
        for (key, schema) in guide.keys(node) {
            let path = format!("{path}/{key}");
            let of = guide.resolve(schema);
            for (bound, outside) in [("minimum", -1.0), ("maximum", 1.0)] {
                let whole = of["type"] == "integer" || of["type"][0] == "integer";
                // Unsigned integers start at 0 anyway.
                if let Some(end) = of[bound].as_f64().filter(|&end| !(whole && end == 0.0)) {
                    found.push((path.clone(), of[bound].clone(), true));
                    let beyond = end + outside;
                    found.push((path.clone(), if whole { json!(beyond as i64) } else { json!(beyond) }, false));
                }
            }
            for bound in ["exclusiveMinimum", "exclusiveMaximum"] {
                found.extend((!of[bound].is_null()).then(|| (path.clone(), of[bound].clone(), false)));
            }
            ends(guide, of, &path, found);
        }
    }

    #[test]
    fn ranges_match_the_checks() {
        let allowed = |tree: Value| {
            let Ok(config) = serde_json::from_value::<PipelineConfig>(tree) else { return false };
            let networks = [config.teacher.check(), config.student.check()];
            let gan = config.gan.check(&ImageSpec::new(3, 32, 32), 10, 50_000);
            config.check().is_ok() && gan.is_ok() && networks.iter().all(Result::is_ok)
        };
        let mut config = PipelineConfig::default();
        config.data.set = Some(gafi_data::NamedSet::Shapes);
        config.student.distill = Some(gafi_nn::Distill::default());
        let guide = Guide::of::<PipelineConfig>();
        let tree = serde_json::to_value(&config).unwrap();
        let mut found = Vec::new();
        ends(&guide, guide.root(), "", &mut found);
        let mut checked = 0;
        for (path, value, inside) in found {
            let mut tree = tree.clone();
            // Skip absent tables, such as `teacher.ema`.
            let Some(place) = tree.pointer_mut(&path) else { continue };
            *place = value.clone();
            assert_eq!(allowed(tree), inside, "{path} = {value}");
            checked += 1;
        }
        assert!(checked > 80, "{checked}");
    }
}
