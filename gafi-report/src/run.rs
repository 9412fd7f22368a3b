//! A run of the pipeline: its record, its wall times, and the artifacts that the record names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use gafi_core::{Artifact, LOG_FILE, MANIFEST_FILE, TRIAL_FILE, TrialRecord, read_regular, read_text};
use gafi_nn::EvaluationRecord;
use gafi_pipeline::record::{ArtifactRef, RECORD, Status, TestResult, Timings};
use gafi_pipeline::{RunRecord, Usage};
use serde_json::Value;

/// The results of versions before `run.json`.
const OLD_RESULTS: &str = "results.json";

/// A run of the pipeline in its folder, finished or not.
#[derive(Debug)]
pub struct Run {
    /// Its folder, as given.
    pub(crate) dir: PathBuf,
    /// Name of its folder.
    pub(crate) name: String,
    /// `run.json`.
    pub(crate) record: RunRecord,
    /// `timings.json`; `None` before the first stage has finished.
    pub(crate) timings: Option<Timings>,
    /// The artifacts that roles, rows and trials name, each once. Those of trials may have been pruned.
    pub(crate) artifacts: Vec<RunArtifact>,
    /// Artifacts that are being written, or were when the run was interrupted.
    pub(crate) partial: Vec<Partial>,
}

/// An artifact of a run.
#[derive(Debug)]
pub(crate) struct RunArtifact {
    /// Its folder within the run's, or an absolute path.
    pub(crate) path: String,
    pub(crate) artifact: Artifact,
    /// Seconds that its stage took, if its log says so.
    pub(crate) wall_s: Option<f64>,
}

/// An artifact that is not complete.
#[derive(Debug)]
pub(crate) struct Partial {
    /// Its folder, once it is complete.
    pub(crate) folder: String,
    /// The events of its log.
    pub(crate) events: Vec<Value>,
}

impl Run {
    /// Reads the run in `dir`.
    ///
    /// # Errors
    /// [`Usage`] when `dir` has no `run.json` of this version, when `timings.json` belongs to another configuration, or when an
    /// artifact that a role or a row needs is missing or was replaced.
    pub fn open(dir: &Path) -> Result<Self> {
        refuse_older(dir)?;
        let record = RunRecord::read(dir)?;
        let timings = if dir.join(gafi_pipeline::record::TIMINGS).exists() { Some(Timings::read(dir)?) } else { None };
        if timings.as_ref().is_some_and(|t| t.config_hash != record.config_hash) {
            let why =
                "run.json and timings.json belong to different configurations; run the pipeline again to rewrite them";
            return Err(Usage(format!("{}: {why}", dir.display())).into());
        }
        record
            .verify_links(dir)
            .map_err(|e| Usage(format!("{}: the record and the artifacts differ: {e:#}", dir.display())))?;
        let full = dir.canonicalize().unwrap_or_else(|_| dir.into());
        let name = full.file_name().map_or_else(|| dir.display().to_string(), |n| n.to_string_lossy().into_owned());
        let artifacts = artifacts(&record, dir)?;
        Ok(Self { dir: dir.into(), name, record, timings, artifacts, partial: partial(dir) })
    }

    /// Its record.
    pub fn record(&self) -> &RunRecord {
        &self.record
    }

    /// Whether every row was trained and tested.
    pub fn is_finished(&self) -> bool {
        self.record.status == Status::Finished
    }

    /// Its state: finished, failed, in progress, or not started if its record names no artifact yet.
    pub fn state(&self) -> &'static str {
        match &self.record.status {
            Status::Finished => "finished",
            Status::Failed { .. } => "failed",
            Status::Running if self.record.links().next().is_none() => "not started",
            Status::Running => "in progress",
        }
    }

    /// Name of the real set; for a path, only its last part.
    pub(crate) fn dataset(&self) -> String {
        let name = Path::new(&self.record.dataset.name).file_name();
        name.map_or_else(|| "real images".into(), |name| name.to_string_lossy().into_owned())
    }

    /// The artifact that `link` refers to.
    ///
    /// # Errors
    /// When it was pruned.
    pub(crate) fn artifact(&self, link: &ArtifactRef) -> Result<&RunArtifact> {
        self.by_id(&link.id).with_context(|| format!("run {}: {} is missing", self.name, link.path))
    }

    /// The artifact with this id.
    pub(crate) fn by_id(&self, id: &str) -> Option<&RunArtifact> {
        self.artifacts.iter().find(|a| a.artifact.id() == id)
    }

    /// Confusions and accuracy by class behind a test result.
    ///
    /// # Errors
    /// When the evaluation cannot be read.
    pub(crate) fn evaluation(&self, test: &TestResult) -> Result<EvaluationRecord> {
        Ok(EvaluationRecord::read(&self.artifact(&test.evaluation)?.artifact)?)
    }
}

