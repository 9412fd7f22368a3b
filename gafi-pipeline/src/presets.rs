//! The compiled-in presets.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::config::PipelineConfig;
use crate::overrides::{merge, parse_toml};
use crate::usage::Usage;

/// The presets: name and TOML. One that extends another names it in its first key, `extends`.
pub const PRESETS: [(&str, &str); 10] = [
    ("quickstart", include_str!("../presets/quickstart.toml")),
    ("gafi-plus", include_str!("../presets/gafi-plus.toml")),
    ("cpu", include_str!("../presets/cpu.toml")),
    ("gpu", include_str!("../presets/gpu.toml")),
    ("paper-fashion-mnist", include_str!("../presets/paper-fashion-mnist.toml")),
    ("paper-cifar10", include_str!("../presets/paper-cifar10.toml")),
    ("paper-cifar100", include_str!("../presets/paper-cifar100.toml")),
    ("paper-cinic10", include_str!("../presets/paper-cinic10.toml")),
    ("paper-dermamnist", include_str!("../presets/paper-dermamnist.toml")),
    ("smoke", include_str!("../presets/smoke.toml")),
];

/// What presets share that is no preset by itself.
const BASES: [(&str, &str); 1] = [("paper", include_str!("../presets/paper.toml"))];

const EXTENDS: &str = "extends";

/// The default configuration with the preset `name` laid over it, as a tree.
///
/// # Errors
/// [`Usage`] listing the presets, for an unknown name.
pub fn preset(name: Option<&str>) -> Result<Value> {
    let Some(name) = name else { return Ok(serde_json::to_value(PipelineConfig::default())?) };
    let text = PRESETS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text).ok_or_else(|| {
        let known = PRESETS.map(|(name, _)| name).join(", ");
        Usage(format!("no preset {name:?}; expected one of {known}"))
    })?;
    tree(text)
}

fn tree(text: &str) -> Result<Value> {
    let mut own = parse_toml(text)?;
    let base = own.as_object_mut().and_then(|own| own.remove(EXTENDS));
    let mut tree = match base.as_ref().and_then(Value::as_str) {
        None => preset(None)?,
        Some(base) => {
            let text = PRESETS.iter().chain(&BASES).find(|(known, _)| *known == base).map(|(_, text)| *text);
            tree(text.with_context(|| format!("a preset extends {base:?}, which does not exist"))?)?
        }
    };
    merge(&mut tree, own);
    Ok(tree)
}
