//! The epoch loop: which epoch it keeps, and that an interrupted training ends like an uninterrupted one.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use gafi_core::*;
use serde_json::{Value, json};

use crate::common::*;
use crate::scores::{Table, numbered};

/// A point at which something fails once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// A stop is requested before the n-th epoch, or during it.
    Before(u32),
    Amid(u32),
    /// The data, the weights, the snapshot or the data's snapshot of the n-th epoch fail.
    Data(u32),
    Weights(u32),
    Snapshot(u32),
    DataSnapshot(u32),
}

type Faults = Arc<Mutex<Vec<Fault>>>;

fn strike(faults: &Faults, fault: Fault) -> Result<()> {
    let mut faults = faults.lock().unwrap();
    if let Some(at) = faults.iter().position(|f| *f == fault) {
        faults.remove(at);
        return Err(if matches!(fault, Fault::Amid(_)) {
            Error::Interrupted
        } else {
            Error::config("fault", format!("{fault:?}"), "none")
        });
    }
    Ok(())
}

/// A learner whose state is a hash of every pixel it saw; a table gives its accuracy after each epoch.
struct Fake {
    right: Vec<usize>,
    epoch: u32,
    seen: u64,
    loss: f64,
    faults: Faults,
    trained: Arc<AtomicU32>,
}

/// The validation set has ten images of two classes.
const VAL: [u32; 10] = [0, 1, 0, 1, 0, 1, 0, 1, 0, 1];

impl Learner for Fake {
    fn epochs(&self) -> u32 {
        self.right.len() as u32
    }
    fn epoch(&self) -> u32 {
        self.epoch
    }
    fn train_epoch(&mut self, data: &dyn Rows, cx: &RunControl) -> Result<EpochReport> {
        cx.checkpoint()?;
        strike(&self.faults, Fault::Amid(self.epoch + 1))?;
        let mut images = vec![0; data.len() * data.info().image.bytes()];
        data.read(&(0..data.len()).collect::<Vec<_>>(), &mut images)?;
        for byte in images {
            self.seen = (self.seen ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        self.epoch += 1;
        self.trained.fetch_add(1, Ordering::SeqCst);
        // A loss that has no short decimal form.
        Ok(EpochReport {
            loss: self.loss + 1.0 / (self.seen as f64 + 3.0),
            accuracy: 1.0 / 3.0,
            images: data.len() as u64,
        })
    }
    fn scorer(&mut self) -> Result<Box<dyn Scorer + '_>> {
        let right = self.right[self.epoch as usize - 1];
        let answer =
            |row: usize, label: u32| if (row < right) == (label == 0) { vec![1.0, 0.0] } else { vec![0.0, 1.0] };
        let answers = VAL.iter().enumerate().map(|(row, &label)| answer(row, label)).collect();
        Ok(Box::new(Table { image: IMAGE, classes: 2, answers }))
    }
    fn snapshot(&self) -> Result<Vec<u8>> {
        strike(&self.faults, Fault::Snapshot(self.epoch))?;
        Ok(format!("{} {}", self.epoch, self.seen).into_bytes())
    }
    fn restore(&mut self, snapshot: &[u8]) -> Result<()> {
        let text = String::from_utf8(snapshot.to_vec()).unwrap();
        let (epoch, seen) = text.split_once(' ').unwrap();
        (self.epoch, self.seen) = (epoch.parse().unwrap(), seen.parse().unwrap());
        Ok(())
    }
    fn weights(&self) -> Result<Vec<u8>> {
        strike(&self.faults, Fault::Weights(self.epoch))?;
        Ok(format!("weights of epoch {} after {}", self.epoch, self.seen).into_bytes())
    }
    fn architecture(&self) -> ArchitectureSpec {
        ArchitectureSpec::named("fake").with("depth", 3)
    }
}

/// A set that is renewed each epoch from the previous one. Like a large set, it stores its content beside its snapshot.
struct Renewed {
    set: MemoryDataset,
    drawn: u64,
    epoch: u32,
    faults: Faults,
}

impl Renewed {
    fn new(faults: &Faults) -> Self {
        Self { set: numbered(Split::Synthetic, &[0, 1, 0, 1], 2), drawn: 0, epoch: 0, faults: faults.clone() }
    }
}

impl EpochData for Renewed {
    fn rows(&mut self, epoch: u32, out: &ArtifactWriter, cx: &Context) -> Result<(&dyn Rows, u64)> {
        assert_eq!(epoch, self.epoch, "epochs come in order, each once");
        strike(&self.faults, Fault::Data(epoch + 1))?;
        if strike(&self.faults, Fault::Before(epoch + 1)).is_err() {
            cx.stop.store(true, Ordering::Relaxed);
        }
        let row = epoch as usize % 4;
        let pixel = self.set.images()[(row + 1) % 4 * 6].wrapping_mul(31).wrapping_add(self.drawn as u8);
        self.set.replace(row, &[pixel; 6]);
        self.drawn += 3;
        self.epoch += 1;
        out.save_state(&format!("set-{}", self.epoch), self.set.images())?;
        Ok((&self.set, 1))
    }
    fn snapshot(&self) -> Result<Value> {
        strike(&self.faults, Fault::DataSnapshot(self.epoch))?;
        Ok(json!({"epoch": self.epoch, "drawn": self.drawn}))
    }
    fn restore(&mut self, snapshot: Value, out: &ArtifactWriter) -> Result<()> {
        self.epoch = snapshot["epoch"].as_u64().unwrap() as u32;
        self.drawn = snapshot["drawn"].as_u64().unwrap();
        let images = out.load_state(&format!("set-{}", self.epoch))?.unwrap();
        images.chunks(6).enumerate().for_each(|(row, image)| self.set.replace(row, image));
        Ok(())
    }
    fn tally(&self) -> Option<Tally> {
        Some(Tally { classes: vec![ClassTally::new(self.drawn, u64::from(self.epoch), 0); 2] })
    }
}

/// A stage that trains a [`Fake`].
struct Train {
    right: Vec<usize>,
    loss: f64,
    faults: Faults,
    trained: Arc<AtomicU32>,
}

impl Train {
    fn new(right: &[usize], faults: &[Fault]) -> Self {
        Self {
            right: right.to_vec(),
            loss: 0.0,
            faults: Arc::new(Mutex::new(faults.to_vec())),
            trained: Arc::default(),
        }
    }

