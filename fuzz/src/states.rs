//! Resume state: what an interrupted stage left, changed as by a crash or another program.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use gafi_core::{
    ClassId, Context, Inputs, LearnerSpec, Progress, RunControl, SampleSource, Silent, Split, Stage, Task, execute,
    provenance,
};
use gafi_pipeline::Collect;
use gafi_recycle::{Recycle, Renewal};
use serde_json::json;

use crate::models;
use crate::scratch::{CLASSES, Squares, cx, empty, folder, put, show};

/// Sets the stop flag after the first step or epoch of a training.
struct StopSoon(Arc<AtomicBool>);

impl Progress for StopSoon {
    fn begin(&self, label: &str, _: Option<u64>) -> Box<dyn Task> {
        if label.starts_with("train") { Box::new(StopSoon(self.0.clone())) } else { Box::new(Silent) }
    }
}

impl Task for StopSoon {
    fn advance(&mut self, n: u64) {
        self.0.store(n > 0, std::sync::atomic::Ordering::Relaxed);
    }
    fn note(&mut self, _: &str) {}
}

type Made = (Box<dyn Stage>, Inputs);

/// The files of state that `stage` leaves when it is interrupted.
fn interrupted((stage, inputs): &Made, name: &str) -> BTreeMap<String, Vec<u8>> {
    empty(name);
    fs::remove_dir(folder().join(name)).expect("it is empty");
    let stop = Arc::<AtomicBool>::default();
    let control = RunControl { progress: Arc::new(StopSoon(stop.clone())), stop, wait: false };
    let result = execute(&**stage, inputs, &folder().join(name), &Context { control, ..cx().clone() });
    assert!(matches!(result, Err(gafi_core::Error::Interrupted)), "{result:?}");
    let entries = fs::read_dir(folder().join(format!(".{name}.partial/state"))).expect("it was interrupted");
    let read = |entry: fs::DirEntry| {
        (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap_or_default())
    };
    entries.flatten().map(read).collect()
}

/// Resumes `stage` from `state`.
fn resume((stage, inputs): &Made, name: &str, state: &[(&str, &[u8])]) {
    let dest = folder().join(name);
    let _ = fs::remove_dir_all(&dest);
    let _ = fs::remove_dir_all(folder().join(format!(".{name}.partial")));
    put(&format!(".{name}.partial/begun.json"), provenance(&**stage, inputs).fingerprint().as_bytes());
    fs::create_dir_all(folder().join(format!(".{name}.partial/state"))).expect("folders can be created");
    for (file, bytes) in state {
        put(&format!(".{name}.partial/state/{file}"), bytes);
    }
    if let Some(made) = show(execute(&**stage, inputs, &dest, cx())) {
        show(made.artifact.verify_rows(&RunControl::default()));
    }
}

/// A stage that writes what a teacher keeps of a generator's samples, and its inputs.
fn collect(on_exhausted: &str) -> Made {
    let filter = json!({"threshold": 0.01, "on_exhausted": on_exhausted, "max_attempts": 3});
    let source = serde_json::from_value(json!({"kind": "gafi", "std": 1.3, "filter": filter})).expect("it is a source");
    let inputs = Inputs::new().with("generators", &models::trained().0).with("teacher", &models::trained().1);
    (Box::new(Collect { source, per_class: 2 }), inputs)
}

/// No state is written before a shard is complete, so this one is synthetic.
pub(crate) fn datasets() -> Vec<Vec<u8>> {
    let content =
        Squares { channels: 1, size: 8, rows: 4, split: Split::Train }.write("train").manifest().content.clone();
    let mut info = content;
    info["split"] = "synthetic".into();
    info["counts"] = [0, 0].into();
    info["shards"] = json!([]);
    let columns = json!({"index": true, "confidence": true, "probabilities": false});
    let (stage, inputs) = collect("backfill");
    let spec = serde_json::from_value(stage.config()["source"].clone()).expect("it is a source");
    let mut source = cx().models.open_source(&spec, &inputs, cx()).expect("a small source opens");
    let state = |source: &dyn SampleSource| {
        json!({"info": info, "position": source.cursors(), "columns": columns}).to_string().into_bytes()
    };
    let begun = state(&*source);
    for class in ClassId::all(CLASSES.len()) {
        source.pull(class, NonZeroUsize::MIN).expect("a small source has samples");
    }
    vec![begun, state(&*source)]
}

pub(crate) fn dataset(input: &[u8]) {
    for on_exhausted in ["backfill", "error"] {
        resume(&collect(on_exhausted), "state-dataset", &[("dataset.json", input)]);
    }
}

fn training() -> Made {
    let (stage, inputs) = models::training();
    (Box::new(stage), inputs)
}

/// The file of state that the input replaces is the one whose beginning it has: a JSON object, or tensors.
fn replaced<'a>(state: &'a BTreeMap<String, Vec<u8>>, input: &'a [u8], skip: &str) -> Vec<(&'a str, &'a [u8])> {
    let json = input.first() == Some(&b'{');
    let is =
        |name: &str| if json { name.ends_with(".json") } else { !name.ends_with(".json") && !name.starts_with(skip) };
    state.iter().map(|(name, bytes)| (name.as_str(), if is(name) { input } else { bytes })).collect()
}

pub(crate) fn trainings() -> Vec<Vec<u8>> {
    interrupted(&training(), "interrupted-training").into_values().collect()
}

pub(crate) fn training_state(input: &[u8]) {
    static STATE: std::sync::OnceLock<BTreeMap<String, Vec<u8>>> = std::sync::OnceLock::new();
    let made = training();
    let state = STATE.get_or_init(|| interrupted(&made, "interrupted-training"));
    resume(&made, "state-training", &replaced(state, input, "best"));
}

fn train_gan() -> Made {
    let (stage, inputs) = models::gan();
    (Box::new(stage), inputs)
}

pub(crate) fn gans() -> Vec<Vec<u8>> {
    interrupted(&train_gan(), "interrupted-gan").into_values().collect()
}

pub(crate) fn gan(input: &[u8]) {
    let generator = &models::trained().0;
    let files = ["checkpoint-00000001.safetensors", "samples-00000001.png"];
    let files = files.map(|name| (format!("../{name}"), generator.read(name).expect("a new artifact is whole")));
    let mut state: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (&name[..], &bytes[..])).collect();
    state.push(("training.safetensors", input));
    resume(&train_gan(), "state-gan", &state);
}

fn recycling() -> Made {
    let inputs = Inputs::new()
        .with("generators", &models::trained().0)
        .with("val", models::training().1.require("val").expect("it is given"));
    let mut config = models::classifier_config();
    config.epochs = 3;
    let learner: LearnerSpec = LearnerSpec::of(&config).expect("it has a JSON form");
    let stage =
        Recycle { per_class: 4, recycle: Some(Renewal { period: 1, factor: 0.5 }), learner, ..Recycle::default() };
    (Box::new(stage), inputs)
}

pub(crate) fn recycles() -> Vec<Vec<u8>> {
    interrupted(&recycling(), "interrupted-recycle").into_values().collect()
}

pub(crate) fn recycle(input: &[u8]) {
    static STATE: std::sync::OnceLock<BTreeMap<String, Vec<u8>>> = std::sync::OnceLock::new();
    let made = recycling();
    let state = STATE.get_or_init(|| interrupted(&made, "interrupted-recycle"));
    resume(&made, "state-recycle", &replaced(state, input, "best"));
}