/// The runs in `paths`: folders of runs, or folders that hold such folders.
///
/// # Errors
/// [`Usage`] when a path holds no run; those of [`Run::open`].
pub fn open(paths: &[PathBuf]) -> Result<Vec<Run>> {
    let folders = paths.iter().map(|path| find(path)).collect::<Result<Vec<_>>>()?.concat();
    folders.iter().map(|folder| Run::open(folder)).collect()
}

fn find(path: &Path) -> Result<Vec<PathBuf>> {
    let is_run = |dir: &Path| dir.join(RECORD).is_file() || is_older(dir);
    if is_run(path) {
        return Ok(vec![path.into()]);
    }
    let inside: Vec<_> = folders(path).iter().map(|name| path.join(name)).filter(|dir| is_run(dir)).collect();
    if inside.is_empty() {
        let hint = if path.join(MANIFEST_FILE).exists() { "; this is a single artifact" } else { "" };
        return Err(
            Usage(format!("{}: expected the folder of a pipeline run, with {RECORD}{hint}", path.display())).into()
        );
    }
    Ok(inside)
}

fn is_older(dir: &Path) -> bool {
    !dir.join(RECORD).exists() && dir.join(OLD_RESULTS).is_file()
}

/// Longest log, or manifest of another version, to read, in bytes.
const OTHER_MAX: u64 = 256 << 20;

/// Refuses runs of versions before `run.json`, naming the version.
fn refuse_older(dir: &Path) -> Result<()> {
    if !is_older(dir) {
        return Ok(());
    }
    let version = |name: &String| -> Option<String> {
        let manifest: Value =
            serde_json::from_slice(&read_regular(dir.join(name).join(MANIFEST_FILE), OTHER_MAX).ok()?).ok()?;
        manifest.pointer("/made_by/version")?.as_str().map(str::to_owned)
    };
    let version = folders(dir).iter().find_map(version).unwrap_or_else(|| "unknown".into());
    Err(Usage(format!(
        "{}: written by a version of gafi-cli ({version}) that had {OLD_RESULTS} in place of {RECORD}; report it with that version, or \
         run the pipeline again into another folder",
        dir.display()
    ))
    .into())
}

/// Roles and rows first, then trials; each artifact once.
fn artifacts(record: &RunRecord, dir: &Path) -> Result<Vec<RunArtifact>> {
    let steps = record.searches.iter().flat_map(|search| &search.steps);
    let trials = steps.flat_map(|step| &step.trials).map(|trial| &trial.artifact);
    let mut ids = BTreeSet::new();
    let mut found = Vec::new();
    for link in record.links().chain(trials) {
        let exists = dir.join(&link.path).join(MANIFEST_FILE).is_file();
        if exists && ids.insert(&link.id) {
            let artifact = link.open(dir)?;
            let finished = events(artifact.path()).into_iter().rev().find(|e| e["event"] == "finished");
            let wall_s = finished.and_then(|e| e["wall_s"].as_f64());
            found.push(RunArtifact { path: link.path.clone(), artifact, wall_s });
        }
    }
    Ok(found)
}

fn partial(dir: &Path) -> Vec<Partial> {
    let partial = |name: &String| {
        let folder = name.strip_prefix('.')?.strip_suffix(".partial")?.to_owned();
        Some(Partial { folder, events: events(&dir.join(name)) })
    };
    folders(dir).iter().filter_map(partial).collect()
}

impl RunArtifact {
    /// The stage that made it.
    pub(crate) fn stage(&self) -> &str {
        &self.artifact.manifest().made_by.stage
    }

    /// The configuration of that stage.
    pub(crate) fn config(&self) -> &Value {
        &self.artifact.manifest().made_by.config
    }

    /// The record of its training; `None` unless it is a classifier.
    ///
    /// # Errors
    /// When the record is damaged.
    pub(crate) fn trial(&self) -> Result<Option<TrialRecord>> {
        if !self.artifact.manifest().files.contains_key(TRIAL_FILE) {
            return Ok(None);
        }
        Ok(Some(self.artifact.read_json(TRIAL_FILE)?))
    }