    fn run(&self, dest: &Path) -> Result<Artifact> {
        let (right, faults, trained, loss) = (self.right.clone(), self.faults.clone(), self.trained.clone(), self.loss);
        let mut stage = Made::new(Kind::Classifier, move |_, out, cx| {
            let (faults, trained) = (faults.clone(), trained.clone());
            let mut data = Renewed::new(&faults);
            let mut learner = Fake { right: right.clone(), epoch: 0, seen: 7, loss, faults, trained };
            let val = ValSet::new(Box::new(numbered(Split::Val, &VAL, 2)))?;
            fit(&mut learner, &mut data, &val, json!({"lr": 0.1}), out, cx).map(drop)
        });
        stage.config = json!(self.right);
        make(&stage, dest).map(|outcome| outcome.artifact)
    }
}

fn record(artifact: &Artifact) -> TrialRecord {
    artifact.read_json(TRIAL_FILE).unwrap()
}

#[test]
fn the_first_best_epoch_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    for (right, chosen) in
        [(&[3, 7, 7, 5][..], 2), (&[0, 0], 1), (&[1, 2, 3], 3), (&[9], 1), (&[10, 10, 10], 1), (&[4, 3, 2, 4], 1)]
    {
        let artifact = Train::new(right, &[]).run(&dir.path().join(format!("{right:?}"))).unwrap();
        let record = record(&artifact);
        assert_eq!((record.chosen_epoch, record.val.accuracy()), (chosen, right[chosen as usize - 1] as f64 / 10.0));
        assert_eq!(
            record.epochs.iter().map(|e| e.epoch).collect::<Vec<_>>(),
            (1..=right.len() as u32).collect::<Vec<_>>()
        );
        assert_eq!(record.epochs[chosen as usize - 1].val, record.val);
        let weights = String::from_utf8(artifact.read(WEIGHTS_FILE).unwrap()).unwrap();
        assert!(weights.starts_with(&format!("weights of epoch {chosen} ")), "{weights}");
        let drawn = 3 * right.len() as u64;
        assert_eq!(record.tally.unwrap().total().drawn, 2 * drawn);
        assert_eq!((record.protocol, record.setting), (Protocol::Holdout, json!({"lr": 0.1})));
        assert_eq!(names(artifact.path()), ["log.jsonl", "manifest.json", "trial.json", "weights.safetensors"]);
        let info: ClassifierInfo = artifact.content().unwrap();
        assert_eq!(info.architecture, ArchitectureSpec::named("fake").with("depth", 3));
        assert_eq!((info.image, info.classes), (IMAGE, vec!["c0".to_string(), "c1".into()]));
    }
}

