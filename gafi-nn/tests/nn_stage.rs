//! The stages `train-classifier` and `evaluate`: results, reuse, resumption, errors.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use candle_core::Device;
use gafi_core::{
    Artifact, ArtifactWriter, Batch, ClassId, Context, DatasetInfo, DatasetWriter, Error, ImageSpec, Inputs, Kind,
    ModelLoaders, Progress, Result, Split, Stage, StageInfo, TRIAL_FILE, Task, TrialRecord, WEIGHTS_FILE, execute,
};
use gafi_nn::augment::AugmentConfig;
use gafi_nn::{ClassifierConfig, Distill, Evaluate, EvaluationRecord, ResNetConfig, TrainClassifier};
use serde_json::{Value, json};

const IMAGE: ImageSpec = ImageSpec::new(1, 8, 8);

/// Images of two classes: horizontal and vertical stripes. The last field swaps the labels.
#[derive(Debug)]
struct Stripes(Split, usize, bool);

impl Stage for Stripes {
    fn info(&self) -> StageInfo {
        StageInfo { name: "stripes", revision: 1, ports: &[], output: Kind::Dataset }
    }
    fn config(&self) -> Value {
        json!({"split": self.0, "n": self.1, "swapped": self.2})
    }
    fn check(&self, _: &Inputs) -> Result<()> {
        Ok(())
    }
    fn run(&self, _: &Inputs, out: &mut ArtifactWriter, _: &Context) -> Result<()> {
        let info = DatasetInfo::new(IMAGE, vec!["horizontal".into(), "vertical".into()], self.0);
        let (mut writer, _) = DatasetWriter::begin(out, info)?;
        let mut batch = Batch::default();
        for i in 0..self.1 {
            batch.labels.push(ClassId((i % 2) as u32 ^ u32::from(self.2)));
            batch.ids.push(i as u64);
            batch.images.extend((0..64usize).map(|at| {
                let line = if i % 2 == 0 { at / 8 } else { at % 8 };
                (if (line + i / 2) % 4 < 2 { 200 } else { 50 }) + ((i * 31 + at * 7) % 40) as u8
            }));
        }
        writer.push(&batch, Value::Null)?;
        writer.finish()?;
        Ok(())
    }
}

fn context() -> Context {
    Context::new(gafi_nn::register(ModelLoaders::default(), &Device::Cpu))
}

fn dataset(dir: &Path, split: Split, n: usize) -> Artifact {
    make(&Stripes(split, n, false), &dir.join(format!("{split}-{n}")))
}

fn make(stripes: &Stripes, dest: &Path) -> Artifact {
    execute(stripes, &Inputs::new(), dest, &context()).unwrap().artifact
}

fn stage() -> TrainClassifier {
    TrainClassifier {
        classifier: ClassifierConfig {
            architecture: ResNetConfig { depth: 8, width: 4 }.into(),
            epochs: 4,
            batch: 16,
            lr: 0.05,
            augment: AugmentConfig { flip: true, crop: 1, ..AugmentConfig::NONE },
            ..Default::default()
        },
        seed: 3,
        per_class: None,
        per_epoch: None,
    }
}

fn inputs(dir: &Path) -> Inputs {
    Inputs::new().with("train", &dataset(dir, Split::Train, 60)).with("val", &dataset(dir, Split::Val, 20))
}

