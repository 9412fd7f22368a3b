//! The end of a run: after the last choice the test split is imported, to evaluate what was chosen. Code that chooses cannot call
//! this, and nothing here trains.

use anyhow::{Context as _, Result};
use gafi_core::{Artifact, Inputs, Split, TestScore};
use gafi_data::Import;
use gafi_nn::{Evaluate, EvaluationRecord};

use crate::record::{ArtifactRef, Repeat, RunRecord, TestResult};
use crate::runner::{StageRunner, Task};

/// Evaluates references and rows on the test split, and records their scores and gaps.
///
/// # Errors
/// The first error of a stage.
pub(crate) fn test_rows(runner: &mut StageRunner, import: &Import) -> Result<()> {
    let test = runner.run("import test", &import.with_split(Split::Test), &Inputs::new())?;
    runner.record.roles.test = Some(runner.link(&test));
    let tasks = classifiers(&mut runner.record).into_iter().map(|(name, artifact, _)| {
        let inputs = Inputs::new().with("classifier", &artifact.open(runner.dir)?).with("dataset", &test);
        Ok(Task { name: format!("test of {name}"), stage: Box::new(Evaluate::default()), inputs })
    });
    let tasks = tasks.collect::<Result<_>>()?;
    let evaluations = runner.run_all(tasks)?;
    let results = evaluations.iter().map(|evaluation| test_result(runner, evaluation)).collect::<Result<Vec<_>>>()?;

    let record = &mut runner.record;
    for ((_, _, test), result) in classifiers(record).into_iter().zip(results) {
        *test = Some(result);
    }
    for row in &mut record.rows {
        let accuracy = |test: &Option<TestResult>| test.as_ref().map(|test| test.score.accuracy());
        let reference = record.roles.references.iter().find(|r| r.name == row.against);
        let real = reference.and_then(|r| accuracy(&r.test)).context("the schedule has no reference")?;
        row.gap = accuracy(&row.test).map(|of_row| 100.0 * (real - of_row));
    }
    runner.save()
}

/// Everything to test: its name, the classifier, and where its result goes.
fn classifiers(record: &mut RunRecord) -> Vec<(String, &ArtifactRef, &mut Option<TestResult>)> {
    let references = record.roles.references.iter_mut().map(|r| (&r.name, &r.artifact, &mut r.test, &mut r.repeats));
    let rows = record.rows.iter_mut().map(|r| (&r.name, &r.artifact, &mut r.test, &mut r.repeats));
    let mut found = Vec::new();
    for (name, artifact, test, repeats) in references.chain(rows) {
        found.push((name.clone(), artifact, test));
        let again = |repeat: &Repeat| format!("{name}, training {}", repeat.number + 1);
        found.extend(repeats.iter_mut().map(|repeat| (again(repeat), &repeat.artifact, &mut repeat.test)));
    }
    found
}

fn test_result(runner: &StageRunner, evaluation: &Artifact) -> Result<TestResult> {
    let record = EvaluationRecord::read(evaluation)?;
    let score =
        TestScore::recorded(record.split, &record.evaluation).context("expected an evaluation on the test split")?;
    Ok(TestResult { score, n: record.evaluation.n, evaluation: runner.link(evaluation) })
}