    /// The events of its log.
    pub(crate) fn events(&self) -> Vec<Value> {
        events(self.artifact.path())
    }
}

impl Partial {
    /// Its last logged epoch or step, as text.
    pub(crate) fn progress(&self) -> String {
        let describe = |event: &Value| {
            let number = |key: &str| event.get(key).and_then(Value::as_f64);
            let at = ["epoch", "step"].iter().find_map(|key| Some(format!("{key} {}", number(key)?)))?;
            let val = number("val_accuracy").map(|v| format!(", validation accuracy {:.2} %", 100.0 * v));
            Some(at + &val.unwrap_or_default())
        };
        self.events.iter().rev().find_map(describe).unwrap_or_else(|| "nothing logged yet".into())
    }
}

/// Names of the folders in `dir`, sorted.
fn folders(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir());
    let mut names: Vec<_> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The events in the log of an artifact. A last line that is still being written is skipped.
fn events(dir: &Path) -> Vec<Value> {
    let text = read_text(dir.join(LOG_FILE), OTHER_MAX).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use gafi_core::Protocol;
    use serde_json::json;

    use super::*;

    /// A finished run of 100 test images. `rows` are names with test accuracies in percent; the first is the reference.
    pub(crate) fn run(seed: u64, protocol: Protocol, rows: &[(&str, f64)]) -> Run {
        let link = |name: &str| json!({"path": name, "id": name});
        let setting = json!({"checkpoint": 40, "std": 1.5, "threshold": 0.25, "recycle": {"period": 1, "factor": 0.5}});
        let real = rows[0].1;
        let test = |name: &str, accuracy: f64| json!({"score": accuracy / 100.0, "n": 100, "evaluation": link(&format!("evaluate-{name}"))});
        let row = |&(name, accuracy): &(&str, f64)| {
            json!({
                "name": name, "settings": [setting], "per_class": 10, "artifact": link(name), "val": 0.5,
                "test": test(name, accuracy), "against": "real", "gap": real - accuracy,
            })
        };
        let mut config = gafi_pipeline::PipelineConfig { seed, protocol, ..Default::default() };
        config.data.set = Some(serde_json::from_value(json!("cifar10")).unwrap());
        let reference = json!({
            "name": "real", "times": 1, "labels": "hard", "per_class": 10, "epochs": 2, "artifact": link("real"), "val": 0.5, "test": test("real", real),
        });
        let search = json!({
            "generator": 0, "strategy": "halving", "steps": [], "trainings": 4, "epochs": 12, "closed_form": 0,
            "chosen": setting, "val": 0.5,
        });
        let record = json!({
            "schema": "gafi/run/2", "version": "1.0.0", "config_hash": "", "config": config,
            "status": {"state": "finished"},
            "dataset": {
                "name": "cifar10", "image": gafi_core::ImageSpec::new(1, 8, 8), "classes": ["a", "b"], "train": [10, 10],
                "val": 20,
            },
            "roles": {"references": [reference]},
            "searches": [search],
            "rows": rows[1..].iter().map(row).collect::<Vec<_>>(),
            "cost": {"trainings": 11, "epochs": 55},
        });
        let record = serde_json::from_value(record).unwrap();
        let name = format!("seed-{seed}");
        Run { dir: name.clone().into(), name, record, timings: None, artifacts: Vec::new(), partial: Vec::new() }
    }

    #[test]
    fn older_runs_are_refused_with_their_version() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(OLD_RESULTS), "{}").unwrap();
        std::fs::create_dir(dir.path().join("teacher-0123")).unwrap();
        let manifest = r#"{"format": 1, "made_by": {"version": "0.3.1"}}"#;
        std::fs::write(dir.path().join("teacher-0123").join(MANIFEST_FILE), manifest).unwrap();
        let error = open(&[dir.path().into()]).unwrap_err();
        assert!(error.downcast_ref::<Usage>().is_some());
        assert!(error.to_string().contains("gafi-cli (0.3.1)") && error.to_string().contains(RECORD), "{error}");
    }

    #[test]
    fn folders_without_a_run_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().to_path_buf(), dir.path().join("nowhere")] {
            let error = open(std::slice::from_ref(&path)).unwrap_err().to_string();
            assert!(error.contains("expected the folder of a pipeline run"), "{error}");
        }
    }
}
