//! The verb `import-generator` with StudioGAN files. gafi-gan tests that they are read correctly; the tests here use them.

use std::path::Path;

use super::{fails, ok};

fn golden(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gafi-gan/tests/goldens").join(file);
    path.to_str().unwrap().to_string()
}

#[test]
fn an_imported_generator_can_be_sampled() {
    let dir = tempfile::tempdir().unwrap();
    let shapes = "shapes={ classes = 3, train = 30, test = 12 }";
    ok(dir.path(), &["import", "shapes", "--out", "data", "--size", "32", "--channels", "3", "--set", shapes]);
    let file = golden("studiogan_biggan.pth");
    let import = ["import-generator", "--from", "studiogan", &file, "--output", "gan", "--step", "700"];
    ok(dir.path(), &[&import[..], &["--classes-of", "data/train"]].concat());
    ok(dir.path(), &["verify", "gan"]);
    ok(dir.path(), &["expand", "--generator", "gan", "--out", "samples", "--per-class", "4"]);
    let inspected = ok(dir.path(), &["--json", "inspect", "data/train", "samples"]);
    let text = String::from_utf8(inspected.stdout).unwrap();
    let classes = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        record["manifest"]["content"]["classes"].clone()
    };
    let found: Vec<_> = text.lines().map(classes).collect();
    assert_eq!((found[0].as_array().unwrap().len(), &found[0]), (3, &found[1]));
}

#[test]
fn other_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("g.pth"), "nothing of the kind").unwrap();
    let import = |file: &str, more: &[&str], code| {
        let import = ["import-generator", "--from", "studiogan", file, "--out", "gan"];
        let text = fails(dir.path(), &[&import[..], more].concat(), code);
        assert!(!dir.path().join("gan").exists());
        text
    };
    assert!(import("g.pth", &[], 1).contains("g.pth: header: expected safetensors or a .pth"));
    assert!(import("none.pth", &[], 1).contains("none.pth"));
    let io = golden("studiogan_biggan_io.safetensors");
    let text = import(&io, &[], 1);
    assert!(text.contains("some of the tensors shared.weight,") && text.contains("found images, z"), "{text}");
    let text = import(&golden("studiogan_deep.safetensors"), &["--classes", "a,b,c"], 2);
    assert!(text.contains("expected 2 names"), "{text}");
}
