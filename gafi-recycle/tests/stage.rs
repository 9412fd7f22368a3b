//! Stage `recycle`, with a learner that records every image.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{CLASSES, IMAGE, Named, id, ids, names, pixels};
use gafi_core::{
    ArchitectureSpec, Artifact, ArtifactWriter, Batch, CheckpointInfo, ClassId, ClassTally, ClassifierInfo, Context,
    DatasetInfo, DatasetWriter, EpochReport, Error, GeneratorInfo, ImageSpec, Inputs, Kind, LOG_FILE, Learner,
    LearnerSpec, ModelLoaders, Result, Rows, RunControl, Scorer, SourceSpec, Split, Stage, StageInfo, TRIAL_FILE,
    TrialRecord, WEIGHTS_FILE, check_inputs, execute,
};
use gafi_recycle::{Recycle, Renewal};
use serde_json::{Value, json};

/// Folds every image into one number, which is its complete state and its classifier.
struct Account {
    epochs: u32,
    epoch: u32,
    sum: u64,
    stop: Option<(u32, Arc<AtomicBool>)>,
}

fn mix(a: u64, b: u64) -> u64 {
    (a ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

impl Learner for Account {
    fn epochs(&self) -> u32 {
        self.epochs
    }
    fn epoch(&self) -> u32 {
        self.epoch
    }
    fn train_epoch(&mut self, data: &dyn Rows, control: &RunControl) -> Result<EpochReport> {
        if let Some((at, stop)) = &self.stop
            && *at == self.epoch
        {
            stop.store(true, Ordering::Relaxed);
        }
        control.checkpoint()?;
        self.sum = ids(data).into_iter().fold(self.sum, mix);
        self.epoch += 1;
        Ok(EpochReport { loss: 1.0 / f64::from(self.epoch), accuracy: 0.5, images: data.len() as u64 })
    }
    fn scorer(&mut self) -> Result<Box<dyn Scorer + '_>> {
        Ok(Box::new(Guess(self.sum)))
    }
    fn snapshot(&self) -> Result<Vec<u8>> {
        Ok([self.sum, self.epoch.into()].iter().flat_map(|v| v.to_le_bytes()).collect())
    }
    fn restore(&mut self, snapshot: &[u8]) -> Result<()> {
        self.sum = id(&snapshot[..8]);
        self.epoch = id(&snapshot[8..]) as u32;
        Ok(())
    }
    fn weights(&self) -> Result<Vec<u8>> {
        Ok(self.sum.to_le_bytes().to_vec())
    }
    fn begin_with(&mut self, weights: &[u8]) -> Result<()> {
        self.sum = id(weights);
        Ok(())
    }
    fn architecture(&self) -> ArchitectureSpec {
        ArchitectureSpec::named("account")
    }
}

struct Guess(u64);

impl Scorer for Guess {
    fn image(&self) -> &ImageSpec {
        &IMAGE
    }
    fn classes(&self) -> usize {
        CLASSES
    }
    fn score(&mut self, pixels: &[u8]) -> Result<Vec<f32>> {
        let guesses = pixels.chunks(IMAGE.bytes()).map(|image| mix(self.0, id(image)).is_multiple_of(2));
        Ok(guesses.flat_map(|cat| if cat { [0.9, 0.1] } else { [0.1, 0.9] }).collect())
    }
}

/// Creates the inputs of the stage.
#[derive(Debug)]
enum Make {
    Val(Split),
    Generator(GeneratorInfo),
    Teacher(Vec<String>),
}

impl Stage for Make {
    fn info(&self) -> StageInfo {
        StageInfo {
            name: "make",
            revision: 1,
            ports: &[],
            output: match self {
                Self::Val(_) => Kind::Dataset,
                Self::Generator(_) => Kind::Generator,
                Self::Teacher(_) => Kind::Classifier,
            },
        }
    }
    fn config(&self) -> Value {
        json!(format!("{self:?}"))
    }
    fn check(&self, _: &Inputs) -> Result<()> {
        Ok(())
    }
    fn run(&self, _: &Inputs, out: &mut ArtifactWriter, _: &Context) -> Result<()> {
        match self {
            Self::Val(split) => {
                let (mut writer, _) = DatasetWriter::begin(out, DatasetInfo::new(IMAGE, names(), *split))?;
                let labels: Vec<ClassId> = (0..100).map(|i| ClassId(i % 2)).collect();
                let images = labels.iter().enumerate().flat_map(|(i, &c)| pixels(i as u64, c)).collect();
                writer.push(&Batch { labels, images, ..Batch::default() }, Value::Null)?;
                writer.finish().map(|_| ())
            }
            Self::Generator(content) => out.set_content(content),
            Self::Teacher(classes) => {
                let architecture = ArchitectureSpec::named("none");
                out.set_content(&ClassifierInfo { architecture, image: IMAGE, classes: classes.clone() })
            }
        }
    }
}

fn make(dir: &Path, name: &str, what: Make) -> Artifact {
    execute(&what, &Inputs::new(), &dir.join(name), &Context::default()).unwrap().artifact
}

/// A context whose learner requests a stop at the start of epoch `stop_at`, and the number of samples handed over.
fn context(stop_at: Option<u32>) -> (Context, Arc<AtomicU64>) {
    let (stop, drawn) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (learner_stop, source_drawn) = (stop.clone(), drawn.clone());
    let loaders = ModelLoaders::default()
        .with_source(
            "named",
            Box::new(move |config, inputs, _| {
                assert!(inputs.get("generators").is_some());
                let end = config.options.get("end").and_then(Value::as_u64).unwrap_or(u64::MAX);
                let classes = config.options.get("classes");
                let classes = classes.map_or_else(names, |c| serde_json::from_value(c.clone()).unwrap());
                Ok(Box::new(Named { classes, drawn: source_drawn.clone(), ..Named::new(end) }))
            }),
        )
        .with_learner(
            "account",
            Box::new(move |config, image, classes, seed| {
                assert_eq!((image, classes), (IMAGE, &names()[..]));
                let epochs = config.options["epochs"].as_u64().unwrap() as u32;
                let stop = stop_at.map(|at| (at, learner_stop.clone()));
                Ok(Box::new(Account { epochs, epoch: 0, sum: seed, stop }))
            }),
        );
    let mut cx = Context::new(loaders);
    cx.stop = stop;
    (cx, drawn)
}

struct Bench {
    dir: tempfile::TempDir,
    inputs: Inputs,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let generator = make(dir.path(), "generator", Make::Generator(generator()));
        let val = make(dir.path(), "val", Make::Val(Split::Val));
        Self { inputs: Inputs::new().with("generators", &generator).with("val", &val), dir }
    }

    fn run(&self, stage: &Recycle, to: &str, cx: &Context) -> Result<Artifact> {
        Ok(execute(stage, &self.inputs, &self.dir.path().join(to), cx)?.artifact)
    }
}