#[test]
fn a_trained_classifier_is_evaluated_and_reused() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let cx = context();
    let made = execute(&stage(), &inputs, &dir.path().join("teacher"), &cx).unwrap();
    assert!(!made.cached && made.artifact.kind() == Kind::Classifier);
    let trial: TrialRecord = made.artifact.read_json(TRIAL_FILE).unwrap();
    assert_eq!(trial.epochs.len(), 4);
    assert!(trial.val.accuracy() > 0.9, "{trial:?}");
    assert!(execute(&stage(), &inputs, &dir.path().join("teacher"), &cx).unwrap().cached);

    let test = dataset(dir.path(), Split::Test, 30);
    let judged = Inputs::new().with("classifier", &made.artifact).with("dataset", &test);
    let record = execute(&Evaluate::default(), &judged, &dir.path().join("record"), &cx).unwrap().artifact;
    assert_eq!(record.kind(), Kind::Trials);
    let record: EvaluationRecord = record.read_json(EvaluationRecord::FILE).unwrap();
    assert_eq!((record.split, record.evaluation.n, record.classes.len()), (Split::Test, 30, 2));
    assert_eq!(record.evaluation.confusion.iter().flatten().sum::<u64>(), 30);
    assert!(record.evaluation.accuracy > 0.9, "{record:?}");
    // On the validation split it reaches the accuracy that the training recorded for the chosen epoch.
    let val = Inputs::new().with("classifier", &made.artifact).with("dataset", &dataset(dir.path(), Split::Val, 20));
    let val = execute(&Evaluate::default(), &val, &dir.path().join("val-record"), &cx).unwrap().artifact;
    let val: EvaluationRecord = val.read_json(EvaluationRecord::FILE).unwrap();
    assert_eq!(val.evaluation.accuracy, trial.val.accuracy());
}

