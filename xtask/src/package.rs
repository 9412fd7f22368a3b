//! Packages every crate for crates.io and checks the unpacked packages: their metadata, their files, and that they compile.
//!
//! `cargo package` would compile each package with all its dependencies anew. Here the packages form a workspace with the profiles and the
//! lock file of this one, so the dependencies that clippy has checked are reused.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde_json::Value;
use toml::Table;

use crate::shell;

/// What a page on crates.io needs.
const METADATA: [&str; 5] = ["description", "license", "readme", "keywords", "categories"];
const FILES: [&str; 3] = ["LICENSE-APACHE", "LICENSE-MIT", "README.md"];

/// Packages the crates below `target`, cargo's target folder, and compiles the packages with `features`.
pub(crate) fn check(target: &Path, features: &str) -> Result<()> {
    let metadata = shell::metadata(&["--no-deps"])?;
    let packages: Vec<&Value> = metadata["packages"].as_array().into_iter().flatten().collect();
    let (published, private): (Vec<&Value>, Vec<&Value>) = packages.iter().partition(|package| is_published(package));
    let names = |of: &[&Value]| -> Vec<String> {
        of.iter().filter_map(|package| package["name"].as_str().map(str::to_owned)).collect()
    };
    let mut missing: Vec<String> = published.iter().flat_map(|package| gaps(package)).collect();

    let mut package = shell::cargo();
    // Uncommitted files are packaged too: this step also runs before a commit.
    package.args(["package", "--workspace", "--no-verify", "--allow-dirty"]);
    shell::run(package.args(names(&private).iter().flat_map(|name| ["--exclude", name.as_str()])))?;

    let folder = target.join("packages");
    shell::empty_folder(&folder)?;
    for package in &published {
        let (Some(name), Some(version)) = (package["name"].as_str(), package["version"].as_str()) else { continue };
        let archive = target.join("package").join(format!("{name}-{version}.crate"));
        shell::run(Command::new("tar").current_dir(&folder).arg("-xzf").arg(archive))?;
        let unpacked = folder.join(format!("{name}-{version}"));
        fs::rename(&unpacked, folder.join(name)).with_context(|| format!("{} is missing", unpacked.display()))?;
        let absent = FILES.iter().filter(|file| !folder.join(name).join(file).is_file());
        missing.extend(absent.map(|file| format!("{name}: no {file} in the package")));
    }
    shell::report(&missing, "gaps in the packages")?;

    let root = fs::read_to_string(shell::root().join("Cargo.toml")).context("cannot read Cargo.toml")?;
    fs::write(folder.join("Cargo.toml"), workspace(&root, &names(&published))?).context("cannot write a workspace")?;
    fs::copy(shell::root().join("Cargo.lock"), folder.join("Cargo.lock")).context("cannot copy Cargo.lock")?;
    let mut check = shell::cargo();
    check.current_dir(&folder).args(["check", "--workspace", "--all-targets", features, "--target-dir"]).arg(target);
    shell::run(&mut check)
}

/// Whether `package` may be published: `publish = false` is an empty list of registries.
fn is_published(package: &Value) -> bool {
    package["publish"].as_array().is_none_or(|registries| !registries.is_empty())
}

/// The metadata that `package` lacks.
fn gaps(package: &Value) -> Vec<String> {
    let empty = |value: &Value| {
        value.as_str().map_or(value.as_array().is_none_or(|list| list.is_empty()), |text| text.trim().is_empty())
    };
    let lacks = METADATA.iter().filter(|key| empty(&package[**key]));
    lacks.map(|key| format!("{}: no {key} in Cargo.toml", package["name"])).collect()
}

/// The manifest of a workspace of the unpacked packages `names`, which use each other instead of those on crates.io, with the profiles of `root`.
fn workspace(root: &str, names: &[String]) -> Result<String> {
    let root: Table = root.parse().context("parsing Cargo.toml")?;
    let path = |name: &String| (name.clone(), Table::from_iter([("path".into(), name.clone().into())]).into());
    let crates_io: Table = names.iter().map(path).collect();
    let members = Table::from_iter([("resolver".into(), "3".into()), ("members".into(), names.to_vec().into())]);
    let mut workspace = Table::from_iter([("workspace".into(), members.into())]);
    workspace.insert("patch".into(), Table::from_iter([("crates-io".into(), crates_io.into())]).into());
    workspace.extend(root.get("profile").map(|profile| ("profile".into(), profile.clone())));
    Ok(workspace.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn gaps_are_found() {
        let whole = json!({
            "name": "a", "description": "A.", "license": "MIT", "readme": "README.md", "keywords": ["a"], "categories": ["science"],
        });
        assert_eq!(gaps(&whole), [""; 0]);
        for (key, value) in [("readme", Value::Null), ("keywords", json!([])), ("description", json!(" "))] {
            let mut package = whole.clone();
            package[key] = value;
            assert_eq!(gaps(&package), [format!("\"a\": no {key} in Cargo.toml")]);
        }
    }

    #[test]
    fn private_crates_are_left_out() {
        assert!(is_published(&json!({"publish": null})));
        assert!(is_published(&json!({"publish": ["crates-io"]})));
        assert!(!is_published(&json!({"publish": []})));
    }

    #[test]
    fn packages_use_each_other_with_the_profiles_of_the_workspace() {
        let root = "[workspace]\nmembers = [\"a\", \"xtask\"]\n[profile.dev]\nopt-level = 3\n";
        let made: Table = workspace(root, &["a".into()]).unwrap().parse().unwrap();
        assert_eq!(made["workspace"]["members"].as_array().unwrap().len(), 1);
        assert_eq!(made["patch"]["crates-io"]["a"]["path"].as_str(), Some("a"));
        assert_eq!(made["profile"]["dev"]["opt-level"].as_integer(), Some(3));
    }
}