fn generator() -> GeneratorInfo {
    GeneratorInfo {
        architecture: ArchitectureSpec::named("none"),
        image: IMAGE,
        classes: names(),
        latent_dim: 1,
        std: None,
        checkpoints: vec![CheckpointInfo { step: 1, file: None, samples: None }],
        extra: Default::default(),
    }
}

fn source(spec: Value) -> SourceSpec {
    SourceSpec::of(&spec).unwrap()
}

fn stage(recycle: Option<Renewal>) -> Recycle {
    Recycle {
        source: source(json!({"kind": "named"})),
        per_class: 30,
        recycle,
        learner: LearnerSpec::of(&json!({"architecture": {"name": "account"}, "epochs": 7})).unwrap(),
        seed: 4,
    }
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    let named = entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()));
    named.filter(|(name, _)| name != LOG_FILE).collect()
}

#[test]
fn stage_trains_a_student_and_records_the_samples() {
    let bench = Bench::new();
    let stage = stage(Some(Renewal { period: 3, factor: 0.5 }));
    let made = bench.run(&stage, "student", &context(None).0).unwrap();
    made.verify().unwrap();
    let record: TrialRecord = made.read_json(TRIAL_FILE).unwrap();
    assert_eq!(record.epochs.iter().map(|e| e.renewed).collect::<Vec<_>>(), [60, 0, 0, 30, 0, 0, 30]);
    assert_eq!(record.tally.unwrap().classes, [const { ClassTally::new(120, 60, 0) }; 2]);
    assert_eq!(record.setting, stage.config());
    assert_eq!(
        stage.config(),
        json!({
            "source": {"kind": "named"}, "per_class": 30, "recycle": {"period": 3, "factor": 0.5},
            "learner": {"architecture": {"name": "account"}, "epochs": 7}, "seed": 4,
        })
    );
    let best = record.epochs.iter().map(|e| e.val.accuracy()).fold(0.0, f64::max);
    assert_eq!(record.val.accuracy(), best);
    let log = std::fs::read_to_string(made.path().join(LOG_FILE)).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains("\"renewal\"")).count(), 3);
}

#[test]
fn interrupted_stage_resumes_to_the_same_bytes() {
    let bench = Bench::new();
    for (i, renewal) in [
        None,
        Some(Renewal { period: 1, factor: 1.0 }),
        Some(Renewal { period: 2, factor: 0.4 }),
        Some(Renewal { period: 3, factor: 1.0 }),
    ]
    .into_iter()
    .enumerate()
    {
        let (cx, drawn) = context(None);
        let whole = bench.run(&stage(renewal), &format!("whole-{i}"), &cx).unwrap();
        let all = drawn.load(Ordering::Relaxed);
        let cut = format!("cut-{i}");
        for at in [2, 4, 5, 6] {
            let stopped = bench.run(&stage(renewal), &cut, &context(Some(at)).0);
            assert!(matches!(stopped, Err(Error::Interrupted)), "{renewal:?}, epoch {at}");
            assert!(!bench.dir.path().join(&cut).exists());
        }
        let (cx, drawn) = context(None);
        let made = bench.run(&stage(renewal), &cut, &cx).unwrap();
        assert_eq!(files(made.path()), files(whole.path()), "{renewal:?}");
        let last = drawn.load(Ordering::Relaxed);
        assert!(last < all, "{renewal:?}: {last} of {all} samples were drawn again");
    }
}

