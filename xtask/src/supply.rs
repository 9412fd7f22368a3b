//! Licences, sources and banned packages of all dependencies, by the rules of `deny.toml`.
//!
//! `cargo metadata` lists every package of `Cargo.lock`, for all platforms and features. cargo-deny applies the same file and
//! knows advisories as well, but takes minutes to install.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result};
use serde_json::Value;
use spdx::{Expression, ParseMode};

use crate::shell;

/// What `cargo metadata` calls crates.io, also where another host mirrors it.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks every package and reports all violations.
pub(crate) fn check() -> Result<()> {
    let path = shell::root().join("deny.toml");
    let rules = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let rules = Rules::parse(&rules).with_context(|| format!("in {}", path.display()))?;
    let metadata = shell::metadata(&["--all-features"])?;
    let packages = metadata["packages"].as_array().context("`cargo metadata` listed no packages")?;
    let broken: Vec<String> = packages.iter().flat_map(|package| rules.violations(package)).collect();
    shell::report(&broken, "violations of deny.toml")?;
    println!("   {} packages", packages.len());
    Ok(())
}

/// The rules of `deny.toml` that need nothing but metadata.
struct Rules {
    licences: BTreeSet<String>,
    /// Name and reason.
    banned: Vec<(String, String)>,
}

impl Rules {
    fn parse(text: &str) -> Result<Self> {
        let rules: toml::Table = text.parse()?;
        let list = |table: &str, key: &str| -> Result<Vec<toml::Value>> {
            let list = rules.get(table).and_then(|table| table.get(key)).and_then(toml::Value::as_array);
            Ok(list.with_context(|| format!("expected a list {table}.{key}"))?.clone())
        };
        let text = |value: &toml::Value, key: &str| -> Result<String> {
            let text = value.get(key).and_then(toml::Value::as_str);
            Ok(text.with_context(|| format!("expected {key} in {value}"))?.to_owned())
        };
        let licence = |value: &toml::Value| value.as_str().map(str::to_owned).context("expected the name of a licence");
        Ok(Self {
            licences: list("licenses", "allow")?.iter().map(licence).collect::<Result<_>>()?,
            banned: list("bans", "deny")?
                .iter()
                .map(|ban| Ok((text(ban, "name")?, text(ban, "reason")?)))
                .collect::<Result<_>>()?,
        })
    }

    fn violations(&self, package: &Value) -> Vec<String> {
        let text = |key: &str| package[key].as_str();
        let name = text("name").unwrap_or_default();
        let of = format!("{name} {}", text("version").unwrap_or_default());
        let mut broken = Vec::new();
        match text("license").map(|licence| (licence, Expression::parse_mode(licence, ParseMode::LAX))) {
            None => broken.push(format!("{of}: expected a licence, found none")),
            Some((licence, Err(_))) => broken.push(format!("{of}: {licence:?} is not an SPDX expression")),
            Some((licence, Ok(expression))) => {
                if !expression.evaluate(|needed| self.licences.contains(&needed.to_string())) {
                    broken.push(format!("{of}: licence {licence:?} is not allowed"));
                }
            }
        }
        // Packages of this workspace have no source.
        if let Some(source) = text("source")
            && source != CRATES_IO
        {
            broken.push(format!("{of}: expected a package of crates.io, found {source}"));
        }
        if let Some((_, reason)) = self.banned.iter().find(|(banned, _)| banned == name) {
            broken.push(format!("{of}: banned: {reason}"));
        }
        if text("source").is_none() {
            for on in package["dependencies"].as_array().into_iter().flatten() {
                if on["req"] == "*" && on["path"].is_null() {
                    broken.push(format!("{of}: expected a version of {}, found *", on["name"]));
                }
            }
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RULES: &str = r#"
        [licenses]
        allow = ["MIT", "Apache-2.0 WITH LLVM-exception"]
        [bans]
        deny = [{ name = "openssl-sys", reason = "use rustls" }]
    "#;

    #[test]
    fn violations_are_found() {
        let rules = Rules::parse(RULES).unwrap();
        let broken = |package: Value| rules.violations(&package);
        let base = json!({"name": "a", "version": "1.0.0", "license": "MIT", "source": CRATES_IO, "dependencies": []});
        let with = |key: &str, value: Value| {
            let mut package = base.clone();
            package[key] = value;
            package
        };
        assert!(broken(base.clone()).is_empty());
        for allowed in ["MIT OR GPL-3.0", "MIT/GPL-3.0", "Apache-2.0 WITH LLVM-exception"] {
            assert!(broken(with("license", json!(allowed))).is_empty(), "{allowed}");
        }
        for denied in ["GPL-3.0-only", "MIT AND GPL-3.0-only", "Apache-2.0", "my own"] {
            assert_eq!(broken(with("license", json!(denied))).len(), 1, "{denied}");
        }
        assert_eq!(broken(with("license", Value::Null)), ["a 1.0.0: expected a licence, found none"]);
        let source = "git+https://example.org/a";
        assert!(broken(with("source", json!(source)))[0].ends_with(source));
        assert_eq!(broken(with("name", json!("openssl-sys"))), ["openssl-sys 1.0.0: banned: use rustls"]);
        let mut own = with("dependencies", json!([{"name": "b", "req": "*"}, {"name": "c", "req": "*", "path": "c"}]));
        own["source"] = Value::Null;
        assert_eq!(broken(own).len(), 1);
    }

    #[test]
    fn rules_must_be_complete() {
        assert!(Rules::parse("[licenses]\nallow = []").is_err());
        assert!(Rules::parse("[licenses]\nallow = [1]\n[bans]\ndeny = []").is_err());
    }
}
