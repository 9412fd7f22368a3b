//! The stage `import`: disjoint splits, reuse of results, interruption, and GaFi datasets as a source.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::*;
use gafi_core::{Artifact, Context, Error, ImageSpec, Inputs, RunControl, Split, execute};
use gafi_data::{Channels, Fit, Import, ImportConfig, NamedSet, Resample, ShapesConfig, import_all};

fn shapes(train: usize) -> ImportConfig {
    let shapes = ShapesConfig { classes: 4, train, test: 20 };
    ImportConfig { size: Some(8), shapes, ..ImportConfig::named(NamedSet::Shapes) }
}

#[test]
fn splits_are_disjoint_stratified_and_complete() {
    let config = shapes(203);
    let ids = |config: &ImportConfig, split| -> BTreeSet<u64> {
        let (info, rows) = import(config, split).unwrap();
        assert_eq!(info.split, split);
        assert_eq!(info.counts.iter().sum::<u64>(), rows.len() as u64);
        rows.into_keys().collect()
    };
    let train = ids(&config, Split::Train);
    let val = ids(&config, Split::Val);
    assert!(train.is_disjoint(&val));
    assert_eq!(train.union(&val).copied().collect::<Vec<_>>(), (0..203).collect::<Vec<_>>());
    assert_eq!(import(&config, Split::Val).unwrap().0.counts, [5, 5, 5, 5]);
    // Keeping fewer training rows doesn't change the validation rows.
    let few = ImportConfig { per_class: Some(3), ..config.clone() };
    let more = ImportConfig { per_class: Some(9), ..config.clone() };
    let limited = ImportConfig { limit: Some(10), test_limit: Some(8), ..config.clone() };
    assert!(ids(&few, Split::Train).is_subset(&ids(&more, Split::Train)));
    assert!(ids(&more, Split::Train).is_subset(&train));
    assert_eq!(ids(&few, Split::Val), val);
    assert_eq!((ids(&limited, Split::Train).len(), ids(&limited, Split::Test).len()), (10, 8));
    assert_ne!(ids(&ImportConfig { seed: 1, ..config.clone() }, Split::Val), val);
    // Test rows have the same numbers but are different images.
    let (_, test) = import(&config, Split::Test).unwrap();
    let all: BTreeSet<Vec<u8>> = import_rows(&config).unwrap().1.into_values().map(|(_, image)| image).collect();
    assert!(test.values().all(|(_, image)| !all.contains(image)));
}

#[test]
fn screening_takes_a_part_of_the_validation_rows() {
    let config = ImportConfig { val_per_class: Some(8), ..shapes(200) };
    let screened = ImportConfig { screen_fraction: 0.25, ..config.clone() };
    let ids = |config: &ImportConfig, split| -> BTreeSet<u64> {
        let (info, rows) = import(config, split).unwrap();
        assert_eq!(info.split, split);
        rows.into_keys().collect()
    };
    let screen = ids(&screened, Split::Screen);
    let val = ids(&screened, Split::Val);
    assert_eq!(import(&screened, Split::Screen).unwrap().0.counts, [2; 4]);
    assert!(screen.is_disjoint(&val));
    assert_eq!(&screen | &val, ids(&config, Split::Val), "together they are the validation rows");
    assert_eq!(ids(&screened, Split::Train), ids(&config, Split::Train));
    assert_eq!(ids(&config, Split::TrainVal), (0..200).collect());
    assert!(ids(&screened, Split::TrainVal).is_disjoint(&screen), "a GAN that trains on it has not seen them");
    let few = ImportConfig { per_class: Some(3), ..screened.clone() };
    for config in [&screened, &few] {
        assert_eq!(ids(config, Split::TrainVal), &ids(config, Split::Train) | &val);
    }
    expect_split_error(&config, Split::Screen, &["screen_fraction = 0: expected above 0"]);
    // One validation row cannot be both.
    let one = ImportConfig { val_per_class: Some(1), ..screened };
    expect_split_error(&one, Split::Val, &["screen_fraction = 0.25: expected at least 2 rows of every class"]);
}

