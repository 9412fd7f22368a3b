//! Runs of the pipeline: records, wall times, logs and the artifacts behind a report.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use gafi_core::{Artifact, Inputs, Kind, RunControl, Split, TRIAL_FILE, TrialRecord, execute};
use gafi_nn::{Evaluate, EvaluationRecord};
use gafi_pipeline::{PipelineConfig, verify_run};
use gafi_report::{Format, Options};
use serde_json::{Value, json};

use crate::models;
use crate::scratch::{Squares, cx, folder, put, show};

/// The artifacts of a finished run, and its record.
struct Finished {
    evaluation: Artifact,
    record: Value,
}

fn link(path: &str, artifact: &Artifact) -> Value {
    json!({"path": path, "id": artifact.id()})
}

fn finished() -> &'static Finished {
    static FINISHED: OnceLock<Finished> = OnceLock::new();
    FINISHED.get_or_init(|| {
        let (generator, classifier) = models::trained();
        let set = |split, name| Squares { channels: 1, size: 8, rows: 4, split }.write(name);
        let [train, val, test] = [(Split::Train, "train"), (Split::Val, "val"), (Split::Test, "test")].map(|(s, n)| set(s, n));
        let inputs = Inputs::new().with("classifier", classifier).with("dataset", &test);
        let evaluation = execute(&Evaluate::default(), &inputs, &folder().join("evaluation"), cx());
        let evaluation = evaluation.expect("a small classifier can be evaluated").artifact;
        let measured: EvaluationRecord = evaluation.read_json(EvaluationRecord::FILE).expect("it was just written");
        let trial: TrialRecord = classifier.read_json(TRIAL_FILE).expect("it was just written");
        let result = json!({
            "score": measured.evaluation.accuracy, "n": measured.evaluation.n, "evaluation": link("../evaluation", &evaluation),
        });
        let student = link("../classifier", classifier);
        let setting = json!({"checkpoint": 2, "std": 1.5, "threshold": 0.25, "recycle": {"period": 1, "factor": 0.5}});
        let mut config = PipelineConfig::default();
        config.data.set = serde_json::from_value(json!("shapes")).expect("it is a named set");
        let reference = |name: &str| {
            json!({
                "name": name, "times": 1, "labels": "hard", "per_class": 4, "epochs": 2, "artifact": student, "val": trial.val,
                "test": result, "repeats": [{"number": 1, "artifact": student, "val": trial.val, "test": result}],
            })
        };
        let row = |name: &str| {
            json!({
                "name": name, "settings": [setting], "per_class": 4, "artifact": student, "val": trial.val, "test": result,
                "against": "real", "gap": 0.0,
            })
        };
        let try_one = json!({"setting": setting, "val": trial.val, "epochs": 2, "artifact": student});
        let record = json!({
            "schema": "gafi/run/2", "version": "0.1.0", "config_hash": config.hash().expect("it has a JSON form"), "config": config,
            "status": {"state": "finished"},
            "dataset": {
                "name": "shapes", "image": train.manifest().content["image"], "classes": train.manifest().content["classes"],
                "train": train.manifest().content["counts"], "val": 8,
            },
            "roles": {
                "train": link("../train", &train), "val": link("../val", &val), "test": link("../test", &test),
                "teacher": student, "references": [reference("teacher"), reference("real")],
                "generators": [{"artifact": link("../gan", generator), "trained": true}],
            },
            "searches": [{
                "generator": 0, "strategy": "halving", "trainings": 1, "epochs": 2, "closed_form": 1, "chosen": setting,
                "val": trial.val, "steps": [{
                    "kind": "std", "trials": [try_one], "chosen": 0, "screened": [{"setting": setting, "accuracy": 0.5}],
                }],
            }],
            "rows": [row("baseline"), row("gafi")],
            "infeasible": [{"name": "filter", "setting": setting, "why": "class 0 ran out"}],
            "cost": {"trainings": 3, "epochs": 6},
        });
        Finished { evaluation, record }
    })
}

/// Everything that reads the run in `dir`, which does not write there.
fn read(dir: &Path) {
    show(verify_run(dir, &RunControl::default()));
    let Some(runs) = show(gafi_report::open(&[dir.into()])) else { return };
    for format in [Format::Markdown, Format::Json] {
        show(gafi_report::table(&runs, format, &[]));
    }
    let options = Options { samples: false, real: false, force: true };
    show(gafi_report::write(&runs, &folder().join("report.html"), options, cx()));
}

