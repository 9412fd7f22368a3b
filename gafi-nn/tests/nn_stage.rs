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
use gafi_nn::{ClassifierConfig, Evaluate, EvaluationRecord, ResNetConfig, TrainClassifier};
use serde_json::{Value, json};

const IMAGE: ImageSpec = ImageSpec::new(1, 8, 8);

/// Images of two classes: horizontal and vertical stripes.
#[derive(Debug)]
struct Stripes(Split, usize);

impl Stage for Stripes {
    fn info(&self) -> StageInfo {
        StageInfo { name: "stripes", revision: 1, ports: &[], output: Kind::Dataset }
    }
    fn config(&self) -> Value {
        json!({"split": self.0, "n": self.1})
    }
    fn check(&self, _: &Inputs) -> Result<()> {
        Ok(())
    }
    fn run(&self, _: &Inputs, out: &mut ArtifactWriter, _: &Context) -> Result<()> {
        let info = DatasetInfo::new(IMAGE, vec!["horizontal".into(), "vertical".into()], self.0);
        let (mut writer, _) = DatasetWriter::begin(out, info)?;
        let mut batch = Batch::default();
        for i in 0..self.1 {
            batch.labels.push(ClassId((i % 2) as u32));
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
    execute(&Stripes(split, n), &Inputs::new(), &dir.join(format!("{split}-{n}")), &context()).unwrap().artifact
}

fn stage() -> TrainClassifier {
    TrainClassifier {
        classifier: ClassifierConfig {
            architecture: ResNetConfig { depth: 8, width: 4, ..Default::default() },
            epochs: 4,
            batch: 16,
            lr: 0.05,
            augment: AugmentConfig { flip: true, crop: 1, erase: 0.0 },
            ..Default::default()
        },
        seed: 3,
        per_class: None,
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
    let record = execute(&Evaluate {}, &judged, &dir.path().join("record"), &cx).unwrap().artifact;
    assert_eq!(record.kind(), Kind::Trials);
    let record: EvaluationRecord = record.read_json(EvaluationRecord::FILE).unwrap();
    assert_eq!((record.split, record.evaluation.n, record.classes.len()), (Split::Test, 30, 2));
    assert_eq!(record.evaluation.confusion.iter().flatten().sum::<u64>(), 30);
    assert!(record.evaluation.accuracy > 0.9, "{record:?}");
    // On the validation split it reaches the accuracy that the training recorded for the chosen epoch.
    let val = Inputs::new().with("classifier", &made.artifact).with("dataset", &dataset(dir.path(), Split::Val, 20));
    let val = execute(&Evaluate {}, &val, &dir.path().join("val-record"), &cx).unwrap().artifact;
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
    let whole = execute(&stage(), &inputs, &dir.path().join("whole"), &context()).unwrap().artifact;
    let dest = dir.path().join("cut");
    let mut cuts = 0;
    let resumed = loop {
        let mut cx = context();
        // Each attempt is stopped after one more epoch.
        cx.progress = Arc::new(StopAfter { after: cuts + 1, seen: Arc::default(), stop: cx.stop.clone() });
        match execute(&stage(), &inputs, &dest, &cx) {
            Ok(outcome) => break outcome.artifact,
            Err(Error::Interrupted) => cuts += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(!dest.exists());
    };
    assert!(cuts >= 3, "{cuts} cuts");
    assert_eq!(resumed.id(), whole.id());
    assert_eq!(resumed.read(WEIGHTS_FILE).unwrap(), whole.read(WEIGHTS_FILE).unwrap());
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
    let changed = text.replacen("\"width\": 4", "\"width\": 6", 2);
    assert_ne!(text, changed);
    std::fs::write(&manifest, changed).unwrap();
    let artifact = Artifact::open(small.path()).unwrap();
    let error = cx.models.open_scorer(&artifact).err().unwrap().to_string();
    assert!(error.contains("weights.safetensors") && error.contains("of shape"), "{error}");
    std::fs::write(small.path().join(WEIGHTS_FILE), b"short").unwrap();
    assert!(Artifact::open(small.path()).is_err());
}
