//! Artifacts: writing, opening, verifying.

use std::fs;

use gafi_core::*;
use serde_json::{Value, json};

use crate::common::*;

fn two_files() -> Made {
    Made::new(Kind::Trials, |_, out, _| {
        out.write("a.bin", b"first")?;
        out.write("a.bin", b"aaaa")?;
        out.write_json("b.json", &json!({"x": 0.1}))?;
        fs::write(out.dir().join("c.txt"), "by other means").unwrap();
        out.add("c.txt")?;
        fs::write(out.dir().join("stray"), "not listed").unwrap();
        fs::create_dir(out.dir().join("stray-folder")).unwrap();
        out.save_state("s", b"state")?;
        out.log(&json!({"rate": 3}))?;
        out.set_content(&json!({"n": 2}))
    })
}

#[test]
fn written_files_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("deep/er/x");
    let artifact = make(&two_files(), &dest).unwrap().artifact;
    assert_eq!(names(&dest), ["a.bin", "b.json", "c.txt", "log.jsonl", "manifest.json"]);
    assert_eq!(names(dest.parent().unwrap()), ["x"], "nothing is left beside it");
    assert_eq!(artifact.read("a.bin").unwrap(), b"aaaa");
    assert_eq!(artifact.read_json::<Value>("b.json").unwrap(), json!({"x": 0.1}));
    assert_eq!(artifact.content::<Value>().unwrap(), json!({"n": 2}));
    assert_eq!(artifact.manifest().files["c.txt"].bytes, 14);
    assert_eq!(artifact.id(), blake3::hash(&fs::read(dest.join(MANIFEST_FILE)).unwrap()).to_hex().as_str());
    let log = fs::read_to_string(dest.join(LOG_FILE)).unwrap();
    let lines: Vec<Value> = log.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((lines[0]["rate"].as_u64(), lines[1]["event"].as_str()), (Some(3), Some("finished")));
    artifact.verify().unwrap();
    // Neither its folder nor its log is part of its id.
    let moved = dir.path().join("moved");
    copy(&dest, &moved);
    fs::write(moved.join(LOG_FILE), "x").unwrap();
    let moved = Artifact::open(&moved).unwrap();
    moved.verify().unwrap();
    assert_eq!(moved.id(), artifact.id());
}

#[test]
fn every_kind_of_damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let whole = make(&two_files(), &dir.path().join("whole")).unwrap().artifact;
    let damaged = |name: &str, damage: &dyn Fn(&std::path::Path)| {
        let path = dir.path().join(name);
        copy(whole.path(), &path);
        damage(&path);
        match Artifact::open(&path) {
            Ok(a) => (true, a.verify().unwrap_err().to_string()),
            Err(e) => (false, e.to_string()),
        }
    };
    let (opens, error) = damaged("one byte", &|p| flip(&p.join("a.bin"), 1));
    assert!(opens && error.contains("one byte/a.bin: content: expected BLAKE3"), "{error}");
    let (opens, error) = damaged("short", &|p| fs::write(p.join("a.bin"), "aaa").unwrap());
    assert!(!opens && error.contains("a.bin: length: expected 4 bytes, according to the manifest, found 3"), "{error}");
    let (opens, error) = damaged("missing", &|p| fs::remove_file(p.join("b.json")).unwrap());
    assert!(!opens && error.contains("missing/b.json"), "{error}");
    let (opens, error) = damaged("folder", &|p| {
        fs::remove_file(p.join("b.json")).unwrap();
        fs::create_dir(p.join("b.json")).unwrap();
    });
    assert!(!opens && error.contains("folder/b.json: type: expected a file"), "{error}");
    let (opens, error) = damaged("config", &|p| {
        let mut manifest: Value = serde_json::from_slice(&fs::read(p.join(MANIFEST_FILE)).unwrap()).unwrap();
        manifest["made_by"]["config"] = json!({"edited": true});
        fs::write(p.join(MANIFEST_FILE), manifest.to_string()).unwrap();
    });
    assert!(opens && error.contains("fingerprint: expected"), "{error}");
    let path = dir.path().join("read");
    copy(whole.path(), &path);
    let artifact = Artifact::open(&path).unwrap();
    flip(&path.join("b.json"), 0);
    assert!(artifact.read("b.json").unwrap_err().to_string().contains("read/b.json: content"));
    assert!(artifact.read("d").unwrap_err().to_string().contains("a.bin, b.json, c.txt"));
}

