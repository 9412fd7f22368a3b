//! Bad input: errors name the file, the place and what was expected; exit codes are 1 or 2; nothing incomplete is left.

use std::path::Path;

use super::{fails, ok, trained, write};

/// The names in `dir`, including hidden ones.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Expects exit code `code`, all `words` in the message, and nothing new in `dir`.
fn refused(dir: &Path, arguments: &[&str], code: i32, words: &[&str]) {
    let before = names(dir);
    let text = fails(dir, arguments, code);
    for word in words {
        assert!(text.contains(word), "{arguments:?}: no {word:?} in\n{text}");
    }
    assert_eq!(names(dir), before, "{arguments:?} left files behind");
}

fn idx_images(n: u32, rows: &[u8]) -> Vec<u8> {
    [&[0, 0, 8, 3][..], &n.to_be_bytes(), &8u32.to_be_bytes(), &8u32.to_be_bytes(), rows].concat()
}

fn idx_labels(labels: &[u8]) -> Vec<u8> {
    [&[0, 0, 8, 1][..], &(labels.len() as u32).to_be_bytes(), labels].concat()
}

#[test]
fn damaged_files_are_not_imported() {
    let dir = tempfile::tempdir().unwrap();
    let set = dir.path().join("set");
    std::fs::create_dir(&set).unwrap();
    let put = |images: &[u8], labels: &[u8]| {
        for part in ["train", "t10k"] {
            std::fs::write(set.join(format!("{part}-images-idx3-ubyte")), images).unwrap();
            std::fs::write(set.join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
        }
    };
    let import = ["import", "set", "--out", "data", "--set", "val_per_class=1"];
    let images = idx_images(4, &[7; 4 * 64]);

    put(&images[..images.len() - 10], &idx_labels(&[0, 1, 0, 1]));
    refused(dir.path(), &import, 1, &["train-images-idx3-ubyte"]);
    put(&[&[1, 2, 3, 4], &images[4..]].concat(), &idx_labels(&[0, 1, 0, 1]));
    refused(dir.path(), &import, 1, &["train-images-idx3-ubyte", "magic"]);
    put(&images, &idx_labels(&[0, 1, 0]));
    refused(dir.path(), &import, 1, &["train-labels-idx1-ubyte"]);
    put(&images, &idx_labels(&[0, 2, 0, 2]));
    refused(dir.path(), &import, 1, &["class 1"]);
    put(&images, &idx_labels(&[0, 200, 0, 1]));
    refused(dir.path(), &import, 1, &["label 200"]);
    refused(dir.path(), &["import", "nowhere", "--out", "data"], 2, &["nowhere", "fashion-mnist"]);
    refused(dir.path(), &["import", "set", "--out", "data", "--set", "sise=3"], 2, &["sise"]);

    put(&images, &idx_labels(&[0, 1, 0, 1]));
    ok(dir.path(), &import);
}

#[test]
fn damaged_artifacts_are_not_used() {
    let dir = tempfile::tempdir().unwrap();
    trained(dir.path());
    ok(dir.path(), &["expand", "--generator", "gan", "--per-class", "8", "--out", "wide"]);
    let filter = ["filter", "--samples", "wide", "--teacher", "teacher", "--out", "clean"];
    let shard = dir.path().join("wide/shard-00000.safetensors");
    let whole = std::fs::read(&shard).unwrap();

    // Truncated.
    std::fs::write(&shard, &whole[..whole.len() - 1]).unwrap();
    refused(dir.path(), &filter, 1, &["shard-00000.safetensors", "bytes"]);
    // One bit off.
    let mut bent = whole.clone();
    *bent.last_mut().unwrap() ^= 1;
    std::fs::write(&shard, &bent).unwrap();
    refused(dir.path(), &filter, 1, &["shard-00000.safetensors", "BLAKE3"]);
    assert!(fails(dir.path(), &["verify", "wide"], 1).contains("BLAKE3"));
    // Gone.
    std::fs::remove_file(&shard).unwrap();
    refused(dir.path(), &filter, 1, &["shard-00000.safetensors"]);
    std::fs::write(&shard, &whole).unwrap();

    // Artifacts of the wrong kind.
    refused(
        dir.path(),
        &["filter", "--samples", "gan", "--teacher", "teacher", "--out", "clean"],
        2,
        &["samples", "generator"],
    );
    refused(dir.path(), &["expand", "--generator", "no-such", "--out", "x"], 1, &["no-such", "does not exist"]);
    refused(
        dir.path(),
        &["expand", "--generator", "gan", "--set", "checkpoint=11", "--out", "x"],
        2,
        &["checkpoint", "10", "20"],
    );
    refused(
        dir.path(),
        &["train-classifier", "--train", "data/test", "--val", "data/val", "-c", "teacher.toml", "--out", "x"],
        2,
        &["train", "test"],
    );

    // Folders with other content are not touched.
    ok(dir.path(), &filter);
    let other = [&filter[..], &["--set", "threshold=0.25"]].concat();
    refused(dir.path(), &other, 2, &["clean", "--force"]);
    ok(dir.path(), &[&other[..], &["--force"]].concat());
    std::fs::create_dir(dir.path().join("mine")).unwrap();
    write(dir.path(), "mine/thesis.txt", "years of work");
    refused(dir.path(), &["expand", "--generator", "gan", "--out", "mine", "--force"], 2, &["mine"]);
    assert!(dir.path().join("mine/thesis.txt").exists());
}

#[test]
fn invalid_configurations() {
    let dir = tempfile::tempdir().unwrap();
    trained(dir.path());
    write(dir.path(), "bad.toml", "std = 1.2\nper_class 10\n");
    refused(dir.path(), &["expand", "--generator", "gan", "-c", "bad.toml", "--out", "x"], 2, &["bad.toml", "line 2"]);
    write(dir.path(), "bad.toml", "std = 1.2\nperclass = 10\n");
    refused(
        dir.path(),
        &["expand", "--generator", "gan", "-c", "bad.toml", "--out", "x"],
        2,
        &["perclass", "per_class"],
    );
    refused(dir.path(), &["expand", "--generator", "gan", "-c", "missing.toml", "--out", "x"], 2, &["missing.toml"]);
    refused(dir.path(), &["expand", "--generator", "gan", "--set", "std", "--out", "x"], 2, &["key=value"]);
    let both = ["expand", "--generator", "gan", "--std", "1.2", "--set", "std=1.3", "--out", "x"];
    refused(dir.path(), &both, 2, &["--std", "--set std=1.3"]);
    refused(dir.path(), &["expand", "--generator", "gan", "--std", "wide", "--out", "x"], 2, &["--std", "number"]);
    refused(dir.path(), &["expand", "--generator", "gan", "--out", "x", "--device", "tpu"], 2, &["tpu", "cpu"]);
    refused(dir.path(), &["expand", "--generator", "gan", "--out", "x", "--threads", "0"], 2, &["at least 1"]);
    let devices = ["pipeline", "--preset", "smoke", "--out", "x", "--jobs", "2", "--device", "cpu,cpu,cpu"];
    refused(dir.path(), &devices, 2, &["cpu,cpu,cpu", "--jobs 3", "found 2"]);
    let devices = ["pipeline", "--preset", "smoke", "--out", "x", "--jobs", "2", "--device", "cpu,gpu"];
    refused(dir.path(), &devices, 2, &["device = gpu", "cuda:N"]);
    refused(dir.path(), &["pipeline", "--preset", "quickest", "--out", "x"], 2, &["quickest", "quickstart"]);
}
