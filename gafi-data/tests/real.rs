//! Whole real sets, where they are on this machine: their published statistics, so nothing is lost, mixed up or rescaled.
//!
//! CIFAR-10: a folder of its parquet files, `GAFI_TEST_CIFAR10` or `../shared/data/cifar10/plain_text` from the repository.
//! Fashion-MNIST: Debian's package `dataset-fashion-mnist`.

use std::path::PathBuf;

use gafi_core::{Artifact, Context, Dataset, Rows, Split};
use gafi_data::{Fit, ImportConfig, NamedSet, channel_stats, import_all};

fn expect(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= tolerance, "{found:?}, expected {expected:?}");
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn found(path: PathBuf, what: &str) -> Option<PathBuf> {
    let there = path.is_dir();
    if !there {
        eprintln!("SKIPPED: {what} is not at {}", path.display());
    }
    there.then_some(path)
}

#[test]
fn all_of_cifar10() {
    let shared = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/cifar10/plain_text");
    let path = std::env::var_os("GAFI_TEST_CIFAR10").map_or(shared, PathBuf::from);
    let Some(path) = found(path, "CIFAR-10") else { return };
    let dir = tempfile::tempdir().unwrap();
    // All rows but a validation split of one row a class; both together have the statistics of the whole.
    let config = ImportConfig { path: Some(path), val_per_class: Some(1), ..ImportConfig::named(NamedSet::Cifar10) };
    let set = import_all(&config, dir.path(), &Context::default()).unwrap();
    let open = |p| Dataset::open(&Artifact::open(p).unwrap()).unwrap();
    let (train, val, test) = (open(&set.train), open(&set.val), open(&set.test));
    assert_eq!(train.info().counts, [4999; 10]);
    assert_eq!(val.info().counts, [1; 10]);
    assert_eq!(test.info().counts, [1000; 10]);
    assert_eq!(train.info().classes[6], "frog");
    let all = Both(&train, &val);
    let stats = channel_stats(&all).unwrap();
    expect(&stats.mean, &[0.491_399_68, 0.482_158_41, 0.446_530_91], 5e-9);
    expect(&stats.std, &[0.247_032_23, 0.243_485_13, 0.261_587_84], 5e-9);
}

#[test]
fn all_of_fashion_mnist() {
    let system = PathBuf::from("/usr/share/datasets/fashion-mnist");
    let Some(path) = found(system, "Fashion-MNIST (Debian's package dataset-fashion-mnist)") else { return };
    let config =
        ImportConfig { path: Some(path), val_per_class: Some(1000), ..ImportConfig::named(NamedSet::FashionMnist) };
    let dir = tempfile::tempdir().unwrap();
    let set = import_all(&config, dir.path(), &Context::default()).unwrap();
    let open = |p| Dataset::open(&Artifact::open(p).unwrap()).unwrap();
    let (train, val) = (open(&set.train), open(&set.val));
    assert_eq!((train.info().split, train.info().counts.clone()), (Split::Train, vec![5000; 10]));
    assert_eq!(val.info().counts, [1000; 10]);
    assert_eq!(open(&set.test).info().counts, [1000; 10]);
    assert_eq!(train.info().classes[9], "Ankle boot");
    let stats = channel_stats(&Both(&train, &val)).unwrap();
    expect(&stats.mean, &[0.2860], 5e-5);
    expect(&stats.std, &[0.3530], 5e-5);

    // As the paper takes it: padded to 32. The mean shrinks by the area.
    let padded = ImportConfig { size: Some(32), fit: Some(Fit::Pad), ..config };
    let set = import_all(&padded, &dir.path().join("padded"), &Context::default()).unwrap();
    let stats = channel_stats(&Both(&open(&set.train), &open(&set.val))).unwrap();
    expect(&stats.mean, &[0.2860 * 784.0 / 1024.0], 5e-5);
}

/// Two sets as one.
struct Both<'a>(&'a Dataset, &'a Dataset);

impl Rows for Both<'_> {
    fn info(&self) -> &gafi_core::DatasetInfo {
        self.0.info()
    }
    fn len(&self) -> usize {
        self.0.len() + self.1.len()
    }
    fn label(&self, row: usize) -> gafi_core::ClassId {
        if row < self.0.len() { self.0.label(row) } else { self.1.label(row - self.0.len()) }
    }
    fn read(&self, rows: &[usize], images: &mut [u8]) -> gafi_core::Result<()> {
        let bytes = self.info().image.bytes();
        for (&row, image) in rows.iter().zip(images.chunks_exact_mut(bytes)) {
            match row.checked_sub(self.0.len()) {
                None => self.0.read(&[row], image)?,
                Some(row) => self.1.read(&[row], image)?,
            }
        }
        Ok(())
    }
}