#[test]
fn a_student_can_start_from_the_weights_of_another() {
    let mut bench = Bench::new();
    let of = |bench: &Bench, seed: u64, to: &str| {
        let learner = LearnerSpec::of(&json!({"architecture": {"name": "account"}, "epochs": 1})).unwrap();
        bench.run(&Recycle { learner, seed, ..stage(None) }, to, &context(None).0).unwrap()
    };
    let weights = |made: &Artifact| made.read(WEIGHTS_FILE).unwrap();
    let (one, other) = (of(&bench, 4, "one"), of(&bench, 5, "other"));
    assert_ne!(weights(&one), weights(&other), "each from its own seed");
    let cold = bench.inputs.clone();
    bench.inputs = cold.clone().with("start", &one);
    let (warm, again) = (of(&bench, 4, "warm"), of(&bench, 5, "warm again"));
    assert_eq!(weights(&warm), weights(&again), "both from the same weights, on the same images");
    assert_ne!(weights(&warm), weights(&one));
    bench.inputs = cold.with("start", &other);
    assert_ne!(weights(&of(&bench, 4, "warm from the other")), weights(&warm));
}

#[test]
fn check_needs_manifests_alone() {
    let bench = Bench::new();
    let refused = |stage: Recycle, inputs: &Inputs| {
        let error = check_inputs(&stage, inputs).unwrap_err();
        assert!(error.is_usage(), "{error}");
        error.to_string()
    };
    let all = &bench.inputs;
    check_inputs(&stage(None), all).unwrap();
    let nameless = Recycle { source: SourceSpec::default(), ..stage(None) };
    assert!(refused(nameless, all).starts_with("source.kind = \"\""));
    check_inputs(&Recycle::default(), all).unwrap();
    let nameless = Recycle { learner: LearnerSpec::default(), ..stage(None) };
    assert!(refused(nameless, all).starts_with("learner.architecture.name = \"\""));
    assert!(refused(Recycle { per_class: 0, ..stage(None) }, all).starts_with("per_class = 0"));
    let zero = stage(Some(Renewal { period: 0, factor: 0.5 }));
    assert!(refused(zero, all).starts_with("recycle.period = 0"));
    let text = r#"{"recycle": {"period": 1, "faktor": 1.0}}"#;
    assert!(serde_json::from_str::<Recycle>(text).unwrap_err().to_string().contains("faktor"));

    let test = make(bench.dir.path(), "test", Make::Val(Split::Test));
    assert!(
        refused(stage(None), &Inputs::new().with("generators", &all.all("generators")[0]).with("val", &test))
            .contains("val: expected a dataset of split val")
    );
    let other_classes = GeneratorInfo { classes: vec!["cat".into(), "eel".into()], ..generator() };
    let other_image = GeneratorInfo { image: ImageSpec::new(3, 3, 3), ..generator() };
    for (i, content) in [other_classes, other_image].into_iter().enumerate() {
        let other = make(bench.dir.path(), &format!("other-{i}"), Make::Generator(content));
        // Beside one that fits.
        let both = all.clone().with("generators", &other);
        assert!(refused(stage(None), &both).contains("recycle: generators: expected"));
    }
    let same = make(bench.dir.path(), "same", Make::Teacher(names()));
    check_inputs(&stage(None), &all.clone().with("teacher", &same)).unwrap();
    let eels = make(bench.dir.path(), "eels", Make::Teacher(vec!["cat".into(), "eel".into()]));
    assert!(refused(stage(None), &all.clone().with("teacher", &eels)).contains("recycle: teacher: expected"));
    assert!(refused(stage(None), &all.clone().with("start", &eels)).contains("recycle: start: expected"));
    // The learner's architecture is known once the stage runs.
    let bench = Bench { inputs: all.clone().with("start", &same), ..bench };
    let error = bench.run(&stage(None), "student", &context(None).0).unwrap_err().to_string();
    assert!(error.contains("recycle: start: expected account"), "{error}");
    assert!(error.contains("found none"), "{error}");
}

#[test]
fn unknown_names_and_short_classes_are_errors() {
    let bench = Bench::new();
    let error = |stage: Recycle| bench.run(&stage, "student", &context(None).0).unwrap_err();
    let unknown = Recycle { source: source(json!({"kind": "other"})), ..stage(None) };
    assert!(error(unknown).to_string().contains("no source named \"other\" is registered; known: named"));
    let unknown =
        Recycle { learner: LearnerSpec::of(&json!({"architecture": {"name": "other"}})).unwrap(), ..stage(None) };
    assert!(error(unknown).to_string().contains("known: account"));
    let eels = Recycle { source: source(json!({"kind": "named", "classes": ["cat", "eel"]})), ..stage(None) };
    assert!(error(eels).to_string().contains("recycle: source: expected"));
    let few = Recycle { source: source(json!({"kind": "named", "end": 20})), ..stage(None) };
    assert!(error(few).to_string().starts_with("class 0 (cat) is exhausted: wanted 30 samples, accepted 20 of 40"));
    assert!(!bench.dir.path().join("student").exists());
}