/// Interrupted before, during and after every epoch, and between any two of the files saved after it.
#[test]
fn interrupted_trainings_end_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let right = [2, 5, 4, 8, 8, 1];
    let whole = Train::new(&right, &[]);
    let want = whole.run(&dir.path().join("want")).unwrap();
    let faults = [Fault::Before, Fault::Amid, Fault::Data, Fault::Weights, Fault::Snapshot, Fault::DataSnapshot];
    for fault in faults {
        for epoch in 1..=6 {
            if fault(epoch) == Fault::Weights(epoch) && [3, 5, 6].contains(&epoch) {
                continue; // not a new best: no weights are taken
            }
            let train = Train::new(&right, &[fault(epoch)]);
            let dest = dir.path().join(format!("{:?}", fault(epoch)));
            train.run(&dest).unwrap_err();
            assert!(!dest.exists());
            let got = train.run(&dest).unwrap();
            assert_eq!(got.id(), want.id(), "{:?}", fault(epoch));
            assert_eq!(tree(got.path()), tree(want.path()), "{:?}", fault(epoch));
            // At most one epoch is lost.
            let lost =
                u32::from(matches!(fault(epoch), Fault::Weights(_) | Fault::Snapshot(_) | Fault::DataSnapshot(_)));
            assert_eq!(train.trained.load(Ordering::SeqCst), 6 + lost, "{:?}", fault(epoch));
        }
    }
    // Interrupted after every epoch.
    let train = Train::new(&right, &(1..=6).flat_map(|e| [Fault::Before(e), Fault::Snapshot(e)]).collect::<Vec<_>>());
    let dest = dir.path().join("often");
    let cuts = (0..).take_while(|_| train.run(&dest).is_err()).count();
    assert_eq!(cuts, 12);
    assert_eq!(tree(&dest), tree(want.path()));
}

#[test]
fn resume_state_does_not_grow_with_the_epochs() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("x");
    Train::new(&[1, 2, 3, 4, 3, 2, 1], &[Fault::Before(7)]).run(&dest).unwrap_err();
    let mut saved = names(&dir.path().join(".x.partial/state"));
    saved.retain(|name| !name.starts_with("set-"));
    assert_eq!(saved, ["best-00004.safetensors", "fit.json", "learner-00006.safetensors"]);
}

#[test]
fn a_diverged_training_leaves_no_artifact() {
    let dir = tempfile::tempdir().unwrap();
    for loss in [f64::NAN, f64::INFINITY] {
        let train = Train { loss, ..Train::new(&[1, 2], &[]) };
        let error = train.run(&dir.path().join("x")).unwrap_err();
        assert!(
            matches!(&error, Error::NonFinite { step: 0, term, .. } if term.contains("loss of epoch 1")),
            "{error}"
        );
        // The data had saved state; the failed epoch is in no record.
        assert_eq!(names(dir.path()), [".x.partial"]);
        assert_eq!(names(&dir.path().join(".x.partial/state")), ["set-1"]);
    }
}

#[test]
fn zero_epochs_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = Train::new(&[], &[]).run(&dir.path().join("x")).unwrap_err();
    assert!(matches!(&error, Error::Config { key, .. } if key == "epochs"), "{error}");
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn inconsistent_resume_state_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("x");
    let state = dir.path().join(".x.partial/state");
    let cut = || Train::new(&[1, 2, 3, 4], &[Fault::Before(4)]).run(&dest).unwrap_err();
    cut();
    std::fs::remove_file(state.join("learner-00003.safetensors")).unwrap();
    let error = Train::new(&[1, 2, 3, 4], &[]).run(&dest).unwrap_err().to_string();
    assert!(error.contains(".x.partial: resume state: expected a file \"learner-00003.safetensors\""), "{error}");
    std::fs::write(state.join("learner-00003.safetensors"), "2 7").unwrap();
    let error = Train::new(&[1, 2, 3, 4], &[]).run(&dest).unwrap_err().to_string();
    assert!(error.contains("expected epoch 3, found epoch 2"), "{error}");
}

#[test]
fn fixed_images_are_new_once() {
    let set = numbered(Split::Train, &[0, 1, 1], 2);
    let dir = tempfile::tempdir().unwrap();
    let stage = Made::new(Kind::Classifier, |_, out, cx| {
        let set = numbered(Split::Train, &[0, 1, 1], 2);
        let mut learner =
            Fake { right: vec![1, 2], epoch: 0, seen: 7, loss: 0.0, faults: Arc::default(), trained: Arc::default() };
        let val = ValSet::new(Box::new(numbered(Split::Val, &VAL, 2)))?;
        let record = fit(&mut learner, &mut FixedData(&set), &val, Value::Null, out, cx)?;
        assert_eq!(record.epochs.iter().map(|e| e.renewed).collect::<Vec<_>>(), [set.len() as u64, 0]);
        assert_eq!(record.tally, None);
        Ok(())
    });
    let artifact = make(&stage, &dir.path().join("x")).unwrap().artifact;
    assert_eq!(record(&artifact).epochs[0].renewed, set.len() as u64);
}