#[test]
fn validation_rows_of_the_source_are_used_replaced_or_pooled() {
    let dir = tempfile::tempdir().unwrap();
    let spec = ImageSpec::new(3, 4, 4);
    // 12 training rows, 6 validation rows and 4 test rows, half of each of either class.
    let parts = [("train", 12), ("valid", 6), ("test", 4)];
    let mut row = 0;
    for (part, rows) in parts {
        for i in 0..rows {
            write(dir.path().join(part).join(["a", "b"][i % 2]).join(format!("{i:02}.png")), &png(row, spec));
            row += 1;
        }
    }
    let images = |config: &ImportConfig, split| import(config, split).unwrap().1;
    let keys = |config: &ImportConfig, split| images(config, split).into_keys().collect::<Vec<_>>();
    let own = ImportConfig::at(dir.path());
    assert_eq!(keys(&own, Split::Train), (0..12).collect::<Vec<_>>());
    assert_eq!(keys(&own, Split::Val), (12..18).collect::<Vec<_>>(), "numbered after the training rows");
    assert_eq!(keys(&own, Split::TrainVal), (0..18).collect::<Vec<_>>());
    assert_eq!(keys(&own, Split::Test), [0, 1, 2, 3]);
    let screened = ImportConfig { screen_fraction: 0.3, ..own.clone() };
    assert_eq!((keys(&screened, Split::Screen).len(), keys(&screened, Split::Val).len()), (2, 4));

    // With an explicit number, validation rows come from the training rows, and the source's own stay unused.
    let carved = ImportConfig { val_per_class: Some(2), ..own.clone() };
    assert_eq!((keys(&carved, Split::Train).len(), keys(&carved, Split::Val).len()), (8, 4));
    assert_eq!(keys(&carved, Split::TrainVal), (0..12).collect::<Vec<_>>());

    // Pooled as CINIC-10 in the paper's released program: 18 rows, 4 held out, 14 left.
    let pool = ImportConfig { pool_val: true, ..carved.clone() };
    let (train, val) = (images(&pool, Split::Train), images(&pool, Split::Val));
    assert_eq!((train.len(), val.len()), (14, 4));
    assert!(train.keys().chain(val.keys()).any(|&id| id >= 12));
    let together: std::collections::BTreeMap<_, _> = train.into_iter().chain(val).collect();
    assert_eq!(together, images(&own, Split::TrainVal));
    assert_eq!(images(&pool, Split::TrainVal), together);
    assert_eq!(images(&pool, Split::Test), images(&own, Split::Test));
    let origin = |config: &ImportConfig| {
        gafi_core::Stage::config(&Import::new(config, Split::Val, &Context::default()).unwrap())["val_from"].clone()
    };
    assert_eq!([&own, &carved, &pool].map(origin), ["source", "train", "pool"]);

    // A source without validation rows has nothing to pool.
    let without = ImportConfig { pool_val: true, ..ImportConfig { val_per_class: Some(2), ..shapes(80) } };
    expect_split_error(&without, Split::Train, &["pool_val = true: expected false, because the source has no val"]);
}

#[test]
fn imports_are_reused_until_the_content_changes() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("images");
    let out = dir.path().join("out");
    let spec = ImageSpec::new(3, 5, 7);
    for row in 0..6 {
        write(root.join(["a", "b"][row % 2]).join(format!("{row}.png")), &png(row, spec));
    }
    let config = ImportConfig { test_fraction: Some(0.3), ..ImportConfig::at(&root) };
    let cx = Context::default();
    let first = import_all(&config, &out, &cx).unwrap();
    assert!(!first.cached);
    assert!(import_all(&config, &out, &cx).unwrap().cached);
    // The same content in another folder is the same source.
    let moved = dir.path().join("moved");
    std::fs::rename(&root, &moved).unwrap();
    let config = ImportConfig { path: Some(moved.clone()), ..config };
    assert!(import_all(&config, &out, &cx).unwrap().cached);
    // A changed image is another source, and the earlier result is only overwritten with `force`.
    write(moved.join("a/0.png"), &png(9, spec));
    assert!(matches!(import_all(&config, &out, &cx), Err(Error::Occupied { .. })));
    let forced = Context { force: true, ..cx.clone() };
    import_all(&config, &out, &forced).unwrap();
    assert!(import_all(&config, &out, &cx).unwrap().cached);
}

