//! Datasets: written rows and shards are read back.

use std::sync::Arc;

use gafi_core::*;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::common::*;

/// Writes `batches` as a dataset of `classes` classes.
fn write(dir: &std::path::Path, image: ImageSpec, classes: usize, batches: Vec<Batch>) -> Result<Artifact> {
    let names: Vec<String> = (0..classes).map(|c| format!("c{c}")).collect();
    let stage = Made::new(Kind::Dataset, move |_, out, _| {
        let (mut writer, _) = DatasetWriter::begin(out, DatasetInfo::new(image, names.clone(), Split::Synthetic))?;
        for batch in &batches {
            writer.push(batch, Value::Null)?;
        }
        writer.finish().map(drop)
    });
    make(&stage, dir).map(|outcome| outcome.artifact)
}

/// `n` rows from `from`, with the columns set in the bits of `columns`.
fn some_rows(from: usize, n: usize, image: &ImageSpec, classes: usize, columns: u8) -> Batch {
    let mut rng = Stream::new(from as u64).rng();
    let mut unit = || stream::unit_f32(&mut rng);
    Batch {
        labels: (from..from + n).map(|r| ClassId((r % classes) as u32)).collect(),
        images: (0..n * image.bytes()).map(|i| ((from * image.bytes() + i) * 37 / 5) as u8).collect(),
        ids: if columns & 1 != 0 { (from..from + n).map(|r| r as u64 * 3).collect() } else { Vec::new() },
        confidence: (columns & 2 != 0).then(|| (0..n).map(|_| unit()).collect()),
        probabilities: (columns & 4 != 0).then(|| (0..n * classes).map(|_| unit()).collect()),
    }
}

fn joined(batches: impl IntoIterator<Item = Batch>) -> Batch {
    batches
        .into_iter()
        .reduce(|mut a, b| {
            a.labels.extend(b.labels);
            a.images.extend(b.images);
            a.ids.extend(b.ids);
            for (to, from) in [(&mut a.confidence, b.confidence), (&mut a.probabilities, b.probabilities)] {
                if let (Some(to), Some(from)) = (to, from) {
                    to.extend(from);
                }
            }
            a
        })
        .unwrap_or_default()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Batches of any size up to a shard, over several shards, with any columns.
    #[test]
    fn round_trip(
        sizes in proptest::collection::vec(prop_oneof![0..50usize, 4000..=SHARD_ROWS], 1..7),
        (c, h, w) in (prop_oneof![Just(1usize), Just(3)], 1..4usize, 1..4usize),
        classes in 1..5usize,
        columns in 0..8u8,
        picks in proptest::collection::vec(any::<proptest::sample::Index>(), 1..40),
    ) {
        let image = ImageSpec::new(c, h, w);
        let mut batches = vec![some_rows(0, classes, &image, classes, columns)];
        let mut from = classes;
        for n in sizes {
            batches.push(some_rows(from, n, &image, classes, columns));
            from += n;
        }
        let dir = tempfile::tempdir().unwrap();
        let artifact = write(&dir.path().join("x"), image, classes, batches.clone()).unwrap();
        artifact.verify().unwrap();
        let set = Dataset::open(&artifact).unwrap();
        let mut want = joined(batches);
        if columns & 1 == 0 {
            want.ids = (0..from as u64).collect();
        }
        prop_assert_eq!(set.len(), from);
        prop_assert!(set.info().shards.iter().all(|s| (1..=SHARD_ROWS).contains(&s.rows)));
        prop_assert_eq!(set.info().shards.iter().map(|s| s.rows).sum::<usize>(), from);
        prop_assert_eq!(set.info().rows(), from as u64);
        let streamed = joined(set.batches().map(|s| s.unwrap()));
        prop_assert_eq!(&streamed, &want);
        prop_assert_eq!(set.labels(), &want.labels[..]);
        // Single rows in any order, with repeats, equal the streamed ones.
        let picks: Vec<usize> = picks.iter().map(|i| i.index(from)).chain([0, from - 1]).collect();
        let mut images = vec![0; picks.len() * image.bytes()];
        set.read(&picks, &mut images).unwrap();
        let pixels: Vec<&[u8]> = want.images.chunks(image.bytes()).collect();
        let picked: Vec<u8> = picks.iter().flat_map(|&row| pixels[row].to_vec()).collect();
        prop_assert_eq!(&images, &picked);
        for (class, &n) in set.info().counts.iter().enumerate() {
            prop_assert_eq!(n as usize, want.labels.iter().filter(|l| l.index() == class).count());
        }
    }
}

