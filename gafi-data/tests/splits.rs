//! The stage: three disjoint splits of the same rows, reuse, new content, interruption; our own datasets as a source.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::*;
use gafi_core::{Artifact, Context, Error, ImageSpec, Inputs, Progress, Split, Task, execute};
use gafi_data::{Channels, Fit, Import, ImportConfig, NamedSet, ShapesConfig, import_all};

fn shapes(train: usize) -> ImportConfig {
    let shapes = ShapesConfig { classes: 4, train, test: 20 };
    ImportConfig { size: Some(8), shapes, ..ImportConfig::named(NamedSet::Shapes) }
}

#[test]
fn splits_are_disjoint_stratified_and_whole() {
    let config = shapes(203);
    let ids = |config: &ImportConfig, split| -> BTreeSet<u64> {
        let (info, rows) = import(config, split).unwrap();
        assert_eq!(info.split, split);
        assert_eq!(info.counts.iter().sum::<u64>(), rows.len() as u64);
        rows.into_keys().collect()
    };
    let (train, val) = (ids(&config, Split::Train), ids(&config, Split::Val));
    assert!(train.is_disjoint(&val));
    assert_eq!(train.union(&val).copied().collect::<Vec<_>>(), (0..203).collect::<Vec<_>>());
    assert_eq!(import(&config, Split::Val).unwrap().0.counts, [5, 5, 5, 5]);
    // What is kept of the training rows never touches the validation rows.
    let few = ImportConfig { per_class: Some(3), ..config.clone() };
    let more = ImportConfig { per_class: Some(9), ..config.clone() };
    let limited = ImportConfig { limit: Some(10), test_limit: Some(8), ..config.clone() };
    assert!(ids(&few, Split::Train).is_subset(&ids(&more, Split::Train)));
    assert!(ids(&more, Split::Train).is_subset(&train));
    assert_eq!(ids(&few, Split::Val), val);
    assert_eq!((ids(&limited, Split::Train).len(), ids(&limited, Split::Test).len()), (10, 8));
    assert_ne!(ids(&ImportConfig { seed: 1, ..config.clone() }, Split::Val), val);
    // Test rows are other images, although their numbers are the same.
    let (_, test) = import(&config, Split::Test).unwrap();
    let all: BTreeSet<Vec<u8>> = import_rows(&config).unwrap().1.into_values().map(|(_, image)| image).collect();
    assert!(test.values().all(|(_, image)| !all.contains(image)));
}

#[test]
fn what_is_there_is_reused_and_new_content_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (root, out) = (dir.path().join("images"), dir.path().join("out"));
    let spec = ImageSpec::new(3, 5, 7);
    for row in 0..6 {
        write(root.join(["a", "b"][row % 2]).join(format!("{row}.png")), &png(row, spec));
    }
    let config = ImportConfig { test_fraction: Some(0.3), ..ImportConfig::at(&root) };
    let cx = Context::default();
    let first = import_all(&config, &out, &cx).unwrap();
    assert!(!first.cached);
    assert!(import_all(&config, &out, &cx).unwrap().cached);
    // The same content elsewhere is the same source.
    let moved = dir.path().join("moved");
    std::fs::rename(&root, &moved).unwrap();
    let config = ImportConfig { path: Some(moved.clone()), ..config };
    assert!(import_all(&config, &out, &cx).unwrap().cached);
    // One changed pixel isn't; the result of the old content isn't overwritten unasked.
    write(moved.join("a/0.png"), &png(9, spec));
    assert!(matches!(import_all(&config, &out, &cx), Err(Error::Occupied { .. })));
    let forced = Context { force: true, ..cx.clone() };
    import_all(&config, &out, &forced).unwrap();
    assert!(import_all(&config, &out, &cx).unwrap().cached);
}

#[test]
fn our_own_datasets_are_a_source() {
    let dir = tempfile::tempdir().unwrap();
    let cx = Context::default();
    let set = import_all(&shapes(80), dir.path(), &cx).unwrap();
    // The folder of three splits, to grey and larger.
    let grey =
        ImportConfig { channels: Channels::Grey, size: Some(12), fit: Some(Fit::Pad), ..ImportConfig::at(dir.path()) };
    for split in [Split::Train, Split::Val, Split::Test] {
        let (info, rows) = import(&grey, split).unwrap();
        assert_eq!(info.image, ImageSpec::new(1, 12, 12));
        assert_eq!(rows.len(), import(&shapes(80), split).unwrap().1.len());
    }
    // One of them, as it is: the same pixels.
    let again = ImportConfig { val_per_class: Some(1), ..ImportConfig::at(&set.test) };
    let (info, rows) = import_rows(&again).unwrap();
    let original = import(&shapes(80), Split::Test).unwrap();
    assert_eq!((info.classes, rows), (original.0.classes, original.1));
    // A damaged one is noticed before anything is made of it.
    let shard = set.test.join("shard-00000.safetensors");
    let mut bytes = std::fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    expect_error(&again, &["shard-00000.safetensors: content: expected BLAKE3"]);
}

