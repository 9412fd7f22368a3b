//! Damaged files of every format, truncated or with changed bytes. An import may fail, or succeed if only pixels are damaged, but it
//! never panics or hangs.

mod common;

use common::*;
use gafi_core::Split;
use gafi_data::{ImportConfig, NamedSet};
use parquet::basic::Compression;
use proptest::prelude::*;

const LABELS: [u8; 4] = [0, 1, 0, 1];

/// Truncates a file to a fraction of its length, then changes bytes at fractions of the rest.
#[derive(Debug, Clone)]
struct Damage {
    keep: f64,
    flips: Vec<(f64, u8)>,
}

fn damage() -> impl Strategy<Value = Damage> {
    let flips = prop::collection::vec((0.0..1.0f64, 1u8..=255), 0..6);
    (prop_oneof![3 => Just(1.0), 1 => 0.0..1.0f64], flips).prop_map(|(keep, flips)| Damage { keep, flips })
}

fn apply(damage: &Damage, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes[..(bytes.len() as f64 * damage.keep) as usize].to_vec();
    for (at, with) in &damage.flips {
        let i = (bytes.len() as f64 * at) as usize;
        if let Some(b) = bytes.get_mut(i) {
            *b ^= with;
        }
    }
    bytes
}

/// Imports a folder in which one file is damaged.
fn survives(files: &[(&str, Vec<u8>)], damaged: usize, damage: &Damage, set: Option<NamedSet>) {
    let dir = tempfile::tempdir().unwrap();
    for (i, (name, bytes)) in files.iter().enumerate() {
        let bytes = if i == damaged { apply(damage, bytes) } else { bytes.clone() };
        write(dir.path().join(name), &bytes);
    }
    let config = ImportConfig { set, test_fraction: Some(0.3), ..ImportConfig::at(dir.path()) };
    for split in [Split::Train, Split::Val] {
        let _ = import(&config, split);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn idx(damage in damage(), which in 0usize..2, packed: bool) {
        let files = [("train-images-idx3-ubyte", idx_images(4, GREY)), ("train-labels-idx1-ubyte", idx_labels(&LABELS))];
        let files = files.map(|(name, bytes)| (name, if packed { gzip(&bytes) } else { bytes }));
        survives(&files, which, &damage, None);
    }

    #[test]
    fn cifar(damage in damage()) {
        let mut bytes = Vec::new();
        for label in 0..20u8 {
            bytes.push(label % 10);
            bytes.extend([label; 3072]);
        }
        survives(&[("data_batch_1.bin", bytes), ("batches.meta.txt", b"a\n".repeat(10))], 0, &damage, None);
    }

    #[test]
    fn parquet_files(damage in damage(), codec in 0usize..3) {
        let codec = [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(Default::default())][codec];
        let bytes = parquet(("img", "label"), &pngs(4, COLOUR), &[0, 1, 0, 1], &["a", "b"], codec);
        survives(&[("train-0.parquet", bytes)], 0, &damage, None);
    }

    #[test]
    fn folders(damage in damage(), jpeg: bool) {
        let mut encoded = std::io::Cursor::new(Vec::new());
        let format = if jpeg { image::ImageFormat::Jpeg } else { image::ImageFormat::Png };
        dynamic(0, COLOUR).write_to(&mut encoded, format).unwrap();
        let bytes = encoded.into_inner();
        survives(&["a/0.png", "a/1.png", "a/2.png", "a/3.png"].map(|name| (name, bytes.clone())), 1, &damage, None);
    }

    #[test]
    fn npz_files(damage in damage(), deflated: bool) {
        let images: Vec<u8> = (0..4).flat_map(|row| interleaved(row, COLOUR)).collect();
        let arrays = [("images", npy("|u1", "(4, 5, 7, 3)", &images)), ("labels", npy("|u1", "(4,)", &LABELS))];
        survives(&[("set.npz", npz(&arrays, deflated))], 0, &damage, None);
    }
}