#[test]
fn shards_end_before_a_batch_that_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let shards = |sizes: &[usize], name: &str| -> Vec<usize> {
        let mut from = 0;
        let batches = sizes.iter().map(|&n| {
            from += n;
            some_rows(from - n, n, &IMAGE, 1, 0)
        });
        let artifact = write(&dir.path().join(name), IMAGE, 1, batches.collect()).unwrap();
        DatasetInfo::of(&artifact).unwrap().shards.iter().map(|s| s.rows).collect()
    };
    assert_eq!(shards(&[SHARD_ROWS], "a"), [SHARD_ROWS]);
    assert_eq!(shards(&[SHARD_ROWS, 1], "b"), [SHARD_ROWS, 1]);
    assert_eq!(shards(&[1, SHARD_ROWS], "c"), [1, SHARD_ROWS]);
    assert_eq!(shards(&[SHARD_ROWS - 1, 1, 1], "d"), [SHARD_ROWS, 1]);
    assert_eq!(shards(&[0, 5, 0, 0, SHARD_ROWS - 5, 0], "e"), [SHARD_ROWS]);
    let error = write(&dir.path().join("f"), IMAGE, 1, vec![some_rows(0, SHARD_ROWS + 1, &IMAGE, 1, 0)]).unwrap_err();
    assert!(error.to_string().contains("rows: expected 8193"), "{error}");
}

#[test]
fn a_bad_batch_is_refused_with_place_and_value() {
    let dir = tempfile::tempdir().unwrap();
    let good = || some_rows(0, 4, &IMAGE, 2, 7);
    let refused = |change: &dyn Fn(&mut Batch)| {
        let mut bad = good();
        change(&mut bad);
        let error = write(&dir.path().join("x"), IMAGE, 2, vec![good(), bad]).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{error}");
        assert_eq!(names(dir.path()), [""; 0]);
        error.to_string()
    };
    let says = |error: String, what: &str| assert!(error.contains(what), "{what:?} is not in {error}");
    says(refused(&|b| b.labels[3] = ClassId(2)), "batch after row 4: labels: expected a class below 2, found class 2");
    says(refused(&|b| b.images.truncate(23)), "images: expected 24 values for 4 rows, found 23");
    says(refused(&|b| b.ids.truncate(3)), "index: expected 4");
    says(
        refused(&|b| b.confidence.as_mut().unwrap()[2] = f32::NAN),
        "confidence, row 2: expected a probability from 0 to 1, found NaN",
    );
    says(refused(&|b| b.confidence.as_mut().unwrap()[2] = -0.5), "found -0.5");
    says(refused(&|b| b.confidence.as_mut().unwrap().truncate(2)), "confidence: expected 4");
    says(
        refused(&|b| b.probabilities.as_mut().unwrap()[5] = f32::INFINITY),
        "probabilities, row 2: expected a probability",
    );
    says(refused(&|b| b.probabilities.as_mut().unwrap().truncate(4)), "probabilities: expected 8 values");
    says(
        refused(&|b| b.confidence = None),
        "columns: expected images, labels, index, confidence, probabilities, as in the batches before, found images, labels, index, probabilities",
    );
    says(refused(&|b| b.ids.clear()), "columns");
}

