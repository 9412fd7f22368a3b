//! Allowed and forbidden dependencies, as two tables; `ARCHITECTURE.md` gives the reasons.
//!
//! Direct dependencies come from `cargo metadata`, indirect ones from `cargo tree`. Nothing is compiled.

use anyhow::Result;
use serde_json::Value;

use crate::shell;

/// The crates of this workspace that each crate may use, in its tests too.
const EDGES: [(&str, &[&str]); 18] = [
    ("gafi-core", &[]),
    ("gafi-pickle", &[]),
    ("gafi-data", &["gafi-core", "gafi-pickle"]),
    ("gafi-kernels", &[]),
    ("gafi-nn", &["gafi-core", "gafi-kernels"]),
    ("gafi-gan", &["gafi-core", "gafi-kernels", "gafi-nn", "gafi-pickle"]),
    ("gafi-expand", &["gafi-core"]),
    ("gafi-filter", &["gafi-core"]),
    ("gafi-recycle", &["gafi-core"]),
    ("gafi-audit", &["gafi-core"]),
    ("gafi-command", &["gafi-core"]),
    ("gafi-onnx", &["gafi-core"]),
    (
        "gafi-pipeline",
        &["gafi-core", "gafi-data", "gafi-nn", "gafi-gan", "gafi-expand", "gafi-filter", "gafi-recycle", "gafi-audit"],
    ),
    (
        "gafi-report",
        &[
            "gafi-core",
            "gafi-nn",
            "gafi-gan",
            "gafi-expand",
            "gafi-filter",
            "gafi-recycle",
            "gafi-audit",
            "gafi-pipeline",
        ],
    ),
    (
        "gafi-cli",
        &[
            "gafi-core",
            "gafi-data",
            "gafi-kernels",
            "gafi-nn",
            "gafi-gan",
            "gafi-expand",
            "gafi-filter",
            "gafi-recycle",
            "gafi-audit",
            "gafi-command",
            "gafi-onnx",
            "gafi-pipeline",
            "gafi-report",
        ],
    ),
    (
        "gafi-fuzz",
        &[
            "gafi-core",
            "gafi-data",
            "gafi-nn",
            "gafi-gan",
            "gafi-pickle",
            "gafi-recycle",
            "gafi-command",
            "gafi-onnx",
            "gafi-pipeline",
            "gafi-report",
            "gafi-cli",
        ],
    ),
    ("gafi-python", &["gafi-core", "gafi-nn", "gafi-expand", "gafi-filter", "gafi-recycle", "gafi-report", "gafi-cli"]),
    ("xtask", &[]),
];

/// The only dependencies of xtask, so that it builds in seconds.
const XTASK: [&str; 5] = ["anyhow", "clap", "serde_json", "spdx", "toml"];

const TENSORS: &[&str] = &["candle*", "cudarc", "gemm*", "tch", "ort", "tract*", "burn*", "ndarray", "nalgebra"];
/// Those that run networks. An audit computes with matrices, but its caller supplies the networks.
const FRAMEWORKS: &[&str] = &["candle*", "cudarc", "tch", "ort", "tract*", "burn*"];
const IMAGES: &[&str] = &["image", "image-*", "png", "zune-*", "jpeg-*", "gif", "tiff", "webp", "imageproc"];
const TABLES: &[&str] = &["parquet", "arrow*", "polars*"];
const NETWORK: &[&str] = &[
    "hf-hub",
    "reqwest",
    "ureq*",
    "hyper*",
    "tokio*",
    "rustls*",
    "native-tls",
    "openssl*",
    "curl*",
    "h2",
    "isahc",
    "attohttpc",
    "minreq",
];

/// What artifacts and stages need. A technique without its feature `stage` compiles none of it. Hashes are not listed,
/// because the random streams of `gafi-expand` need them.
const ARTIFACTS: &[&str] = &["rayon*", "safetensors", "memmap2", "tracing*", "tempfile"];

