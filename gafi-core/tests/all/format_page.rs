//! Runs the programs of `docs/format.md`, unchanged, on artifacts that this crate writes and reads.
//!
//! They need Python with `safetensors` and `numpy`. If `GAFI_TEST_PYTHON` names an interpreter that has both, nothing is
//! skipped; otherwise `python3` is tried.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use gafi_core::*;
use serde_json::{Value, json};

use crate::common::*;

const PAGE: &str = include_str!("../../../docs/format.md");

/// The Python program on the page whose first line is `# name`.
fn program(name: &str) -> String {
    let found = PAGE.split("```python\n").skip(1).find(|block| block.starts_with(&format!("# {name}")));
    found.unwrap_or_else(|| panic!("docs/format.md has no program {name}")).split("```").next().unwrap().to_string()
}

/// Runs a program with arguments; `None` when there is no Python to run it.
fn run(name: &str, arguments: &[&Path]) -> Option<String> {
    let given = std::env::var_os("GAFI_TEST_PYTHON");
    let python = given.clone().unwrap_or_else(|| "python3".into());
    let has_all = Command::new(&python).args(["-c", "import numpy, safetensors"]).output();
    if given.is_none() && !has_all.is_ok_and(|out| out.status.success()) {
        // Not `eprintln!`, which the test harness hides in a passing test.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: no python3 with safetensors and numpy to run {name} of docs/format.md"
        );
        return None;
    }
    let out =
        Command::new(&python).arg("-c").arg(program(name)).args(arguments).output().expect("GAFI_TEST_PYTHON runs");
    assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    Some(String::from_utf8(out.stdout).unwrap())
}

/// Three shards, all columns.
fn set(dir: &Path) -> Artifact {
    let stage = Made::new(Kind::Dataset, |_, out, _| {
        let names = vec!["boot".into(), "bag".into(), "\u{e9}toile".into()];
        let (mut writer, _) =
            DatasetWriter::begin(out, DatasetInfo::new(ImageSpec::new(3, 2, 4), names, Split::Synthetic))?;
        for at in [0, 8000, 16_000] {
            let n = if at == 16_000 { 250 } else { 8000 };
            writer.push(
                &Batch {
                    labels: (at..at + n).map(|r| ClassId(r * 2 % 3)).collect(),
                    images: (0..n * 24).map(|i| (at + i * 7 / 3) as u8).collect(),
                    ids: (at..at + n).map(u64::from).collect(),
                    confidence: Some(vec![0.5; n as usize]),
                    probabilities: Some(vec![0.25; 3 * n as usize]),
                },
                Value::Null,
            )?;
        }
        writer.finish().map(drop)
    });
    make(&stage, dir).unwrap().artifact
}

#[test]
fn a_dataset_opens_with_safetensors_alone() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = set(&dir.path().join("set"));
    let Some(output) = run("read_dataset.py", &[artifact.path()]) else { return };
    let expected = [
        "synthetic (3, 2, 4) ['boot', 'bag', 'étoile'] [5417, 5416, 5417]",
        "shard-00000.safetensors (8000, 3, 2, 4) uint8 int64 [0, 2, 1, 0, 2] ['confidence', 'index', 'probabilities']",
        "shard-00001.safetensors (8000, 3, 2, 4) uint8 int64 [1, 0, 2, 1, 0] ['confidence', 'index', 'probabilities']",
        "shard-00002.safetensors (250, 3, 2, 4) uint8 int64 [2, 1, 0, 2, 1] ['confidence', 'index', 'probabilities']",
    ];
    assert_eq!(output.lines().collect::<Vec<_>>(), expected);
}

/// A program as a stage, as the stage `command` runs it: input folders and an output folder on the command line.
#[test]
fn a_stage_of_another_program_writes_a_dataset() {
    let dir = tempfile::tempdir().unwrap();
    let input = set(&dir.path().join("set"));
    let mut stage = Made::new(Kind::Dataset, |inputs, out, _| {
        let Some(input) = inputs.get("samples") else { return Ok(()) };
        if run("invert.py", &[input.path(), out.dir()]).is_none() {
            return Err(Error::Interrupted);
        }
        let content = std::fs::read(out.dir().join("content.json")).unwrap();
        let info: DatasetInfo = serde_json::from_slice(&content).unwrap();
        check_dataset(out.dir(), &info)?;
        for shard in &info.shards {
            out.add(&shard.file)?;
        }
        out.set_content(&info)
    });
    stage.ports = const { &[Port::required("samples", Kind::Dataset)] };
    let inputs = Inputs::new().with("samples", &input);
    let made = match execute(&stage, &inputs, &dir.path().join("out"), &Context::default()) {
        Err(Error::Interrupted) => return, // skipped
        made => Dataset::open(&made.unwrap().artifact).unwrap(),
    };
    let original = Dataset::open(&input).unwrap();
    assert_eq!((made.len(), made.labels()), (original.len(), original.labels()));
    let picks: Vec<usize> = (0..made.len()).step_by(611).collect();
    let (mut a, mut b) = (vec![0; picks.len() * 24], vec![0; picks.len() * 24]);
    made.read(&picks, &mut a).unwrap();
    original.read(&picks, &mut b).unwrap();
    assert_eq!(a, b.iter().map(|p| 255 - p).collect::<Vec<_>>());
}

/// The page's program for the fingerprint, on a manifest with text, numbers and inputs.
#[test]
fn the_fingerprint_can_be_computed_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let input = make(&Count::of(4), &dir.path().join("in")).unwrap().artifact;
    let mut stage = Made::new(Kind::Trials, |_, _, _| Ok(()));
    stage.ports = const { &[Port::required("set", Kind::Dataset)] };
    stage.config = json!({
        "z": {"\u{fb01}": 1, "\u{1f600}": 2, "a": [0.1, 2.5e-9, 1.0, 12345678901234567890u64, -3, 5e-324, 1e16, 123456.75, 1e-5, 1e-7]},
        "text": "tab\t quote\" back\\ bell\u{7} del\u{7f} \u{2028} é 漢", "none": null, "yes": true,
    });
    let inputs = Inputs::new().with("set", &input);
    let made = execute(&stage, &inputs, &dir.path().join("x"), &Context::default()).unwrap().artifact;
    let Some(canonical) = run("canonical.py", &[made.path()]) else { return };
    assert_eq!(blake3::hash(canonical.as_bytes()).to_hex().as_str(), made.manifest().fingerprint, "{canonical}");
}

/// The manifest on the page is valid.
#[test]
fn the_example_is_valid() {
    let block = PAGE.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let manifest: Manifest = serde_json::from_str(block).unwrap();
    assert_eq!(manifest.fingerprint, manifest.made_by.fingerprint());
    let info: DatasetInfo = serde_json::from_value(manifest.content).unwrap();
    assert_eq!(info.rows(), info.shards.iter().map(|s| s.rows as u64).sum::<u64>());
    assert!(info.shards.iter().all(|s| manifest.files.contains_key(&s.file)));
    assert!(
        PAGE.replace(',', "").contains(&format!("`rows` (1 to {SHARD_ROWS})")),
        "the page does not say {SHARD_ROWS}"
    );
}
