//! End-to-end tests of the program on tiny built-in images, each in its own folder.

mod bad_input;
mod chain;
mod export;
mod foreign;
mod help;
mod import;
mod import_generator;
mod onnx;
mod pipeline;
mod programs;
mod report;
mod signals;
mod using;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The program, run in `dir`.
fn gafi(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gafi-cli"));
    // Notes on imported programs go here, not to the developer's home folder.
    let state = Path::new(env!("CARGO_TARGET_TMPDIR")).join("state");
    command.current_dir(dir).args(arguments).env("XDG_STATE_HOME", state);
    command
}

/// Runs the program and expects success.
fn ok(dir: &Path, arguments: &[&str]) -> Output {
    let output = gafi(dir, arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs the program, expects success, and parses the record that it prints.
fn json(dir: &Path, arguments: &[&str]) -> Value {
    serde_json::from_slice(&ok(dir, arguments).stdout).unwrap()
}

/// A file of JSON.
fn read(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// Runs the program, expects exit code `code`, and returns stderr.
fn fails(dir: &Path, arguments: &[&str], code: i32) -> String {
    let output = gafi(dir, arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

/// Every file below `dir` with its content, except logs, which contain times.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.file_name().is_some_and(|name| name != "log.jsonl") {
                found.insert(path.strip_prefix(dir).unwrap().to_path_buf(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Imports the two-class 8x8 set into `data`.
fn shapes(dir: &Path) {
    let set = "shapes={ classes = 2, train = 160, test = 40 }";
    ok(dir, &["import", "shapes", "--out", "data", "--size", "8", "--channels", "1", "--set", set]);
}

/// Imports the two-class 8x8 set into `data` and trains a tiny GAN and a tiny teacher on it.
fn trained(dir: &Path) {
    shapes(dir);
    // With the published augmentation it would recognise only one class.
    let augment = "augment = { flip = true, crop = 1, crop_fill = \"black\", cutout = false, erase = 0.0 }";
    let teacher =
        format!("classifier = {{ architecture = {{ depth = 20, width = 4 }}, epochs = 1, batch = 32, {augment} }}\n");
    write(dir, "teacher.toml", &teacher);
    ok(
        dir,
        &["train-classifier", "--train", "data/train", "--val", "data/val", "-c", "teacher.toml", "--out", "teacher"],
    );
    write(
        dir,
        "gan.toml",
        "architecture = { name = \"small\", z = 8, shared = 4, g = [8], d = [8] }\nlength = { steps = 20 }\ncheckpoints = [10, 20]\nbatch = 16\n",
    );
    ok(dir, &["train-gan", "--train", "data/train", "-c", "gan.toml", "--out", "gan"]);
}

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}
