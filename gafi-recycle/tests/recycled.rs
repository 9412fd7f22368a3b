//! `Recycled`, with a source that writes class and id of each sample into its pixels.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::Ordering;

use common::{CLASSES, Named, ids};
use gafi_core::{
    ArtifactWriter, Batch, ClassId, ClassTally, Context, Cursor, EpochData, Error, ImageSpec, Kind, Provenance,
    SampleSource, Split, Stream, Tally,
};
use gafi_recycle::{Plan, Recycled, Renewal};
use serde_json::{Value, json};

fn plan(renewal: Option<Renewal>, per_class: usize) -> Plan {
    Plan::new(renewal, CLASSES, per_class, Stream::new(9)).unwrap()
}

fn writer(dir: &Path) -> ArtifactWriter {
    let made_by = Provenance {
        stage: "test".into(),
        revision: 1,
        config: Value::Null,
        inputs: BTreeMap::new(),
        version: String::new(),
    };
    ArtifactWriter::begin(&dir.join("student"), Kind::Classifier, made_by).unwrap()
}

#[test]
fn renews_by_plan_and_never_repeats_a_sample() {
    let (dir, cx) = (tempfile::tempdir().unwrap(), Context::default());
    let out = writer(dir.path());
    let renewal = Renewal { period: 2, factor: 0.3 };
    let plan = plan(Some(renewal), 20);
    let mut data = Recycled::new(Named::new(u64::MAX), plan.clone()).unwrap();
    assert!(data.pool().is_none());
    let (mut before, mut seen) = (Vec::new(), BTreeSet::new());
    for epoch in 0..9 {
        let (rows, renewed) = data.rows(epoch, &out, &cx).unwrap();
        assert_eq!(rows.info().counts, [20, 20]);
        assert_eq!(rows.info().split, Split::Synthetic);
        let now = ids(rows);
        let changed: Vec<usize> = (0..40).filter(|&row| before.get(row) != Some(&now[row])).collect();
        let expected = plan.begins(epoch).map_or(Vec::new(), |generation| plan.replaced(generation));
        assert_eq!(changed, expected, "epoch {epoch}");
        assert_eq!(renewed as usize, changed.len());
        assert_eq!(changed.len(), [40, 0, 12, 0, 12, 0, 12, 0, 12][epoch as usize]);
        for &row in &changed {
            assert!(seen.insert((row / 20, now[row])), "sample {} of class {} came twice", now[row], row / 20);
        }
        before = now;
    }
    assert_eq!(data.tally().unwrap().classes, [const { ClassTally::new(88, 44, 0) }; 2]);
    assert_eq!(plan.drawn_by(4), 44);
}

#[test]
fn resumes_after_every_epoch() {
    let cx = Context::default();
    for renewal in [
        None,
        Some(Renewal { period: 1, factor: 1.0 }),
        Some(Renewal { period: 1, factor: 0.5 }),
        Some(Renewal { period: 3, factor: 1.0 }),
        Some(Renewal { period: 2, factor: 0.25 }),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let out = writer(dir.path());
        let mut whole = Recycled::new(Named::new(u64::MAX), plan(renewal, 8)).unwrap();
        for epoch in 0..7 {
            whole.rows(epoch, &out, &cx).unwrap();
            let snapshot = whole.snapshot().unwrap();
            let mut resumed = Recycled::new(Named::new(u64::MAX), plan(renewal, 8)).unwrap();
            resumed.restore(snapshot.clone(), &out).unwrap();
            assert_eq!(resumed.snapshot().unwrap(), snapshot);
            assert_eq!(resumed.tally(), whole.tally());

            // If a process is killed during the next epoch, its successor resumes from the same snapshot.
            let (rows, renewed) = resumed.rows(epoch + 1, &out, &cx).unwrap();
            let first = (ids(rows), renewed);
            let mut again = Recycled::new(Named::new(u64::MAX), plan(renewal, 8)).unwrap();
            again.restore(snapshot, &out).unwrap();
            let (rows, renewed) = again.rows(epoch + 1, &out, &cx).unwrap();
            assert_eq!((ids(rows), renewed), first, "{renewal:?}, epoch {epoch}");
        }
        let pools = std::fs::read_dir(out.dir().join("state")).unwrap().count();
        assert!(pools <= 2, "{pools} old sets are kept");
    }
}