#[test]
fn gafi_datasets_are_a_source() {
    let dir = tempfile::tempdir().unwrap();
    let cx = Context::default();
    let set = import_all(&shapes(80), dir.path(), &cx).unwrap();
    // The folder of three splits, converted to grey and padded.
    let grey =
        ImportConfig { channels: Channels::Grey, size: Some(12), fit: Some(Fit::Pad), ..ImportConfig::at(dir.path()) };
    for split in [Split::Train, Split::Val, Split::Test] {
        let (info, rows) = import(&grey, split).unwrap();
        assert_eq!(info.image, ImageSpec::new(1, 12, 12));
        assert_eq!(rows.len(), import(&shapes(80), split).unwrap().1.len());
    }
    // A single split without conversion has the same pixels.
    let again = ImportConfig { val_per_class: Some(1), ..ImportConfig::at(&set.train) };
    let (info, rows) = import_rows(&again).unwrap();
    let original = import(&shapes(80), Split::Train).unwrap();
    assert_eq!(info.classes, original.0.classes);
    assert!(rows.into_values().eq(original.1.into_values()), "numbered anew");
    // Test images don't become training images.
    expect_error(
        &ImportConfig::at(set.test.as_ref().unwrap()),
        &["manifest.json: content.split: expected train", "found test"],
    );
    // Damage is noticed before anything is written.
    let shard = set.train.join("shard-00000.safetensors");
    let mut bytes = std::fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    expect_error(&again, &["shard-00000.safetensors: content: expected BLAKE3"]);
}

#[test]
fn a_resumed_import_writes_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let config = shapes(20_000);
    let whole = {
        let cx = Context::default();
        let stage = Import::new(&config, Split::Train, &cx).unwrap();
        execute(&stage, &Inputs::new(), &dir.path().join("whole"), &cx).unwrap().artifact
    };
    let dest = dir.path().join("cut");
    // The stop is in the second shard: the first is kept, the second starts over.
    let stop: Arc<AtomicBool> = Arc::default();
    let progress = Arc::new(StopAt { limit: 9_000, done: Arc::default(), stop: stop.clone() });
    let cx = Context { control: RunControl { progress, stop, wait: false }, ..Context::default() };
    let stage = Import::new(&config, Split::Train, &cx).unwrap();
    assert!(matches!(execute(&stage, &Inputs::new(), &dest, &cx), Err(Error::Interrupted)));
    assert!(Artifact::open(&dest).is_err(), "an interrupted import leaves no artifact");
    let done: Arc<AtomicU64> = Arc::default();
    let progress = Arc::new(StopAt { limit: u64::MAX, done: done.clone(), stop: Arc::default() });
    let cx = Context { control: RunControl { progress, ..RunControl::default() }, ..Context::default() };
    let artifact = execute(&stage, &Inputs::new(), &dest, &cx).unwrap().artifact;
    artifact.verify().unwrap();
    assert_eq!(artifact.id(), whole.id());
    assert_eq!(done.load(Ordering::SeqCst), 18_000);
}

#[test]
fn invalid_configurations_are_rejected() {
    let named = |set| ImportConfig::named(set);
    for (config, part) in [
        (ImportConfig::default(), "set = unset: expected a named set, or path to be set"),
        (ImportConfig { path: Some("x".into()), ..named(NamedSet::Shapes) }, "shapes is built in"),
        (ImportConfig { val_fraction: Some(1.0), ..shapes(80) }, "val_fraction = 1: expected at least 0 and below 1"),
        (ImportConfig { val_fraction: Some(f64::NAN), ..shapes(80) }, "val_fraction = NaN"),
        (
            ImportConfig { val_fraction: Some(0.1), val_per_class: Some(1), ..shapes(80) },
            "only one of val_fraction and",
        ),
        (ImportConfig { per_class: Some(1), limit: Some(9), ..shapes(80) }, "only one of per_class and limit"),
        (ImportConfig { size: Some(0), ..shapes(80) }, "size = 0"),
        (ImportConfig { size: Some(7), ..shapes(80) }, "size = 7: expected at least 8 pixels"),
        (ImportConfig { pool_val: true, ..shapes(80) }, "pool_val = true: expected val_fraction or val_per_class"),
        (ImportConfig { screen_fraction: 1.0, ..shapes(80) }, "screen_fraction = 1: expected at least 0 and below 1"),
        (
            ImportConfig { resample: Resample::Lanczos, ..shapes(80) },
            "resample = lanczos: expected fit = \"resize\" or \"crop\"",
        ),
        (ImportConfig { fit: Some(Fit::Pad), size: None, ..shapes(80) }, "fit = pad: expected size to be set as well"),
        (ImportConfig { per_class: Some(100), ..shapes(80) }, "per_class = 100: expected 1 to 18, the rows of class 0"),
        (ImportConfig { limit: Some(3), ..shapes(80) }, "limit = 3: expected 4 (one row per class) to 72"),
        (ImportConfig { val_per_class: Some(20), ..shapes(80) }, "val_per_class = 20: expected 1 to 19"),
        (
            ImportConfig { test_fraction: Some(0.5), ..shapes(80) },
            "expected no value, because the source has test rows",
        ),
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
fn configurations_round_trip_and_unknown_keys_are_rejected() {
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
