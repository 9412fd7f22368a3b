//! A verb's configuration: defaults, then `--config`, then flags and `--set`.
//!
//! A flag such as `--std` is short for one key. It is applied like `--set`, so a verb knows which keys were set explicitly.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use gafi_pipeline::Usage;
use gafi_pipeline::overrides::{merge, read_toml, set};
use serde::Serialize;
use serde_json::{Value, json};

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ConfigArgs {
    /// Read the configuration from this TOML file
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set one key of the configuration (KEY may be a path such as classifier.lr), or remove it with KEY=unset; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Seed of all random numbers; short for --set seed=N
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Check configuration and inputs, print the resolved configuration, and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Keys that were set by flags.
#[derive(Debug, Default)]
pub(crate) struct FlagKeys {
    set: Vec<FlagKey>,
    cleared: Vec<&'static str>,
}

#[derive(Debug)]
struct FlagKey {
    flag: String,
    key: String,
    value: Value,
}

impl FlagKeys {
    /// The keys that a struct of flags sets: it serializes each flag under its dotted key, whose last part is the flag's name.
    ///
    /// # Errors
    /// [`Usage`] for a value that TOML cannot hold, such as a path that is not Unicode.
    pub(crate) fn of(flags: &impl Serialize) -> Result<Self> {
        // As TOML, which leaves out flags that were not given. JSON has null for them, and for a NaN, which must not be ignored.
        let given = toml::Table::try_from(flags).map_err(|e| {
            Usage(format!("a flag has a value that cannot be used: {e} (whole numbers go up to {})", i64::MAX))
        })?;
        let set = given.into_iter().map(|(key, value)| {
            let name = key.rsplit('.').next().unwrap_or_default().replace('_', "-");
            FlagKey { flag: format!("--{name}"), key, value: json!(value) }
        });
        Ok(Self { set: set.collect(), cleared: Vec::new() })
    }

    /// Sets the dotted `key` if the flag was given.
    pub(crate) fn set(mut self, flag: &str, key: &str, value: Option<impl Serialize>) -> Self {
        self.set.extend(value.map(|value| FlagKey { flag: flag.into(), key: key.into(), value: json!(value) }));
        self
    }

    /// Unsets `key`, whatever the defaults and the file have. `--set` may still set it.
    pub(crate) fn clear(mut self, key: &'static str) -> Self {
        self.cleared.push(key);
        self
    }
}

/// A configuration, and which keys of it were set explicitly.
#[derive(Debug)]
pub(crate) struct Configuration {
    /// The whole configuration as a tree.
    pub(crate) tree: Value,
    file: Value,
    keys: Vec<String>,
}

impl ConfigArgs {
    /// Merges file, flags and `--set` over `defaults`, in this order.
    ///
    /// # Errors
    /// [`Usage`] for a file that cannot be read, a malformed `--set`, or a flag and a `--set` for the same key.
    pub(crate) fn resolve(&self, defaults: Value, flags: FlagKeys) -> Result<Configuration> {
        let flags = flags.set("--seed", "seed", self.seed);
        let assigned: Vec<&str> = self.set.iter().map(|assignment| key_of(assignment)).collect();
        for FlagKey { flag, key, .. } in &flags.set {
            if let Some(at) = assigned.iter().position(|other| covers(other, key) || covers(key, other)) {
                let assignment = &self.set[at];
                bail!(Usage(format!("{flag} and --set {assignment} set the same key; use only one of them")));
            }
        }
        let mut tree = defaults;
        let file = self.config.as_deref().map(read_toml).transpose()?.unwrap_or_default();
        if !file.is_null() {
            merge(&mut tree, file.clone());
        }
        for key in &flags.cleared {
            merge(&mut tree, nested(key, Value::Null));
        }
        for FlagKey { key, value, .. } in &flags.set {
            merge(&mut tree, nested(key, value.clone()));
        }
        for assignment in &self.set {
            set(&mut tree, assignment)?;
        }
        let by_flag = flags.set.iter().map(|flag| flag.key.as_str());
        let keys = assigned.iter().copied().chain(by_flag).map(str::to_string).collect();
        Ok(Configuration { tree, file, keys })
    }
}

impl Configuration {
    /// Whether a file, a flag or `--set` sets `key`. Setting a table by `--set` sets all of its keys.
    pub(crate) fn is_explicit(&self, key: &str) -> bool {
        let in_file = || self.file.pointer(&format!("/{}", key.replace('.', "/"))).is_some_and(|v| !v.is_object());
        self.keys.iter().any(|set| covers(set, key)) || in_file()
    }
}

/// `value` under the dotted `key`, as a tree.
pub(crate) fn nested(key: &str, value: Value) -> Value {
    key.rsplit('.').fold(value, |value, key| json!({ key: value }))
}

fn key_of(assignment: &str) -> &str {
    assignment.split('=').next().unwrap_or_default().trim()
}

/// Whether `table` is `key`, or a table that contains it.
fn covers(table: &str, key: &str) -> bool {
    key.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(set: &[&str]) -> ConfigArgs {
        ConfigArgs { set: set.iter().map(ToString::to_string).collect(), ..ConfigArgs::default() }
    }

    #[test]
    fn flags_and_set_lay_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        std::fs::write(&file, "std = 2.0\n[classifier]\nlr = 0.1\nepochs = 3\n").unwrap();
        let args = ConfigArgs { config: Some(file), seed: Some(7), ..args(&["classifier.lr=0.5"]) };
        let flags = FlagKeys::default().set("--std", "std", Some(1.5)).set("--steps", "steps", None::<u64>);
        let found = args.resolve(json!({"std": 1.0, "seed": 0}), flags.clear("path")).unwrap();
        let expected = json!({"std": 1.5, "seed": 7, "path": null, "classifier": {"lr": 0.5, "epochs": 3}});
        assert_eq!(found.tree, expected);
        for (key, explicit) in [("std", true), ("seed", true), ("classifier.epochs", true), ("classifier", false)] {
            assert_eq!(found.is_explicit(key), explicit, "{key}");
        }
        assert!(!found.is_explicit("steps") && !found.is_explicit("path"));
    }

    #[test]
    fn a_flag_and_a_set_of_the_same_key_conflict() {
        let epochs = || FlagKeys::default().set("--epochs", "classifier.epochs", Some(3));
        for assignment in ["classifier.epochs=4", "classifier={ lr = 0.1 }", " classifier.epochs = 3"] {
            let error = args(&[assignment]).resolve(json!({}), epochs()).unwrap_err();
            let text = error.to_string();
            assert!(error.is::<Usage>() && text.contains("--epochs") && text.contains(assignment), "{text}");
        }
        args(&["classifier.epochs_of=4"]).resolve(json!({}), epochs()).unwrap();
    }

    #[test]
    fn setting_a_table_sets_all_of_its_keys() {
        let found = args(&["data={ fit = \"pad\" }"]).resolve(json!({}), FlagKeys::default()).unwrap();
        assert!(found.is_explicit("data.fit") && found.is_explicit("data.size") && !found.is_explicit("database"));
    }
}
