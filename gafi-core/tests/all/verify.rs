//! `Artifact::verify` covers every byte of an artifact, its manifest included.

use std::fs;

use gafi_core::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::common::*;

fn spec(name: &str) -> ArchitectureSpec {
    ArchitectureSpec::of(&json!({"name": name, "width": 8, "rate": 0.25})).unwrap()
}

fn classifier(classes: &[&str]) -> ClassifierInfo {
    let classes = classes.iter().map(ToString::to_string).collect();
    ClassifierInfo { architecture: spec("net"), image: IMAGE, classes }
}

fn generator(steps: &[u64], file: &str) -> GeneratorInfo {
    let checkpoint = |&step| CheckpointInfo { step, file: Some(file.into()), samples: None };
    GeneratorInfo {
        architecture: spec("gan"),
        image: IMAGE,
        classes: classes(),
        latent_dim: 4,
        std: None,
        checkpoints: steps.iter().map(checkpoint).collect(),
        extra: Default::default(),
    }
}

/// A stage that writes `content` and one file.
fn stage(kind: Kind, content: impl serde::Serialize) -> Made {
    let content = serde_json::to_value(content).unwrap();
    let mut stage = Made::new(kind, move |_, out, _| {
        out.write("weights", &(0..200).collect::<Vec<u8>>())?;
        out.set_content(&content)
    });
    stage.config = json!({"seed": 7, "share": 0.1});
    stage
}

fn is_whole(path: &std::path::Path) -> bool {
    Artifact::open(path).and_then(|artifact| artifact.verify_rows(&RunControl::default())).is_ok()
}

#[test]
fn no_flipped_byte_is_called_whole() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    make(&Count::of(40), &at("dataset")).unwrap();
    make(&stage(Kind::Classifier, classifier(&["even", "odd"])), &at("classifier")).unwrap();
    make(&stage(Kind::Generator, generator(&[10, 20], "weights")), &at("generator")).unwrap();
    make(&stage(Kind::Trials, json!({"score": 0.75})), &at("trials")).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(20);
    for kind in ["dataset", "classifier", "generator", "trials"] {
        let manifest = at(kind).join(MANIFEST_FILE);
        let read = || serde_json::from_slice::<Value>(&fs::read(&manifest).unwrap()).ok();
        let before = read();
        assert!(is_whole(&at(kind)), "{kind}");
        let files = fs::read_dir(at(kind)).unwrap().map(|entry| entry.unwrap().path());
        for file in files.filter(|file| !file.ends_with(LOG_FILE)) {
            let whole = fs::read(&file).unwrap();
            for _ in 0..1500 {
                let (place, bit) = (random.next_u64() as usize % whole.len(), random.next_u32() % 8);
                let mut flipped = whole.clone();
                flipped[place] ^= 1 << bit;
                fs::write(&file, &flipped).unwrap();
                // White space in the manifest, or another way to write the same number, changes nothing that is read.
                let equal = file == manifest && read() == before;
                assert!(equal || !is_whole(&at(kind)), "{}: bit {bit} of byte {place}", file.display());
            }
            fs::write(&file, &whole).unwrap();
        }
    }
}

/// Content that no file determines is checked by its meaning, when an artifact is written and when it is verified.
#[test]
fn impossible_content_is_neither_written_nor_verified() {
    let dir = tempfile::tempdir().unwrap();
    let written = |kind, content: Value| make(&stage(kind, content), &dir.path().join("written")).unwrap_err();
    let read = |kind, content: Value| {
        let path = tempfile::tempdir().unwrap();
        let path = by_hand(&path.path().join("read"), kind, content, &[("weights", vec![0])]);
        Artifact::open(&path).and_then(|artifact| artifact.verify()).unwrap_err()
    };
    let json = |value: &dyn Fn() -> Value| value();
    let of = |names: &[&str]| json(&|| serde_json::to_value(classifier(names)).unwrap());
    let with = |steps: &[u64], file: &str| json(&|| serde_json::to_value(generator(steps, file)).unwrap());
    for (kind, content, says) in [
        (Kind::Classifier, of(&["a", "b", "a"]), "a different name for each class, found \"a\" for classes 0 and 2"),
        (Kind::Classifier, of(&["a", " "]), "names that are not empty, found an empty name of class 1"),
        (Kind::Classifier, of(&[]), "1 to 2^20 names"),
        (Kind::Generator, with(&[10], "gone"), "content.checkpoints: expected files that `files` lists, found gone"),
        (Kind::Generator, with(&[20, 10], "weights"), "by ascending step"),
        (Kind::Generator, with(&[], "weights"), "one or more"),
        (Kind::Generator, json!({}), "the description of a generator"),
    ] {
        for error in [written(kind, content.clone()), read(kind, content)] {
            assert!(error.to_string().contains(says), "{says:?} is not in: {error}");
        }
    }
    assert_eq!(names(dir.path()), [""; 0]);
    let doubled = DatasetInfo::new(IMAGE, vec!["a".into(), "a".into()], Split::Train);
    let stage = Made::new(Kind::Dataset, move |_, out, _| DatasetWriter::begin(out, doubled.clone()).map(drop));
    assert!(make(&stage, &dir.path().join("set")).unwrap_err().to_string().contains("a different name"));
}
