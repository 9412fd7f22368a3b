//! Layers of a configuration: defaults, then a TOML file, then assignments `key=value`.
//!
//! They are merged as trees and parsed as the stage's configuration at the end, so an unknown key is an error in every layer.
//! The value `"unset"` removes a key of earlier layers, which then has its default.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::usage::Usage;

/// Longest configuration in bytes; presets have a few thousand.
const CONFIGURATION_MAX: u64 = 1 << 20;

/// Reads a TOML file as a tree.
///
/// # Errors
/// [`Usage`] naming file and line.
pub fn read_toml(path: &Path) -> Result<Value> {
    let text = gafi_core::read_text(path, CONFIGURATION_MAX)
        .map_err(|e| Usage(format!("cannot read {}: {e}", path.display())))?;
    parse_toml(&text).with_context(|| Usage(format!("{}: expected a configuration in TOML", path.display())))
}

/// Parses TOML text as a tree.
///
/// # Errors
/// [`Usage`] with line and column.
pub fn parse_toml(text: &str) -> Result<Value> {
    toml::from_str::<Value>(text).map_err(|e| Usage(e.to_string()).into())
}

/// Maximum number of keys of an assignment. No configuration is as deep, and walking a tree takes a stack frame for each.
const DEEPEST: usize = 32;

/// The value that removes a key.
const UNSET: &str = "unset";

/// Lays `over` over `base`: tables are merged key by key, anything else is replaced. A key with the value `"unset"` is removed.
pub fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        // A table of another variant replaces the old one, because the two may have different keys.
        (Value::Object(base), Value::Object(over)) if same_variant(base, &over) => {
            for (key, value) in over {
                if value == UNSET {
                    base.remove(&key);
                } else {
                    merge(base.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (base, Value::Object(over)) => {
            *base = Value::Object(Map::new());
            merge(base, Value::Object(over));
        }
        (base, over) => *base = over,
    }
}

/// Whether two tables may be merged: they agree in `name`, `kind` and unit, if both have them. The unit is that of lengths:
/// `{ steps = 7 }` replaces `{ epochs = 2 }`.
fn same_variant(base: &Map<String, Value>, over: &Map<String, Value>) -> bool {
    let unit = |table: &Map<String, Value>| ["steps", "epochs"].into_iter().find(|unit| table.contains_key(*unit));
    let agree = |tag: &&str| base.get(*tag).zip(over.get(*tag)).is_none_or(|(a, b)| a == b);
    ["name", "kind"].iter().all(agree) && unit(base).zip(unit(over)).is_none_or(|(a, b)| a == b)
}

/// Applies `a.b.c=value`. The value is parsed as TOML; if that fails, it is a string.
///
/// # Errors
/// [`Usage`] when there is no `=`, or `tree` is not a table.
pub fn set(tree: &mut Value, assignment: &str) -> Result<()> {
    let Some((path, text)) = assignment.split_once('=') else {
        return Err(Usage(format!("{assignment}: expected key=value")).into());
    };
    if path.split('.').count() > DEEPEST {
        let what = gafi_core::printable(path);
        return Err(Usage(format!("{what}: expected at most {DEEPEST} keys before the =, separated by dots")).into());
    }
    let mut over = match parse_toml(&format!("value = {text}")) {
        Ok(mut tree) => tree.get_mut("value").map_or(Value::Null, Value::take),
        Err(_) => Value::from(text),
    };
    for key in path.trim().rsplit('.') {
        over = Value::Object([(key.to_string(), over)].into_iter().collect());
    }
    if !tree.is_object() {
        return Err(Usage(format!("{assignment}: the configuration is not a table")).into());
    }
    merge(tree, over);
    Ok(())
}

/// Parses a tree as a configuration; `what` names it in errors.
///
/// # Errors
/// [`Usage`] naming the unknown key, or the value of another type.
pub fn resolve<T: DeserializeOwned>(tree: Value, what: &str) -> Result<T> {
    serde_json::from_value(tree).map_err(|e| Usage(format!("configuration of {what}: {e}")).into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn later_layers_win_and_tables_merge() {
        let mut tree = json!({"a": {"b": 1, "c": [1, 2]}, "d": true});
        merge(&mut tree, json!({"a": {"c": [3]}, "e": null}));
        assert_eq!(tree, json!({"a": {"b": 1, "c": [3]}, "d": true, "e": null}));
    }

    #[test]
    fn another_variant_replaces_the_table() {
        let mut tree = json!({"architecture": {"name": "biggan-deep", "depth": 2}});
        merge(&mut tree, json!({"architecture": {"name": "small"}}));
        assert_eq!(tree, json!({"architecture": {"name": "small"}}));
        merge(&mut tree, json!({"architecture": {"width": 3}}));
        assert_eq!(tree, json!({"architecture": {"name": "small", "width": 3}}));
        let mut tree = json!({"length": {"epochs": 500}, "every": {"epochs": 10}});
        merge(&mut tree, json!({"length": {"steps": 7}, "every": {"epochs": 20}}));
        assert_eq!(tree, json!({"length": {"steps": 7}, "every": {"epochs": 20}}));
    }

    #[test]
    fn a_key_can_be_unset() {
        let mut tree = json!({"data": {"val_per_class": 400, "size": 32}, "x": 1});
        set(&mut tree, "data.val_per_class=unset").unwrap();
        assert_eq!(tree, json!({"data": {"size": 32}, "x": 1}));
        merge(&mut tree, parse_toml("x = \"unset\"\n[new]\na = \"unset\"\nb = 2").unwrap());
        assert_eq!(tree, json!({"data": {"size": 32}, "new": {"b": 2}}));
    }

    #[test]
    fn assignments_parse_numbers_lists_and_words() {
        let mut tree = json!({});
        for a in ["gan.length.steps=2000", "search.stds=[1.0, 1.5]", "student.schedule=one-cycle", "x=true"] {
            set(&mut tree, a).unwrap();
        }
        assert_eq!(
            tree,
            json!({"gan": {"length": {"steps": 2000}}, "search": {"stds": [1.0, 1.5]}, "student": {"schedule": "one-cycle"}, "x": true})
        );
        assert!(set(&mut tree, "novalue").unwrap_err().is::<Usage>());
        let deep = format!("{}b=1", "a.".repeat(100_000));
        assert!(set(&mut tree, &deep).unwrap_err().to_string().contains("at most 32 keys"));
    }

    #[test]
    fn unknown_keys_are_named() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct One {
            #[expect(dead_code, reason = "only read by serde")]
            steps: u32,
        }
        let error = resolve::<One>(json!({"steps": 1, "stpes": 2}), "train-gan").unwrap_err();
        assert!(error.to_string().contains("stpes") && error.to_string().contains("train-gan"), "{error}");
    }
}
