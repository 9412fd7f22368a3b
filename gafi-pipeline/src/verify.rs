//! Checks a whole run: its record, the artifacts that the record names, and every other artifact in its folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use gafi_core::{Artifact, DatasetInfo, MANIFEST_FILE, RunControl, TRIAL_FILE, TrialRecord, ValScore};
use gafi_nn::EvaluationRecord;

use crate::record::{ArtifactRef, RunRecord, TIMINGS, TestResult, Timings};

/// Checks the run in `dir`: the record against its checksum, recorded scores and classes against the artifacts that they come
/// from, and every byte of each artifact in the folder or named by the record, except logs. Returns the number of artifacts.
///
/// # Errors
/// The first thing that is damaged or missing; [`gafi_core::Error::Interrupted`].
pub fn verify_run(dir: &Path, control: &RunControl) -> Result<usize> {
    let record = RunRecord::read(dir)?;
    if dir.join(TIMINGS).exists() {
        ensure!(
            Timings::read(dir)?.config_hash == record.config_hash,
            "{TIMINGS} belongs to another configuration than run.json"
        );
    }
    check_scores(&record, dir)?;
    let trials = record.searches.iter().flat_map(|search| &search.steps).flat_map(|step| &step.trials);
    let mut folders = BTreeSet::<PathBuf>::new();
    for link in record.links() {
        folders.insert(link.open(dir)?.path().into());
    }
    // Pruning may have removed the students of trials.
    for trial in trials.filter(|trial| dir.join(&trial.artifact.path).exists()) {
        check_val(&trial.artifact, trial.val, dir)?;
        folders.insert(dir.join(&trial.artifact.path));
    }
    let entries = fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("listing {}", dir.display()))?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.join(MANIFEST_FILE).exists() {
            folders.insert(path);
        }
    }
    for folder in &folders {
        Artifact::open(folder)?.verify_rows(control)?;
    }
    Ok(folders.len())
}

/// Compares the record with the artifacts that it names.
fn check_scores(record: &RunRecord, dir: &Path) -> Result<()> {
    if let Some(train) = &record.roles.train {
        let info = DatasetInfo::of(&train.open(dir)?)?;
        let summary = &record.dataset;
        let same = (info.image, &info.classes, &info.counts) == (summary.image, &summary.classes, &summary.train);
        ensure!(same, "run.json: shape, classes or counts of the real images differ from those of {}", train.path);
    }
    for (classifier, val, test) in record.classifiers() {
        check_val(classifier, val, dir)?;
        check_test(test, dir)?;
    }
    for row in &record.rows {
        let against = record.reference(&row.against).and_then(|reference| reference.test.as_ref());
        if let (Some(gap), Some(test), Some(real)) = (row.gap, &row.test, against) {
            let found = 100.0 * (real.score.accuracy() - test.score.accuracy());
            ensure!(gap == found, "run.json: the gap of row {} is {gap}, but its scores give {found}", row.name);
        }
    }
    Ok(())
}

fn check_val(classifier: &ArtifactRef, val: ValScore, dir: &Path) -> Result<()> {
    let found = classifier.open(dir)?.read_json::<TrialRecord>(TRIAL_FILE)?.val;
    let (val, found, path) = (val.accuracy(), found.accuracy(), &classifier.path);
    ensure!(val == found, "run.json: the validation score of {path} is {val}, but its {TRIAL_FILE} has {found}");
    Ok(())
}

fn check_test(test: &Option<TestResult>, dir: &Path) -> Result<()> {
    let Some(TestResult { score, n, evaluation }) = test else { return Ok(()) };
    let found = EvaluationRecord::read(&evaluation.open(dir)?)?.evaluation;
    let same = (score.accuracy(), *n) == (found.accuracy, found.n);
    ensure!(same, "run.json: a test score differs from that of {}", evaluation.path);
    Ok(())
}