/// Requests a stop after `after` steps of progress.
struct StopAfter {
    after: u64,
    seen: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Progress for StopAfter {
    fn log(&self, _: &str) {}
    fn begin(&self, _: &str, _: Option<u64>) -> Box<dyn Task> {
        Box::new(StopAfter { after: self.after, seen: self.seen.clone(), stop: self.stop.clone() })
    }
}

impl Task for StopAfter {
    fn advance(&mut self, n: u64) {
        if self.seen.fetch_add(n, Ordering::Relaxed) + n >= self.after {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
    fn note(&mut self, _: &str) {}
}

#[test]
fn a_resumed_training_gives_the_same_artifact() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let whole = equal_after_cuts(&stage(), &inputs, &dir.path().join("hard"), 0);
    // The teacher's 60 labels are progress too.
    let inputs = inputs.with("teacher", &whole);
    equal_after_cuts(&soft(), &inputs, &dir.path().join("soft"), 60);
}

/// Checks that a training which is stopped after each epoch gives the same artifact as one that is not.
fn equal_after_cuts(stage: &TrainClassifier, inputs: &Inputs, dir: &Path, before: u64) -> Artifact {
    let whole = execute(stage, inputs, &dir.join("whole"), &context()).unwrap().artifact;
    let dest = dir.join("cut");
    let mut cuts = 0;
    let resumed = loop {
        let mut cx = context();
        // Each attempt is stopped after one more epoch.
        cx.progress = Arc::new(StopAfter { after: before + cuts + 1, seen: Arc::default(), stop: cx.stop.clone() });
        match execute(stage, inputs, &dest, &cx) {
            Ok(outcome) => break outcome.artifact,
            Err(Error::Interrupted) => cuts += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(!dest.exists());
    };
    assert!(cuts >= 3, "{cuts} cuts");
    assert_eq!(resumed.id(), whole.id());
    assert_eq!(resumed.read(WEIGHTS_FILE).unwrap(), whole.read(WEIGHTS_FILE).unwrap());
    whole
}

/// Soft labels of a teacher for twenty images of each class an epoch.
fn soft() -> TrainClassifier {
    let distill = Some(Distill { weight: 1.0, temperature: 1.0 });
    TrainClassifier {
        classifier: ClassifierConfig { distill, batch: 8, ..stage().classifier },
        per_epoch: Some(20),
        ..stage()
    }
}

#[test]
fn a_teachers_probabilities_are_the_labels() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let run = |stage: &TrainClassifier, inputs: &Inputs, name: &str| {
        execute(stage, inputs, &dir.path().join(name), &context()).map(|done| done.artifact)
    };
    let error = run(&soft(), &inputs, "none").unwrap_err().to_string();
    assert!(error.contains("give a teacher"), "{error}");
    let teacher = run(&stage(), &inputs, "teacher").unwrap();
    let taught = inputs.clone().with("teacher", &teacher);
    let error = run(&stage(), &taught, "none").unwrap_err().to_string();
    assert!(error.contains("classifier.distill"), "{error}");

    // A teacher that mistakes the classes for each other teaches its mistake, whatever the labels say.
    let swapped = |split, n, name: &str| make(&Stripes(split, n, true), &dir.path().join(name));
    let wrong = Inputs::new()
        .with("train", &swapped(Split::Train, 60, "swapped"))
        .with("val", &swapped(Split::Val, 20, "swapped-val"));
    let wrong = run(&stage(), &wrong, "wrong-teacher").unwrap();
    let student = run(&soft(), &inputs.with("teacher", &wrong), "wrong").unwrap();
    let trial: TrialRecord = student.read_json(TRIAL_FILE).unwrap();
    assert!(trial.epochs[3].val.accuracy() < 0.2, "{trial:?}");
    let student = run(&soft(), &taught, "student").unwrap();
    let trial: TrialRecord = student.read_json(TRIAL_FILE).unwrap();
    assert!(trial.val.accuracy() > 0.8, "{trial:?}");
    // 30 images of each class, 20 an epoch.
    assert_eq!(trial.epochs.iter().map(|epoch| epoch.renewed).collect::<Vec<_>>(), [40, 20, 0, 0]);
}

#[test]
fn unsuitable_inputs_are_refused_before_training() {
    let dir = tempfile::tempdir().unwrap();
    let train = dataset(dir.path(), Split::Train, 60);
    let val = dataset(dir.path(), Split::Val, 20);
    let test = dataset(dir.path(), Split::Test, 30);
    let dest = dir.path().join("none");
    let error = |stage: &TrainClassifier, train: &Artifact, val: &Artifact| {
        let inputs = Inputs::new().with("train", train).with("val", val);
        let error = execute(stage, &inputs, &dest, &context()).unwrap_err();
        assert!(error.is_usage() && !dest.exists(), "{error}");
        error.to_string()
    };
    assert!(error(&stage(), &train, &test).contains("split val"), "the test split must not choose");
    assert!(error(&stage(), &val, &val).contains("split train or synthetic"));
    let mut wrong = stage();
    wrong.classifier.lr = f64::NAN;
    assert!(error(&wrong, &train, &val).contains("classifier.lr = NaN"));
    assert!(error(&TrainClassifier { per_class: Some(31), ..stage() }, &train, &val).contains("per_class = 31"));
    let parsed = serde_json::from_value::<TrainClassifier>(json!({"classifier": {"epoch": 3}}));
    assert!(parsed.unwrap_err().to_string().contains("epoch"));
}

#[test]
fn a_subset_trains_on_fewer_images() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let few = TrainClassifier { per_class: Some(5), ..stage() };
    let made = execute(&few, &inputs, &dir.path().join("few"), &context()).unwrap().artifact;
    let trial: TrialRecord = made.read_json(TRIAL_FILE).unwrap();
    assert_eq!(trial.epochs[0].renewed, 10);
}

#[test]
fn weights_of_another_network_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let cx = context();
    let small = execute(&stage(), &inputs, &dir.path().join("small"), &cx).unwrap().artifact;
    let manifest = small.path().join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    for (width, expected) in [(6, "a network no larger than its weights"), (3, "of shape")] {
        let changed = text.replacen("\"width\": 4", &format!("\"width\": {width}"), 2);
        assert_ne!(text, changed);
        std::fs::write(&manifest, changed).unwrap();
        let artifact = Artifact::open(small.path()).unwrap();
        let error = cx.models.open_scorer(&artifact).err().unwrap().to_string();
        assert!(error.contains("weights.safetensors") && error.contains(expected), "{error}");
    }
    std::fs::write(small.path().join(WEIGHTS_FILE), b"short").unwrap();
    assert!(Artifact::open(small.path()).is_err());
}
