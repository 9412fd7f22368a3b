//! Complete real sets have their published statistics: an import loses, swaps and rescales nothing.
//!
//! Ignored by default, because the images aren't in the repository. `cargo test -p gafi-data --test real -- --ignored` runs
//! them, and then a missing set is a failure. CIFAR-10 is a folder of the hub's parquet files, named by
//! `GAFI_TEST_CIFAR10`. Fashion-MNIST is any folder that an import would find, such as that of Debian's package.

use std::path::PathBuf;

use gafi_core::{Artifact, Context, Dataset, Rows, Split};
use gafi_data::{Fit, ImportConfig, NamedSet, channel_stats, import_all};

fn expect(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= tolerance, "{found:?}, expected {expected:?}");
    }
}

fn open(path: &std::path::Path) -> Dataset {
    Dataset::open(&Artifact::open(path).unwrap()).unwrap()
}

#[test]
#[ignore = "needs CIFAR-10: set GAFI_TEST_CIFAR10 to the folder of its parquet files, run with --ignored"]
fn all_of_cifar10_has_its_published_statistics() {
    let path = std::env::var_os("GAFI_TEST_CIFAR10").map(PathBuf::from);
    let path = path
        .expect("set GAFI_TEST_CIFAR10 to the folder of CIFAR-10's parquet files (train-….parquet, test-….parquet)");
    let dir = tempfile::tempdir().unwrap();
    // One validation row per class, so that both splits together are all rows.
    let config = ImportConfig { path: Some(path), val_per_class: Some(1), ..ImportConfig::named(NamedSet::Cifar10) };
    let set = import_all(&config, dir.path(), &Context::default()).unwrap();
    let train = open(&set.train);
    let val = open(set.val.as_ref().unwrap());
    assert_eq!(train.info().counts, [4999; 10]);
    assert_eq!(val.info().counts, [1; 10]);
    assert_eq!(open(set.test.as_ref().unwrap()).info().counts, [1000; 10]);
    assert_eq!(train.info().classes[6], "frog");
    let stats = channel_stats(&Both(&train, &val)).unwrap();
    expect(&stats.mean, &[0.491_399_68, 0.482_158_41, 0.446_530_91], 5e-9);
    expect(&stats.std, &[0.247_032_23, 0.243_485_13, 0.261_587_84], 5e-9);
}

#[test]
#[ignore = "needs Fashion-MNIST: apt-get install dataset-fashion-mnist, run with --ignored"]
fn all_of_fashion_mnist_has_its_published_statistics() {
    let path = NamedSet::FashionMnist.find().unwrap();
    let config = ImportConfig { path, val_per_class: Some(1000), ..ImportConfig::named(NamedSet::FashionMnist) };
    let dir = tempfile::tempdir().unwrap();
    let set = import_all(&config, dir.path(), &Context::default()).unwrap();
    let train = open(&set.train);
    let val = open(set.val.as_ref().unwrap());
    assert_eq!(train.info().split, Split::Train);
    assert_eq!(train.info().counts, [5000; 10]);
    assert_eq!(val.info().counts, [1000; 10]);
    assert_eq!(open(set.test.as_ref().unwrap()).info().counts, [1000; 10]);
    assert_eq!(train.info().classes[9], "Ankle boot");
    let stats = channel_stats(&Both(&train, &val)).unwrap();
    expect(&stats.mean, &[0.2860], 5e-5);
    expect(&stats.std, &[0.3530], 5e-5);

    // Padded to 32, as in the paper: the zero padding scales the mean by the ratio of the areas.
    let padded = ImportConfig { size: Some(32), fit: Some(Fit::Pad), ..config };
    let set = import_all(&padded, &dir.path().join("padded"), &Context::default()).unwrap();
    let stats = channel_stats(&Both(&open(&set.train), &open(set.val.as_ref().unwrap()))).unwrap();
    expect(&stats.mean, &[0.2860 * 784.0 / 1024.0], 5e-5);
}

/// Two datasets as one.
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