/// Also across shards, when earlier batches are no longer in memory, and across an interruption.
#[test]
fn columns_stay_the_same_across_shards_and_processes() {
    let dir = tempfile::tempdir().unwrap();
    let full = some_rows(0, SHARD_ROWS, &IMAGE, 2, 0);
    let other = some_rows(0, 10, &IMAGE, 2, 2);
    let error = write(&dir.path().join("x"), IMAGE, 2, vec![full.clone(), full.clone(), other.clone()]).unwrap_err();
    assert!(error.to_string().contains("columns"), "{error}");
    let stage = Made::new(Kind::Dataset, move |_, out, _| {
        let info = DatasetInfo::new(IMAGE, vec!["a".into(), "b".into()], Split::Train);
        let (mut writer, at) = DatasetWriter::begin(out, info)?;
        match at {
            None => {
                writer.push(&full, json!(1))?;
                writer.push(&full, json!(2))?;
                Err(Error::Interrupted)
            }
            Some(at) => {
                assert_eq!((at, writer.rows(), writer.counts()), (json!(1), 8192, &[4096, 4096][..]));
                writer.push(&other, json!(2))
            }
        }
    });
    assert!(matches!(make(&stage, &dir.path().join("y")), Err(Error::Interrupted)));
    assert!(make(&stage, &dir.path().join("y")).unwrap_err().to_string().contains("columns"));
}

#[test]
fn an_empty_class_and_an_empty_set_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut zeros = some_rows(0, 4, &IMAGE, 1, 0);
    zeros.labels = vec![ClassId(0); 4];
    let error = write(&dir.path().join("x"), IMAGE, 2, vec![zeros]).unwrap_err().to_string();
    assert!(error.contains("class 1 (c1): expected at least one row, found none"), "{error}");
    assert!(write(&dir.path().join("x"), IMAGE, 2, vec![]).unwrap_err().to_string().contains("class 0 (c0)"));
    assert!(write(&dir.path().join("x"), IMAGE, 0, vec![]).unwrap_err().to_string().contains("1 to 2^20 names"));
    assert!(
        write(&dir.path().join("x"), ImageSpec::new(1, 0, 3), 1, vec![])
            .unwrap_err()
            .to_string()
            .contains("1 to 2^28 values")
    );
    assert_eq!(names(dir.path()), [""; 0]);
}

/// A description copied from another set does not count its rows.
#[test]
fn a_writer_counts_its_own_rows_only() {
    let dir = tempfile::tempdir().unwrap();
    let other = make(&Count::of(10), &dir.path().join("other")).unwrap().artifact;
    let info = DatasetInfo::of(&other).unwrap();
    let stage = Made::new(Kind::Dataset, move |_, out, _| {
        let (mut writer, _) = DatasetWriter::begin(out, info.clone())?;
        writer.push(&rows(0, 4), Value::Null)?;
        let info = writer.finish()?;
        assert_eq!((&info.counts[..], info.shards.len()), (&[2, 2][..], 1));
        Ok(())
    });
    Dataset::open(&make(&stage, &dir.path().join("x")).unwrap().artifact).unwrap();
}

/// With the file truncated after the first row, the first row can still be read.
#[test]
fn reading_a_row_reads_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = make(&Count::of(8000), &dir.path().join("x")).unwrap().artifact;
    let set = Dataset::open(&artifact).unwrap();
    let shard = artifact.path().join("shard-00000.safetensors");
    // Images are the last column, because their type needs the least alignment.
    let length = std::fs::metadata(&shard).unwrap().len() - 7999 * IMAGE.bytes() as u64;
    std::fs::OpenOptions::new().write(true).open(&shard).unwrap().set_len(length).unwrap();
    let mut image = vec![0; IMAGE.bytes()];
    set.read(&[0], &mut image).unwrap();
    assert_eq!(image, rows(0, 1).images);
    let error = set.read(&[1], &mut image).unwrap_err().to_string();
    assert!(error.contains("shard-00000.safetensors"), "{error}");
    assert!(set.batches().next().unwrap().is_err());
}