#[test]
fn lost_or_damaged_state_is_an_error() {
    let (dir, cx) = (tempfile::tempdir().unwrap(), Context::default());
    let out = writer(dir.path());
    let new = || Recycled::new(Named::new(u64::MAX), plan(Some(Renewal { period: 2, factor: 0.5 }), 8)).unwrap();
    let mut data = new();
    assert!(data.snapshot().is_err(), "nothing to note before the first epoch");
    assert!(new().rows(1, &out, &cx).is_err(), "epochs begin with 0");
    data.rows(0, &out, &cx).unwrap();
    let snapshot = data.snapshot().unwrap();
    assert!(data.rows(2, &out, &cx).is_ok());

    out.save_state("pool-0", &[1, 2, 3]).unwrap();
    let error = new().restore(snapshot.clone(), &out).unwrap_err().to_string();
    assert!(error.contains("pool-0") && error.contains("144 bytes") && error.contains("3 bytes"), "{error}");
    out.drop_state("pool-0").unwrap();
    let mut lost = new();
    lost.restore(snapshot, &out).unwrap();
    assert!(lost.rows(1, &out, &cx).is_err());
    assert!(lost.rows(2, &out, &cx).is_err());
    assert!(new().restore(json!({"generation": 0}), &out).is_err());
    let three = Plan::new(None, 3, 8, Stream::new(0)).unwrap();
    assert!(Recycled::new(Named::new(1), three).unwrap_err().is_usage());
}

#[test]
fn source_that_ends_is_an_error() {
    let (dir, cx) = (tempfile::tempdir().unwrap(), Context::default());
    let out = writer(dir.path());
    let mut data = Recycled::new(Named::new(10), plan(Some(Renewal { period: 1, factor: 0.5 }), 8)).unwrap();
    data.rows(0, &out, &cx).unwrap();
    let Err(Error::Exhausted(exhausted)) = data.rows(1, &out, &cx) else { panic!("ten samples do not make twelve") };
    let counts = ClassTally::new(20, 10, 0);
    let expected = [(ClassId(0), 12, &counts), (ClassId(1), 12, &counts)];
    assert_eq!(exhausted.classes().collect::<Vec<_>>(), expected, "both classes in one error");
    assert!(data.rows(1, &out, &cx).is_err() && data.snapshot().is_err(), "half a renewal is not a generation");

    let stopped = Context::default();
    stopped.stop.store(true, Ordering::Relaxed);
    let mut data = Recycled::new(Named::new(10), plan(None, 8)).unwrap();
    assert!(matches!(data.rows(0, &out, &stopped), Err(Error::Interrupted)));
}

/// A source with soft labels that depend on the id.
#[derive(Debug)]
struct Judged(Named);

fn opinion(id: u64) -> [f32; 2] {
    let p = (id % 97) as f32 / 97.0;
    [p, 1.0 - p]
}

impl SampleSource for Judged {
    fn image(&self) -> &ImageSpec {
        self.0.image()
    }
    fn classes(&self) -> &[String] {
        self.0.classes()
    }
    fn pull(&mut self, class: ClassId, max: NonZeroUsize) -> gafi_core::Result<Option<Batch>> {
        let judge = |batch: Batch| Batch {
            probabilities: Some(batch.ids.iter().flat_map(|&id| opinion(id)).collect()),
            ..batch
        };
        Ok(self.0.pull(class, max)?.map(judge))
    }
    fn tally(&self) -> Tally {
        self.0.tally()
    }
    fn cursor(&self, class: ClassId) -> Cursor {
        self.0.cursor(class)
    }
    fn seek(&mut self, class: ClassId, cursor: &Cursor) -> gafi_core::Result<()> {
        self.0.seek(class, cursor)
    }
}

#[test]
fn soft_labels_stay_with_their_images() {
    let (dir, cx) = (tempfile::tempdir().unwrap(), Context::default());
    let out = writer(dir.path());
    let plan = plan(Some(Renewal { period: 1, factor: 0.4 }), 10);
    let mut data = Recycled::new(Judged(Named::new(u64::MAX)), plan.clone()).unwrap();
    let all: Vec<usize> = (0..20).collect();
    for epoch in 0..6 {
        // Every second epoch in another process.
        if epoch % 2 == 1 {
            let snapshot = data.snapshot().unwrap();
            data = Recycled::new(Judged(Named::new(u64::MAX)), plan.clone()).unwrap();
            data.restore(snapshot, &out).unwrap();
        }
        let (rows, _) = data.rows(epoch, &out, &cx).unwrap();
        let expected: Vec<f32> = ids(rows).into_iter().flat_map(opinion).collect();
        assert_eq!(rows.probabilities(&all).unwrap(), Some(expected), "epoch {epoch}");
        assert_eq!(rows.probabilities(&[7]).unwrap().unwrap(), opinion(ids(rows)[7]));
    }
}
