//! Faulty datasets of other programs: the error names file and place, and nothing panics.

use std::fs;

use gafi_core::*;
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::common::*;

/// A column: name, type, shape, bytes.
type Column = (&'static str, Dtype, Vec<usize>, Vec<u8>);

fn longs(v: &[i64]) -> Vec<u8> {
    v.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn floats(v: &[f32]) -> Vec<u8> {
    v.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Four rows of two classes, all columns.
fn columns() -> Vec<Column> {
    vec![
        ("images", Dtype::U8, vec![4, 1, 2, 3], (0..24).collect()),
        ("labels", Dtype::I64, vec![4], longs(&[0, 1, 1, 0])),
        ("index", Dtype::U64, vec![4], longs(&[5, 6, 7, 8])),
        ("confidence", Dtype::F32, vec![4], floats(&[0.0, 0.5, 0.25, 1.0])),
        ("probabilities", Dtype::F32, vec![4, 2], floats(&[0.5; 8])),
    ]
}

fn shard(columns: &[Column]) -> Vec<u8> {
    let views = columns.iter().map(|(n, d, s, b)| (*n, TensorView::new(*d, s.clone(), b).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

fn info() -> Value {
    json!({
        "image": {"channels": 1, "height": 2, "width": 3}, "classes": ["a", "b"], "split": "train", "counts": [2, 2],
        "shards": [{"file": "s0", "rows": 4}],
    })
}

/// Opens and reads a dataset that was written by hand.
fn read_set(content: Value, files: &[(&str, Vec<u8>)]) -> Result<Vec<Batch>> {
    let dir = tempfile::tempdir().unwrap();
    let path = by_hand(&dir.path().join("set"), Kind::Dataset, content.clone(), files);
    let artifact = Artifact::open(&path)?;
    artifact.verify()?;
    let read = Dataset::open(&artifact).and_then(|set| {
        let mut images = vec![0; set.len() * set.info().image.bytes()];
        set.read(&(0..set.len()).collect::<Vec<_>>(), &mut images)?;
        set.batches().collect::<Result<Vec<_>>>()
    });
    // Files of a program that are to become an artifact are checked alike.
    if let Ok(info) = serde_json::from_value::<DatasetInfo>(content) {
        assert_eq!(check_dataset(&path, &info).is_ok(), read.is_ok());
    }
    read
}

fn refused(content: Value, files: &[(&str, Vec<u8>)], says: &[&str]) {
    let error = read_set(content, files).unwrap_err();
    assert!(matches!(error, Error::Format { .. }), "{error:?}");
    for what in says {
        assert!(error.to_string().contains(what), "{what:?} is not in: {error}");
    }
}

/// A shard with one column changed.
fn column_refused(column: Column, says: &[&str]) {
    let mut all = columns();
    match all.iter_mut().find(|c| c.0 == column.0) {
        Some(own) => *own = column,
        None => all.push(column),
    }
    refused(info(), &[("s0", shard(&all))], &[&["s0"], says].concat());
}

#[test]
fn a_correct_dataset_is_read() {
    let read = read_set(info(), &[("s0", shard(&columns()))]).unwrap();
    assert_eq!(read[0].ids, [5, 6, 7, 8]);
    assert_eq!(read[0].labels, [0, 1, 1, 0].map(ClassId));
    // Without the optional columns, and with an unknown one.
    let mut own = columns();
    own.truncate(2);
    own.push(("mask", Dtype::U8, vec![4, 2, 3], vec![0; 24]));
    let read = read_set(info(), &[("s0", shard(&own))]).unwrap();
    assert_eq!((&read[0].ids[..], read[0].confidence.is_none()), (&[0, 1, 2, 3][..], true));
}

#[test]
fn bad_columns_are_refused_with_row_and_value() {
    column_refused(
        ("labels", Dtype::I64, vec![4], longs(&[0, 1, 2, 0])),
        &["labels, row 2: expected a label from 0 to 1, found 2"],
    );
    column_refused(("labels", Dtype::I64, vec![4], longs(&[0, -1, 1, 0])), &["labels, row 1", "found -1"]);
    column_refused(("labels", Dtype::I64, vec![4], longs(&[0, 1, 1, i64::MAX])), &["labels, row 3"]);
    column_refused(("labels", Dtype::I32, vec![4], vec![0; 16]), &["labels", "I64 [4]", "I32 [4]"]);
    column_refused(("labels", Dtype::I64, vec![4, 1], longs(&[0; 4])), &["I64 [4, 1]"]);
    column_refused(
        ("images", Dtype::U8, vec![4, 2, 3, 1], vec![0; 24]),
        &["expected a tensor \"images\" of U8 [4, 1, 2, 3]"],
    );
    column_refused(("images", Dtype::I8, vec![4, 1, 2, 3], vec![0; 24]), &["images", "I8"]);
    column_refused(
        ("confidence", Dtype::F32, vec![4], floats(&[0.0, f32::NAN, 0.0, 0.0])),
        &["confidence, row 1: expected a probability from 0 to 1, found NaN"],
    );
    column_refused(("confidence", Dtype::F32, vec![4], floats(&[0.0, 0.0, 0.0, 1.5])), &["confidence, row 3", "1.5"]);
    column_refused(("confidence", Dtype::F64, vec![4], vec![0; 32]), &["confidence", "F64"]);
    let mut p = [0.5; 8];
    p[5] = f32::NEG_INFINITY;
    column_refused(("probabilities", Dtype::F32, vec![4, 2], floats(&p)), &["probabilities, row 2", "-inf"]);
    column_refused(("probabilities", Dtype::F32, vec![4, 3], floats(&[0.0; 12])), &["probabilities", "[4, 3]"]);
    column_refused(("index", Dtype::U64, vec![1, 4], longs(&[0; 4])), &["index"]);
    let without = |name: &str| {
        let mut all = columns();
        all.retain(|c| c.0 != name);
        refused(info(), &[("s0", shard(&all))], &["s0", name, "no tensor of that name"]);
    };
    without("images");
    without("labels");
}

#[test]
fn bad_headers_are_refused() {
    let good = shard(&columns());
    for cut in [0, 1, 7, 8, 9, 100, good.len() - 1] {
        refused(info(), &[("s0", good[..cut].to_vec())], &["set/s0"]);
    }
    refused(info(), &[("s0", [good.clone(), vec![0]].concat())], &["set/s0: length"]);
    refused(
        info(),
        &[("s0", b"\x89PNG\r\n\x1a\n, a picture, not a shard".to_vec())],
        &["set/s0: header: expected a safetensors header"],
    );
    for size in [u64::MAX, 1 << 40, (1 << 20) + 1, good.len() as u64 - 7] {
        let mut bytes = good.clone();
        bytes[..8].copy_from_slice(&size.to_le_bytes());
        refused(info(), &[("s0", bytes)], &["set/s0: header"]);
    }
    let header =
        |text: &str, data: usize| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &vec![0; data]].concat();
    for (text, data) in [
        ("", 0),
        ("[]", 0),
        ("{\"images\":", 0),
        (r#"{"images":{"dtype":"U8","shape":[4,1,2,3],"data_offsets":[0,9999999]}}"#, 24),
        (r#"{"images":{"dtype":"U8","shape":[18446744073709551615,2],"data_offsets":[0,24]}}"#, 24),
        (r#"{"images":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}}"#, 24),
        (r#"{"images":{"dtype":"U8","shape":[2305843009213693951],"data_offsets":[0,2305843009213693951]}}"#, 24),
        (r#"{"images":{"dtype":"U8","shape":[24],"data_offsets":[24,0]}}"#, 24),
        (r#"{"images":{"dtype":"U8","shape":[-4],"data_offsets":[0,24]}}"#, 24),
    ] {
        refused(info(), &[("s0", header(text, data))], &["set/s0"]);
    }
}

#[test]
fn inconsistent_manifests_are_refused() {
    let files = [("s0", shard(&columns()))];
    let with = |at: &str, value: Value| {
        let mut content = info();
        *content.pointer_mut(at).unwrap() = value;
        content
    };
    refused(with("/counts", json!([3, 1])), &files, &["rows per class", "[3, 1]", "[2, 2]"]);
    refused(with("/counts", json!([4, 0])), &files, &["manifest.json", "class 1 (b)", "at least one row"]);
    refused(with("/counts", json!([4])), &files, &["content.counts", "2 classes"]);
    refused(with("/counts", json!([u64::MAX, 5])), &files, &["manifest.json"]);
    refused(with("/classes", json!([])), &files, &["content.classes"]);
    refused(with("/classes", json!(["a"])), &files, &["manifest.json"]);
    refused(with("/shards/0/rows", json!(3)), &files, &["manifest.json"]);
    refused(with("/shards/0/rows", json!(0)), &files, &["content.shards[0].rows"]);
    refused(with("/shards/0/rows", json!(8193)), &files, &["content.shards[0].rows", "1 to 8192"]);
    refused(with("/shards/0/rows", json!(u64::MAX)), &files, &["content.shards[0].rows"]);
    refused(with("/shards/0/file", json!("s1")), &files, &["manifest.json", "s1"]);
    refused(with("/shards/0/file", json!("../set/s0")), &files, &["../set/s0"]);
    refused(with("/shards", json!([])), &files, &["content.shards"]);
    refused(with("/image/width", json!(4)), &files, &["s0", "[4, 1, 2, 4]"]);
    refused(with("/image/width", json!(0)), &files, &["content.image"]);
    refused(with("/image/width", json!(u64::MAX)), &files, &["content.image"]);
    refused(
        with("/image", json!({"channels": 1u64 << 32, "height": 1u64 << 32, "width": 3})),
        &files,
        &["content.image"],
    );
    refused(with("/split", json!("training")), &files, &["manifest.json", "training"]);
    let mut more = info();
    more["surprise"] = json!(1);
    refused(more, &files, &["manifest.json", "surprise"]);
    // A dataset by kind alone.
    let dir = tempfile::tempdir().unwrap();
    let path = by_hand(dir.path(), Kind::Trials, info(), &files);
    assert!(Dataset::open(&Artifact::open(path).unwrap()).unwrap_err().to_string().contains("kind: expected dataset"));
}

#[test]
fn shards_of_different_columns_are_refused() {
    let mut content = info();
    content["shards"] = json!([{"file": "s0", "rows": 4}, {"file": "s1", "rows": 4}]);
    content["counts"] = json!([4, 4]);
    let mut fewer = columns();
    fewer.truncate(3);
    refused(content.clone(), &[("s0", shard(&columns())), ("s1", shard(&fewer))], &["s1: columns"]);
    read_set(content, &[("s0", shard(&fewer)), ("s1", shard(&fewer))]).unwrap();
}

#[test]
fn a_missing_or_truncated_shard_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = by_hand(&dir.path().join("set"), Kind::Dataset, info(), &[("s0", shard(&columns()))]);
    let whole = Artifact::open(&path).unwrap();
    let file = path.join("s0");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    for error in [Artifact::open(&path).unwrap_err(), Dataset::open(&whole).unwrap_err()] {
        assert!(error.to_string().contains("set/s0"), "{error}");
    }
    fs::remove_file(&file).unwrap();
    for error in [Artifact::open(&path).unwrap_err(), Dataset::open(&whole).unwrap_err()] {
        assert!(error.to_string().contains("set/s0"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any damage to a shard whose length and hash the manifest confirms: read or refused, never a panic.
    #[test]
    fn damaged_shards_never_panic(
        at in any::<proptest::sample::Index>(), header_only in any::<bool>(),
        by in proptest::collection::vec(any::<u8>(), 0..12), cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let mut bytes = shard(&columns());
        let range = if header_only { u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize + 8 } else { bytes.len() };
        let at = at.index(range);
        for (to, from) in bytes[at..].iter_mut().zip(by) {
            *to = from;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        if let Err(e) = read_set(info(), &[("s0", bytes)]) {
            prop_assert!(e.to_string().contains("set"), "{}", e);
        }
    }
}
