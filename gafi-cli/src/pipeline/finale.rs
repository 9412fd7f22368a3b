//! The end of a pipeline: choices are made, and only now the test split is imported, to judge what was chosen. What chooses
//! cannot get here, and nothing in here trains.

use anyhow::Result;
use gafi_core::{Artifact, Inputs, Protocol, Split};
use gafi_data::Import;
use gafi_nn::{EVALUATION, Evaluate, EvaluationRecord};

use super::proxies::Proxy;
use super::report::{Real, Results, Row, SCHEMA, Search};
use super::search::Step;
use super::students::{Student, Task, Workshop};

/// What was chosen.
pub(super) struct Choices {
    /// The reference on real images.
    pub(super) real: Artifact,
    /// Name, images of each class, and student of each row.
    pub(super) rows: Vec<(String, u64, Student)>,
    /// The searches.
    pub(super) searches: Vec<Search>,
    /// And their steps.
    pub(super) steps: Vec<Step>,
    /// What measures without training would have said.
    pub(super) proxies: Vec<Proxy>,
}

/// Judges all students on the test split and writes `results.json`.
///
/// # Errors
/// What a stage says.
pub(super) fn run(
    mut shop: Workshop,
    choices: Choices,
    import: &Import,
    protocol: Protocol,
    dataset: String,
) -> Result<Results> {
    let test = shop.run("import test", &import.with_split(Split::Test), &Inputs::new())?;
    let judge = |name: &str, classifier: &Artifact| -> Task {
        let inputs = Inputs::new().with("classifier", classifier).with("dataset", &test);
        (format!("test of {name}"), Box::new(Evaluate {}), inputs)
    };
    let mut tasks = vec![judge("real reference", &choices.real)];
    tasks.extend(choices.rows.iter().map(|(name, _, student)| judge(name, &student.artifact)));
    let judged = shop.run_all(tasks)?;
    let accuracies = judged.iter().map(|artifact| {
        let record: EvaluationRecord = artifact.read_json(EVALUATION)?;
        Ok(record.evaluation.accuracy)
    });
    let accuracies = accuracies.collect::<Result<Vec<f64>>>()?;
    let real = Real { test_accuracy: accuracies[0] };
    let rows = choices.rows.iter().zip(&accuracies[1..]).map(|((name, per_class, student), &test_accuracy)| Row {
        name: name.clone(),
        artifact: student.folder(),
        test_accuracy,
        gap: 100.0 * (real.test_accuracy - test_accuracy),
        checkpoint: student.setting.checkpoint,
        std: student.setting.std,
        threshold: student.setting.threshold,
        recycle_period: student.setting.recycle.as_ref().map(|r| r.period),
        labels: student.setting.labels(),
        per_class: *per_class,
        generators: student.generators,
        each_class: student.setting.per_class.clone(),
        quota: student.setting.quota.is_some(),
        val_accuracy: student.val.accuracy(),
        n: 1,
    });
    let (rows, (trainings, epochs)) = (rows.collect(), shop.trained());
    let results = Results {
        schema: SCHEMA.into(),
        dataset,
        protocol,
        real,
        rows,
        searches: choices.searches,
        proxies: choices.proxies,
        trainings,
        epochs,
        wall_s: shop.wall_s(),
        stages: shop.stages,
    };
    results.write(shop.dir)?;
    Ok(results)
}
