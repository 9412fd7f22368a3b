//! The end of a run: every choice is made, and only now the test split is imported, to evaluate what was chosen. What chooses
//! cannot call this, and nothing here trains.

use anyhow::{Context as _, Result};
use gafi_core::{Artifact, Inputs, Split, TestScore};
use gafi_data::Import;
use gafi_nn::{Evaluate, EvaluationRecord};

use crate::record::{ArtifactRef, TestResult};
use crate::runner::{StageRunner, Task};

/// Evaluates references and rows on the test split, and records their scores and gaps.
///
/// # Errors
/// The first error of a stage.
pub(crate) fn test_rows(runner: &mut StageRunner, import: &Import) -> Result<()> {
    let test = runner.run("import test", &import.with_split(Split::Test), &Inputs::new())?;
    runner.record.roles.test = Some(runner.link(&test));
    let references = runner.record.roles.references.iter().map(|r| (r.name.clone(), &r.artifact));
    let rows = runner.record.rows.iter().map(|row| (row.name.clone(), &row.artifact));
    let task = |(name, artifact): (String, &ArtifactRef)| -> Result<Task> {
        let inputs = Inputs::new().with("classifier", &artifact.open(runner.dir)?).with("dataset", &test);
        Ok(Task { name: format!("test of {name}"), stage: Box::new(Evaluate {}), inputs })
    };
    let tasks = references.chain(rows).map(task).collect::<Result<_>>()?;
    let evaluations = runner.run_all(tasks)?;
    let results = evaluations.iter().map(|evaluation| test_result(runner, evaluation));
    let mut results = results.collect::<Result<Vec<_>>>()?.into_iter();

    let record = &mut runner.record;
    for (reference, result) in record.roles.references.iter_mut().zip(&mut results) {
        reference.test = Some(result);
    }
    for (row, result) in record.rows.iter_mut().zip(results) {
        let reference = record.roles.references.iter().find(|r| r.name == row.against);
        let real = reference.and_then(|r| r.test.as_ref()).context("the schedule has no reference")?;
        row.gap = Some(100.0 * (real.score.accuracy() - result.score.accuracy()));
        row.test = Some(result);
    }
    runner.save()
}

fn test_result(runner: &StageRunner, evaluation: &Artifact) -> Result<TestResult> {
    let record: EvaluationRecord = evaluation.read_json(EvaluationRecord::FILE)?;
    let score =
        TestScore::recorded(record.split, &record.evaluation).context("expected an evaluation on the test split")?;
    Ok(TestResult { score, n: record.evaluation.n, evaluation: runner.link(evaluation) })
}