fn run(record: &[u8]) -> PathBuf {
    let path = put("run/run.json", record);
    path.parent().map(Path::to_path_buf).unwrap_or_default()
}

pub(crate) fn records() -> Vec<Vec<u8>> {
    let mut empty = finished().record.clone();
    empty["status"] = json!({"state": "failed", "error": "stopped"});
    for (key, value) in [("roles", json!({})), ("searches", json!([])), ("rows", json!([]))] {
        empty[key] = value;
    }
    [&finished().record, &empty].map(|record| record.to_string().into_bytes()).into()
}

pub(crate) fn record(input: &[u8]) {
    finished();
    read(&run(input));
    // The hash of a changed configuration is wrong; with the right one, more of it is read.
    let Ok(mut tree) = serde_json::from_slice::<Value>(input) else { return };
    let config = tree.get("config").cloned().unwrap_or_default();
    let hash = serde_json::from_value::<PipelineConfig>(config).ok().and_then(|config| config.hash().ok());
    if let (Some(hash), Some(fields)) = (hash, tree.as_object_mut())
        && fields.insert("config_hash".into(), hash.clone().into()) != Some(hash.into())
    {
        read(&run(tree.to_string().as_bytes()));
    }
}

/// The records of an evaluation and of a training.
pub(crate) fn artifact_files() -> Vec<Vec<u8>> {
    let classifier = &models::trained().1;
    let files = [(&finished().evaluation, EvaluationRecord::FILE), (classifier, TRIAL_FILE)];
    files.map(|(artifact, name)| artifact.read(name).expect("a new artifact is whole")).into()
}

pub(crate) fn artifact(input: &[u8]) {
    let Finished { evaluation, record } = finished();
    for (old, name, file) in
        [(evaluation, "other-evaluation", EvaluationRecord::FILE), (&models::trained().1, "other-student", TRIAL_FILE)]
    {
        let path = made(name, old, file, input);
        let Some(new) = show(Artifact::open(&path)) else { continue };
        let text = record.to_string().replace(old.id(), new.id());
        let path = format!("../{}", old.path().file_name().unwrap_or_default().to_string_lossy());
        read(&run(text.replace(&path, &format!("../{name}")).as_bytes()));
    }
}

fn made(name: &str, old: &Artifact, file: &str, input: &[u8]) -> PathBuf {
    let mut files = vec![(file, input)];
    let weights = (old.kind() == Kind::Classifier).then(|| old.read("weights.safetensors").unwrap_or_default());
    files.extend(weights.as_ref().map(|weights| ("weights.safetensors", &weights[..])));
    crate::scratch::artifact(name, old.kind(), old.manifest().content.clone(), &files)
}

pub(crate) fn timing_files() -> Vec<Vec<u8>> {
    let stage = json!({"name": "teacher", "wall_s": 0.5, "cached": false});
    vec![
        json!({"config_hash": finished().record["config_hash"], "wall_s": 1.5, "stages": [stage]})
            .to_string()
            .into_bytes(),
    ]
}

pub(crate) fn timings(input: &[u8]) {
    let dir = run(finished().record.to_string().as_bytes());
    put("run/timings.json", input);
    read(&dir);
}

pub(crate) fn logs() -> Vec<Vec<u8>> {
    let events = [
        json!({"event": "step", "step": 1, "losses": {"d_loss": 0.5, "g_loss": -1.0, "d_real": 1.0, "d_fake": 0.0}, "steps_per_s": 9.5}),
        json!({"event": "epoch", "epoch": 1, "loss": 0.7, "train_accuracy": 0.5, "val_accuracy": 0.4, "renewed": 8, "images": 8,
               "supply_s": 0.0, "train_s": 0.1, "wall_s": 0.1}),
        json!({"event": "renewal", "epoch": 1, "generation": 1, "renewed": 4, "drawn": 9, "accepted": 4, "backfilled": 1, "wall_s": 0.1}),
        json!({"event": "finished", "stage": "train-gan", "wall_s": 1.5}),
    ];
    vec![events.map(|event| event.to_string() + "\n").concat().into_bytes()]
}

pub(crate) fn log(input: &[u8]) {
    let dir = run(finished().record.to_string().as_bytes());
    for place in ["gan", "classifier", "run/.student.partial"] {
        put(&format!("{place}/log.jsonl"), input);
    }
    read(&dir);
}