#[test]
fn missing_artifacts_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let none = Artifact::open(dir.path().join("none")).unwrap_err();
    assert!(matches!(&none, Error::NoArtifact { why, .. } if why.contains("does not exist")), "{none}");
    let empty = Artifact::open(dir.path()).unwrap_err();
    assert!(matches!(&empty, Error::NoArtifact { why, .. } if why.contains("no manifest.json")), "{empty}");
    let trials = make(&two_files(), &dir.path().join("x")).unwrap().artifact;
    let other = Artifact::open_as(trials.path(), Kind::Dataset).unwrap_err().to_string();
    assert!(other.contains("kind: expected dataset, found trials"), "{other}");
    fs::create_dir_all(dir.path().join("y/manifest.json")).unwrap();
    assert!(Artifact::open(dir.path().join("y")).unwrap_err().to_string().contains("y/manifest.json"));
}

#[test]
fn odd_names_are_refused_when_writing() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["", ".", "..", "a/b", "../x", ".hidden", "manifest.json", "log.jsonl", "state", "begun.json", "c:x"] {
        let stage = Made::new(Kind::Trials, move |_, out, _| out.write(name, b""));
        let error = make(&stage, &dir.path().join("x")).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{name:?}: {error}");
        let stage = Made::new(Kind::Trials, move |_, out, _| out.save_state(name, b""));
        let error = make(&stage, &dir.path().join("x")).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "state {name:?}: {error}");
    }
    assert_eq!(names(dir.path()), [""; 0]);
}

#[cfg(unix)]
#[test]
fn links_folders_and_devices_are_refused() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    for target in ["/dev/zero", "/dev/null", "/etc/hosts", "."] {
        let stage = Made::new(Kind::Trials, move |_, out, _| {
            symlink(target, out.dir().join("link")).unwrap();
            out.add("link")
        });
        let error = make(&stage, &dir.path().join("x")).unwrap_err().to_string();
        assert!(error.contains("regular file"), "{error}");
    }
    // Hashing an endless device would never end.
    let path = by_hand(&dir.path().join("y"), Kind::Trials, json!({}), &[("a", Vec::new())]);
    fs::remove_file(path.join("a")).unwrap();
    symlink("/dev/zero", path.join("a")).unwrap();
    assert!(Artifact::open(&path).unwrap_err().to_string().contains("y/a: type"));
}

#[test]
fn a_listed_file_that_disappeared_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("x");
    let stage = Made::new(Kind::Trials, |_, out, _| {
        out.write("a", b"a")?;
        fs::remove_file(out.dir().join("a")).unwrap();
        Ok(())
    });
    assert!(make(&stage, &dest).unwrap_err().to_string().contains("a"));
    assert!(!dest.exists(), "an artifact that lacks a file must not appear");
    let mended = Made::new(Kind::Trials, |_, out, _| out.write("a", b"a"));
    make(&mended, &dest).unwrap().artifact.verify().unwrap();
    assert_eq!(names(dir.path()), ["x"]);
}

#[test]
fn resume_state_is_stored_replaced_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let stage = Made::new(Kind::Trials, |_, out, _| {
        assert_eq!(out.load_state("s")?, None);
        out.drop_state("s")?;
        out.save_state("s", b"1")?;
        out.save_state("s", b"2")?;
        assert_eq!(out.load_state("s")?.as_deref(), Some(&b"2"[..]));
        out.drop_state("s")?;
        assert_eq!(out.load_state("s")?, None);
        Ok(())
    });
    make(&stage, &dir.path().join("x")).unwrap();
}