/// More shards than a process may have files open.
#[test]
fn a_dataset_of_many_shards_opens() {
    let dir = tempfile::tempdir().unwrap();
    let mut info = DatasetInfo::new(IMAGE, classes(), Split::Train);
    let source = make(&Count::of(2), &dir.path().join("one")).unwrap().artifact;
    let bytes = source.read("shard-00000.safetensors").unwrap();
    let files: Vec<(String, Vec<u8>)> = (0..1500).map(|i| (format!("s{i}"), bytes.clone())).collect();
    info.counts = vec![1500, 1500];
    info.shards = files.iter().map(|(file, _)| ShardInfo { file: file.clone(), rows: 2 }).collect();
    let files: Vec<(&str, Vec<u8>)> = files.iter().map(|(n, b)| (n.as_str(), b.clone())).collect();
    let path = by_hand(&dir.path().join("x"), Kind::Dataset, json!(info), &files);
    let set = Dataset::open(&Artifact::open(path).unwrap()).unwrap();
    let mut images = vec![0; 3 * IMAGE.bytes()];
    set.read(&[0, 2999, 1500], &mut images).unwrap();
    assert_eq!(images[6..12], rows(1, 2).images);
    let open = std::fs::read_dir("/proc/self/fd").map(|d| d.count()).unwrap_or(0);
    assert!(open < 1000, "{open} files are open");
}

#[test]
fn a_subset_is_balanced_and_depends_on_its_stream_alone() {
    let dir = tempfile::tempdir().unwrap();
    let set: Arc<dyn Rows> =
        Arc::new(Dataset::open(&make(&Count::of(9000), &dir.path().join("x")).unwrap().artifact).unwrap());
    let subset = |n, seed| Subset::per_class(set.clone(), n, &Stream::new(seed)).unwrap();
    let all = |s: &Subset| {
        let mut images = vec![0; s.len() * IMAGE.bytes()];
        s.read(&(0..s.len()).collect::<Vec<_>>(), &mut images).unwrap();
        let labels: Vec<_> = (0..s.len()).map(|r| s.label(r)).collect();
        (labels, images)
    };
    let (labels, images) = all(&subset(100, 1));
    assert_eq!(labels.iter().filter(|l| l.0 == 0).count(), 100);
    assert_eq!((labels.len(), subset(100, 1).info().counts.clone()), (200, vec![100, 100]));
    assert_eq!(all(&subset(100, 1)), (labels, images.clone()));
    assert_ne!(all(&subset(100, 2)).1, images);
    // All of them: each once, in the order of the set.
    let whole = rows(0, 9000);
    assert_eq!(all(&subset(4500, 3)), (whole.labels, whole.images));
    // A larger subset of the same stream contains the smaller one, so that sizes can be compared.
    let rows_of = |n| {
        let (_, images) = all(&subset(n, 4));
        images.chunks(IMAGE.bytes()).map(<[u8]>::to_vec).collect::<std::collections::BTreeSet<_>>()
    };
    assert!(rows_of(50).is_subset(&rows_of(500)));
    for n in [4501, usize::MAX] {
        let error = Subset::per_class(set.clone(), n, &Stream::new(1)).err().unwrap().to_string();
        assert!(error.contains("at most the 4500 rows of class 0"), "{error}");
    }
    assert!(subset(0, 1).is_empty());
}

#[test]
fn a_dataset_in_memory_reads_like_one_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Dataset::open(&make(&Count::of(300), &dir.path().join("x")).unwrap().artifact).unwrap();
    let mut memory = MemoryDataset::new(IMAGE, classes(), Split::Train);
    let all = rows(0, 300);
    for (image, &label) in all.images.chunks(IMAGE.bytes()).zip(&all.labels) {
        memory.push(image, label);
    }
    assert_eq!((memory.len(), memory.labels(), memory.images()), (disk.len(), disk.labels(), &all.images[..]));
    assert_eq!(memory.info().counts, disk.info().counts);
    let picks = [299, 0, 17, 17];
    let (mut a, mut b) = (vec![0; 24], vec![1; 24]);
    memory.read(&picks, &mut a).unwrap();
    disk.read(&picks, &mut b).unwrap();
    assert_eq!(a, b);
    memory.replace(17, &[9; 6]);
    memory.read(&picks, &mut a).unwrap();
    assert_eq!((&a[12..18], &a[..6]), (&[9; 6][..], &b[..6]));
}
