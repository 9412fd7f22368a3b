//! The verb `export`: its options and exit codes. gafi-data tests what it writes.

use super::{fails, files, json, ok};

#[test]
fn every_format_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let shapes = "shapes={ classes = 2, train = 20, test = 10 }";
    ok(dir.path(), &["import", "shapes", "--out", "data", "--size", "32", "--channels", "3", "--set", shapes]);
    for (format, file) in [
        ("image-folder", "classes.json"),
        ("parquet", "data/train-00000.parquet"),
        ("webdataset", "train-000000.tar"),
        ("npz", "dataset.npz"),
        ("cifar-bin", "data_batch_1.bin"),
    ] {
        let record = json(dir.path(), &["export", "data/train", "--format", format, "--out", format, "--json"]);
        assert_eq!((&record["format"], &record["rows"]), (&format.into(), &18.into()));
        let found = files(&dir.path().join(format));
        assert!(found.keys().any(|name| name.ends_with(file)), "{:?}", found.keys());
        assert!(found.contains_key(std::path::Path::new("README.md")), "{:?}", found.keys());
    }
    let text = fails(dir.path(), &["export", "data/train", "--format", "npz", "--out", "npz"], 2);
    assert!(text.contains("--force"), "{text}");
    let again =
        ["export", "data/test", "--format", "npz", "--out", "npz", "--force", "--license", "mit", "--name", "Ten"];
    ok(dir.path(), &again);
    let card = std::fs::read_to_string(dir.path().join("npz/README.md")).unwrap();
    assert!(card.contains("license: \"mit\"") && card.contains("# Ten"), "{card}");
}

#[test]
fn unsuitable_datasets_are_usage_errors() {
    let dir = tempfile::tempdir().unwrap();
    let shapes = "shapes={ classes = 2, train = 20, test = 10 }";
    ok(dir.path(), &["import", "shapes", "--out", "data", "--size", "8", "--channels", "1", "--set", shapes]);
    let text = fails(dir.path(), &["export", "data/train", "--format", "cifar-bin", "--out", "x"], 2);
    assert!(text.contains("3x32x32") && text.contains("1x8x8"), "{text}");
    let text = fails(dir.path(), &["export", "data/train", "--format", "tiff", "--out", "x"], 2);
    assert!(text.contains("webdataset"), "{text}");
    fails(dir.path(), &["export", "nowhere", "--format", "npz", "--out", "x"], 1);
    assert!(!dir.path().join("x").exists());
}