/// Asks for a stop once `limit` rows are done.
struct StopAt {
    limit: u64,
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Progress for StopAt {
    fn log(&self, _: &str) {}
    fn begin(&self, _: &str, _: Option<u64>) -> Box<dyn Task> {
        Box::new(Self { limit: self.limit, done: self.done.clone(), stop: self.stop.clone() })
    }
}

impl Task for StopAt {
    fn advance(&mut self, n: u64) {
        if self.done.fetch_add(n, Ordering::SeqCst) + n >= self.limit {
            self.stop.store(true, Ordering::SeqCst);
        }
    }
    fn note(&mut self, _: &str) {}
}

#[test]
fn an_import_that_was_interrupted_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let config = shapes(20_000);
    let whole = {
        let cx = Context::default();
        let stage = Import::new(&config, Split::Train, &cx).unwrap();
        execute(&stage, &Inputs::new(), &dir.path().join("whole"), &cx).unwrap().artifact
    };
    let dest = dir.path().join("cut");
    // In the second shard: the first is kept, the rest is made again.
    let stop: Arc<AtomicBool> = Arc::default();
    let progress = Arc::new(StopAt { limit: 9_000, done: Arc::default(), stop: stop.clone() });
    let cx = Context { progress, stop, ..Context::default() };
    let stage = Import::new(&config, Split::Train, &cx).unwrap();
    assert!(matches!(execute(&stage, &Inputs::new(), &dest, &cx), Err(Error::Interrupted)));
    assert!(Artifact::open(&dest).is_err(), "nothing half-written is in its place");
    let done: Arc<AtomicU64> = Arc::default();
    let progress = Arc::new(StopAt { limit: u64::MAX, done: done.clone(), stop: Arc::default() });
    let cx = Context { progress, ..Context::default() };
    let artifact = execute(&stage, &Inputs::new(), &dest, &cx).unwrap().artifact;
    artifact.verify().unwrap();
    assert_eq!(artifact.id(), whole.id());
    assert_eq!(done.load(Ordering::SeqCst), 18_000);
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    let named = |set| ImportConfig::named(set);
    for (config, part) in [
        (ImportConfig::default(), "set = unset: expected a named set, or path set"),
        (ImportConfig { path: Some("x".into()), ..named(NamedSet::Shapes) }, "shapes is built in"),
        (ImportConfig { val_fraction: Some(1.0), ..shapes(80) }, "val_fraction = 1: expected above 0 and below 1"),
        (ImportConfig { val_fraction: Some(f64::NAN), ..shapes(80) }, "val_fraction = NaN"),
        (
            ImportConfig { val_fraction: Some(0.1), val_per_class: Some(1), ..shapes(80) },
            "only one of val_fraction and",
        ),
        (ImportConfig { per_class: Some(1), limit: Some(9), ..shapes(80) }, "only one of per_class and limit"),
        (ImportConfig { size: Some(0), ..shapes(80) }, "size = 0"),
        (ImportConfig { size: Some(7), ..shapes(80) }, "size = 7: expected at least 8 pixels"),
        (ImportConfig { fit: Some(Fit::Pad), size: None, ..shapes(80) }, "fit = pad: expected a size"),
        (
            ImportConfig { per_class: Some(100), ..shapes(80) },
            "per_class = 100: expected 1 to 18, the rows there are of class 0",
        ),
        (ImportConfig { limit: Some(3), ..shapes(80) }, "limit = 3: expected 4 (one row a class) to 72"),
        (ImportConfig { val_per_class: Some(20), ..shapes(80) }, "val_per_class = 20: expected 1 to 19"),
        (ImportConfig { test_fraction: Some(0.5), ..shapes(80) }, "the source has test rows of its own"),
        (
            ImportConfig { shapes: ShapesConfig { classes: 11, ..Default::default() }, ..shapes(80) },
            "shapes.classes = 11",
        ),
    ] {
        let error = import(&config, Split::Train).unwrap_err();
        assert!(error.is_usage(), "{error} should be a usage error");
        assert!(error.to_string().contains(part), "{part:?} is not in {:?}", error.to_string());
    }
    expect_split_error(&shapes(80), Split::Synthetic, &["split = synthetic"]);
}

#[test]
fn configurations_survive_toml_and_unknown_keys_do_not() {
    let text = "set = \"fashion-mnist\"\nsize = 32\nfit = \"pad\"\nchannels = 1\nval_per_class = 1000\nseed = 7\n";
    let config: ImportConfig = toml::from_str(text).unwrap();
    let expected = ImportConfig {
        size: Some(32),
        fit: Some(Fit::Pad),
        channels: Channels::Grey,
        val_per_class: Some(1000),
        seed: 7,
        ..ImportConfig::named(NamedSet::FashionMnist)
    };
    assert_eq!(config, expected);
    assert_eq!(toml::from_str::<ImportConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
    assert!(toml::from_str::<ImportConfig>("sise = 32").unwrap_err().to_string().contains("unknown field `sise`"));
    assert!(toml::from_str::<ImportConfig>("channels = 2").is_err());
}