/// A rule: which packages a crate must not depend on.
struct Absence {
    package: &'static str,
    /// Cargo's option for features.
    features: &'static str,
    /// Whether dependencies of its tests count.
    tests_too: bool,
    never: &'static [&'static [&'static str]],
}

const ANY: &str = "--all-features";
const BARE: &str = "--no-default-features";
/// The features of a plain `cargo build`.
const PLAIN: &str = "--features=default";

/// The core and the three techniques use no framework, whatever the features. Network access is a feature.
#[rustfmt::skip]
const ABSENCES: [Absence; 13] = [
    Absence { package: "gafi-core", features: ANY, tests_too: true, never: &[TENSORS, IMAGES, TABLES, NETWORK] },
    Absence { package: "gafi-expand", features: ANY, tests_too: true, never: &[TENSORS, IMAGES, TABLES, NETWORK] },
    Absence { package: "gafi-filter", features: ANY, tests_too: true, never: &[TENSORS, IMAGES, TABLES, NETWORK] },
    Absence { package: "gafi-expand", features: BARE, tests_too: false, never: &[ARTIFACTS] },
    Absence { package: "gafi-filter", features: BARE, tests_too: false, never: &[ARTIFACTS, &["blake3", "rand*"]] },
    Absence { package: "gafi-recycle", features: ANY, tests_too: true, never: &[TENSORS, IMAGES, TABLES, NETWORK] },
    Absence { package: "gafi-audit", features: ANY, tests_too: true, never: &[FRAMEWORKS, IMAGES, TABLES, NETWORK] },
    Absence { package: "gafi-command", features: ANY, tests_too: true, never: &[TENSORS, IMAGES, TABLES, NETWORK] },
    Absence { package: "gafi-onnx", features: ANY, tests_too: true, never: &[&["candle*", "gemm*"], IMAGES, TABLES, NETWORK] },
    Absence { package: "gafi-kernels", features: BARE, tests_too: true, never: &[IMAGES, TABLES, NETWORK] },
    Absence { package: "gafi-data", features: BARE, tests_too: false, never: &[&["candle*"], NETWORK] },
    Absence { package: "gafi-cli", features: BARE, tests_too: false, never: &[NETWORK] },
    Absence { package: "gafi-cli", features: PLAIN, tests_too: false, never: &[&["tract*"]] },
];

/// Checks every rule and reports all violations.
pub(crate) fn check() -> Result<()> {
    let mut broken = direct(&shell::metadata(&["--no-deps"])?);
    for absence in &ABSENCES {
        let edges = if absence.tests_too { "normal,build,dev" } else { "normal,build" };
        let mut tree = shell::cargo();
        tree.args(["tree", "--package", absence.package, absence.features, "--edges", edges]);
        let tree = shell::output(tree.args(["--target", "all", "--prefix", "depth"]))?;
        let found = offenders(&tree, absence.never);
        broken.extend(found.into_iter().map(|path| format!("{path} ({})", absence.features)));
    }
    shell::report(&broken, "forbidden dependencies; ARCHITECTURE.md has the allowed directions")?;
    println!("   {} crates, {} absences", EDGES.len(), ABSENCES.len());
    Ok(())
}

/// Forbidden direct dependencies in `metadata`, and crates without a rule.
fn direct(metadata: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, may)) = EDGES.iter().find(|(known, _)| *known == name) else {
            broken.push(format!("{name}: add the new crate to xtask/src/layering.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = dependency["name"].as_str().unwrap_or_default();
            let ours = on.starts_with("gafi") || on == "xtask";
            if ours && !may.contains(&on) {
                broken.push(format!("{name} -> {on}"));
            }
            if name == "xtask" && !XTASK.contains(&on) {
                broken.push(format!("xtask -> {on}: xtask must build in seconds"));
            }
        }
    }
    broken
}

/// The forbidden packages of a tree printed with `--prefix depth`, each with the path to it.
fn offenders(tree: &str, never: &[&[&str]]) -> Vec<String> {
    let mut path: Vec<&str> = Vec::new();
    let mut found: Vec<String> = Vec::new();
    for line in tree.lines() {
        let digits = line.bytes().take_while(u8::is_ascii_digit).count();
        let (Ok(depth), Some(name)) = (line[..digits].parse::<usize>(), line[digits..].split_whitespace().next())
        else {
            continue; // `[dev-dependencies]` and blank lines
        };
        path.truncate(depth);
        path.push(name);
        let forbidden = never.iter().copied().flatten().any(|pattern| matches(pattern, name));
        // Report only the first forbidden crate of a path; the others follow from it.
        let within = path[..path.len() - 1].iter().any(|on| never.iter().copied().flatten().any(|p| matches(p, on)));
        if forbidden && !within {
            let path = path.join(" -> ");
            if !found.contains(&path) {
                found.push(path);
            }
        }
    }
    found
}

/// Whether `name` matches `pattern`, which may end in `*`.
fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(name == pattern, |begin| name.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TREE: &str = "\
0gafi-core v0.1.0 (/src/gafi-core)
1safetensors v0.8.0
2serde v1.0.228
1helper v0.1.0
2candle-core v0.11.1
3gemm v0.19.0
3image v0.25.0
1imagination v1.0.0
[dev-dependencies]
1proptest v1.0.0
";

    #[test]
    fn the_path_to_a_forbidden_package_is_reported_once() {
        assert_eq!(offenders(TREE, &[TENSORS, IMAGES]), ["gafi-core -> helper -> candle-core"]);
        assert_eq!(offenders(TREE, &[&["image"]]), ["gafi-core -> helper -> candle-core -> image"]);
        assert!(offenders(TREE, &[NETWORK]).is_empty());
    }

    #[test]
    fn dependencies_of_tests_count() {
        assert_eq!(offenders(TREE, &[&["proptest"]]), ["gafi-core -> proptest"]);
    }

    #[test]
    fn a_star_matches_any_ending() {
        assert!(matches("candle*", "candle-core") && matches("image", "image"));
        assert!(!matches("image", "imagination") && !matches("gemm", "gemm-f16"));
    }

    #[test]
    fn forbidden_edges_are_reported() {
        let package = |name: &str, on: &[&str]| json!({"name": name, "dependencies": on.iter().map(|n| json!({"name": n})).collect::<Vec<_>>()});
        let metadata = json!({"packages": [
            package("gafi-core", &["serde", "rand"]),
            package("gafi-filter", &["gafi-core", "gafi-expand"]),
            package("gafi-gan", &["gafi-core", "gafi-nn", "candle-core"]),
            package("gafi-new", &[]),
            package("xtask", &["clap", "syn"]),
        ]});
        let broken = direct(&metadata);
        assert_eq!(broken.len(), 3, "{broken:?}");
        assert_eq!(broken[0], "gafi-filter -> gafi-expand");
        assert!(broken[1].starts_with("gafi-new:"), "{broken:?}");
        assert!(broken[2].starts_with("xtask -> syn"), "{broken:?}");
    }
}
